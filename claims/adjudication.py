"""From a merchant's failure to the holders' compensation (the patent's claims module, 赔付模块).

    declare → confirm           the insured event; a second person; the merchant fails
    file                        the card is frozen at the moment of loss
    assess                      from the balance at the loss date, with a worksheet
    approve / reject            another person than the one who assessed
    pay                         takes the value off the card, so nothing is both spent and compensated; what was
                                paid in after the loss stays on it, owed by the merchant
    look_again                  what arrives later from before the loss is assessed again, or supplemented

Each verb has two forms: for one claim, and for all of an event. The second leaves a job on the event's row, and the
clock carries it on in slices (``carry_on``), each one transaction, with the progress on that row. Both forms are the
same statement, whether for one card or for hundreds of thousands.
"""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import structlog
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, transaction
from django.db.models import Count, Exists, F, OuterRef, Q
from django.db.models.functions import Abs, Now
from django.utils.translation import gettext_lazy as _

from claims import compensation
from claims.models import Claim, InsuredEvent
from config import tiers
from config.errors import NotTheMaker, Refused, SamePerson
from config.handshakes import lease, new_request_no
from config.ids import new_id, public_id
from config.states import IllegalMove
from insurance.models import Insurer, Notice, Policy
from issuing import events, merchants
from issuing.models import Event, Merchant
from prepaid import ledger, valuation
from prepaid.models import Card, Load, Transaction

log = structlog.get_logger(__name__)

FORMULA = f"{compensation.FORMULA} {valuation.FORMULA}"

SLICE = {
    InsuredEvent.Job.FILE: 20_000,
    InsuredEvent.Job.ASSESS: 100_000,
    InsuredEvent.Job.APPROVE: 20_000,
    InsuredEvent.Job.PAY: 10_000,
}
"""How many claims of a job are one transaction: long enough to be set-based, short enough not to be waited for."""

LEASE = 300
"""Seconds for which one worker has an event's job; it takes up a slice's time many times over."""


class EvidenceNeeded(Refused):
    status = 422
    text = _("Say what shows that the merchant failed.")


class LossInFuture(Refused):
    status = 422
    text = _("The loss date has not come yet.")
    remedy = _("Name today or an earlier day, or move the test clock ahead.")


class AlreadyDeclared(Refused):
    text = _("An insured event of this merchant is declared already.")
    remedy = _("Ask for the one that is there, or end it first.")


class NoInsuredEvent(Refused):
    text = _("No insured event is confirmed for this card's merchant.")
    remedy = _("File the claim once the insured event is confirmed.")
    can_be_sent_again = True


class AlreadyClaimed(Refused):
    text = _("A claim for this card is filed already.")
    remedy = _("Ask for the claim that is there.")


class NothingToClaim(Refused):
    text = _("There is nothing on this card to claim for: nothing is left of what was paid in before the loss.")
    remedy = _("Nothing: an empty or closed card has no loss.")


class ReasonNeeded(Refused):
    status = 422
    text = _("Give the reason: the holder is owed it (Insurance Law, art. 24).")


class AmountNegative(Refused):
    status = 422
    text = _("An amount that is deducted is not below zero.")


class AssessmentOutdated(Refused):
    text = _("The ledger or the cover changed since this was assessed: it is to be assessed again.")


class JobInProgress(Refused):
    text = _("The clock is still at work for this event: wait until it has finished.")
    remedy = _("Wait some seconds and send the same request again.")
    can_be_sent_again = True


# The insured event ---------------------------------------------------------------------------------------------


def declare(
    *, merchant: Merchant, trigger: str, loss_date: date, evidence: str, by: User, now: datetime
) -> InsuredEvent:
    """Record that a merchant failed. Nothing follows from it until a second person confirms it.

    ``loss_date`` is a date of the merchant's time zone: what occurred before its midnight counts.

    :raises EvidenceNeeded, LossInFuture, AlreadyDeclared:
    """
    if not evidence.strip():
        raise EvidenceNeeded(pointer="/evidence")
    if loss_date > now.astimezone(ZoneInfo(merchant.time_zone)).date():
        raise LossInFuture(pointer="/loss_date")
    try:
        with transaction.atomic():
            return InsuredEvent.objects.create(
                merchant=merchant,
                trigger=InsuredEvent.Trigger(trigger),
                loss_date=loss_date,
                evidence=evidence.strip(),
                declared_by=by,
                recorded_at=now,
            )
    except IntegrityError as error:
        raise AlreadyDeclared() from error


