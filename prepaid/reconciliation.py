"""Reconciliation: every business date is compared once, and what does not agree waits for staff.

The first half is for every partner: which days are missing, one run per day however many clocks there are, breaks
that a re-run leaves as staff left them. The second half is the first such partner: the ledger against itself.

A business date is a local day of ``TIME_ZONE``; its cut-off is midnight. Transactions belong to the day they were
recorded on: what is recorded late about an earlier day is new on the day it arrives.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import structlog
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Min
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from config.errors import Refused, SamePerson
from config.states import IllegalMove
from prepaid.models import Break, BreakStep, Run, Transaction

log = structlog.get_logger(__name__)

SETTLING = timedelta(minutes=5)
"""How long after the cut-off a day is left alone: what carries a moment before midnight may be committed after it."""

LEASE = timedelta(minutes=30)
"""For how long a run belongs to the worker that began it; after that another takes it over."""

RETRY = timedelta(minutes=10)
"""How long a failed run waits before the clock tries it again: a partner's file may only be late."""

FOUR_EYES_FROM = 100_000
"""From this difference on, in fen, a break is resolved by somebody other than the one who took it."""

FOUR_EYES_FROM_POINTS = 10_000
"""The same in credit-card points."""

NEAR = timedelta(days=7)
"""How far apart two days may be whose breaks are suggested as the same thing."""

LONGEST_WAIT = timedelta(days=31)
"""How long a break may be carried over at a time."""


class DayNotOver(Refused):
    text = _("The business date %(date)s is not over yet: it can be reconciled after midnight.")


class RunInProgress(Refused):
    text = _("The business date %(date)s is being reconciled at this moment.")


class NotAMatch(Refused):
    text = _("Only a break of ours and one of the partner's with equal figures can be the same thing.")


class NotALaterDay(Refused):
    status = 422
    text = _("A break waits for a day ahead, at most %(days)s days from today.")


class ResolutionNeeded(Refused):
    status = 400
    text = _("Say how the difference was resolved.")


class OwnerNeeded(Refused):
    text = _("A difference of this size takes two people: one takes it, another one does this.")


class Finding(NamedTuple):
    """What does not agree. ``subject`` names it within the run (a card, a request no., a total); ``ours`` and
    ``theirs`` are plain data, with the figure in fen under ``amount``, or in points under ``points``, if there is one.
    """

    type: Break.Type
    subject: str
    merchant_id: UUID | None = None
    card_id: UUID | None = None
    ours: dict[str, Any] | None = None
    theirs: dict[str, Any] | None = None


class Comparison(NamedTuple):
    """What one day's comparison gave: how much was compared, totals to show, and what does not agree."""

    compared: int
    totals: dict[str, Any]
    findings: Iterable[Finding]


Compare = Callable[[Run], Comparison]


# Days ----------------------------------------------------------------------------------------------------------


def zone() -> ZoneInfo:
    return ZoneInfo(settings.TIME_ZONE)


def business_date(at: datetime) -> date:
    """The business date a moment belongs to."""
    return at.astimezone(zone()).date()


def span(day: date) -> tuple[datetime, datetime]:
    """The moments from which and until before which things belong to the business date."""
    return (
        datetime.combine(day, time.min, zone()),
        datetime.combine(day + timedelta(days=1), time.min, zone()),
    )


def last_date(now: datetime) -> date:
    """The latest business date that is over and settled."""
    return business_date(now - SETTLING) - timedelta(days=1)


def missed(*, partner: Run.Partner, first_date: date, now: datetime) -> list[date]:
    """Business dates from ``first_date`` that were never reconciled to the end, in order."""
    done = set(Run.objects.filter(partner=partner, state=Run.State.DONE).values_list("business_date", flat=True))
    days = (last_date(now) - first_date).days + 1
    return [day for n in range(days) if (day := first_date + timedelta(days=n)) not in done]


# Runs ----------------------------------------------------------------------------------------------------------


def catch_up(*, partner: Run.Partner, first_date: date | None, compare: Compare, now: datetime) -> list[Run]:
    """Reconcile every missed business date in order and return the runs that were made.

    A day that fails is left FAILED, tried again later, and does not keep the days after it waiting. A day that
    another worker is at ends the round: the order is kept across workers. ``first_date`` is None when nothing has
    happened yet.
    """
    if first_date is None:
        return []
    runs = []
    for day in missed(partner=partner, first_date=first_date, now=now):
        run = begin(partner=partner, business_date=day, now=now)
        if run is not None:
            runs.append(carry_out(run=run, compare=compare, now=now))
        elif Run.objects.filter(partner=partner, business_date=day, state=Run.State.RUNNING).exists():
            break
    return runs


