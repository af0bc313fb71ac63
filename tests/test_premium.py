"""Premium: per card, by days, rounded once, and given back by days not run."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insurance import premium

RATE = Decimal("0.012")


def test_12345_67_for_180_days_at_1_2_percent_cost_73_06():
    assert premium.premium(1_234_567, annual_rate=RATE, days=180) == 7_306


def test_a_premium_is_never_below_the_minimum():
    assert premium.premium(100, annual_rate=RATE, days=1) == 0
    assert premium.premium(100, annual_rate=RATE, days=1, minimum=50) == 50
    assert premium.premium(1_234_567, annual_rate=RATE, days=180, minimum=50) == 7_306


def test_one_rounding_for_the_card_not_one_for_each_sub_card():
    parts = [100_000] * 12 + [34_567]
    apart = sum(premium.premium(part, annual_rate=RATE, days=180) for part in parts)
    assert apart == 7_309
    assert premium.premium(sum(parts), annual_rate=RATE, days=180) == 7_306


@pytest.mark.parametrize(
    ("days_run", "returned"), [(0, 7_306), (90, 3_653), (60, 4_871), (180, 0), (200, 0), (-5, 7_306)]
)
def test_a_cancelled_card_gets_back_the_premium_of_the_days_not_run(days_run, returned):
    assert premium.unearned(7_306, days=180, days_run=days_run) == returned


def test_the_daily_balance_is_summed_before_it_is_rounded():
    assert premium.daily_balance_premium(1_234_567 * 180, annual_rate=RATE) == 7_306
    assert premium.daily_balance_premium(100_000 * 90 + 62_500 * 90, annual_rate=RATE) == 481
    assert premium.daily_balance_premium(0, annual_rate=RATE) == 0
    assert premium.daily_balance_premium(0, annual_rate=RATE, minimum=50) == 50


sums = st.integers(0, 10**12)
rates = st.decimals(0, 1, places=6)
terms = st.integers(1, 3660)


@given(sums, rates, terms, st.integers(0, 10**9), st.integers(0, 1000))
def test_more_money_or_more_days_never_cost_less(insured, rate, days, more, longer):
    cost = premium.premium(insured, annual_rate=rate, days=days)
    assert premium.premium(insured + more, annual_rate=rate, days=days) >= cost
    assert premium.premium(insured, annual_rate=rate, days=days + longer) >= cost


@given(sums, rates, terms)
def test_an_unspent_card_costs_the_same_on_either_basis(insured, rate, days):
    assert premium.daily_balance_premium(insured * days, annual_rate=rate) == premium.premium(
        insured, annual_rate=rate, days=days
    )


@given(st.integers(0, 10**9), terms, st.integers(0, 4000))
def test_never_more_is_given_back_than_was_paid_and_every_day_lowers_it(paid, days, run):
    returned = premium.unearned(paid, days=days, days_run=run)
    assert 0 <= premium.unearned(paid, days=days, days_run=run + 1) <= returned <= paid