def confirm(*, event: InsuredEvent, by: User, now: datetime) -> None:
    """Let a declared event count: the merchant issues and tops up nothing more, each of its insurers is told.

    :raises SamePerson: whoever declared it.
    :raises IllegalMove: it was confirmed or withdrawn.
    """
    if event.declared_by_id == by.pk:
        raise SamePerson()
    with transaction.atomic():
        event.move(InsuredEvent.State.CONFIRMED, confirmed_by=by, confirmed_at=now)
        merchants.fail(event.merchant, now)
        covering = Policy.objects.filter(
            product__insurer=OuterRef("pk"), merchant=event.merchant_id, state=Policy.State.ACCEPTED
        )
        insurers = Insurer.objects.filter(Exists(covering))
        Notice.objects.bulk_create(
            Notice(
                kind=Notice.Kind.LOSS,
                insurer=insurer,
                subject=event.pk,
                body={
                    "merchant": event.merchant.code,
                    "trigger": event.trigger,
                    "loss_date": event.loss_date.isoformat(),
                },
                due_at=Now(),
                recorded_at=now,
            )
            for insurer in insurers
        )


def end_drill(*, event: InsuredEvent) -> None:
    """Let a test merchant's insured event be over: it may issue and fail again. Its claims stay as they are.

    :raises merchants.NotATestMerchant: what happened in earnest is never over.
    :raises JobInProgress:
    :raises IllegalMove: the event is not confirmed, or somebody was first.
    """
    with transaction.atomic():
        merchants.recover(event.merchant)
        if not InsuredEvent.objects.select_for_update().filter(pk=event.pk, due_at=None).exists():
            raise JobInProgress()
        event.move(InsuredEvent.State.ENDED)


def withdraw(*, event: InsuredEvent) -> None:
    """Take back a declaration that nobody confirmed.

    :raises IllegalMove: it was confirmed; then the merchant has failed and claims may stand on it.
    """
    event.move(InsuredEvent.State.WITHDRAWN)


def loss_at(event: InsuredEvent) -> datetime:
    """The moment of loss: the midnight that begins the loss date where the merchant is."""
    return datetime.combine(event.loss_date, time.min, ZoneInfo(event.merchant.time_zone))


# Filing --------------------------------------------------------------------------------------------------------


def file_claim(*, card: Card, by: str, now: datetime, reference: str = "") -> Claim:
    """File the claim of one card and freeze the card at the moment of loss; the insurer is told.

    A card without accepted cover is claimed for as well: the holder's right against the merchant is worked out, of
    which nothing is insured.

    :raises NoInsuredEvent, AlreadyClaimed, NothingToClaim:
    :raises ReferenceUsed: the merchant's reference stands on another claim.
    """
    event = (
        InsuredEvent.objects.filter(merchant=card.merchant_id, state=InsuredEvent.State.CONFIRMED)
        .select_related("merchant")
        .first()
    )
    if event is None:
        raise NoInsuredEvent()
    _refuse_used_reference(card.merchant_id, reference)
    try:
        with transaction.atomic():
            filed = _file(event, which="card.id = %(card)s", card=card.pk, by=by, now=now, reference=reference, size=1)
    except IntegrityError:
        # Another card was claimed for under this reference at the same moment.
        _refuse_used_reference(card.merchant_id, reference)
        raise
    if not filed:
        card.refresh_from_db()
        if card.state in (Card.State.CLAIMED, Card.State.COMPENSATED):
            raise AlreadyClaimed()
        raise NothingToClaim()
    card.refresh_from_db()
    return Claim.objects.get(pk=filed[0])


def _refuse_used_reference(merchant_id: UUID, reference: str) -> None:
    used = reference and Claim.objects.filter(merchant=merchant_id, reference=reference).first()
    if used:
        raise ledger.ReferenceUsed(detail=public_id("clm", used.pk))