def run_by_hand(*, partner: Run.Partner, business_date: date, compare: Compare, now: datetime) -> Run:
    """Reconcile one business date because a person asks for it, whether it was done before or not.

    :raises DayNotOver: the date is today or later.
    :raises RunInProgress: somebody is at it.
    """
    if business_date > last_date(now):
        raise DayNotOver(date=business_date.isoformat())
    run = begin(partner=partner, business_date=business_date, now=now, again=True)
    if run is None:
        raise RunInProgress(date=business_date.isoformat())
    return carry_out(run=run, compare=compare, now=now)


def begin(*, partner: Run.Partner, business_date: date, now: datetime, again: bool = False) -> Run | None:
    """Take the run of a business date, or None when it is done, failed a moment ago or somebody else's.

    One statement decides between any number of clocks; ``again`` takes a run that is done, or failed, as well.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO prepaid_run AS r (partner, business_date, state, due_at, compared, totals, problem, started_at)
            VALUES (%(partner)s, %(date)s, 'RUNNING', now() + make_interval(secs => %(lease)s), 0, '{}', '', %(now)s)
            ON CONFLICT (partner, business_date) DO UPDATE
            SET state = 'RUNNING', due_at = excluded.due_at, started_at = excluded.started_at, finished_at = NULL,
                problem = ''
            WHERE CASE r.state WHEN 'DONE' THEN %(again)s WHEN 'FAILED' THEN %(again)s OR r.due_at <= now()
                  ELSE r.due_at <= now() END
            RETURNING id
            """,
            {"partner": partner, "date": business_date, "lease": LEASE.total_seconds(), "now": now, "again": again},
        )
        row = cursor.fetchone()
    return Run.objects.get(pk=row[0]) if row else None


def carry_out(*, run: Run, compare: Compare, now: datetime) -> Run:
    """Compare, keep what was found and close the run: DONE, or FAILED with the problem.

    Whatever goes wrong in comparing is this run's result and is logged; it never stops the clock or another day.
    """
    try:
        comparison = compare(run)
        found = record(run=run, findings=comparison.findings, now=now)
    except Exception as problem:
        log.exception("reconciliation failed", partner=run.partner, business_date=run.business_date.isoformat())
        run.move(
            Run.State.FAILED,
            problem=f"{type(problem).__name__}: {problem}"[:2000],
            due_at=Now() + RETRY,
            finished_at=now,
        )
        run.refresh_from_db()
        return run
    run.move(
        Run.State.DONE,
        compared=comparison.compared,
        totals={**comparison.totals, "breaks": found},
        due_at=None,
        finished_at=now,
    )
    log.info("reconciled", partner=run.partner, business_date=run.business_date.isoformat(), breaks=found)
    return run


# Breaks --------------------------------------------------------------------------------------------------------


def record(*, run: Run, findings: Iterable[Finding], now: datetime) -> int:
    """Keep findings as breaks of the run and return how many there were.

    A break that is there already keeps its owner, state and resolution; while it is open its figures follow.
    """
    found = 0
    waiting = iter(findings)
    while part := list(islice(waiting, 1000)):
        with connection.cursor() as cursor:
            cursor.executemany(
                """
                INSERT INTO prepaid_break AS b (run_id, type, subject, merchant_id, card_id, ours, theirs, state,
                                                resolution, recorded_at)
                VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s::jsonb, 'OPEN', '', %s)
                ON CONFLICT (run_id, type, subject) DO UPDATE SET ours = excluded.ours, theirs = excluded.theirs
                WHERE b.state = 'OPEN'
                """,
                [
                    (run.pk, one.type, one.subject, one.merchant_id, one.card_id, _json(one.ours),
                     _json(one.theirs), now)
                    for one in part
                ],
            )  # fmt: skip
        found += len(part)
    return found


def _json(facts: dict[str, Any] | None) -> str | None:
    return None if facts is None else json.dumps(facts)


def take(*, found: Break, owner: User, now: datetime) -> None:
    """Make an open break somebody's; it may be handed on while it is open.

    :raises IllegalMove: it is resolved.
    """
    with transaction.atomic():
        if not Break.objects.filter(pk=found.pk, state=Break.State.OPEN).update(owner=owner):
            raise IllegalMove(state=found.state)
        _step(found, BreakStep.What.TAKEN, "", owner, now)
    found.owner = owner


