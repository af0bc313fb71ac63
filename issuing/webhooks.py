"""Where merchants want to be told what happened: endpoints, their secrets, and sending again what was told before.

Nothing is sent here: ``delivering`` does that. What is to be sent are rows that are due.
"""

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from config import reaching
from config.errors import NotFound, Refused
from config.sealing import Vault
from config.states import IllegalMove
from issuing import events
from issuing.models import Event, Merchant, WebhookDelivery, WebhookEndpoint

MOST_ENDPOINTS = 20
MOST_AGAIN = 10_000
OVERLAP = timedelta(hours=24)
"""How long the secret before the last one still signs, so that a merchant can change over without an interruption."""

VAULT = Vault("CARD_NUMBER_KEYS", "webhook secret")


class WebhookEndpointNotFound(NotFound):
    text = _("No such webhook endpoint.")
    remedy = _("Take an id from the list of webhook endpoints.")


class WebhookDeliveryNotFound(NotFound):
    text = _("No such webhook delivery.")
    remedy = _("Take an id from the list of webhook deliveries.")


class EventNotFound(NotFound):
    text = _("No such event.")
    remedy = _("Take an id from the list of events.")


class WebhookUrlNotAllowed(Refused):
    """One answer for every reason, so that nobody learns from it which names and addresses there are inside."""

    status = 422
    text = _(
        "Nothing is sent to this URL: it must lead to a public host, over https if it is live, "
        "without a user or a fragment."
    )
    remedy = _("Give a URL that is reached from outside, over https for live cards.")


class TooManyWebhookEndpoints(Refused):
    text = _("A merchant has at most %(most)s webhook endpoints.")
    remedy = _("Remove one that is not needed.")


class TooManyToResend(Refused):
    status = 422
    text = _("At most %(most)s events are sent again at once: choose a shorter time.")
    remedy = _("Choose a shorter time, and go on from its end.")


def add(
    *,
    merchant: Merchant,
    url: str,
    types: Sequence[str],
    is_live: bool,
    by: str,
    now: datetime,
    description: str = "",
) -> tuple[WebhookEndpoint, str]:
    """An endpoint and its secret, which nobody can read again. It is told what happens from now on.

    ``types`` are those it is told of; none: all. What is live is only ever sent over https.

    :raises WebhookUrlNotAllowed, TooManyWebhookEndpoints:
    """
    _check(url, is_live=is_live)
    with transaction.atomic():
        # One at a time, or two at once would both be the last that is allowed.
        Merchant.objects.select_for_update(no_key=True).get(pk=merchant.pk)
        if _kept(merchant) >= MOST_ENDPOINTS:
            raise TooManyWebhookEndpoints(most=MOST_ENDPOINTS)
        secret = _new_secret()
        row = WebhookEndpoint.objects.create(
            merchant=merchant,
            url=url,
            description=description,
            types=sorted(set(types)),
            is_live=is_live,
            secret_sealed=_seal(secret),
            made_by=by,
            recorded_at=now,
        )
    return row, secret


def change(
    *,
    endpoint: WebhookEndpoint,
    url: str | None = None,
    types: Sequence[str] | None = None,
    description: str | None = None,
) -> None:
    """Another URL, other events, another description; what is None stays.

    :raises WebhookUrlNotAllowed:
    :raises IllegalMove: it was removed.
    """
    if url is not None:
        _check(url, is_live=endpoint.is_live)
    given = {"url": url, "types": None if types is None else sorted(set(types)), "description": description}
    facts = {name: value for name, value in given.items() if value is not None}
    _update(endpoint, **facts)


def rotate(*, endpoint: WebhookEndpoint, now: datetime) -> str:
    """A new secret, which nobody can read again; for a day the old one signs as well.

    A second rotation within that day ends the oldest one: two live at most.

    :raises IllegalMove: it was removed.
    """
    secret = _new_secret()
    with transaction.atomic():
        endpoint.refresh_from_db(from_queryset=WebhookEndpoint.objects.select_for_update(no_key=True))
        _update(
            endpoint,
            secret_sealed=_seal(secret),
            old_secret_sealed=endpoint.secret_sealed,
            old_secret_until_at=now + OVERLAP,
        )
    return secret


def pause(*, endpoint: WebhookEndpoint, now: datetime) -> None:
    """Send nothing until it is resumed; what happens meanwhile is kept for then.

    :raises IllegalMove: it is not active, or no longer.
    """
    endpoint.move(
        WebhookEndpoint.State.PAUSED, paused_because=WebhookEndpoint.Because.ASKED, paused_at=now, resting_until_at=None
    )


def resume(*, endpoint: WebhookEndpoint) -> None:
    """Send again, and first of all what was held back.

    :raises IllegalMove: it is not paused, or no longer.
    """
    endpoint.move(
        WebhookEndpoint.State.ACTIVE,
        paused_because="",
        paused_at=None,
        failures=0,
        failing_since_at=None,
        resting_until_at=None,
    )


