"""The only module that knows how the credit-card points system is spoken to (积分兑换接口).

What is owed stands in rows with a due time: an approved ratio, an exchange, a return. A row is committed as sent before
anything is sent; no transaction is open while the points system is waited for; every message is stored as it stood on
the wire before it is believed. Only a verified, explicit answer settles a row. After silence the deduction is asked
about six times, with many others in one message; then it is reversed, whatever the answers said, until the reversal is
acknowledged; after the last try it waits for staff.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

import structlog
from django.conf import settings
from django.db import DataError, IntegrityError, connection, transaction
from django.db.models import F, Func, Model, Q, QuerySet, Value
from django.db.models.functions import Least, Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from config import messages
from config.errors import Refused
from config.handshakes import QUERY_PAUSES, lease
from config.states import IllegalMove
from issuing.models import Merchant
from points import codes, coupons, exchange, repairs
from points.exchange import Deducted, GivenBack
from points.models import (
    CouponProduct,
    Exchange,
    ExchangeRatio,
    Inquiry,
    PointsAccount,
    PointsMessage,
    PointsReturn,
    Repair,
)
from prepaid import holds
from prepaid.models import Run

log = structlog.get_logger(__name__)

DEADLINE_SECONDS = messages.DEADLINE
LEASE_SECONDS = 30
"""How long a row is ours: well over the deadline of a call, so that nobody asks while somebody waits."""

REVERSAL_PAUSES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Seconds between the tries of a reversal; half an hour in all before staff are asked."""

MOST_ORIGINALS = 500
"""So many deductions are asked about in one message."""

WAITED_FOR = timedelta(minutes=1)
"""Whose deduction was sent within this time may be waiting for it still, and is asked about first."""

MOST_COUPONS = 5_000
"""So many coupons are made for one answer, however few exchanges that is: whoever is next waits no longer."""

BYTES_OF_AN_ITEM = 1024
"""An answer about many may be longer, by the items it has."""

TURN_SECONDS = 1.0
"""How long one kind of work goes on before the next, so that a heap of old rows does not starve what was just asked."""

LINE_DOWN = frozenset({"TIMED_OUT", "CONNECTION_LOST", "HTTP_STATUS"})
ACCEPTED, REVERSED_BEFORE, IN_PROGRESS, NOT_UNDERSTOOD = "0000", "2003", "9998", "9999"
# These say that the message was not understood or not believed, and nothing about what became of the request.
_NOT_ABOUT_IT = frozenset({"2001", "3001", "3002", "3003", "9998", NOT_UNDERSTOOD})
# What is wrong with an answer about many may be the fault of one item: halves are asked about.
_MAY_BE_ONE_ITEM = frozenset({"OVERSIZED", "GARBLED", "HTTP_STATUS"})


class _Silence(Exception):
    """The points system does not answer; nothing more is sent now."""


_SEATS = threading.BoundedSemaphore(settings.POINTS_SYSTEM_WAITING)


@contextmanager
def _seat() -> Iterator[bool]:
    """Whether one more of this process's threads may wait for the points system, with somebody waiting for it in turn.

    A web process has few threads. If all of them waited for a silent points system, no payment would be served.
    """
    has_seat = _SEATS.acquire(blocking=False)
    try:
        yield has_seat
    finally:
        if has_seat:
            _SEATS.release()


def deduct(*, row: Exchange, now: datetime) -> None:
    """Send the deduction request message (积分扣减请求报文) of an owed exchange, once, and settle it by the answer.

    Called by whoever submitted it while the customer waits, and by the clock if that one died. Whoever is second finds
    the row sent. Nothing is raised if no answer comes: the row is UNKNOWN and the clock asks. Where as many wait
    already as may, nothing is sent now: the row is the clock's at once.
    """
    if holds.is_held(Run.Partner.POINTS):
        return
    with _seat() as has_seat:
        if not has_seat:
            Exchange.objects.filter(pk=row.pk, state=Exchange.State.PENDING).update(due_at=Now())
            return
        try:
            _deduct([row], now)
        except _Silence as silence:
            log.warning("the points system is silent", reason=str(silence), exchange=str(row.pk))


