"""What the charts of the first page are drawn from: one row for each business date, written when the date is over.

Flows are those recorded on the date, read by the summary of pages that finds a day; holdings are what the balances say
at the moment of writing, so they stand only in the row of the date that has just ended. Test merchants' cards are
nobody's money.
"""

from datetime import datetime, timedelta

from django.db import connection
from django.db.models import Max, Min

from insurance import exposure
from prepaid.models import DayFigure, Transaction
from prepaid.reconciliation import business_date, last_date, span

MOST_DAYS = 400
"""How many missed dates one round writes; a house that was asleep for longer needs another."""


def write(*, now: datetime) -> int:
    """Write the rows of all business dates that are over and have none; how many there were.

    However many clocks run at once, a date gets one row, and what it says is never changed.
    """
    last = last_date(now)
    written = DayFigure.objects.aggregate(last=Max("business_date"))["last"]
    if written is None:
        first = Transaction.objects.aggregate(first=Min("recorded_at"))["first"]
        day = business_date(first) if first else last
    else:
        day = written + timedelta(days=1)
    rows: list[DayFigure] = []
    while day <= last and len(rows) < MOST_DAYS:
        issued, spent = _flows(*span(day))
        rows.append(DayFigure(business_date=day, issued=issued, spent=spent, recorded_at=now))
        day += timedelta(days=1)
    if rows and rows[-1].business_date == last:
        whole = exposure.together(exposure.exposures(now=now))
        rows[-1].refundable, rows[-1].exposed = whole.refundable, whole.exposed
    DayFigure.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)


def _flows(start: datetime, end: datetime) -> tuple[int, int]:
    with connection.cursor() as cursor:
        cursor.execute(_FLOWS, {"start": start, "end": end})
        issued, spent = cursor.fetchone()
    return issued, spent


_FLOWS = """
SELECT coalesce(sum(t.principal) FILTER (WHERE t.kind IN ('PURCHASE', 'TOP_UP')), 0)::bigint,
       coalesce(-sum(t.principal) FILTER (WHERE t.kind IN ('PAYMENT', 'REFUND', 'REVERSAL')), 0)::bigint
FROM prepaid_transaction t JOIN issuing_merchant m ON m.id = t.merchant_id AND m.test_of_id IS NULL
WHERE t.recorded_at >= %(start)s AND t.recorded_at < %(end)s"""
