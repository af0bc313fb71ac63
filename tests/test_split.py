"""An amount becomes sub-cards: none above the limit, as few as possible, exact to the cent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuing import split

TIERS = [(100_000, 10_000), (500_000, 80_000), (1_000_000, 200_000)]


def test_an_amount_above_the_limit_becomes_full_sub_cards_and_one_of_what_is_left_over():
    assert split.split(1_234_567, 100_000) == [100_000] * 12 + [34_567]
    assert split.split(1_234_567, 500_000) == [500_000, 500_000, 234_567]
    assert split.split(100_001, 100_000) == [100_000, 1]


def test_the_limit_is_inclusive():
    assert split.split(500_000, 500_000) == [500_000]
    assert split.split(1_000_000, 500_000) == [500_000, 500_000]


def test_an_amount_below_the_limit_is_one_sub_card():
    assert split.split(1, 100_000) == [1]


def test_a_bonus_is_spread_in_proportion_to_principal():
    made = split.plan(amount=1_234_567, limit=100_000, gift=200_000)
    assert made == [(100_000, 116_200)] * 12 + [(34_567, 40_167)]
    assert made[12].face - made[12].paid == 5_600


def test_a_card_without_gift_buys_what_was_paid():
    assert split.plan(amount=1_234_567, limit=500_000) == [
        (500_000, 500_000),
        (500_000, 500_000),
        (234_567, 234_567),
    ]


def test_uses_are_spread_in_proportion_to_principal_and_a_tie_goes_to_the_earlier_sub_card():
    assert split.plan(amount=240_000, limit=100_000, units=12) == [(100_000, 5), (100_000, 5), (40_000, 2)]
    assert split.plan(amount=200_000, limit=100_000, units=5) == [(100_000, 3), (100_000, 2)]
    assert split.plan(amount=300_000, limit=100_000, units=2) == [(100_000, 1), (100_000, 1), (100_000, 0)]


def test_days_are_spread_like_uses():
    assert split.plan(amount=99_900, limit=500_000, units=365) == [(99_900, 365)]
    assert split.plan(amount=199_900, limit=100_000, units=365) == [(100_000, 183), (99_900, 182)]


def test_the_cautious_limit_counts_the_gift():
    made = split.plan(amount=100_000, limit=100_000, gift=20_000, limit_on_face=True)
    assert made == [(83_333, 100_000), (16_667, 20_000)]
    assert split.plan(amount=100_000, limit=100_000, gift=20_000) == [(100_000, 120_000)]


def test_the_cautious_limit_of_uses_is_tested_on_principal():
    assert split.plan(amount=240_000, limit=100_000, units=12, limit_on_face=True) == split.plan(
        amount=240_000, limit=100_000, units=12
    )


def test_more_sub_cards_than_allowed_are_refused_before_any_is_made():
    assert len(split.plan(amount=1_300_000, limit=100_000, most=13)) == 13
    with pytest.raises(split.TooManySubCards) as caught:
        split.plan(amount=1_300_001, limit=100_000, most=13)
    assert caught.value.facts == {"needed": 14, "most": 13}
    with pytest.raises(split.TooManySubCards):
        split.plan(amount=10**15, limit=1, most=1000)


def test_no_card_has_more_sub_cards_than_can_be_numbered():
    assert len(split.plan(amount=32_767, limit=1, most=10**6)) == 32_767
    with pytest.raises(split.TooManySubCards):
        split.plan(amount=32_768, limit=1, most=10**6)
    with pytest.raises(split.TooManySubCards):
        split.plan(amount=32_768, limit=1)


@pytest.mark.parametrize(
    ("amount", "given"),
    [
        (99_999, 0),
        (100_000, 10_000),
        (499_999, 10_000),
        (500_000, 80_000),
        (1_000_000, 200_000),
        (10**9, 200_000),
    ],
)
def test_the_gift_is_that_of_the_highest_tier_reached(amount, given):
    assert split.gift(TIERS, amount) == given
    assert split.gift(reversed(TIERS), amount) == given


def test_a_program_without_tiers_gives_nothing():
    assert split.gift([], 10**9) == 0


amounts = st.integers(1, 10**8)
limits = st.integers(10**5, 10**7)


@given(amounts, limits)
def test_parts_sum_to_the_amount_none_is_above_the_limit_and_there_are_as_few_as_possible(amount, limit):
    parts = split.split(amount, limit)
    assert sum(parts) == amount
    assert all(0 < part <= limit for part in parts)
    assert (len(parts) - 1) * limit < amount
    assert parts == sorted(parts, reverse=True)


@given(amounts, limits, st.integers(0, 10**8))
def test_principal_and_face_of_the_sub_cards_sum_exactly(amount, limit, gift):
    made = split.plan(amount=amount, limit=limit, gift=gift)
    assert sum(part.paid for part in made) == amount
    assert sum(part.face for part in made) == amount + gift
    assert all(0 < part.paid <= limit and part.face >= part.paid for part in made)


@given(amounts, limits, st.integers(0, 10**8))
def test_on_the_cautious_reading_no_face_is_above_the_limit(amount, limit, gift):
    made = split.plan(amount=amount, limit=limit, gift=gift, limit_on_face=True)
    assert sum(part.paid for part in made) == amount
    assert sum(part.face for part in made) == amount + gift
    assert all(0 <= part.paid <= part.face <= limit for part in made)
    assert len(made) == -(-(amount + gift) // limit)


@given(amounts, limits, st.integers(1, 10_000))
def test_uses_and_days_sum_exactly(amount, limit, units):
    made = split.plan(amount=amount, limit=limit, units=units)
    assert [part.paid for part in made] == split.split(amount, limit)
    assert sum(part.face for part in made) == units
    assert all(part.face >= 0 for part in made)
