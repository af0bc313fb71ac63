"""How often somebody may ask: counted in Redis by one script, so that of many at once exactly so many pass.

The window slides: what was asked in the minute before counts for the share of it that is still within a minute. A
request costs one round trip on a connection that its thread keeps. If Redis is away, that is found out once in a
while by one request and costs the others nothing; whether they pass is a setting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import redis
import structlog
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.errors import Refused

log = structlog.get_logger(__name__)

KINDS = ("read", "write", "payment", "lookup", "guess")
"""What is counted apart: a till that pays is not to wait for a report that reads. ``guess`` is whoever has no key."""

PERIOD = 60
"""Seconds that a limit is for."""

AWAY = 5.0
"""Seconds for which nobody asks a Redis that did not answer in time."""


class TooManyRequests(Refused):
    status = 429
    text = _("Too many requests of this kind: %(most)s a minute are allowed. Try again in %(seconds)s seconds.")
    remedy = _("Wait as long as Retry-After says, and spread requests by RateLimit-Remaining.")
    can_be_sent_again = True


class LimitsUnknown(Refused):
    """Only where the setting says that nobody passes uncounted."""

    status = 503
    text = _("Requests cannot be counted at this moment. Send the same request again, with the same Idempotency-Key.")
    remedy = _("Wait as long as Retry-After says, then send the same request with the same Idempotency-Key.")
    can_be_sent_again = True


class Standing(NamedTuple):
    """How somebody stands with a limit: what is left of it, and in how many seconds there is more."""

    most: int
    left: int
    seconds: int
    passes: bool


def are_rate_limits(value: Any) -> None:
    """Validate a merchant's own limits: ``{"payment": 120000}``."""
    if not isinstance(value, dict) or not all(
        kind in KINDS and type(most) is int and most > 0 for kind, most in value.items()
    ):
        raise ValidationError(_("Name kinds out of %(kinds)s with numbers above zero.") % {"kinds": ", ".join(KINDS)})


def take(kind: str, whose: str, *, own: Mapping[str, int] | None = None) -> Standing | None:
    """Count one request; None if it cannot be counted and passes for all that.

    ``own`` are limits that take the place of the settings'.

    :raises LimitsUnknown: it cannot be counted, and the setting says that nobody passes then.
    """
    most = (own or {}).get(kind) or settings.RATE_LIMITS[kind]
    counted = _redis.ask(f"limit:{kind}:{whose}", most)
    if counted is None:
        if settings.RATE_LIMITS_CLOSED:
            raise LimitsUnknown()
        return None
    passes, left, milliseconds = counted
    return Standing(most, left, max(1, -(-milliseconds // 1000)), bool(passes))


# One round trip. The clock is Redis's own: those of two web servers never agree. `window` is the minute's number,
# `count` what passed in it, `before` what passed in the one before.
_TAKE = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
local most, period = tonumber(ARGV[1]), tonumber(ARGV[2])
local window, gone = math.floor(now / period), (now % period) / period
local kept = redis.call('HMGET', KEYS[1], 'window', 'count', 'before')
local count, before = tonumber(kept[2]) or 0, tonumber(kept[3]) or 0
if tonumber(kept[1]) ~= window then
    before = tonumber(kept[1]) == window - 1 and count or 0
    count = 0
end
local used = before * (1 - gone) + count
if used + 1 > most then
    local wait
    if count + 1 <= most then
        wait = 1 - (most - 1 - count) / before - gone
    else
        wait = 1 - gone + 1 - (most - 1) / count
    end
    return {0, 0, math.ceil(wait * period)}
end
redis.call('HSET', KEYS[1], 'window', window, 'count', count + 1, 'before', before)
redis.call('PEXPIRE', KEYS[1], 2 * period)
return {1, math.floor(most - used - 1), math.ceil((1 - gone) * period)}
"""


class _Redis:
    """The way to Redis: a connection for each thread, and the knowledge of all threads that it is away."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._away_until = 0.0

    def ask(self, name: str, most: int) -> tuple[int, int, int] | None:
        if self._away_until and not self._may_try():
            return None
        try:
            found = self._connection().evalsha(self._mine.script, 1, name, most, PERIOD * 1000)
        except redis.exceptions.NoScriptError:  # it was restarted
            try:
                found = self._mine.connection.eval(_TAKE, 1, name, most, PERIOD * 1000)
            except redis.RedisError as problem:
                self._is_away(problem)
                return None
        except redis.RedisError as problem:
            self._is_away(problem)
            return None
        if self._away_until:
            self._away_until = 0.0
        return found[0], found[1], found[2]

    def _connection(self) -> Any:
        url = settings.REDIS_URL
        if getattr(self._mine, "url", None) != url:
            self._mine.connection = redis.Redis.from_url(
                url,
                single_connection_client=True,
                socket_timeout=settings.RATE_LIMITS_PATIENCE,
                socket_connect_timeout=settings.RATE_LIMITS_PATIENCE,
                # Once again at once: a connection that lay idle may have been closed at the other end.
                retry=Retry(NoBackoff(), 1),
            )
            self._mine.script = self._mine.connection.register_script(_TAKE).sha
            self._mine.url = url
        return self._mine.connection

    def _may_try(self) -> bool:
        """Let one thread find out whether Redis is there again; the others go on as if it were not."""
        with self._lock:
            now = time.monotonic()
            if now < self._away_until:
                return False
            self._away_until = now + AWAY
            return True

    def _is_away(self, problem: Exception) -> None:
        if not self._away_until:
            log.error("requests are not counted: Redis does not answer", problem=str(problem)[:200])
        with self._lock:
            self._away_until = time.monotonic() + AWAY
        self._mine.url = None  # half an answer may still be on that line


_redis = _Redis()