def file_all(*, event: InsuredEvent, by: User, now: datetime) -> None:
    """Have the clock file claims for all cards of the merchant that something is left on.

    A card whose claim was rejected is left out: that one is filed again by hand, or not.

    :raises NoInsuredEvent: the event is not confirmed.
    :raises JobInProgress:
    """
    if event.state != InsuredEvent.State.CONFIRMED:
        raise NoInsuredEvent()
    held = Load.objects.filter(card=OuterRef("pk"), remaining__gt=0, occurred_at__lt=loss_at(event))
    cards = Card.objects.filter(
        Exists(held), merchant=event.merchant_id, state__in=["ACTIVE", "FROZEN", "LOST"], remaining__gt=0
    ).exclude(claims__event=event)
    _leave_job(event, InsuredEvent.Job.FILE, total=cards.count(), by=by)


def _file(event: InsuredEvent, *, which: str, size: int, now: datetime, **facts: Any) -> Sequence[UUID]:
    filed = _column(
        _FILE.format(which=which),
        {
            **_facts(event, now=now, size=size),
            "reason": "claim filed",
            "reference": "",
            "claims": [new_id() for _n in range(size)],
            **facts,
        },
    )
    _tell_insurers(filed, now)
    return filed


def _tell_insurers(claims: Sequence[UUID], now: datetime) -> None:
    """Owe each insurer the notice of the claims among these that stand on a policy of its."""
    facts: dict[str, Any] = {
        "claims": claims,
        "notices": [new_id() for _claim in claims],
        "request_nos": [new_request_no() for _claim in claims],
        "now": now,
    }
    with connection.cursor() as cursor:
        cursor.execute(_TELL_INSURERS, facts)


# Assessing -----------------------------------------------------------------------------------------------------


def assess(
    *, claim: Claim, by: User, now: datetime, refunded_by_merchant: int | None = None, excluded: int | None = None
) -> Claim:
    """Work out one claim from the balance at the loss date; an assessment that is not approved yet is replaced.

    ``refunded_by_merchant`` is what the holder was given outside the ledger, ``excluded`` the part over the legal
    limit or of a card lost or unlawfully obtained, in fen; what is not given stays as it was. Interest runs at the
    one-year LPR of the day the card was opened (法释〔2025〕4号, art. 16), from the loss date to today, and is no
    part of what is insured; where no rate is recorded for that day it stays unknown.

    :raises AmountNegative:
    :raises IllegalMove: the claim is approved, paid or rejected.
    """
    given = {
        name: amount
        for name, amount in (("refunded_by_merchant", refunded_by_merchant), ("excluded", excluded))
        if amount is not None
    }
    if any(amount < 0 for amount in given.values()):
        raise AmountNegative()
    with transaction.atomic():
        if claim.state == Claim.State.ASSESSED:
            claim.move(Claim.State.FILED)
        if claim.state != Claim.State.FILED:
            raise IllegalMove(state=claim.state)
        Claim.objects.filter(pk=claim.pk, state=Claim.State.FILED).update(**given)
        if not _assess(claim.event, which="c.id = %(claim)s", claim=claim.pk, by=by.pk, now=now, size=1):
            raise IllegalMove(state=Claim.objects.values_list("state", flat=True).get(pk=claim.pk))
    claim.refresh_from_db()
    return claim


def assess_all(*, event: InsuredEvent, by: User, now: datetime) -> None:
    """Have the clock assess every filed claim of the event.

    :raises JobInProgress:
    """
    _leave_job(event, InsuredEvent.Job.ASSESS, total=_count(event, Claim.State.FILED), by=by)


def _assess(event: InsuredEvent, *, which: str, size: int, now: datetime, **facts: Any) -> int:
    today = now.astimezone(ZoneInfo(event.merchant.time_zone)).date()
    with connection.cursor() as cursor:
        cursor.execute(
            _ASSESS.format(which=which, in_force=_IN_FORCE.format(loss_date="%(loss_date)s::date")),
            {**_facts(event, now=now, size=size), "today": today, "formula": FORMULA, **facts},
        )
        return cursor.rowcount


# Deciding ------------------------------------------------------------------------------------------------------


def approve(*, claim: Claim, by: User, now: datetime) -> None:
    """Agree to what was assessed.

    :raises SamePerson: whoever assessed it.
    :raises AboveTier: its compensation takes a senior approver.
    :raises AssessmentOutdated: later facts change the figure; the claim is back among the filed ones.
    :raises IllegalMove: it is not assessed, or somebody was first.
    """
    if claim.state == Claim.State.ASSESSED and claim.assessed_by_id == by.pk:
        raise SamePerson()
    facts = {"claim": claim.pk, "by": by.pk, "most": _most(claim.event, by)}
    _decide_one(claim, _approve(claim.event, which="c.id = %(claim)s", now=now, size=1, **facts), by=by)


