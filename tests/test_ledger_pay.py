"""Paying: what each kind of card is charged, from which sub-cards, and what is refused."""

from datetime import date, timedelta
from decimal import Decimal

import pytest
from django.db import transaction

from issuing.models import CardProgram, Kind
from prepaid import ledger
from prepaid.models import Card, Transaction
from tests import cards, invariants

pytestmark = pytest.mark.django_db


@pytest.fixture
def bonus_card() -> Card:
    return cards.opened(cards.program(Kind.BONUS), 100_000, gift=20_000)


def refused(refusal, *arguments, **facts):
    """The payment is refused by that name, and not one byte has changed."""
    before = invariants.picture()
    with pytest.raises(refusal) as caught:
        cards.paid(*arguments, **facts)
    assert invariants.picture() == before
    return caught.value


# The four kinds


def test_a_bonus_card_that_spent_450_of_1200_owes_625(bonus_card):
    payment = cards.paid(bonus_card, 45_000)
    assert (payment.amount, payment.usable_after, payment.refundable_after) == (-45_000, 75_000, 62_500)
    assert (payment.principal, payment.gift) == (37_500, 7_500)
    invariants.hold()


def test_a_discount_card_is_charged_list_price_times_rate_and_both_are_recorded():
    card = cards.opened(cards.program(Kind.DISCOUNT, rate=Decimal("0.8")))
    payment = cards.paid(card, 50_000)
    assert (payment.list_amount, payment.charged_amount, payment.amount) == (50_000, 40_000, -40_000)
    assert (payment.usable_after, payment.refundable_after) == (60_000, 60_000)


@pytest.mark.parametrize(
    ("rate", "list_amount", "charged"), [("0.8", 1, 1), ("0.8", 33, 26), ("0.5", 5, 3), ("0.85", 10, 9), ("0.3", 1, 0)]
)
def test_the_charge_is_rounded_half_up_to_the_cent(rate, list_amount, charged):
    card = cards.opened(cards.program(Kind.DISCOUNT, rate=Decimal(rate)))
    assert cards.paid(card, list_amount).charged_amount == charged
    invariants.hold()


def test_a_card_may_be_bonus_and_give_a_discount_at_once():
    card = cards.opened(cards.program(Kind.BONUS, rate=Decimal("0.9")), 100_000, gift=20_000)
    payment = cards.paid(card, 50_000)
    assert (payment.charged_amount, payment.usable_after, payment.refundable_after) == (45_000, 75_000, 62_500)


def test_a_times_card_with_5_of_12_uses_gone_owes_583_33():
    card = cards.opened(cards.program(Kind.TIMES))
    payment = cards.paid(card, uses=5)
    assert (payment.unit, payment.amount, payment.usable_after) == ("USES", -5, 7)
    assert payment.refundable_after == 58_333
    assert payment.list_amount is None
    invariants.hold()


def test_a_use_of_an_entitlement_moves_no_value_and_is_recorded_with_both_prices():
    card = cards.opened(cards.program(Kind.ENTITLEMENT, rate=Decimal("0.8")), 99_900)
    payment = cards.paid(card, 50_000)
    assert (payment.list_amount, payment.charged_amount, payment.amount) == (50_000, 40_000, 0)
    assert (payment.usable_after, payment.refundable_after) == (231, 63_224)
    assert payment.entries == []
    invariants.hold()


def test_an_entitlement_is_used_during_its_term_only():
    card = cards.opened(cards.program(Kind.ENTITLEMENT), 99_900)
    cards.paid(card, 100, at=cards.day(364))
    refused(ledger.TermNotRunning, card, 100, at=cards.day(365))


# From which sub-cards


def test_a_payment_touches_as_many_sub_cards_as_it_needs_one_entry_for_each():
    card = cards.opened(cards.program(Kind.BONUS, card_limit=100_000), 250_000)
    payment = cards.paid(card, 210_000)
    assert payment.entries == [(1, -100_000, 0), (2, -100_000, 0), (3, -10_000, 40_000)]
    assert cards.balances(card) == [0, 0, 40_000]
    invariants.hold()


