"""Money is an integer number of fen. This is the only module that rounds, parses or formats it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

from django.utils.translation import gettext_lazy as _

from config.errors import Refused

MOST_FEN = 10**15

_YUAN = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]{1,2}))?")
# Longer than any amount within MOST_FEN: refused unread, so absurd digits cost nothing.
_MOST_DIGITS = 14


class AmountNotReadable(Refused):
    status = 400
    text = _("“%(text)s” is not an amount: write digits with at most two decimals, like 12345.67.")


class AmountNotPositive(Refused):
    status = 400
    text = _("The amount must be more than zero.")
    remedy = _("Send a whole number of fen above zero.")


class AmountTooLarge(Refused):
    status = 400
    text = _("The amount is larger than any that is accepted.")
    remedy = _("Send the amount in fen, within what is accepted.")


def half_up(value: int | Decimal | Fraction, denominator: int = 1) -> int:
    """Round ``value / denominator`` to a whole number, exactly; halves go away from zero.

    Away from zero, so that a figure and its reversal cancel, and so that PostgreSQL's ``round(numeric)``
    gives the same.

    :raises TypeError: for a float, whose value is not what was written.
    """
    if isinstance(value, float):
        raise TypeError("a float is never money")
    numerator, own = value.as_integer_ratio()
    denominator *= own
    if numerator < 0:
        return -((-2 * numerator + denominator) // (2 * denominator))
    return (2 * numerator + denominator) // (2 * denominator)


def largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """Share ``total`` in proportion to ``weights``; the shares sum to it exactly.

    Every share is its exact proportion rounded down or up; the units left over go to the largest
    remainders, ties to the earlier part.

    :raises ValueError: when there is something to share and no weight to share it by.
    """
    whole = sum(weights)
    if not whole:
        if total:
            raise ValueError("nothing to share by")
        return [0] * len(weights)
    shares = []
    rests = []
    left = total
    for weight in weights:
        share, rest = divmod(total * weight, whole)
        shares.append(share)
        rests.append(rest)
        left -= share
    if left == 1:
        shares[rests.index(max(rests))] += 1
    elif left:
        # A reversed sort is still stable: among equals the earlier part comes first.
        for part in sorted(range(len(rests)), key=rests.__getitem__, reverse=True)[:left]:
            shares[part] += 1
    return shares


def parse_yuan(text: str) -> int:
    """Fen from an amount in yuan as a file or a form writes it: ``12345.67``.

    Strict: ASCII digits and at most two decimals; no sign, blank, exponent, separator, leading zero or
    digit of another script.

    :raises AmountNotReadable: for anything else.
    :raises AmountNotPositive: for nothing.
    :raises AmountTooLarge: above ``MOST_FEN``.
    """
    match = _YUAN.fullmatch(text)
    if match is None:
        raise AmountNotReadable(text=text[:40])
    yuan, decimals = match.groups()
    if len(yuan) > _MOST_DIGITS:
        raise AmountTooLarge()
    fen = int(yuan) * 100 + int((decimals or "").ljust(2, "0"))
    if fen == 0:
        raise AmountNotPositive()
    if fen > MOST_FEN:
        raise AmountTooLarge()
    return fen


def format_yuan(fen: int) -> str:
    """``1234567`` as ``¥12,345.67``; a minus sign stands before the currency."""
    yuan, rest = divmod(abs(fen), 100)
    return f"{'-' if fen < 0 else ''}¥{yuan:,}.{rest:02d}"
