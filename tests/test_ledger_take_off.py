"""Taking off: a closed or compensated card holds nothing any more, and what came late is corrected."""

from datetime import date, timedelta

import pytest

from issuing.models import Kind
from prepaid import ledger
from prepaid.models import Card, Transaction
from tests import cards, invariants

pytestmark = pytest.mark.django_db

LOSS = cards.NOW.replace(hour=0)
LOSS_DATE = date(2026, 5, 15)
AFTER = LOSS + timedelta(days=30)


def taken(kind: Transaction.Kind, *taken_cards: Card, on_date: date = LOSS_DATE) -> int:
    return ledger.take_off(
        kind=kind,
        cards=[(card.pk, cards.reference("OFF"), on_date) for card in taken_cards],
        occurred_at=AFTER,
        now=AFTER,
    )


def compensated(card: Card) -> Card:
    card.move(Card.State.CLAIMED, loss_at=LOSS)
    assert taken(Transaction.Kind.COMPENSATION, card) == 1
    card.refresh_from_db()
    return card


def test_a_closed_card_holds_nothing_and_says_what_principal_went():
    card = cards.opened(cards.program(Kind.BONUS, card_limit=100_000), 150_000, gift=30_000)
    cards.paid(card, 45_000)
    assert taken(Transaction.Kind.CLOSURE, card) == 1
    card.refresh_from_db()
    assert (card.state, card.remaining, cards.balances(card)) == (Card.State.CLOSED, 0, [0, 0])
    closure = card.transactions.get(kind=Transaction.Kind.CLOSURE)
    assert (closure.amount, closure.principal, closure.gift) == (-135_000, 112_500, 22_500)
    assert (closure.usable_after, closure.refundable_after) == (0, 0)
    invariants.hold()


def test_a_term_is_taken_off_at_what_it_owed_on_the_day_asked_for():
    card = cards.opened(cards.program(Kind.ENTITLEMENT), 99_900)
    compensated(card)
    compensation = card.transactions.get(kind=Transaction.Kind.COMPENSATION)
    assert (compensation.amount, compensation.principal) == (-365, 63_224)
    assert card.remaining == 0
    invariants.hold()


def test_many_cards_are_taken_off_at_once_and_those_in_another_state_passed_over():
    program = cards.program(Kind.TIMES)
    several = [cards.opened(program) for _card in range(3)]
    several[0].move(Card.State.CLAIMED, loss_at=LOSS)
    several[2].move(Card.State.CLAIMED, loss_at=LOSS)
    assert taken(Transaction.Kind.COMPENSATION, *several) == 2
    assert [Card.objects.get(pk=card.pk).remaining for card in several] == [0, 12, 0]
    assert taken(Transaction.Kind.COMPENSATION, *several) == 0
    invariants.hold()


def test_only_a_claimed_card_is_compensated_and_only_a_live_one_closed():
    card = cards.opened(cards.program(Kind.BONUS))
    before = invariants.picture()
    assert taken(Transaction.Kind.COMPENSATION, card) == 0
    assert invariants.picture() == before
    card.move(Card.State.CLAIMED, loss_at=LOSS)
    before = invariants.picture()
    assert taken(Transaction.Kind.CLOSURE, card) == 0
    assert invariants.picture() == before


def test_nothing_asked_for_is_nothing_done():
    assert taken(Transaction.Kind.CLOSURE) == 0


@pytest.mark.parametrize("verb", [cards.paid, cards.topped_up])
def test_a_closed_or_compensated_card_moves_no_more(verb):
    program = cards.program(Kind.BONUS)
    closed, lost = cards.opened(program), cards.opened(program)
    taken(Transaction.Kind.CLOSURE, closed)
    compensated(lost)
    before = invariants.picture()
    for card in closed, lost:
        with pytest.raises(ledger.CardNotActive):
            verb(card, 100, at=AFTER)
    assert invariants.picture() == before


# What occurred before the loss is a fact, however late its record arrives


def test_a_claimed_card_still_records_a_payment_from_before_the_loss_and_none_from_after():
    card = cards.opened(cards.program(Kind.BONUS))
    card.move(Card.State.CLAIMED, loss_at=LOSS)
    late = cards.paid(card, 10_000, occurred_at=LOSS - timedelta(seconds=1), now=AFTER)
    assert late.usable_after == 90_000
    with pytest.raises(ledger.CardNotActive):
        cards.paid(card, 10_000, occurred_at=LOSS, now=AFTER)
    invariants.hold()