def sweep(*, now: datetime, seconds: float = 50) -> int:
    """Do what is due: advise ratios, deduct, ask, reverse, return, repair; until nothing is due, time is up or it
    is silent, which is waited for once.

    Any number of workers may do so at once. Of new exchanges and of unknown ones those that were due last go first in
    every round, for somebody waits for them; then those that have waited longest. Returns how many rows were taken.
    """
    until = time.monotonic() + seconds
    taken = 0
    sides = [False, True]
    while sides and time.monotonic() < until:
        before = taken
        is_held = holds.is_held(Run.Partner.POINTS)
        # Live merchants first; nobody's points wait for a test system that is silent.
        for is_test in tuple(sides):
            try:
                for kind in _KINDS:
                    if is_held and kind.work is not _ask_about:
                        continue
                    turn = min(until, time.monotonic() + TURN_SECONDS)
                    while time.monotonic() < turn and (done := _some(kind, now, is_test=is_test)):
                        taken += done
            except _Silence as silence:
                log.warning("the points system is silent", reason=str(silence), is_test=is_test)
                sides.remove(is_test)
        if taken == before:
            break
    return taken


def _of_test_merchants() -> Q:
    return Q(merchant__in=Merchant.objects.for_tests())


def _of_test_products() -> Q:
    return Q(product__in=CouponProduct.objects.filter(_of_test_merchants()))


def _of_test_exchanges() -> Q:
    return Q(exchange__isnull=False, exchange__in=Exchange.objects.filter(_of_test_merchants()))


class _Kind(NamedTuple):
    """One kind of what may be due: which rows, how many at once, in which order, and what is done about them."""

    rows: Callable[[], QuerySet[Any]]
    work: Callable[[Sequence[Any], datetime], None]
    most: int = 1
    newest: bool = False
    of_tests: Callable[[], Q] = _of_test_merchants


def _some(kind: _Kind, now: datetime, *, is_test: bool) -> int:
    """Do what is due of one kind, for as many rows as are taken at once. Returns how many those were."""
    due = kind.rows().filter(kind.of_tests() if is_test else ~kind.of_tests())
    if kind.work is _ask_about:
        return _inquire(due, kind, now)
    with transaction.atomic(durable=True):
        keys = lease(due, limit=kind.most, seconds=LEASE_SECONDS, newest=kind.newest)
    if keys:
        kind.work(list(due.model.objects.filter(pk__in=keys)), now)
    return len(keys)


def _inquire(due: QuerySet[Exchange], kind: _Kind, now: datetime) -> int:
    """Ask about exchanges that nobody asks about at this moment; each stays as it is until its answer is there.

    Should we die, they are free again after ``LEASE_SECONDS``; so they are after a fault, which would meet them again.
    """
    held = Inquiry.objects.values_list(Func(F("exchanges"), function="unnest"))
    due = due.filter(sent_at__gt=now - WAITED_FOR).order_by("-sent_at") if kind.newest else due.order_by("due_at")
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        # One chooses after the other, so that no exchange stands in two inquiries.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('points_inquiry'))")
        Inquiry.objects.filter(until_at__lte=Now()).delete()
        rows = list(due.filter(due_at__lte=Now()).exclude(pk__in=held).only(*_ASKED_OF)[: kind.most])
        rows = rows[: max(1, sum(end <= MOST_COUPONS for end in accumulate(row.count for row in rows)))]
        if not rows:
            return 0
        inquiry = Inquiry.objects.create(
            exchanges=[row.pk for row in rows], until_at=Now() + timedelta(seconds=LEASE_SECONDS)
        )
    try:
        kind.work(rows, now)
    except _Silence:
        inquiry.delete()
        raise
    inquiry.delete()
    return len(rows)


_ASKED_OF = ("request_no", "reversal_request_no", "merchant_id", "state", "count", "points", "attempts")
"""What is known of an exchange that is asked about: a heap of whole rows would be long to read."""


class ExchangeNotDecided(Refused):
    text = _("The bank's test system did not decide: the exchange is %(state)s.")
    remedy = _("Ask for the exchange; if it is open still, ask again.")
    can_be_sent_again = True


