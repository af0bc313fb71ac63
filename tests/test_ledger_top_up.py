"""Topping up: a new load with its own principal, gift and sub-cards; nothing is added to one that is there."""

from datetime import date, timedelta

import pytest

from issuing.models import Kind
from prepaid import ledger
from prepaid.models import Card, Load
from tests import cards, invariants

pytestmark = pytest.mark.django_db


@pytest.fixture
def card() -> Card:
    return cards.opened(cards.program(Kind.BONUS, card_limit=100_000), 150_000, gift=30_000)


def refused(refusal, *arguments, **facts):
    before = invariants.picture()
    with pytest.raises(refusal) as caught:
        cards.topped_up(*arguments, **facts)
    assert invariants.picture() == before
    return caught.value


def test_a_top_up_brings_its_own_sub_cards_numbered_on(card):
    assert cards.balances(card) == [120_000, 60_000]
    posted = cards.topped_up(card, 120_000, gift=12_000)
    assert cards.balances(card) == [120_000, 60_000, 110_000, 22_000]
    assert posted.entries == [(3, 110_000, 110_000), (4, 22_000, 22_000)]
    assert (posted.kind, posted.amount, posted.principal, posted.gift) == ("TOP_UP", 132_000, 120_000, 12_000)
    assert (posted.usable_after, posted.refundable_after) == (312_000, 270_000)
    load = card.loads.get(kind=Load.Kind.TOP_UP)
    assert (load.seq, load.paid, load.bonus, load.face, load.remaining) == (2, 120_000, 12_000, 132_000, 132_000)
    invariants.hold()


def test_each_load_owes_by_its_own_terms_and_the_card_is_rounded_once(card):
    cards.paid(card, 100_000)
    posted = cards.topped_up(card, 50_000)
    assert posted.refundable_after == 116_667
    assert posted.usable_after == 130_000
    invariants.hold()


def test_a_spent_card_can_be_topped_up(card):
    cards.paid(card, 180_000)
    posted = cards.topped_up(card, 50_000)
    assert (posted.usable_after, posted.refundable_after) == (50_000, 50_000)
    assert cards.balances(card) == [0, 0, 50_000]


def test_uses_add_up():
    card = cards.opened(cards.program(Kind.TIMES))
    cards.paid(card, uses=5)
    posted = cards.topped_up(card, 100_000)
    assert (posted.usable_after, posted.refundable_after) == (19, 158_333)


def test_a_second_term_follows_on_the_first():
    card = cards.opened(cards.program(Kind.ENTITLEMENT), 99_900)
    posted = cards.topped_up(card, 99_900)
    assert card.loads.get(seq=2).starts_on_date == date(2027, 1, 1)
    assert (posted.usable_after, posted.refundable_after) == (231 + 365, 63_224 + 99_900)
    cards.paid(card, 100, at=cards.day(400))
    invariants.hold()


def test_a_term_that_is_over_is_followed_by_one_that_starts_at_once():
    card = cards.opened(cards.program(Kind.ENTITLEMENT), 99_900)
    later = cards.day(500)
    posted = cards.topped_up(card, 99_900, at=later)
    assert card.loads.get(seq=2).starts_on_date == cards.local_date(later)
    assert (posted.usable_after, posted.refundable_after) == (365, 99_900)


@pytest.mark.parametrize("state", [Card.State.FROZEN, Card.State.LOST])
def test_a_card_that_is_not_active_takes_no_money(card, state):
    card.move(state)
    refused(ledger.CardNotActive, card, 50_000)


def test_an_expired_card_takes_no_money():
    card = cards.opened(cards.program(Kind.BONUS), expires_on=date(2026, 5, 14))
    refused(ledger.CardExpired, card, 50_000)


def test_no_load_is_older_than_its_card(card):
    refused(ledger.BeforeOpening, card, 50_000, occurred_at=cards.OPENED - timedelta(seconds=1))


def test_a_card_has_no_more_sub_cards_than_can_be_numbered():
    card = cards.opened(cards.program(Kind.BONUS, card_limit=1), 32_766)
    assert cards.topped_up(card, 1).entries[0].sub_card == 32_767
    refused(ledger.CardFull, card, 1)


def test_a_foreign_card_is_not_found(card):
    refused(ledger.CardNotFound, card, 50_000, merchant_id=cards.merchant().pk)


def test_the_same_request_again_gives_the_first_answer(card):
    asked = {"key": "k1", "fingerprint": "f1", "reference": "TOP-A"}
    first = cards.topped_up(card, 50_000, **asked)
    before = invariants.picture()
    assert cards.topped_up(card, 50_000, **asked) == first._replace(replayed=True)
    assert invariants.picture() == before
    refused(ledger.IdempotencyKeyReused, card, 60_000, **{**asked, "fingerprint": "f2"})
    refused(ledger.ReferenceUsed, card, 50_000, reference="TOP-A")


def test_a_load_of_later_is_not_drawn_before_one_of_earlier(card):
    cards.topped_up(card, 50_000, at=cards.NOW + timedelta(days=1))
    assert [entry.sub_card for entry in cards.paid(card, 200_000, at=cards.NOW + timedelta(days=2)).entries] == [
        1,
        2,
        3,
    ]
