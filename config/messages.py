"""Signed messages between us and systems that are not ours: JSON over HTTP, both for asking and for answering.

Asking takes three steps, so that the asker can store what it sends before it is sent and what came back
before it is believed, and holds no transaction in between::

    question = compose(keys=keys, type="ENROLMENT", request_no=row.request_no, body=body, now=now, business_date=date)
    ...store question.raw, commit...
    reply = send(url=url, question=question)
    ...store reply.raw, commit...
    answer = believe(reply=reply, question=question, keys=keys)     # or Unknown

Answering is ``receive`` and ``respond``. Signatures are those of Standard Webhooks 1.0.0, made and checked by
its library: HMAC-SHA256 over id, timestamp and content, several keys at once while one is being replaced,
±300 s. Their timestamp is the wire's own time, never a business time.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cache
from io import BytesIO
from ssl import SSLContext
from typing import Any, BinaryIO

import anyio._backends._asyncio
import httpcore
import httpx
from standardwebhooks import Webhook, WebhookVerificationError

from config import reaching

# httpx would import them with the first message, in every child that the worker forks: a second of each.
ON_THE_WIRE = (anyio._backends._asyncio, httpcore)

VERSION = "1"
DEADLINE = 10.0
MOST_ANSWER_BYTES = 64 * 1024

SUCCESS = "SUCCESS"
REJECTED = "REJECTED"
IN_PROGRESS = "IN_PROGRESS"

_REQUEST_NO = re.compile(r"[A-Za-z0-9_-]{22,64}")


class NotStrict(ValueError):
    """Content that strict JSON reading refuses."""


class Mistrusted(Exception):
    """An incoming message that is not acted upon; ``code`` is the protocol's word for why."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Unknown(Exception):
    """Nobody can say yet what became of a message: its answer did not come, or cannot be believed.

    ``reason`` is one of TIMED_OUT, CONNECTION_LOST, OVERSIZED, HTTP_STATUS, BAD_SIGNATURE, STALE, GARBLED,
    WRONG_REPLY, WRONG_REQUEST_NO. Silence is not failure: the asker keeps the row and asks again.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} {detail}".strip())
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Question:
    """A message ready to be sent: exactly these bytes, under exactly these headers."""

    message_id: str
    request_no: str
    raw: bytes
    headers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back, not yet believed. ``failure`` is empty when a whole answer arrived in time."""

    status: int | None
    headers: dict[str, str]
    raw: bytes
    failure: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A believed answer: signed by the partner, to this very message, about this very request_no."""

    message_id: str
    result: str
    code: str
    text: str
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Message:
    """A believed incoming message."""

    message_id: str
    request_no: str
    type: str
    sent_at: datetime
    business_date: date
    repeat: bool
    in_reply_to: str
    body: dict[str, Any] = field(repr=False)


def new_request_no() -> str:
    """A business key nobody can guess: 128 random bits in 22 characters."""
    return secrets.token_urlsafe(16)


def new_message_id() -> str:
    """A name for one sending of a message; a repeat of the same request gets a new one."""
    return uuid.uuid4().hex


# Writing and reading ------------------------------------------------------------------------------------


def write_json(content: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 JSON.

    :raises ValueError: for a NaN or an infinity.
    """
    return _COMPACT.encode(content).encode()


def read_json(raw: bytes) -> dict[str, Any]:
    """One JSON object, read strictly: no member twice, no fraction or exponent, no NaN, no NUL, valid UTF-8.

    Money and counts are JSON integers and rates are strings, so no number in a message has a fraction.

    :raises NotStrict: for anything else.
    """
    try:
        content = _STRICT.decode(raw.decode())
        if b"\\u" in raw:
            # Escapes can spell what no UTF-8 text holds: half a surrogate pair. Writing it again shows it.
            write_json(content)
    except (ValueError, RecursionError) as fault:
        raise NotStrict(str(fault)[:200]) from fault
    if b"\\u0000" in raw:
        raise NotStrict("a NUL")
    if not isinstance(content, dict):
        raise NotStrict("not an object")
    return content


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrict("a member is there twice")
    return members


