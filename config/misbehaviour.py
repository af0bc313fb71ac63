"""How a partner system goes wrong on demand: the ways in which its answer can fail to come or to be true.

What can go wrong with any message stands here: silence, the line, the envelope, the signature. A partner keeps one
row of ``Behaviour``, which says what happens to its next messages, and bends in its own way what only it can bend.
"""

from __future__ import annotations

import base64
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from django.db import connections, models, router
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from config import messages

Facts = dict[str, Any]
"""Result, code, text and body of an answer."""
Bend = Callable[[Facts], Facts]

DRIP_SECONDS = 0.1
OVERSIZE_BYTES = 80 * 1024


class ConnectionBroken(Exception):
    """Raised in mid-answer, so that the server drops the connection as a dying one would."""


class Kind(models.TextChoices):
    """What any partner can do wrong."""

    GOOD = "GOOD", _("answers as it should")
    SLOW = "SLOW", _("answers after some seconds")
    SILENT_BEFORE = "SILENT_BEFORE", _("does nothing and never answers")
    SILENT_AFTER = "SILENT_AFTER", _("acts, then never answers")
    GARBLED = "GARBLED", _("answers with what is no JSON, well signed")
    WRONG_SIGNATURE = "WRONG_SIGNATURE", _("signs with a key nobody knows")
    WRONG_REQUEST_NO = "WRONG_REQUEST_NO", _("answers about another request")
    WRONG_REPLY = "WRONG_REPLY", _("answers another message")
    LATE = "LATE", _("says in progress, answers by callback after some seconds")
    DRIPPING = "DRIPPING", _("answers a byte at a time")
    OVERSIZE = "OVERSIZE", _("answers with more than anybody should read")
    REDIRECT = "REDIRECT", _("sends the asker elsewhere")
    SERVER_ERROR = "SERVER_ERROR", _("acts, then answers 500")
    DOWN = "DOWN", _("does nothing and breaks the connection")
    DOWN_AFTER = "DOWN_AFTER", _("acts, then breaks the connection in mid-answer")


class Behaviour(models.Model):
    """One row for each partner: what happens to the next messages. Each partner names its own ``kind``."""

    kind: Any
    id = models.SmallIntegerField(primary_key=True)
    type = models.CharField(_("for messages of type"), max_length=20, blank=True, help_text=_("empty: all"))
    remaining = models.PositiveIntegerField(
        _("for the next messages"), null=True, blank=True, help_text=_("empty: until changed")
    )
    seconds = models.DecimalField(_("seconds"), max_digits=6, decimal_places=2, default=15)
    callback_url = models.URLField(_("callback address"), blank=True)

    FORM: ClassVar[tuple[str, ...]] = ("kind", "type", "remaining", "seconds", "callback_url")
    """What staff and tests may set."""

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return str(self.kind)


def kind_field(own: type[models.TextChoices]) -> models.CharField[str, str]:
    """The ``kind`` of a partner that can also do wrong what is in ``own``."""
    return models.CharField(
        _("behaviour"), max_length=30, choices=[*Kind.choices, *own.choices], default=Kind.GOOD.value
    )


Row = TypeVar("Row", bound=Behaviour)


def towards(behaviours: type[Row], *, type: str) -> Row:
    """What happens to this message; counts it, so that a behaviour for n messages ends after n."""
    table = behaviours._meta.db_table
    columns = [field.attname for field in behaviours._meta.concrete_fields]
    with connections[router.db_for_write(behaviours)].cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET remaining = remaining - 1"  # noqa: S608
            " WHERE kind <> 'GOOD' AND type IN ('', %s) AND (remaining IS NULL OR remaining > 0)"
            f" RETURNING {', '.join(columns)}",
            [type],
        )
        row = cursor.fetchone()
    return behaviours() if row is None else behaviours(**dict(zip(columns, row, strict=True)))


def swallows(now: Behaviour) -> HttpResponseBase | None:
    """The answer of a partner that does nothing with a message, or None where it does something."""
    if now.kind == Kind.SILENT_BEFORE:
        return _never_answers(float(now.seconds))
    if now.kind == Kind.DOWN:
        return breaks_off()
    return None


