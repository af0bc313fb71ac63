"""Two refunds of one payment at once."""

import pytest

from issuing.models import Kind
from prepaid import ledger
from tests import cards, invariants
from tests.races import together, variant

pytestmark = pytest.mark.django_db(transaction=True)


# What has come back of the payment so far.
READ = "INTO returned FROM prepaid_transaction WHERE original_id = p_original;"


@pytest.fixture
def payment() -> ledger.Posted:
    """100.00 of 600.00 spent, so that the card's face alone would not stop a refund too many."""
    card = cards.opened(cards.program(Kind.BONUS), 100_000)
    cards.paid(card, 50_000)
    return cards.paid(card, 10_000)


def refund_all_at_once(payment: ledger.Posted, refunds: int, amount: int | None = None) -> list:
    return together([lambda: cards.refunded(payment, amount=amount) for _refund in range(refunds)])


def came_back(answers: list) -> int:
    return sum(answer.amount for answer in answers if isinstance(answer, ledger.Posted))


def names(answers: list) -> set[str]:
    return {type(answer).__name__ for answer in answers}


def test_of_two_whole_refunds_one_is_made(payment):
    answers = refund_all_at_once(payment, 2)
    assert came_back(answers) == 10_000
    assert names(answers) == {"Posted", "NothingLeftToRefund"}
    invariants.hold()


def test_of_many_parts_as_many_are_made_as_were_paid(payment):
    answers = refund_all_at_once(payment, 20, amount=3_000)
    assert came_back(answers) == 9_000
    assert names(answers) == {"Posted", "RefundExceedsPayment"}
    invariants.hold()


def test_a_refund_and_a_reversal_exclude_each_other(payment):
    answers = together([lambda: cards.refunded(payment), lambda: cards.reversed_(payment)] * 4)
    assert came_back(answers) == 10_000
    invariants.hold()


def test_a_refund_and_a_payment_add_up(payment):
    card = payment.card_id
    merchant_id = cards.Card.objects.get(pk=card).merchant_id
    pay = [
        lambda: ledger.pay(
            merchant_id=merchant_id, card_id=card, list_amount=1_000, reference=cards.reference(),
            occurred_at=cards.NOW, now=cards.NOW,
        )
    ] * 10  # fmt: skip
    answers = together([*pay, *[lambda: cards.refunded(payment, amount=500)] * 10])
    assert names(answers) == {"Posted"}
    assert cards.Card.objects.get(pk=card).remaining == 40_000 - 10_000 + 5_000
    invariants.hold()


def test_control_with_its_lock_the_slow_variant_stays_right(payment):
    with variant("ledger_return", lock=True, after=READ):
        answers = refund_all_at_once(payment, 4)
    assert came_back(answers) == 10_000
    assert not have_met(answers)
    invariants.hold()


def test_control_without_the_lock_two_refunds_meet(payment):
    """They give back too much, or trip over what the other wrote between two of their looks."""
    with variant("ledger_return", lock=False, after=READ):
        answers = refund_all_at_once(payment, 4)
    assert have_met(answers), answers


def have_met(answers: list) -> bool:
    return came_back(answers) > 10_000 or any("has no entries for what it took" in str(answer) for answer in answers)