def _refuse_number(text: str) -> Any:
    raise NotStrict(f"{text[:40]} is not an integer")


# Once, since json.dumps and json.loads would make them anew for every message.
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_STRICT = json.JSONDecoder(object_pairs_hook=_members, parse_float=_refuse_number, parse_constant=_refuse_number)


# Signing ------------------------------------------------------------------------------------------------


def sign(*, keys: Sequence[str], message_id: str, content: bytes) -> dict[str, str]:
    """The three Standard Webhooks headers over ``content``, with a signature for every key.

    :raises ValueError: without a key.
    """
    if not keys:
        raise ValueError("no signing key")
    at = datetime.now(UTC)
    text = content.decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(key).sign(message_id, at, text) for key in keys),
    }


def verify(*, keys: Sequence[str], headers: Mapping[str, str], content: bytes) -> str:
    """The message id under which one of ``keys`` signed ``content`` within the last 300 seconds.

    :raises Mistrusted: 3001 bad signature, 3002 stale timestamp.
    """
    found = {name: headers.get(name, "") for name in ("webhook-id", "webhook-timestamp", "webhook-signature")}
    why = "signed by no known key"
    for key in keys:
        try:
            Webhook(key).verify(content, found, json_parse=False)
        # ValueError: the library lets a signature that is no base64, or content that is no text, escape as one.
        except (WebhookVerificationError, ValueError) as fault:
            why = str(fault)
        else:
            return found["webhook-id"]
    raise Mistrusted("3002" if "timestamp too" in why else "3001", why)


def was_signed(*, keys: Sequence[str], headers: Mapping[str, str], content: bytes) -> bool:
    """Whether one of ``keys`` signed ``content`` under this id at the moment named, however long ago that was.

    For what was received then and is read again; what arrives is verified by ``verify``.
    """
    try:
        at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        signatures = [Webhook(key).sign(headers["webhook-id"], at, content.decode()) for key in keys]
    except (KeyError, ValueError, OverflowError, OSError):
        return False
    given = headers.get("webhook-signature", "").split(" ")
    return any(hmac.compare_digest(ours.encode(), theirs.encode()) for ours in signatures for theirs in given)


# Asking -------------------------------------------------------------------------------------------------


def compose(
    *,
    keys: Sequence[str],
    type: str,
    request_no: str,
    body: Mapping[str, Any],
    now: datetime,
    business_date: date,
    repeat: bool = False,
    in_reply_to: str = "",
) -> Question:
    """A signed message, ready to be stored and then sent.

    ``request_no`` is the business key, the same on every retry (``repeat``); the message id is new each time.
    ``in_reply_to`` is for an answer that comes late, as a message of its own.
    """
    message_id = new_message_id()
    envelope = {
        "version": VERSION,
        "type": type,
        "message_id": message_id,
        "request_no": request_no,
        "sent_at": now.isoformat(timespec="seconds"),
        "business_date": business_date.isoformat(),
        "repeat": repeat,
        "body": body,
    }
    if in_reply_to:
        envelope["in_reply_to"] = in_reply_to
    raw = write_json(envelope)
    return Question(
        message_id=message_id,
        request_no=request_no,
        raw=raw,
        headers={"content-type": "application/json", **sign(keys=keys, message_id=message_id, content=raw)},
    )


def send(*, url: str, question: Question, deadline: float = DEADLINE, most: int = MOST_ANSWER_BYTES) -> Reply:
    """Send and wait for the whole answer, for ``deadline`` seconds of wall clock altogether.

    Looking up the name, connecting, sending and every byte of the answer count; a dripping answer does not
    stretch it. At most ``most`` bytes are read, no redirect is followed, no proxy of the environment is used.
    Whatever goes wrong on the wire comes back as a Reply with a ``failure``.
    """
    answer = BytesIO()
    reply = _exchange(
        method="POST",
        url=url,
        headers=question.headers,
        content=question.raw,
        file=answer,
        most=most,
        deadline=deadline,
    )
    return replace(reply, raw=answer.getvalue())


