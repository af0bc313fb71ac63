"""Points for coupons over the API: what points buy, quotes, exchanges and returns, against the real points system."""

from typing import Any

import pytest
from django.utils import timezone

from config.ids import new_id, public_id
from points import bank, codes
from points.models import Coupon, CouponMove, CouponProduct, Exchange, ExchangeQuote, ExchangeRatio, PointsReturn
from prepaid.models import StoredAnswer
from tests import cards
from tests import points_world as world
from tests.api.asking import Asker
from tests.partners import PointsSystem, partner_process, points_system

__all__ = ["partner_process", "points_system"]

pytestmark = pytest.mark.django_db

ACCOUNT = "6225000026000000"


@pytest.fixture
def tea(lotus: Asker) -> CouponProduct:
    made = world.product(merchant=lotus.merchant, stock=50, most_per_order=20)
    world.ratio(made, "333.33")
    return made


@pytest.fixture
def bank_open(points_system: PointsSystem, tea: CouponProduct, settings: Any, monkeypatch: Any) -> PointsSystem:
    """The points system, told of the ratio, with 2,000 points on the account."""
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/points/"
    settings.POINTS_SYSTEM_KEYS = points_system.keys
    monkeypatch.setattr(bank, "DEADLINE_SECONDS", 2.0)
    points_system.has_account((2_000, "2031-12-31"), number=ACCOUNT)
    ExchangeRatio.objects.update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    return points_system


def quoted(asker: Asker, product: CouponProduct, count: object = 3, account: str = ACCOUNT) -> Any:
    body = {"points_account": account, "coupon_product": public_id("cpr", product.pk), "count": count}
    return asker.post("exchange-quotes", body)


def exchanged(asker: Asker, product: CouponProduct, reference: str = "EX-1", count: int = 3, **headers: str) -> Any:
    quote = quoted(asker, product, count).json()
    return asker.post("exchanges", {"quote": quote["id"], "reference": reference}, **headers)


def refusal(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_coupon_products_show_the_ratio_in_force(lotus: Asker, stranger: Asker, tea: CouponProduct) -> None:
    world.product(merchant=lotus.merchant, code="NORATIO")
    [without, with_ratio] = lotus.get("coupon-products").json()["data"]
    assert without["ratio"] is None
    assert with_ratio["ratio"] == {
        "version": f"{tea.code}:1",
        "points_per_coupon": "333.33",
        "rounding": "CEIL",
        "valid_until": None,
    }
    assert (with_ratio["face_value"], with_ratio["stock"]) == (5_000, 50)
    assert [one["code"] for one in lotus.get("coupon-products?code=NORATIO").json()["data"]] == ["NORATIO"]
    assert stranger.get("coupon-products").json()["data"] == []


def test_a_quote_is_rounded_once_on_the_total_and_hides_the_account(lotus: Asker, tea: CouponProduct) -> None:
    answer = quoted(lotus, tea)
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert (body["points"], body["ratio"], body["ratio_version"]) == (1_000, "333.33", f"{tea.code}:1")
    assert body["points_account"] == {"last4": "0000"}
    assert ACCOUNT not in answer.content.decode()
    assert ACCOUNT.encode() not in bytes(ExchangeQuote.objects.get().account.number_sealed)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, (422, "CountNotPositive")),
        (-1, (422, "CountNotPositive")),
        (21, (422, "TooManyPerOrder")),
        (10**9, (422, "TooManyPerOrder")),
        (1.5, (400, "InvalidInput")),
        ("3", (400, "InvalidInput")),
        (True, (400, "InvalidInput")),
        (10**40, (400, "InvalidInput")),
    ],
)
def test_a_count_that_nobody_can_buy_is_refused(lotus: Asker, tea: CouponProduct, count: Any, expected: Any) -> None:
    assert refusal(quoted(lotus, tea, count)) == expected
    assert not ExchangeQuote.objects.exists()


def test_a_quote_needs_an_account_and_a_product_of_ones_own(lotus: Asker, stranger: Asker, tea: CouponProduct) -> None:
    assert refusal(quoted(lotus, tea, account="62250000260x")) == (422, "PointsAccountNotReadable")
    assert refusal(quoted(stranger, tea)) == (404, "CouponProductNotFound")
    unknown = CouponProduct(pk=new_id())
    assert refusal(quoted(lotus, unknown)) == (404, "CouponProductNotFound")


