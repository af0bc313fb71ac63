"""The two systems against each other: whatever goes wrong between them, no point is lost and no coupon minted.

The points system is the real process, over real HTTP; it is told how to misbehave, and at the end both books are
compared, to the point.
"""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from config import messages
from points import bank, coupons, exchange
from points.models import Coupon, CouponProduct, Exchange, ExchangeRatio, PointsMessage, PointsReturn
from tests import cards
from tests import points_world as world
from tests.partners import PointsSystem, partner_process, points_system

__all__ = ["partner_process", "points_system"]

pytestmark = pytest.mark.django_db

HELD = 100_000
PRICE = 1_000

# What is done before an answer may be believed, and what is said, in every wrong way there is.
NO_ANSWER = ("SILENT_BEFORE", "SILENT_AFTER", "DOWN", "DOWN_AFTER", "SERVER_ERROR", "DRIPPING", "OVERSIZE", "REDIRECT")
WRONG_ANSWER = ("GARBLED", "WRONG_SIGNATURE", "WRONG_REQUEST_NO", "WRONG_REPLY", "WRONG_POINTS", "LATE", "DUPLICATE")
LASTS = {"SLOW": {"seconds": 1}, "LATE": {"seconds": 1}}
EVERY_WAY = (*NO_ANSWER, *WRONG_ANSWER, "GOOD", "SLOW")


@pytest.fixture
def tea(points_system: PointsSystem, settings: Any, monkeypatch: pytest.MonkeyPatch) -> CouponProduct:
    """A coupon product whose ratio the points system was told by us, and an account with 100,000 points."""
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/points/"
    settings.POINTS_SYSTEM_KEYS = points_system.keys
    # Nobody waits ten seconds in a test; what matters is that nobody waits longer than the deadline.
    monkeypatch.setattr(bank, "DEADLINE_SECONDS", 1.0)
    points_system.has_account((HELD - 500, "2031-12-31"), (500, "2030-06-30"))
    made = world.product(stock=50)
    ratio = world.ratio(made, "333.33")
    ExchangeRatio.objects.filter(pk=ratio.pk).update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    ratio.refresh_from_db()
    assert ratio.advised_at is not None
    return made


def bought(tea: CouponProduct) -> Exchange:
    row = world.submitted(world.quote(tea, 3))
    bank.deduct(row=row, now=timezone.now())
    row.refresh_from_db()
    return row


def pass_the_pauses() -> None:
    """What waits for its next moment has waited."""
    for model in (Exchange, PointsReturn):
        model._default_manager.filter(due_at__isnull=False).update(due_at=cards.OPENED)


def sweep_until_settled(row: Exchange, *, tries: int = 30) -> None:
    settled = {Exchange.State.ISSUED, Exchange.State.REJECTED, Exchange.State.REVERSED, Exchange.State.UNRESOLVED}
    for _turn in range(tries):
        row.refresh_from_db()
        if row.state in settled:
            return
        pass_the_pauses()
        bank.sweep(now=timezone.now(), seconds=5)
        time.sleep(0.05)  # it may say "in progress" for a second
    raise AssertionError(f"still {row.state} {row.problem}")


def both_books_agree(points_system: PointsSystem, tea: CouponProduct) -> None:
    """Points deducted net = points of the coupons issued and not returned; stock is what was not issued."""
    live = Exchange.objects.filter(state=Exchange.State.ISSUED)
    given_back = sum(PointsReturn.objects.filter(state=PointsReturn.State.RETURNED).values_list("points", flat=True))
    ours = sum(live.values_list("points", flat=True)) - given_back
    assert HELD - sum(points_system.remaining()) == ours
    assert Coupon.objects.count() == sum(live.values_list("count", flat=True))
    left = CouponProduct.objects.values_list("stock", flat=True).get(pk=tea.pk)
    assert left == 50 - sum(live.values_list("count", flat=True))


def test_a_deduction_takes_the_lot_that_expires_first_and_gives_the_coupons(
    points_system: PointsSystem, tea: CouponProduct
) -> None:
    row = bought(tea)
    assert (row.state, row.points, row.coupons.count()) == (Exchange.State.ISSUED, PRICE, 3)
    assert sum(points_system.remaining()) == HELD - PRICE
    assert bank.balance(account=row.account, now=timezone.now()) == HELD - PRICE
    log = row.messages.order_by("id").values_list("direction", "type")
    assert list(log) == [("SENT", "DEDUCTION_REQUEST"), ("RECEIVED", "ANSWER")]
    both_books_agree(points_system, tea)


@pytest.mark.parametrize("kind", EVERY_WAY)
def test_whatever_goes_wrong_once_with_the_deduction(
    kind: str, points_system: PointsSystem, tea: CouponProduct
) -> None:
    points_system.behaves(kind, type="DEDUCTION_REQUEST", remaining=1, **LASTS.get(kind, {}))
    row = bought(tea)
    if kind in NO_ANSWER:
        assert row.state == Exchange.State.UNKNOWN
        assert not Coupon.objects.exists()
    sweep_until_settled(row)
    assert row.state in (Exchange.State.ISSUED, Exchange.State.REVERSED)
    both_books_agree(points_system, tea)