def have_decided(*, row: Exchange, deducted: bool, now: datetime) -> None:
    """Have the points system's test side decide about a test merchant's open exchange now, which settles it.

    Asked by a SIMULATION message with the deduction in it, which no live system takes. What the points system has
    decided before stands, and is told at once.

    :raises IllegalMove: the exchange is settled, or is being reversed.
    :raises ExchangeNotDecided: the test side does not answer, or takes no such message.
    """
    line = _line(row.merchant)
    open_states = [Exchange.State.PENDING, Exchange.State.UNKNOWN]
    if not line.is_test or not Exchange.objects.filter(pk=row.pk, state__in=open_states).update(
        state=Exchange.State.UNKNOWN, sent_at=now, due_at=Now() + timedelta(seconds=LEASE_SECONDS)
    ):
        row.refresh_from_db(fields=["state"])
        raise IllegalMove(state=row.state)
    body = {
        "original": row.request_no,
        "outcome": "DEDUCTED" if deducted else "REFUSED",
        "deduction": _deduction(row),
    }
    try:
        answer = _ask(line, "SIMULATION", messages.new_request_no(), body, now=now, about=[row])
    except messages.Unknown as unknown:
        _postpone([row], QUERY_PAUSES, unknown.reason)
    else:
        _settle([_Said(row, answer.result, answer.code, answer.body)], now)
    row.refresh_from_db()
    if row.state in open_states:
        raise ExchangeNotDecided(state=row.state)


def balance(*, account: PointsAccount, now: datetime) -> int | None:
    """Points available on an account, asked for now (积分查询); None when there is no believable answer."""
    body = {"account": account_number(account)}
    with _seat() as has_seat:
        if not has_seat:
            return None
        try:
            answer = _ask(_line(None), "BALANCE_QUERY", messages.new_request_no(), body, now=now)
        except messages.Unknown:
            return None
    available = answer.body.get("available")
    return available if answer.result == messages.SUCCESS and type(available) is int else None


def ratio_version(ratio: ExchangeRatio) -> str:
    """How a version is named between the two systems, unique over all products."""
    return f"{ratio.product.code}:{ratio.version}"


def account_number(account: PointsAccount) -> str:
    """The account's number, which only the points system is told."""
    return ACCOUNTS.unseal(account.number_sealed)


ACCOUNTS = codes.Vault("COUPON_CODE_KEYS", "points account")


# What is done about each kind ------------------------------------------------------------------------------------


def _advise(rows: Sequence[ExchangeRatio], now: datetime) -> None:
    [ratio] = rows
    body = {
        "ratio_version": ratio_version(ratio),
        "product": ratio.product.code,
        "exchange_ratio": f"{ratio.ratio.normalize():f}",
        "rounding": ratio.rounding,
    }
    try:
        answer = _ask(
            _line(ratio.product.merchant), "RATIO_ADVICE", ratio.request_no, body, now=now, repeat=ratio.attempts > 0
        )
    except messages.Unknown as unknown:
        _unheard([ratio], REVERSAL_PAUSES, unknown)
        return
    if answer.result == messages.SUCCESS:
        ExchangeRatio.objects.filter(pk=ratio.pk).update(advised_at=now, due_at=None, problem="")
    else:
        _postpone([ratio], REVERSAL_PAUSES, answer.code)


def _deduction(row: Exchange) -> dict[str, Any]:
    ratio = row.quote.ratio
    return {
        "account": account_number(row.account),
        "points": row.points,
        "coupon_count": row.count,
        "exchange_ratio": f"{ratio.ratio.normalize():f}",
        "ratio_version": ratio_version(ratio),
        "rounding": ratio.rounding,
    }


def _reversal(original: str, points: int) -> dict[str, Any]:
    return {"original": original, "points": points, "reason": "no believable answer"}


def _returning(row: PointsReturn) -> dict[str, Any]:
    return {
        "return_no": row.pk.hex,
        "original": row.exchange.request_no,
        "points": row.points,
        "coupons": [coupon.hex for coupon in row.coupons.order_by("pk").values_list("pk", flat=True)],
    }


