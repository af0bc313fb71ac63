"""One balance for every kind of card: 法释〔2025〕4号, arts. 14, 16, 18–20 and 22."""

import json
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepaid import interest, valuation
from prepaid.valuation import Cause, LoadPosition

TODAY = date(2026, 5, 15)


def owed(*positions: LoadPosition, on_date: date = TODAY, cause: Cause = Cause.OPERATOR) -> int:
    return valuation.value(positions, on_date=on_date, cause=cause).refundable


def bonus(*, spent: int, paid: int = 100_000, gift: int = 20_000) -> LoadPosition:
    return LoadPosition("lod", paid, paid + gift, paid + gift - spent, spent=spent)


def discount(*, charged: int, list_price: int, paid: int = 100_000) -> LoadPosition:
    return LoadPosition("lod", paid, paid, paid - charged, spent=list_price)


def times(*, used: int, use_price: int, paid: int = 100_000, uses: int = 12) -> LoadPosition:
    return LoadPosition("lod", paid, uses, uses - used, spent=used * use_price)


def entitlement(*, taken_off: int = 0) -> LoadPosition:
    return LoadPosition("lod", 99_900, 365, 365 - taken_off, starts_on=date(2026, 1, 1))


# The operator's cause


def test_a_bonus_card_owes_the_share_of_what_is_left_of_principal_and_gift():
    assert owed(bonus(spent=45_000)) == 62_500


def test_a_discount_card_owes_what_was_not_charged():
    assert owed(discount(charged=40_000, list_price=50_000)) == 60_000


def test_a_times_card_owes_the_share_of_the_uses_left():
    assert owed(times(used=5, use_price=10_000)) == 58_333


def test_an_entitlement_owes_the_days_not_served():
    assert valuation.served(date(2026, 1, 1), 365, TODAY) == 134
    result = valuation.value([entitlement()], on_date=TODAY)
    assert result.usable == 231
    assert result.refundable == 63_224


def test_the_day_of_purchase_is_served_when_it_is_over():
    assert owed(entitlement(), on_date=date(2026, 1, 1)) == 99_900
    assert owed(entitlement(), on_date=date(2025, 12, 31)) == 99_900
    assert owed(entitlement(), on_date=date(2026, 1, 2)) == 99_626
    assert owed(entitlement(), on_date=date(2026, 12, 31)) == 274
    assert owed(entitlement(), on_date=date(2027, 1, 1)) == 0
    assert owed(entitlement(), on_date=date(2030, 1, 1)) == 0


def test_days_that_were_compensated_are_not_owed_again_on_any_later_day():
    assert owed(entitlement(taken_off=231), on_date=TODAY) == 0
    assert owed(entitlement(taken_off=231), on_date=TODAY + timedelta(days=30)) == 0
    assert owed(entitlement(taken_off=365), on_date=date(2026, 1, 1)) == 0
    assert owed(entitlement(taken_off=31), on_date=TODAY) == 54_740


def test_a_card_is_rounded_once_over_all_its_loads():
    third = LoadPosition("lod", 100, 3, 1)
    assert owed(third) == 33
    assert owed(third, third) == 67
    assert owed(third, third, third) == 100


def test_used_part_and_refundable_principal_add_up_to_what_was_paid():
    result = valuation.value([times(used=5, use_price=10_000)], on_date=TODAY)
    assert (result.paid, result.used, result.refundable, result.usable) == (100_000, 41_667, 58_333, 7)


def test_a_card_without_loads_owes_nothing():
    assert owed() == 0


def test_the_calculation_can_be_done_again_by_hand():
    sheet = valuation.value([bonus(spent=45_000), bonus(spent=0)], on_date=TODAY).sheet()
    assert json.loads(json.dumps(sheet)) == sheet
    assert sheet["formula"] == "valuation-1"
    assert sheet["refundable_principal"] == 162_500
    assert sheet["loads"][0] == {
        "load": "lod", "paid": 100_000, "face": 120_000, "remaining": 75_000, "spent": 45_000,
        "refundable": "62500",
    }  # fmt: skip


# The consumer's cause


def test_a_consumer_at_fault_pays_for_what_was_used_at_its_price_before_any_discount():
    assert owed(bonus(spent=45_000), cause=Cause.CONSUMER) == 55_000
    assert owed(discount(charged=40_000, list_price=50_000), cause=Cause.CONSUMER) == 50_000
    assert owed(times(used=5, use_price=10_000), cause=Cause.CONSUMER) == 50_000
    assert owed(entitlement(), cause=Cause.CONSUMER) == 63_224
    assert owed(entitlement(), cause=Cause.CONSUMER, on_date=date(2027, 1, 1)) == 0


def test_a_consumer_at_fault_never_owes():
    assert owed(bonus(spent=110_000), cause=Cause.CONSUMER) == 0
    assert owed(discount(charged=96_000, list_price=120_000), cause=Cause.CONSUMER) == 0
    assert owed(times(used=11, use_price=10_000), cause=Cause.CONSUMER) == 0


def test_what_was_overspent_of_one_purchase_is_not_taken_from_a_later_one():
    assert owed(bonus(spent=120_000), bonus(spent=10_000), cause=Cause.CONSUMER) == 90_000