def download(*, url: str, keys: Sequence[str], file: BinaryIO, deadline: float, most: int, message_id: str) -> Reply:
    """Fetch a partner's file into ``file``, unread; the signed content of such a request is ``GET`` and its path.

    :raises ValueError: without a key.
    """
    content = f"GET {httpx.URL(url).path}".encode()
    return _exchange(
        method="GET",
        url=url,
        headers=sign(keys=keys, message_id=message_id, content=content),
        content=b"",
        file=file,
        most=most,
        deadline=deadline,
    )


def tell(
    *,
    url: str,
    headers: Mapping[str, str],
    content: bytes,
    deadline: float = DEADLINE,
    most: int = 1024,
    internal: Sequence[reaching.Network] = (),
    find: reaching.LookUp = reaching.look_up,
) -> Reply:
    """Send to a URL that somebody else chose, and give back the beginning of what he answers.

    Like ``send``, but no internal address is ever connected to, except those of the ``internal`` networks: the name is
    looked up once and the connection goes to an address that was judged. A Reply may have a status and a ``failure``:
    OVERSIZED with its first ``most`` bytes, or TIMED_OUT in the middle of the answer.
    """
    answer = BytesIO()
    reply = _exchange(
        method="POST",
        url=url,
        headers=headers,
        content=content,
        file=answer,
        most=most,
        deadline=deadline,
        aim=lambda: reaching.aim(url, internal=internal, find=find),
    )
    return replace(reply, raw=answer.getvalue())


def _exchange(
    *,
    method: str,
    url: str,
    headers: Mapping[str, str],
    content: bytes,
    file: BinaryIO,
    most: int,
    deadline: float,
    aim: Callable[[], Awaitable[reaching.Target]] | None = None,
) -> Reply:
    status: int | None = None
    got: dict[str, str] = {}
    failure = detail = ""

    async def talk() -> None:
        target = reaching.Target([httpx.URL(url)], {}, {}) if aim is None else await aim()
        given = {"accept-encoding": "identity", **headers, **target.headers}
        # One that cannot be connected to must leave time for the others.
        patience = httpx.Timeout(None, connect=deadline / len(target.urls))
        async with httpx.AsyncClient(
            trust_env=False, follow_redirects=False, timeout=patience, verify=_tls()
        ) as client:
            for left, address in zip(range(len(target.urls))[::-1], target.urls, strict=True):
                try:
                    async with client.stream(
                        method, address, headers=given, content=content, extensions=target.extensions
                    ) as response:
                        await read(response)
                    return
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if not left:
                        raise

    async def read(response: httpx.Response) -> None:
        nonlocal status, got, failure
        room = most
        status, got = response.status_code, dict(response.headers)
        async for chunk in response.aiter_raw():
            file.write(chunk[:room])
            room -= len(chunk)
            if room < 0:
                failure = "OVERSIZED"
                return

    async def in_time() -> None:
        async with asyncio.timeout(deadline):
            await talk()

    # A loop of our own: asyncio.run would wait for a name look-up that outlives the deadline.
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(in_time())
        loop.run_until_complete(loop.shutdown_asyncgens())
    except (TimeoutError, httpx.ConnectTimeout):
        failure = "TIMED_OUT"
    except reaching.NotReachable as fault:
        failure, detail = fault.reason, fault.detail
    except httpx.TransportError as fault:
        failure, detail = "CONNECTION_LOST", f"{type(fault).__name__} {fault}"[:200]
    finally:
        loop.close()
    return Reply(status=status, headers=got, raw=b"", failure=failure, detail=detail)


@cache
def _tls() -> SSLContext:
    # Once a process: reading the certificates costs more than a whole message.
    return httpx.create_ssl_context(trust_env=False)