def _deduct(rows: Sequence[Exchange], now: datetime) -> None:
    [row] = rows
    body = _deduction(row)
    with transaction.atomic(durable=True):
        if not Exchange.objects.filter(pk=row.pk, state=Exchange.State.PENDING).update(
            state=Exchange.State.UNKNOWN, sent_at=now, due_at=Now() + timedelta(seconds=LEASE_SECONDS)
        ):
            return
        question = _compose(_line(row.merchant), "DEDUCTION_REQUEST", row.request_no, body, now=now, about=[row])
    try:
        answer = _believe(_line(row.merchant), question)
    except messages.Unknown as unknown:
        _unheard([row], QUERY_PAUSES, unknown)
        return
    _settle([_Said(row, answer.result, answer.code, answer.body)], now)


def _ask_about(rows: Sequence[Exchange], now: datetime) -> None:
    """Ask what became of deductions (扣减结果查询). After the last question they are given up and reversed."""
    last = [row for row in rows if row.attempts >= len(QUERY_PAUSES)]
    if last:
        exchange.give_up_all(exchanges=last)
    asked = {row.request_no: row for row in rows if row.attempts < len(QUERY_PAUSES)}
    if not asked:
        return
    body = {"originals": list(asked)} if len(asked) > 1 else {"original": next(iter(asked))}
    about = list(asked.values())
    try:
        line = _line(about[0].merchant)
        answer = _ask(line, "DEDUCTION_QUERY", messages.new_request_no(), body, now=now, about=about)
    except messages.Unknown as unknown:
        if len(about) > 1 and unknown.reason in _MAY_BE_ONE_ITEM:
            _ask_about_halves(about, now)
        else:
            _unheard(about, QUERY_PAUSES, unknown)
        return
    if len(about) > 1 and answer.code == NOT_UNDERSTOOD:
        _ask_about_halves(about, now)
    else:
        _settle(_said_of(asked, answer), now)


def _ask_about_halves(rows: Sequence[Exchange], now: datetime) -> None:
    middle = len(rows) // 2
    for half in (rows[:middle], rows[middle:]):
        _ask_about(half, now)


class _Said(NamedTuple):
    """What was said of a deduction, in the words of an answer to its request."""

    row: Exchange
    result: str
    code: str
    body: Mapping[str, Any]


def _said_of(asked: Mapping[str, Exchange], answer: messages.Answer) -> Iterator[_Said]:
    """What an answer says of each deduction that was asked about.

    Nothing is said of one that is left out, or spoken of twice, or has the reference of another.
    """
    if answer.result != messages.SUCCESS:
        for row in asked.values():
            yield _Said(row, messages.IN_PROGRESS, answer.code, {})
        return
    told = answer.body.get("items") if len(asked) > 1 else [answer.body]
    items = [item for item in told if isinstance(item, dict)] if isinstance(told, list) else []
    times = Counter(item["original"] for item in items if isinstance(item.get("original"), str))
    references = Counter(item["bank_reference"] for item in items if isinstance(item.get("bank_reference"), str))
    about = {item["original"]: item for item in items if isinstance(item.get("original"), str)}
    for request_no, row in asked.items():
        item = about.get(request_no, {})
        state, code = item.get("state"), item.get("code")
        if not item:
            yield _Said(row, messages.IN_PROGRESS, "NO_ANSWER_ABOUT_IT", {})
        elif times[request_no] > 1 or references[item.get("bank_reference")] > 1:
            yield _Said(row, messages.IN_PROGRESS, "CONTRADICTED", {})
        elif state == "DEDUCTED":
            yield _Said(row, messages.SUCCESS, ACCEPTED, item)
        elif state == "REFUSED" and isinstance(code, str):
            yield _Said(row, messages.REJECTED, code, item)
        else:
            # "Not found" is not final either: the request may still arrive.
            yield _Said(row, messages.IN_PROGRESS, str(code if state is None else state)[:40], {})


