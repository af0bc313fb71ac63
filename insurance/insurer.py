"""The only module that knows how the insurer is spoken to.

What is owed stands in rows (policies, endorsements, notices) with a due time. ``sweep`` leases due rows, up to 500 in
one message, and commits them as sent before anything is sent; no transaction is open while it waits. Only a
believable answer about a row settles it. Everything else is silence: the insurer is asked about the row after 1, 2,
4, 8, 16 and 32 seconds, is sent the same request again if it never got it, and after the last try the row is
UNRESOLVED, which staff see with its whole message log; it is still asked about now and then, so that what a long
outage left behind settles by itself. Every message is stored as it stood on the wire, before it is believed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from config import messages
from config.errors import Refused
from config.handshakes import QUERY_PAUSES, lease
from config.states import IllegalMove
from insurance import enrolment
from insurance.enrolment import Verdict
from insurance.models import Endorsement, InsurerMessage, Notice, Policy
from issuing.models import Merchant
from prepaid import holds
from prepaid.models import Run

log = structlog.get_logger(__name__)

MOST_ITEMS = 500
DEADLINE_SECONDS = messages.DEADLINE
LEASE_SECONDS = 60
"""How long rows are ours: well over the deadline of a call, so that nobody asks while somebody waits."""

UNRESOLVED_PAUSE = 300
"""Seconds between questions about a row that staff have been told of."""

HOLD_SECONDS = 30
"""After a message that got no answer nothing new is sent for so long, and then one item at first: an insurer that is
down for an hour must not leave thousands of rows unresolved."""

ACCEPTED = "0000"
NOT_FOUND = "2002"
CANCELLED_BEFORE = "2003"
IN_PROGRESS = "9998"

LINE_DOWN = frozenset({"TIMED_OUT", "CONNECTION_LOST", "HTTP_STATUS"})

Items = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Talk:
    """How one kind of row is spoken about."""

    type: str
    rows: Callable[[], QuerySet[Any]]
    items: Callable[[Sequence[UUID]], Items]
    number: str
    settle: Callable[[Sequence[Verdict]], int]
    of_tests: Callable[[], Q]
    """Which of the rows are those of test merchants."""

    def on(self, line: Line) -> QuerySet[Any]:
        """The rows that are spoken about on a line; one statement finds and leases them, so none slips across."""
        return self.rows().filter(self._side(line))

    def known_on(self, line: Line, request_nos: Sequence[str]) -> set[str]:
        """Those of the requests, of whatever kind, that are this line's."""
        rows = self.rows().model._base_manager.filter(self._side(line), request_no__in=request_nos)
        return set(rows.values_list("request_no", flat=True))

    def _side(self, line: Line) -> Q:
        return self.of_tests() if line.is_test else ~self.of_tests()


@dataclass(frozen=True, kw_only=True)
class Line:
    """Where the insurer is spoken to: about live merchants, or about test merchants."""

    is_test: bool
    url: str
    keys: Sequence[str]


def _lines() -> tuple[Line, Line]:
    return (
        Line(is_test=False, url=settings.INSURER_URL, keys=settings.INSURER_KEYS),
        Line(is_test=True, url=settings.INSURER_TEST_URL, keys=settings.INSURER_TEST_KEYS),
    )


class _Silence(Exception):
    """The insurer does not answer; nothing more is sent now."""


# What is said -------------------------------------------------------------------------------------------


def _enrolments(policy_ids: Sequence[UUID]) -> Items:
    rows = Policy.objects.filter(pk__in=policy_ids).values_list(
        "request_no",
        "product__insurer__code",
        "product__code",
        "merchant__code",
        "card_id",
        "sum_insured",
        "premium",
        "product__annual_rate",
        "product__minimum_premium",
        "cover_from_date",
        "cover_to_date",
    )
    return [
        {
            "request_no": request_no,
            "insurer": insurer,
            "product": product,
            "merchant": merchant,
            "card_ref": card_id.hex,
            "sum_insured": sum_insured,
            "premium": premium,
            "annual_rate": f"{annual_rate:f}",
            "minimum_premium": minimum_premium,
            "days": (cover_to - cover_from).days,
            "cover_from": cover_from.isoformat(),
            "cover_to": cover_to.isoformat(),
            "currency": "CNY",
        }
        for (
            request_no, insurer, product, merchant, card_id, sum_insured, premium, annual_rate, minimum_premium,
            cover_from, cover_to,
        ) in rows
    ]  # fmt: skip


