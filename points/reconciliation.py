"""The points system's statement against exchanges, reversals, returns and repairs, one business date at a time.

The file is fetched whole, checked against its own trailer and signature, and compared as a set, by request_no. A
missing, short or altered file is an error of the run, never "no differences".

A row of ours belongs to the date on which the points system said that it booked it, whenever we heard of it. Where the
two still disagree about a date, at its end, it is a CUT_OFF: carried to the next date once, and LOCAL_ONLY if it is not
found there either. What they have settled and we still ask about is asked at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import connection

from config import signed_files
from points import repairs
from points.models import PointsMessage, Repair
from prepaid import files, holds, reconciliation
from prepaid.models import Break, Run
from prepaid.reconciliation import Comparison, Finding

CUT_OFF_WINDOW = timedelta(minutes=30)
"""How far from midnight the two sides may disagree about the day."""

LAYOUT = signed_files.Layout(
    table="statement",
    columns=(
        "request_no text PRIMARY KEY, type text, points bigint, state text, bank_reference text, original text,"
        " posted_at timestamptz"
    ),
    row=re.compile(
        rb"D,[A-Za-z0-9_-]{1,64},[A-Z_]{1,20},[0-9]{1,18},(?:ACCEPTED|REFUSED),[A-Za-z0-9-]{0,40},[A-Za-z0-9_-]{0,64},"
        rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n"
    ),
    figures=2,
)


def statement_days(*, now: datetime) -> list[Run]:
    """What the clock does: every business date since the first message, once each, in order; then it asks again."""
    first_date = _first_date()
    runs = reconciliation.catch_up(
        partner=Run.Partner.POINTS, first_date=first_date, compare=compare_statement, now=now
    )
    mend(now=now)
    holds.release_reconciled(partner=Run.Partner.POINTS, first_date=first_date, now=now)
    return runs


def statement_day(*, business_date: date, now: datetime) -> Run:
    """One business date with the points system, asked for by a person.

    :raises DayNotOver, RunInProgress:
    """
    run = reconciliation.run_by_hand(
        partner=Run.Partner.POINTS, business_date=business_date, compare=compare_statement, now=now
    )
    mend(now=now)
    return run


def statement_again(*, run: Run, now: datetime) -> Run:
    """One business date compared again from the file that was received last, without asking the points system for one.

    :raises NoFileKept, RunInProgress:
    """
    files.last(run)
    run = reconciliation.run_by_hand(
        partner=Run.Partner.POINTS, business_date=run.business_date, compare=compare_kept, now=now
    )
    mend(now=now)
    return run


def mend(*, now: datetime) -> int:
    """Ask at once about whatever the points system has settled and we have not; returns how many repairs it made."""
    made = 0
    for found in repairs.to_be_asked().iterator(chunk_size=500):
        # Somebody may have settled it since it was looked for.
        if Repair.What.ASK_AGAIN in repairs.possible(found):
            repairs.repair(found=found, what=Repair.What.ASK_AGAIN, reason=repairs.BY_THE_CLOCK, by=None, now=now)
            made += 1
    return made


def _first_date() -> date | None:
    # Ids go by time: the first message is found without reading them all.
    sent = PointsMessage.objects.filter(direction=PointsMessage.Direction.SENT).order_by("id")
    first_at = sent.values_list("recorded_at", flat=True).first()
    return first_at and reconciliation.business_date(first_at)


def compare_statement(run: Run) -> Comparison:
    """Fetch the day's file, keep it, check it, and compare it with what we hold.

    :raises signed_files.FileMissing, signed_files.FileDamaged:
    """
    contents = signed_files.read(
        url=f"{settings.POINTS_SYSTEM_URL}statement/{run.business_date}",
        keys=settings.POINTS_SYSTEM_KEYS,
        business_date=run.business_date,
        layout=LAYOUT,
        log=PointsMessage,
        type="STATEMENT",
        keep=partial(files.keep, run),
    )
    return _compare(run, contents)


def compare_kept(run: Run) -> Comparison:
    """Check the file that was received last once more, and compare it with what we hold now.

    :raises NoFileKept, FileLost, signed_files.FileDamaged:
    """
    kept = files.last(run)
    with files.opened(kept) as file:
        contents = signed_files.read_again(
            file,
            message_id=kept.message_id,
            keys=settings.POINTS_SYSTEM_KEYS,
            business_date=run.business_date,
            layout=LAYOUT,
        )
    return _compare(run, contents)


def _compare(run: Run, contents: signed_files.Contents) -> Comparison:
    rows, trailer = contents
    _start, end = reconciliation.span(run.business_date)
    facts: dict[str, Any] = {
        "date": run.business_date,
        "late": end - CUT_OFF_WINDOW,
        "early": end + CUT_OFF_WINDOW,
        "partner": Run.Partner.POINTS,
        "before": run.business_date - timedelta(days=1),
        "now": run.started_at,
    }
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS ours")
        cursor.execute(_OURS, facts)
        cursor.execute("ANALYZE ours")
        in_file = {type: figures for type, *figures in _rows(_THEIR_TOTALS)}
        cursor.execute(_LEAVE_TESTS_OUT)
        tests = cursor.rowcount
        cursor.execute(_LEAVE_OUR_TESTS_OUT)
    theirs = {type: figures for type, *figures in _rows(_THEIR_TOTALS)}
    ours = {type: figures for type, *figures in _rows(_OUR_TOTALS, facts)}
    totals = {
        "by_type": [
            {"type": type, "ours": _figures(ours.get(type)), "theirs": _figures(theirs.get(type))}
            for type in sorted({*ours, *theirs})
        ],
        "tests_left_out": tests,
    }
    return Comparison(rows - tests, totals, _findings(facts, in_file, trailer))


def _findings(facts: dict[str, Any], in_file: dict[str, list[int]], trailer: dict[str, list[int]]) -> Iterator[Finding]:
    for type in sorted({*in_file, *trailer}):
        if in_file.get(type) != trailer.get(type):
            yield Finding(
                Break.Type.TOTALS_DIFFER,
                type,
                ours=_figures(in_file.get(type)),
                theirs=_figures(trailer.get(type)),
            )
    with connection.chunked_cursor() as cursor:
        cursor.execute(_DIFFERENCES, facts)
        while found := cursor.fetchmany(1000):
            for type, subject, merchant_id, ours, their in found:
                yield Finding(Break.Type(type), subject, merchant_id, None, _plain(ours), _plain(their))
    with connection.cursor() as cursor:
        cursor.execute(_RESOLVE_CARRIED, facts)
        cursor.execute("DROP TABLE statement, ours")


def _plain(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def _figures(figures: list[int] | None) -> dict[str, int]:
    count, points = figures or (0, 0)
    return {"count": count, "points": points}


def _rows(query: str, facts: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, facts or {})
        return cursor.fetchall()


_THEIR_TOTALS = """
SELECT type, count(*), sum(points)::bigint
FROM statement WHERE state = 'ACCEPTED' GROUP BY type"""

# What we hold that is in the file, was booked on the day by the points system's own word, or was carried from the day
# before. `stands` is what the file must say of it: MOVED accepted, REFUSED; EITHER where a person settled it or nobody
# told us; OPEN is nothing that they may have settled. `seen` is a message that an earlier file had.
_OURS = """
CREATE TEMPORARY TABLE ours AS
WITH carried AS (
    SELECT b.subject AS request_no FROM prepaid_break AS b JOIN prepaid_run AS r ON r.id = b.run_id
    WHERE r.partner = %(partner)s AND r.business_date = %(before)s AND b.type = 'CUT_OFF' AND b.theirs IS NULL
),
wanted AS (
    SELECT request_no FROM statement
    UNION SELECT request_no FROM carried
    UNION SELECT request_no FROM points_exchange WHERE accounting_date = %(date)s
    UNION SELECT reversal_request_no FROM points_exchange WHERE reversal_date = %(date)s
    UNION SELECT request_no FROM points_pointsreturn WHERE accounting_date = %(date)s
    UNION SELECT request_no FROM points_repair WHERE accounting_date = %(date)s AND what = 'REVERSE'
),
held AS (
    SELECT x.request_no, 'DEDUCTION_REQUEST' AS type, x.merchant_id, x.state,
        CASE WHEN x.state = 'ISSUED' THEN 'MOVED' WHEN x.state = 'REJECTED' THEN 'REFUSED'
            WHEN x.state <> 'REVERSED' THEN 'OPEN' WHEN x.reversed_points > 0 THEN 'MOVED'
            WHEN x.reversed_points = 0 THEN 'REFUSED' ELSE 'EITHER' END AS stands,
        x.points, CASE x.state WHEN 'ISSUED' THEN x.bank_reference ELSE '' END AS bank_reference,
        x.accounting_date, coalesce(x.issued_at, x.sent_at) AS at
    FROM points_exchange AS x JOIN wanted USING (request_no)
    UNION ALL
    SELECT x.reversal_request_no, 'REVERSAL_ADVICE', x.merchant_id, x.state,
        CASE WHEN x.state = 'ISSUED' THEN 'REFUSED' WHEN x.state <> 'REVERSED' THEN 'OPEN'
            WHEN x.reversed_points IS NOT NULL THEN 'MOVED' WHEN x.settled_by_id IS NOT NULL THEN 'EITHER'
            ELSE 'REFUSED' END,
        coalesce(x.reversed_points, x.points), x.reversal_reference, x.reversal_date, x.reversed_at
    FROM points_exchange AS x JOIN wanted ON wanted.request_no = x.reversal_request_no
    UNION ALL
    SELECT b.request_no, 'RETURN_REQUEST', b.merchant_id, b.state,
        CASE b.state WHEN 'RETURNED' THEN 'MOVED' WHEN 'REJECTED' THEN 'REFUSED' ELSE 'OPEN' END,
        b.points, b.bank_reference, b.accounting_date, b.returned_at
    FROM points_pointsreturn AS b JOIN wanted USING (request_no)
    UNION ALL
    SELECT p.request_no, 'REVERSAL_ADVICE', x.merchant_id, p.state,
        CASE p.state WHEN 'DONE' THEN 'MOVED' WHEN 'REJECTED' THEN 'REFUSED' ELSE 'OPEN' END,
        p.points, p.bank_reference, p.accounting_date, p.done_at
    FROM points_repair AS p JOIN wanted USING (request_no) LEFT JOIN points_exchange AS x ON x.id = p.exchange_id
    WHERE p.what = 'REVERSE'
)
SELECT held.*, CASE stands WHEN 'MOVED' THEN points ELSE 0 END AS moved,
    EXISTS (SELECT FROM carried WHERE carried.request_no = held.request_no) AS carried,
    EXISTS (
        SELECT FROM prepaid_break AS b JOIN prepaid_run AS r ON r.id = b.run_id
        WHERE b.subject = held.request_no AND r.partner = %(partner)s AND r.business_date < %(date)s
            AND b.theirs IS NOT NULL
    ) AS seen
