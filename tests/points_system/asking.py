"""Bodies of messages as the e-commerce system sends them."""

from __future__ import annotations

from typing import Any

from config import messages
from tests.partners import PointsSystem

ACCOUNT = "6225000026000000"


def a_deduction(**changes: Any) -> dict[str, Any]:
    """3 coupons at 333.33 points: 1,000 points, rounded up once on the total."""
    return {
        "account": ACCOUNT,
        "points": 1000,
        "coupon_count": 3,
        "exchange_ratio": "333.33",
        "ratio_version": "TEA50:1",
        "rounding": "CEIL",
    } | changes


def deduct(bank: PointsSystem, *, request_no: str | None = None, **changes: Any) -> messages.Answer:
    return bank.ask("DEDUCTION_REQUEST", a_deduction(**changes), request_no=request_no)


def deducted(bank: PointsSystem, **changes: Any) -> tuple[str, dict[str, Any]]:
    """The request_no of a deduction that succeeded, and its answer's body."""
    request_no = messages.new_request_no()
    answer = deduct(bank, request_no=request_no, **changes)
    assert (answer.result, answer.code) == ("SUCCESS", "0000"), answer
    return request_no, answer.body


def reverse(bank: PointsSystem, original: str, *, points: int = 1000, request_no: str | None = None) -> messages.Answer:
    body = {"original": original, "points": points, "reason": "no answer"}
    return bank.ask("REVERSAL_ADVICE", body, request_no=request_no)


def give_back(
    bank: PointsSystem,
    original: str,
    *coupons: str,
    points: int,
    return_no: str | None = None,
    request_no: str | None = None,
) -> messages.Answer:
    body = {
        "return_no": return_no or messages.new_request_no(),
        "original": original,
        "points": points,
        "coupons": list(coupons),
    }
    return bank.ask("RETURN_REQUEST", body, request_no=request_no)


def query(bank: PointsSystem, original: str) -> messages.Answer:
    return bank.ask("DEDUCTION_QUERY", {"original": original})


def balances(bank: PointsSystem) -> None:
    """Every lot remains with what it began with less what its movements took, and every movement was right."""
    wrong = bank.holds(
        "SELECT l.id FROM points_system_lot l LEFT JOIN points_system_movement m ON m.lot_id = l.id"
        " GROUP BY l.id HAVING l.remaining <> l.points + coalesce(sum(m.points), 0)"
        " OR l.remaining <> coalesce((array_agg(m.remaining_after ORDER BY m.id DESC))[1], l.points)"
    )
    assert wrong == []
    off = bank.holds(
        "SELECT d.request_id FROM points_system_deduction d JOIN points_system_movement m"
        " ON m.deduction_id = d.request_id GROUP BY d.request_id, d.points, d.returned, d.state"
        " HAVING -sum(m.points) <> CASE d.state WHEN 'REVERSED' THEN 0 ELSE d.points - d.returned END"
    )
    assert off == []
