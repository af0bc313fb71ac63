"""The merchant API of events and webhooks. Each view reads strictly, calls one verb and answers.

Above the room whose verbs it calls, since an Idempotency-Key is kept beside those of cards and payments.
"""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from django.db.models import Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse

from config import api
from config.api import optional, required
from config.states import IllegalMove
from issuing import events, webhooks
from issuing.models import Event, WebhookDelivery, WebhookEndpoint
from prepaid import answers, endpoint, webhook_shapes
from prepaid.endpoint import Filters

URL = api.text(most=500)
DESCRIPTION = api.text(most=100, least=0)
_SOME = api.array(api.choice(events.TYPES), most=len(events.TYPES))


@api.reads({"anyOf": [{"const": webhook_shapes.EVERY}, api.schema_read(_SOME)]})
def chosen(value: Any) -> list[str]:
    """``"*"`` for every event, or an array of types."""
    return [] if value == webhook_shapes.EVERY else _SOME(value)


NOTHING: Mapping[str, api.Member] = {}
ADDING = (webhooks.WebhookUrlNotAllowed, webhooks.TooManyWebhookEndpoints)
MOVING = (webhooks.WebhookEndpointNotFound, IllegalMove)
SENDING_AGAIN = (webhooks.WebhookDeliveryNotFound, IllegalMove)
CHANGING = (*MOVING, webhooks.WebhookUrlNotAllowed)

_WithSecret = tuple[WebhookEndpoint, str]


class Endpoint(endpoint.Endpoint):
    """An address of what a merchant is told: that happens now, whatever a test merchant's own clock says."""

    follows_test_clock = False
    scopes: ClassVar = {"get": "cards:read", "post": "webhooks:write"}

    def hook(self, endpoint_id: str) -> WebhookEndpoint:
        return self.one(WebhookEndpoint.objects.all(), "whe", endpoint_id, webhooks.WebhookEndpointNotFound)

    def shape(self, row: WebhookEndpoint) -> webhook_shapes.WebhookEndpointShape:
        return webhook_shapes.endpoint(row, self.zone, self.now)

    def with_secret(
        self, request: HttpRequest, body: dict[str, Any], make: Callable[[], _WithSecret], *, status: int
    ) -> HttpResponse:
        """Answer with a new secret, the same one to a repetition: what is kept of the answer has it sealed."""

        def effect() -> tuple[int, str]:
            row, secret = make()
            sealed = base64.b64encode(webhooks.VAULT.seal_all([secret])[0]).decode()
            return status, api.dump({**self.shape(row), "secret": sealed})

        kept = answers.once(
            merchant_id=self.merchant.pk,
            key=self.idempotency_key(request),
            fingerprint=answers.fingerprint("POST", request.path, body),
            now=self.now,
            effect=effect,
        )
        shape = json.loads(kept.body)
        shape["secret"] = webhooks.VAULT.unseal(base64.b64decode(shape["secret"]))
        return endpoint.mark(self.answer(shape, status=kept.status), replayed=kept.replayed)


# Events -------------------------------------------------------------------------------------------------------------


class Events(Endpoint):
    FILTERS: ClassVar[Filters] = {
        "type": ("type", optional(api.choice(Event.Type.values))),
        "created_at_after": ("recorded_at__gte", optional(api.moment)),
        "created_at_before": ("recorded_at__lt", optional(api.moment)),
    }

    @api.answers(events.EventShape)
    def get(self, request: HttpRequest) -> HttpResponse:
        """List events"""
        return self.listed(
            request,
            Event.objects.settled(),
            self.FILTERS,
            lambda rows: [events.shape(row, self.zone) for row in rows],
            page=_page_of_events,
        )


def _page_of_events(rows: QuerySet[Event], asked: api.Asked) -> tuple[list[Event], str | None]:
    """By transaction, and not by identity like other lists: an identity is given out before the commit, so that behind
    a cursor through identities an event could still appear."""
    if asked.after is not None:
        last = Event.objects.filter(pk=asked.after).values("xid")
        rows = rows.filter(Q(xid__lt=Subquery(last)) | Q(xid=Subquery(last), pk__lt=asked.after))
        rows = rows.filter(xid__lte=Subquery(last))  # a range that the index knows
    found = list(rows.order_by("-xid", "-id")[: asked.limit + 1])
    if len(found) <= asked.limit:
        return found, None
    found.pop()
    return found, asked.cursor(found[-1].pk)


