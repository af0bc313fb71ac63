"""What is done about a break with the points system, by the clock where the rules say so, otherwise by staff.

A break that is a message of ours leads to its exchange or return; one that only the points system has leads there by
the deduction it speaks of. Every repair is a row: of each kind one for a break, whoever asks for it and however often.
"""

from datetime import datetime
from typing import NamedTuple

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from config.states import IllegalMove
from points import coupons, exchange
from points.exchange import Deducted, GivenBack
from points.models import Coupon, Exchange, PointsReturn, Repair
from points.parameters import ReasonNeeded
from prepaid import reconciliation
from prepaid.models import Break, Run

What = Repair.What

_OPEN_EXCHANGE = (
    Exchange.State.PENDING, Exchange.State.UNKNOWN, Exchange.State.REVERSING, Exchange.State.UNRESOLVED,
)  # fmt: skip
_OPEN_RETURN = (PointsReturn.State.PENDING, PointsReturn.State.UNKNOWN, PointsReturn.State.UNRESOLVED)
_MOVES_POINTS = frozenset({What.REVERSE, What.RESUBMIT, What.UNFREEZE})
BY_THE_CLOCK = "the statement of the points system has it settled"


class RepairNotPossible(Refused):
    text = _("This does not repair this break, or no longer: look at the exchange again.")


class Subject(NamedTuple):
    """What a break is about, as far as we hold it."""

    exchange: Exchange | None
    points_return: PointsReturn | None = None


def subject_of(found: Break) -> Subject:
    """The exchange or return whose message a break is about, or that the points system's message speaks of."""
    number = found.subject
    row = Exchange.objects.filter(Q(request_no=number) | Q(reversal_request_no=number)).first()
    if row is not None:
        return Subject(row)
    points_return = PointsReturn.objects.select_related("exchange").filter(request_no=number).first()
    if points_return is not None:
        return Subject(points_return.exchange, points_return)
    repair = Repair.objects.select_related("exchange").filter(request_no=number).first()
    if repair is not None:
        return Subject(repair.exchange)
    original = (found.theirs or {}).get("original")
    return Subject(Exchange.objects.filter(request_no=original).first() if original else None)


def breaks_of(row: Exchange) -> list[Break]:
    """The breaks that are about an exchange, its reversal or its returns."""
    numbers = [row.request_no, *row.returns.values_list("request_no", flat=True)]
    if row.reversal_request_no:
        numbers.append(row.reversal_request_no)
    named = Break.objects.filter(subject__in=numbers, run__partner=Run.Partner.POINTS)
    return list(named.select_related("run", "owner").order_by("pk"))


def to_be_asked() -> QuerySet[Break]:
    """Breaks of messages that the points system has settled and we have not, and were not asked about because of it."""
    number = OuterRef("subject")
    open_exchange = Exchange.objects.filter(
        Q(request_no=number) | Q(reversal_request_no=number), state__in=_OPEN_EXCHANGE, settlement=""
    )
    open_return = PointsReturn.objects.filter(request_no=number, state__in=_OPEN_RETURN)
    asked = Repair.objects.filter(found=OuterRef("pk"), what=What.ASK_AGAIN)
    breaks = Break.objects.filter(
        state=Break.State.OPEN, type=Break.Type.STATE_DIFFERS, run__partner=Run.Partner.POINTS
    )
    return breaks.filter(Exists(open_exchange) | Exists(open_return), ~Exists(asked)).select_related("run")


def possible(found: Break) -> set[str]:
    """The kinds of repair that fit a break as things stand now, and were not done yet."""
    if not _is_open(found):
        return set()
    about = subject_of(found)
    fits = {what for what in What.values if _fits(What(what), found, about)}
    return fits - set(Repair.objects.filter(found=found).values_list("what", flat=True))


def _is_open(found: Break) -> bool:
    return found.state == Break.State.OPEN and found.run.partner == Run.Partner.POINTS


def _fits(what: What, found: Break, about: Subject) -> bool:
    theirs, ours, row = found.theirs or {}, found.ours or {}, about.exchange
    state = row.state if row is not None else None
    if what == What.ASK_AGAIN:
        if about.points_return is not None:
            return about.points_return.state in _OPEN_RETURN
        return row is not None and state in _OPEN_EXCHANGE and not row.settlement
    if what == What.REVERSE:
        taken = theirs.get("type") == "DEDUCTION_REQUEST" and theirs.get("state") == "ACCEPTED"
        # An open one is asked again and reversed by itself; for an issued one there are coupons.
        settled_without = state in (None, Exchange.State.REJECTED, Exchange.State.REVERSED)
        return taken and settled_without and (theirs.get("points") or 0) > 0
    if what == What.RESUBMIT:
        if found.type != Break.Type.LOCAL_ONLY:
            return False
        if about.points_return is not None:
            return about.points_return.state == PointsReturn.State.RETURNED
        expected = {"DEDUCTION_REQUEST": Exchange.State.ISSUED, "REVERSAL_ADVICE": Exchange.State.REVERSED}
        is_ours = row is not None and found.subject in (row.request_no, row.reversal_request_no)
        return is_ours and state == expected.get(str(ours.get("type")))
    if what == What.FREEZE:
        return row is not None and row.coupons.filter(state=Coupon.State.ACTIVE).exists()
    return Repair.objects.filter(found=found, what=What.FREEZE).exists()