def approve_all(*, event: InsuredEvent, by: User, now: datetime) -> int:
    """Have the clock approve every assessed claim of the event; outdated ones go back to be assessed again.

    Returns how many are left to a senior approver, since their compensation is above what ``by`` decides about.

    :raises SamePerson: whoever assessed any of them.
    :raises JobInProgress:
    """
    if Claim.objects.filter(event=event, state=Claim.State.ASSESSED, assessed_by=by).exists():
        raise SamePerson()
    total, left = within_tier(event, Claim.State.ASSESSED, by)
    _leave_job(event, InsuredEvent.Job.APPROVE, total=total, by=by)
    return left


def withdraw_assessment(*, claim: Claim, by: User) -> None:
    """Take back an assessment that nobody has decided about: the claim is to be assessed again.

    :raises NotTheMaker: somebody else assessed it.
    :raises IllegalMove: it is not assessed, or somebody was first.
    """
    with transaction.atomic():
        claim.hold()
        if claim.state == Claim.State.ASSESSED and claim.assessed_by_id != by.pk:
            raise NotTheMaker()
        if claim.state != Claim.State.ASSESSED:
            raise IllegalMove(state=claim.state)
        claim.move(Claim.State.FILED)


def _approve(event: InsuredEvent, *, which: str, size: int, now: datetime, **facts: Any) -> list[bool]:
    """For each claim looked at, whether it was approved; the others were outdated and are filed again."""
    return [
        state == Claim.State.APPROVED
        for state in _column(
            _APPROVE.format(which=which, outdated=_OUTDATED, within_tier=_WITHIN_TIER),
            {**_facts(event, now=now, size=size), **facts},
        )
    ]


def _decide_one(claim: Claim, outcome: list[bool], *, by: User) -> None:
    before = claim.state
    claim.refresh_from_db()
    if not outcome:
        if claim.state == before and not claim.event.merchant.is_test:
            tiers.check(amount=claim.payable, by=by)
        raise IllegalMove(state=claim.state)
    if not outcome[0]:
        raise AssessmentOutdated()


def reject(*, claim: Claim, reason: str, by: User, now: datetime) -> None:
    """Refuse a claim with its reason; the card goes back to where it was before it was filed.

    A supplement's card stays claimed or compensated: what came back to it waits for another supplement.

    :raises ReasonNeeded:
    :raises SamePerson: whoever assessed it.
    :raises IllegalMove: it is approved, paid or rejected.
    """
    if not reason.strip():
        raise ReasonNeeded(pointer="/reason")
    if claim.state == Claim.State.ASSESSED and claim.assessed_by_id == by.pk:
        raise SamePerson()
    with transaction.atomic():
        claim.move(Claim.State.REJECTED, reason=reason.strip()[:300], approved_by=by, decided_at=now)
        events.record(
            Event.Type.CLAIM_REJECTED,
            merchant_id=claim.merchant_id,
            subject_id=claim.pk,
            card_id=claim.card_id,
            state=claim.state,
            now=now,
        )
        with connection.cursor() as cursor:
            facts: dict[str, Any] = {"claim": claim.pk, "by": _name(by), "now": now}
            if claim.kind == Claim.Kind.ORIGINAL:
                cursor.execute(_UNFREEZE, facts)
            else:
                # Everything up to here was looked at and refused: only what comes after it makes another one.
                cursor.execute(_LOOKED_AT.format(cover_now=_COVER_NOW), facts)
    claim.refresh_from_db()


# Paying --------------------------------------------------------------------------------------------------------


def pay(*, claim: Claim, by: User, now: datetime) -> None:
    """Record that an approved claim is paid: its value comes off the card and off the cover, and the insurer may
    recover it from the merchant (追偿).

    :raises AboveTier: its compensation takes a senior approver.
    :raises AssessmentOutdated: later facts change the figure; the claim is back among the filed ones.
    :raises IllegalMove: it is not approved, or somebody was first.
    """
    facts = {"claim": claim.pk, "by": _name(by), "most": _most(claim.event, by)}
    _decide_one(claim, _pay(claim.event, which="c.id = %(claim)s", now=now, size=1, **facts), by=by)