def test_a_consumer_at_fault_never_gets_more_than_one_who_is_not():
    cheap = times(used=5, use_price=1_000)
    assert owed(cheap, cause=Cause.CONSUMER) == owed(cheap) == 58_333
    compensated = LoadPosition("lod", 100_000, 120_000, 0, spent=0)
    assert owed(compensated, cause=Cause.CONSUMER) == 0


def test_unknown_use_is_not_no_use():
    with pytest.raises(ValueError):
        owed(LoadPosition("lod", 100_000, 120_000, 75_000), cause=Cause.CONSUMER)


# Withdrawal within seven days

PAID_ON = date(2026, 5, 1)


def withdraw(*, on_date: date, spent: int = 0, needs_unredeemed: bool = True, **parameters) -> int:
    return valuation.withdrawal(
        [bonus(spent=spent)],
        paid_date=PAID_ON,
        on_date=on_date,
        needs_unredeemed=needs_unredeemed,
        is_redeemed=spent > 0,
        **parameters,
    )


def test_within_seven_days_the_principal_is_given_back_in_full_and_the_day_of_payment_is_not_counted():
    assert withdraw(on_date=PAID_ON) == 100_000
    assert withdraw(on_date=date(2026, 5, 8)) == 100_000
    with pytest.raises(valuation.WithdrawalPeriodOver):
        withdraw(on_date=date(2026, 5, 9))


def test_a_used_card_can_be_withdrawn_from_where_the_place_allows_it():
    with pytest.raises(valuation.AlreadyRedeemed):
        withdraw(on_date=PAID_ON, spent=45_000)
    assert withdraw(on_date=PAID_ON, spent=45_000, needs_unredeemed=False) == 62_500


def test_a_last_day_that_is_a_holiday_moves_where_the_place_says_so():
    holidays = {date(2026, 5, 8), date(2026, 5, 9)}
    assert withdraw(on_date=date(2026, 5, 10), holidays=holidays, runs_over_holidays=True) == 100_000
    with pytest.raises(valuation.WithdrawalPeriodOver):
        withdraw(on_date=date(2026, 5, 11), holidays=holidays, runs_over_holidays=True)
    with pytest.raises(valuation.WithdrawalPeriodOver):
        withdraw(on_date=date(2026, 5, 10), holidays=holidays)


# Interest

LPR = [(date(2025, 5, 20), Decimal("0.0300")), (date(2024, 10, 21), Decimal("0.0310"))]


def test_the_rate_is_the_one_in_force_at_the_date_of_the_contract():
    assert interest.rate_on(LPR, date(2025, 5, 19)) == Decimal("0.0310")
    assert interest.rate_on(LPR, date(2025, 5, 20)) == Decimal("0.0300")
    with pytest.raises(LookupError):
        interest.rate_on(LPR, date(2020, 1, 1))


def test_interest_is_simple_and_counts_actual_days_of_365():
    def on(principal: int, from_date: date, to_date: date) -> int:
        return interest.interest(principal, annual_rate=Decimal("0.03"), from_date=from_date, to_date=to_date)

    assert on(62_500, date(2026, 1, 1), date(2027, 1, 1)) == 1_875
    assert on(62_500, date(2026, 1, 1), date(2026, 5, 15)) == 688
    assert on(62_500, date(2028, 1, 1), date(2029, 1, 1)) == 1_880
    assert on(62_500, date(2026, 1, 1), date(2026, 1, 1)) == 0
    assert on(62_500, date(2026, 1, 2), date(2026, 1, 1)) == 0


# For every card

faces = st.integers(1, 10**9)


@st.composite
def positions(draw: st.DrawFn) -> LoadPosition:
    paid = draw(st.integers(1, 10**9))
    face = draw(faces)
    starts_on = draw(st.none() | st.dates(date(2020, 1, 1), date(2030, 1, 1)))
    return LoadPosition("lod", paid, face, draw(st.integers(0, face)), starts_on, draw(st.integers(0, 2 * 10**9)))


@given(st.lists(positions(), max_size=5), st.sampled_from(Cause))
def test_used_and_refundable_always_add_up_and_neither_is_negative(loads, cause):
    result = valuation.value(loads, on_date=TODAY, cause=cause)
    assert result.used + result.refundable == result.paid == sum(load.paid for load in loads)
    assert result.used >= 0
    assert result.refundable >= 0
    assert result.usable >= 0


@given(st.lists(positions(), max_size=5))
def test_the_card_is_within_half_a_fen_of_the_exact_sum(loads):
    result = valuation.value(loads, on_date=TODAY)
    exact = sum((Fraction(load.paid * valuation.remaining(load, TODAY), load.face) for load in loads), Fraction())
    assert abs(result.refundable - exact) <= Fraction(1, 2)


@given(st.lists(positions(), max_size=5))
def test_the_consumers_fault_never_pays(loads):
    assert owed(*loads, cause=Cause.CONSUMER) <= owed(*loads)


@given(positions(), st.integers(0, 10**9))
def test_spending_never_raises_what_is_owed(load, drawn):
    less = load._replace(remaining=max(0, load.remaining - drawn), spent=load.spent + drawn)
    assert owed(less) <= owed(load)
    assert owed(less, cause=Cause.CONSUMER) <= owed(load, cause=Cause.CONSUMER)


@given(st.lists(positions(), max_size=5), st.integers(0, 4000))
def test_passing_days_never_raise_what_is_owed(loads, days):
    assert owed(*loads, on_date=TODAY + timedelta(days=days)) <= owed(*loads)
