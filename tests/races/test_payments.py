"""Fifty payments on one card's last money."""

import pytest

from issuing.models import Kind
from prepaid import ledger
from prepaid.models import Card
from tests import cards, invariants
from tests.races import together, variant

pytestmark = pytest.mark.django_db(transaction=True)

PAYMENTS = 50


@pytest.fixture
def card() -> Card:
    """100.00 left, on ten sub-cards."""
    made = cards.opened(cards.program(Kind.BONUS, card_limit=1_000), 15_000)
    cards.paid(made, 5_000)
    return made


def pay_all_at_once(card: Card, amount: int, payments: int = PAYMENTS) -> list:
    return together([lambda: cards.paid(card, amount) for _payment in range(payments)])


def posted(answers: list) -> list[ledger.Posted]:
    return [answer for answer in answers if isinstance(answer, ledger.Posted)]


def is_right(card: Card, answers: list, paid: int, amount: int) -> bool:
    card.refresh_from_db()
    refusals = [answer for answer in answers if not isinstance(answer, ledger.Posted)]
    return (
        len(posted(answers)) == paid
        and all(isinstance(refusal, ledger.InsufficientBalance) for refusal in refusals)
        and card.remaining == 10_000 - paid * amount
        and invariants.wrongs() == {}
    )


@pytest.mark.parametrize(("amount", "paid"), [(10_000, 1), (1_000, 10), (300, 33), (6_000, 1)])
def test_as_many_are_paid_as_the_card_holds_and_the_rest_refused(card, amount, paid):
    answers = pay_all_at_once(card, amount)
    assert is_right(card, answers, paid, amount)
    left = sorted((answer.usable_after for answer in posted(answers)), reverse=True)
    assert left == [10_000 - amount * number for number in range(1, paid + 1)]


def test_uses_are_not_used_twice():
    card = cards.opened(cards.program(Kind.TIMES))
    answers = together([lambda: cards.paid(card, uses=5) for _payment in range(20)])
    assert len(posted(answers)) == 2
    invariants.hold()


def test_control_with_its_lock_the_slow_variant_stays_right(card):
    with variant("ledger_pay", lock=True):
        assert is_right(card, pay_all_at_once(card, 3_000, payments=8), 3, 3_000)


def test_control_without_the_lock_money_is_spent_twice(card):
    with variant("ledger_pay", lock=False):
        answers = pay_all_at_once(card, 3_000, payments=8)
    assert not is_right(card, answers, 3, 3_000)


def test_control_without_the_lock_the_balance_no_longer_follows_from_the_entries(card):
    """Even where there is enough for all: one payment forgets what the other has drawn."""
    with variant("ledger_pay", lock=False):
        answers = pay_all_at_once(card, 100, payments=4)
    assert len(posted(answers)) > 1
    assert invariants.wrongs()
