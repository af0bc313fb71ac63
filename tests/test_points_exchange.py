"""Ratios, quotes, exchanges and their outcomes, without the points system: what each verb does and refuses."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import IntegrityError, connection, transaction

from config.errors import SamePerson
from config.states import IllegalMove
from points import codes, exchange, parameters
from points.models import Coupon, CouponProduct, Exchange, ExchangeRatio
from prepaid.ledger import ReferenceUsed
from tests import cards
from tests import points_world as world
from tests.cards import NOW

pytestmark = pytest.mark.django_db


def test_a_quote_freezes_points_ratio_and_version() -> None:
    tea = world.product()
    first = world.ratio(tea, "333.33")
    asked = world.quote(tea, 3)
    assert (asked.points, asked.ratio) == (1_000, first)
    world.ratio(tea, "12.5", valid_from_at=NOW - timedelta(minutes=30))
    assert world.quote(tea, 7).points == 88
    assert world.submitted(asked).points == 1_000


def test_a_ratio_counts_once_a_second_person_approved_it_and_the_points_system_knows_it() -> None:
    tea = world.product()
    made = parameters.propose(
        product=tea,
        ratio=Decimal("10"),
        rounding=ExchangeRatio.Rounding.CEIL,
        valid_from_at=NOW,
        valid_until_at=None,
        by=world.person("maker"),
        now=NOW,
    )
    with pytest.raises(parameters.NoRatioInForce):
        world.quote(tea)
    with pytest.raises(SamePerson):
        parameters.approve(ratio=made, by=world.person("maker"), now=NOW)
    parameters.approve(ratio=made, by=world.person("checker"), now=NOW)
    with pytest.raises(parameters.NoRatioInForce):
        world.quote(tea)
    ExchangeRatio.objects.filter(pk=made.pk).update(advised_at=NOW)
    assert world.quote(tea, 3).points == 30
    with pytest.raises(IllegalMove):
        parameters.reject(ratio=made, reason="too late", by=world.person("checker"), now=NOW)


def test_the_database_lets_nobody_approve_his_own_ratio() -> None:
    made = world.ratio(world.product())
    with pytest.raises(IntegrityError), transaction.atomic():
        ExchangeRatio.objects.filter(pk=made.pk).update(approved_by=made.made_by)


@pytest.mark.parametrize(
    ("facts", "refusal"),
    [
        ({"ratio": Decimal(0)}, parameters.RatioNotPositive),
        ({"ratio": Decimal(-1)}, parameters.RatioNotPositive),
        ({"ratio": Decimal("NaN")}, parameters.RatioNotPositive),
        ({"ratio": Decimal("1e9")}, parameters.RatioNotPositive),
        ({"ratio": Decimal("1.00001")}, parameters.RatioTooFine),
        ({"valid_from_at": NOW - timedelta(seconds=1)}, parameters.BeginsInThePast),
        ({"valid_until_at": NOW}, parameters.EndsBeforeItBegins),
    ],
)
def test_an_impossible_ratio_is_refused_by_name(facts: dict[str, object], refusal: type[Exception]) -> None:
    proposal = {
        "ratio": Decimal(1),
        "rounding": ExchangeRatio.Rounding.CEIL,
        "valid_from_at": NOW,
        "valid_until_at": None,
    }
    with pytest.raises(refusal):
        parameters.propose(product=world.product(), by=world.person("maker"), now=NOW, **(proposal | facts))  # type: ignore[arg-type]
    assert not ExchangeRatio.objects.exists()


def test_counts_that_nobody_can_buy_are_refused() -> None:
    tea = world.product(most_per_order=10)
    world.ratio(tea)
    for coupons, refusal in (
        (0, exchange.CountNotPositive),
        (-1, exchange.CountNotPositive),
        (11, exchange.TooManyPerOrder),
    ):
        with pytest.raises(refusal):
            world.quote(tea, coupons)


def test_a_quote_is_good_once_until_it_expires_and_only_for_its_owner() -> None:
    tea = world.product()
    world.ratio(tea)
    asked = world.quote(tea)
    stranger = world.account("6225000026000018")
    with pytest.raises(exchange.QuoteNotFound):
        exchange.submit(quote_id=asked.pk, account=stranger, merchant=None, reference="A", now=NOW)
    with pytest.raises(exchange.QuoteNotFound):
        exchange.submit(quote_id=asked.pk, account=None, merchant=cards.merchant(), reference="A", now=NOW)
    with pytest.raises(exchange.QuoteExpired):
        exchange.submit(
            quote_id=asked.pk, account=asked.account, merchant=None, reference="A", now=NOW + exchange.QUOTE_LASTS
        )
    assert not Exchange.objects.exists()
    world.submitted(asked, "A")
    with pytest.raises(exchange.QuoteUsed):
        world.submitted(asked, "B")
    with pytest.raises(ReferenceUsed):
        world.submitted(world.quote(tea), "A")
    assert Exchange.objects.count() == 1


def test_a_quote_does_not_outlive_its_ratio() -> None:
    tea = world.product()
    world.ratio(tea, valid_until_at=NOW + timedelta(minutes=5))
    asked = world.quote(tea)
    assert asked.expires_at == NOW + timedelta(minutes=5)
    with pytest.raises(exchange.RatioEnded):
        exchange.submit(
            quote_id=asked.pk, account=asked.account, merchant=None, reference="A", now=NOW + timedelta(minutes=5)
        )


def test_stock_is_reserved_when_submitted_and_freed_when_nothing_comes_of_it() -> None:
    tea = world.product(stock=5)
    world.ratio(tea)

    def stock() -> int | None:
        return CouponProduct.objects.get(pk=tea.pk).stock

    first = world.sent(world.submitted(world.quote(tea, 3)))
    assert stock() == 2
    with pytest.raises(exchange.OutOfStock):
        world.quote(CouponProduct.objects.get(pk=tea.pk), 3)
    assert exchange.reject(exchange=first, code="1001", now=NOW)
    assert not exchange.reject(exchange=first, code="1001", now=NOW)
    assert stock() == 5


def test_limits_hold_per_account_and_day() -> None:
    tea = world.product(most_per_day=4, most_per_account=5)
    world.ratio(tea)
    world.submitted(world.quote(tea, 3))
    with pytest.raises(exchange.TooManyPerDay):
        world.submitted(world.quote(tea, 2))
    # What was submitted yesterday counts for the account, not for the day.
    Exchange.objects.update(submitted_at=NOW - timedelta(days=1))
    world.submitted(world.quote(tea, 2))
    with pytest.raises(exchange.TooManyPerAccount):
        world.submitted(world.quote(tea, 1))
    world.submitted(world.quote(tea, 4, by=world.account("6225000026000018")))


def test_exactly_the_coupons_bought_are_made_once() -> None:
    tea = world.product()
    world.ratio(tea)
    row = world.issued(tea, 3)
    assert row.state == Exchange.State.ISSUED
    made = list(Coupon.objects.filter(exchange=row).order_by("ordinal"))
    assert [coupon.ordinal for coupon in made] == [1, 2, 3]
    assert {coupon.expires_at for coupon in made} == {NOW + timedelta(days=90)}
    code = codes.VAULT.unseal(made[0].code_sealed)
    assert codes.read(code) == code
    assert made[0].code_hash == codes.VAULT.hash(code)
    again = exchange.Deducted(row.bank_reference, row.points, NOW.date().isoformat())
    assert not exchange.issue(exchange=row, deducted=again, now=NOW)
    assert Coupon.objects.count() == 3


def test_a_success_after_it_was_given_up_changes_nothing_and_is_seen() -> None:
    tea = world.product(stock=3)
    world.ratio(tea)
    row = world.sent(world.submitted(world.quote(tea, 3)))
    assert exchange.give_up(exchange=row)
    late = exchange.Deducted("B-LATE", row.points, NOW.date().isoformat())
    assert not exchange.issue(exchange=row, deducted=late, now=NOW)
    row.refresh_from_db()
    assert row.state == Exchange.State.REVERSING
    assert "B-LATE" in row.incident
    assert not Coupon.objects.exists()
    assert exchange.reversed_(exchange=row, now=NOW)
    assert CouponProduct.objects.get(pk=tea.pk).stock == 3


def test_the_database_excludes_issued_and_reversed() -> None:
    tea = world.product()
    world.ratio(tea)
    row = world.issued(tea)
    for state in ("REVERSED", "REVERSING", "REJECTED", "UNKNOWN"):
        with pytest.raises(IntegrityError), transaction.atomic():
            Exchange.objects.filter(pk=row.pk).update(
                state=state, issued_at=None, reversed_at=NOW if state == "REVERSED" else None, reversal_request_no="x"
            )
    waiting = world.submitted(world.quote(tea))
    coupon = Coupon.objects.first()
    assert coupon is not None
    with pytest.raises(IntegrityError), transaction.atomic():
        Coupon.objects.filter(pk=coupon.pk).update(exchange=waiting, ordinal=9)


def test_an_unresolved_exchange_is_settled_by_two_people() -> None:
    tea = world.product()
    world.ratio(tea)
    row = world.sent(world.submitted(world.quote(tea)))
    exchange.give_up(exchange=row)
    Exchange.objects.filter(pk=row.pk).update(state=Exchange.State.UNRESOLVED)
    row.refresh_from_db()
    one, other = world.person("one"), world.person("other")
    with pytest.raises(exchange.SettlementNotPossible):
        exchange.settle_by_hand(exchange=row, bank_reference="B1", by=other, now=NOW)
    with pytest.raises(parameters.ReasonNeeded):
        exchange.propose_settlement(exchange=row, outcome=Exchange.State.ISSUED, reason=" ", by=one, now=NOW)
    exchange.propose_settlement(
        exchange=row, outcome=Exchange.State.ISSUED, reason="statement shows it", by=one, now=NOW
    )
    with pytest.raises(SamePerson):
        exchange.settle_by_hand(exchange=row, bank_reference="B1", by=one, now=NOW)
    exchange.settle_by_hand(exchange=row, bank_reference="B1", by=other, now=NOW)
    assert row.state == Exchange.State.ISSUED
    assert row.coupons.count() == row.count
    with pytest.raises(exchange.SettlementNotPossible):
        exchange.propose_settlement(exchange=row, outcome=Exchange.State.REVERSED, reason="no", by=one, now=NOW)


def test_moves_of_a_coupon_are_append_only() -> None:
    with connection.cursor() as cursor, pytest.raises(Exception, match="permission denied"), transaction.atomic():
        cursor.execute("UPDATE points_couponmove SET reason = 'never happened'")
