"""Interest on principal owed back (法释〔2025〕4号, art. 16): simple, actual/365, rates from a dated table.

The operator's cause takes the one-year loan prime rate (LPR), the consumer's the central bank's one-year
deposit benchmark, each as it stood on the date of the contract. Interest is never insured.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from fractions import Fraction

from config.money import half_up


def rate_on(rates: Iterable[tuple[date, Decimal]], contract_date: date) -> Decimal:
    """The annual rate in force on a date, from pairs of (first day in force, rate) in any order.

    :raises LookupError: the table does not reach back that far.
    """
    in_force = [row for row in rates if row[0] <= contract_date]
    if not in_force:
        raise LookupError(f"no rate is known for {contract_date}")
    return max(in_force)[1]


def interest(principal: int, *, annual_rate: Decimal, from_date: date, to_date: date, year_days: int = 365) -> int:
    """Simple interest in fen on ``principal`` fen, from ``from_date`` up to but without ``to_date``, half-up.

    ``year_days`` is a parameter; nothing is owed when ``to_date`` is not later.
    """
    days = max(0, (to_date - from_date).days)
    return half_up(principal * days * Fraction(annual_rate), year_days)
