"""Sending to a partner is held while the partner may know more than we do: after a restore of the database.

While it is held, what is owed stays owed, what was sent is asked about, and nothing is sent. Both reconciliations are
how the two sides meet again: a hold ends by itself once every business date has been compared, that on which it began
included, since what the partner did on that day before the restore stands in that day's file.
"""

from datetime import date, datetime

import structlog
from django.db import IntegrityError, transaction
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from config.states import IllegalMove
from prepaid import reconciliation
from prepaid.models import Hold, Run

log = structlog.get_logger(__name__)

PARTNERS = (Run.Partner.INSURER, Run.Partner.POINTS)
RECONCILED = "every business date was reconciled"


class HeldAlready(Refused):
    text = _("Sending to this partner is held already.")


class HoldReasonNeeded(Refused):
    status = 400
    text = _("Say why.")


def hold(*, partner: Run.Partner, reason: str, by: str, now: datetime) -> Hold:
    """Send nothing to the partner from now on.

    :raises HoldReasonNeeded, HeldAlready:
    """
    if not reason.strip():
        raise HoldReasonNeeded(pointer="/reason")
    try:
        with transaction.atomic():
            return Hold.objects.create(partner=partner, reason=reason.strip()[:300], by=by, began_at=now)
    except IntegrityError:
        raise HeldAlready() from None


def is_held(partner: Run.Partner) -> bool:
    return Hold.objects.filter(partner=partner, released_at=None).exists()


def release(*, held: Hold, reason: str, by: str, now: datetime) -> None:
    """Send again, because a person answers for it.

    :raises HoldReasonNeeded, IllegalMove: it was released before.
    """
    if not reason.strip():
        raise HoldReasonNeeded(pointer="/reason")
    released = Hold.objects.filter(pk=held.pk, released_at=None).update(
        released_at=now, released_by=by, release_reason=reason.strip()[:300]
    )
    if not released:
        raise IllegalMove(state=_("released"))
    held.refresh_from_db()


def release_reconciled(*, partner: Run.Partner, first_date: date | None, now: datetime) -> None:
    """End the partner's hold if every business date is compared, from the first one to that on which it began."""
    held = Hold.objects.filter(partner=partner, released_at=None).first()
    if (
        held is None
        or first_date is None
        or reconciliation.business_date(held.began_at) > reconciliation.last_date(now)
    ):
        return
    if reconciliation.missed(partner=partner, first_date=first_date, now=now):
        return
    release(held=held, reason=RECONCILED, by="clock", now=now)
    log.info("sending goes on", partner=partner, held_since=held.began_at.isoformat())
