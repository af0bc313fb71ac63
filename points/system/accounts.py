"""What the points system's own staff do: bring accounts in, freeze them, add points and take points off."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple

from django.db import router, transaction
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from points.system.models import Account, Lot, Movement

MOST_POINTS = 10**12


class PointsNotPositive(Refused):
    status = 400
    text = _("The number of points must be more than zero.")


class AlreadyExpired(Refused):
    status = 400
    text = _("Points that have expired cannot be added.")


class ReasonNeeded(Refused):
    status = 400
    text = _("Say why.")


class NotThatMany(Refused):
    text = _("Only %(remaining)s points remain of this lot.")


class Imported(NamedTuple):
    """What a file of accounts brought: how much is new, and where a row named an account's customer otherwise."""

    accounts: int
    lots: int
    other_names: Sequence[str]


def bring_in(path: Path, *, now: datetime) -> Imported:
    """Open the accounts of a CSV file (account, customer, lot_points, lot_expires; one row for each lot).

    An account that is there already is left as it is, so the same file can be brought in again. Where rows of an
    account name several customers the first one counts.

    :raises ValueError: for a row that cannot be read; nothing is brought in then.
    """
    customers: dict[str, str] = {}
    lots: defaultdict[str, list[tuple[int, date]]] = defaultdict(list)
    other_names = []
    there = set(Account.objects.values_list("number", flat=True))
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            number, customer = row["account"], row["customer"]
            if number in there:
                continue
            if customers.setdefault(number, customer) != customer:
                other_names.append(f"{path.name}:{line}: {number} {customer}; {customers[number]} counts")
            lots[number].append((int(row["lot_points"]), date.fromisoformat(row["lot_expires"])))
    with transaction.atomic(using=router.db_for_write(Account)):
        opened = Account.objects.bulk_create(
            Account(number=number, customer=customer, opened_at=now) for number, customer in customers.items()
        )
        added = Lot.objects.bulk_create(
            Lot(account=account, points=points, remaining=points, expires_date=expires, origin=path.name, added_at=now)
            for account in opened
            for points, expires in lots[account.number]
        )
    return Imported(accounts=len(opened), lots=len(added), other_names=other_names)


def freeze(*, account: Account) -> None:
    """From now on nothing is deducted; points still come back to it.

    :raises config.states.IllegalMove: it is frozen.
    """
    account.move(Account.State.FROZEN)


def unfreeze(*, account: Account) -> None:
    """:raises config.states.IllegalMove: it is not frozen."""
    account.move(Account.State.ACTIVE)


def add(*, account: Account, points: int, expires_date: date, reason: str, by: str, today: date, now: datetime) -> Lot:
    """A new lot: lots that are there are never edited.

    :raises PointsNotPositive:
    :raises AlreadyExpired:
    :raises ReasonNeeded:
    """
    if not 0 < points <= MOST_POINTS:
        raise PointsNotPositive()
    if expires_date < today:
        raise AlreadyExpired()
    if not reason.strip():
        raise ReasonNeeded()
    return Lot.objects.create(
        account=account,
        points=points,
        remaining=points,
        expires_date=expires_date,
        origin=f"{by}: {reason}"[:200],
        added_at=now,
    )


def take_off(*, lot: Lot, points: int, reason: str, by: str, now: datetime) -> Movement:
    """Take points off a lot, with a movement that says who and why.

    :raises PointsNotPositive:
    :raises ReasonNeeded:
    :raises NotThatMany:
    """
    if points <= 0:
        raise PointsNotPositive()
    if not reason.strip():
        raise ReasonNeeded()
    with transaction.atomic(using=router.db_for_write(Lot)):
        # The same lock, and the same order of locks, as a deduction's.
        Account.objects.select_for_update(no_key=True).get(pk=lot.account_id)
        remaining = Lot.objects.values_list("remaining", flat=True).get(pk=lot.pk)
        if points > remaining:
            raise NotThatMany(remaining=remaining)
        Lot.objects.filter(pk=lot.pk).update(remaining=remaining - points)
        return Movement.objects.create(
            lot=lot, points=-points, remaining_after=remaining - points, reason=f"{by}: {reason}"[:200], moved_at=now
        )
