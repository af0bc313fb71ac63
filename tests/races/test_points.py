"""Coupons and exchanges, all at once: each beside a control that reads first and writes afterwards, and goes wrong."""

from collections.abc import Callable
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from django.db.models import F

from config.errors import Refused
from points import codes, coupons, exchange
from points.models import Coupon, CouponProduct, Exchange, ExchangeQuote, PointsReturn
from tests import cards
from tests import points_world as world
from tests.cards import NOW
from tests.races import PATIENCE, together

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 50


def refusals(answers: list[Any]) -> set[str]:
    wrong = [one for one in answers if isinstance(one, Exception) and not isinstance(one, Refused)]
    assert wrong == []
    return {type(one).__name__ for one in answers if isinstance(one, Refused)}


def wins(answers: list[Any]) -> int:
    return sum(not isinstance(one, Exception) for one in answers)


@pytest.fixture
def coupon() -> Coupon:
    tea = world.product()
    world.ratio(tea)
    return world.issued(tea, 1).coupons.get()


def redeem_many(coupon: Coupon, how: Callable[..., Any]) -> list[Any]:
    merchant = coupon.merchant
    code = codes.VAULT.unseal(coupon.code_sealed)
    return together(
        [
            lambda reference=f"TILL-{turn}": how(merchant=merchant, code=code, reference=reference, now=NOW)
            for turn in range(MANY)
        ]
    )


def test_of_fifty_redemptions_of_one_coupon_one_wins(coupon: Coupon) -> None:
    answers = redeem_many(coupon, coupons.redeem)
    assert wins(answers) == 1
    assert refusals(answers) == {"CouponNotRedeemable"}
    [won] = [one for one in answers if isinstance(one, Coupon)]
    coupon.refresh_from_db()
    assert (coupon.state, coupon.redeemed_reference) == ("REDEEMED", won.redeemed_reference)


def test_who_looks_first_and_redeems_afterwards_redeems_twice(coupon: Coupon) -> None:
    assert wins(redeem_many(coupon, partial(redeem_carelessly, Barrier(MANY)))) > 1


def test_fifty_exchanges_on_the_last_stock_get_exactly_what_there_is() -> None:
    tea = world.product(stock=5)
    world.ratio(tea)
    quotes = [world.quote(tea, 1, by=world.account(f"62250000260{n:05}")) for n in range(MANY)]
    answers = together([lambda asked=asked: world.submitted(asked) for asked in quotes])
    assert (wins(answers), refusals(answers)) == (5, {"OutOfStock"})
    assert CouponProduct.objects.get(pk=tea.pk).stock == 0
    assert Exchange.objects.count() == 5


def test_who_looks_first_and_takes_afterwards_sells_what_is_not_there() -> None:
    tea = world.product(stock=5)
    all_looked = Barrier(MANY)

    def careless() -> None:
        stock = CouponProduct.objects.get(pk=tea.pk).stock or 0
        if stock < 1:
            raise exchange.OutOfStock()
        all_looked.wait(PATIENCE)
        CouponProduct.objects.filter(pk=tea.pk).update(stock=stock - 1)

    assert wins(together([careless] * MANY)) > 5


def test_one_quote_submitted_many_times_is_one_exchange() -> None:
    tea = world.product(stock=100)
    world.ratio(tea)
    asked = world.quote(tea, 3)
    answers = together([lambda turn=turn: world.submitted(asked, f"EX-{turn}") for turn in range(MANY)])
    assert (wins(answers), refusals(answers)) == (1, {"QuoteUsed"})
    assert CouponProduct.objects.get(pk=tea.pk).stock == 97


def test_who_looks_whether_the_quote_was_used_and_reserves_afterwards_reserves_twice() -> None:
    tea = world.product(stock=1_000)
    world.ratio(tea)
    asked = world.quote(tea, 3)
    all_looked = Barrier(MANY)

    def careless() -> None:
        if Exchange.objects.filter(quote=asked).exists():
            raise exchange.QuoteUsed()
        all_looked.wait(PATIENCE)
        CouponProduct.objects.filter(pk=tea.pk).update(stock=F("stock") - asked.count)
        world.submitted(asked)

    together([careless] * MANY)
    assert Exchange.objects.count() == 1
    assert CouponProduct.objects.get(pk=tea.pk).stock < 994