def _increases(endorsement_ids: Sequence[UUID]) -> Items:
    return [
        {
            "request_no": row.request_no,
            "policy_no": row.policy.policy_no or "",
            "amount": row.amount,
            "premium": row.premium,
            "effective_date": row.effective_date.isoformat(),
        }
        for row in Endorsement.objects.filter(pk__in=endorsement_ids).select_related("policy")
    ]


def _cancellations(endorsement_ids: Sequence[UUID]) -> Items:
    return [
        {
            "request_no": row.request_no,
            "original": row.policy.request_no,
            "effective_date": row.effective_date.isoformat(),
            "unearned_premium": -row.premium,
        }
        for row in Endorsement.objects.filter(pk__in=endorsement_ids).select_related("policy")
    ]


def _adjustments(endorsement_ids: Sequence[UUID]) -> Items:
    return [
        {
            "request_no": row.request_no,
            "policy_no": row.policy.policy_no or "",
            "balance_days": row.balance_days,
            "premium": row.premium,
            "effective_date": row.effective_date.isoformat(),
        }
        for row in Endorsement.objects.filter(pk__in=endorsement_ids).select_related("policy")
    ]


def _notices(notice_ids: Sequence[UUID]) -> Items:
    return [
        {
            **row.body,
            "request_no": row.request_no,
            "subject": row.subject.hex,
            **({"policy_no": row.policy.policy_no or ""} if row.policy else {}),
        }
        for row in Notice.objects.filter(pk__in=notice_ids).select_related("policy")
    ]


def _increases_to_send() -> QuerySet[Endorsement]:
    """A policy is endorsed once it is known what became of it."""
    open_policy = Policy.objects.filter(pk=OuterRef("policy"), state__in=_OPEN)
    return Endorsement.objects.filter(~Exists(open_policy), kind=Endorsement.Kind.INCREASE)


def _cancellations_to_send() -> QuerySet[Endorsement]:
    """A policy is cancelled once it and all its increases are settled: only then is it known what is returned."""
    open_policy = Policy.objects.filter(pk=OuterRef("policy"), state__in=_OPEN)
    open_increase = Endorsement.objects.filter(
        policy=OuterRef("policy"), kind=Endorsement.Kind.INCREASE, state__in=_OPEN
    )
    return Endorsement.objects.filter(~Exists(open_policy), ~Exists(open_increase), kind=Endorsement.Kind.CANCELLATION)


_OPEN = [Policy.State.PENDING, Policy.State.UNKNOWN, Policy.State.UNRESOLVED]


def _of_tests() -> Q:
    return Q(merchant__in=Merchant.objects.for_tests())


def _policy_of_tests() -> Q:
    return Q(Exists(Policy.objects.filter(_of_tests(), pk=OuterRef("policy"))))


def _notice_of_tests() -> Q:
    # A loss is told of a merchant, a claim of a policy.
    codes = Merchant.objects.for_tests().values("code")
    return _policy_of_tests() | Q(Exists(codes.filter(code=KeyTextTransform("merchant", OuterRef("body")))))


