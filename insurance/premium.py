"""What cover costs (单用途商业预付卡履约保证保险).

Pure arithmetic: rates are Decimals per year, sums in fen.
"""

from __future__ import annotations

from decimal import Decimal

from config.money import half_up

YEAR_DAYS = 365


def premium(sum_insured: int, *, annual_rate: Decimal, days: int, minimum: int = 0) -> int:
    """Premium of one card: sum insured × annual rate × days / 365, half-up once, at least ``minimum``.

    Basis INITIAL: the money paid, for the whole term; an endorsement is charged the same way on what it
    adds for the days that are left, without a minimum of its own.
    """
    numerator, denominator = annual_rate.as_integer_ratio()
    return max(minimum, half_up(sum_insured * days * numerator, YEAR_DAYS * denominator))


def daily_balance_premium(balance_days: int, *, annual_rate: Decimal, minimum: int = 0) -> int:
    """Premium of one card on basis DAILY_BALANCE, known when cover is over: each day's refundable principal, summed
    over the days (``balance_days``) × annual rate / 365, half-up once, at least ``minimum``.
    """
    numerator, denominator = annual_rate.as_integer_ratio()
    return max(minimum, half_up(balance_days * numerator, YEAR_DAYS * denominator))


def unearned(premium: int, *, days: int, days_run: int) -> int:
    """Premium given back on cancellation: the share of the days of cover not run, half-up.

    All of it before the first day, nothing after the last.
    """
    not_run = min(max(days - days_run, 0), days)
    return half_up(premium * not_run, days)