def _settle(said: Iterable[_Said], now: datetime) -> None:
    """Do what was said of one exchange or of many: coupons, the end, or the moment of the next question."""
    spoken_of = list(said)
    if not spoken_of or not spoken_of[0].row.merchant.is_test:
        _settle_at(spoken_of, now)
        return
    # All are of one side, and only test merchants have clocks of their own.
    by_clock: dict[datetime, list[_Said]] = {}
    for one in spoken_of:
        by_clock.setdefault(one.row.merchant.moment(now), []).append(one)
    for moment, some in by_clock.items():
        _settle_at(some, moment)


def _settle_at(said: Iterable[_Said], now: datetime) -> None:
    taken: list[tuple[Exchange, Deducted]] = []
    refused: list[tuple[Exchange, str]] = []
    open_still: dict[str, list[Exchange]] = {}
    for row, result, code, body in said:
        deducted = _deducted(body) if result == messages.SUCCESS else None
        if deducted is not None and deducted.points == row.points:
            taken.append((row, deducted))
        elif result == messages.SUCCESS:
            # Some other number of points than we asked for: nothing is made of it, it is asked about and reversed.
            open_still.setdefault("WRONG_POINTS", []).append(row)
        elif result == messages.REJECTED and code not in _NOT_ABOUT_IT:
            refused.append((row, code))
        else:
            open_still.setdefault(code, []).append(row)
    if taken:
        _issue(taken, now)
    if refused:
        exchange.reject_all(refused=refused, now=now)
    for problem, rows in open_still.items():
        _postpone(rows, QUERY_PAUSES, problem)


def _issue(taken: Sequence[tuple[Exchange, Deducted]], now: datetime) -> None:
    """Issue what was deducted; one for which no coupons can be made does not keep the others from theirs."""
    try:
        exchange.issue_all(taken=taken, now=now)
    except (IntegrityError, DataError):
        if len(taken) == 1:
            log.exception("no coupons can be made", exchange=str(taken[0][0].pk))
            _postpone([taken[0][0]], QUERY_PAUSES, "NOT_ISSUED")
            return
        middle = len(taken) // 2
        for half in (taken[:middle], taken[middle:]):
            _issue(half, now)


def _deducted(body: Mapping[str, Any]) -> Deducted | None:
    reference, points, day = body.get("bank_reference"), body.get("points"), body.get("accounting_date")
    if not (isinstance(reference, str) and 0 < len(reference) <= 40 and type(points) is int and isinstance(day, str)):
        return None
    return Deducted(reference, points, day) if _day(day) else None


def _reverse(rows: Sequence[Exchange], now: datetime) -> None:
    """Take a deduction back, or see to it that it never happens (积分冲正)."""
    [row] = rows
    body = _reversal(row.request_no, row.points)
    number = row.reversal_request_no
    if number is None:
        raise AssertionError("a constraint gives every reversal its number")
    try:
        line = _line(row.merchant)
        answer = _ask(line, "REVERSAL_ADVICE", number, body, now=now, repeat=row.attempts > 0, about=[row])
    except messages.Unknown as unknown:
        _unheard([row], REVERSAL_PAUSES, unknown, last=Exchange.State.UNRESOLVED)
        return
    given_back = _given_back(answer, now)
    if given_back is not None and given_back.points in (0, row.points):
        exchange.reversed_(exchange=row, given_back=given_back, now=row.merchant.moment(now))
    elif answer.code == REVERSED_BEFORE and answer.body.get("original_state") == "REVERSED":
        exchange.reversed_(exchange=row, now=row.merchant.moment(now))
    else:
        _postpone([row], REVERSAL_PAUSES, answer.code, last=Exchange.State.UNRESOLVED)