class OneEvent(Endpoint):
    @api.answers(events.EventShape, refuses=[webhooks.EventNotFound])
    def get(self, request: HttpRequest, event_id: str) -> HttpResponse:
        """Get an event"""
        api.read_query(request, {})
        row = self.one(Event.objects.settled(), "evt", event_id, webhooks.EventNotFound)
        return self.answer(events.shape(row, self.zone))


# Endpoints ----------------------------------------------------------------------------------------------------------


class WebhookEndpoints(Endpoint):
    BODY: ClassVar = {"url": required(URL), "events": optional(chosen), "description": optional(DESCRIPTION)}
    EXAMPLE: ClassVar = {"url": "https://93.184.216.34/", "events": ["payment.recorded"], "description": "shop 12"}
    FILTERS: ClassVar[Filters] = {"state": ("state", optional(api.choice(WebhookEndpoint.State.values)))}

    @api.answers(webhook_shapes.WebhookEndpointShape)
    def get(self, request: HttpRequest) -> HttpResponse:
        """List webhook endpoints"""
        rows = WebhookEndpoint.objects.all()
        return self.listed(request, rows, self.FILTERS, lambda found: [self.shape(row) for row in found])

    @api.answers(webhook_shapes.WebhookEndpointShape, status=201, refuses=ADDING)
    def post(self, request: HttpRequest) -> HttpResponse:
        """Add a webhook endpoint

        The secret stands in this answer and its repetition, and nowhere else. Internal addresses are refused.
        """
        body = api.read_body(request, self.BODY)

        def make() -> _WithSecret:
            return webhooks.add(
                merchant=self.merchant,
                url=body["url"],
                types=body.get("events", []),
                description=body.get("description", ""),
                is_live=not self.merchant.is_test,
                by=self.by,
                now=self.now,
            )

        return self.with_secret(request, body, make, status=201)


class OneWebhookEndpoint(Endpoint):
    BODY: ClassVar = {"url": optional(URL), "events": optional(chosen), "description": optional(DESCRIPTION)}
    EXAMPLE: ClassVar = {"events": "*"}

    @api.answers(webhook_shapes.WebhookEndpointShape, refuses=[webhooks.WebhookEndpointNotFound])
    def get(self, request: HttpRequest, endpoint_id: str) -> HttpResponse:
        """Get a webhook endpoint"""
        api.read_query(request, {})
        return self.answer(self.shape(self.hook(endpoint_id)))

    @api.answers(webhook_shapes.WebhookEndpointShape, refuses=CHANGING)
    def post(self, request: HttpRequest, endpoint_id: str) -> HttpResponse:
        """Change a webhook endpoint"""
        body = api.read_body(request, self.BODY)

        def effect() -> webhook_shapes.WebhookEndpointShape:
            row = self.hook(endpoint_id)
            webhooks.change(
                endpoint=row, url=body.get("url"), types=body.get("events"), description=body.get("description")
            )
            return self.shape(row)

        return self.once(request, body, effect, status=200)


class EndpointMoves(Endpoint):
    """What is done to an endpoint; the answer is the endpoint as it stands then."""

    BODY = NOTHING
    EXAMPLE: ClassVar = {}

    @api.answers(webhook_shapes.WebhookEndpointShape, refuses=MOVING)
    def post(self, request: HttpRequest, endpoint_id: str) -> HttpResponse:
        body = api.read_body(request, self.BODY)

        def effect() -> webhook_shapes.WebhookEndpointShape:
            row = self.hook(endpoint_id)
            self.move(row)
            return self.shape(row)

        return self.once(request, body, effect, status=200)

    def move(self, row: WebhookEndpoint) -> None:
        """Call the verb."""
        raise NotImplementedError


class Pause(EndpointMoves):
    """Pause a webhook endpoint"""

    def move(self, row: WebhookEndpoint) -> None:
        webhooks.pause(endpoint=row, now=self.now)


class Resume(EndpointMoves):
    """Resume a webhook endpoint"""

    def move(self, row: WebhookEndpoint) -> None:
        webhooks.resume(endpoint=row)


class Remove(EndpointMoves):
    """Remove a webhook endpoint"""

    def move(self, row: WebhookEndpoint) -> None:
        webhooks.remove(endpoint=row)


