"""Whatever is asked in whatever order: after every message the books balance, and every answer stays the first one."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from config import messages
from tests.points_system.asking import balances, deduct, give_back, query, reverse

LOTS = (3_000, 4_000, 20_000)
STEPS = 80


@dataclass
class Known:
    """What the asker knows of one request_no."""

    coupons: int
    state: str = "NEVER SENT"
    returned: list[str] = field(default_factory=list)
    given: int = 0

    @property
    def points(self) -> int:
        return self.coupons * 100

    @property
    def held(self) -> int:
        return self.points - self.given if self.state == "DEDUCTED" else 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_books_balance_after_every_message(points_system, seed):
    bank = points_system
    bank.has_account(*zip(LOTS, ("2026-12-31", "2027-12-31", "2028-12-31"), strict=True))
    bank.advise("HUNDRED:1", "100")
    luck = random.Random(seed)
    known: dict[str, Known] = {}
    for _step in range(STEPS):
        available = sum(LOTS) - sum(one.held for one in known.values())
        if not known or luck.random() < 0.25:
            request_no = messages.new_request_no()
            known[request_no] = Known(coupons=luck.randint(1, 60))
        else:
            request_no = luck.choice(list(known))
        one = known[request_no]
        match luck.choice(["deduct", "deduct", "deduct", "reverse", "reverse", "return", "query"]):
            case "deduct":
                terms = {"exchange_ratio": "100", "ratio_version": "HUNDRED:1"}
                answer = deduct(bank, request_no=request_no, coupon_count=one.coupons, points=one.points, **terms)
                if one.state == "NEVER SENT":
                    one.state = "DEDUCTED" if one.points <= available else "REFUSED"
                    assert answer.code == ("0000" if one.state == "DEDUCTED" else "1001")
                else:
                    # The first answer, whatever has become of it since.
                    assert answer.code in {"BURIED": {"2003"}, "REFUSED": {"1001"}}.get(one.state, {"0000"})
            case "reverse":
                answer = reverse(bank, request_no, points=one.points)
                if one.state == "NEVER SENT":
                    assert (answer.code, answer.body["original_found"]) == ("0000", False)
                    one.state = "BURIED"
                elif one.state == "DEDUCTED" and not one.returned:
                    assert (answer.code, answer.body["points"]) == ("0000", one.points)
                    one.state = "REVERSED"
                elif one.state == "REFUSED":
                    assert (answer.code, answer.body["points"]) == ("0000", 0)
                else:
                    assert answer.code == "2003"
            case "return":
                coupon = f"C{luck.randint(1, one.coupons)}"
                answer = give_back(bank, request_no, coupon, points=100)
                if one.state == "DEDUCTED" and coupon not in one.returned:
                    assert answer.code == "0000"
                    one.returned.append(coupon)
                    one.given += 100
                else:
                    assert answer.code in ("2002", "2003")
            case "query":
                answer = query(bank, request_no)
                states = {"NEVER SENT": None, "BURIED": "REVERSED"}
                assert answer.body.get("state") == states.get(one.state, one.state)
        assert sum(bank.remaining()) == sum(LOTS) - sum(one.held for one in known.values())
        balances(bank)
    assert {one.state for one in known.values()} >= {"DEDUCTED", "REVERSED", "BURIED"}
