"""What happened, for merchants to be told: written by every verb in its own transaction, and how it is shown.

Verbs that write by the thousand insert their events in the same statement; the others call ``record``.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

from config.ids import public_id
from config.shapes import Moment, Term, identity, moment
from issuing.models import Event

PREFIXES: Mapping[str, str] = {
    "card": "crd",
    "payment": "txn",
    "refund": "txn",
    "policy": "pol",
    "claim": "clm",
    "exchange": "exc",
    "coupon": "cpn",
    "webhook": "whe",
}
"""Of which kind an event's subject is, by the first word of its type."""

TYPES = tuple(kind.value for kind in Event.Type if kind != Event.Type.PING)
"""What a webhook endpoint may ask to be told of; a ping comes only where it was asked for."""


class SubjectShape(TypedDict):
    """What it happened to, and what that came to."""

    id: Annotated[
        str,
        Term(
            "SubjectId",
            {
                "type": "string",
                "pattern": f"^({'|'.join(sorted(set(PREFIXES.values())))})_[0-9a-f]{{32}}$",
                "description": "The id of what it happened to: ask for it by its address.",
            },
        ),
    ]
    card: Annotated[str, identity("crd", "card")] | None
    state: str | None
    amount: Annotated[int | None, "In the subject's own unit: fen, the card's unit, points."]


class EventShape(TypedDict):
    """Something that happened, as it is asked for and as webhooks tell it."""

    id: Annotated[str, identity("evt", "event")]
    type: Annotated[str, Event.Type]
    created_at: Moment
    data: SubjectShape


def record(
    type: Event.Type,
    *,
    merchant_id: UUID,
    subject_id: UUID,
    now: datetime,
    card_id: UUID | None = None,
    state: str = "",
    amount: int | None = None,
) -> Event:
    """Write down what a verb has just done, in the verb's transaction. ``amount`` is in the subject's own unit."""
    return Event.objects.create(
        type=type,
        merchant_id=merchant_id,
        subject_id=subject_id,
        card_id=card_id,
        state=state,
        amount=amount,
        recorded_at=now,
    )


def shape(row: Event, zone: ZoneInfo) -> EventShape:
    """An event as the merchant reads it, whether he asks for it or is told."""
    return {
        "id": public_id("evt", row.pk),
        "type": row.type,
        "created_at": moment(row.recorded_at, zone),
        "data": {
            "id": public_id(PREFIXES[row.type.partition(".")[0]], row.subject_id),
            "card": None if row.card_id is None else public_id("crd", row.card_id),
            "state": row.state or None,
            "amount": row.amount,
        },
    }
