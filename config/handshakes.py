"""The row is the message: what must happen outside is a row with a due time.

A row with ``due_at`` in the past wants work. A sweep leases it by moving ``due_at`` into the future, so that a
worker that dies gives the row back by doing nothing. Settling a row clears ``due_at``.
"""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db import models, transaction
from django.db.models.functions import Now

QUERY_PAUSES = (1, 2, 4, 8, 16, 32)
"""Seconds before each question about an unknown outcome; after the last one the row waits for staff."""


def new_request_no() -> str:
    """128 random bits as 22 characters: the business key of one message, the same on every retry."""
    return secrets.token_urlsafe(16)


class Handshake(models.Model):
    """What every owed message carries beside its business facts."""

    request_no = models.CharField(max_length=22, unique=True, default=new_request_no, editable=False)
    attempts = models.PositiveSmallIntegerField(default=0, editable=False)
    due_at = models.DateTimeField(null=True, blank=True, editable=False)
    sent_at = models.DateTimeField(null=True, blank=True, editable=False)
    problem = models.CharField(max_length=200, blank=True, editable=False)

    class Meta:
        abstract = True


def lease(rows: models.QuerySet[Any], *, limit: int, seconds: int, newest: bool = False, **facts: Any) -> Sequence[Any]:
    """Primary keys of at most ``limit`` due rows, now ours for ``seconds``; oldest due first, or ``newest``.

    ``facts`` are set in the same update: a row with many indexes is costly to write twice.

    SKIP LOCKED lets any number of workers lease side by side; the clock is the database's, since the clocks of
    two machines never agree.
    """
    with transaction.atomic():
        keys = list(
            rows.filter(due_at__lte=Now())
            .order_by("-due_at" if newest else "due_at")
            .select_for_update(skip_locked=True)
            .values_list("pk", flat=True)[:limit]
        )
        rows.model._base_manager.filter(pk__in=keys).update(due_at=Now() + timedelta(seconds=seconds), **facts)
    return keys