def test_the_oldest_load_is_drawn_first():
    card = cards.opened(cards.program(Kind.BONUS), 100_000, gift=20_000)
    cards.topped_up(card, 50_000)
    payment = cards.paid(card, 130_000)
    assert payment.entries == [(1, -120_000, 0), (2, -10_000, 40_000)]
    assert payment.refundable_after == 40_000
    invariants.hold()


def test_a_program_may_draw_the_smallest_remaining_first():
    program = cards.program(Kind.BONUS, card_limit=100_000, draw_order=CardProgram.DrawOrder.SMALLEST)
    card = cards.opened(program, 230_000)
    assert cards.paid(card, 40_000).entries == [(3, -30_000, 0), (1, -10_000, 90_000)]
    assert cards.paid(card, 95_000).entries == [(1, -90_000, 0), (2, -5_000, 95_000)]
    invariants.hold()


def test_the_last_fen_can_be_spent(bonus_card):
    assert cards.paid(bonus_card, 120_000).usable_after == 0
    assert refused(ledger.InsufficientBalance, bonus_card, 1).facts == {"detail": "0"}
    invariants.hold()


# What is kept


def test_a_payment_keeps_reference_store_and_both_moments(bonus_card):
    occurred_at = cards.NOW - timedelta(hours=2)
    payment = cards.paid(bonus_card, 45_000, store="S01", reference="ORDER-A", occurred_at=occurred_at)
    kept = Transaction.objects.get(pk=payment.id)
    assert (kept.reference, kept.store, kept.occurred_at, kept.recorded_at) == (
        "ORDER-A", "S01", occurred_at, cards.NOW
    )  # fmt: skip


def test_a_late_record_is_valued_on_the_local_day_it_occurred():
    card = cards.opened(cards.program(Kind.ENTITLEMENT), 99_900)
    payment = cards.paid(card, 100, occurred_at=cards.day(10), now=cards.NOW)
    assert payment.usable_after == 355


def test_midnight_is_the_merchants():
    card = cards.opened(cards.program(Kind.ENTITLEMENT, merchant=cards.merchant(time_zone="Asia/Tokyo")), 99_900)
    before_midnight_in_tokyo = cards.OPENED.replace(hour=22, minute=59)
    assert cards.paid(card, 100, at=before_midnight_in_tokyo).usable_after == 365
    assert cards.paid(card, 100, at=before_midnight_in_tokyo + timedelta(minutes=1)).usable_after == 364


# What is refused, with nothing changed


def test_more_than_the_card_holds_is_refused(bonus_card):
    assert refused(ledger.InsufficientBalance, bonus_card, 120_001).facts == {"detail": "120000"}


def test_more_uses_than_are_left_are_refused():
    card = cards.opened(cards.program(Kind.TIMES))
    refused(ledger.InsufficientBalance, card, uses=13)


@pytest.mark.parametrize("amount", [0, -1, -(10**15)])
def test_nothing_and_less_than_nothing_are_refused(bonus_card, amount):
    refused(ledger.AmountNotPositive, bonus_card, amount)
    refused(ledger.AmountNotPositive, cards.opened(cards.program(Kind.TIMES)), uses=amount)
    refused(ledger.AmountNotPositive, cards.opened(cards.program(Kind.ENTITLEMENT), 99_900), amount)


def test_money_is_asked_for_by_price_and_uses_by_their_number(bonus_card):
    times = cards.opened(cards.program(Kind.TIMES))
    refused(ledger.WrongUnit, bonus_card, uses=1)
    refused(ledger.WrongUnit, bonus_card)
    refused(ledger.WrongUnit, bonus_card, 100, uses=1)
    refused(ledger.WrongUnit, times, 100)
    refused(ledger.WrongUnit, times)


