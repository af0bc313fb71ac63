"""Signed messages: what is believed, what is unknown, and how long anybody waits."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from io import BytesIO
from typing import Any

import pytest

from config import messages

KEY = base64.b64encode(b"k" * 32).decode()
OLD_KEY = base64.b64encode(b"o" * 32).decode()
NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)

Talk = Callable[[socket.socket, dict[str, Any]], None]


class Partner:
    """A server on loopback that reads one request and then does to the socket what a test wants."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/messages"
        self.requests: list[bytes] = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            with connection:
                request = self._read(connection)
                self.requests.append(request)
                try:
                    self.talk(connection, json.loads(request.partition(b"\r\n\r\n")[2] or b"{}"))
                except OSError:
                    continue

    def _read(self, connection: socket.socket) -> bytes:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(65536)
        head, _, body = request.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        while lengths and len(body) < int(lengths[0]):
            body += connection.recv(65536)
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        # A close alone would leave accept waiting.
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()


@pytest.fixture
def partner() -> Iterator[Callable[[Talk], Partner]]:
    made: list[Partner] = []

    def make(talk: Talk) -> Partner:
        made.append(Partner(talk))
        return made[-1]

    yield make
    for each in made:
        each.close()


def a_question(**changes: Any) -> messages.Question:
    facts = {"request_no": messages.new_request_no(), "body": {"items": []}, "type": "ENROLMENT"} | changes
    return messages.compose(keys=[KEY], now=NOW, business_date=date(2026, 11, 21), **facts)


def http(raw: bytes, headers: dict[str, str], *, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(raw)}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + raw


def truth(asked: dict[str, Any], **changes: Any) -> tuple[bytes, dict[str, str]]:
    facts: dict[str, Any] = {
        "keys": [KEY],
        "in_reply_to": asked["message_id"],
        "request_no": asked["request_no"],
        "result": messages.SUCCESS,
        "code": "0000",
        "body": {"policy_no": "P1"},
    }
    return messages.respond(**(facts | changes))


def asked(partner: Partner, *, deadline: float = 5.0, keys: list[str] | None = None) -> messages.Answer:
    question = a_question()
    reply = messages.send(url=partner.url, question=question, deadline=deadline)
    return messages.believe(reply=reply, question=question, keys=keys or [KEY])


def why_unknown(partner: Partner, *, deadline: float = 5.0) -> str:
    with pytest.raises(messages.Unknown) as caught:
        asked(partner, deadline=deadline)
    return caught.value.reason


# What is believed ---------------------------------------------------------------------------------------


def test_a_signed_answer_to_the_very_message_is_believed(partner):
    answer = asked(partner(lambda wire, told: wire.sendall(http(*truth(told)))))
    assert (answer.result, answer.code, answer.body) == ("SUCCESS", "0000", {"policy_no": "P1"})


def test_an_answer_signed_with_either_key_is_believed_while_one_is_replaced(partner):
    old = partner(lambda wire, told: wire.sendall(http(*truth(told, keys=[OLD_KEY]))))
    assert asked(old, keys=[KEY, OLD_KEY]).result == "SUCCESS"
    assert why_unknown(old) == "BAD_SIGNATURE"


def test_what_is_sent_is_what_was_handed_to_the_caller(partner):
    server = partner(lambda wire, told: wire.sendall(http(*truth(told))))
    question = a_question(repeat=True)
    messages.send(url=server.url, question=question)
    assert server.requests[0].partition(b"\r\n\r\n")[2] == question.raw
    envelope = json.loads(question.raw)
    assert envelope["repeat"] is True
    assert envelope["business_date"] == "2026-11-21"
    assert len(envelope["request_no"]) == 22


def test_the_other_side_receives_the_message():
    question = a_question(body={"amount": 1234567})
    message = messages.receive(raw=question.raw, headers=question.headers, keys=[OLD_KEY, KEY])
    assert (message.type, message.request_no, message.body) == ("ENROLMENT", question.request_no, {"amount": 1234567})
    assert message.sent_at == NOW