TALKS = (
    Talk(
        type="ENROLMENT",
        rows=Policy.objects.all,
        items=_enrolments,
        number="policy_no",
        settle=enrolment.settle_policies,
        of_tests=_of_tests,
    ),
    Talk(
        type="ENDORSEMENT",
        rows=_increases_to_send,
        items=_increases,
        number="endorsement_no",
        settle=enrolment.settle_endorsements,
        of_tests=_policy_of_tests,
    ),
    Talk(
        type="CANCELLATION",
        rows=_cancellations_to_send,
        items=_cancellations,
        number="endorsement_no",
        settle=enrolment.settle_endorsements,
        of_tests=_policy_of_tests,
    ),
    Talk(
        type="ADJUSTMENT",
        # Owed only once everything else about the policy is settled.
        rows=lambda: Endorsement.objects.filter(kind=Endorsement.Kind.ADJUSTMENT),
        items=_adjustments,
        number="endorsement_no",
        settle=enrolment.settle_endorsements,
        of_tests=_policy_of_tests,
    ),
    *(
        Talk(
            type=kind,
            rows=lambda kind=kind: Notice.objects.filter(kind=kind),  # type: ignore[misc]
            items=_notices,
            number="",
            settle=enrolment.settle_notices,
            of_tests=_notice_of_tests,
        )
        for kind in (Notice.Kind.LOSS.value, Notice.Kind.CLAIM.value)
    ),
)


# The sweep ----------------------------------------------------------------------------------------------


def sweep(*, now: datetime, seconds: float = 10) -> int:
    """Send what is owed and ask about what is unknown until nothing is due, the insurer is silent or time is up.

    Any number of workers may do so at once. Returns how many rows were settled.
    """
    until = time.monotonic() + seconds
    # Whether there are test merchants is asked first: mostly there are none, and nothing to look for.
    return sum(
        _sweep(line, now=now, until=until)
        for line in _lines()
        if not line.is_test or Merchant.objects.for_tests().exists()
    )


def _sweep(line: Line, *, now: datetime, until: float) -> int:
    settled = 0
    try:
        for talk in TALKS:
            while time.monotonic() < until and (told := _ask_about(talk, line, now=now)) is not None:
                settled += told
        for talk in () if holds.is_held(Run.Partner.INSURER) else TALKS:
            while time.monotonic() < until and (told := _tell(talk, line, now=now)) is not None:
                settled += told
    except _Silence as silence:
        log.warning("the insurer is silent", reason=str(silence), is_test=line.is_test)
    return settled


class PolicyNotDecided(Refused):
    text = _("The insurer's test system did not decide: the policy is %(state)s.")
    remedy = _("Ask for the policy; if it is open still, ask again.")
    can_be_sent_again = True


def have_decided(*, policy: Policy, accepted: bool, now: datetime) -> None:
    """Have the insurer's test side decide about a test merchant's open policy now, which settles it.

    Asked by a SIMULATION message with the enrolment in it, which no live system takes. What the insurer has decided
    before stands, and is told again.

    :raises IllegalMove: the policy is settled.
    :raises PolicyNotDecided: the test side does not answer, or takes no such message.
    """
    talk, line = TALKS[0], _lines()[1]
    with transaction.atomic(durable=True):
        rows = talk.on(line).filter(pk=policy.pk, state__in=_OPEN)
        if not rows.update(state=Policy.State.UNKNOWN, due_at=Now() + timedelta(seconds=LEASE_SECONDS), sent_at=now):
            policy.refresh_from_db(fields=["state"])
            raise IllegalMove(state=policy.state)
        body = {"outcome": "ACCEPTED" if accepted else "DECLINED", "items": talk.items([policy.pk])}
        question = _compose(line, "SIMULATION", body, [policy.request_no], now=now)
    try:
        _exchange(talk, [policy.pk], question)
    except _Silence as silence:
        log.warning("the insurer's test side is silent", reason=str(silence))
    policy.refresh_from_db(fields=["state"])
    if policy.state in _OPEN:
        raise PolicyNotDecided(state=policy.state)


def sweep_tests(*, now: datetime, seconds: float) -> int:
    """The same for test merchants only, while a developer waits."""
    return _sweep(_lines()[1], now=now, until=time.monotonic() + seconds)


def ask_again(rows: QuerySet[Any]) -> int:
    """Let unresolved rows be asked about at once, by the wish of staff; they get all their tries again."""
    return rows.filter(state=Policy.State.UNRESOLVED).update(
        state=Policy.State.UNKNOWN, attempts=0, due_at=Now(), problem=""
    )