def resolve(*, found: Break, resolution: str, by: User, now: datetime) -> None:
    """Close a break with the words of how it was resolved.

    :raises ResolutionNeeded, SamePerson, OwnerNeeded, IllegalMove:
    """
    words = _said(resolution, "/resolution")
    _check_large(found, by)
    with transaction.atomic():
        found.move(Break.State.RESOLVED, resolution=words, resolved_by=by, resolved_at=now)
        _step(found, BreakStep.What.RESOLVED, words, by, now)


def match(*, found: Break, other: Break, reason: str, by: User, now: datetime) -> None:
    """Resolve two breaks as one thing that the two sides hold under different numbers or days.

    :raises NotAMatch: they are not one of each side of the same partner, or their figures differ.
    :raises ResolutionNeeded, SamePerson, OwnerNeeded, IllegalMove:
    """
    words = _said(reason, "/reason")
    if (
        {found.type, other.type} != {Break.Type.LOCAL_ONLY, Break.Type.PARTNER_ONLY}
        or found.run.partner != other.run.partner
        or is_in_points(found) != is_in_points(other)
        or difference(found) != difference(other)
    ):
        raise NotAMatch()
    # In one order for everybody: two people who match the same pair would otherwise wait for each other.
    for one in sorted((found, other), key=lambda one: one.pk):
        _check_large(one, by)
    with transaction.atomic():
        for one, its in sorted(((found, other), (other, found)), key=lambda pair: pair[0].pk):
            one.move(Break.State.RESOLVED, resolution=words, resolved_by=by, resolved_at=now)
            _step(one, BreakStep.What.MATCHED, words, by, now, counterpart=its)


def counterparts(found: Break, *, most: int = 5) -> list[Break]:
    """Open breaks of the other side that could be the same thing: of equal figures, the nearest day first."""
    if found.type not in _OTHER_SIDE or found.state != Break.State.OPEN:
        return []
    name = "points" if is_in_points(found) else "amount"
    side = "theirs" if found.type == Break.Type.LOCAL_ONLY else "ours"
    day = found.run.business_date
    fitting = Break.objects.filter(
        state=Break.State.OPEN,
        type=_OTHER_SIDE[Break.Type(found.type)],
        run__partner=found.run.partner,
        run__business_date__range=(day - NEAR, day + NEAR),
        **{f"{side}__{name}": difference(found)},
    ).select_related("run", "owner")
    # On a day on which a hundred of one amount are open, the nearest of the first hundred help as well.
    return sorted(fitting[:100], key=lambda one: (abs(one.run.business_date - day), one.pk))[:most]


def carry_over(*, found: Break, until: date, reason: str, by: User, now: datetime) -> None:
    """Let an open break wait for a later day's file. It stays open, and its age goes on.

    :raises NotALaterDay: the day is not ahead, or further than ``LONGEST_WAIT``.
    :raises ResolutionNeeded: no reason is given. :raises IllegalMove: it is resolved.
    """
    words = _said(reason, "/reason")
    today = business_date(now)
    if not today < until <= today + LONGEST_WAIT:
        raise NotALaterDay(days=LONGEST_WAIT.days)
    with transaction.atomic():
        if not Break.objects.filter(pk=found.pk, state=Break.State.OPEN).update(waits_until_date=until):
            raise IllegalMove(state=found.state)
        _step(found, BreakStep.What.CARRIED, words, by, now, until_date=until)
    found.waits_until_date = until


def reopen(*, found: Break, reason: str, by: User, now: datetime) -> None:
    """Open a resolved break again. What was written as its resolution stays to be read until the next one.

    Of two that were matched only this one is opened: the other side has to be looked at by itself.

    :raises ResolutionNeeded: no reason is given. :raises IllegalMove: it is open.
    """
    words = _said(reason, "/reason")
    with transaction.atomic():
        found.move(Break.State.OPEN, resolved_by=None, resolved_at=None, waits_until_date=None)
        _step(found, BreakStep.What.REOPENED, words, by, now)


def _step(found: Break, what: BreakStep.What, reason: str, by: User, now: datetime, **more: Any) -> None:
    BreakStep.objects.create(found=found, what=what, reason=reason, by=by, recorded_at=now, **more)


def _said(words: str, pointer: str) -> str:
    if not words.strip():
        raise ResolutionNeeded(pointer=pointer)
    return words.strip()[:300]


def _check_large(found: Break, by: User) -> None:
    if is_large(found):
        check_two_people(found=found, by=by)


_OTHER_SIDE = {
    Break.Type.LOCAL_ONLY: Break.Type.PARTNER_ONLY,
    Break.Type.PARTNER_ONLY: Break.Type.LOCAL_ONLY,
}


