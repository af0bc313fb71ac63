"""Coupon codes: 16 random characters of an alphabet without look-alikes, and a check character. Pure but for the keys.

31 characters (no 0, O, 1, I, L), so 31¹⁶ codes: 79.2 bits. 31 is prime, so a sum with 16 different weights finds every
single wrong character and every two that changed places. The database holds a keyed hash to find a code by, and the
code sealed for its buyer, under the keys of ``COUPON_CODE_KEYS``.
"""

import os

from config.sealing import Vault

ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
LENGTH = 17
_BASE = len(ALPHABET)
_VALUE = {character: value for value, character in enumerate(ALPHABET)}
# Bytes from here on would make the first characters of the alphabet likelier than the last.
_FAIR = 256 - 256 % _BASE

VAULT = Vault("COUPON_CODE_KEYS", "coupon code")


def new_codes(count: int) -> list[str]:
    """``count`` new codes, no two alike, from the system's randomness."""
    codes: set[str] = set()
    while len(codes) < count:
        wanted = 16 * (count - len(codes))
        fair = [byte % _BASE for byte in os.urandom(wanted + wanted // 16 + 64) if byte < _FAIR]
        for start in range(0, min(len(fair) - 15, wanted), 16):
            values = fair[start : start + 16]
            codes.add("".join(ALPHABET[value] for value in values) + ALPHABET[_check(values)])
    return list(codes)[:count]


def read(text: str) -> str | None:
    """The code that somebody typed, in capitals and without blanks and hyphens; None if it cannot be one."""
    code = text.upper().replace("-", "").replace(" ", "")
    if len(code) != LENGTH or not all(character in _VALUE for character in code):
        return None
    values = [_VALUE[character] for character in code]
    return code if _check(values[:-1]) == values[-1] else None


def written(code: str) -> str:
    """How a code is shown to its buyer: in groups of four."""
    return "-".join(code[start : start + 4] for start in range(0, LENGTH, 4))


def _check(values: list[int]) -> int:
    return sum(weight * value for weight, value in enumerate(values, 1)) % _BASE