def repair(*, found: Break, what: What, reason: str, by: User | None, now: datetime) -> Repair:
    """Repair a break in one way, once; asked for again, the repair that was made is the answer. ``by`` None: the clock.

    What moves points, or frees coupons, takes two people from ``reconciliation.FOUR_EYES_FROM_POINTS`` on.

    :raises RepairNotPossible: it does not fit the break.
    :raises ReasonNeeded, OwnerNeeded, SamePerson:
    """
    made = _made(found, what)
    if made is not None:
        return made
    if not reason.strip():
        raise ReasonNeeded()
    about = subject_of(found)
    points = points_at_stake(found=found, what=what, about=about)
    try:
        if not (_is_open(found) and _fits(what, found, about)):
            raise RepairNotPossible()
        if by is not None and takes_two(what=what, points=points):
            reconciliation.check_two_people(found=found, by=by)
        with transaction.atomic():
            return _repair(found, what, about, points, reason.strip()[:200], by, now)
    except (RepairNotPossible, IllegalMove, IntegrityError):
        # Somebody may have asked for the same at the same moment; a constraint lets only one through.
        made = _made(found, what)
        if made is None:
            raise RepairNotPossible() from None
        return made


def _made(found: Break, what: What) -> Repair | None:
    return Repair.objects.filter(found=found, what=what).first()


def points_at_stake(*, found: Break, what: What, about: Subject) -> int:
    """How many points a repair moves, or how many were paid for the coupons that it holds or frees."""
    if what == What.REVERSE:
        return int((found.theirs or {}).get("points") or 0)
    if about.points_return is not None:
        return about.points_return.points
    return about.exchange.points if about.exchange is not None else 0


def takes_two(*, what: str, points: int) -> bool:
    return what in _MOVES_POINTS and points >= reconciliation.FOUR_EYES_FROM_POINTS


def _repair(
    found: Break, what: What, about: Subject, points: int, reason: str, by: User | None, now: datetime
) -> Repair:
    is_message = what in (What.REVERSE, What.RESUBMIT)
    row = Repair.objects.create(
        found=found,
        what=what,
        state=Repair.State.PENDING if is_message else Repair.State.DONE,
        exchange=about.exchange,
        points_return=about.points_return,
        original=found.subject,
        points=points,
        reason=reason,
        by=by,
        owner_id=found.owner_id,
        due_at=now if is_message else None,
        recorded_at=now,
        done_at=None if is_message else now,
    )
    who = f"staff:{by.get_username()}"[:60] if by else "clock"
    if what == What.ASK_AGAIN and about.points_return is not None:
        coupons.ask_now(row=about.points_return)
    elif what == What.ASK_AGAIN and about.exchange is not None:
        exchange.ask_now(exchange=about.exchange, now=now)
    elif what == What.FREEZE and about.exchange is not None:
        coupons.freeze_all(exchange=about.exchange, reason=reason, by=who, now=now)
    elif what == What.UNFREEZE and about.exchange is not None:
        frozen = Repair.objects.get(found=found, what=What.FREEZE)
        coupons.unfreeze_all(exchange=about.exchange, frozen_at=frozen.recorded_at, reason=reason, by=who, now=now)
    return row


def ask_again(*, row: Repair) -> None:
    """Let an unresolved repair be sent again, with all its tries, under the number it has.

    :raises IllegalMove: it is not unresolved.
    """
    row.move(Repair.State.UNKNOWN, attempts=0, due_at=Now())


# Outcomes -------------------------------------------------------------------------------------------------------


def done(*, row: Repair, posted: Deducted | GivenBack, now: datetime) -> bool:
    """Record that the points system did what a repair asked for, and what it is known by from now on."""
    with transaction.atomic():
        moved = Repair.objects.filter(pk=row.pk, state=Repair.State.UNKNOWN).update(
            state=Repair.State.DONE,
            bank_reference=posted.bank_reference,
            accounting_date=posted.accounting_date,
            points=posted.points,
            done_at=now,
            due_at=None,
            problem="",
        )
        if moved and row.what == What.RESUBMIT:
            _keep(row, posted)
    return bool(moved)


def _keep(row: Repair, posted: Deducted | GivenBack) -> None:
    if isinstance(posted, Deducted):
        if row.exchange is not None:
            exchange.deducted_again(exchange=row.exchange, deducted=posted)
    elif row.points_return is not None:
        coupons.returned_again(
            row=row.points_return, bank_reference=posted.bank_reference, accounting_date=posted.accounting_date
        )
    elif row.exchange is not None:
        exchange.reversed_again(exchange=row.exchange, given_back=posted)


def refused(*, row: Repair, code: str) -> bool:
    """Record that the points system refused what a repair asked for: a person has to find another way."""
    return bool(
        Repair.objects.filter(pk=row.pk, state=Repair.State.UNKNOWN).update(
            state=Repair.State.REJECTED, refusal_code=code[:20], due_at=None, problem=""
        )
    )
