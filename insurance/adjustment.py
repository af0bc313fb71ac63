"""What cover by the daily balance has cost, once it is over (basis DAILY_BALANCE).

Enrolment and top-ups are charged provisionally, as if nothing were spent. When cover ends (by its term, by the card's
closing, by compensation at the loss date) the premium is worked out from what was there to be insured on each day:

    premium = Σ refundable principal at each day's end × annual rate / 365

half-up once per card, at least the minimum where a day of cover ran. What differs from the premiums charged is one
ADJUSTMENT, additional or returned, owed to the insurer like every other endorsement. A policy is adjusted once: what
is recorded after that about the days before changes it no more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Q, Sum
from django.db.models.functions import Now

from insurance.models import Endorsement, Policy, Product
from insurance.premium import daily_balance_premium
from issuing.models import Merchant

SLICE = 2_000
"""How many policies are worked out by one statement."""

MOST_RUNS = 60


class Run(NamedTuple):
    """Days in a row with their daily balances: ``balance`` is that of each day, or None where they differ."""

    from_date: date
    days: int
    balance: int | None
    balance_days: int


class Statement(NamedTuple):
    """How the premium of one policy comes about; money in fen, ``balance_days`` in fen × days."""

    runs: list[Run]
    until_date: date
    balance_days: int
    due: int
    charged: int
    adjustment: Endorsement | None


class _Over(NamedTuple):
    policy_id: UUID
    card_id: UUID
    from_date: date
    to_date: date
    annual_rate: Decimal
    minimum: int
    charged: int


def owe_due(*, now: datetime, size: int = SLICE, merchant: Merchant | None = None) -> int:
    """Owe the insurer the adjustment of every policy whose cover is over; how many. What the clock does.

    Cover of a test merchant's cards is over by its own clock. With a ``merchant``, only its policies are looked at.

    A policy waits until its other endorsements are settled, since they are part of what was charged, and while a
    claim on its card is open, since a rejected one never ended the cover.
    """
    products = Product.objects.filter(basis=Product.Basis.DAILY_BALANCE).select_related("merchant")
    if merchant is not None:
        products = products.filter(merchant=merchant)
    by_clock: defaultdict[int, list[int]] = defaultdict(list)
    for product in products:
        by_clock[product.merchant.test_clock_ahead].append(product.id)
    return sum(
        _owe_due(these, now=now + timedelta(seconds=ahead), size=size) for ahead, these in sorted(by_clock.items())
    )


def _owe_due(products: Sequence[int], *, now: datetime, size: int) -> int:
    owed = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_OVER, {"products": list(products), "now": now, "size": size})
            over = [_Over(*row) for row in cursor.fetchall()]
        if not over:
            return owed
        sums = _balance_days(over, known_at=now)
        # Whoever was first has adjusted it.
        Endorsement.objects.bulk_create(
            [_adjustment(one, sums.get(one.policy_id, 0), now) for one in over], ignore_conflicts=True
        )
        owed += len(over)


def statement(policy: Policy, *, now: datetime, today: date) -> Statement:
    """The calculation of one policy: as it was adjusted, or as it would be if cover ended ``today``."""
    adjustment = policy.endorsements.filter(kind=Endorsement.Kind.ADJUSTMENT).first()
    until = max(
        policy.cover_from_date,
        adjustment.effective_date if adjustment else min(today, policy.cover_to_date),
    )
    accepted = Q(state=Endorsement.State.ACCEPTED) & ~Q(kind=Endorsement.Kind.ADJUSTMENT)
    charged = policy.premium + (policy.endorsements.filter(accepted).aggregate(sum=Sum("premium"))["sum"] or 0)
    one = _Over(
        policy.pk, policy.card_id, policy.cover_from_date, until,
        policy.product.annual_rate, policy.product.minimum_premium, charged,
    )  # fmt: skip
    known_at = adjustment.recorded_at if adjustment else now
    days = [Run(on_date, count, balance, count * balance) for _id, on_date, count, balance in _runs([one], known_at)]
    balance_days = sum(run.balance_days for run in days)
    return Statement(_readable(days), until, balance_days, _due(one, balance_days), charged, adjustment)


def _due(one: _Over, balance_days: int) -> int:
    minimum = one.minimum if one.to_date > one.from_date else 0
    return daily_balance_premium(balance_days, annual_rate=one.annual_rate, minimum=minimum)


def _adjustment(one: _Over, balance_days: int, now: datetime) -> Endorsement:
    return Endorsement(
        policy_id=one.policy_id,
        kind=Endorsement.Kind.ADJUSTMENT,
        amount=0,
        balance_days=balance_days,
        premium=_due(one, balance_days) - one.charged,
        effective_date=one.to_date,
        due_at=Now(),
        recorded_at=now,
    )


def _readable(days: list[Run]) -> list[Run]:
    """Runs of one balance; where that gives too many, as with a term that is served day by day, months."""
    if len(days) <= MOST_RUNS:
        return days
    months = [list(rows) for _month, rows in groupby(_each_month(days), key=lambda run: run.from_date.replace(day=1))]
    return [
        Run(rows[0].from_date, sum(row.days for row in rows), None, sum(row.balance_days for row in rows))
        for rows in months
    ]


def _each_month(days: list[Run]) -> list[Run]:
    """The same runs, none of which goes on over the end of a month."""
    split = []
    for from_date, count, balance, _product in days:
        left = count
        at = from_date
        while left:
            following = date(at.year + at.month // 12, at.month % 12 + 1, 1)
            part = min(left, (following - at).days)
            split.append(Run(at, part, balance, part * (balance or 0)))
            at, left = following, left - part
    return split


def _facts(over: Sequence[_Over], known_at: datetime) -> dict[str, Any]:
    policies, cards, from_dates, to_dates = (list(column) for column in zip(*(one[:4] for one in over), strict=True))
    return {"policies": policies, "cards": cards, "from": from_dates, "to": to_dates, "known_at": known_at}


def _runs(over: Sequence[_Over], known_at: datetime) -> list[tuple[UUID, date, int, int]]:
    with connection.cursor() as cursor:
        cursor.execute(f"{_DAILY} {_RUNS}", _facts(over, known_at))
        return cursor.fetchall()


def _balance_days(over: Sequence[_Over], *, known_at: datetime) -> dict[UUID, int]:
    with connection.cursor() as cursor:
        cursor.execute(f"{_DAILY} {_SUMS}", _facts(over, known_at))
        return dict(cursor.fetchall())


# Statements ----------------------------------------------------------------------------------------------------

_OVER = """
    SELECT p.id, p.card_id, p.cover_from_date,
           greatest(p.cover_from_date, least(p.cover_to_date, ended.on_date)), d.annual_rate, d.minimum_premium,
           p.premium + coalesce((SELECT sum(e.premium)::bigint FROM insurance_endorsement e
                                 WHERE e.policy_id = p.id AND e.state = 'ACCEPTED'), 0)
    FROM insurance_policy p
    JOIN insurance_product d ON d.id = p.product_id
    JOIN prepaid_card c ON c.id = p.card_id
    JOIN issuing_merchant m ON m.id = p.merchant_id
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN p.state = 'CANCELLED' THEN (
                SELECT e.effective_date FROM insurance_endorsement e
                WHERE e.policy_id = p.id AND e.kind = 'CANCELLATION' AND e.state = 'ACCEPTED')
            WHEN c.state = 'COMPENSATED' THEN (c.loss_at AT TIME ZONE m.time_zone)::date
            WHEN c.state <> 'CLAIMED' AND p.cover_to_date <= (%(now)s AT TIME ZONE m.time_zone)::date
                THEN p.cover_to_date
        END AS on_date
    ) ended
    WHERE p.product_id = ANY (%(products)s) AND p.state IN ('ACCEPTED', 'CANCELLED') AND ended.on_date IS NOT NULL
      AND NOT EXISTS (
          SELECT FROM insurance_endorsement e
          WHERE e.policy_id = p.id AND (e.kind = 'ADJUSTMENT' OR e.state IN ('PENDING', 'UNKNOWN', 'UNRESOLVED')))
    ORDER BY p.id LIMIT %(size)s