def pay_all(*, event: InsuredEvent, by: User, now: datetime) -> int:
    """Have the clock pay every approved claim of the event; outdated ones go back to be assessed again.

    Returns how many are left to a senior approver, since their compensation is above what ``by`` decides about.

    :raises JobInProgress:
    """
    total, left = within_tier(event, Claim.State.APPROVED, by)
    _leave_job(event, InsuredEvent.Job.PAY, total=total, by=by)
    return left


def _most(event: InsuredEvent, by: User) -> int | None:
    """Below how many fen of compensation ``by`` decides here; a test merchant's claims are nobody's money."""
    return None if event.merchant.is_test else tiers.limit(by)


def within_tier(event: InsuredEvent, state: Claim.State, by: User) -> tuple[int, int]:
    """How many claims of the event in a state ``by`` may decide about by their amount, and how many are left over."""
    most = _most(event, by)
    small = Q() if most is None else Q(size__lt=most)
    sums = (
        Claim.objects.filter(event=event, state=state)
        .annotate(size=Abs("payable"))
        .aggregate(all=Count("pk"), small=Count("pk", filter=small) if small else Count("pk"))
    )
    return sums["small"], sums["all"] - sums["small"]


def _pay(event: InsuredEvent, *, which: str, size: int, now: datetime, **facts: Any) -> list[bool]:
    """For each claim looked at, whether it was paid; the others were outdated and are filed again."""
    facts = {**_facts(event, now=now, size=size), **facts}
    with transaction.atomic():
        # The cards first, like everyone who writes the ledger: what is read after this cannot change any more.
        facts["cards"] = _column(_LOCK_CARDS.format(which=which, within_tier=_WITHIN_TIER), facts)
        rows = _rows(_LOCK_CLAIMS.format(outdated=_OUTDATED, within_tier=_WITHIN_TIER), facts)
        due = [(claim, card, state) for claim, card, state, outdated in rows if not outdated]
        claimed = [(card, str(claim), event.loss_date) for claim, card, state in due if state == Card.State.CLAIMED]
        taken = ledger.take_off(kind=Transaction.Kind.COMPENSATION, cards=claimed, occurred_at=now, now=now)
        facts["claims"] = [claim for claim, _card, _state in due]
        facts["emptied"] = [card for card, _reference, _date in claimed]
        facts["outdated"] = [claim for claim, _card, _state, outdated in rows if outdated]
        with connection.cursor() as cursor:
            cursor.execute(_SETTLE_CLAIMS, facts)
            if taken != len(claimed) or cursor.rowcount != len(due):
                raise RuntimeError("what is locked was moved by somebody else: nothing is paid")
            for statement in (_SETTLE_POLICIES, _OPEN_RECOVERIES, _MOVE_CARDS, _FILE_AGAIN):
                cursor.execute(statement, facts)
    return [not outdated for _claim, _card, _state, outdated in rows]


# What arrives later --------------------------------------------------------------------------------------------


def look_again(*, now: datetime) -> tuple[int, int]:
    """Find the claims that no longer say what the ledger and the cover say; how many went back, and how many
    supplements were filed.

    An open claim goes back to be assessed again. A paid one stays as it is and is followed by a SUPPLEMENT, whose
    figures are the differences: below zero when the late facts show that too much was paid.
    """
    with transaction.atomic():
        back = len(_column(_SEND_BACK.format(outdated=_OUTDATED), {}))
        claims = _column(_PAID_AND_OUTDATED.format(outdated=_OUTDATED), {"size": SLICE[InsuredEvent.Job.FILE]})
        made = _column(_SUPPLEMENT, {"claims": claims, "ids": [new_id() for _claim in claims], "now": now})
        _tell_insurers(made, now)
        # Cover that was not accepted yet when the claim was filed.
        _tell_insurers(_column(_UNTOLD, {"size": SLICE[InsuredEvent.Job.FILE]}), now)
    if back or made:
        log.info("claims looked at again", sent_back=back, supplements=len(made))
    return back, len(made)


# Jobs ----------------------------------------------------------------------------------------------------------


