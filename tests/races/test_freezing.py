"""Freezing, closing and compensating against a payment."""

import pytest
from django.db import transaction

from issuing.models import Kind
from prepaid import ledger
from prepaid.models import Card, Transaction
from tests import cards, invariants
from tests.races import meanwhile, together, variant

pytestmark = pytest.mark.django_db(transaction=True)

# Closing reads all its cards in one statement; what it read is out of date after that one.
READ = "GET DIAGNOSTICS taken = ROW_COUNT;"


@pytest.fixture
def card() -> Card:
    return cards.opened(cards.program(Kind.BONUS))


def while_another(move: Card.State, card: Card, call):
    """Make the call when the card's move is written but not yet committed; its answer."""
    transaction.set_autocommit(False)
    try:
        card.move(move)
        with meanwhile(call) as answer:
            transaction.commit()
            return answer()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def close(card: Card) -> int:
    return ledger.take_off(
        kind=Transaction.Kind.CLOSURE,
        cards=[(card.pk, cards.reference("OFF"), cards.local_date(cards.NOW))],
        occurred_at=cards.NOW,
        now=cards.NOW,
    )


def test_a_payment_that_meets_a_freeze_is_refused(card):
    answer = while_another(Card.State.FROZEN, card, lambda: cards.paid(card, 10_000))
    assert isinstance(answer, ledger.CardNotActive)
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.FROZEN, 100_000)
    invariants.hold()


def test_control_without_the_lock_a_frozen_card_pays(card):
    with variant("ledger_pay", lock=False, meet=False):
        answer = while_another(Card.State.FROZEN, card, lambda: cards.paid(card, 10_000))
    assert isinstance(answer, ledger.Posted)
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.FROZEN, 90_000)


def test_a_freeze_that_meets_a_payment_waits_for_it(card):
    transaction.set_autocommit(False)
    try:
        cards.paid(card, 10_000)
        with meanwhile(lambda: card.move(Card.State.FROZEN)) as answer:
            transaction.commit()
            assert answer() is None
    finally:
        transaction.set_autocommit(True)
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.FROZEN, 90_000)
    with pytest.raises(ledger.CardNotActive):
        cards.paid(card, 1)


def test_a_top_up_that_meets_a_freeze_is_refused(card):
    answer = while_another(Card.State.FROZEN, card, lambda: cards.topped_up(card, 10_000))
    assert isinstance(answer, ledger.CardNotActive)
    assert card.loads.count() == 1


def test_control_without_the_lock_a_frozen_card_is_topped_up(card):
    with variant("ledger_top_up", lock=False, meet=False):
        answer = while_another(Card.State.FROZEN, card, lambda: cards.topped_up(card, 10_000))
    assert isinstance(answer, ledger.Posted)


def test_top_ups_at_once_number_their_sub_cards_on(card):
    answers = together([lambda: cards.topped_up(card, 1_000) for _top_up in range(10)])
    assert sorted(answer.entries[0].sub_card for answer in answers) == list(range(2, 12))
    assert list(card.loads.order_by("seq").values_list("seq", flat=True)) == list(range(1, 12))
    invariants.hold()


def is_closed_or_spent_never_both(card: Card, answers: list) -> bool:
    """What payments drew and what the closing took is what was there, whoever came first."""
    card.refresh_from_db()
    taken = -sum(card.transactions.exclude(kind=Transaction.Kind.PURCHASE).values_list("amount", flat=True))
    return (
        card.state == Card.State.CLOSED
        and (card.remaining, taken) == (0, 100_000)
        and all(isinstance(answer, int | ledger.Posted | ledger.CardNotActive) for answer in answers)
        and invariants.wrongs() == {}
    )


def close_among_payments(card: Card) -> list:
    payments = [lambda: cards.paid(card, 1_000) for _payment in range(6)]
    return together([*payments[:3], lambda: close(card), *payments[3:]])


def test_what_a_closing_takes_was_not_spent(card):
    answers = close_among_payments(card)
    assert 1 in answers
    assert is_closed_or_spent_never_both(card, answers)


def test_a_card_is_closed_once(card):
    assert sorted(together([lambda: close(card) for _closing in range(6)])) == [0, 0, 0, 0, 0, 1]
    assert is_closed_or_spent_never_both(card, [])


def test_control_with_its_lock_the_slow_closing_stays_right(card):
    with variant("ledger_take_off", lock=True, after=READ):
        assert is_closed_or_spent_never_both(card, close_among_payments(card))


def test_control_without_the_lock_a_card_is_closed_twice(card):
    with variant("ledger_take_off", lock=False, after=READ):
        answers = together([lambda: close(card) for _closing in range(6)])
    assert answers.count(1) > 1 or not is_closed_or_spent_never_both(card, answers)