def _tell(talk: Talk, line: Line, *, now: datetime) -> int | None:
    """Send owed rows for the first time; None when there are none."""
    most = _room(line)
    if not most:
        return None
    # Durable: were this inside another transaction, the rows would be sent before they are committed as sent.
    with transaction.atomic(durable=True):
        keys = lease(
            talk.on(line).filter(state=Policy.State.PENDING),
            limit=most,
            seconds=LEASE_SECONDS,
            state=Policy.State.UNKNOWN,
            sent_at=now,
        )
        if not keys:
            return None
        if talk.type == "CANCELLATION":
            enrolment.figure_cancellations(keys)
        items = talk.items(keys)
        question = _compose(line, talk.type, {"items": items}, [item["request_no"] for item in items], now=now)
    return _exchange(talk, keys, question).settled


def _ask_about(talk: Talk, line: Line, *, now: datetime) -> int | None:
    """Ask about sent rows; those that never arrived are sent again at once. None when there are none."""
    open_rows = talk.on(line).filter(state__in=[Policy.State.UNKNOWN, Policy.State.UNRESOLVED])
    with transaction.atomic(durable=True):
        keys = lease(open_rows, limit=MOST_ITEMS, seconds=LEASE_SECONDS)
        if not keys:
            return None
        asked = dict(open_rows.model._base_manager.filter(pk__in=keys).values_list("request_no", "pk"))
        question = _compose(line, "STATUS_QUERY", {"request_nos": list(asked)}, list(asked), now=now)
    heard = _exchange(talk, keys, question, resends=True)
    lost = [asked[request_no] for request_no in heard.not_found]
    if not lost:
        return heard.settled
    if holds.is_held(Run.Partner.INSURER):
        _postpone(talk, lost, problem=NOT_FOUND)
        return heard.settled
    with transaction.atomic(durable=True):
        items = talk.items(lost)
        question = _compose(line, talk.type, {"items": items}, heard.not_found, now=now, repeat=True)
        open_rows.model._base_manager.filter(pk__in=lost).update(sent_at=now)
    return heard.settled + _exchange(talk, lost, question).settled


def _room(line: Line) -> int:
    """How many rows may be sent in a new message."""
    last = (
        InsurerMessage.objects.filter(direction=InsurerMessage.Direction.SENT, is_test=line.is_test)
        .exclude(type="BORDEREAU")
        .order_by("-id")
        .values_list("problem", "recorded_at")
        .first()
    )
    if last is None or last[0] not in LINE_DOWN:
        return MOST_ITEMS
    return 0 if (timezone.now() - last[1]).total_seconds() < HOLD_SECONDS else 1


