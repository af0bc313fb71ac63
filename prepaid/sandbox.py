"""What a test merchant may do with its own world: move its clock, and fail (docs/api/sandbox.md).

Nothing here is done otherwise than in earnest. Time that has passed lets the same verbs run that the clock calls; a
failure is declared and confirmed by two users of the program's own, so that four eyes stay two people in the
database, and its claims are filed, assessed, approved and paid by the same jobs.
"""

from datetime import date, datetime
from time import monotonic

import structlog
from django.contrib.auth.models import User
from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext_lazy as _

from claims import adjudication
from claims.models import Claim, InsuredEvent
from config.errors import NotFound, Refused
from config.states import IllegalMove
from insurance import adjustment, insurer
from issuing import merchants
from issuing.models import Merchant
from points import coupons

log = structlog.get_logger(__name__)

MAKER, APPROVER = "sandbox-maker", "sandbox-approver"
"""Who declares and assesses in a drill, and who confirms, approves and pays."""

SECONDS = 5.0
"""How long an asker is kept waiting for what follows; the clock does the rest."""

_OPEN = [Claim.State.FILED, Claim.State.ASSESSED, Claim.State.APPROVED]


class DrillNotFound(NotFound):
    text = _("This test merchant has no insured event.")
    remedy = _("Begin a drill first.")


class DrillGoingOn(Refused):
    text = _("Claims of this drill are open still.")
    remedy = _("Ask for the drill until it is done, then send the same request again.")
    can_be_sent_again = True


# The clock ------------------------------------------------------------------------------------------------------


def move_clock(*, merchant: Merchant, seconds: int | None, to: datetime | None, now: datetime) -> None:
    """Move a test merchant's clock ahead, by so much or to a moment. ``now`` is our own time.

    :raises merchants.NotATestMerchant, merchants.ClockGoesBack, merchants.ClockTooFarAhead:
    """
    if to is not None:
        merchants.set_clock(merchant, to=to, now=now)
    else:
        merchants.advance_clock(merchant, seconds=seconds or 0)


def catch_up(*, merchant: Merchant, now: datetime) -> None:
    """Have everything happen that is due by a test merchant's clock. What is left undone the clock does later.

    ``now`` is our own time: what is owed to the insurer goes out before and after cover has ended.
    """
    coupons.expire_by_test_clock(merchant=merchant, now=now)
    insurer.sweep_tests(now=now, seconds=SECONDS)
    if adjustment.owe_due(now=now, merchant=merchant):
        insurer.sweep_tests(now=now, seconds=SECONDS)


# The drill ------------------------------------------------------------------------------------------------------


def begin_default(*, merchant: Merchant, loss_date: date, by: str, now: datetime) -> InsuredEvent:
    """Let a test merchant fail: its insured event is declared and confirmed. ``now`` is by its clock.

    :raises merchants.NotATestMerchant:
    :raises adjudication.LossInFuture, adjudication.AlreadyDeclared:
    """
    if not merchant.is_test:
        raise merchants.NotATestMerchant()
    event = adjudication.declare(
        merchant=merchant,
        trigger=InsuredEvent.Trigger.CLOSED_DOWN,
        loss_date=loss_date,
        evidence=f"drill, {by}",
        by=_actor(MAKER),
        now=now,
    )
    adjudication.confirm(event=event, by=_actor(APPROVER), now=now)
    return event


def _actor(name: str) -> User:
    """A user that nobody can sign in as."""
    found = User.objects.filter(username=name).first()
    if found is None:
        found, _made = User.objects.get_or_create(username=name, defaults={"is_active": False, "password": "!"})
    return found


def last_drill(merchant: Merchant) -> InsuredEvent:
    """The test merchant's latest insured event, with it at hand.

    :raises DrillNotFound:
    """
    ours = InsuredEvent.objects.filter(merchant=merchant, merchant__in=Merchant.objects.for_tests())
    event = ours.exclude(state=InsuredEvent.State.WITHDRAWN).select_related("merchant").order_by("-pk").first()
    if event is None:
        raise DrillNotFound()
    return event


def is_done(event: InsuredEvent) -> bool:
    """Whether every claim of a drill has come to its end."""
    return event.job != "" and event.due_at is None and not _open_claims(event)


def carry_on_drills(*, now: datetime) -> int:
    """What the clock does: take each drill that is not done one step further; how many there were."""
    waiting = Exists(Claim.objects.filter(event=OuterRef("pk"), state__in=_OPEN))
    drills = InsuredEvent.objects.filter(
        Q(job="") | waiting,
        state=InsuredEvent.State.CONFIRMED,
        declared_by__username=MAKER,
        merchant__in=Merchant.objects.for_tests(),
    )
    found = list(drills.select_related("merchant"))
    for event in found:
        carry_on(event=event, now=now)
    return len(found)


def carry_on(*, event: InsuredEvent, now: datetime, seconds: float = SECONDS) -> None:
    """Have a drill's claims filed, assessed, approved and paid, as far as it goes in so many seconds.

    Each step is asked for as staff ask, by what state its claims are in, so that it can be broken off anywhere. Any
    number of workers may do so at once. ``now`` is our own time.
    """
    until = monotonic() + seconds
    while monotonic() < until:
        try:
            if event.due_at is None and not _ask_for_next(event, event.merchant.moment(now)):
                return
        except (adjudication.JobInProgress, IllegalMove):
            return  # somebody else is at it
        adjudication.carry_on(now=now, seconds=max(0.0, until - monotonic()), only=event)
        event.refresh_from_db()
        if event.due_at is not None:
            return  # somebody else is at it, or there is more than fits into the time: the clock goes on


def _ask_for_next(event: InsuredEvent, now: datetime) -> bool:
    maker, approver = _actor(MAKER), _actor(APPROVER)
    if event.state != InsuredEvent.State.CONFIRMED or event.declared_by_id != maker.pk:
        return False
    states = set(_open_claims(event))
    if not event.job:
        adjudication.file_all(event=event, by=maker, now=now)
    elif Claim.State.FILED in states:
        adjudication.assess_all(event=event, by=maker, now=now)
    elif Claim.State.ASSESSED in states:
        adjudication.approve_all(event=event, by=approver, now=now)
    elif Claim.State.APPROVED in states:
        adjudication.pay_all(event=event, by=approver, now=now)
    else:
        return False
    return True


def _open_claims(event: InsuredEvent) -> list[str]:
    return list(Claim.objects.filter(event=event, state__in=_OPEN).values_list("state", flat=True).distinct())


def reset(*, merchant: Merchant) -> InsuredEvent:
    """End a test merchant's drill: it may issue, and fail, again. What was recorded stays, and so does its clock.

    :raises DrillNotFound: it has not failed.
    :raises DrillGoingOn, adjudication.JobInProgress:
    """
    event = last_drill(merchant)
    if event.state != InsuredEvent.State.CONFIRMED:
        raise DrillNotFound()
    if not is_done(event):
        raise DrillGoingOn()
    adjudication.end_drill(event=event)
    return event