def answer(
    now: Behaviour, *, message: messages.Message, facts: Facts, keys: Sequence[str], bends: Mapping[str, Bend]
) -> tuple[HttpResponseBase, bytes]:
    """The answer to a message that was acted upon, true or not, and the bytes of it to keep.

    ``bends`` are the partner's own ways of not telling the ``facts``, by kind.
    """
    bend = _BENDS.get(now.kind) or bends.get(now.kind)
    if bend is not None:
        facts = bend(facts)
    in_reply_to, request_no = message.message_id, message.request_no
    if now.kind == Kind.WRONG_REPLY:
        in_reply_to = messages.new_message_id()
    if now.kind == Kind.WRONG_REQUEST_NO:
        request_no = messages.new_request_no()
    if now.kind == Kind.WRONG_SIGNATURE:
        keys = [base64.b64encode(secrets.token_bytes(32)).decode()]
    raw, headers = messages.respond(keys=keys, in_reply_to=in_reply_to, request_no=request_no, **facts)
    if now.kind == Kind.GARBLED:
        raw = raw[: len(raw) // 2]
        message_id = headers["webhook-id"]
        headers |= messages.sign(keys=keys, message_id=message_id, content=raw)
    if now.kind == Kind.SLOW:
        time.sleep(float(now.seconds))
    on_the_wire = _ON_THE_WIRE.get(now.kind)
    response = on_the_wire(raw, headers, now) if on_the_wire else HttpResponse(raw, headers=headers)
    return response, raw


def call_back(
    now: Behaviour, *, url: str, message: messages.Message, body: Facts, keys: Sequence[str], times: int = 1
) -> None:
    """Tell the outcome of ``message`` after some seconds, as a signed message of its own, sent ``times`` times."""

    def tell() -> None:
        at = timezone.now()
        question = messages.compose(
            keys=keys,
            type="LATE_ANSWER",
            request_no=message.request_no,
            body=body,
            now=at,
            business_date=timezone.localdate(at),
            in_reply_to=message.message_id,
        )
        for _time in range(times):
            # Nothing hangs on its arrival: the other side asks about what it has not been told.
            messages.send(url=url, question=question)

    later(now, tell)


def later(now: Behaviour, act: Callable[[], object]) -> None:
    """Do something after the behaviour's seconds, beside whatever else goes on."""

    def once() -> None:
        try:
            act()
        finally:
            connections.close_all()

    timer = threading.Timer(float(now.seconds), once)
    timer.daemon = True
    timer.start()


def breaks_off(start: bytes = b"{") -> HttpResponseBase:
    """An answer that ends in its middle, with the connection."""

    def halfway() -> Iterator[bytes]:
        yield start
        raise ConnectionBroken

    return StreamingHttpResponse(halfway(), headers={"content-length": str(len(start) + 1000)})


def _never_answers(seconds: float) -> HttpResponseBase:
    time.sleep(seconds)
    return breaks_off()


def _drips(raw: bytes, seconds: float) -> Iterator[bytes]:
    until = time.monotonic() + seconds
    for at in range(len(raw)):
        if time.monotonic() > until:
            yield raw[at:]
            return
        time.sleep(DRIP_SECONDS)
        yield raw[at : at + 1]


_BENDS: dict[str, Bend] = {
    Kind.LATE: lambda facts: facts | {"result": messages.IN_PROGRESS, "code": "9998", "body": {}},
    Kind.OVERSIZE: lambda facts: facts | {"text": "x" * OVERSIZE_BYTES},
}
_ON_THE_WIRE: dict[str, Callable[[bytes, dict[str, str], Behaviour], HttpResponseBase]] = {
    Kind.SILENT_AFTER: lambda raw, headers, now: _never_answers(float(now.seconds)),
    Kind.DRIPPING: lambda raw, headers, now: StreamingHttpResponse(_drips(raw, float(now.seconds)), headers=headers),
    Kind.REDIRECT: lambda raw, headers, now: HttpResponse(status=307, headers={"location": "/elsewhere"}),
    Kind.SERVER_ERROR: lambda raw, headers, now: HttpResponse(raw, headers=headers, status=500),
    Kind.DOWN_AFTER: lambda raw, headers, now: breaks_off(raw[:20]),
}
