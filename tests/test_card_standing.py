"""Freezing, losing, replacing and closing a card."""

from datetime import timedelta

import pytest

from config.states import IllegalMove
from issuing import numbering
from issuing.models import Kind
from prepaid import ledger, processing
from prepaid.models import Card, CardMove, RetiredNumber, Transaction
from tests import cards

pytestmark = pytest.mark.django_db


def _card() -> Card:
    return cards.opened(cards.program(Kind.BONUS), 100_000)


def test_a_frozen_card_is_not_spent_from_until_it_is_unfrozen() -> None:
    card = _card()
    processing.freeze(card=card, reason="holder asked", by="staff:li", now=cards.NOW)
    with pytest.raises(ledger.CardNotActive):
        cards.paid(card, 1_000)
    processing.unfreeze(card=card, reason="holder came", by="staff:li", now=cards.NOW)
    assert cards.paid(card, 1_000).usable_after == 99_000
    assert list(CardMove.objects.filter(card=card).order_by("id").values_list("to_state", flat=True)) == [
        "FROZEN",
        "ACTIVE",
    ]


def test_a_replaced_card_keeps_everything_but_its_number() -> None:
    card = _card()
    cards.paid(card, 40_000)
    old_hash = card.number_hash
    processing.report_lost(card=card, reason="left in a taxi", by="staff:li", now=cards.NOW)
    with pytest.raises(ledger.CardNotActive):
        cards.paid(card, 1_000)
    number = processing.replace(card=card, reason="left in a taxi", by="staff:li", now=cards.NOW)
    card.refresh_from_db()
    assert numbering.is_valid(number)
    assert card.number_hash == numbering.hash_number(number) != old_hash
    assert RetiredNumber.objects.get(card=card).number_hash == old_hash
    assert not Card.objects.filter(number_hash=old_hash).exists()
    assert card.remaining == 60_000
    assert cards.paid(card, 1_000).usable_after == 59_000


def test_losing_a_frozen_card_is_no_way_around_the_freeze() -> None:
    card = _card()
    processing.freeze(card=card, reason="court order", by="staff:li", now=cards.NOW)
    processing.report_lost(card=card, reason="lost", by="staff:li", now=cards.NOW)
    processing.replace(card=card, reason="lost", by="staff:li", now=cards.NOW)
    assert card.state == Card.State.FROZEN


def test_a_card_that_was_not_lost_is_not_replaced() -> None:
    card = _card()
    with pytest.raises(IllegalMove):
        processing.replace(card=card, reason="new look", by="staff:li", now=cards.NOW)
    assert not RetiredNumber.objects.exists()


def test_closing_pays_back_what_is_refundable_and_leaves_nothing() -> None:
    card = cards.opened(cards.program(Kind.BONUS), 100_000, gift=20_000)
    cards.paid(card, 45_000)
    closure = processing.close(card=card, reason="moved away", by="staff:li", now=cards.NOW)
    assert (closure.amount, closure.principal, closure.gift) == (-75_000, 62_500, 12_500)
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.CLOSED, 0)
    with pytest.raises(IllegalMove):
        processing.close(card=card, reason="again", by="staff:li", now=cards.NOW + timedelta(days=1))
    assert Transaction.objects.filter(card=card, kind=Transaction.Kind.CLOSURE).count() == 1


def test_a_claimed_card_cannot_leave_its_claim_by_being_lost() -> None:
    card = _card()
    card.move(Card.State.CLAIMED, loss_at=cards.NOW)
    with pytest.raises(IllegalMove):
        processing.report_lost(card=card, reason="lost", by="staff:li", now=cards.NOW)
    card.refresh_from_db()
    assert card.state == Card.State.CLAIMED


def test_a_lost_card_whose_claim_was_rejected_is_replaced_as_it_was_before_the_loss() -> None:
    card = _card()
    processing.freeze(card=card, reason="court order", by="staff:li", now=cards.NOW)
    processing.report_lost(card=card, reason="lost", by="staff:li", now=cards.NOW)
    for from_state, to_state in (("LOST", "CLAIMED"), ("CLAIMED", "LOST")):
        card.move(to_state, loss_at=cards.NOW if to_state == "CLAIMED" else None)
        CardMove.objects.create(
            card=card, from_state=from_state, to_state=to_state, by="staff:li", recorded_at=cards.NOW
        )
    processing.replace(card=card, reason="lost", by="staff:li", now=cards.NOW)
    assert card.state == Card.State.FROZEN