# What is unknown ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("BAD_SIGNATURE", {"keys": [base64.b64encode(secrets.token_bytes(32)).decode()]}),
        ("WRONG_REQUEST_NO", {"request_no": messages.new_request_no()}),
        ("WRONG_REPLY", {"in_reply_to": messages.new_message_id()}),
        ("GARBLED", {"result": "PERHAPS"}),
        ("OVERSIZED", {"text": "x" * messages.MOST_ANSWER_BYTES}),
    ],
)
def test_an_answer_that_is_not_quite_right_is_unknown(partner, reason, changes):
    assert why_unknown(partner(lambda wire, told: wire.sendall(http(*truth(told, **changes))))) == reason


@pytest.mark.parametrize("status", ["500 Oops", "503 Later", "302 Elsewhere", "401 Who", "204 Nothing"])
def test_a_signed_answer_under_another_status_is_unknown(partner, status):
    def talk(wire: socket.socket, told: dict[str, Any]) -> None:
        raw, headers = truth(told)
        wire.sendall(http(b"" if status.startswith("204") else raw, headers, status=status))

    assert why_unknown(partner(talk)) == "HTTP_STATUS"


def test_a_redirect_is_not_followed(partner):
    elsewhere = partner(lambda wire, told: wire.sendall(http(*truth(told))))
    redirecting = partner(
        lambda wire, told: wire.sendall(http(b"", {"location": elsewhere.url}, status="307 Elsewhere"))
    )
    assert why_unknown(redirecting) == "HTTP_STATUS"
    assert elsewhere.requests == []


def test_an_answer_signed_an_hour_ago_is_stale(partner):
    def talk(wire: socket.socket, told: dict[str, Any]) -> None:
        raw, headers = truth(told)
        wire.sendall(http(raw, headers | {"webhook-timestamp": str(int(time.time()) - 3600)}))

    assert why_unknown(partner(talk)) == "STALE"


@pytest.mark.parametrize("signature", ["", "v1", "v1,", "v1,%%%", "v2,AAAA", "v1,AAAA,BBBB", "v1,ü"])
def test_a_signature_that_is_no_signature_is_refused(signature):
    question = a_question()
    with pytest.raises(messages.Mistrusted) as caught:
        messages.receive(raw=question.raw, headers=question.headers | {"webhook-signature": signature}, keys=[KEY])
    assert caught.value.code == "3001"


@pytest.mark.parametrize(
    "changes", [{"webhook-id": "another"}, {"webhook-timestamp": "1"}, {"webhook-timestamp": "nan"}]
)
def test_a_message_under_changed_headers_is_refused(changes):
    question = a_question()
    with pytest.raises(messages.Mistrusted):
        messages.receive(raw=question.raw, headers=question.headers | changes, keys=[KEY])


def test_a_changed_body_is_refused():
    question = a_question(body={"amount": 100})
    with pytest.raises(messages.Mistrusted) as caught:
        messages.receive(raw=question.raw.replace(b"100", b"900"), headers=question.headers, keys=[KEY])
    assert caught.value.code == "3001"


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "2"},
        {"message_id": "another"},
        {"request_no": "short"},
        {"request_no": 7},
        {"sent_at": "2026-11-21T10:00:00"},
        {"sent_at": None},
        {"business_date": "2026-02-30"},
        {"repeat": "yes"},
        {"body": []},
        {"type": None},
    ],
)
def test_a_signed_envelope_that_is_wrong_is_refused(changes):
    question = a_question()
    raw = messages.write_json(json.loads(question.raw) | changes)
    headers = messages.sign(keys=[KEY], message_id=question.message_id, content=raw)
    with pytest.raises(messages.Mistrusted) as caught:
        messages.receive(raw=raw, headers=headers, keys=[KEY])
    assert caught.value.code == "9999"


# Reading strictly ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b'{"premium":1,"premium":2}',
        b'{"a":{"premium":1,"premium":1}}',
        b'{"premium":73.06}',
        b'{"premium":1e2}',
        b'{"premium":NaN}',
        b'{"premium":-Infinity}',
        b'{"name":"\\u0000"}',
        b'{"name":"\x00"}',
        b'{"name":"\\ud800"}',
        b'{"name":"\xff"}',
        b"[]",
        b'"text"',
        b"",
        b"{",
        b"<html>",
        b'{"a":' + b"[" * 100_000,
        b'{"premium":' + b"9" * 5_000 + b"}",
    ],
)
def test_content_that_could_be_read_two_ways_is_refused(raw):
    with pytest.raises(messages.NotStrict):
        messages.read_json(raw)


