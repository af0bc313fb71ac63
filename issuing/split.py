"""How a prepaid amount becomes sub-cards (the patent's processing module, CN111882316A).

Pure arithmetic in fen, uses and days. Identity, cash and per-consumer caps are tested on the order's total
before anything here is asked: splitting is never a way around them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from config.money import largest_remainder

MOST = 32_767
"""Sub-cards of one card: their numbers are small integers in the database."""


class TooManySubCards(Refused):
    status = 422
    text = _("The amount would need %(needed)s sub-cards; at most %(most)s are allowed.")
    remedy = _("Split the amount over several cards.")


class SubCardPlan(NamedTuple):
    """One sub-card to make: its share of the principal in fen, and of what the load buys."""

    paid: int
    face: int


def split(amount: int, limit: int) -> list[int]:
    """``floor(amount / limit)`` parts of ``limit`` and one of the remainder, if there is one.

    The parts sum to ``amount``, none is above ``limit``, and there are as few as possible.
    """
    full, rest = divmod(amount, limit)
    parts = [limit] * full
    if rest:
        parts.append(rest)
    return parts


def gift(tiers: Iterable[tuple[int, int]], amount: int) -> int:
    """The gift of the highest tier that ``amount`` reaches; ``tiers`` are pairs of (from amount, gift).

    Nothing below the lowest tier. Reaching is inclusive, and a higher tier counts even if it gives less.
    """
    return max(((start, given) for start, given in tiers if start <= amount), default=(0, 0))[1]


def plan(
    *,
    amount: int,
    limit: int,
    gift: int = 0,
    units: int | None = None,
    limit_on_face: bool = False,
    most: int | None = None,
) -> list[SubCardPlan]:
    """The sub-cards of one load of ``amount`` fen, in their order.

    A money card (BONUS, DISCOUNT) buys ``amount + gift`` fen; a TIMES or ENTITLEMENT card buys ``units`` uses
    or days. The limit is tested on principal; with ``limit_on_face`` (the cautious reading) what a money
    sub-card can buy stays within it too. What is not split by the limit follows by largest remainder, so
    that both columns sum exactly. A part may therefore be 0: two uses on three sub-cards, or a single fen
    of face on the last.

    :raises TooManySubCards: more than ``most``, or more than any card can have, would be needed.
    """
    on_face = limit_on_face and units is None
    needed = -(-(amount + gift if on_face else amount) // limit)
    most = MOST if most is None else min(most, MOST)
    # Before the lists are made, so that an absurd amount costs nothing.
    if needed > most:
        raise TooManySubCards(needed=needed, most=most)
    if on_face:
        face = split(amount + gift, limit)
        paid = largest_remainder(amount, face)
    else:
        paid = split(amount, limit)
        if units is not None:
            face = largest_remainder(units, paid)
        elif gift:
            face = [own + given for own, given in zip(paid, largest_remainder(gift, paid), strict=True)]
        else:
            face = paid
    return list(map(SubCardPlan, paid, face))
