"""Refunding a payment: back to where it came from, in reverse order, never more than was paid."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from config.money import half_up
from issuing.models import Kind
from prepaid import ledger
from prepaid.models import Card, Transaction
from tests import cards, invariants

pytestmark = pytest.mark.django_db


@pytest.fixture
def card() -> Card:
    return cards.opened(cards.program(Kind.BONUS, card_limit=100_000), 250_000, gift=50_000)


def refused(refusal, *arguments, verb=cards.refunded, **facts):
    before = invariants.picture()
    with pytest.raises(refusal) as caught:
        verb(*arguments, **facts)
    assert invariants.picture() == before
    return caught.value


def test_a_part_returns_to_the_sub_cards_in_reverse_order(card):
    payment = cards.paid(card, 250_000)
    assert payment.entries == [(1, -120_000, 0), (2, -120_000, 0), (3, -10_000, 50_000)]
    first = cards.refunded(payment, amount=15_000)
    assert first.entries == [(3, 10_000, 60_000), (2, 5_000, 5_000)]
    second = cards.refunded(payment, amount=120_000)
    assert second.entries == [(2, 115_000, 120_000), (1, 5_000, 5_000)]
    assert cards.balances(card) == [5_000, 120_000, 60_000]
    invariants.hold()


def test_the_whole_is_whatever_is_left_of_the_payment(card):
    payment = cards.paid(card, 250_000)
    cards.refunded(payment, amount=40_000)
    rest = cards.refunded(payment)
    assert rest.amount == 210_000
    assert rest.usable_after == 300_000
    assert rest.refundable_after == 250_000
    assert cards.balances(card) == [120_000, 120_000, 60_000]
    invariants.hold()


def test_principal_and_gift_come_back_as_they_went():
    card = cards.opened(cards.program(Kind.BONUS), 100_000, gift=20_000)
    payment = cards.paid(card, 45_000)
    back = cards.refunded(payment)
    assert (back.principal, back.gift) == (payment.principal, payment.gift) == (37_500, 7_500)
    assert (back.kind, back.original_id) == (Transaction.Kind.REFUND, payment.id)


def test_a_discount_comes_back_with_the_list_price_it_belonged_to():
    card = cards.opened(cards.program(Kind.DISCOUNT, rate=Decimal("0.8")))
    payment = cards.paid(card, 50_000)
    half = cards.refunded(payment, amount=20_000)
    assert (half.list_amount, half.charged_amount, half.amount) == (25_000, 20_000, 20_000)
    rest = cards.refunded(payment)
    assert (rest.list_amount, rest.usable_after) == (25_000, 100_000)
    invariants.hold()


def test_uses_come_back():
    card = cards.opened(cards.program(Kind.TIMES))
    payment = cards.paid(card, uses=5)
    assert cards.refunded(payment, amount=2).usable_after == 9
    refused(ledger.RefundExceedsPayment, payment, amount=4)
    assert cards.refunded(payment).amount == 3
    invariants.hold()


def test_a_use_of_an_entitlement_is_given_back_once():
    card = cards.opened(cards.program(Kind.ENTITLEMENT), 99_900)
    payment = cards.paid(card, 50_000)
    back = cards.refunded(payment)
    assert (back.amount, back.list_amount, back.charged_amount) == (0, 50_000, 40_000)
    refused(ledger.NothingLeftToRefund, payment)
    invariants.hold()


def test_never_more_comes_back_than_was_paid_less_what_came_back(card):
    payment = cards.paid(card, 45_000)
    refused(ledger.RefundExceedsPayment, payment, amount=45_001)
    cards.refunded(payment, amount=45_000)
    refused(ledger.NothingLeftToRefund, payment)
    refused(ledger.NothingLeftToRefund, payment, amount=1)
    invariants.hold()


@pytest.mark.parametrize("amount", [0, -1])
def test_nothing_cannot_be_refunded(card, amount):
    refused(ledger.AmountNotPositive, cards.paid(card, 45_000), amount=amount)


def test_only_a_payment_can_be_given_back(card):
    purchase = card.transactions.get()
    payment = cards.paid(card, 45_000)
    back = cards.refunded(payment, amount=1)
    refused(ledger.NotAPayment, back)
    refused(ledger.NotAPayment, payment._replace(id=purchase.pk))


def test_a_foreign_or_unknown_payment_is_not_found(card):
    payment = cards.paid(card, 45_000)
    refused(ledger.TransactionNotFound, payment, merchant_id=cards.merchant().pk)
    refused(ledger.TransactionNotFound, payment._replace(id=card.pk))


def test_a_refund_is_neither_in_the_future_nor_before_its_payment(card):
    payment = cards.paid(card, 45_000)
    refused(ledger.BeforePayment, payment, occurred_at=cards.NOW - timedelta(seconds=1))
    refused(ledger.OccursInFuture, payment, occurred_at=cards.NOW + timedelta(seconds=1))


def test_the_same_request_again_gives_the_first_answer(card):
    payment = cards.paid(card, 45_000)
    asked = {"key": "k1", "fingerprint": "f1", "reference": "BACK-A", "amount": 20_000}
    first = cards.refunded(payment, **asked)
    before = invariants.picture()
    assert cards.refunded(payment, **asked) == first._replace(replayed=True)
    assert invariants.picture() == before
    refused(ledger.IdempotencyKeyReused, payment, **{**asked, "fingerprint": "f2"})
    refused(ledger.ReferenceUsed, payment, reference="BACK-A")


@pytest.mark.parametrize("state", [Card.State.FROZEN, Card.State.LOST])
def test_a_frozen_or_lost_card_still_gets_its_money_back(card, state):
    payment = cards.paid(card, 45_000)
    card.move(state)
    assert cards.refunded(payment).usable_after == 300_000


# Reversal


def test_a_reversal_undoes_the_whole_payment(card):
    payment = cards.paid(card, 250_000)
    undone = cards.reversed_(payment)
    assert undone.entries == [(3, 10_000, 60_000), (2, 120_000, 120_000), (1, 120_000, 120_000)]
    assert (undone.kind, undone.usable_after) == (Transaction.Kind.REVERSAL, 300_000)
    invariants.hold()


def test_a_payment_is_reversed_once_and_then_not_refunded(card):
    payment = cards.paid(card, 45_000)
    cards.reversed_(payment)
    refused(ledger.NothingLeftToRefund, payment, verb=cards.reversed_)
    refused(ledger.NothingLeftToRefund, payment)


def test_a_payment_refunded_in_part_is_not_reversed(card):
    payment = cards.paid(card, 45_000)
    cards.refunded(payment, amount=1)
    refused(ledger.AlreadyRefunded, payment, verb=cards.reversed_)


class RefundsOfADiscount(TestCase):
    """However a payment is cut into refunds, list and charged price add up again."""

    @given(
        rate=st.decimals("0.01", "1", places=2),
        price=st.integers(1, 10**6),
        cuts=st.lists(st.integers(1, 10**6), max_size=5),
    )
    def test_parts_of_a_refund_add_up(self, rate, price, cuts):
        card = cards.opened(cards.program(Kind.DISCOUNT, rate=rate, card_limit=300_000), 10**6)
        payment = cards.paid(card, price)
        left = half_up(price * rate)
        for cut in cuts:
            if cut < left:
                cards.refunded(payment, amount=cut)
                left -= cut
        if left:
            cards.refunded(payment)
        returns = Transaction.objects.filter(original_id=payment.id)
        if half_up(price * rate):
            assert sum(back.list_amount for back in returns) == price
        assert sum(back.charged_amount for back in returns) == half_up(price * rate)
        assert sum(cards.balances(card)) == 10**6
        invariants.hold()
