"""Money: fen, rounded in one place, shared out to the cent."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import money
from config.errors import NotFound, Refused


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (Fraction(1, 2), 1),
        (Fraction(1, 3), 0),
        (Fraction(5, 2), 3),
        (Fraction(-1, 2), -1),
        (Fraction(-1, 3), 0),
        (Decimal("2.5"), 3),
        (Decimal("2.4999999999999999999"), 2),
        (7, 7),
        (0, 0),
    ],
)
def test_halves_are_rounded_up_and_away_from_zero(value, rounded):
    assert money.half_up(value) == rounded


def test_numerator_and_denominator_are_divided_exactly():
    assert money.half_up(100_000 * 7, 12) == 58_333
    assert money.half_up(Decimal("0.5"), 2) == 0
    assert money.half_up(10**40 + 1, 2) == 5 * 10**39 + 1


def test_a_float_is_never_money():
    with pytest.raises(TypeError):
        money.half_up(0.5)


@given(st.integers(-(10**18), 10**18), st.integers(1, 10**9))
def test_rounding_is_never_off_by_more_than_half_and_is_symmetric(numerator, denominator):
    rounded = money.half_up(numerator, denominator)
    assert abs(rounded - Fraction(numerator, denominator)) <= Fraction(1, 2)
    assert money.half_up(-numerator, denominator) == -rounded


def test_a_tie_goes_to_the_earlier_part():
    assert money.largest_remainder(1, [1, 1]) == [1, 0]
    assert money.largest_remainder(2, [1, 1, 1]) == [1, 1, 0]
    assert money.largest_remainder(100, [1, 1, 1]) == [34, 33, 33]


def test_the_larger_remainder_comes_before_the_earlier_part():
    assert money.largest_remainder(1, [1, 2]) == [0, 1]


def test_nothing_can_be_shared_by_nothing():
    assert money.largest_remainder(0, [0, 0]) == [0, 0]
    assert money.largest_remainder(0, []) == []
    with pytest.raises(ValueError):
        money.largest_remainder(1, [0, 0])


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**12), min_size=1, max_size=40).filter(any))
def test_shares_sum_exactly_and_each_is_its_proportion_rounded_down_or_up(total, weights):
    shares = money.largest_remainder(total, weights)
    assert sum(shares) == total
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    assert all(abs(share - due) < 1 for share, due in zip(shares, exact, strict=True))


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), min_size=2, max_size=20).filter(any))
def test_units_left_over_go_to_the_largest_remainders_ties_to_the_earlier(total, weights):
    whole = sum(weights)
    shares = money.largest_remainder(total, weights)
    rests = [total * weight % whole for weight in weights]
    raised = [share - total * weight // whole for share, weight in zip(shares, weights, strict=True)]
    order = sorted(range(len(weights)), key=lambda part: (-rests[part], part))
    assert [raised[part] for part in order] == sorted(raised, reverse=True)


@pytest.mark.parametrize(
    ("text", "fen"),
    [
        ("12345.67", 1_234_567),
        ("0.01", 1),
        ("0.5", 50),
        ("1", 100),
        ("1.0", 100),
        ("10000000000000", 10**15),
        ("10000000000000.00", 10**15),
    ],
)
def test_an_amount_in_yuan_is_read_to_the_fen(text, fen):
    assert money.parse_yuan(text) == fen


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "NaN", "nan", "Infinity", "1e3", "1e400", "1E2", "-1", "+1", "1,000", "1,000.00", "0.001",
        "1.", ".5", " 1", "1 ", "1\n", "١٢", "１２３", "12.３４", "1_000", "0x10", "1.2.3", "¥5", "=1+1",
        "一百", "007", "00.50", "1\x00", "1/2", "²",
    ],
)  # fmt: skip
def test_what_is_not_an_amount_is_refused(text):
    with pytest.raises(money.AmountNotReadable):
        money.parse_yuan(text)


@pytest.mark.parametrize("text", ["0", "0.0", "0.00"])
def test_nothing_is_not_an_amount(text):
    with pytest.raises(money.AmountNotPositive):
        money.parse_yuan(text)


@pytest.mark.parametrize("text", ["10000000000000.01", "99999999999999.99", "9" * 15, "9" * 10_000])
def test_an_absurd_amount_is_refused(text):
    with pytest.raises(money.AmountTooLarge):
        money.parse_yuan(text)


@pytest.mark.parametrize(
    ("fen", "shown"),
    [
        (1_234_567, "¥12,345.67"),
        (0, "¥0.00"),
        (1, "¥0.01"),
        (100, "¥1.00"),
        (-1_234_567, "-¥12,345.67"),
        (-1, "-¥0.01"),
    ],
)
def test_money_is_shown_in_yuan(fen, shown):
    assert money.format_yuan(fen) == shown


@given(st.integers(1, money.MOST_FEN))
def test_what_is_shown_reads_back(fen):
    assert money.parse_yuan(money.format_yuan(fen).removeprefix("¥").replace(",", "")) == fen


def test_a_refusal_tells_its_name_its_status_and_its_facts():
    with pytest.raises(Refused) as caught:
        money.parse_yuan("1e3")
    assert caught.value.code == "AmountNotReadable"
    assert caught.value.status == 400
    assert "“1e3”" in str(caught.value)
    assert (NotFound.code, NotFound.status) == ("NotFound", 404)
    assert NotFound(pointer="/card").pointer == "/card"