"""

# From entries by the day they occurred on, and not from the balances that transactions say they left: those are of
# the moment of recording, and a late one is recorded after what followed it. A balance only changes on a day that
# something happened, except a term's, of which a day is served each day. A load whose increase the insurer declined
# is not covered and costs nothing.
_DAILY = """
WITH asked AS (
    SELECT a.*, c.unit, m.time_zone
    FROM unnest(%(policies)s::uuid[], %(cards)s::uuid[], %(from)s::date[], %(to)s::date[])
         AS a(policy_id, card_id, from_date, to_date)
    JOIN prepaid_card c ON c.id = a.card_id
    JOIN issuing_merchant m ON m.id = c.merchant_id
    WHERE a.from_date < a.to_date
),
covered AS (
    SELECT a.policy_id, a.unit, l.id AS load_id, l.paid, l.face, l.starts_on_date,
           count(*) OVER (PARTITION BY a.policy_id) AS loads
    FROM asked a JOIN prepaid_load l ON l.card_id = a.card_id
    WHERE NOT EXISTS (
        SELECT FROM insurance_endorsement e WHERE e.load_id = l.id AND e.kind = 'INCREASE' AND e.state = 'DECLINED')
),
moves AS (
    SELECT a.policy_id, s.load_id,
           greatest((t.occurred_at AT TIME ZONE a.time_zone)::date, a.from_date) AS on_date, sum(e.amount) AS amount
    FROM asked a
    JOIN prepaid_transaction t ON t.card_id = a.card_id AND t.recorded_at <= %(known_at)s
        AND t.occurred_at < (a.to_date::timestamp AT TIME ZONE a.time_zone)
    JOIN prepaid_entry e ON e.transaction_id = t.id
    JOIN prepaid_subcard s ON s.id = e.sub_card_id
    GROUP BY 1, 2, 3
),
marks AS (
    SELECT policy_id, from_date AS on_date FROM asked
    UNION SELECT policy_id, on_date FROM moves
    UNION SELECT policy_id, generate_series(from_date, to_date - 1, interval '1 day')::date FROM asked
    WHERE unit = 'DAYS'
),
held AS (
    SELECT marks.policy_id, marks.on_date, c.unit, c.loads, c.paid, c.face, c.starts_on_date,
           sum(coalesce(moves.amount, 0)) OVER (PARTITION BY c.load_id, marks.policy_id ORDER BY marks.on_date)::bigint
               AS remaining
    FROM marks JOIN covered c ON c.policy_id = marks.policy_id
    LEFT JOIN moves ON moves.policy_id = marks.policy_id AND moves.load_id = c.load_id AND moves.on_date = marks.on_date
),
left_over AS (
    SELECT policy_id, on_date, loads, paid, face,
           CASE unit WHEN 'DAYS' THEN days_left(remaining, face, starts_on_date, on_date) ELSE remaining END AS held
    FROM held
),
valued AS (
    -- Nearly every card has one load, and rounding one fraction is far cheaper than adding up fractions exactly.
    SELECT policy_id, on_date, div(2 * paid::numeric * held + face, 2 * face::numeric)::bigint AS balance
    FROM left_over WHERE loads = 1
    UNION ALL
    SELECT policy_id, on_date, half_up_sum(paid::numeric * held, face) FROM left_over WHERE loads > 1
    GROUP BY policy_id, on_date
),
runs AS (
    SELECT v.policy_id, v.on_date,
           coalesce(lead(v.on_date) OVER (PARTITION BY v.policy_id ORDER BY v.on_date), a.to_date) - v.on_date AS days,
           v.balance
    FROM valued v JOIN asked a ON a.policy_id = v.policy_id
)"""

_RUNS = "SELECT * FROM runs ORDER BY policy_id, on_date"
_SUMS = "SELECT policy_id, sum(days * balance)::bigint FROM runs GROUP BY policy_id"