def believe(*, reply: Reply, question: Question, keys: Sequence[str]) -> Answer:
    """The answer in ``reply``, if it is whole, signed by the partner and an answer to ``question``.

    :raises Unknown: otherwise, with the reason; nothing may then be concluded about what the partner did.
    """
    if reply.failure:
        raise Unknown(reply.failure, reply.detail)
    if reply.status != httpx.codes.OK:
        raise Unknown("HTTP_STATUS", str(reply.status))
    try:
        message_id = verify(keys=keys, headers=reply.headers, content=reply.raw)
        content = read_json(reply.raw)
    except Mistrusted as fault:
        raise Unknown("STALE" if fault.code == "3002" else "BAD_SIGNATURE", fault.text) from fault
    except NotStrict as fault:
        raise Unknown("GARBLED", str(fault)) from fault
    result, code, text, body = (content.get(name) for name in ("result", "code", "text", "body"))
    if content.get("in_reply_to") != question.message_id:
        raise Unknown("WRONG_REPLY", str(content.get("in_reply_to"))[:80])
    if content.get("request_no") != question.request_no:
        raise Unknown("WRONG_REQUEST_NO", str(content.get("request_no"))[:80])
    if (
        content.get("version") != VERSION
        or content.get("message_id") != message_id
        or result not in (SUCCESS, REJECTED, IN_PROGRESS)
        or not isinstance(code, str)
        or not isinstance(text, str)
        or not isinstance(body, dict)
    ):
        raise Unknown("GARBLED", "the envelope is not that of an answer")
    return Answer(message_id=message_id, result=result, code=code, text=text, body=body)


# Answering ----------------------------------------------------------------------------------------------


def receive(*, raw: bytes, headers: Mapping[str, str], keys: Sequence[str]) -> Message:
    """The message in ``raw``, if it is signed by one of ``keys``, fresh and well-formed.

    :raises Mistrusted: 3001 bad signature, 3002 stale timestamp, 9999 not a message.
    """
    message_id = verify(keys=keys, headers=headers, content=raw)
    try:
        content = read_json(raw)
        sent_at = datetime.fromisoformat(content["sent_at"])
        message = Message(
            message_id=content["message_id"],
            request_no=content["request_no"],
            type=content["type"],
            sent_at=sent_at,
            business_date=date.fromisoformat(content["business_date"]),
            repeat=content["repeat"],
            in_reply_to=content.get("in_reply_to", ""),
            body=content["body"],
        )
        well_formed = (
            content["version"] == VERSION
            and message.message_id == message_id
            and sent_at.tzinfo is not None
            and _REQUEST_NO.fullmatch(message.request_no) is not None
            and isinstance(message.type, str)
            and isinstance(message.repeat, bool)
            and isinstance(message.in_reply_to, str)
            and isinstance(message.body, dict)
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise Mistrusted("9999", f"not a message: {fault}"[:200]) from fault
    if not well_formed:
        raise Mistrusted("9999", "not a message: a member of the envelope is wrong")
    return message


def respond(
    *,
    keys: Sequence[str],
    in_reply_to: str,
    request_no: str,
    result: str,
    code: str,
    text: str = "",
    body: Mapping[str, Any] | str | None = None,
) -> tuple[bytes, dict[str, str]]:
    """The raw answer to a message and its headers; ``body`` may be JSON that is written already."""
    message_id = new_message_id()
    envelope = {
        "version": VERSION,
        "message_id": message_id,
        "in_reply_to": in_reply_to,
        "request_no": request_no,
        "result": result,
        "code": code,
        "text": text,
    }
    if isinstance(body, str):
        raw = b'%s,"body":%s}' % (write_json(envelope)[:-1], body.encode())
    else:
        raw = write_json({**envelope, "body": body or {}})
    return raw, {"content-type": "application/json", **sign(keys=keys, message_id=message_id, content=raw)}