# One exchange -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Heard:
    settled: int
    not_found: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A message on its way, and the rows it speaks of."""

    line: Line
    message: messages.Question
    request_nos: frozenset[str]


def _compose(
    line: Line, type: str, body: Mapping[str, Any], request_nos: Sequence[str], *, now: datetime, repeat: bool = False
) -> _Asked:
    question = messages.compose(
        keys=line.keys,
        type=type,
        request_no=messages.new_request_no(),
        body=body,
        now=now,
        business_date=timezone.localdate(now),
        repeat=repeat,
    )
    InsurerMessage.objects.create(
        direction=InsurerMessage.Direction.SENT,
        message_id=question.message_id,
        type=type,
        request_nos=list(request_nos),
        headers=question.headers,
        body=question.raw,
        is_test=line.is_test,
        recorded_at=timezone.now(),
    )
    return _Asked(line=line, message=question, request_nos=frozenset(request_nos))


def _exchange(talk: Talk, keys: Sequence[UUID], asked: _Asked, *, resends: bool = False) -> _Heard:
    """Send, store what comes back, believe what can be believed, and give every other row its next moment.

    :raises _Silence: when no answer came that could be read at all.
    """
    question = asked.message
    reply = messages.send(url=f"{asked.line.url}messages", question=question, deadline=DEADLINE_SECONDS)
    if reply.raw or reply.status is not None:
        InsurerMessage.objects.create(
            direction=InsurerMessage.Direction.RECEIVED,
            # An answer is known by the message it answers: its own id is in its headers, and not yet believed.
            message_id=question.message_id,
            type="ANSWER",
            in_reply_to=question.message_id,
            headers=reply.headers,
            body=reply.raw,
            status=reply.status,
            problem=reply.failure,
            is_test=asked.line.is_test,
            recorded_at=timezone.now(),
        )
    try:
        answer = messages.believe(reply=reply, question=question, keys=asked.line.keys)
    except messages.Unknown as unknown:
        InsurerMessage.objects.filter(direction=InsurerMessage.Direction.SENT, message_id=question.message_id).update(
            problem=unknown.reason
        )
        log.warning("no believable answer", type=talk.type, reason=unknown.reason, detail=unknown.detail)
        _postpone(talk, keys, problem=unknown.reason)
        if unknown.reason in LINE_DOWN:
            raise _Silence(unknown.reason) from unknown
        return _Heard(settled=0)
    if answer.result != messages.SUCCESS:
        _postpone(talk, keys, problem=IN_PROGRESS if answer.result == messages.IN_PROGRESS else answer.code)
        return _Heard(settled=0)
    verdicts, others = _read(answer.body.get("items"), talk, asked.request_nos)
    settled = talk.settle(verdicts)
    if settled == len(keys):
        return _Heard(settled=settled)
    # Only to a question "not found" is an answer that something follows from: the row is sent again.
    not_found = others.pop(NOT_FOUND, []) if resends else []
    for code, request_nos in others.items():
        _postpone(talk, keys, problem=code, only=request_nos)
    spoken_of = [request_no for request_nos in others.values() for request_no in request_nos]
    _postpone(talk, keys, problem="NO_ANSWER_ABOUT_IT", besides=[*spoken_of, *not_found])
    return _Heard(settled=settled, not_found=not_found)


def _read(items: object, talk: Talk, asked: Container[str] | None = None) -> tuple[list[Verdict], dict[str, list[str]]]:
    """Verdicts on requests, and by their codes the requests about which there is none.

    Whatever cannot be read settles nothing; nor does an answer that says two things of one request, gives one number
    to two, or speaks of what was not ``asked``.
    """
    verdicts: dict[str, Verdict] = {}
    others: dict[str, list[str]] = {}
    contradicted = set()
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        request_no, code = item.get("request_no"), item.get("code")
        if not isinstance(request_no, str) or not isinstance(code, str) or not 0 < len(code) <= 20:
            continue
        if asked is not None and request_no not in asked:
            continue
        verdict = _verdict(request_no, code, item, talk)
        if verdict is None:
            others.setdefault("UNREADABLE" if code == ACCEPTED else code, []).append(request_no)
            contradicted.add(request_no)
        elif verdicts.setdefault(request_no, verdict) != verdict:
            contradicted.add(request_no)
    numbers = Counter(verdict.number for verdict in verdicts.values() if verdict.number)
    believed = [
        verdict
        for verdict in verdicts.values()
        if verdict.request_no not in contradicted and (not verdict.number or numbers[verdict.number] == 1)
    ]
    return believed, others


def _verdict(request_no: str, code: str, item: Mapping[str, Any], talk: Talk) -> Verdict | None:
    if code == ACCEPTED:
        number, accepted_at = item.get(talk.number), _moment(item.get("accepted_at"))
        if accepted_at is None or (talk.number and not (isinstance(number, str) and 0 < len(number) <= 40)):
            return None
        return Verdict(request_no, True, code, number if talk.number else None, accepted_at)
    # A request_no "used with other content" (2001) or "not found" says nothing about what became of ours.
    if code.startswith("1") or code == CANCELLED_BEFORE:
        return Verdict(request_no, False, code, None, None)
    return None


def _moment(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _postpone(
    talk: Talk,
    keys: Sequence[UUID],
    *,
    problem: str,
    only: Sequence[str] | None = None,
    besides: Sequence[str] = (),
) -> None:
    """Give rows that are still open the moment of the next question, or make them unresolved after the last.

    Who says it is in progress is asked again however long it takes.
    """
    if only is not None and not only:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            UPDATE {talk.rows().model._meta.db_table}
            SET due_at = statement_timestamp()
                    + make_interval(secs => coalesce((%(pauses)s::int[])[attempts + 1], %(long)s)),
                state = CASE WHEN attempts < %(tries)s OR %(patient)s THEN state ELSE 'UNRESOLVED' END,
                attempts = least(attempts + 1, CASE WHEN %(patient)s THEN %(tries)s - 1 ELSE %(tries)s END),
                problem = %(problem)s
            WHERE id = ANY(%(keys)s) AND state IN ('UNKNOWN', 'UNRESOLVED')
                AND (%(only)s::text[] IS NULL OR request_no = ANY(%(only)s))
                AND NOT request_no = ANY(%(besides)s::text[])
            """,  # noqa: S608
            {
                "pauses": list(QUERY_PAUSES),
                "long": UNRESOLVED_PAUSE,
                "tries": len(QUERY_PAUSES),
                "patient": problem == IN_PROGRESS,
                "problem": problem[:200],
                "keys": list(keys),
                "only": None if only is None else list(only),
                "besides": list(besides),
            },
        )


