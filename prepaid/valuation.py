"""The one balance of every kind of card.

    refundable principal = paid × remaining / face

an exact fraction for each load, summed over the card's loads and rounded half-up to the fen once per card.
This is what the law owes the holder of any of the four kinds whose operator is at fault
(法释〔2025〕4号, arts. 18 and 22). Pure: positions in, figures and their calculation out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import date, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Any, NamedTuple

from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from config.money import half_up

FORMULA = "valuation-1"


class Cause(StrEnum):
    """Who is at fault that the contract ends."""

    OPERATOR = "OPERATOR"
    CONSUMER = "CONSUMER"


class WithdrawalPeriodOver(Refused):
    text = _("The card could be withdrawn from until %(last_day)s.")


class AlreadyRedeemed(Refused):
    text = _("The card has been used and can no longer be withdrawn from.")


class LoadPosition(NamedTuple):
    """One load as it stood at the moment asked about.

    ``paid`` is principal in fen; ``face`` and ``remaining`` are in fen, uses or days. A load that counts
    days has ``starts_on``, its first day: its ``remaining`` is all T days, less what was taken off it, and
    the days that have passed are counted here. ``spent`` is needed for the consumer's cause only: what was
    used of this load at its price before any discount, in fen (list prices; uses × the price of one use).
    """

    load: str
    paid: int
    face: int
    remaining: int
    starts_on: date | None = None
    spent: int | None = None


class Line(NamedTuple):
    """How one load came to its figure; ``refundable`` is exact."""

    load: str
    paid: int
    face: int
    remaining: int
    spent: int | None
    refundable: Fraction


class Valuation(NamedTuple):
    """``usable`` in the card's unit; the money in fen, and ``used`` + ``refundable`` = ``paid``."""

    cause: Cause
    on_date: date
    usable: int
    paid: int
    used: int
    refundable: int
    lines: list[Line]

    def sheet(self) -> dict[str, Any]:
        """The calculation as plain data, complete enough to be done again by hand."""
        return {
            "formula": FORMULA,
            "cause": str(self.cause),
            "date": self.on_date.isoformat(),
            "loads": [line._asdict() | {"refundable": str(line.refundable)} for line in self.lines],
            "exact": str(sum((line.refundable for line in self.lines), Fraction())),
            "usable": self.usable,
            "paid": self.paid,
            "used": self.used,
            "refundable_principal": self.refundable,
        }


def served(starts_on: date, days: int, on_date: date) -> int:
    """Days of a term of ``days`` that have passed before ``on_date``, a local date of the merchant's.

    The first day is served when it is over: 134 from 1 January to 15 May.
    """
    return min(max((on_date - starts_on).days, 0), days)


def remaining(position: LoadPosition, on_date: date) -> int:
    """What is left of the face on that day. Days taken off a load are the last ones of its term."""
    if position.starts_on is None:
        return position.remaining
    return max(0, position.remaining - served(position.starts_on, position.face, on_date))


def value(positions: Iterable[LoadPosition], *, on_date: date, cause: Cause = Cause.OPERATOR) -> Valuation:
    """What is usable and what principal is owed back on the local date ``on_date``, with the calculation.

    When the consumer is at fault, what was used counts at its price before any discount (art. 19), never
    below zero (art. 20). This is done load by load: each load is a purchase with a gift or a price of its
    own, payments draw the oldest first, and what was overspent of one gift is not taken from the principal
    of a later purchase. The consumer at fault never gets more than the formula above, which also keeps
    what was paid out or compensated already from being owed again. A term counts by its days for
    both causes, and nothing is left after it.

    :raises ValueError: for the consumer's cause without ``spent``: unknown is not nothing.
    """
    usable = paid = 0
    exact = Fraction()
    lines = []
    for position in positions:
        left = remaining(position, on_date)
        due = Fraction(position.paid * left, position.face)
        if cause == Cause.CONSUMER and position.starts_on is None:
            if position.spent is None:
                raise ValueError("what was used at list price is not known")
            due = min(due, Fraction(max(0, position.paid - position.spent)))
        usable += left
        paid += position.paid
        exact += due
        lines.append(Line(position.load, position.paid, position.face, left, position.spent, due))
    refundable = half_up(exact)
    return Valuation(cause, on_date, usable, paid, paid - refundable, refundable, lines)


def last_withdrawal_date(
    paid_date: date,
    *,
    days: int = 7,
    holidays: Collection[date] = (),
    runs_over_holidays: bool = False,
) -> date:
    """The last day to withdraw on (art. 14): the day of payment is not counted.

    Whether a last day that is no working day moves to the next one is a parameter, and so are the days
    themselves: pass the ``holidays`` (weekends included) and ``runs_over_holidays``.
    """
    last = paid_date + timedelta(days=days)
    while runs_over_holidays and last in holidays:
        last += timedelta(days=1)
    return last


def withdrawal(
    positions: Collection[LoadPosition],
    *,
    paid_date: date,
    on_date: date,
    needs_unredeemed: bool,
    is_redeemed: bool,
    days: int = 7,
    holidays: Collection[date] = (),
    runs_over_holidays: bool = False,
) -> int:
    """Principal in fen that is given back on withdrawal within seven days of payment (art. 14): all of it.

    Where a used card may be withdrawn from, what was used is not given back: the principal is then that of
    the formula.

    :raises WithdrawalPeriodOver: the last day has passed.
    :raises AlreadyRedeemed: it was used, and the place asks that it was not (Beijing does).
    """
    last_day = last_withdrawal_date(paid_date, days=days, holidays=holidays, runs_over_holidays=runs_over_holidays)
    if on_date > last_day:
        raise WithdrawalPeriodOver(last_day=last_day.isoformat())
    if not is_redeemed:
        return sum(position.paid for position in positions)
    if needs_unredeemed:
        raise AlreadyRedeemed()
    return value(positions, on_date=on_date).refundable
