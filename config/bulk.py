"""One verb for many records: the row is the queue, the clock works through it, each record in its own transaction.

Each is done by ``House.perform``, with the permission, the bars and the audit of the single button. What became of a
record is written in the transaction that did it, so a worker that dies leaves nothing half done, and two workers
nothing done twice (docs/decisions/bulk-work-is-the-button-many-times.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from config import audit
from config.background import LEASE, NotAllowedAnyMore, as_its_maker, house_of, in_words_of, ordered_by
from config.errors import NotFound, Refused
from config.handshakes import lease
from config.models import Bulk, BulkItem

MOST = 20_000
"""So many records one work may have: what somebody still answers for, having seen their count and sum."""
SLICE = 100
RUNNING = Bulk.State.RUNNING
WAITING, DONE, FAILED = BulkItem.State.WAITING, BulkItem.State.DONE, BulkItem.State.FAILED
logger = structlog.get_logger("bulk")


class TooManyRecords(Refused):
    status = 422
    text = _("These are more than %(most)s records: narrow the list, or do it in parts.")


class NothingChosen(Refused):
    status = 422
    text = _("No record is chosen.")


class NotPossible(Refused):
    """The single button would not be offered, or be barred."""

    text = "%(why)s"


@transaction.atomic
def order(
    *,
    request: HttpRequest,
    house: Any,
    verb: Any,
    data: dict[str, Any],
    keys: Sequence[Any],
    again_of: Bulk | None = None,
) -> Bulk:
    """Have a verb done to the records of ``keys``, each as if its button were pressed with ``data`` on the form.

    :raises TooManyRecords, NothingChosen:
    """
    if len(keys) > MOST:
        raise TooManyRecords(most=f"{MOST:,}")
    if not keys:
        raise NothingChosen()
    work = Bulk.objects.create(
        kind=house.opts.label_lower,
        verb=verb.name,
        data=data,
        total=len(keys),
        again_of=again_of,
        **ordered_by(request),
    )
    BulkItem.objects.bulk_create([BulkItem(bulk=work, key=str(key)) for key in keys], batch_size=5_000)
    asked = {"list": work.kind, "verb": verb.name, "records": len(keys), "form": data}
    audit.record(request, "order_bulk", row=work, asked=asked, reason=str(data.get("reason", "")))
    return work


def again(*, request: HttpRequest, work: Bulk) -> Bulk:
    """The same verb with the same reason once more, for the records that failed.

    :raises NothingChosen: none did.
    :raises NotAllowedAnyMore: the role has changed since.
    """
    house = house_of(work.kind)
    verb = house.bulk_verb(request, work.verb)
    if verb is None:
        raise NotAllowedAnyMore()
    keys = list(work.items.filter(state=FAILED).order_by("pk").values_list("key", flat=True))
    return order(request=request, house=house, verb=verb, data=work.data, keys=keys, again_of=work)


def cancel(*, work: Bulk, now: datetime) -> None:
    """Do no further record. What is done stays done.

    :raises IllegalMove: it is not, or no longer, under way.
    """
    work.move(Bulk.State.CANCELLED, due_at=None, finished_at=now)


# The clock -------------------------------------------------------------------------------------------------------


def carry_on(*, now: datetime, seconds: float = 20) -> int:
    """Do what was ordered, a slice of each in turn, until ``seconds`` are over. Returns how many records."""
    settled = 0
    until = monotonic() + seconds
    running = Bulk.objects.filter(state=RUNNING)
    while monotonic() < until and (leased := lease(running, limit=1, seconds=LEASE)):
        settled += do_slice(Bulk.objects.get(pk=leased[0]), now=now)
        running.filter(pk=leased[0]).update(due_at=Now())
    return settled


def do_slice(work: Bulk, *, now: datetime, size: int = SLICE) -> int:
    """Do the verb to the next records, and end the work after the last one. Returns how many were settled."""
    house = house_of(work.kind)
    request = as_its_maker(work, method="POST")
    settled = 0
    with in_words_of(work):
        verb = house.bulk_verb(request, work.verb)
        if verb is None:
            problem = str(NotAllowedAnyMore())
            Bulk.objects.filter(pk=work.pk, state=RUNNING).update(
                state=Bulk.State.FAILED, problem=problem, due_at=None, finished_at=now
            )
            return 0
        while settled < size and _do_next(work, house, verb, request, now=now):
            settled += 1
    return settled


def _do_next(work: Bulk, house: Any, verb: Any, request: HttpRequest, *, now: datetime) -> bool:
    item: BulkItem | None = None
    try:
        with transaction.atomic():
            # The work's row is locked first and until the commit: another worker waits here and then finds the record
            # settled, and whoever cancels is sure that nothing more is done.
            mine = Bulk.objects.filter(pk=work.pk, state=RUNNING)
            if not mine.update(due_at=Now() + timedelta(seconds=LEASE)):
                return False
            item = work.items.filter(state=WAITING).order_by("pk").first()
            if item is None:
                mine.update(state=Bulk.State.DONE, due_at=None, finished_at=now)
                return False
            try:
                _press(house, verb, request, item, work.data)
            except Refused as refused:
                _settle(item, FAILED, refused.code, str(refused))
            else:
                _settle(item, DONE)
    except Exception as fault:
        # Rolled back. One record that cannot be done must not keep the others from it; if it is the database that is
        # away, neither can this be written, and the lease runs out.
        if item is None:
            raise
        logger.exception("a record of bulk work failed", bulk=str(work.pk), key=item.key)
        with transaction.atomic():
            if Bulk.objects.filter(pk=work.pk, state=RUNNING).update(due_at=Now() + timedelta(seconds=LEASE)):
                _settle(item, FAILED, type(fault).__name__, str(_("An error of ours; it is in the log.")))
    return True


def _press(house: Any, verb: Any, request: HttpRequest, item: BulkItem, data: dict[str, Any]) -> None:
    """What ``House.do`` does when the form of one record is sent."""
    row = house.get_object(request, item.key)
    if row is None:
        raise NotFound()
    item.label = audit.masked(str(row))[:200]
    if why := house.why_not(request, verb, row):
        raise NotPossible(why=why)
    house.perform(request, verb, row, dict(data))


def _settle(item: BulkItem, state: str, refusal: str = "", reason: str = "") -> None:
    """Count a record as done or failed, once."""
    facts = {"label": item.label, "refusal": refusal, "reason": reason[:300]}
    if BulkItem.objects.filter(pk=item.pk, state=WAITING).update(state=state, **facts):
        name = "done" if state == DONE else "failed"
        Bulk.objects.filter(pk=item.bulk_id).update(**{name: F(name) + 1})