# Late answers -------------------------------------------------------------------------------------------


def take_late_answer(*, raw: bytes, headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """Settle what the insurer tells of itself, once, and answer it.

    It is stored before it is acted upon; the same message a second time changes nothing.

    :raises config.messages.Mistrusted: it is not signed by the insurer or not a message; nothing is stored.
    """
    told, lines = _receive(raw, headers)
    keys = lines[0].keys
    try:
        with transaction.atomic():
            InsurerMessage.objects.create(
                direction=InsurerMessage.Direction.RECEIVED,
                message_id=told.message_id[:64],
                type=told.type[:20],
                in_reply_to=told.in_reply_to[:64],
                headers={name: headers.get(name, "") for name in ("webhook-id", "webhook-timestamp")},
                body=raw,
                is_test=lines[0].is_test,
                recorded_at=timezone.now(),
            )
    except IntegrityError:
        return _respond(keys, told, result=messages.REJECTED, code="3003", text="replayed message_id")
    if told.type != "LATE_ANSWER":
        return _respond(keys, told, result=messages.REJECTED, code="9999", text="unknown type of message")
    settled = 0
    for talk in _BY_SETTLING:
        verdicts, _others = _read(told.body.get("items"), talk)
        if len(lines) == 1:
            # What a test system says counts for test cards and for nothing else, and the other way round.
            ours = talk.known_on(lines[0], [verdict.request_no for verdict in verdicts])
            verdicts = [verdict for verdict in verdicts if verdict.request_no in ours]
        settled += talk.settle(verdicts)
    log.info("late answer", settled=settled)
    return _respond(keys, told, result=messages.SUCCESS, code=ACCEPTED)


_BY_SETTLING = tuple({talk.settle: talk for talk in TALKS}.values())


def _receive(raw: bytes, headers: Mapping[str, str]) -> tuple[messages.Message, list[Line]]:
    """A message of the insurer's own, and the lines whose keys it is signed with.

    :raises config.messages.Mistrusted: it is signed with none.
    """
    live, for_tests = _lines()
    try:
        told, lines = messages.receive(raw=raw, headers=headers, keys=live.keys), [live]
    except messages.Mistrusted:
        return messages.receive(raw=raw, headers=headers, keys=for_tests.keys), [for_tests]
    if set(live.keys) & set(for_tests.keys):
        lines.append(for_tests)
    return told, lines


def _respond(
    keys: Sequence[str], told: messages.Message, *, result: str, code: str, text: str = ""
) -> tuple[bytes, dict[str, str]]:
    return messages.respond(
        keys=keys,
        in_reply_to=told.message_id,
        request_no=told.request_no,
        result=result,
        code=code,
        text=text,
    )