@pytest.mark.parametrize("state", [Card.State.FROZEN, Card.State.LOST])
def test_a_card_that_is_not_active_pays_nothing(bonus_card, state):
    bonus_card.move(state)
    refused(ledger.CardNotActive, bonus_card, 100)


def test_a_card_that_waits_for_cover_pays_nothing():
    card = cards.opened(cards.program(Kind.BONUS, spend_before_cover=False))
    refused(ledger.CoverNotAccepted, card, 100)
    Card.objects.filter(pk=card.pk).update(awaits_cover=False)
    assert cards.paid(card, 100).usable_after == 99_900


def test_a_card_pays_through_its_last_day():
    card = cards.opened(cards.program(Kind.BONUS), expires_on=date(2026, 5, 15))
    cards.paid(card, 100, at=cards.NOW.replace(hour=23, minute=59))
    refused(ledger.CardExpired, card, 100, at=cards.NOW.replace(hour=0) + timedelta(days=1))


def test_a_payment_is_neither_in_the_future_nor_before_the_card(bonus_card):
    refused(ledger.OccursInFuture, bonus_card, 100, occurred_at=cards.NOW + timedelta(seconds=1))
    refused(ledger.BeforeOpening, bonus_card, 100, occurred_at=cards.OPENED - timedelta(seconds=1))


def test_a_foreign_card_is_not_found(bonus_card):
    stranger = cards.merchant()
    refused(ledger.CardNotFound, bonus_card, 100, merchant_id=stranger.pk)
    refused(ledger.CardNotFound, bonus_card, 100, card_id=stranger.pk)


def test_a_reference_is_used_once_for_ever(bonus_card):
    first = cards.paid(bonus_card, 100, reference="ORDER-B")
    assert refused(ledger.ReferenceUsed, bonus_card, 200, reference="ORDER-B").facts == {"detail": str(first.id)}
    other = cards.opened(bonus_card.program)
    refused(ledger.ReferenceUsed, other, 100, reference="ORDER-B")


def test_two_merchants_may_use_the_same_reference(bonus_card):
    other = cards.opened(cards.program(Kind.BONUS))
    cards.paid(bonus_card, 100, reference="ORDER-C")
    assert not cards.paid(other, 100, reference="ORDER-C").replayed


# The same request again


def test_the_same_key_and_request_give_the_first_answer_and_draw_once(bonus_card):
    asked = {"key": "k1", "fingerprint": "f1", "reference": "ORDER-D"}
    first = cards.paid(bonus_card, 45_000, **asked)
    cards.paid(bonus_card, 5_000)
    before = invariants.picture()
    again = cards.paid(bonus_card, 45_000, **asked)
    assert again == first._replace(replayed=True)
    assert invariants.picture() == before


def test_the_first_answer_is_given_even_when_the_card_is_frozen_meanwhile(bonus_card):
    asked = {"key": "k1", "fingerprint": "f1", "reference": "ORDER-E"}
    first = cards.paid(bonus_card, 45_000, **asked)
    bonus_card.move(Card.State.FROZEN)
    assert cards.paid(bonus_card, 45_000, **asked).id == first.id


def test_a_key_with_another_request_is_refused(bonus_card):
    cards.paid(bonus_card, 45_000, key="k1", fingerprint="f1")
    refused(ledger.IdempotencyKeyReused, bonus_card, 1, key="k1", fingerprint="f2")


def test_a_refused_request_does_not_burn_its_key(bonus_card):
    refused(ledger.InsufficientBalance, bonus_card, 999_999, key="k1", fingerprint="f1", reference="ORDER-F")
    assert not cards.paid(bonus_card, 100, key="k1", fingerprint="f2", reference="ORDER-F").replayed


def test_an_amount_beyond_any_is_a_refusal_and_not_an_accident(bonus_card):
    with transaction.atomic():
        refused(ledger.InsufficientBalance, bonus_card, 10**15)
