"""Points needed = coupons × ratio, rounded once on the total; codes that nobody guesses or misreads."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from points import codes
from points.calculation import points_needed, share


@pytest.mark.parametrize(
    ("count", "ratio", "rounding", "points"),
    [
        (3, "333.33", "CEIL", 1_000),
        (7, "12.5", "CEIL", 88),
        (1, "12.5", "CEIL", 13),
        (1, "12.5", "HALF_UP", 13),
        (1, "12.5", "FLOOR", 12),
        (3, "333.33", "FLOOR", 999),
        (2, "500", "CEIL", 1_000),
    ],
)
def test_points_are_rounded_once_on_the_total(count: int, ratio: str, rounding: str, points: int) -> None:
    assert points_needed(count, Decimal(ratio), rounding) == points


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(ValueError):
        points_needed(1, Decimal(1), "UP")


@given(st.integers(1, 10**9), st.integers(1, 200))
def test_the_coupons_of_an_exchange_carry_exactly_its_points(points: int, count: int) -> None:
    shares = [share(points, count, [ordinal]) for ordinal in range(1, count + 1)]
    assert sum(shares) == points
    assert max(shares) - min(shares) <= 1


def test_a_code_has_79_bits_and_no_look_alikes() -> None:
    assert len(codes.ALPHABET) ** (codes.LENGTH - 1) >= 2**79
    assert not set("0O1IL") & set(codes.ALPHABET)
    made = codes.new_codes(1_000)
    assert len(set(made)) == 1_000
    assert {len(code) for code in made} == {codes.LENGTH}
    # Every character turns up in every place: 1,000 codes miss one with a chance of 31 × (30/31)^1000.
    assert all(len({code[place] for code in made}) == 31 for place in range(codes.LENGTH))


def test_a_code_is_read_as_people_write_it() -> None:
    [code] = codes.new_codes(1)
    assert codes.read(codes.written(code).lower()) == code
    assert codes.read(f" {code[:5]} {code[5:]}") == code


@given(st.data())
def test_a_wrong_character_or_two_that_changed_places_are_no_code(data: st.DataObject) -> None:
    [code] = codes.new_codes(1)
    place = data.draw(st.integers(0, codes.LENGTH - 1))
    other = data.draw(st.sampled_from(sorted(set(codes.ALPHABET) - {code[place]})))
    assert codes.read(code[:place] + other + code[place + 1 :]) is None
    left = data.draw(st.integers(0, codes.LENGTH - 3))
    right = data.draw(st.integers(left + 1, codes.LENGTH - 2))
    swapped = list(code)
    swapped[left], swapped[right] = swapped[right], swapped[left]
    if code[left] != code[right]:
        assert codes.read("".join(swapped)) is None


@pytest.mark.parametrize("text", ["", "0" * 17, "２" * 17, "A" * 10_000, "\x00" * 17])
def test_what_cannot_be_a_code_is_none(text: str) -> None:
    assert codes.read(text) is None
