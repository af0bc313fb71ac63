"""The points system answering deductions over HTTP beside the bare SQL that makes them, one asker each.

Both do the same work in the database: one prepared call each, on one connection each, under the server's own commit
setting, with everything that a message brings along: random names, a whole fingerprint, the raw message kept, and the
look whether to misbehave. Names in sequence and an empty message once flattered the bare side by a seventh. The asker
reads an answer off the socket as it comes: what http.client takes of the same two cores is not the server's affair.
"""

import hashlib
import json
import re
import socket
from collections.abc import Callable
from itertools import cycle
from time import perf_counter
from urllib.parse import urlsplit

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.conf import settings  # noqa: E402
from django.utils import timezone  # noqa: E402

from config import messages  # noqa: E402
from tests.benchmarks import partners  # noqa: E402
from tests.benchmarks.measuring import Figure, take_turns  # noqa: E402

ACCOUNTS = 200
POINTS = 10**11


def measure(*, share: float) -> list[Figure]:
    with (
        partners.served(settings.POINTS_SYSTEM_URL),
        psycopg.connect(partners.database_url("points_system"), autocommit=True) as bank,
    ):
        _fill(bank)
        rates = take_turns(
            {"http": _over_http(), "bare": _bare(bank)}, count=max(100, int(600 * share)), rounds=max(3, int(9 * share))
        )
    return [
        Figure(
            "points_system", "deductions answered", rates["http"], "the bare SQL function", rates["bare"], at_least=0.5
        )
    ]


def _fill(bank: psycopg.Connection[tuple[object, ...]]) -> None:
    """Accounts with two lots each, and one ratio."""
    bank.execute(
        "WITH account AS ("
        "INSERT INTO points_system_account (number, customer, state, most_per_deduction, most_per_day, opened_at)"
        " SELECT 'BENCH' || n, '刘杰', 'ACTIVE', %(points)s, %(points)s, now() FROM generate_series(1, %(many)s) n"
        " RETURNING id)"
        " INSERT INTO points_system_lot (account_id, points, remaining, expires_date, origin, added_at)"
        " SELECT id, %(points)s, %(points)s, '2030-12-31'::date + n, '', now() FROM account, generate_series(1, 2) n",
        {"points": POINTS, "many": ACCOUNTS},
    )
    bank.execute(
        "INSERT INTO points_system_ratio (version, product, exchange_ratio, rounding, advised_at)"
        " VALUES ('BENCH:1', 'BENCH', 333.33, 'CEIL', now())"
    )


_accounts = cycle(f"BENCH{number}" for number in range(1, ACCOUNTS + 1))


def _body() -> dict[str, object]:
    return {
        "account": next(_accounts),
        "points": 1000,
        "coupon_count": 3,
        "exchange_ratio": "333.33",
        "ratio_version": "BENCH:1",
        "rounding": "CEIL",
    }


def _composed(body: dict[str, object]) -> messages.Question:
    now = timezone.now()
    return messages.compose(
        keys=settings.POINTS_SYSTEM_KEYS,
        type="DEDUCTION_REQUEST",
        request_no=messages.new_request_no(),
        body=body,
        now=now,
        business_date=timezone.localdate(now),
    )


def _over_http() -> Callable[[int], float]:
    """On one connection; what the asker does to compose a message is not the points system's affair."""
    url = urlsplit(settings.POINTS_SYSTEM_URL)
    line = socket.create_connection(("127.0.0.1", url.port or 80))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def written() -> bytes:
        question = _composed(_body())
        headers = {"host": "127.0.0.1", "content-length": str(len(question.raw)), **question.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {url.path}messages HTTP/1.1\r\n{head}\r\n".encode() + question.raw

    def subject(deductions: int) -> float:
        questions = [written() for _deduction in range(deductions)]
        answers = []
        start = perf_counter()
        for question in questions:
            line.sendall(question)
            answers.append(_read(line))
        taken = perf_counter() - start
        assert all(json.loads(answer)["code"] == "0000" for answer in answers)
        return taken

    return subject


def _read(line: socket.socket) -> bytes:
    got = b""
    while b"\r\n\r\n" not in got:
        got += line.recv(65536) or _cut_off()
    head, _, content = got.partition(b"\r\n\r\n")
    said = re.search(rb"\r\ncontent-length: ([0-9]+)", head)
    assert said is not None, head
    while len(content) < int(said[1]):
        content += line.recv(65536) or _cut_off()
    assert head.startswith(b"HTTP/1.1 200 "), head
    return content


def _cut_off() -> bytes:
    raise ConnectionError("the answer ended in its middle")


def _bare(bank: psycopg.Connection[tuple[object, ...]]) -> Callable[[int], float]:
    cursor = bank.cursor()
    sql = "SELECT code, body FROM points_system_post(%s, 'DEDUCTION_REQUEST', %s, %s, %s, %s, NULL, %s, %s, NULL)"

    def arguments() -> tuple[object, ...]:
        body = _body()
        question = _composed(body)
        whole = json.dumps(body)
        now = timezone.now()
        return (
            question.message_id,
            question.request_no,
            hashlib.sha256(whole.encode()).hexdigest(),
            whole,
            question.raw,
            now,
            timezone.localdate(now),
        )

    def subject(deductions: int) -> float:
        calls = [arguments() for _deduction in range(deductions)]
        start = perf_counter()
        for call in calls:
            cursor.execute(sql, call)
            (code, _answer) = cursor.fetchone()  # type: ignore[misc]  one row always
            assert code == "0000"
        return perf_counter() - start

    return subject
