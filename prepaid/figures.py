"""What a merchant's cards hold and hold insured as at a moment: counted in the database, set by set.

Business time: a card counts from the moment it was opened, whatever was recorded later about the time before counts
as well, and an entitlement is valued on the moment's local day.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from issuing.models import Merchant, Unit


def as_at(moment: datetime, *, merchants: Collection[Merchant]) -> dict[str, dict[str, Any]]:
    """Figures of each merchant by its code, and of all of them under ``""``. Money in fen, faces in their units.

    Payments of files that were refused and not posted since are counted by when they occurred; where that cannot be
    told, always. Those that belong to no merchant are in the total alone.
    """
    codes = {merchant.pk: merchant.code for merchant in merchants}
    figures = {code: _nothing() for code in sorted(codes.values())}
    with connection.cursor() as cursor:
        cursor.execute(_FIGURES, {"moment": moment, "merchants": list(codes)})
        names = [column.name for column in cursor.description]
        for row in cursor.fetchall():
            values = dict(zip(names, map(_whole, row), strict=True))
            mine = figures[codes[values.pop("merchant_id")]]
            unit = values.pop("unit")
            for name in ("face", "usable"):
                mine[name][unit] += values.pop(name)
            for name, value in values.items():
                mine[name] += value
        cursor.execute(_PAYMENTS, {"moment": moment, "merchants": list(codes)})
        for merchant_id, count in cursor.fetchall():
            figures[codes[merchant_id]]["payments_posted"] += count
        cursor.execute(_REFUSED, {"moment": moment, "merchants": list(codes)})
        refused = dict(cursor.fetchall())
    unknown = refused.pop(None, 0)
    for merchant_id, count in refused.items():
        figures[codes[merchant_id]]["payments_refused"] += count
    total = _nothing()
    for mine in figures.values():
        for name, value in mine.items():
            if isinstance(value, dict):
                for unit, part in value.items():
                    total[name][unit] += part
            else:
                total[name] += value
    total["payments_refused"] += unknown
    return {**figures, "": total}


def _nothing() -> dict[str, Any]:
    return {
        "cards": 0,
        "sub_cards": 0,
        "principal": 0,
        "face": {unit.value: 0 for unit in Unit},
        "usable": {unit.value: 0 for unit in Unit},
        "refundable_principal": 0,
        "policies_accepted": 0,
        "premium": 0,
        "payments_posted": 0,
        "payments_refused": 0,
    }


def _whole(value: Any) -> Any:
    # PostgreSQL sums bigints as numeric, so that no sum can overflow.
    return value if isinstance(value, UUID | str) else int(value)


# A load's opening transaction bears the load's own id, which is how its sub-cards are counted without a second look.
_FIGURES = """
WITH held AS (
    SELECT s.load_id, sum(e.amount)::bigint AS remaining, count(*) FILTER (WHERE t.id = s.load_id) AS sub_cards
    FROM prepaid_transaction t
    JOIN prepaid_entry e ON e.transaction_id = t.id
    JOIN prepaid_subcard s ON s.id = e.sub_card_id
    WHERE t.merchant_id = ANY (%(merchants)s) AND t.occurred_at <= %(moment)s
    GROUP BY s.load_id
), loads AS (
    SELECT l.card_id, l.paid, l.face, held.sub_cards, c.merchant_id, c.unit, CASE c.unit
        WHEN 'DAYS' THEN days_left(held.remaining, l.face, l.starts_on_date,
                                   (%(moment)s AT TIME ZONE m.time_zone)::date)
        ELSE held.remaining END AS usable
    FROM held
    JOIN prepaid_load l ON l.id = held.load_id AND l.occurred_at <= %(moment)s
    JOIN prepaid_card c ON c.id = l.card_id AND c.opened_at <= %(moment)s
    JOIN issuing_merchant m ON m.id = c.merchant_id
), cards AS (
    SELECT card_id, merchant_id, unit, sum(sub_cards) AS sub_cards, sum(paid) AS principal, sum(face) AS face,
           sum(usable) AS usable, half_up_sum(paid::numeric * usable, face) AS refundable_principal
    FROM loads GROUP BY card_id, merchant_id, unit
)
SELECT c.merchant_id, c.unit, count(*) AS cards, sum(sub_cards) AS sub_cards, sum(principal) AS principal,
       sum(face) AS face, sum(usable) AS usable, sum(refundable_principal) AS refundable_principal,
       count(p.id) AS policies_accepted, coalesce(sum(p.premium), 0) AS premium
FROM cards c
LEFT JOIN insurance_policy p ON p.card_id = c.card_id AND p.state = 'ACCEPTED'
GROUP BY c.merchant_id, c.unit"""
_PAYMENTS = """
SELECT t.merchant_id, count(*) FROM prepaid_transaction t
WHERE t.merchant_id = ANY (%(merchants)s) AND t.kind = 'PAYMENT' AND t.occurred_at <= %(moment)s
GROUP BY t.merchant_id"""
_REFUSED = """
SELECT merchant_id, count(*) FROM prepaid_refusedpayment
WHERE (merchant_id = ANY (%(merchants)s) OR merchant_id IS NULL) AND posted_at IS NULL
  AND (occurred_at <= %(moment)s OR occurred_at IS NULL)
GROUP BY merchant_id"""
