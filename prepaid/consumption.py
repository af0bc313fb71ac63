"""Dynamic consumption information (动态消费信息): what a card was paid, spent and left, as at any moment.

Computed from the append-only entries, so that the past can be asked for at any later time. A moment is compared with
when things occurred, not with when they were recorded.
"""

from collections import defaultdict
from datetime import datetime
from fractions import Fraction
from typing import NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Prefetch, Q, Sum

from config.money import half_up
from issuing.models import Unit
from issuing.orders import local_date
from prepaid import valuation
from prepaid.models import Card, Entry, Load, Transaction
from prepaid.valuation import Cause, LoadPosition, Valuation


class Consumption(NamedTuple):
    """Payment information and balance information of one card as at ``at``."""

    card: Card
    at: datetime
    transactions: list[Transaction]
    valuation: Valuation


def positions(card: Card, at: datetime, *, cause: Cause = Cause.OPERATOR) -> list[LoadPosition]:
    """The card's loads as they stood at ``at`` (everything that occurred up to it), oldest first."""
    loads = (
        Load.objects.filter(card=card, occurred_at__lte=at)
        .annotate(
            stood_at=Sum(
                "sub_cards__entries__amount", filter=Q(sub_cards__entries__transaction__occurred_at__lte=at), default=0
            )
        )
        .order_by("seq")
    )
    spent = _spent(card, at) if cause == Cause.CONSUMER else {}
    counts_days = card.unit == Unit.DAYS
    return [
        LoadPosition(
            load=str(load.seq),
            paid=load.paid,
            face=load.face,
            remaining=load.stood_at,
            starts_on=load.starts_on_date if counts_days else None,
            spent=half_up(spent.get(load.pk, Fraction())) if cause == Cause.CONSUMER else None,
        )
        for load in loads
    ]


def valuation_at(card: Card, at: datetime, *, cause: Cause = Cause.OPERATOR) -> Valuation:
    """Usable balance and refundable principal at a moment, with the calculation (法释〔2025〕4号, arts. 18–22)."""
    return valuation.value(positions(card, at, cause=cause), on_date=local_date(card.merchant, at), cause=cause)


class Present(NamedTuple):
    """``usable`` in the card's unit, ``refundable`` principal in fen."""

    usable: int
    refundable: int


def present(card: Card, now: datetime) -> Present:
    """What ``valuation_at`` says of this moment, from the balances alone: it costs the same after any history."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT ledger_usable(c, %(date)s), ledger_refundable(c.id, c.unit, %(date)s) FROM prepaid_card c"
            " WHERE c.id = %(card)s",
            {"card": card.pk, "date": local_date(card.merchant, now)},
        )
        return Present(*cursor.fetchone())


def consumption(card: Card, at: datetime) -> Consumption:
    """The card's transactions with their entries up to a moment, in the order they occurred, and its balance then."""
    transactions = list(
        Transaction.objects.filter(card=card, occurred_at__lte=at)
        .prefetch_related(Prefetch("entries", Entry.objects.select_related("sub_card").order_by("id")))
        .order_by("occurred_at", "id")
    )
    return Consumption(card, at, transactions, valuation_at(card, at))


def _spent(card: Card, at: datetime) -> dict[UUID, Fraction]:
    """What was used of each load at its price before any discount (art. 19), in fen, less what was given back.

    A payment that drew from two loads is shared between them by what it drew from each.
    """
    moving = (Transaction.Kind.PAYMENT, Transaction.Kind.REFUND, Transaction.Kind.REVERSAL)
    rows = Entry.objects.filter(card=card, transaction__kind__in=moving, transaction__occurred_at__lte=at).values_list(
        "sub_card__load", "amount", "transaction__amount", "transaction__list_amount"
    )
    spent: dict[UUID, Fraction] = defaultdict(Fraction)
    for load_id, amount, whole, list_amount in rows:
        price = abs(whole) * (card.program.single_use_price or 0) if list_amount is None else list_amount
        # Payments have amounts below zero, what gives them back above.
        spent[load_id] -= Fraction(price * amount, abs(whole))
    return spent