def carry_on(*, now: datetime, seconds: float = 20, only: InsuredEvent | None = None) -> int:
    """What the clock does: carry on the jobs left on events, slice by slice, for so many seconds; how many claims.

    With ``only``, the job of that event if it is due.

    A slice and its progress are one commit, so a worker that dies has done whole slices and nothing twice.
    """
    until = monotonic() + seconds
    done = 0
    due = InsuredEvent.objects.all() if only is None else InsuredEvent.objects.filter(pk=only.pk)
    for key in lease(due, limit=10, seconds=LEASE):
        event = InsuredEvent.objects.select_related("merchant", "job_by").get(pk=key)
        slice_done = 1
        while slice_done and monotonic() < until:
            with transaction.atomic():
                slice_done = _slice(event, event.merchant.moment(now))
                InsuredEvent.objects.filter(pk=key).update(
                    job_done=F("job_done") + slice_done,
                    due_at=Now() + timedelta(seconds=LEASE) if slice_done else None,
                )
            done += slice_done
        if slice_done:
            InsuredEvent.objects.filter(pk=key).update(due_at=Now())
        else:
            log.info("job finished", job=event.job, merchant=event.merchant.code)
    return done


def _leave_job(event: InsuredEvent, job: InsuredEvent.Job, *, total: int, by: User) -> None:
    """Leave work for the clock on the event's row, unless it is still at work there."""
    left = InsuredEvent.objects.filter(pk=event.pk, due_at=None).update(
        job=job, job_by=by, job_total=total, job_done=0, due_at=Now()
    )
    if not left:
        raise JobInProgress()
    event.refresh_from_db()


def _slice(event: InsuredEvent, now: datetime) -> int:
    staff = event.job_by
    if staff is None:
        raise RuntimeError(f"nobody asked for the job of event {event.pk}")
    name = _name(staff)
    job = InsuredEvent.Job(event.job)
    size = SLICE[job]
    match job:
        case InsuredEvent.Job.FILE:
            return len(_file(event, which=_NOT_CLAIMED, size=size, now=now, by=name))
        case InsuredEvent.Job.ASSESS:
            return _assess(event, which=_OF_EVENT, size=size, now=now, by=staff.pk)
        case InsuredEvent.Job.APPROVE:
            most = _most(event, staff)
            return len(_approve(event, which=_OF_EVENT, size=size, now=now, by=staff.pk, most=most))
        case InsuredEvent.Job.PAY:
            most = _most(event, staff)
            return len(_pay(event, which=_OF_EVENT, size=size, now=now, by=name, most=most))


def _name(by: User) -> str:
    """Who did it, as it is written down where a merchant's key may have done it too."""
    return f"staff:{by.username}"[:60]


def _count(event: InsuredEvent, state: Claim.State) -> int:
    return Claim.objects.filter(event=event, state=state).count()


def _facts(event: InsuredEvent, *, now: datetime, size: int) -> dict[str, Any]:
    return {
        "event": event.pk,
        "merchant": event.merchant_id,
        "zone": event.merchant.time_zone,
        "loss_date": event.loss_date,
        "loss_at": loss_at(event),
        "now": now,
        "size": size,
    }


def _rows(query: str, facts: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, facts)
        return cursor.fetchall()


def _column(query: str, facts: dict[str, Any]) -> list[Any]:
    return [row[0] for row in _rows(query, facts)]


# Statements ----------------------------------------------------------------------------------------------------

_SQL = Path(__file__).resolve().parent / "sql"
_FILE = (_SQL / "file.sql").read_text(encoding="utf-8")
_ASSESS = (_SQL / "assess.sql").read_text(encoding="utf-8")

_OF_EVENT = "c.event_id = %(event)s"
_NOT_CLAIMED = "NOT EXISTS (SELECT FROM claims_claim c WHERE c.card_id = card.id AND c.event_id = %(event)s)"

# Cover that counts: accepted, begun, past its waiting time, not over on the loss date.
_IN_FORCE = """p.state = 'ACCEPTED' AND {loss_date} >= p.cover_from_date + d.waiting_days
    AND {loss_date} < p.cover_to_date"""

_COVER_NOW = f"""coalesce((
    SELECT p.sum_insured FROM insurance_policy p JOIN insurance_product d ON d.id = p.product_id
    JOIN claims_insuredevent v ON v.id = c.event_id
    WHERE p.card_id = c.card_id AND {_IN_FORCE.format(loss_date="v.loss_date")}), 0)"""  # noqa: S608  constants