def _return(rows: Sequence[PointsReturn], now: datetime) -> None:
    """Give points back for coupons that are held (积分退还)."""
    [row] = rows
    body = _returning(row)
    PointsReturn.objects.filter(pk=row.pk, state=PointsReturn.State.PENDING).update(
        state=PointsReturn.State.UNKNOWN, sent_at=now
    )
    try:
        line, about = _line(row.exchange.merchant), [row.exchange]
        answer = _ask(line, "RETURN_REQUEST", row.request_no, body, now=now, repeat=row.attempts > 0, about=about)
    except messages.Unknown as unknown:
        _unheard([row], REVERSAL_PAUSES, unknown, last=PointsReturn.State.UNRESOLVED)
        return
    if answer.result == messages.SUCCESS and answer.body.get("points") == row.points:
        coupons.returned(
            row=row,
            bank_reference=_reference(answer.body),
            accounting_date=_day(answer.body.get("accounting_date")) or timezone.localdate(now),
            now=row.exchange.merchant.moment(now),
        )
    elif answer.result == messages.REJECTED and answer.code not in _NOT_ABOUT_IT:
        coupons.return_refused(row=row, code=answer.code, now=row.exchange.merchant.moment(now))
    else:
        _postpone([row], REVERSAL_PAUSES, answer.code, last=PointsReturn.State.UNRESOLVED)


def _given_back(answer: messages.Answer, now: datetime) -> GivenBack | None:
    """What an answer to a reversal says of what went back; None if it does not acknowledge it."""
    body = answer.body
    points = body.get("points")
    if answer.result != messages.SUCCESS or body.get("original_state") not in ("REVERSED", "REFUSED"):
        return None
    if type(points) is not int or points < 0:
        return None
    # Who does not say on which date it counts has it looked for on ours.
    counts = _day(body.get("accounting_date")) or timezone.localdate(now)
    return GivenBack(_reference(body), points, counts, _day(body.get("original_date")) or counts if points else None)


def _reference(body: Mapping[str, Any]) -> str:
    reference = body.get("bank_reference")
    return reference[:40] if isinstance(reference, str) else ""


def _day(text: object) -> date | None:
    try:
        return date.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _repair(rows: Sequence[Repair], now: datetime) -> None:
    """Send what a repair sends: a reversal of its own, or a message again that the points system does not know."""
    [row] = rows
    about = row.exchange
    if row.what == Repair.What.REVERSE:
        type, number, body = "REVERSAL_ADVICE", row.request_no, _reversal(row.original, row.points)
    elif row.points_return is not None:
        type, number, body = "RETURN_REQUEST", row.original, _returning(row.points_return)
        about = row.points_return.exchange
    elif about is None:
        raise AssertionError("what is sent again is a message of an exchange or a return")
    elif row.original == about.request_no:
        type, number, body = "DEDUCTION_REQUEST", row.original, _deduction(about)
    else:
        type, number, body = "REVERSAL_ADVICE", row.original, _reversal(about.request_no, about.points)
    Repair.objects.filter(pk=row.pk, state=Repair.State.PENDING).update(state=Repair.State.UNKNOWN, sent_at=now)
    is_repeat = row.attempts > 0 or row.what == Repair.What.RESUBMIT
    try:
        line = _line(about.merchant if about else None)
        answer = _ask(line, type, number, body, now=now, repeat=is_repeat, about=[about] if about else [])
    except messages.Unknown as unknown:
        _unheard([row], REVERSAL_PAUSES, unknown, last=Repair.State.UNRESOLVED)
        return
    if answer.result == messages.SUCCESS and (posted := _posted(type, row, answer, now)) is not None:
        repairs.done(row=row, posted=posted, now=now)
    elif answer.result == messages.REJECTED and answer.code not in _NOT_ABOUT_IT:
        repairs.refused(row=row, code=answer.code)
    else:
        _postpone([row], REVERSAL_PAUSES, answer.code, last=Repair.State.UNRESOLVED)


def _posted(type: str, row: Repair, answer: messages.Answer, now: datetime) -> Deducted | GivenBack | None:
    """What the points system says it moved, if that is what was asked for."""
    if type == "REVERSAL_ADVICE":
        given_back = _given_back(answer, now)
        return given_back if given_back is not None and given_back.points in (0, row.points) else None
    if answer.body.get("points") != row.points:
        return None
    if type == "DEDUCTION_REQUEST":
        return _deducted(answer.body)
    counts = _day(answer.body.get("accounting_date")) or timezone.localdate(now)
    return GivenBack(_reference(answer.body), row.points, counts)


