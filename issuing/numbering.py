"""Card numbers: made, checked, and kept so that the database alone tells nobody one.

A number has 19 digits (ISO/IEC 7812-1): major industry 9, for national assignment, the country code 156,
14 random digits and a Luhn check digit. It is stored twice: as a keyed hash to find a card by, and sealed
to show it to its holder, under the keys of ``CARD_NUMBER_KEYS``.
"""

from __future__ import annotations

import os
import secrets

from config.sealing import Vault

DIGITS = 19
PREFIX = "9156"
_PREFIX = int(PREFIX)
_RANDOM = 10**14


def _luhn_table() -> bytes:
    """The Luhn sum of every group of four digits whose last one is doubled, modulo 10."""
    doubled = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    return bytes((doubled[n % 10] + n // 10 % 10 + doubled[n // 100 % 10] + n // 1000) % 10 for n in range(10_000))


# Groups instead of digits: a batch makes hundreds of thousands of numbers.
_LUHN = _luhn_table()


def _complete(middle: int) -> str:
    """The number around its 14 random digits."""
    total = (
        _LUHN[_PREFIX]
        + _LUHN[middle // 10**12]
        + _LUHN[middle // 10**8 % 10_000]
        + _LUHN[middle // 10**4 % 10_000]
        + _LUHN[middle % 10_000]
    )
    return f"{PREFIX}{middle:014d}{-total % 10}"


def new_number() -> str:
    """A new number from the system's randomness. That no card bears it yet is for the database to say."""
    return _complete(secrets.randbelow(_RANDOM))


def new_numbers(count: int) -> list[str]:
    """``count`` new numbers, no two alike, from few draws of the system's randomness."""
    middles: set[int] = set()
    while len(middles) < count:
        missing = count - len(middles)
        drawn = memoryview(os.urandom(8 * missing)).cast("Q")
        # 47 bits hit the range 7 times in 10; unlike a division, a second draw keeps every number as likely.
        middles.update(middle for bits in drawn if (middle := bits >> 17) < _RANDOM)
    return list(map(_complete, middles))


def is_valid(number: str) -> bool:
    """Whether this is the number of a card of ours, by its form: 19 ASCII digits, prefix and check digit."""
    return (
        len(number) == DIGITS
        and number.isascii()
        and number.isdigit()
        and number.startswith(PREFIX)
        and number == _complete(int(number[4:18]))
    )


def masked(number: str) -> str:
    """What may be shown: the last four digits."""
    return f"•••• {number[-4:]}"


_VAULT = Vault("CARD_NUMBER_KEYS", "card number")


def hash_number(number: str) -> str:
    """The 32 hex digits under which a new card is stored and found."""
    return _VAULT.hash(number)


def hashes(number: str) -> list[str]:
    """Every hash the number may be stored under, one for each key, newest first."""
    return _VAULT.hashes(number)


def seal(number: str) -> bytes:
    """The number encrypted, for those who may read it."""
    return seal_all([number])[0]


def seal_all(numbers: list[str]) -> list[bytes]:
    """Each number sealed; the nonces of a batch come from one draw."""
    return _VAULT.seal_all(numbers)


def unseal(sealed: bytes | memoryview) -> str:
    """The number again. Takes what the database gives.

    :raises ImproperlyConfigured: the key it was sealed with is no longer among CARD_NUMBER_KEYS.
    :raises cryptography.exceptions.InvalidTag: it is not what was sealed.
    """
    return _VAULT.unseal(sealed)
