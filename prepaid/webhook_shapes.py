"""What the merchant API answers about webhooks. A secret stands in the answer that makes it, and nowhere else."""

from datetime import datetime
from typing import Annotated, Literal, NotRequired, TypedDict
from zoneinfo import ZoneInfo

from config.ids import public_id
from config.shapes import Moment, identity, moment
from issuing.models import Event, WebhookAttempt, WebhookDelivery, WebhookEndpoint

EVERY: Literal["*"] = "*"


EndpointId = Annotated[str, identity("whe", "endpoint")]
DeliveryId = Annotated[str, identity("whd", "delivery")]


class PausedShape(TypedDict):
    """Since when nothing is sent, and why."""

    because: Annotated[str, WebhookEndpoint.Because]
    at: Moment | None


class WebhookEndpointShape(TypedDict):
    """Where the merchant is told."""

    id: EndpointId
    url: str
    description: str | None
    events: Annotated[list[Annotated[str, Event.Type]] | Literal["*"], "The types it is told of; `*` is all of them."]
    live: bool
    state: Annotated[str, WebhookEndpoint.State]
    paused: PausedShape | None
    failing_since: Moment | None
    old_secret_until: Annotated[Moment | None, "Until then messages are signed with the old secret, too."]
    created_at: Moment
    secret: NotRequired[Annotated[str, "Only in the answer that makes it and in its repetition."]]


class WebhookDeliveryShape(TypedDict):
    """One event for one endpoint. Its id is the `webhook-id` of its messages, however often it is sent."""

    id: DeliveryId
    endpoint: EndpointId
    event: Annotated[str, identity("evt", "event")]
    type: Annotated[str, Event.Type]
    state: Annotated[str, WebhookDelivery.State]
    attempts: int
    problem: str | None
    next_attempt_at: Moment | None
    delivered_at: Moment | None
    created_at: Moment


class WebhookAttemptShape(TypedDict):
    """What was tried, and what was answered."""

    url: str
    status: int | None
    failure: str | None
    answer: str | None
    duration_ms: int | None
    at: Moment


class LoggedDeliveryShape(WebhookDeliveryShape):
    """A delivery with every attempt, newest first."""

    log: list[WebhookAttemptShape]


class ResentShape(TypedDict):
    """How many events are sent again."""

    resent: int


def endpoint(row: WebhookEndpoint, zone: ZoneInfo, now: datetime) -> WebhookEndpointShape:
    """An endpoint; ``paused`` says since when nothing is sent, and why, where somebody should look at it."""
    is_overlapping = row.old_secret_until_at is not None and row.old_secret_until_at > now
    return {
        "id": public_id("whe", row.pk),
        "url": row.url,
        "description": row.description or None,
        "events": row.types or EVERY,
        "live": row.is_live,
        "state": row.state,
        "paused": {"because": row.paused_because, "at": moment(row.paused_at, zone)}
        if row.state == WebhookEndpoint.State.PAUSED
        else None,
        "failing_since": moment(row.failing_since_at, zone),
        "old_secret_until": moment(row.old_secret_until_at, zone) if is_overlapping else None,
        "created_at": moment(row.recorded_at, zone),
    }


def delivery(row: WebhookDelivery, zone: ZoneInfo) -> WebhookDeliveryShape:
    """A delivery, read with its event. ``id`` is the ``webhook-id`` under which it is sent, however often."""
    return {
        "id": public_id("whd", row.pk),
        "endpoint": public_id("whe", row.endpoint_id),
        "event": public_id("evt", row.event_id),
        "type": row.event.type,
        "state": row.state,
        "attempts": row.attempts,
        "problem": row.problem or None,
        "next_attempt_at": moment(row.due_at, zone),
        "delivered_at": moment(row.delivered_at, zone),
        "created_at": moment(row.recorded_at, zone),
    }


def attempt(row: WebhookAttempt, zone: ZoneInfo) -> WebhookAttemptShape:
    return {
        "url": row.url,
        "status": row.status,
        "failure": row.failure or None,
        "answer": row.answer,
        "duration_ms": row.duration_ms,
        "at": moment(row.recorded_at, zone),
    }
