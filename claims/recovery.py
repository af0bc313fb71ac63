"""What the insurer gets back from the merchant for what it paid (追偿): allowed although the merchant is the
policyholder, since it is the merchant's failure that was insured."""

from datetime import datetime

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from claims.models import Receipt, Recovery
from config import tiers
from config.errors import NotTheMaker, Refused, SamePerson
from config.states import IllegalMove


class MoreThanIsOpen(Refused):
    text = _("This is more than is open of the recovery.")


class ReceiptRecorded(Refused):
    text = _("A receipt with this reference is recorded for this recovery already.")


class NoteNeeded(Refused):
    status = 422
    text = _("Say why nothing more is to be had.")


class NotProposed(Refused):
    text = _("Nobody proposed to write this off.")


def record(*, recovery: Recovery, amount: int, reference: str, by: User, now: datetime) -> None:
    """Record ``amount`` fen that came from the merchant or its estate; all of it recovered closes the recovery.

    For a recovery below zero, which a supplement leaves, the amount is below zero too: it went to the merchant.

    :raises MoreThanIsOpen: or nothing, or of the other sign.
    :raises ReceiptRecorded: the same transfer, a second time.
    :raises IllegalMove: the recovery is closed.
    """
    still_open = Q(amount__gt=0, recovered__lte=F("amount") - amount) if amount > 0 else Q(amount__lt=0)
    if amount < 0:
        still_open &= Q(recovered__gte=F("amount") - amount)
    try:
        with transaction.atomic():
            Receipt.objects.create(
                recovery=recovery, amount=amount, reference=reference, recorded_by=by, recorded_at=now
            )
            moved = Recovery.objects.filter(still_open, pk=recovery.pk, state=Recovery.State.OPEN).update(
                recovered=F("recovered") + amount
            )
            recovery.refresh_from_db()
            if not moved and recovery.state != Recovery.State.OPEN:
                raise IllegalMove(state=recovery.state)
            if not moved or not amount:
                raise MoreThanIsOpen(pointer="/amount")
            if recovery.recovered == recovery.amount:
                recovery.move(Recovery.State.RECOVERED, closed_at=now)
    except IntegrityError as error:
        raise ReceiptRecorded(pointer="/reference") from error


def propose_write_off(*, recovery: Recovery, note: str, by: User, now: datetime) -> None:
    """Propose to give up what is still open, with the reason; a second person grants it.

    :raises NoteNeeded:
    :raises IllegalMove: the recovery is closed.
    """
    if not note.strip():
        raise NoteNeeded(pointer="/note")
    proposed = Recovery.objects.filter(pk=recovery.pk, state=Recovery.State.OPEN).update(
        proposed_by=by, proposed_at=now, note=note.strip()[:300]
    )
    recovery.refresh_from_db()
    if not proposed:
        raise IllegalMove(state=recovery.state)


def write_off(*, recovery: Recovery, by: User, now: datetime) -> None:
    """Grant a proposed write-off: of what is open when it is granted.

    :raises NotProposed:
    :raises SamePerson: whoever proposed it.
    :raises AboveTier: what is given up takes a senior approver.
    :raises IllegalMove: the recovery is closed.
    """
    with transaction.atomic():
        recovery.hold()
        if recovery.proposed_by_id is None:
            raise NotProposed()
        if recovery.proposed_by_id == by.pk:
            raise SamePerson()
        tiers.check(amount=at_stake(recovery), by=by)
        recovery.move(Recovery.State.WRITTEN_OFF, written_off_by=by, closed_at=now)


def at_stake(recovery: Recovery) -> int:
    """What would be given up, in fen; nothing of a test merchant's is anybody's money."""
    return 0 if recovery.merchant.is_test else recovery.amount - recovery.recovered


def reject_write_off(*, recovery: Recovery, by: User) -> None:
    """Leave open what another person proposed to write off.

    :raises SamePerson: whoever proposed it; they withdraw it.
    :raises NotProposed, IllegalMove:
    """
    _drop_proposal(recovery, by, is_own=False)


def withdraw_write_off(*, recovery: Recovery, by: User) -> None:
    """Take back one's own proposal to write off.

    :raises NotTheMaker: somebody else proposed it.
    :raises NotProposed, IllegalMove:
    """
    _drop_proposal(recovery, by, is_own=True)


def _drop_proposal(recovery: Recovery, by: User, *, is_own: bool) -> None:
    with transaction.atomic():
        recovery.hold()
        if recovery.state != Recovery.State.OPEN:
            raise IllegalMove(state=recovery.state)
        if recovery.proposed_by_id is None:
            raise NotProposed()
        if (recovery.proposed_by_id == by.pk) != is_own:
            raise NotTheMaker() if is_own else SamePerson()
        Recovery.objects.filter(pk=recovery.pk).update(proposed_by=None, proposed_at=None, note="")
        recovery.refresh_from_db()