# Once a card is claimed only what occurred before the loss can still be written to it.
_OUTDATED = f"""(
    EXISTS (SELECT FROM prepaid_entry e WHERE e.card_id = c.card_id AND e.id > c.entries_through)
    OR c.sum_insured <> {_COVER_NOW})"""

# Of a supplement that takes back, what it takes back counts.
_WITHIN_TIER = "(%(most)s::bigint IS NULL OR abs(c.payable) < %(most)s::bigint)"

_APPROVE = """
    WITH chosen AS (
        SELECT c.id, {outdated} AS outdated FROM claims_claim c
        WHERE c.state = 'ASSESSED' AND c.assessed_by_id <> %(by)s AND {within_tier} AND {which}
        ORDER BY c.id LIMIT %(size)s FOR UPDATE OF c
    ),
    decided AS (
        UPDATE claims_claim c
        SET state = CASE WHEN chosen.outdated THEN 'FILED' ELSE 'APPROVED' END,
            approved_by_id = CASE WHEN NOT chosen.outdated THEN %(by)s END,
            decided_at = CASE WHEN NOT chosen.outdated THEN %(now)s::timestamptz END
        FROM chosen WHERE c.id = chosen.id RETURNING c.id, c.merchant_id, c.card_id, c.state, c.payable
    ),
    told AS (
        INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, amount, recorded_at)
        SELECT merchant_id, 'claim.approved', id, card_id, state, payable, %(now)s::timestamptz
        FROM decided WHERE state = 'APPROVED'
    )
    SELECT state FROM decided
"""

_UNFREEZE = """
    WITH back AS (
        SELECT m.card_id, m.from_state FROM claims_claim c
        JOIN prepaid_cardmove m ON m.card_id = c.card_id AND m.to_state = 'CLAIMED'
        WHERE c.id = %(claim)s ORDER BY m.id DESC LIMIT 1
    ),
    freed AS (
        UPDATE prepaid_card SET state = back.from_state, loss_at = NULL FROM back
        WHERE prepaid_card.id = back.card_id AND prepaid_card.state = 'CLAIMED'
        RETURNING prepaid_card.id, prepaid_card.state
    )
    INSERT INTO prepaid_cardmove (card_id, from_state, to_state, reason, by, recorded_at)
    SELECT id, 'CLAIMED', state, 'claim rejected', %(by)s, %(now)s FROM freed
"""

_LOOKED_AT = """
    UPDATE claims_claim c
    SET entries_through = (SELECT max(e.id) FROM prepaid_entry e WHERE e.card_id = c.card_id),
        sum_insured = {cover_now}
    WHERE c.id = %(claim)s
"""

_LOCK_CARDS = """
    WITH next AS (
        SELECT c.card_id FROM claims_claim c
        WHERE c.state = 'APPROVED' AND {within_tier} AND {which} ORDER BY c.id LIMIT %(size)s
    )
    SELECT card.id FROM prepaid_card card JOIN next ON next.card_id = card.id ORDER BY card.id FOR UPDATE OF card
"""

_LOCK_CLAIMS = """
    SELECT c.id, c.card_id, card.state, {outdated}
    FROM claims_claim c JOIN prepaid_card card ON card.id = c.card_id
    WHERE c.card_id = ANY (%(cards)s::uuid[]) AND c.state = 'APPROVED' AND {within_tier} ORDER BY c.id FOR UPDATE OF c
"""

# Its own compensation is among the entries it knows, so that only what comes after makes it outdated. They did not
# occur before the loss: the entries used stay the same.
_SETTLE_CLAIMS = """
    WITH settled AS (
        UPDATE claims_claim c
        SET state = 'PAID', paid_at = %(now)s,
            entries_through = (SELECT max(e.id) FROM prepaid_entry e WHERE e.card_id = c.card_id)
        WHERE c.id = ANY (%(claims)s::uuid[]) AND c.state = 'APPROVED'
        RETURNING c.id, c.merchant_id, c.card_id, c.state, c.payable
    )
    INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, amount, recorded_at)
    SELECT merchant_id, 'claim.paid', id, card_id, state, payable, %(now)s FROM settled
"""

_SETTLE_POLICIES = """
    UPDATE insurance_policy p SET compensated = p.compensated + c.payable FROM claims_claim c
    WHERE c.id = ANY (%(claims)s::uuid[]) AND p.id = c.policy_id AND c.payable <> 0
"""