class RotateSecret(Endpoint):
    BODY = NOTHING
    EXAMPLE: ClassVar = {}

    @api.answers(webhook_shapes.WebhookEndpointShape, refuses=MOVING)
    def post(self, request: HttpRequest, endpoint_id: str) -> HttpResponse:
        """Rotate the secret of a webhook endpoint

        For 24 hours every message is signed with both.
        """
        body = api.read_body(request, self.BODY)

        def make() -> _WithSecret:
            row = self.hook(endpoint_id)
            return row, webhooks.rotate(endpoint=row, now=self.now)

        return self.with_secret(request, body, make, status=200)


class Ping(Endpoint):
    BODY = NOTHING
    EXAMPLE: ClassVar = {}

    @api.answers(webhook_shapes.WebhookDeliveryShape, status=202, refuses=MOVING)
    def post(self, request: HttpRequest, endpoint_id: str) -> HttpResponse:
        """Ping a webhook endpoint"""
        body = api.read_body(request, self.BODY)

        def effect() -> webhook_shapes.WebhookDeliveryShape:
            row = webhooks.ping(endpoint=self.hook(endpoint_id), now=self.now)
            row.refresh_from_db()
            return webhook_shapes.delivery(row, self.zone)

        return self.once(request, body, effect, status=202)


class ResendRange(Endpoint):
    BODY: ClassVar = {"from": required(api.moment), "to": required(api.moment)}
    EXAMPLE: ClassVar = {"from": "2026-11-21T00:00:00+08:00", "to": "2026-11-22T00:00:00+08:00"}

    @api.answers(webhook_shapes.ResentShape, status=202, refuses=[*MOVING, webhooks.TooManyToResend])
    def post(self, request: HttpRequest, endpoint_id: str) -> HttpResponse:
        """Send the events of a span of time again

        All of those that the endpoint is told of, at most 10,000, also from before it was added. `to` is the first
        moment that no longer counts.
        """
        body = api.read_body(request, self.BODY)

        def effect() -> webhook_shapes.ResentShape:
            row = self.hook(endpoint_id)
            count = webhooks.resend_range(endpoint=row, from_at=body["from"], to_at=body["to"], now=self.now)
            return {"resent": count}

        return self.once(request, body, effect, status=202)


# Deliveries ---------------------------------------------------------------------------------------------------------

DELIVERIES = WebhookDelivery.objects.select_related("event")


class WebhookDeliveries(Endpoint):
    FILTERS: ClassVar[Filters] = {
        "state": ("state", optional(api.choice(WebhookDelivery.State.values))),
        "endpoint": ("endpoint", optional(api.identity("whe"))),
        "event": ("event", optional(api.identity("evt"))),
        "created_at_after": ("recorded_at__gte", optional(api.moment)),
        "created_at_before": ("recorded_at__lt", optional(api.moment)),
    }

    @api.answers(webhook_shapes.WebhookDeliveryShape)
    def get(self, request: HttpRequest) -> HttpResponse:
        """List webhook deliveries"""
        return self.listed(
            request,
            DELIVERIES,
            self.FILTERS,
            lambda rows: [webhook_shapes.delivery(row, self.zone) for row in rows],
        )


class OneWebhookDelivery(Endpoint):
    @api.answers(webhook_shapes.LoggedDeliveryShape, refuses=[webhooks.WebhookDeliveryNotFound])
    def get(self, request: HttpRequest, delivery_id: str) -> HttpResponse:
        """Get a webhook delivery"""
        api.read_query(request, {})
        row = self.one(DELIVERIES, "whd", delivery_id, webhooks.WebhookDeliveryNotFound)
        tries = row.tries.order_by("-pk")[: api.MOST_ROWS]
        shape = webhook_shapes.delivery(row, self.zone)
        return self.answer({**shape, "log": [webhook_shapes.attempt(one, self.zone) for one in tries]})


class Resend(Endpoint):
    BODY = NOTHING
    EXAMPLE: ClassVar = {}

    @api.answers(
        webhook_shapes.WebhookDeliveryShape, status=202, refuses=[webhooks.WebhookDeliveryNotFound, IllegalMove]
    )
    def post(self, request: HttpRequest, delivery_id: str) -> HttpResponse:
        """Send a webhook delivery again

        Once more, delivered or not, under its own id.
        """
        body = api.read_body(request, self.BODY)

        def effect() -> webhook_shapes.WebhookDeliveryShape:
            row = self.one(DELIVERIES, "whd", delivery_id, webhooks.WebhookDeliveryNotFound)
            webhooks.resend(delivery=row)
            return webhook_shapes.delivery(row, self.zone)

        return self.once(request, body, effect, status=202)