def remove(*, endpoint: WebhookEndpoint) -> None:
    """End an endpoint for good. What it was sent stays on record; what it was not sent will not be.

    :raises IllegalMove: it was removed before.
    """
    with transaction.atomic():
        endpoint.move(WebhookEndpoint.State.DISABLED)
        WebhookDelivery.objects.filter(endpoint=endpoint, state=WebhookDelivery.State.PENDING).update(
            state=WebhookDelivery.State.FAILED, due_at=None, problem="REMOVED"
        )


def ping(*, endpoint: WebhookEndpoint, now: datetime) -> WebhookDelivery:
    """Owe an endpoint a test message, which only this one is sent.

    :raises IllegalMove: it is not active.
    """
    with transaction.atomic():
        endpoint.refresh_from_db(from_queryset=WebhookEndpoint.objects.select_for_update(no_key=True))
        if endpoint.state != WebhookEndpoint.State.ACTIVE:
            raise IllegalMove(state=endpoint.state)
        told = events.record(
            Event.Type.PING, merchant_id=endpoint.merchant_id, subject_id=endpoint.pk, state=endpoint.state, now=now
        )
        return WebhookDelivery.objects.create(
            endpoint=endpoint, event=told, merchant_id=endpoint.merchant_id, due_at=Now(), recorded_at=now
        )


def resend(*, delivery: WebhookDelivery) -> None:
    """Send a delivery once more, delivered or not, under the id it has, with all its tries.

    :raises IllegalMove: it is still to be delivered, or its endpoint was removed.
    """
    with transaction.atomic():
        state = WebhookEndpoint.objects.select_for_update(no_key=True).values_list("state", flat=True)
        if state.get(pk=delivery.endpoint_id) == WebhookEndpoint.State.DISABLED:
            raise IllegalMove(state=WebhookEndpoint.State.DISABLED)
        delivery.move(WebhookDelivery.State.PENDING, due_at=Now(), attempts=0, problem="")
    delivery.refresh_from_db()


def resend_range(*, endpoint: WebhookEndpoint, from_at: datetime, to_at: datetime, now: datetime) -> int:
    """Send an endpoint all its events of a time once more, also those from before it was added; how many.

    ``from_at`` is the first moment that counts, ``to_at`` the first that no longer does.

    :raises TooManyToResend:
    :raises IllegalMove: it was removed.
    """
    with transaction.atomic():
        endpoint.refresh_from_db(from_queryset=WebhookEndpoint.objects.select_for_update(no_key=True))
        if endpoint.state == WebhookEndpoint.State.DISABLED:
            raise IllegalMove(state=endpoint.state)
        chosen = Event.objects.filter(
            merchant=endpoint.merchant_id, recorded_at__gte=from_at, recorded_at__lt=to_at
        ).exclude(type=Event.Type.PING)
        if endpoint.types:
            chosen = chosen.filter(type__in=endpoint.types)
        ids = list(chosen.order_by("xid", "id").values_list("pk", flat=True)[: MOST_AGAIN + 1])
        if len(ids) > MOST_AGAIN:
            raise TooManyToResend(pointer="/to", most=MOST_AGAIN)
        with connection.cursor() as cursor:
            cursor.execute(_RESEND, {"endpoint": endpoint.pk, "events": ids, "now": now})
    return len(ids)


_RESEND = """
INSERT INTO issuing_webhookdelivery AS d
    (endpoint_id, event_id, merchant_id, card_id, state, attempts, due_at, problem, recorded_at)
SELECT %(endpoint)s, e.id, e.merchant_id, e.card_id, 'PENDING', 0, now(), '', %(now)s
FROM issuing_event e WHERE e.id = ANY (%(events)s::uuid[])
ON CONFLICT (endpoint_id, event_id) DO UPDATE SET state = 'PENDING', attempts = 0, due_at = now(), problem = ''"""


def secrets_of(endpoint: WebhookEndpoint, *, now: datetime) -> list[str]:
    """Those that sign now, newest first."""
    live = [endpoint.secret_sealed]
    if endpoint.old_secret_sealed is not None and endpoint.old_secret_until_at and now < endpoint.old_secret_until_at:
        live.append(endpoint.old_secret_sealed)
    return [VAULT.unseal(sealed) for sealed in live]


def internal_networks() -> list[reaching.Network]:
    """The networks inside that may be sent to all the same: none, but where somebody tries it out."""
    return reaching.networks(settings.WEBHOOK_INTERNAL_NETWORKS)


def _check(url: str, *, is_live: bool) -> None:
    try:
        if is_live and reaching.parse(url).scheme != "https":
            raise WebhookUrlNotAllowed(pointer="/url")
        reaching.check(url, internal=internal_networks())
    except reaching.NotReachable as fault:
        raise WebhookUrlNotAllowed(pointer="/url") from fault


def _kept(merchant: Merchant) -> int:
    return WebhookEndpoint.objects.filter(merchant=merchant).exclude(state=WebhookEndpoint.State.DISABLED).count()


def _update(endpoint: WebhookEndpoint, **facts: object) -> None:
    live = WebhookEndpoint.objects.filter(pk=endpoint.pk).exclude(state=WebhookEndpoint.State.DISABLED)
    if facts and not live.update(**facts):
        raise IllegalMove(state=WebhookEndpoint.State.DISABLED)
    endpoint.refresh_from_db()


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _seal(secret: str) -> bytes:
    return VAULT.seal_all([secret])[0]
