"""What happened to one card, from everywhere, newest first.

Each source is asked for its newest ``SHOWN`` before the cursor by one look-up in an index that begins with the card,
and what they gave is merged: a page costs the same however long the card's history is. A cursor is the moment, the
source and the row of the last line shown.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet

from claims.models import Claim
from config import audit
from config.models import Act
from insurance.models import Endorsement, InsurerMessage, Notice, Policy
from issuing.models import WebhookDelivery
from prepaid.models import Card, CardMove, Note, Transaction

SHOWN = 50

# Of what happened in one moment the later in this list is shown above: what follows from something stands over it.
MODELS: dict[str, type[Model]] = {
    "transaction": Transaction,
    "move": CardMove,
    "policy": Policy,
    "endorsement": Endorsement,
    "claim": Claim,
    "notice": Notice,
    "message": InsurerMessage,
    "delivery": WebhookDelivery,
    "note": Note,
    "act": Act,
}
_RANK = {kind: rank for rank, kind in enumerate(MODELS)}

# A row that moves on has a line for each of its moments. The first one finds it; the others follow soon after.
MOMENTS: dict[str, tuple[str, ...]] = {
    "transaction": ("occurred_at",),
    "policy": ("recorded_at", "accepted_at"),
    "endorsement": ("recorded_at", "accepted_at"),
    "claim": ("filed_at", "papers_asked_at", "papers_received_at", "assessed_at", "decided_at", "paid_at"),
    "notice": ("recorded_at", "accepted_at"),
}


class Cursor(NamedTuple):
    """A place in the order: the moment, the rank of the source, the row's key, which of its moments."""

    at: datetime
    rank: int
    key: Any
    step: int


class Line(NamedTuple):
    """One thing that happened: to which row, and by which of its moments."""

    kind: str
    moment: str
    row: Any
    place: Cursor


def timeline(
    card: Card, *, before: Cursor | None = None, may_see: Callable[[type[Model]], bool]
) -> tuple[list[Line], Cursor | None]:
    """At most ``SHOWN`` lines before the cursor, newest first, and the cursor of what is older, if there is more.

    ``may_see`` leaves out sources that the reader has no right to.
    """
    lines: list[Line] = []

    def take(kind: str, rows: QuerySet[Any], *, newest: str = "") -> list[Any]:
        moments = MOMENTS.get(kind, ("recorded_at",))
        found = _newest(kind, rows, newest or moments[0], before) if may_see(MODELS[kind]) else []
        lines.extend(line for row in found for line in _lines(kind, row, moments))
        return found

    take("transaction", Transaction.objects.filter(card=card))
    take("move", CardMove.objects.filter(card=card))
    take("note", Note.objects.filter(card=card))
    take("claim", Claim.objects.filter(card=card).select_related("assessed_by", "approved_by").defer("loads"))
    take("delivery", WebhookDelivery.objects.filter(card_id=card.pk).select_related("event", "endpoint"))
    take("act", Act.objects.filter(kind=card._meta.label_lower, object_id=str(card.pk)))
    take("act", Act.objects.filter(made=audit.reference(card)))
    policies = take("policy", Policy.objects.filter(card=card))
    mine = [policy.pk for policy in policies]
    owed = [*policies]
    owed += take("endorsement", Endorsement.objects.filter(policy__in=mine))
    owed += take("notice", Notice.objects.filter(policy__in=mine).defer("body"))
    said = take("message", _messages([row.request_no for row in owed]))
    # An answer is kept under the id of what it answers.
    sent = [one.message_id for one in said if one.direction == InsurerMessage.Direction.SENT]
    answers = InsurerMessage.objects.filter(direction=InsurerMessage.Direction.RECEIVED, message_id__in=sent)
    take("message", answers.defer("body", "headers", "request_nos"))

    places = {line.place: line for line in lines if before is None or line.place < before}
    newest = sorted(places, reverse=True)
    shown = [places[place] for place in newest[:SHOWN]]
    return shown, shown[-1].place if len(newest) > SHOWN else None


def _messages(request_nos: list[str]) -> QuerySet[InsurerMessage]:
    """What was said about any of these, by the index over the numbers that a message carries."""
    if not request_nos:
        return InsurerMessage.objects.none()
    about = Q(*(Q(request_nos__contains=[number]) for number in request_nos), _connector=Q.OR)
    return InsurerMessage.objects.filter(about).defer("body", "headers", "request_nos")


def _newest(kind: str, rows: QuerySet[Any], moment: str, before: Cursor | None) -> list[Any]:
    if before is not None:
        has_one_moment = len(MOMENTS.get(kind, ("",))) == 1
        # Of many in one moment only those that were not shown yet: else they would stand in the way of older ones.
        is_shown = has_one_moment and _RANK[kind] > before.rank
        rows = rows.filter(**{f"{moment}__{'lt' if is_shown else 'lte'}": before.at})
        if has_one_moment and _RANK[kind] == before.rank:
            rows = rows.filter(Q(**{f"{moment}__lt": before.at}) | Q(pk__lt=before.key))
    return list(rows.order_by(f"-{moment}", "-pk")[: SHOWN + 1])


def _lines(kind: str, row: Any, moments: tuple[str, ...]) -> list[Line]:
    return [
        Line(kind, moment, row, Cursor(at, _RANK[kind], row.pk, step))
        for step, moment in enumerate(moments)
        if (at := getattr(row, moment)) is not None
    ]


# The cursor in an address ------------------------------------------------------------------------------------


def written(cursor: Cursor) -> str:
    kind = list(MODELS)[cursor.rank]
    return f"{cursor.at.astimezone(UTC):%Y%m%dT%H%M%S.%f}~{kind}~{cursor.key}~{cursor.step}"


def read(text: str) -> Cursor | None:
    """The place that stands in an address; None for anything that is none."""
    moment, kind, key, step = (*text.split("~", 3), "", "", "", "")[:4]
    try:
        at = datetime.strptime(moment, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
        pk = MODELS[kind]._meta.pk
        return Cursor(at, _RANK[kind], pk.to_python(key) if pk else None, int(step[:2]))
    except (KeyError, ValueError, ValidationError):
        return None