def check_two_people(*, found: Break, by: User) -> None:
    """What is large is one person's to look into and another one's to end.

    :raises OwnerNeeded: nobody has taken the break.
    :raises SamePerson: this is who took it.
    """
    if found.owner_id is None:
        raise OwnerNeeded()
    if found.owner_id == by.pk:
        raise SamePerson()


def is_large(found: Break) -> bool:
    return difference(found) >= (FOUR_EYES_FROM_POINTS if is_in_points(found) else FOUR_EYES_FROM)


def is_in_points(found: Break) -> bool:
    return "points" in (found.ours or found.theirs or {})


def difference(found: Break) -> int:
    """How far the two sides are apart, in fen or in points; what one side does not have counts as nothing there."""
    name = "points" if is_in_points(found) else "amount"
    return abs(((found.ours or {}).get(name) or 0) - ((found.theirs or {}).get(name) or 0))


# The ledger against itself -------------------------------------------------------------------------------------


def ledger_days(*, now: datetime) -> list[Run]:
    """What the clock does: every business date since the first transaction, once each, in order."""
    first = Transaction.objects.aggregate(first=Min("recorded_at"))["first"]
    return catch_up(
        partner=Run.Partner.LEDGER,
        first_date=first and business_date(first),
        compare=compare_ledger,
        now=now,
    )


def ledger_day(*, business_date: date, now: datetime) -> Run:
    """One business date of the ledger, asked for by a person.

    :raises DayNotOver, RunInProgress:
    """
    return run_by_hand(partner=Run.Partner.LEDGER, business_date=business_date, compare=compare_ledger, now=now)


def compare_ledger(run: Run) -> Comparison:
    """Entries against balances, balances against each other, totals of the day by kind.

    Loads are summed against every card and sub-cards against every load; entries are replayed only for the cards
    that something happened to on the day, and summed as a whole for all the others. Only if that sum is off is
    every card replayed. Each question is one statement, so it sees one moment of a ledger that goes on moving,
    and its memory is PostgreSQL's ``work_mem`` however many cards there are.
    """
    start, end = span(run.business_date)
    by_kind = _rows(_TOTALS_BY_KIND, {"start": start, "end": end})
    [(cards, in_cards, in_test_cards, in_sub_cards, in_entries)] = _rows(_TOTALS_OF_ALL, {})
    whole = in_sub_cards != in_entries
    sides: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for kind, unit, is_test, count, ours, theirs in by_kind:
        figures = {"kind": kind, "unit": unit, "count": count, "transactions": ours, "entries": theirs}
        sides[is_test].append(figures)
    # Test merchants are checked like all others and shown apart: what they hold is not money.
    totals = {
        "by_kind": sides[False],
        "of_tests": {"by_kind": sides[True], "cards": in_test_cards},
        "all": {"cards": in_cards, "sub_cards": in_sub_cards, "entries": in_entries},
    }
    return Comparison(cards, totals, _ledger_findings(run, by_kind, start, end, whole))


def _ledger_findings(
    run: Run, by_kind: Sequence[tuple[Any, ...]], start: datetime, end: datetime, whole: bool
) -> Iterator[Finding]:
    for kind, unit, is_test, _count, ours, theirs in by_kind:
        if ours != theirs:
            yield Finding(
                Break.Type.TOTALS_DIFFER,
                f"{kind} {unit}{' test' if is_test else ''}",
                ours={"amount": ours},
                theirs={"amount": theirs},
            )
    with connection.chunked_cursor() as cursor:
        cursor.execute(_WRONG_CARDS, {"start": start, "end": end, "whole": whole})
        while rows := cursor.fetchmany(500):
            _freeze([card for card, *_rest in rows], run)
            for card, merchant, in_card, in_loads, in_sub_cards, in_entries, sub_cards in rows:
                log.error("balance differs from its entries", card=str(card), card_says=in_card, entries=in_entries)
                yield Finding(
                    Break.Type.BALANCE_DIFFERS,
                    str(card),
                    merchant,
                    card,
                    ours={"amount": in_card, "loads": in_loads, "sub_cards": in_sub_cards},
                    theirs={"amount": in_entries, "sub_cards": json.loads(sub_cards or "[]")},
                )


def _freeze(cards: Sequence[UUID], run: Run) -> None:
    """Nobody spends from a balance that is not understood. Cards whose break was resolved are left as they are."""
    with connection.cursor() as cursor:
        cursor.execute(_FREEZE, {"cards": list(cards), "run": run.pk, "now": run.started_at})


def _rows(query: str, facts: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, facts)
        return cursor.fetchall()


