"""One effect for one Idempotency-Key, and the first answer for every repetition.

For what moves on after it is made (a card, a claim): a transaction of the ledger never changes, carries its key itself
and is rendered anew.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from psycopg.errors import UniqueViolation

from prepaid.ledger import IdempotencyKeyReused
from prepaid.models import StoredAnswer

KEPT = timedelta(days=30)
"""How long an answer is given again. A reference stays used for ever, so what comes later takes no effect either."""

_FORGOTTEN_AT_ONCE = 5_000


class Answer(NamedTuple):
    """``body`` is the text that was sent the first time."""

    status: int
    body: str
    replayed: bool


def fingerprint(method: str, path: str, body: dict[str, Any]) -> str:
    """What makes two requests the same one: SHA-256 over method, path and the members that were read."""
    canonical = json.dumps(body, sort_keys=True, default=str)
    return hashlib.sha256(f"{method} {path}\n{canonical}".encode()).hexdigest()


def once(
    *, merchant_id: UUID, key: str, fingerprint: str, now: datetime, effect: Callable[[], tuple[int, str]]
) -> Answer:
    """Do ``effect``, which returns status and body, and keep its answer in the same commit; or give the kept one.

    Of two that arrive at once the second waits for the first on the unique row. A refusal in ``effect`` takes the row
    back with everything else, so it does not burn the key.

    :raises IdempotencyKeyReused: the key was used for another request. And what ``effect`` raises.
    """
    try:
        return _once(merchant_id, key, fingerprint, now, effect)
    except IntegrityError as error:
        # Two requests brought one reference at the same moment. The other has committed, so that a second look
        # finds what it wrote and refuses by name.
        if not isinstance(error.__cause__, UniqueViolation):
            raise
        return _once(merchant_id, key, fingerprint, now, effect)


def _once(
    merchant_id: UUID, key: str, fingerprint: str, now: datetime, effect: Callable[[], tuple[int, str]]
) -> Answer:
    with transaction.atomic():
        with connection.cursor() as cursor:
            # Of two at once the second waits here for the first to commit.
            cursor.execute(_KEEP, [merchant_id, key, fingerprint, now, merchant_id, key])
            stored, is_a_transactions = cursor.fetchone()
        if stored is None:
            kept = StoredAnswer.objects.get(merchant_id=merchant_id, key=key)
            if kept.fingerprint != fingerprint:
                raise IdempotencyKeyReused()
            # Nobody sees the row before it is whole: its answer is in the same commit.
            return Answer(kept.status or 0, kept.body or "", replayed=True)
        if is_a_transactions:
            raise IdempotencyKeyReused()
        status, body = effect()
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE prepaid_storedanswer SET status = %s, body = %s WHERE id = %s", [status, body, stored]
            )
    return Answer(status, body, replayed=False)


_KEEP = """
WITH made AS (
    INSERT INTO prepaid_storedanswer (merchant_id, key, fingerprint, recorded_at) VALUES (%s, %s, %s, %s)
    ON CONFLICT (merchant_id, key) DO NOTHING RETURNING id
)
SELECT (SELECT id FROM made),
    EXISTS (SELECT FROM prepaid_transaction WHERE merchant_id = %s AND idempotency_key = %s)"""


def settle(*, merchant_id: UUID, key: str, status: int, body: str) -> None:
    """Keep the answer to a request whose first answer was that it is under way (202); a final one stays for ever."""
    StoredAnswer.objects.filter(merchant_id=merchant_id, key=key, status=202).update(status=status, body=body)


def forget(*, now: datetime) -> int:
    """Delete answers that were kept long enough, a part at a time; how many. What is still under way (202) is kept."""
    old = StoredAnswer.objects.filter(recorded_at__lt=now - KEPT).exclude(status=202).order_by("recorded_at")
    forgotten = 0
    while part := list(old.values_list("pk", flat=True)[:_FORGOTTEN_AT_ONCE]):
        forgotten += StoredAnswer.objects.filter(pk__in=part).delete()[0]
    return forgotten