def test_an_exchange_takes_the_points_and_gives_the_codes_once(
    bank_open: PointsSystem, lotus: Asker, tea: CouponProduct
) -> None:
    answer = exchanged(lotus, tea, Idempotency_Key="ex-1")
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert (body["state"], body["points"], len(body["coupons"])) == ("ISSUED", 1_000, 3)
    assert sum(bank_open.remaining()) == 1_000
    given = [codes.read(one["code"]) for one in body["coupons"]]
    kept = Coupon.objects.order_by("ordinal")
    assert given == [codes.VAULT.unseal(coupon.code_sealed) for coupon in kept]
    assert CouponMove.objects.filter(what="READ").count() == 3
    # Nowhere else: not when it is looked at, not where answers are kept.
    seen = lotus.get(f"exchanges/{body['id']}")
    assert "code" not in seen.json()["coupons"][0]
    stored = StoredAnswer.objects.get(key="ex-1").body or ""
    assert all(one["code"] not in stored for one in body["coupons"])

    quote = {"quote": body["quote"], "reference": "EX-1"}
    again = lotus.post("exchanges", quote, Idempotency_Key="ex-1")
    assert (again.status_code, again.content) == (201, answer.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert Exchange.objects.count() == 1
    assert sum(bank_open.remaining()) == 1_000


def test_a_silent_points_system_leaves_it_pending_until_the_clock_has_asked(
    bank_open: PointsSystem, lotus: Asker, tea: CouponProduct
) -> None:
    bank_open.behaves("SILENT_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    answer = exchanged(lotus, tea, Idempotency_Key="ex-1")
    body = answer.json()
    assert (answer.status_code, body["state"], body["coupons"]) == (202, "PENDING", [])
    assert lotus.get(f"exchanges/{body['id']}").json()["state"] == "PENDING"
    Exchange.objects.update(due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    again = lotus.post("exchanges", {"quote": body["quote"], "reference": "EX-1"}, Idempotency_Key="ex-1")
    assert (again.status_code, again.json()["state"], len(again.json()["coupons"])) == (201, "ISSUED", 3)
    assert sum(bank_open.remaining()) == 1_000


def test_the_points_systems_refusal_has_a_name(bank_open: PointsSystem, lotus: Asker, tea: CouponProduct) -> None:
    first = exchanged(lotus, tea, count=7, Idempotency_Key="ex-1")
    assert refusal(first) == (409, "InsufficientPoints")
    row = Exchange.objects.get()
    assert (row.state, row.refusal_code) == (Exchange.State.REJECTED, "1001")
    again = lotus.post(
        "exchanges", {"quote": public_id("quo", row.quote_id), "reference": "EX-1"}, Idempotency_Key="ex-1"
    )
    assert refusal(again) == (409, "InsufficientPoints")
    nobody = quoted(lotus, tea, account="6225999999999999").json()
    refused = lotus.post("exchanges", {"quote": nobody["id"], "reference": "EX-2"})
    assert refusal(refused) == (422, "PointsAccountNotUsable")
    assert not Coupon.objects.exists()
    assert CouponProduct.objects.get(pk=tea.pk).stock == 50


def test_a_quote_is_good_once_and_for_its_merchant_only(
    bank_open: PointsSystem, lotus: Asker, stranger: Asker, tea: CouponProduct
) -> None:
    done = exchanged(lotus, tea).json()
    used = {"quote": done["quote"], "reference": "EX-2"}
    assert refusal(lotus.post("exchanges", used)) == (409, "QuoteUsed")
    fresh = quoted(lotus, tea).json()["id"]
    assert refusal(stranger.post("exchanges", {"quote": fresh, "reference": "EX-2"})) == (404, "QuoteNotFound")
    taken = lotus.post("exchanges", {"quote": fresh, "reference": "EX-1"})
    assert (*refusal(taken), taken.json()["first"]) == (409, "ReferenceUsed", done["id"])
    ExchangeQuote.objects.update(expires_at=cards.OPENED)
    assert refusal(lotus.post("exchanges", {"quote": fresh, "reference": "EX-3"})) == (409, "QuoteExpired")
    assert Exchange.objects.count() == 1
    assert sum(bank_open.remaining()) == 1_000


def test_unused_coupons_go_back_for_their_points(bank_open: PointsSystem, lotus: Asker, tea: CouponProduct) -> None:
    done = exchanged(lotus, tea).json()
    first, second, third = (one["id"] for one in done["coupons"])
    path = f"exchanges/{done['id']}/returns"
    answer = lotus.post(path, {"coupons": [first, second]})
    assert answer.status_code == 201, answer.content
    assert (answer.json()["points"], answer.json()["state"]) == (666, "PENDING")
    for ids in ([first, third], [third, "cpn_1"], [public_id("cpn", new_id())]):
        assert refusal(lotus.post(path, {"coupons": ids})) == (409, "CouponsNotReturnable")
    for wrong in ([], "x", [1], [third] * 1001):
        assert refusal(lotus.post(path, {"coupons": wrong})) == (400, "InvalidInput")
    bank.sweep(now=timezone.now(), seconds=5)
    assert sum(bank_open.remaining()) == 1_666
    seen = lotus.get(f"exchanges/{done['id']}").json()
    assert [one["state"] for one in seen["coupons"]] == ["RETURNED", "RETURNED", "ACTIVE"]
    assert [one["state"] for one in seen["returns"]] == ["RETURNED"]
    assert PointsReturn.objects.count() == 1
