"""What insurers would have to pay if merchants failed today, and what nobody would; test merchants never fail."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from django.db import connection


class Exposure(NamedTuple):
    """A merchant's cards under one insurer's product, in fen; insurer and product are empty where there is no cover.

    ``sum_insured`` is what is left of it after compensation; ``exposed`` is Σ min(refundable, sum insured left).
    """

    merchant: str
    insurer: str
    product: str
    cards: int
    sum_insured: int
    refundable: int
    exposed: int

    @property
    def uninsured(self) -> int:
        """What holders would lose: refundable principal that no sum insured stands behind."""
        return self.refundable - self.exposed


def exposures(*, now: datetime) -> list[Exposure]:
    """Σ over the cards of min(refundable principal, sum insured left), by merchant, insurer and product.

    Of the balances as they are now, and of a term what is left of it on the merchant's day, or on the day of a loss
    that came before. What was paid in after a loss is refundable and not insured. Per card half-up once.
    """
    with connection.cursor() as cursor:
        cursor.execute(_EXPOSURES, {"now": now})
        return [Exposure(*row) for row in cursor.fetchall()]


def together(parts: Iterable[Exposure], *, merchant: str = "", insurer: str = "", product: str = "") -> Exposure:
    """The sum of several, under the names given."""
    sums = [sum(column) for column in zip(*(part[3:] for part in parts), strict=True)] or [0, 0, 0, 0]
    return Exposure(merchant, insurer, product, *sums)


# Balances of loads, never their entries: the cost is that of the cards and not of their history.
_EXPOSURES = """
WITH card AS (
    SELECT c.id, c.unit, c.merchant_id, coalesce(c.loss_at, 'infinity') AS loss_at, p.product_id,
           coalesce(p.sum_insured - p.compensated, 0) AS sum_insured,
           least(m.today, (c.loss_at AT TIME ZONE m.time_zone)::date) AS on_date
    FROM prepaid_card c
    JOIN (SELECT id, time_zone, (%(now)s AT TIME ZONE time_zone)::date AS today FROM issuing_merchant
          WHERE test_of_id IS NULL) m
      ON m.id = c.merchant_id
    LEFT JOIN insurance_policy p ON p.card_id = c.id AND p.state = 'ACCEPTED'
        AND p.cover_from_date <= m.today AND p.cover_to_date > m.today
    WHERE c.remaining > 0 OR p.id IS NOT NULL
),
held AS (
    SELECT card.id, l.paid, l.face, l.occurred_at < card.loss_at AS is_insurable,
           count(*) OVER (PARTITION BY card.id) AS loads,
           CASE card.unit WHEN 'DAYS' THEN days_left(l.remaining, l.face, l.starts_on_date, card.on_date)
                          ELSE l.remaining END AS left_over
    FROM card JOIN prepaid_load l ON l.card_id = card.id AND l.remaining > 0
),
valued AS (
    -- Nearly every card has one load, and rounding one fraction is far cheaper than adding up fractions exactly.
    SELECT id, amount AS refundable, CASE WHEN is_insurable THEN amount ELSE 0 END AS insurable
    FROM held CROSS JOIN LATERAL (SELECT div(2 * paid::numeric * left_over + face, 2 * face::numeric)::bigint) v(amount)
    WHERE loads = 1
    UNION ALL
    SELECT id, half_up_sum(paid::numeric * left_over, face),
           coalesce(half_up_sum(paid::numeric * left_over, face) FILTER (WHERE is_insurable), 0)
    FROM held WHERE loads > 1 GROUP BY id
)
SELECT m.code, coalesce(i.code, ''), coalesce(d.code, ''), count(*), sum(card.sum_insured)::bigint,
       coalesce(sum(refundable), 0)::bigint, coalesce(sum(least(insurable, card.sum_insured)), 0)::bigint
FROM card
JOIN issuing_merchant m ON m.id = card.merchant_id
LEFT JOIN valued ON valued.id = card.id
LEFT JOIN insurance_product d ON d.id = card.product_id
LEFT JOIN insurance_insurer i ON i.id = d.insurer_id
GROUP BY m.code, i.code, d.code ORDER BY m.code, i.code NULLS LAST, d.code"""
