"""Opening: a prepaid amount becomes one card of sub-cards, each with its opening entry."""

import pytest
from django.db import IntegrityError, transaction

from issuing.models import Kind
from prepaid import ledger
from prepaid.models import Card, Load, Transaction
from tests import cards, invariants

pytestmark = pytest.mark.django_db


def test_a_bonus_card_of_12345_67_has_13_sub_cards_of_16200_and_one_of_the_rest():
    program = cards.program(Kind.BONUS, card_limit=100_000)
    card = cards.opened(program, 1_234_567, gift=200_000)
    assert (card.unit, card.remaining, card.state) == ("MONEY", 1_434_567, Card.State.ACTIVE)
    assert cards.balances(card) == [116_200] * 12 + [40_167]
    assert list(card.sub_cards.order_by("seq").values_list("paid", flat=True)) == [100_000] * 12 + [34_567]
    invariants.hold()


def test_a_times_card_counts_uses_and_an_entitlement_days():
    times = cards.opened(cards.program(Kind.TIMES))
    entitlement = cards.opened(cards.program(Kind.ENTITLEMENT), 99_900)
    assert (times.unit, times.remaining) == ("USES", 12)
    assert (entitlement.unit, entitlement.remaining) == ("DAYS", 365)
    invariants.hold()


def test_the_purchase_is_the_first_transaction_with_one_entry_for_each_sub_card():
    card = cards.opened(cards.program(Kind.BONUS), 1_234_567, gift=200_000)
    purchase = card.transactions.get()
    assert (purchase.kind, purchase.amount, purchase.principal, purchase.gift) == (
        Transaction.Kind.PURCHASE, 1_434_567, 1_234_567, 200_000
    )  # fmt: skip
    assert (purchase.usable_after, purchase.refundable_after) == (1_434_567, 1_234_567)
    assert list(purchase.entries.order_by("id").values_list("sub_card__seq", "amount", "balance_after")) == [
        (1, 581_000, 581_000), (2, 581_000, 581_000), (3, 272_567, 272_567)
    ]  # fmt: skip
    assert purchase.pk == card.loads.get().pk


def test_thousands_are_opened_at_once_each_with_its_own():
    program = cards.program(Kind.BONUS, card_limit=100_000)
    openings = [cards.opening(program, 100_000 * size + size, gift=size) for size in range(1, 9)]
    ledger.open_cards(openings, now=cards.OPENED)
    for size, opening in enumerate(openings, 1):
        card = Card.objects.get(pk=opening.card_id)
        assert (card.remaining, card.loads.get().paid) == (100_001 * size + size, 100_001 * size)
        assert card.sub_cards.count() == size + 1
    invariants.hold()


def test_of_many_all_are_opened_or_none():
    program = cards.program(Kind.BONUS)
    taken = cards.opened(program).loads.get().reference
    before = invariants.picture()
    openings = [cards.opening(program, 100_000), cards.opening(program, 100_000, reference=taken)]
    made = invariants.picture()["prepaid_networkaccount"]
    with pytest.raises((ledger.ReferenceUsed, IntegrityError)), transaction.atomic():
        ledger.open_cards(openings, now=cards.NOW)
    assert invariants.picture() == before | {"prepaid_networkaccount": made}
    assert Load.objects.filter(reference=taken).count() == 1


def test_a_number_is_borne_by_one_card():
    program = cards.program(Kind.BONUS)
    card = cards.opened(program)
    with pytest.raises((ledger.ReferenceUsed, IntegrityError)), transaction.atomic():
        cards.opened(program, number_hash=card.number_hash)


def test_a_card_whose_program_waits_for_cover_says_so():
    assert cards.opened(cards.program(Kind.BONUS, spend_before_cover=False)).awaits_cover
    assert not cards.opened(cards.program(Kind.BONUS)).awaits_cover
