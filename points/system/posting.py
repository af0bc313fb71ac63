"""What the points system does with a message: deduct, reverse, return, take note of a ratio, look up.

Messages that move points, or refuse to, are judged once by their request_no: the first answer is kept in the same
transaction as its effect and given again to the same content for ever; other content is refused (2001). Bodies are
strict: exactly the members that belong there, whole numbers, bounded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import IntegrityError, connections, router, transaction
from django.db.models import Sum
from django.utils import timezone

from config import messages, prepared
from config.misbehaviour import Facts
from points.system import magic
from points.system.models import Account, Lot, Message, Ratio, Request

DONE = "0000"
INSUFFICIENT = "1001"
ACCOUNT_UNKNOWN = "1002"
POINTS_DIFFER = "1003"
RATIO_UNKNOWN = "1004"
OVER_LIMIT = "1005"
REUSED = "2001"
NOT_FOUND = "2002"
REVERSED_ALREADY = "2003"
REPLAYED = "3003"
IN_PROGRESS = "9998"
NOT_UNDERSTOOD = "9999"

TEXTS = {
    DONE: "",
    INSUFFICIENT: "insufficient points",
    ACCOUNT_UNKNOWN: "account unknown or frozen",
    POINTS_DIFFER: "points differ",
    RATIO_UNKNOWN: "ratio version unknown, or known with another ratio",
    OVER_LIMIT: "over limit",
    REUSED: "request_no reused with different content",
    NOT_FOUND: "original not found",
    REVERSED_ALREADY: "already reversed or returned",
    REPLAYED: "replayed message_id",
    IN_PROGRESS: "in progress",
    NOT_UNDERSTOOD: "unknown type of message, or its body is not as it should be",
}

MOST = 10**12
MOST_COUPONS = 1_000
MOST_LOTS = 100
MOST_ORIGINALS = 500
_REQUEST_NO = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RATIO = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?")


class Misbehaves(Exception):
    """Nothing was done: the points system was told not to behave."""


def answer(
    message: messages.Message, *, content: bytes, now: datetime, misbehaviour: str | None = None, late: float = 0
) -> Facts:
    """Act upon a believed message and say what became of it: result, code, text and body.

    ``content`` is the message as it came in. With ``late``, the outcome is kept back from all questions for so many
    seconds, which is how being late is had on demand.

    :raises Misbehaves: without a ``misbehaviour``, where one is asked for; only for messages that move points.
    """
    if not _has_shape(message):
        return facts(NOT_UNDERSTOOD)
    try:
        if message.type in _LOOK_UP:
            return _looked_up(message, content=content, misbehaviour=misbehaviour or "", now=now)
        return _posted(message, content=content, misbehaviour=misbehaviour, now=now, late=late)
    except IntegrityError as fault:
        # The same envelope twice at once: whoever came second did nothing.
        if "points_system_message_message_id" in str(fault):
            return facts(REPLAYED)
        raise


def pretend(message: messages.Message, *, content: bytes, now: datetime) -> Facts:
    """What ``answer`` would say, with nothing done."""
    with transaction.atomic(using=router.db_for_write(Request)):
        said = answer(message, content=content, misbehaviour="PRETENDS", now=now)
        transaction.set_rollback(True, using=router.db_for_write(Request))
    return said


def simulate(message: messages.Message, *, content: bytes, now: datetime) -> Facts:
    """Judge a test merchant's deduction now, in its favour or not, unless it was judged before; and tell at once."""
    if message.body.keys() != {"original", "outcome", "deduction"} or not isinstance(message.body["deduction"], dict):
        return facts(NOT_UNDERSTOOD)
    original, outcome, deduction = (message.body[name] for name in ("original", "outcome", "deduction"))
    told = replace(message, type="DEDUCTION_REQUEST", request_no=original, body=deduction)
    if not (_is_request_no(original) and _has_shape(told) and magic.is_for_tests(deduction)) or outcome not in (
        "DEDUCTED",
        "REFUSED",
    ):
        return facts(NOT_UNDERSTOOD)
    Request.objects.filter(request_no=original).update(told_from_at=None)
    # Of an account that there is not: refused under its request number and content all the same.
    judged = deduction if outcome == "DEDUCTED" else {**deduction, "account": magic.UNKNOWN}
    return _posted(told, content=content, misbehaviour="SIMULATION", now=now, late=0, judged=judged)