_KINDS = (
    _Kind(
        lambda: ExchangeRatio.objects.filter(state=ExchangeRatio.State.APPROVED), _advise, of_tests=_of_test_products
    ),
    *(
        kind
        for newest in (True, False)
        for kind in (
            _Kind(lambda: Exchange.objects.filter(state=Exchange.State.PENDING), _deduct, newest=newest),
            _Kind(lambda: Exchange.objects.filter(state=Exchange.State.UNKNOWN), _ask_about, MOST_ORIGINALS, newest),
        )
    ),
    _Kind(lambda: Exchange.objects.filter(state=Exchange.State.REVERSING), _reverse),
    _Kind(
        lambda: PointsReturn.objects.filter(state__in=[PointsReturn.State.PENDING, PointsReturn.State.UNKNOWN]), _return
    ),
    _Kind(
        lambda: Repair.objects.filter(state__in=[Repair.State.PENDING, Repair.State.UNKNOWN]),
        _repair,
        of_tests=_of_test_exchanges,
    ),
)


def _unheard(
    rows: Sequence[Model], pauses: tuple[int, ...], unknown: messages.Unknown, *, last: str | None = None
) -> None:
    """Give rows about which there is no believable answer their next moment.

    :raises _Silence: there is none at all; whoever is next would only wait as long again.
    """
    _postpone(rows, pauses, unknown.reason, last=last)
    if unknown.reason in LINE_DOWN:
        raise _Silence(unknown.reason) from unknown


def _postpone(rows: Sequence[Model], pauses: tuple[int, ...], problem: str, *, last: str | None = None) -> None:
    """The moment of the next try; after the last one state ``last``, or the last pause again and again.

    Who says it is in progress is asked again however long it takes.
    """
    is_patient = problem == IN_PROGRESS
    alike: dict[tuple[type[Model], str, int], list[Any]] = {}
    for row in rows:
        alike.setdefault((type(row), _state_when_open(row), row.attempts), []).append(row.pk)  # type: ignore[attr-defined]
    for (model, state, attempts), keys in alike.items():
        still_open = model._base_manager.filter(pk__in=keys, state=state)
        if last is not None and attempts >= len(pauses) and not is_patient:
            still_open.update(state=last, due_at=None, problem=problem[:200])
            continue
        still_open.update(
            attempts=Least(F("attempts") + 1, Value(len(pauses) - is_patient)),
            due_at=Now() + timedelta(seconds=pauses[min(attempts, len(pauses) - 1)]),
            problem=problem[:200],
        )


def _state_when_open(row: Model) -> str:
    if isinstance(row, PointsReturn | Repair):
        return PointsReturn.State.UNKNOWN
    if isinstance(row, ExchangeRatio):
        return ExchangeRatio.State.APPROVED
    return Exchange.State.REVERSING if row.reversal_request_no else Exchange.State.UNKNOWN  # type: ignore[attr-defined]


# The wire -------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """Where the points system is spoken to: about live merchants, or about test merchants."""

    is_test: bool
    url: str
    keys: Sequence[str]


def _line(merchant: Merchant | None) -> Line:
    """The line for a merchant's rows; customers who only look are live."""
    if merchant is not None and merchant.is_test:
        return Line(True, settings.POINTS_SYSTEM_TEST_URL, settings.POINTS_SYSTEM_TEST_KEYS)
    return Line(False, settings.POINTS_SYSTEM_URL, settings.POINTS_SYSTEM_KEYS)


def _ask(
    line: Line,
    type: str,
    request_no: str,
    body: Mapping[str, Any],
    *,
    now: datetime,
    repeat: bool = False,
    about: Sequence[Exchange] = (),
) -> messages.Answer:
    """:raises Unknown: no answer that can be believed."""
    with transaction.atomic(durable=True):
        question = _compose(line, type, request_no, body, now=now, repeat=repeat, about=about)
    return _believe(line, question, most=max(messages.MOST_ANSWER_BYTES, BYTES_OF_AN_ITEM * len(about)))