_TOTALS_BY_KIND = """
    SELECT t.kind, t.unit, m.test_of_id IS NOT NULL AS is_test, count(*), sum(t.amount)::bigint,
           coalesce(sum(e.amount), 0)::bigint
    FROM prepaid_transaction t JOIN issuing_merchant m ON m.id = t.merchant_id
    LEFT JOIN LATERAL (SELECT sum(amount) AS amount FROM prepaid_entry WHERE transaction_id = t.id) e ON true
    WHERE t.recorded_at >= %(start)s AND t.recorded_at < %(end)s
    GROUP BY t.kind, t.unit, is_test ORDER BY t.kind, t.unit, is_test
"""

_TOTALS_OF_ALL = """
    SELECT (SELECT count(*) FROM prepaid_card), (SELECT coalesce(sum(remaining), 0)::bigint FROM prepaid_card),
           (SELECT coalesce(sum(remaining), 0)::bigint FROM prepaid_card
            WHERE merchant_id IN (SELECT id FROM issuing_merchant WHERE test_of_id IS NOT NULL)),
           (SELECT coalesce(sum(remaining), 0)::bigint FROM prepaid_subcard),
           (SELECT coalesce(sum(amount), 0)::bigint FROM prepaid_entry)
"""

_WRONG_CARDS = """
    WITH touched AS (
        SELECT DISTINCT card_id FROM prepaid_transaction
        WHERE %(whole)s OR recorded_at >= %(start)s AND recorded_at < %(end)s
    ),
    replayed AS (
        SELECT card_id, sub_card_id, sum(amount) AS amount, bool_or(balance_after <> running) AS astray
        FROM (
            SELECT e.card_id, e.sub_card_id, e.amount, e.balance_after,
                   sum(e.amount) OVER (PARTITION BY e.sub_card_id ORDER BY e.id) AS running
            FROM prepaid_entry e JOIN touched USING (card_id)
        ) e
        GROUP BY card_id, sub_card_id
    ),
    wrong AS (
        SELECT s.card_id FROM prepaid_subcard s JOIN touched USING (card_id)
        LEFT JOIN replayed r ON r.sub_card_id = s.id
        WHERE s.remaining <> coalesce(r.amount, 0) OR r.astray
        UNION
        SELECT t.card_id FROM prepaid_transaction t
        LEFT JOIN LATERAL (SELECT sum(amount) AS amount FROM prepaid_entry WHERE transaction_id = t.id) e ON true
        WHERE t.recorded_at >= %(start)s AND t.recorded_at < %(end)s AND t.amount <> coalesce(e.amount, 0)
        UNION
        SELECT l.card_id FROM prepaid_load l
        LEFT JOIN (SELECT load_id, sum(remaining) AS remaining FROM prepaid_subcard GROUP BY load_id) s
               ON s.load_id = l.id
        WHERE l.remaining IS DISTINCT FROM s.remaining
        UNION
        SELECT c.id FROM prepaid_card c
        LEFT JOIN (SELECT card_id, sum(remaining) AS remaining FROM prepaid_load GROUP BY card_id) l
               ON l.card_id = c.id
        WHERE c.remaining IS DISTINCT FROM l.remaining
    )
    SELECT c.id, c.merchant_id, c.remaining,
           (SELECT sum(remaining)::bigint FROM prepaid_load WHERE card_id = c.id),
           (SELECT sum(remaining)::bigint FROM prepaid_subcard WHERE card_id = c.id),
           (SELECT coalesce(sum(amount), 0)::bigint FROM prepaid_entry WHERE card_id = c.id),
           (SELECT jsonb_agg(jsonb_build_object('sub_card', s.seq, 'balance', s.remaining, 'entries', e.amount)
                             ORDER BY s.seq)
            FROM prepaid_subcard s
            CROSS JOIN LATERAL (SELECT coalesce(sum(amount), 0)::bigint AS amount
                                FROM prepaid_entry WHERE card_id = c.id AND sub_card_id = s.id) e
            WHERE s.card_id = c.id AND s.remaining <> e.amount)
    FROM wrong JOIN prepaid_card c ON c.id = wrong.card_id
"""

_FREEZE = """
    WITH frozen AS (
        UPDATE prepaid_card c SET state = 'FROZEN'
        WHERE c.id = ANY (%(cards)s) AND c.state = 'ACTIVE' AND NOT EXISTS (
            SELECT FROM prepaid_break b WHERE b.run_id = %(run)s AND b.card_id = c.id AND b.state = 'RESOLVED')
        RETURNING c.id
    )
    INSERT INTO prepaid_cardmove (card_id, from_state, to_state, reason, by, recorded_at)
    SELECT id, 'ACTIVE', 'FROZEN', 'balance differs from its entries', 'reconciliation', %(now)s FROM frozen
"""
