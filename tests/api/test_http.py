"""Over real HTTP, with the server that is used: what no test client would send."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from config.ids import public_id
from issuing.models import Kind
from prepaid.models import Transaction
from tests import cards
from tests.api.asking import asker, insured
from tests.partners import PATIENCE
from tests.web import served

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass
class Till:
    """A merchant's till with a card before it, at a server of its own."""

    port: int
    key: str
    card: str

    def head(self, *lines: str, key: str = "k-1") -> bytes:
        return "\r\n".join(
            [
                f"POST /api/v1/cards/{self.card}/payments HTTP/1.1",
                f"Host: 127.0.0.1:{self.port}",
                f"Authorization: Bearer {self.key}",
                "Content-Type: application/json",
                f"Idempotency-Key: {key}",
                *lines,
                "",
                "",
            ]
        ).encode()

    def says(self, data: bytes, *, then_ends: bool = False) -> tuple[int, dict]:
        """Send bytes as they are; returns status and body, or (0, {}) if the server just hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as line:
            line.sendall(data)
            if then_ends:
                line.shutdown(socket.SHUT_WR)
            received = b""
            while b"\r\n\r\n" not in received or not _whole(received):
                if not (more := line.recv(65_536)):
                    break
                received += more
        if not received:
            return 0, {}
        head, _blank, body = received.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body) if body else {}


def _whole(received: bytes) -> bool:
    head, _blank, body = received.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    return bool(lengths) and len(body) >= int(lengths[0])


@pytest.fixture
def till(tmp_path: Path) -> Iterator[Till]:
    program = asker(insured())
    card = cards.opened(cards.program(Kind.BONUS, merchant=program.merchant))
    with served(tmp_path / "log") as port:
        yield Till(port, program.key, public_id("crd", card.pk))


def test_what_comes_over_the_wire_is_answered_in_order_and_in_kind(till):
    body = b'{"list_amount": 100, "reference": "ORDER-1"}'
    paid = till.says(till.head(f"Content-Length: {len(body)}") + body)
    assert (paid[0], paid[1]["balance"]["usable"]) == (201, 99_900)
    # Whatever follows changes nothing.
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    status, problem = till.says(till.head("Transfer-Encoding: chunked", key="k-2") + chunked)
    assert (status, problem["code"]) == (411, "LengthRequired")
    # Nobody reads 10 GB to say no.
    status, problem = till.says(till.head("Content-Length: 10000000000", key="k-3"))
    assert (status, problem["code"]) == (413, "BodyTooLarge")
    # Less than was said, and the line goes dead.
    status, problem = till.says(till.head("Content-Length: 1000", key="k-4") + body, then_ends=True)
    assert status in (0, 400), problem
    # Two lengths: whichever a proxy in front believed, nobody gets a second request in.
    status, _problem = till.says(till.head("Content-Length: 5", f"Content-Length: {len(body)}", key="k-5") + body)
    assert status in (0, 400)
    assert Transaction.objects.filter(kind="PAYMENT").count() == 1
    again = till.says(till.head(f"Content-Length: {len(body)}") + body)
    assert again == paid


def test_every_answer_is_a_problem_or_the_thing_itself_and_never_a_page(till):
    with httpx.Client(base_url=f"http://127.0.0.1:{till.port}", headers={"Authorization": f"Bearer {till.key}"}) as web:
        listed = web.get("/api/v1/cards")
        assert [row["id"] for row in listed.json()["data"]] == [till.card]
        for method, address in (
            ("GET", "/api/v1/nothing"), ("GET", "/api/v1"), ("GET", "/api/v1/cards/"), ("DELETE", "/api/v1/cards"),
            ("POST", "/api/v1/cards"), ("GET", "/api/v1/cards/%00"), ("GET", "/api/v1/cards/%ff%fe"),
            ("GET", "/api/v1/cards/../../healthz"), ("BREW", "/api/v1/cards"), ("OPTIONS", "/api/v1/cards"),
        ):  # fmt: skip
            answer = web.request(method, address)
            assert 400 <= answer.status_code < 500, (method, address)
            assert answer.headers["Content-Type"] == "application/problem+json", (method, address)
            assert answer.json()["request_id"] == answer.headers["Request-Id"]
        assert web.get("/api/v1/cards", headers={"Host": "evil.example"}).json()["code"] == "BadRequest"
        assert web.head("/api/v1/cards").content == b""
