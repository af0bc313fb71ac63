"""Telling merchants: events become deliveries, and deliveries are sent until somebody takes them.

``fan_out`` owes each active endpoint the events that came after its cursor. ``sweep`` leases what is due and sends it,
several at a time, with no transaction open; whoever answers 2xx has taken it. Everything else is tried again after
growing pauses for three days. A sender that dies gives its rows back when their lease ends, so that an event may come
twice and is never lost: its id tells.

Nobody waits for another's slow machine. An endpoint is sent one message at a time until it has answered quickly, then
two, up to ``MOST_AT_ONCE``; one that fails is left alone for a while, and after three days of it is paused.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import structlog
from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Now

from config import messages, reaching
from config.handshakes import lease
from config.ids import public_id
from issuing import events, webhooks
from issuing.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint, settled_before

log = structlog.get_logger(__name__)

MINUTE, HOUR = 60, 3600
PAUSES = (
    5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR,
)  # fmt: skip
"""Seconds after each failed attempt; after the last one the delivery has failed. Three days and a bit."""

JITTER = 0.1
"""By which part a pause is longer or shorter, so that what failed together does not come back together."""

FAILING_PAUSED_AFTER = timedelta(days=3)
GONE = 410

DEADLINE_SECONDS = 10.0
LEASE_SECONDS = 60
"""How long a delivery is ours: well over the deadline, so that nobody sends it while somebody else does."""

MOST_ANSWER_BYTES = 1024
THREADS = 32
MOST_AT_ONCE = 8
QUICK_SECONDS = 1.0
SHORTEST_REST, LONGEST_REST = 5, 300
"""Seconds for which an endpoint is left alone after a failure: doubled with each one in a row."""

MOST_EVENTS = 1000
"""How many events of an endpoint one statement looks at."""


class Outgoing(NamedTuple):
    """A message as it goes out."""

    delivery_id: UUID
    endpoint_id: UUID
    url: str
    headers: dict[str, str]
    content: bytes


class Sent(NamedTuple):
    reply: messages.Reply
    seconds: float


# From events to deliveries ----------------------------------------------------------------------------------------


def fan_out(*, now: datetime) -> int:
    """Owe each active endpoint what happened since it was last looked at; how many events were looked at.

    Two statements for any number of endpoints. Read is only what nothing can slip in between any more, so that a
    cursor never passes an event which is committed later.
    """
    bound = settled_before()
    passed = most = 0
    while not passed or most >= MOST_EVENTS:
        with connection.cursor() as cursor:
            cursor.execute(_FAN_OUT, {"now": now, "most": MOST_EVENTS, "bound": str(bound)})
            found, most, is_ahead = cursor.fetchone()
        if is_ahead:
            log.error("the server counts transactions anew since it was restored: see docs/operating.md")
        if not found:
            break
        passed += found
    return passed


_FAN_OUT = """
WITH endpoint AS MATERIALIZED (
    SELECT id, merchant_id, types, cursor_xid, cursor_id FROM issuing_webhookendpoint
    WHERE state = 'ACTIVE' ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
),
passed AS MATERIALIZED (
    SELECT p.id AS endpoint_id, p.types, e.*
    FROM endpoint p CROSS JOIN LATERAL (
        SELECT id, merchant_id, card_id, type, xid FROM issuing_event
        WHERE merchant_id = p.merchant_id AND (xid, id) > (p.cursor_xid, p.cursor_id)
          AND xid < %(bound)s::xid8
        ORDER BY xid, id LIMIT %(most)s
    ) e
),
owed AS (
    INSERT INTO issuing_webhookdelivery
        (endpoint_id, event_id, merchant_id, card_id, state, attempts, due_at, problem, recorded_at)
    SELECT endpoint_id, id, merchant_id, card_id, 'PENDING', 0, now(), '', %(now)s FROM passed
    WHERE type <> 'webhook.ping' AND (cardinality(types) = 0 OR type = ANY (types)) ORDER BY xid, id
    ON CONFLICT (endpoint_id, event_id) DO NOTHING
),
moved AS (
    UPDATE issuing_webhookendpoint w SET cursor_xid = last.xid, cursor_id = last.id
    FROM (
        SELECT DISTINCT ON (endpoint_id) endpoint_id, xid, id FROM passed ORDER BY endpoint_id, xid DESC, id DESC
    ) last
    WHERE w.id = last.endpoint_id
)
SELECT (SELECT count(*) FROM passed),
       (SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM passed GROUP BY endpoint_id) each),
       EXISTS (SELECT FROM endpoint WHERE cursor_xid > pg_snapshot_xmax(pg_current_snapshot()))"""


# From deliveries to the wire --------------------------------------------------------------------------------------


def sweep(*, now: datetime, seconds: float = 10, find: reaching.LookUp = reaching.look_up) -> int:
    """Fan out, then send what is due until nothing is or time is up; how many messages were sent.

    Any number of workers may do so at once. ``now`` is the moment that is written down; what is due is for the
    database's clock to say, and how much longer it takes for the deadline.
    """
    fan_out(now=now)
    until = time.monotonic() + seconds
    sent = 0
    pace: Counter[UUID] = Counter()
    on_the_way: dict[Future[Sent], Outgoing] = {}
    with ThreadPoolExecutor(THREADS, thread_name_prefix="webhooks") as threads:
        while True:
            if time.monotonic() < until:
                for outgoing in _take(THREADS - len(on_the_way), pace, on_the_way.values(), now=now):
                    on_the_way[threads.submit(_send, outgoing, find)] = outgoing
            if not on_the_way:
                return sent
            # Not for ever: what became due meanwhile may go out beside what is slow.
            done, _others = wait(on_the_way, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                outgoing = on_the_way.pop(future)
                answered = future.result()
                is_quick = _settle(outgoing, answered, now=now) and answered.seconds < QUICK_SECONDS
                pace[outgoing.endpoint_id] = min(MOST_AT_ONCE, 2 * max(1, pace[outgoing.endpoint_id])) * is_quick
                sent += 1


def _take(room: int, pace: Counter[UUID], on_the_way: Iterable[Outgoing], *, now: datetime) -> list[Outgoing]:
    """Lease what is due, endpoint by endpoint, those first that have waited longest since their last message."""
    if room <= 0:
        return []
    busy = Counter(outgoing.endpoint_id for outgoing in on_the_way)
    full = [endpoint for endpoint, number in busy.items() if number >= max(1, pace[endpoint])]
    with connection.cursor() as cursor:
        cursor.execute(_DUE, {"full": full, "room": room, "most": MOST_AT_ONCE})
        due = cursor.fetchall()
    chosen: dict[UUID, UUID] = {}
    for _turn, endpoint_id, delivery_id in due:
        if len(chosen) < room and busy[endpoint_id] < max(1, pace[endpoint_id]):
            busy[endpoint_id] += 1
            chosen[delivery_id] = endpoint_id
    if not chosen:
        return []
    unproven = {endpoint_id for endpoint_id in chosen.values() if not pace[endpoint_id]}
    with transaction.atomic():
        ours = _keep_to_ourselves(unproven)
        theirs = unproven - ours
        keys = [delivery_id for delivery_id, endpoint_id in chosen.items() if endpoint_id not in theirs]
        leased = lease(WebhookDelivery.objects.filter(pk__in=keys), limit=room, seconds=LEASE_SECONDS)
    rows = WebhookDelivery.objects.filter(pk__in=leased).select_related("endpoint__merchant", "event")
    return [_outgoing(row, now) for row in rows]


def _keep_to_ourselves(endpoint_ids: Collection[UUID]) -> set[UUID]:
    """Those among the endpoints that no other worker sends to; whoever has not shown that it is quick is one's alone.

    Endpoints before deliveries, like everybody who writes both.
    """
    free = Q(resting_until_at=None) | Q(resting_until_at__lte=Now())
    rows = WebhookEndpoint.objects.filter(free, pk__in=endpoint_ids, state=WebhookEndpoint.State.ACTIVE)
    ours = set(rows.order_by("pk").select_for_update(skip_locked=True, no_key=True).values_list("pk", flat=True))
    WebhookEndpoint.objects.filter(pk__in=ours).update(resting_until_at=Now() + timedelta(seconds=LEASE_SECONDS))
    return ours


# Round by round: the first of every endpoint before the second of any.
_DUE = """
SELECT row_number() OVER (PARTITION BY e.id ORDER BY d.due_at) AS turn, e.id, d.id
FROM (
    SELECT id, attempted_at FROM issuing_webhookendpoint p
    WHERE state = 'ACTIVE' AND id <> ALL (%(full)s::uuid[]) AND coalesce(resting_until_at <= now(), true)
      AND EXISTS (SELECT FROM issuing_webhookdelivery WHERE endpoint_id = p.id AND due_at <= now())
    ORDER BY attempted_at NULLS FIRST, id LIMIT %(room)s
) e
CROSS JOIN LATERAL (
    SELECT id, due_at FROM issuing_webhookdelivery
    WHERE endpoint_id = e.id AND due_at <= now() ORDER BY due_at LIMIT %(most)s
) d
ORDER BY turn, e.attempted_at NULLS FIRST"""


def _outgoing(row: WebhookDelivery, now: datetime) -> Outgoing:
    endpoint = row.endpoint
    content = messages.write_json(events.shape(row.event, ZoneInfo(endpoint.merchant.time_zone)))
    keys = webhooks.secrets_of(endpoint, now=now)
    signed = messages.sign(keys=keys, message_id=public_id("whd", row.pk), content=content)
    headers = {"content-type": "application/json", "user-agent": "Prepaid-Webhooks/1", **signed}
    return Outgoing(row.pk, endpoint.pk, endpoint.url, headers, content)


def _send(outgoing: Outgoing, find: reaching.LookUp) -> Sent:
    """In a thread of its own, which never touches the database."""
    began = time.monotonic()
    try:
        reply = messages.tell(
            url=outgoing.url,
            headers=outgoing.headers,
            content=outgoing.content,
            deadline=DEADLINE_SECONDS,
            most=MOST_ANSWER_BYTES,
            internal=webhooks.internal_networks(),
            find=find,
        )
    except Exception as fault:
        # One that cannot be sent must not keep all others from being sent, round after round.
        log.exception("a webhook could not be sent", delivery=str(outgoing.delivery_id))
        reply = messages.Reply(status=None, headers={}, raw=b"", failure="NOT_SENT", detail=type(fault).__name__)
    return Sent(reply, time.monotonic() - began)


# What became of it ------------------------------------------------------------------------------------------------


def _settle(outgoing: Outgoing, sent: Sent, *, now: datetime) -> bool:
    """Write an attempt down with all that follows from it, in one commit. Whether it was taken.

    A 2xx has taken it, whatever its body says or however long that drips.
    """
    reply = sent.reply
    is_taken = reply.status is not None and 200 <= reply.status < 300
    problem = "" if is_taken else reply.failure if reply.status is None else f"HTTP {reply.status}"
    with transaction.atomic():
        endpoint = WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=outgoing.endpoint_id)
        row = WebhookDelivery.objects.select_for_update(no_key=True).get(pk=outgoing.delivery_id)
        WebhookAttempt.objects.create(
            delivery=row,
            url=outgoing.url,
            status=reply.status,
            failure=reply.failure,
            detail=_text(reply.detail.encode())[:200],
            answer=_text(reply.raw[:MOST_ANSWER_BYTES]),
            duration_ms=round(1000 * sent.seconds),
            recorded_at=now,
        )
        # Somebody else's attempt, after our lease ended, may have settled it; what is delivered stays so.
        if row.state == WebhookDelivery.State.PENDING:
            _settle_delivery(row, is_taken, problem, now)
        _settle_endpoint(endpoint, is_taken, reply.status == GONE, now)
    return is_taken


def _settle_delivery(row: WebhookDelivery, is_taken: bool, problem: str, now: datetime) -> None:
    attempts = row.attempts + 1
    if is_taken:
        row.move(WebhookDelivery.State.DELIVERED, attempts=attempts, due_at=None, delivered_at=now, problem="")
    elif attempts > len(PAUSES):
        row.move(WebhookDelivery.State.FAILED, attempts=attempts, due_at=None, problem=problem)
    else:
        pause = PAUSES[attempts - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  no secret
        WebhookDelivery.objects.filter(pk=row.pk).update(
            attempts=attempts, due_at=Now() + timedelta(seconds=pause), problem=problem
        )


def _settle_endpoint(row: WebhookEndpoint, is_taken: bool, is_gone: bool, now: datetime) -> None:
    rows = WebhookEndpoint.objects.filter(pk=row.pk)
    if is_taken:
        rows.update(failures=0, failing_since_at=None, resting_until_at=None, attempted_at=Now())
        return
    rest = min(LONGEST_REST, SHORTEST_REST * 2 ** min(row.failures, 10))
    since = row.failing_since_at or now
    rows.update(
        failures=row.failures + 1,
        failing_since_at=since,
        resting_until_at=Now() + timedelta(seconds=rest),
        attempted_at=Now(),
    )
    if row.state == WebhookEndpoint.State.ACTIVE and (is_gone or now - since >= FAILING_PAUSED_AFTER):
        because = WebhookEndpoint.Because.GONE if is_gone else WebhookEndpoint.Because.FAILING
        row.move(WebhookEndpoint.State.PAUSED, paused_because=because, paused_at=now)
        log.warning("webhook endpoint paused", endpoint=str(row.pk), because=because.value)


def _text(raw: bytes) -> str:
    """Whatever was answered, as text that can be stored."""
    return raw.decode(errors="replace").replace("\x00", "\ufffd")
