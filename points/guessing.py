"""Whoever guesses coupon codes or passwords is stopped, and staff see it.

Wrong guesses are rows, so a restart or an emptied cache forgets none, and what staff look at is what stops the guesser.
"""

from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import connection
from django.db.models import Count, QuerySet
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from points.models import WrongGuess

log = structlog.get_logger(__name__)

MOST = 10
WITHIN = timedelta(minutes=10)
SHOWN_FOR = timedelta(days=1)
"""How long staff are told on their first page of somebody who was stopped; after that a guess counts for nothing."""


class TooManyGuesses(Refused):
    status = 429
    text = _("Too many wrong guesses. Try again in %(seconds)s seconds.")
    remedy = _("Wait as long as Retry-After says, and have codes scanned instead of typed.")
    can_be_sent_again = True


def check(what: str, subject: str, *, now: datetime) -> None:
    """Let one pass who guessed wrong fewer than ten times within ten minutes.

    :raises TooManyGuesses: with the seconds until the oldest of the ten no longer counts.
    """
    with connection.cursor() as cursor:
        # Every redemption asks this first, so it is not composed anew each time.
        cursor.execute(
            "SELECT recorded_at FROM points_wrongguess WHERE what = %s AND subject = %s AND recorded_at > %s"
            " ORDER BY recorded_at DESC LIMIT %s",
            [what, subject, now - WITHIN, MOST],
        )
        moments = [recorded_at for (recorded_at,) in cursor.fetchall()]
    if len(moments) == MOST:
        raise TooManyGuesses(seconds=max(1, -(-(moments[-1] + WITHIN - now) // timedelta(seconds=1))))


def note(what: str, subject: str, *, now: datetime) -> None:
    """Write a wrong guess down; the tenth raises the alarm."""
    WrongGuess.objects.create(what=what, subject=subject, recorded_at=now)
    wrong = WrongGuess.objects.filter(what=what, subject=subject, recorded_at__gt=now - WITHIN).count()
    if wrong >= MOST:
        log.error("somebody is guessing", what=what, subject=subject, wrong=wrong)


def guessers(*, now: datetime) -> QuerySet[Any, Any]:
    """Who guessed wrong as often as to be stopped, within a day."""
    recent = WrongGuess.objects.filter(recorded_at__gt=now - SHOWN_FOR)
    return recent.values("what", "subject").annotate(count=Count("pk")).filter(count__gte=MOST).order_by("subject")


def forget(*, now: datetime, limit: int = 10_000) -> int:
    """Let go of guesses that count for nothing any more, oldest first; returns how many.

    The clock calls this until there are none, so that however many there are no statement is long.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            # As an array it is asked for once: as a set it may be asked for again for each row, and passes over the
            # rows that it has locked itself.
            """DELETE FROM points_wrongguess WHERE id = ANY (ARRAY(
                SELECT id FROM points_wrongguess WHERE recorded_at <= %s
                ORDER BY recorded_at LIMIT %s FOR UPDATE SKIP LOCKED))""",
            [now - SHOWN_FOR, limit],
        )
        return cursor.rowcount