def facts(code: str, body: Mapping[str, Any] | str | None = None) -> Facts:
    """An answer by its code; its body may be JSON that is written already."""
    result = {DONE: messages.SUCCESS, IN_PROGRESS: messages.IN_PROGRESS}.get(code, messages.REJECTED)
    return {"result": result, "code": code, "text": TEXTS[code], "body": body or {}}


def _posted(
    message: messages.Message,
    *,
    content: bytes,
    misbehaviour: str | None,
    now: datetime,
    late: float,
    judged: Mapping[str, Any] | None = None,
) -> Facts:
    body = _IN_ORDER.encode(message.body)
    code, said = prepared.row(
        "SELECT code, body::text FROM points_system_post(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (
            message.message_id,
            message.type,
            message.request_no,
            fingerprint(message.type, body),
            body if judged is None else _IN_ORDER.encode(judged),
            content,
            misbehaviour,
            now,
            # Told which, Django need not look which one this thread has chosen.
            timezone.localdate(now, timezone.get_default_timezone()),
            now + timedelta(seconds=late) if late else None,
        ),
        using=router.db_for_write(Request),
    )
    if not code:
        raise Misbehaves
    # Only who bends what the database has written reads it.
    return facts(code, said if misbehaviour is None else json.loads(said))


def fingerprint(type: str, body: str) -> str:
    """Equal for equal content under one request_no, the members of its ``body`` in order."""
    return hashlib.sha256(f"{type} {body}".encode()).hexdigest()


_IN_ORDER = json.JSONEncoder(sort_keys=True)


# Looking up ---------------------------------------------------------------------------------------------


def _looked_up(message: messages.Message, *, content: bytes, misbehaviour: str, now: datetime) -> Facts:
    with transaction.atomic(using=router.db_for_write(Message)):
        found = facts(*_LOOK_UP[message.type](message.body, now))
        Message.objects.create(
            message_id=message.message_id,
            type=message.type,
            request_no=message.request_no,
            content=content,
            code=found["code"],
            answer=found["body"],
            misbehaviour=misbehaviour,
            received_at=now,
        )
    return found


def _echo(body: Facts, now: datetime) -> tuple[str, Facts]:
    return DONE, {"time": now.isoformat()}


def _balance(body: Facts, now: datetime) -> tuple[str, Facts]:
    account = Account.objects.filter(number=body["account"], state=Account.State.ACTIVE).first()
    if account is None:
        return ACCOUNT_UNKNOWN, {}
    spendable = Lot.objects.filter(account=account, remaining__gt=0, expires_date__gte=timezone.localdate(now))
    return DONE, {
        "available": spendable.aggregate(total=Sum("remaining", default=0))["total"],
        "lots": [
            {"lot": lot.pk, "points": lot.remaining, "expires": lot.expires_date.isoformat()}
            for lot in spendable.order_by("expires_date", "pk")[:MOST_LOTS]
        ],
    }


def _outcome(body: Facts, now: datetime) -> tuple[str, Facts]:
    """What became of one deduction, or of many: item by item, each told as if it had been asked about alone."""
    if "originals" in body:
        return DONE, {"items": _outcomes(body["originals"], now)}
    [item] = _outcomes([body["original"]], now)
    return (DONE, item) if "state" in item else (item["code"], {})


def _outcomes(originals: Sequence[str], now: datetime) -> list[Facts]:
    with connections[router.db_for_write(Request)].cursor() as cursor:
        cursor.execute(_OUTCOMES, [now, list(originals)])
        return [_item(*row) for row in cursor]


