"""Card numbers: ISO/IEC 7812-1, found by hash, shown from the seal, keys in rotation."""

import base64
from collections import Counter

import pytest
from cryptography.exceptions import InvalidTag
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from issuing import numbering

OLD_KEY = base64.b64encode(b"o" * 32).decode()
NEW_KEY = base64.b64encode(b"n" * 32).decode()


@pytest.fixture(autouse=True)
def keys(settings):
    settings.CARD_NUMBER_KEYS = [OLD_KEY]


def luhn_sum(number: str) -> int:
    """ISO/IEC 7812-1 annex B as it is written: every second digit from the right is doubled."""
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total


def test_a_number_has_19_digits_industry_9_country_156_and_a_check_digit():
    number = numbering.new_number()
    assert len(number) == 19
    assert number.startswith("9156")
    assert luhn_sum(number) % 10 == 0
    assert numbering.is_valid(number)


def test_a_batch_has_no_number_twice_and_all_are_valid():
    numbers = numbering.new_numbers(20_000)
    assert len(set(numbers)) == 20_000
    assert all(luhn_sum(number) % 10 == 0 for number in numbers[:2_000])
    assert all(map(numbering.is_valid, numbers))
    assert numbering.new_numbers(0) == []


def test_every_first_random_digit_is_as_likely_as_another():
    seen = Counter(number[4] for number in numbering.new_numbers(20_000))
    assert len(seen) == 10
    assert all(1_700 < count < 2_300 for count in seen.values())


@given(st.integers(0, 18), st.integers(1, 9))
def test_one_wrong_digit_is_noticed(place, off):
    number = numbering.new_number()
    wrong = (int(number[place]) + off) % 10
    assert not numbering.is_valid(f"{number[:place]}{wrong}{number[place + 1 :]}")


@pytest.mark.parametrize(
    "number",
    [
        "", "9156", "9" * 19, "0" * 19, " 915600000000000000", "915600000000000000 ", "9156" + "0" * 14 + "x",
        "9156" + "0" * 16, "９１５６" + "0" * 15, "9156" + "٠" * 15, "9156" + "²" * 15,
        "9156000000000000\x000", "-915600000000000000", "9156_00000000000000", "4111111111111111",
    ],
)  # fmt: skip
def test_what_is_not_a_number_of_ours_is_not_valid(number):
    assert not numbering.is_valid(number)


def test_the_hash_is_32_hex_digits_the_same_each_time_and_depends_on_the_key(settings):
    number = numbering.new_number()
    first = numbering.hash_number(number)
    assert len(first) == 32
    assert set(first) <= set("0123456789abcdef")
    assert numbering.hash_number(number) == first
    settings.CARD_NUMBER_KEYS = [NEW_KEY]
    assert numbering.hash_number(number) != first


def test_a_sealed_number_reads_back_and_never_looks_the_same_twice():
    number = numbering.new_number()
    sealed = numbering.seal(number)
    assert numbering.unseal(sealed) == number
    assert numbering.unseal(memoryview(sealed)) == number
    assert numbering.seal(number) != sealed
    assert number.encode() not in sealed


def test_a_batch_is_sealed_with_a_nonce_of_its_own_for_every_number():
    numbers = numbering.new_numbers(100)
    sealed = numbering.seal_all(numbers)
    assert [numbering.unseal(one) for one in sealed] == numbers
    assert len({one[1:13] for one in sealed}) == 100


def test_a_tampered_seal_is_noticed():
    sealed = bytearray(numbering.seal(numbering.new_number()))
    sealed[20] ^= 1
    with pytest.raises(InvalidTag):
        numbering.unseal(bytes(sealed))


def test_a_new_key_in_front_signs_and_the_old_one_still_reads(settings):
    number = numbering.new_number()
    old_hash, old_seal = numbering.hash_number(number), numbering.seal(number)
    settings.CARD_NUMBER_KEYS = [NEW_KEY, OLD_KEY]
    assert numbering.hashes(number) == [numbering.hash_number(number), old_hash]
    assert numbering.hash_number(number) != old_hash
    assert numbering.unseal(old_seal) == number
    settings.CARD_NUMBER_KEYS = [NEW_KEY]
    with pytest.raises(ImproperlyConfigured):
        numbering.unseal(old_seal)


@pytest.mark.parametrize("keys", [[], [OLD_KEY, OLD_KEY], [base64.b64encode(b"short").decode()]])
def test_keys_that_cannot_work_are_refused_at_first_use(settings, keys):
    settings.CARD_NUMBER_KEYS = keys
    with pytest.raises(ImproperlyConfigured):
        numbering.hash_number("9156")


def test_only_the_last_four_digits_are_shown():
    assert numbering.masked("9156000000000004158") == "•••• 4158"