def test_an_accounts_limit_holds_however_many_ask() -> None:
    tea = world.product(most_per_account=3)
    world.ratio(tea)
    quotes = [world.quote(tea, 1) for _turn in range(MANY)]
    answers = together([lambda asked=asked: world.submitted(asked) for asked in quotes])
    assert (wins(answers), refusals(answers)) == (3, {"TooManyPerAccount"})


def test_who_counts_an_accounts_exchanges_and_submits_afterwards_exceeds_the_limit() -> None:
    tea = world.product()
    world.ratio(tea)
    quotes = [world.quote(tea, 1) for _turn in range(MANY)]
    all_looked = Barrier(MANY)

    def careless(asked: ExchangeQuote) -> Exchange:
        if Exchange.objects.filter(account=asked.account, product=tea).count() >= 3:
            raise exchange.TooManyPerAccount(most=3, left=0)
        all_looked.wait(PATIENCE)
        return world.submitted(asked)

    assert wins(together([partial(careless, asked) for asked in quotes])) > 3


def test_one_coupon_returned_many_times_goes_back_once(coupon: Coupon) -> None:
    row = coupon.exchange
    answers = together(
        [
            lambda: coupons.give_back(exchange=row, coupon_ids=[coupon.pk], reason="", by="buyer", now=NOW)
            for _turn in range(MANY)
        ]
    )
    assert (wins(answers), refusals(answers)) == (1, {"CouponsNotReturnable"})
    assert sum(one.points for one in answers if not isinstance(one, Exception)) == row.points


def return_carelessly(row: Coupon, all_looked: Barrier) -> PointsReturn:
    """Look whether it is active, and hold it when all have looked."""
    if Coupon.objects.get(pk=row.pk).state != Coupon.State.ACTIVE:
        raise coupons.CouponsNotReturnable()
    all_looked.wait(PATIENCE)
    made = PointsReturn.objects.create(
        exchange=row.exchange, merchant=row.merchant, count=1, points=row.exchange.points, by="buyer", recorded_at=NOW
    )
    Coupon.objects.filter(pk=row.pk).update(
        state=Coupon.State.RETURNING, points_return=made, redeemed_at=None, redeemed_reference=""
    )
    return made


def redeem_carelessly(all_looked: Barrier, *, merchant: Any, code: str, reference: str, now: Any) -> Coupon:
    found = Coupon.objects.get(code_hash=codes.VAULT.hash(code))
    if found.state != Coupon.State.ACTIVE:
        raise coupons.CouponNotRedeemable()
    all_looked.wait(PATIENCE)
    Coupon.objects.filter(pk=found.pk).update(state="REDEEMED", redeemed_at=now, redeemed_reference=reference)
    return found


def test_who_looks_first_and_returns_afterwards_gives_the_points_twice(coupon: Coupon) -> None:
    answers = together([partial(return_carelessly, coupon, Barrier(MANY))] * MANY)
    assert sum(one.points for one in answers if not isinstance(one, Exception)) > coupon.exchange.points


def test_redeemed_or_returned_but_never_both(coupon: Coupon) -> None:
    row, merchant = coupon.exchange, coupon.merchant
    code = codes.VAULT.unseal(coupon.code_sealed)
    answers = together(
        [
            *(
                lambda turn=turn: coupons.redeem(merchant=merchant, code=code, reference=cards.reference(), now=NOW)
                for turn in range(MANY // 2)
            ),
            *(
                lambda turn=turn: coupons.give_back(
                    exchange=row, coupon_ids=[coupon.pk], reason="", by="buyer", now=NOW
                )
                for turn in range(MANY // 2)
            ),
        ]
    )
    assert wins(answers) == 1
    assert refusals(answers) <= {"CouponNotRedeemable", "CouponsNotReturnable"}


def test_who_looks_first_redeems_what_somebody_else_returns(coupon: Coupon) -> None:
    code = codes.VAULT.unseal(coupon.code_sealed)
    both_looked = Barrier(2)
    redeem = partial(redeem_carelessly, both_looked, merchant=coupon.merchant, code=code, now=NOW)
    answers = together([partial(redeem, reference="TILL-1"), partial(return_carelessly, coupon, both_looked)])
    assert wins(answers) == 2