@pytest.mark.parametrize("kind", EVERY_WAY)
def test_whatever_goes_wrong_with_the_first_questions(
    kind: str, points_system: PointsSystem, tea: CouponProduct
) -> None:
    points_system.behaves("SILENT_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea)
    points_system.behaves(kind, type="DEDUCTION_QUERY", remaining=2, **LASTS.get(kind, {}))
    sweep_until_settled(row)
    assert row.state in (Exchange.State.ISSUED, Exchange.State.REVERSED)
    both_books_agree(points_system, tea)


@pytest.mark.parametrize("acted", [True, False])
@pytest.mark.parametrize("kind", EVERY_WAY)
def test_whatever_goes_wrong_with_the_reversal(
    kind: str, acted: bool, points_system: PointsSystem, tea: CouponProduct
) -> None:
    points_system.behaves("SILENT_AFTER" if acted else "SILENT_BEFORE", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea)
    assert exchange.give_up(exchange=row)
    points_system.behaves(kind, type="REVERSAL_ADVICE", remaining=2, **LASTS.get(kind, {}))
    sweep_until_settled(row)
    assert row.state == Exchange.State.REVERSED
    assert not Coupon.objects.exists()
    # The original lots have their points back.
    assert points_system.remaining() == [500, HELD - 500]
    both_books_agree(points_system, tea)


def test_a_request_that_arrives_after_its_reversal_takes_nothing(
    points_system: PointsSystem, tea: CouponProduct
) -> None:
    points_system.behaves("SILENT_BEFORE", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea)
    exchange.give_up(exchange=row)
    sweep_until_settled(row)
    sent = PointsMessage.objects.get(type="DEDUCTION_REQUEST", direction="SENT")
    body = bank.messages.read_json(bytes(sent.body))["body"]
    late = points_system.ask("DEDUCTION_REQUEST", body, request_no=row.request_no, repeat=True)
    assert (late.result, late.code) == ("REJECTED", "2003")
    both_books_agree(points_system, tea)


def test_an_outage_longer_than_all_questions_ends_in_a_reversal_and_then_with_staff(
    points_system: PointsSystem, tea: CouponProduct
) -> None:
    points_system.behaves("DOWN")
    row = bought(tea)
    sweep_until_settled(row, tries=60)
    assert row.state == Exchange.State.UNRESOLVED
    assert row.messages.filter(direction="SENT").count() > 10
    points_system.behaves()
    exchange.ask_again(exchange=row)
    sweep_until_settled(row)
    assert row.state == Exchange.State.REVERSED
    both_books_agree(points_system, tea)


def test_a_refusal_is_final_and_frees_the_stock(points_system: PointsSystem, tea: CouponProduct) -> None:
    poor = "6225000026000018"
    points_system.has_account((PRICE - 1, "2031-12-31"), number=poor)
    row = world.submitted(world.quote(tea, 3, by=world.account(poor)))
    bank.deduct(row=row, now=timezone.now())
    row.refresh_from_db()
    assert (row.state, row.refusal_code) == (Exchange.State.REJECTED, "1001")
    both_books_agree(points_system, tea)


@pytest.mark.parametrize("kind", EVERY_WAY)
def test_whatever_goes_wrong_with_a_return(kind: str, points_system: PointsSystem, tea: CouponProduct) -> None:
    row = bought(tea)
    first, second, _third = row.coupons.order_by("ordinal")
    back = coupons.give_back(
        exchange=row, coupon_ids=[first.pk, second.pk], reason="changed mind", by="buyer", now=cards.NOW
    )
    points_system.behaves(kind, type="RETURN_REQUEST", remaining=2, **LASTS.get(kind, {}))
    for _turn in range(30):
        pass_the_pauses()
        bank.sweep(now=timezone.now(), seconds=5)
        back.refresh_from_db()
        if back.state == PointsReturn.State.RETURNED:
            break
        time.sleep(0.1)  # it may say "in progress" for a second
    assert back.state == PointsReturn.State.RETURNED
    assert set(back.coupons.values_list("state", flat=True)) == {Coupon.State.RETURNED}
    both_books_agree(points_system, tea)


def test_a_late_answer_counts_once_and_only_if_it_is_the_points_systems_own(
    points_system: PointsSystem, tea: CouponProduct, client: Client
) -> None:
    points_system.behaves("SILENT_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea)
    asked = points_system.ask("DEDUCTION_QUERY", {"original": row.request_no}).body
    said = {name: asked[name] for name in ("bank_reference", "points", "balance_after", "lots", "accounting_date")}

    def told(keys: list[str]) -> int:
        message = messages.compose(
            keys=keys,
            type="LATE_ANSWER",
            request_no=row.request_no,
            body={"type": "DEDUCTION_REQUEST", "result": "SUCCESS", "code": "0000", "text": "", "body": said},
            now=timezone.now(),
            business_date=timezone.localdate(),
        )
        return client.post(
            "/partners/points/callback", message.raw, content_type="application/json", headers=message.headers
        ).status_code

    assert told([base64.b64encode(b"somebody else's key, 32 bytes...").decode()]) == 401
    assert not Coupon.objects.exists()
    assert told(points_system.keys) == 200
    assert told(points_system.keys) == 200
    row.refresh_from_db()
    assert (row.state, row.coupons.count()) == (Exchange.State.ISSUED, 3)
    both_books_agree(points_system, tea)
