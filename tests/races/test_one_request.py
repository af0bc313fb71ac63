"""The same idempotency key, or the same reference, at once."""

import pytest

from issuing.models import Kind
from prepaid import ledger
from prepaid.models import Transaction
from tests import cards, invariants
from tests.races import together, variant, without_indexes

pytestmark = pytest.mark.django_db(transaction=True)

REQUESTS = 20
# Nobody has been here with this key.
SEEN = "IF answer IS DISTINCT FROM NULL THEN RETURN answer; END IF;"
ASKED = {"key": "k1", "fingerprint": "f1", "reference": "ORDER-1"}


def pay_again_and_again(requests: int = REQUESTS) -> list:
    card = cards.opened(cards.program(Kind.BONUS))
    return together([lambda: cards.paid(card, 10_000, **ASKED) for _request in range(requests)])


def is_one_payment_answered_to_all(answers: list) -> bool:
    return (
        Transaction.objects.filter(kind=Transaction.Kind.PAYMENT).count() == 1
        and {answer._replace(replayed=True) for answer in hashable(answers)}
        == {hashable(answers)[0]._replace(replayed=True)}
        and [answer.replayed for answer in answers].count(False) == 1
    )


def hashable(answers: list) -> list[ledger.Posted]:
    return [answer._replace(entries=tuple(answer.entries)) for answer in answers]


def test_one_payment_is_made_and_its_answer_given_to_all():
    assert is_one_payment_answered_to_all(pay_again_and_again())
    invariants.hold()


def test_one_refund_is_made_and_its_answer_given_to_all():
    payment = cards.paid(cards.opened(cards.program(Kind.BONUS)), 10_000)
    answers = together([lambda: cards.refunded(payment, amount=1_000, **ASKED) for _request in range(REQUESTS)])
    assert len({answer.id for answer in answers}) == 1
    assert Transaction.objects.filter(kind=Transaction.Kind.REFUND).count() == 1
    invariants.hold()


def test_one_top_up_is_made_and_its_answer_given_to_all():
    card = cards.opened(cards.program(Kind.BONUS))
    answers = together([lambda: cards.topped_up(card, 1_000, **ASKED) for _request in range(REQUESTS)])
    assert len({answer.id for answer in answers}) == 1
    assert card.loads.count() == 2
    invariants.hold()


def test_a_reference_asked_for_on_two_cards_is_used_on_one():
    program = cards.program(Kind.BONUS)
    several = [cards.opened(program) for _card in range(8)]
    answers = together([lambda card=card: cards.paid(card, 100, reference="ORDER-2") for card in several])
    assert sorted(type(answer).__name__ for answer in answers) == ["Posted"] + ["ReferenceUsed"] * 7
    invariants.hold()


def test_a_key_used_for_two_cards_at_once_pays_on_one():
    program = cards.program(Kind.BONUS)
    several = [cards.opened(program) for _card in range(8)]
    answers = together(
        [
            lambda card=card: cards.paid(card, 100, key="k2", fingerprint=str(card.pk), reference=cards.reference())
            for card in several
        ]
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["IdempotencyKeyReused"] * 7 + ["Posted"]
    invariants.hold()


def test_control_with_its_lock_the_slow_variant_stays_right():
    with variant("ledger_pay", lock=True, after=SEEN):
        assert is_one_payment_answered_to_all(pay_again_and_again(6))


def test_control_without_the_lock_the_unique_key_still_answers_all_with_one():
    """The lock saves a collision; the index is what makes it impossible."""
    with variant("ledger_pay", lock=False, after=SEEN):
        assert is_one_payment_answered_to_all(pay_again_and_again(6))


def test_control_without_lock_and_index_the_holder_pays_twice():
    names = ("one_transaction_per_idempotency_key", "one_transaction_per_reference")
    with without_indexes("prepaid_transaction", *names), variant("ledger_pay", lock=False, after=SEEN):
        answers = pay_again_and_again(6)
        assert not is_one_payment_answered_to_all(answers)
        assert Transaction.objects.filter(kind=Transaction.Kind.PAYMENT).count() > 1