FROM held"""

# The points system beside us serves test merchants as well, and then they stand in its file.
_LEAVE_TESTS_OUT = """
WITH tests AS (SELECT id FROM issuing_merchant WHERE test_of_id IS NOT NULL)
DELETE FROM statement AS s WHERE EXISTS (
    SELECT FROM ours AS o WHERE o.request_no = s.request_no AND o.merchant_id IN (SELECT id FROM tests)
) OR s.original <> '' AND EXISTS (
    SELECT FROM points_exchange AS x WHERE x.request_no = s.original AND x.merchant_id IN (SELECT id FROM tests)
)"""
_LEAVE_OUR_TESTS_OUT = """
DELETE FROM ours WHERE merchant_id IN (SELECT id FROM issuing_merchant WHERE test_of_id IS NOT NULL)"""

_OUR_TOTALS = """
SELECT type, count(*), sum(points)::bigint
FROM ours WHERE stands = 'MOVED' AND accounting_date = %(date)s GROUP BY type"""

_DIFFERENCES = """
SELECT * FROM (
    SELECT CASE
            WHEN o.request_no IS NULL THEN 'PARTNER_ONLY'
            WHEN t.request_no IS NULL THEN CASE
                WHEN o.stands <> 'MOVED' OR o.seen OR NOT o.carried AND o.accounting_date <> %(date)s THEN NULL
                WHEN NOT o.carried AND o.at >= %(late)s THEN 'CUT_OFF' ELSE 'LOCAL_ONLY' END
            WHEN o.type <> t.type OR o.stands = 'OPEN' OR o.stands = 'MOVED' AND t.state = 'REFUSED'
                OR o.stands = 'REFUSED' AND t.state = 'ACCEPTED'
                OR o.stands = 'MOVED' AND o.bank_reference NOT IN ('', t.bank_reference) THEN 'STATE_DIFFERS'
            WHEN o.stands = 'MOVED' AND o.points <> t.points THEN 'AMOUNT_DIFFERS'
            WHEN o.accounting_date > %(date)s THEN
                CASE WHEN t.posted_at >= %(late)s OR o.at < %(early)s THEN 'CUT_OFF' ELSE 'STATE_DIFFERS' END
        END AS type,
        coalesce(o.request_no, t.request_no), coalesce(o.merchant_id, x.merchant_id),
        CASE WHEN o.request_no IS NOT NULL THEN jsonb_build_object('type', o.type, 'state', o.state,
            'points', o.moved, 'bank_reference', o.bank_reference, 'accounting_date', o.accounting_date, 'at', o.at)
        END,
        CASE WHEN t.request_no IS NOT NULL THEN jsonb_build_object('type', t.type, 'state', t.state,
            'points', t.points, 'bank_reference', t.bank_reference, 'original', t.original, 'posted_at', t.posted_at)
        END
    FROM ours AS o FULL JOIN statement AS t ON t.request_no = o.request_no
    LEFT JOIN points_exchange AS x ON o.request_no IS NULL AND t.original <> '' AND x.request_no = t.original
) AS compared
WHERE type IS NOT NULL"""

_RESOLVE_CARRIED = """
UPDATE prepaid_break AS b
SET state = 'RESOLVED', resolved_at = %(now)s, resolution = 'found on the other side of the cut-off'
FROM prepaid_run AS r
WHERE r.id = b.run_id AND r.partner = %(partner)s AND r.business_date = %(before)s AND b.type = 'CUT_OFF'
    AND b.state = 'OPEN' AND (b.theirs IS NOT NULL OR b.subject IN (SELECT request_no FROM statement))"""
