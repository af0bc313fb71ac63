"""Points accounts of test merchants, by which they have the points system answer as they wish (docs/api/sandbox.md).

They come into being when a test merchant first names them; nothing is ever deducted from them for a live one. Which
requests are tests is seen by the ratio's version, which begins with the product's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from django.db import router, transaction

from config.misbehaviour import Kind
from points.system.models import Account, Behaviour, Lot

TEST_SUFFIX = "-TEST"
LATE_SECONDS = 5
POINTS = 10**9
LAST_DAY = date(2099, 12, 31)

PLENTY = "9900000000000001"
NONE_LEFT = "9900000000000002"
UNKNOWN = "9900000000000003"
LATE = "9900000000000004"
ANSWER_LOST = "9900000000000005"
REQUEST_LOST = "9900000000000006"

_WITH_POINTS = (PLENTY, LATE, ANSWER_LOST, REQUEST_LOST)
ACCOUNTS = (*_WITH_POINTS, NONE_LEFT, UNKNOWN)

_BEHAVIOURS = {
    LATE: Kind.LATE,
    # The line goes dead at once, so that no thread of anybody's waits for it.
    ANSWER_LOST: Kind.DOWN_AFTER,
    REQUEST_LOST: Kind.DOWN,
}


def is_for_tests(deduction: Mapping[str, Any]) -> bool:
    return str(deduction.get("ratio_version", "")).rpartition(":")[0].endswith(TEST_SUFFIX)


def behaviour(deduction: Mapping[str, Any]) -> Behaviour | None:
    """What happens to a request for points of a magic account; None if it is answered as any other."""
    kind = _BEHAVIOURS.get(str(deduction.get("account")))
    return None if kind is None else Behaviour(kind=kind, seconds=LATE_SECONDS)


def make_ready(number: str, *, now: datetime) -> None:
    """See to it that a magic account is there, with its points where it has some."""
    if number == UNKNOWN:
        return
    with transaction.atomic(using=router.db_for_write(Account)):
        account, made = Account.objects.get_or_create(
            number=number,
            defaults={"customer": "TEST", "most_per_deduction": POINTS, "most_per_day": 10**15, "opened_at": now},
        )
        if made and number in _WITH_POINTS:
            Lot.objects.create(
                account=account, points=POINTS, remaining=POINTS, expires_date=LAST_DAY, origin="magic", added_at=now
            )