_OPEN_RECOVERIES = """
    INSERT INTO claims_recovery (claim_id, merchant_id, insurer_id, amount, recovered, state, note, recorded_at)
    SELECT c.id, c.merchant_id, d.insurer_id, c.payable, 0, 'OPEN', '', %(now)s
    FROM claims_claim c JOIN insurance_policy p ON p.id = c.policy_id JOIN insurance_product d ON d.id = p.product_id
    WHERE c.id = ANY (%(claims)s::uuid[]) AND c.payable <> 0
"""

_MOVE_CARDS = """
    INSERT INTO prepaid_cardmove (card_id, from_state, to_state, reason, by, recorded_at)
    SELECT card, 'CLAIMED', 'COMPENSATED', 'claim paid', %(by)s, %(now)s
    FROM unnest(%(emptied)s::uuid[]) AS card
"""

_FILE_AGAIN = """
    UPDATE claims_claim SET state = 'FILED', approved_by_id = NULL, decided_at = NULL
    WHERE id = ANY (%(outdated)s::uuid[])
"""

_SEND_BACK = """
    UPDATE claims_claim SET state = 'FILED', approved_by_id = NULL, decided_at = NULL
    WHERE id IN (
        SELECT c.id FROM claims_claim c WHERE c.state IN ('ASSESSED', 'APPROVED') AND {outdated}
        ORDER BY c.id FOR UPDATE OF c SKIP LOCKED)
    RETURNING id
"""

# The last word on a card: paid, or a supplement that was looked at and refused.
_PAID_AND_OUTDATED = """
    SELECT c.id FROM claims_claim c
    WHERE (c.state = 'PAID' OR c.state = 'REJECTED' AND c.kind = 'SUPPLEMENT') AND {outdated}
      AND NOT EXISTS (SELECT FROM claims_claim n WHERE n.card_id = c.card_id AND n.id > c.id)
    LIMIT %(size)s
"""

_SUPPLEMENT = """
    WITH filed AS (
        INSERT INTO claims_claim (id, event_id, merchant_id, card_id, policy_id, kind, supplements_id, reference,
                                  state, formula, refunded_by_merchant, excluded, filed_by, reason, papers, filed_at)
        SELECT given.id, c.event_id, c.merchant_id, c.card_id, c.policy_id, 'SUPPLEMENT',
               CASE c.state WHEN 'PAID' THEN c.id ELSE c.supplements_id END, '', 'FILED', '', 0, 0, 'clock', '', '',
               %(now)s::timestamptz + make_interval(secs => m.test_clock_ahead)
        FROM unnest(%(claims)s::uuid[], %(ids)s::uuid[]) AS given(claim, id)
        JOIN claims_claim c ON c.id = given.claim
        JOIN issuing_merchant m ON m.id = c.merchant_id
        ON CONFLICT DO NOTHING
        RETURNING id, merchant_id, card_id, state, filed_at
    ),
    told AS (
        INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, recorded_at)
        SELECT merchant_id, 'claim.filed', id, card_id, state, filed_at FROM filed
    )
    SELECT id FROM filed
"""

_TELL_INSURERS = """
    INSERT INTO insurance_notice (id, kind, insurer_id, policy_id, subject, body, state, refusal_code, request_no,
                                  attempts, problem, due_at, recorded_at)
    SELECT given.notice, 'CLAIM_NOTICE', d.insurer_id, p.id, c.id,
           jsonb_build_object('policy_no', p.policy_no, 'loss_date', v.loss_date, 'claim', c.id),
           'PENDING', '', given.request_no, 0, '', now(), %(now)s
    FROM unnest(%(claims)s::uuid[], %(notices)s::uuid[], %(request_nos)s::text[]) AS given(claim, notice, request_no)
    JOIN claims_claim c ON c.id = given.claim
    JOIN claims_insuredevent v ON v.id = c.event_id
    JOIN insurance_policy p ON p.id = c.policy_id
    JOIN insurance_product d ON d.id = p.product_id
    ON CONFLICT (kind, insurer_id, subject) DO NOTHING
"""

_UNTOLD = """
    SELECT c.id FROM claims_claim c
    WHERE c.policy_id IS NOT NULL AND c.state <> 'REJECTED' AND NOT EXISTS (
        SELECT FROM insurance_notice n WHERE n.kind = 'CLAIM_NOTICE' AND n.subject = c.id)
    LIMIT %(size)s
"""