def test_what_is_written_is_read_again():
    content = {"merchant": "理发店 \U0001f488", "premium": 7306, "rate": "0.0120", "items": [True, None, []]}
    assert messages.read_json(messages.write_json(content)) == content
    assert messages.read_json(json.dumps(content).encode()) == content


def test_a_nan_is_never_written():
    with pytest.raises(ValueError):
        messages.write_json({"premium": float("nan")})


# Waiting ------------------------------------------------------------------------------------------------


def drip_body(wire: socket.socket, told: dict[str, Any]) -> None:
    drip(wire, http(*truth(told)), after=b"\r\n\r\n")


def drip_headers(wire: socket.socket, told: dict[str, Any]) -> None:
    drip(wire, http(*truth(told)), after=b"")


def drip(wire: socket.socket, answer: bytes, *, after: bytes) -> None:
    start = answer.index(after) + len(after)
    wire.sendall(answer[:start])
    for at in range(start, len(answer)):
        time.sleep(0.05)
        wire.sendall(answer[at : at + 1])


def say_nothing(wire: socket.socket, told: dict[str, Any]) -> None:
    wire.recv(1)


@pytest.mark.parametrize("talk", [drip_body, drip_headers, say_nothing])
def test_the_deadline_is_one_for_everything(partner, talk):
    started = time.monotonic()
    assert why_unknown(partner(talk), deadline=0.5) == "TIMED_OUT"
    # To the end it would take half a minute, or for ever.
    assert 0.4 < time.monotonic() - started < 10


def test_a_partner_that_never_accepts_is_not_waited_for():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        queue = []
        # A backlog of none still takes one or two: fill it, so that the next has to wait.
        for _ in range(3):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
            queue.append(waiting)
        started = time.monotonic()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        reply = messages.send(url=url, question=a_question(), deadline=0.5)
        assert reply.failure == "TIMED_OUT"
        assert time.monotonic() - started < 10
        for waiting in queue:
            waiting.close()


def test_nobody_listening_is_unknown_not_an_error():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    reply = messages.send(url=f"http://127.0.0.1:{port}/", question=a_question())
    assert (reply.failure, reply.status, reply.raw) == ("CONNECTION_LOST", None, b"")


def test_a_broken_connection_keeps_what_came(partner):
    def talk(wire: socket.socket, told: dict[str, Any]) -> None:
        wire.sendall(http(*truth(told))[:-20])

    question = a_question()
    reply = messages.send(url=partner(talk).url, question=question)
    assert reply.failure == "CONNECTION_LOST"
    assert reply.raw.startswith(b'{"version":"1"')


def test_an_endless_answer_is_read_no_further_than_64_kib(partner):
    sent = 0

    def talk(wire: socket.socket, told: dict[str, Any]) -> None:
        nonlocal sent
        wire.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            wire.sendall(b"x" * 65536)
            sent += 65536

    server = partner(talk)
    reply = messages.send(url=server.url, question=a_question())
    assert reply.failure == "OVERSIZED"
    assert len(reply.raw) <= messages.MOST_ANSWER_BYTES
    assert sent < 50 * 1024 * 1024


def test_no_proxy_of_the_environment_is_asked(partner, monkeypatch):
    spy = partner(lambda wire, told: wire.sendall(http(b"", {})))
    monkeypatch.setenv("HTTP_PROXY", spy.url)
    monkeypatch.setenv("http_proxy", spy.url)
    monkeypatch.setenv("ALL_PROXY", spy.url)
    answer = asked(partner(lambda wire, told: wire.sendall(http(*truth(told)))))
    assert answer.result == "SUCCESS"
    assert spy.requests == []


def test_a_file_is_fetched_unread_under_a_signature_of_its_path(partner):
    server = partner(lambda wire, told: wire.sendall(http(b"H,1\nT,0\n", {})))
    file = BytesIO()
    url = server.url.replace("/messages", "/bordereau/2026-11-20")
    reply = messages.download(url=url, keys=[KEY], file=file, deadline=5, most=1000, message_id="m1")
    assert (reply.status, reply.failure, file.getvalue()) == (200, "", b"H,1\nT,0\n")
    lines = server.requests[0].decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    assert messages.verify(keys=[KEY], headers=headers, content=b"GET /bordereau/2026-11-20") == "m1"
    with pytest.raises(messages.Mistrusted):
        messages.verify(keys=[KEY], headers=headers, content=b"GET /bordereau/2026-11-19")