# All are looked up in one statement, so that they are told as they stood at one moment.
_OUTCOMES = """
SELECT asked.original, r.code, r.told_from_at > %s, r.answer, d.state, d.returned, t.id IS NOT NULL
FROM unnest(%s::text[]) WITH ORDINALITY AS asked(original, place)
    LEFT JOIN points_system_request r ON r.request_no = asked.original AND r.type = 'DEDUCTION_REQUEST'
    LEFT JOIN points_system_deduction d ON d.request_id = r.id
    LEFT JOIN points_system_tombstone t ON t.original = asked.original
ORDER BY asked.place"""


def _item(
    original: str,
    code: str | None,
    is_kept_back: bool | None,
    answered: str,
    state: str,
    returned: int,
    is_buried: bool,
) -> Facts:
    if code is None and not is_buried:
        return {"original": original, "code": NOT_FOUND}
    if is_kept_back:
        return {"original": original, "code": IN_PROGRESS}
    if code is None or code == REVERSED_ALREADY:
        # It was reversed before it came: it never happened and never will.
        return {"original": original, "state": "REVERSED", "code": REVERSED_ALREADY, "points": 0, "returned": 0}
    if code != DONE:
        return {"original": original, "state": "REFUSED", "code": code, "points": 0, "returned": 0}
    return {**json.loads(answered), "original": original, "state": state, "code": code, "returned": returned}


_LOOK_UP: dict[str, Callable[[Facts, datetime], tuple[str, Facts]]] = {
    "ECHO": _echo,
    "BALANCE_QUERY": _balance,
    "DEDUCTION_QUERY": _outcome,
}


# Shapes -------------------------------------------------------------------------------------------------


def _has_shape(message: messages.Message) -> bool:
    forms = (_MEMBERS.get(message.type), _MEMBERS_OF_MANY.get(message.type))
    return any(
        message.body.keys() == members.keys()
        and all(is_right(message.body[name]) for name, is_right in members.items())
        for members in forms
        if members is not None
    )


def _is_text(value: object, *, most: int = 64) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most and value.isprintable()


def _is_request_no(value: object) -> bool:
    return isinstance(value, str) and _REQUEST_NO.fullmatch(value) is not None


def _is_whole(value: object) -> bool:
    return type(value) is int and abs(value) <= MOST


def _is_ratio(value: object) -> bool:
    return isinstance(value, str) and _RATIO.fullmatch(value) is not None and value.strip("0.") != ""


def _is_rounding(value: object) -> bool:
    return isinstance(value, str) and value in _ROUNDINGS


def _are_different(value: object, *, most: int) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= most
        and all(_is_text(number) for number in value)
        and len(set(value)) == len(value)
    )


_ROUNDINGS = frozenset(Ratio.Rounding.values)
_MEMBERS: dict[str, dict[str, Callable[[object], bool]]] = {
    "ECHO": {},
    "BALANCE_QUERY": {"account": partial(_is_text, most=32)},
    "DEDUCTION_QUERY": {"original": _is_text},
    "RATIO_ADVICE": {
        "ratio_version": _is_text,
        "product": _is_text,
        "exchange_ratio": _is_ratio,
        "rounding": _is_rounding,
    },
    "DEDUCTION_REQUEST": {
        "account": partial(_is_text, most=32),
        "points": _is_whole,
        "coupon_count": _is_whole,
        "exchange_ratio": _is_ratio,
        "ratio_version": _is_text,
        "rounding": _is_rounding,
    },
    "REVERSAL_ADVICE": {"original": _is_request_no, "points": _is_whole, "reason": partial(_is_text, most=200)},
    "RETURN_REQUEST": {
        "return_no": _is_text,
        "original": _is_request_no,
        "points": _is_whole,
        "coupons": partial(_are_different, most=MOST_COUPONS),
    },
}
_MEMBERS_OF_MANY = {"DEDUCTION_QUERY": {"originals": partial(_are_different, most=MOST_ORIGINALS)}}
TYPES = frozenset(_MEMBERS)
MOVING = ("DEDUCTION_REQUEST", "REVERSAL_ADVICE", "RETURN_REQUEST")
"""The types that are in the statement."""