def _compose(
    line: Line,
    type: str,
    request_no: str,
    body: Mapping[str, Any],
    *,
    now: datetime,
    repeat: bool = False,
    about: Sequence[Exchange] = (),
) -> messages.Question:
    question = messages.compose(
        keys=line.keys,
        type=type,
        request_no=request_no,
        body=body,
        now=now,
        business_date=timezone.localdate(now),
        repeat=repeat,
    )
    PointsMessage.objects.create(
        direction=PointsMessage.Direction.SENT,
        message_id=question.message_id,
        type=type,
        request_no=request_no,
        exchange=about[0] if len(about) == 1 else None,
        exchanges=[row.pk for row in about] if len(about) > 1 else [],
        headers=question.headers,
        body=question.raw,
        is_test=line.is_test,
        recorded_at=timezone.now(),
    )
    return question


def _believe(line: Line, question: messages.Question, *, most: int = messages.MOST_ANSWER_BYTES) -> messages.Answer:
    reply = messages.send(url=f"{line.url}messages", question=question, deadline=DEADLINE_SECONDS, most=most)
    sent = PointsMessage.objects.filter(direction=PointsMessage.Direction.SENT, message_id=question.message_id)
    if reply.raw or reply.status is not None:
        one, many = sent.values_list("exchange_id", "exchanges").get()
        PointsMessage.objects.create(
            direction=PointsMessage.Direction.RECEIVED,
            # An answer is known by the message it answers: its own id is in its headers, and not yet believed.
            message_id=question.message_id,
            type="ANSWER",
            request_no=question.request_no,
            in_reply_to=question.message_id,
            exchange_id=one,
            exchanges=many,
            headers=reply.headers,
            body=reply.raw,
            status=reply.status,
            problem=reply.failure,
            is_test=line.is_test,
            recorded_at=timezone.now(),
        )
    try:
        return messages.believe(reply=reply, question=question, keys=line.keys)
    except messages.Unknown as unknown:
        sent.update(problem=unknown.reason)
        raise


# Late answers ---------------------------------------------------------------------------------------------------


def take_late_answer(*, raw: bytes, headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """Settle what the points system tells of itself, once, and answer it.

    :raises config.messages.Mistrusted: it is not signed by the points system or not a message; nothing is stored.
    """
    line = _line(None)
    try:
        told = messages.receive(raw=raw, headers=headers, keys=line.keys)
    except messages.Mistrusted:
        line = Line(True, settings.POINTS_SYSTEM_TEST_URL, settings.POINTS_SYSTEM_TEST_KEYS)
        told = messages.receive(raw=raw, headers=headers, keys=line.keys)
    row = Exchange.objects.filter(request_no=told.request_no).select_related("merchant").first()
    if row is not None and not set(_line(row.merchant).keys) & set(line.keys):
        row = None  # what a test system says counts for test merchants and nobody else, and the other way round
    try:
        with transaction.atomic():
            PointsMessage.objects.create(
                direction=PointsMessage.Direction.RECEIVED,
                message_id=told.message_id[:64],
                type=told.type[:20],
                request_no=told.request_no[:64],
                in_reply_to=told.in_reply_to[:64],
                exchange=row,
                headers={name: headers.get(name, "") for name in ("webhook-id", "webhook-timestamp")},
                body=raw,
                is_test=line.is_test,
                recorded_at=timezone.now(),
            )
    except IntegrityError:
        return _respond(line, told, messages.REJECTED, "3003", "replayed message_id")
    said = told.body
    if told.type != "LATE_ANSWER" or not isinstance(said.get("body"), dict):
        return _respond(line, told, messages.REJECTED, "9999", "unknown type of message")
    if row is not None and said.get("type") == "DEDUCTION_REQUEST":
        _settle([_Said(row, str(said.get("result")), str(said.get("code")), said["body"])], timezone.now())
    return _respond(line, told, messages.SUCCESS, ACCEPTED, "")


def _respond(line: Line, told: messages.Message, result: str, code: str, text: str) -> tuple[bytes, dict[str, str]]:
    return messages.respond(
        keys=line.keys,
        in_reply_to=told.message_id,
        request_no=told.request_no,
        result=result,
        code=code,
        text=text,
    )
