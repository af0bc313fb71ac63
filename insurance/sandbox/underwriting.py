"""What the insurer does with the items of a message: enrol, endorse, cancel, adjust, take notice, look up.

Every item carries its own request_no and is judged once: the first answer is kept and given again to the same
content for ever, other content under the same number is refused (2001). Answers are compact, five hundred of
them fit into 64 KiB: ``{"request_no", "code", "accepted_at", "policy_no" or "endorsement_no"}``.

Amounts are fen, rates are decimal strings, dates are ISO. Nothing of the asker's arithmetic is trusted:
premiums and unearned premiums are computed anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from functools import lru_cache
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from config.money import half_up
from insurance.sandbox import magic
from insurance.sandbox.models import Endorsement, Item, Policy, Tombstone

MOST_ITEMS = 500
YEAR_DAYS = 365

ACCEPTED = "0000"
SUM_NOT_POSITIVE = "1001"
PREMIUM_DIFFERS = "1003"
DATES_IMPOSSIBLE = "1004"
CARD_ALREADY_COVERED = "1005"
POLICY_UNKNOWN = "1006"
MALFORMED = "1007"
UNEARNED_PREMIUM_DIFFERS = "1008"
DECLINED = "1009"
ADJUSTED_ALREADY = "1010"
BALANCES_IMPOSSIBLE = "1011"
REUSED = "2001"
NOT_FOUND = "2002"
IN_PROGRESS = "9998"
CANCELLED_ALREADY = "2003"

TEXTS = {
    ACCEPTED: "accepted",
    SUM_NOT_POSITIVE: "the sum insured is not positive",
    PREMIUM_DIFFERS: "the premium is not sum insured x annual rate x days / 365",
    DATES_IMPOSSIBLE: "the cover does not end after it begins, or the date is outside it",
    CARD_ALREADY_COVERED: "the card has a policy in force",
    POLICY_UNKNOWN: "no such policy in force",
    MALFORMED: "a member of the item is missing, unknown or of the wrong kind",
    UNEARNED_PREMIUM_DIFFERS: "the unearned premium differs",
    DECLINED: "the risk is declined",
    ADJUSTED_ALREADY: "the premium of the policy was adjusted before",
    BALANCES_IMPOSSIBLE: "the daily balances are not between nothing and the sum insured",
    REUSED: "request_no reused with different content",
    NOT_FOUND: "request_no not found",
    CANCELLED_ALREADY: "cancelled already",
}

_ENROLMENT_MEMBERS: dict[str, type] = {
    "request_no": str,
    "insurer": str,
    "product": str,
    "merchant": str,
    "card_ref": str,
    "sum_insured": int,
    "premium": int,
    "annual_rate": str,
    "minimum_premium": int,
    "days": int,
    "cover_from": str,
    "cover_to": str,
    "currency": str,
}
_ENDORSEMENT_MEMBERS: dict[str, type] = {
    "request_no": str,
    "policy_no": str,
    "amount": int,
    "premium": int,
    "effective_date": str,
}
_CANCELLATION_MEMBERS: dict[str, type] = {
    "request_no": str,
    "original": str,
    "effective_date": str,
    "unearned_premium": int,
}
_ADJUSTMENT_MEMBERS: dict[str, type] = {
    "request_no": str,
    "policy_no": str,
    "balance_days": int,
    "premium": int,
    "effective_date": str,
}
_MOST_AMOUNT = 10**15


@dataclass(slots=True, kw_only=True)
class Judged:
    """An item and the answer to it, as it is written to its table. Five hundred are made for a message: a model's
    instance would take longer to make than the judgement."""

    request_no: str
    type: str
    fingerprint: str
    posted_at: datetime
    business_date: date
    code: str = ACCEPTED
    policy_no: str = ""
    endorsement_no: str = ""
    amount: int = 0
    premium: int = 0


@dataclass(slots=True, kw_only=True)
class Cover:
    """A policy as it is written to its table."""

    enrolment: str
    card_ref: str
    insurer: str
    product: str
    merchant: str
    currency: str
    sum_insured: int
    premium: int
    annual_rate: str
    minimum_premium: int
    cover_from_date: date
    cover_to_date: date
    accepted_at: datetime
    policy_no: str = ""
    state: str = Policy.State.IN_FORCE.value


Work = Sequence[tuple[dict[str, Any], Judged]]


class NotItems(ValueError):
    """The body is not a list of at most 500 items, each under a request_no."""


def premium(*, sum_insured: int, annual_rate: Fraction, days: int, minimum_premium: int = 0) -> int:
    """Sum insured x annual rate x days / 365 in fen, half-up once, at least the minimum."""
    return max(
        minimum_premium, half_up(sum_insured * days * annual_rate.numerator, YEAR_DAYS * annual_rate.denominator)
    )


def unearned_premium(policy: Policy, endorsements: Iterable[Endorsement], *, effective_date: date) -> int:
    """What goes back when cover ends early: of the policy's premium and of each endorsement's the share of its
    own days not run, each half-up."""
    days_left = max(0, (policy.cover_to_date - max(effective_date, policy.cover_from_date)).days)
    parts = [(policy.premium, policy.cover_from_date)] + [(row.premium, row.effective_date) for row in endorsements]
    total = 0
    for charged, from_date in parts:
        days = (policy.cover_to_date - from_date).days
        total += half_up(charged * min(days_left, days), days)
    return total


def post(
    *,
    type: str,
    items: object,
    now: datetime,
    refuse_every: int = 0,
    refuse_code: str = DECLINED,
    is_simulation: bool = False,
) -> list[dict[str, Any]]:
    """Judge the items of one message and answer them in their order.

    Test merchants' items of certain sums are answered as ``magic`` says, but in a simulation, which decides them.

    ``refuse_every`` refuses every n-th new item with ``refuse_code``, which is how refusals are had on demand.

    :raises NotItems: nothing is judged then.
    """
    asked = _asked(items)
    prints = [_fingerprint(type, item) for item in asked]
    today = timezone.localdate(now)
    with transaction.atomic():
        # One lane: neither a request_no nor a card is ever judged by two messages at once.
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(882316)")
        known = _known([item["request_no"] for item in asked])
        fresh: dict[str, Judged] = {}
        work = []
        unsaid: dict[str, str] = {}
        for item, fingerprint in zip(asked, prints, strict=True):
            request_no = item["request_no"]
            if request_no in known or request_no in fresh:
                continue
            if not is_simulation and type == "ENROLMENT":
                if magic.is_meant(item, magic.SILENT):
                    unsaid[request_no] = ""
                    continue
                if magic.is_meant(item, magic.LATE):
                    unsaid[request_no] = IN_PROGRESS
            row = Judged(request_no=request_no, type=type, fingerprint=fingerprint, posted_at=now, business_date=today)
            fresh[request_no] = row
            if refuse_every and len(fresh) % refuse_every == 0:
                row.code = refuse_code
            elif not is_simulation and type == "ENROLMENT" and magic.is_meant(item, magic.DECLINED):
                row.code = DECLINED
            else:
                work.append((item, row))
        _JUDGES[type](work)
        _insert("insurer_item", _ITEM_COLUMNS, list(fresh.values()))
    rows = known | fresh
    said = []
    for item, fingerprint in zip(asked, prints, strict=True):
        request_no = item["request_no"]
        if request_no in unsaid:
            if unsaid[request_no]:
                said.append({"request_no": request_no, "code": unsaid[request_no]})
        elif rows[request_no].fingerprint == fingerprint:
            said.append(_answer(rows[request_no]))
        else:
            said.append({"request_no": request_no, "code": REUSED})
    return said


def simulate(*, body: Mapping[str, Any], now: datetime) -> list[dict[str, Any]]:
    """Judge a test merchant's enrolment now, in its favour or not, unless it was judged before.

    :raises NotItems: it is not of that shape, or an item is not a test merchant's.
    """
    items, outcome = _asked(body.get("items")), body.get("outcome")
    if outcome not in ("ACCEPTED", "DECLINED") or not all(map(magic.is_for_tests, items)):
        raise NotItems("simulation")
    return post(
        type="ENROLMENT", items=items, now=now, refuse_every=1 if outcome == "DECLINED" else 0, is_simulation=True
    )


def look_up(*, request_nos: object) -> list[dict[str, Any]]:
    """The first answer to each request_no, or that it is not found (2002) or cancelled beforehand (2003).

    :raises NotItems: the request numbers are not a list of at most 500.
    """
    if (
        not isinstance(request_nos, list)
        or len(request_nos) > MOST_ITEMS
        or not all(_is_text(request_no) for request_no in request_nos)
    ):
        raise NotItems("request_nos")
    known = _known(request_nos)
    buried = set(Tombstone.objects.filter(original__in=request_nos).values_list("original", flat=True))
    return [
        _answer(known[request_no])
        if request_no in known
        else {"request_no": request_no, "code": CANCELLED_ALREADY if request_no in buried else NOT_FOUND}
        for request_no in request_nos
    ]


def _asked(items: object) -> list[dict[str, Any]]:
    if (
        not isinstance(items, list)
        or not 0 < len(items) <= MOST_ITEMS
        or not all(isinstance(item, dict) and _is_text(item.get("request_no")) for item in items)
    ):
        raise NotItems("items")
    return items


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64


def _fingerprint(type: str, item: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{type} {json.dumps(item, sort_keys=True)}".encode()).hexdigest()


def _known(request_nos: Sequence[str]) -> dict[str, Judged]:
    names = list(_ITEM_COLUMNS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(names)} FROM insurer_item WHERE request_no = ANY(%s)",  # noqa: S608  names of ours
            [list(request_nos)],
        )
        rows = [Judged(**dict(zip(names, row, strict=True))) for row in cursor.fetchall()]
    return {row.request_no: row for row in rows}


def _answer(row: Judged) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "request_no": row.request_no,
        "code": row.code,
        "accepted_at": row.posted_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if row.endorsement_no:
        answer["endorsement_no"] = row.endorsement_no
    elif row.policy_no:
        answer["policy_no"] = row.policy_no
    return answer


def _has_members(item: Mapping[str, Any], members: Mapping[str, type]) -> bool:
    return item.keys() == members.keys() and all(
        type(item[name]) is kind and (len(item[name]) <= 64 if kind is str else abs(item[name]) <= _MOST_AMOUNT)
        for name, kind in members.items()
    )


# Enrolment ----------------------------------------------------------------------------------------------


def _enrol(work: Work) -> None:
    covered = set(
        Policy.objects.filter(state=Policy.State.IN_FORCE, card_ref__in=_texts(work, "card_ref")).values_list(
            "card_ref", flat=True
        )
    )
    buried = set(
        Tombstone.objects.filter(original__in=[row.request_no for _, row in work]).values_list("original", flat=True)
    )
    policies = []
    for item, row in work:
        if row.request_no in buried:
            row.code = CANCELLED_ALREADY
            continue
        policy, row.code = _underwrite(item, now=row.posted_at)
        if policy is None:
            continue
        if policy.card_ref in covered:
            row.code = CARD_ALREADY_COVERED
            continue
        covered.add(policy.card_ref)
        row.amount, row.premium = policy.sum_insured, policy.premium
        policies.append((policy, row))
    for (policy, row), policy_no in zip(policies, _numbers("P", len(policies)), strict=True):
        policy.policy_no = row.policy_no = policy_no
    _insert("insurer_policy", _POLICY_COLUMNS, [policy for policy, _ in policies])


def _underwrite(item: Mapping[str, Any], *, now: datetime) -> tuple[Cover | None, str]:
    if not _has_members(item, _ENROLMENT_MEMBERS):
        return None, MALFORMED
    try:
        rate = _rate(item["annual_rate"])
        cover_from_date, cover_to_date = _date(item["cover_from"]), _date(item["cover_to"])
    except ValueError:
        return None, MALFORMED
    if item["sum_insured"] <= 0:
        return None, SUM_NOT_POSITIVE
    if cover_to_date <= cover_from_date or (cover_to_date - cover_from_date).days != item["days"]:
        return None, DATES_IMPOSSIBLE
    if item["premium"] != premium(
        sum_insured=item["sum_insured"],
        annual_rate=rate,
        days=item["days"],
        minimum_premium=item["minimum_premium"],
    ):
        return None, PREMIUM_DIFFERS
    policy = Cover(
        card_ref=item["card_ref"],
        enrolment=item["request_no"],
        insurer=item["insurer"][:40],
        product=item["product"][:40],
        merchant=item["merchant"][:40],
        currency=item["currency"][:3],
        sum_insured=item["sum_insured"],
        premium=item["premium"],
        annual_rate=item["annual_rate"][:20],
        minimum_premium=item["minimum_premium"],
        cover_from_date=cover_from_date,
        cover_to_date=cover_to_date,
        accepted_at=now,
    )
    return policy, ACCEPTED


_ITEM_COLUMNS = {
    "request_no": "text",
    "type": "text",
    "fingerprint": "text",
    "posted_at": "timestamptz",
    "business_date": "date",
    "code": "text",
    "policy_no": "text",
    "endorsement_no": "text",
    "amount": "bigint",
    "premium": "bigint",
}
_POLICY_COLUMNS = {
    "policy_no": "text",
    "enrolment": "text",
    "card_ref": "text",
    "insurer": "text",
    "product": "text",
    "merchant": "text",
    "currency": "text",
    "sum_insured": "bigint",
    "premium": "bigint",
    "annual_rate": "text",
    "minimum_premium": "bigint",
    "cover_from_date": "date",
    "cover_to_date": "date",
    "state": "text",
    "accepted_at": "timestamptz",
}


def _insert(table: str, columns: Mapping[str, str], rows: Sequence[object]) -> None:
    """All rows by one statement, a column at a time."""
    arrays = ", ".join(f"%s::{kind}[]" for kind in columns.values())
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays})",  # noqa: S608  names of ours
            [[getattr(row, name) for row in rows] for name in columns],
        )


def _numbers(letter: str, count: int) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('insurer_policy_no') FROM generate_series(1, %s)", [count])
        return [f"{letter}{number:011d}" for (number,) in cursor.fetchall()]


def _number_endorsements(rows: Iterable[Judged]) -> None:
    accepted = [row for row in rows if row.code == ACCEPTED]
    for row, endorsement_no in zip(accepted, _numbers("E", len(accepted)), strict=True):
        row.endorsement_no = endorsement_no


# Endorsement and cancellation ---------------------------------------------------------------------------


def _endorse(work: Work) -> None:
    policies = _in_force("policy_no", _texts(work, "policy_no"))
    endorsements = []
    for item, row in work:
        if not _has_members(item, _ENDORSEMENT_MEMBERS):
            row.code = MALFORMED
            continue
        policy = policies.get(item["policy_no"])
        row.code = POLICY_UNKNOWN if policy is None else _judge_endorsement(policy, item)
        if policy is None or row.code != ACCEPTED:
            continue
        policy.sum_insured += item["amount"]
        row.policy_no, row.amount, row.premium = policy.policy_no, item["amount"], item["premium"]
        endorsements.append(
            Endorsement(
                policy=policy,
                request_no=row.request_no,
                amount=item["amount"],
                premium=item["premium"],
                effective_date=_date(item["effective_date"]),
                accepted_at=row.posted_at,
            )
        )
    Endorsement.objects.bulk_create(endorsements)
    _number_endorsements(row for _, row in work)
    _store(policies.values())


def _judge_endorsement(policy: Policy, item: Mapping[str, Any]) -> str:
    try:
        effective_date = _date(item["effective_date"])
    except ValueError:
        return MALFORMED
    if item["amount"] <= 0:
        return SUM_NOT_POSITIVE
    if not policy.cover_from_date <= effective_date < policy.cover_to_date:
        return DATES_IMPOSSIBLE
    due = premium(
        sum_insured=item["amount"],
        annual_rate=Fraction(policy.annual_rate),
        days=(policy.cover_to_date - effective_date).days,
    )
    return ACCEPTED if item["premium"] == due else PREMIUM_DIFFERS


def _cancel(work: Work) -> None:
    originals = _texts(work, "original")
    policies = _in_force("enrolment", originals)
    enrolments = {row.request_no: row for row in Item.objects.filter(type="ENROLMENT", request_no__in=originals)}
    endorsements: defaultdict[int, list[Endorsement]] = defaultdict(list)
    for endorsement in Endorsement.objects.filter(policy__in=policies.values()):
        endorsements[endorsement.policy_id].append(endorsement)
    tombstones: dict[str, Tombstone] = {}
    for item, row in work:
        if not _has_members(item, _CANCELLATION_MEMBERS):
            row.code = MALFORMED
            continue
        original = item["original"]
        policy = policies.get(original)
        if original not in enrolments:
            # The enrolment may still be on its way: remember, and refuse it when it comes.
            tombstones[original] = Tombstone(original=original, request_no=row.request_no, at=row.posted_at)
        elif policy is None or policy.state != Policy.State.IN_FORCE:
            row.code = CANCELLED_ALREADY if enrolments[original].code == ACCEPTED else POLICY_UNKNOWN
        else:
            row.code = _judge_cancellation(policy, endorsements[policy.pk], item)
            if row.code == ACCEPTED:
                policy.state = Policy.State.CANCELLED
                row.policy_no = policy.policy_no
                row.amount, row.premium = -policy.sum_insured, -item["unearned_premium"]
                policy.returned = item["unearned_premium"]
    Tombstone.objects.bulk_create(tombstones.values(), ignore_conflicts=True)
    _number_endorsements(row for _, row in work)
    _store(policies.values())


def _judge_cancellation(policy: Policy, endorsements: Iterable[Endorsement], item: Mapping[str, Any]) -> str:
    try:
        effective_date = _date(item["effective_date"])
    except ValueError:
        return MALFORMED
    due = unearned_premium(policy, endorsements, effective_date=effective_date)
    return ACCEPTED if item["unearned_premium"] == due else UNEARNED_PREMIUM_DIFFERS


def _adjust(work: Work) -> None:
    """Settle provisional premiums of policies whose cover is over, in force or cancelled: once each."""
    policies = {row.policy_no: row for row in Policy.objects.filter(policy_no__in=_texts(work, "policy_no"))}
    charged = {policy.pk: policy.premium - policy.returned for policy in policies.values()}
    for policy_id, premium_due in Endorsement.objects.filter(policy__in=charged).values_list("policy", "premium"):
        charged[policy_id] += premium_due
    for item, row in work:
        if not _has_members(item, _ADJUSTMENT_MEMBERS):
            row.code = MALFORMED
            continue
        policy = policies.get(item["policy_no"])
        row.code = POLICY_UNKNOWN if policy is None else _judge_adjustment(policy, charged[policy.pk], item)
        if policy is not None and row.code == ACCEPTED:
            policy.adjustment = item["premium"]
            row.policy_no, row.premium = policy.policy_no, item["premium"]
    _number_endorsements(row for _, row in work)
    _store(policies.values())


def _judge_adjustment(policy: Policy, charged: int, item: Mapping[str, Any]) -> str:
    try:
        days = (_date(item["effective_date"]) - policy.cover_from_date).days
    except ValueError:
        return MALFORMED
    if policy.adjustment is not None:
        return ADJUSTED_ALREADY
    if not 0 <= days <= (policy.cover_to_date - policy.cover_from_date).days:
        return DATES_IMPOSSIBLE
    if not 0 <= item["balance_days"] <= policy.sum_insured * days:
        return BALANCES_IMPOSSIBLE
    rate = Fraction(policy.annual_rate)
    due = half_up(item["balance_days"] * rate.numerator, YEAR_DAYS * rate.denominator)
    if days:
        due = max(due, policy.minimum_premium)
    return ACCEPTED if item["premium"] == due - charged else PREMIUM_DIFFERS


def _take_notice(work: Work) -> None:
    """Notice of a loss or a claim: a policy that is named must be known; what else is told is kept raw."""
    numbers = set(Policy.objects.filter(policy_no__in=_texts(work, "policy_no")).values_list("policy_no", flat=True))
    for item, row in work:
        amount, policy_no = item.get("amount", 0), item.get("policy_no", "")
        if type(amount) is not int or not 0 <= amount <= _MOST_AMOUNT:
            row.code = MALFORMED
        elif not isinstance(policy_no, str) or (policy_no and policy_no not in numbers):
            row.code = POLICY_UNKNOWN
        else:
            row.policy_no, row.amount = policy_no, amount


_JUDGES: dict[str, Callable[[Work], None]] = {
    "ENROLMENT": _enrol,
    "ENDORSEMENT": _endorse,
    "CANCELLATION": _cancel,
    "ADJUSTMENT": _adjust,
    "LOSS_NOTICE": _take_notice,
    "CLAIM_NOTICE": _take_notice,
}
TYPES = frozenset(_JUDGES)


def _in_force(field: str, values: Sequence[str]) -> dict[str, Policy]:
    rows = Policy.objects.filter(state=Policy.State.IN_FORCE, **{f"{field}__in": values})
    return {getattr(row, field): row for row in rows}


def _store(policies: Iterable[Policy]) -> None:
    rows = list(policies)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE insurer_policy AS p SET sum_insured = n.sum_insured, state = n.state, returned = n.returned,"
            " adjustment = n.adjustment"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[])"
            " AS n (id, sum_insured, state, returned, adjustment) WHERE p.id = n.id",
            [
                [row.pk for row in rows],
                [row.sum_insured for row in rows],
                [str(row.state) for row in rows],
                [row.returned for row in rows],
                [row.adjustment for row in rows],
            ],
        )


def _texts(work: Work, name: str) -> list[str]:
    return [item[name] for item, _ in work if isinstance(item.get(name), str)]


def _date(text: str) -> date:
    return date.fromisoformat(text)


@lru_cache(maxsize=100)
def _rate(text: str) -> Fraction:
    # Fraction reads "1/3" and "1e9" too; a rate is written with digits and one point.
    if not text.replace(".", "", 1).isdecimal() or not text.isascii():
        raise ValueError(text)
    return Fraction(text)