def test_a_payment_from_before_the_loss_is_taken_back_out_of_the_compensation():
    card = compensated(cards.opened(cards.program(Kind.BONUS, card_limit=100_000), 150_000, gift=30_000))
    late = cards.paid(card, 130_000, occurred_at=LOSS - timedelta(hours=1), now=AFTER)
    assert late.entries == [(1, -120_000, 0), (2, -10_000, 0)]
    card.refresh_from_db()
    assert (card.state, card.remaining, cards.balances(card)) == (Card.State.COMPENSATED, 0, [0, 0])
    correction = card.transactions.get(kind=Transaction.Kind.COMPENSATION_CORRECTION)
    assert correction.amount == 130_000
    assert correction.original.kind == Transaction.Kind.COMPENSATION
    invariants.hold()
    with pytest.raises(ledger.InsufficientBalance):
        cards.paid(card, 50_001, occurred_at=LOSS - timedelta(hours=1), now=AFTER)
    cards.paid(card, 50_000, occurred_at=LOSS - timedelta(hours=1), now=AFTER)
    invariants.hold()


def test_a_late_refund_from_before_the_loss_puts_the_card_back_into_claim():
    card = cards.opened(cards.program(Kind.BONUS))
    payment = cards.paid(card, 40_000, at=LOSS - timedelta(days=2))
    compensated(card)
    cards.refunded(payment, occurred_at=LOSS - timedelta(days=1), now=AFTER)
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.CLAIMED, 40_000)
    invariants.hold()
    with pytest.raises(ledger.CardNotActive):
        cards.refunded(payment, at=AFTER)


def test_a_late_use_of_a_compensated_term_is_recorded_and_moves_nothing():
    card = compensated(cards.opened(cards.program(Kind.ENTITLEMENT), 99_900))
    late = cards.paid(card, 50_000, occurred_at=LOSS - timedelta(days=1), now=AFTER)
    assert (late.amount, late.list_amount) == (0, 50_000)
    invariants.hold()


# What is paid in after the loss is no loss


def test_only_what_was_paid_in_before_the_loss_is_taken_off():
    card = cards.opened(cards.program(Kind.BONUS, card_limit=50_000), 100_000, gift=20_000)
    cards.paid(card, 45_000)
    cards.topped_up(card, 50_000, gift=10_000, at=LOSS + timedelta(days=2))
    compensated(card)
    compensation = card.transactions.get(kind=Transaction.Kind.COMPENSATION)
    assert (compensation.amount, compensation.principal, compensation.gift) == (-75_000, 62_500, 12_500)
    assert (compensation.usable_after, compensation.refundable_after) == (60_000, 50_000)
    assert (card.remaining, cards.balances(card)) == (60_000, [0, 0, 60_000])
    assert card.transactions.count() == 4
    invariants.hold()


def test_a_load_of_the_very_moment_of_the_loss_is_not_taken_off():
    card = cards.opened(cards.program(Kind.TIMES))
    cards.topped_up(card, 100_000, at=LOSS)
    compensated(card)
    assert (card.remaining, cards.balances(card)) == (12, [0, 12])
    invariants.hold()


def test_a_term_bought_after_the_loss_stays_whole():
    card = cards.opened(cards.program(Kind.ENTITLEMENT), 99_900)
    cards.topped_up(card, 99_900, at=LOSS + timedelta(days=1))
    compensated(card)
    compensation = card.transactions.get(kind=Transaction.Kind.COMPENSATION)
    assert (compensation.amount, compensation.principal) == (-365, 63_224)
    assert (compensation.usable_after, compensation.refundable_after, card.remaining) == (365, 99_900, 365)
    invariants.hold()


@pytest.mark.parametrize("order", ["OLDEST", "SMALLEST"])
def test_a_late_payment_draws_from_what_was_compensated_never_from_what_was_paid_in_since(order):
    card = cards.opened(cards.program(Kind.BONUS, draw_order=order), 100_000)
    cards.topped_up(card, 5_000, at=LOSS + timedelta(days=1))
    compensated(card)
    late = cards.paid(card, 30_000, occurred_at=LOSS - timedelta(hours=1), now=AFTER)
    assert late.entries == [(1, -30_000, 0)]
    card.refresh_from_db()
    assert (card.state, card.remaining, cards.balances(card)) == (Card.State.COMPENSATED, 5_000, [0, 5_000])
    correction = card.transactions.get(kind=Transaction.Kind.COMPENSATION_CORRECTION)
    assert correction.usable_after == 35_000
    invariants.hold()
    with pytest.raises(ledger.InsufficientBalance):
        cards.paid(card, 70_001, occurred_at=LOSS - timedelta(hours=1), now=AFTER)
    with pytest.raises(ledger.CardNotActive):
        cards.paid(card, 100, at=AFTER)


def test_a_late_refund_is_compensated_again_beside_what_was_paid_in_since():
    card = cards.opened(cards.program(Kind.BONUS), 100_000)
    payment = cards.paid(card, 40_000, at=LOSS - timedelta(days=2))
    cards.topped_up(card, 5_000, at=LOSS + timedelta(days=1))
    compensated(card)
    cards.refunded(payment, occurred_at=LOSS - timedelta(days=1), now=AFTER)
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.CLAIMED, 45_000)
    assert taken(Transaction.Kind.COMPENSATION, card) == 1
    card.refresh_from_db()
    assert (card.state, card.remaining, cards.balances(card)) == (Card.State.COMPENSATED, 5_000, [0, 5_000])
    invariants.hold()
