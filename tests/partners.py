"""The partner systems as the tests meet them: the real process, on a real port, with a database of its own.

Tests tell it how to behave over HTTP and read what it holds out of its database; nothing in it is replaced.
"""

from __future__ import annotations

import base64
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import psycopg
import pytest
from django.conf import settings
from django.utils import timezone
from psycopg import sql
from psycopg.rows import dict_row

from config import messages

PROJECT = Path(__file__).resolve().parent.parent
STAFF = ("underwriter", "a-password-of-the-tests")
BANK_STAFF = ("banker", "another-password-of-the-tests")
PATIENCE = 120.0
"""Seconds that a process may take until it is seen to do something, on a machine that does much else."""

THREADS = 12
"""How many askers the process keeps waiting at once, which is as many connections as it ever has."""


@dataclass
class Server:
    """The process that both partner systems run in, a group of its own."""

    port: int
    environment: dict[str, str]
    log: Path
    threads: int = THREADS
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1"),
                    *("--port", str(self.port), "--workers", "1", "--blocking-threads", str(self.threads)),
                    "config.partner_wsgi:application",
                ],
                cwd=PROJECT, env=self.environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        _wait_for(self.port, self.process, self.log)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """As a power cut would: no word to it, and none from it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Partner:
    """A partner system: where it listens, and what it holds."""

    prefix: ClassVar[str]
    tables: ClassVar[str]
    holds_in: ClassVar[tuple[str, ...]]

    url: str
    keys: list[str]
    database: psycopg.Connection[dict[str, Any]]
    server: Server = field(repr=False)

    @property
    def messages_url(self) -> str:
        return f"{self.url}/{self.prefix}/messages"

    def behaves(self, kind: str = "GOOD", **how: Any) -> None:
        """From the next message on; ``how``: type, remaining, seconds, callback_url; an insurer: every, code."""
        self._tell({"kind": kind, **how})

    def _tell(self, body: dict[str, Any]) -> None:
        now = timezone.now()
        question = messages.compose(
            keys=self.keys,
            type="BEHAVIOUR",
            request_no=messages.new_request_no(),
            body=body,
            now=now,
            business_date=now.date(),
        )
        reply = messages.send(url=f"{self.url}/{self.prefix}/behaviour", question=question)
        assert reply.status == 200, (reply, body)

    def ask(
        self, type: str, body: dict[str, Any], *, request_no: str | None = None, repeat: bool = False
    ) -> messages.Answer:
        """Ask as the business side would, and believe the answer."""
        now = timezone.now()
        question = messages.compose(
            keys=self.keys,
            type=type,
            request_no=request_no or messages.new_request_no(),
            body=body,
            now=now,
            business_date=now.date(),
            repeat=repeat,
        )
        reply = messages.send(url=self.messages_url, question=question)
        return messages.believe(reply=reply, question=question, keys=self.keys)

    def holds(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """Rows out of its own database."""
        return self.database.execute(query, values).fetchall()

    def count(self, table: str) -> int:
        statement = sql.SQL("SELECT count(*) AS count FROM {}").format(sql.Identifier(f"{self.tables}_{table}"))
        row = self.database.execute(statement).fetchone()
        assert row is not None
        return int(row["count"])

    def forgets(self) -> None:
        """Nothing happened yet, and it behaves."""
        for table in self.holds_in:
            # Quicker than TRUNCATE where there are few rows, and most often there are none.
            self.database.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(f"{self.tables}_{table}")))
        self.behaves()


class Insurer(Partner):
    """The reference insurer."""

    prefix = "insurer"
    tables = "insurer"
    holds_in = ("endorsement", "policy", "item", "message", "tombstone")


class PointsSystem(Partner):
    """The credit-card points system."""

    prefix = "points"
    tables = "points_system"
    holds_in = (
        "movement", "return", "deduction", "request", "lot", "account", "ratio", "message", "tombstone",
    )  # fmt: skip

    def has_account(
        self, *lots: tuple[int, str], number: str = "6225000026000000", state: str = "ACTIVE",
        most_per_deduction: int = 10**9, most_per_day: int = 10**9,
    ) -> str:  # fmt: skip
        """An account with ``lots`` of (points, last day ``2027-12-31``); its number."""
        (row,) = self.holds(
            "INSERT INTO points_system_account"
            " (number, customer, state, most_per_deduction, most_per_day, opened_at)"
            " VALUES (%(number)s, '刘杰', %(state)s, %(deduction)s, %(day)s, now()) RETURNING id",
            number=number, state=state, deduction=most_per_deduction, day=most_per_day,
        )  # fmt: skip
        for points, expires in lots:
            self.database.execute(
                "INSERT INTO points_system_lot (account_id, points, remaining, expires_date, origin, added_at)"
                " VALUES (%s, %s, %s, %s, 'test', now())",
                [row["id"], points, points, expires],
            )
        return number

    def advise(
        self, version: str = "TEA50:1", ratio: str = "333.33", rounding: str = "CEIL", product: str = "TEA50"
    ) -> messages.Answer:
        """Tell it an exchange ratio, as the e-commerce system does before it asks for deductions."""
        body = {"ratio_version": version, "product": product, "exchange_ratio": ratio, "rounding": rounding}
        return self.ask("RATIO_ADVICE", body)

    def remaining(self, number: str = "6225000026000000") -> list[int]:
        """What is left of each lot of an account, soonest expiry first."""
        rows = self.holds(
            "SELECT remaining FROM points_system_lot l JOIN points_system_account a ON a.id = l.account_id"
            " WHERE a.number = %(number)s ORDER BY l.expires_date, l.id",
            number=number,
        )
        return [row["remaining"] for row in rows]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def database_url(name: str) -> str:
    """Where a database beside the tests' own one is."""
    door = settings.DATABASES["owner"]
    host = door.get("OPTIONS", {}).get("host") or door["HOST"]
    login = quote(door["USER"], safe="")
    if door["PASSWORD"]:
        login += ":" + quote(door["PASSWORD"], safe="")
    port = door["PORT"] or 5432
    return f"postgresql://{login}@/{name}?host={quote(host, safe='/')}&port={port}"


def make_database(name: str) -> None:
    with psycopg.connect(database_url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        # A test need not survive a power cut.
        connection.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(sql.Identifier(name)))


def drop_database(name: str) -> None:
    with psycopg.connect(database_url("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


_PROCESS = pytest.StashKey[tuple[Insurer, PointsSystem]]()


@pytest.fixture(scope="session")
def partner_process(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Insurer, PointsSystem]:
    """The process of the partner systems, started once for all tests and stopped by its id.

    Every module that imports this has a fixture of its own, so it is the run that keeps the one process.
    """
    if _PROCESS not in pytestconfig.stash:
        running = ExitStack()
        pytestconfig.add_cleanup(running.close)
        pytestconfig.stash[_PROCESS] = running.enter_context(_running(tmp_path_factory))
    return pytestconfig.stash[_PROCESS]


@contextmanager
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Insurer, PointsSystem]]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    ours = f"{settings.DATABASES['owner']['NAME'].removeprefix('test_')}{worker}"
    insurers, banks = f"test_partners_{ours}"[:63], f"test_points_{ours}"[:63]
    make_database(insurers)
    make_database(banks)
    insurer_key, points_key = (base64.b64encode(secrets.token_bytes(32)).decode() for _partner in range(2))
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.partner_settings",
        "PARTNERS_DATABASE_URL": database_url(insurers),
        "POINTS_SYSTEM_DATABASE_URL": database_url(banks),
        "PARTNERS_SECRET_KEY": secrets.token_hex(32),
        "INSURER_KEYS": insurer_key,
        "INSURER_CALLBACK_URL": "",
        "POINTS_SYSTEM_KEYS": points_key,
        "POINTS_SYSTEM_CALLBACK_URL": "",
        "PARTNERS_USERNAME": STAFF[0],
        "PARTNERS_PASSWORD": STAFF[1],
        "POINTS_SYSTEM_USERNAME": BANK_STAFF[0],
        "POINTS_SYSTEM_PASSWORD": BANK_STAFF[1],
    }
    log = tmp_path_factory.mktemp("partners") / "log"
    with log.open("ab") as output:
        subprocess.run(
            [sys.executable, "-m", "config.partner_prepare"],
            cwd=PROJECT, env=environment, check=True, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    server = Server(free_port(), environment, log)
    try:
        server.start()
        url = f"http://127.0.0.1:{server.port}"
        with (
            psycopg.connect(database_url(insurers), autocommit=True, row_factory=dict_row) as policies,
            psycopg.connect(database_url(banks), autocommit=True, row_factory=dict_row) as points,
        ):
            yield (
                Insurer(url=url, keys=[insurer_key], database=policies, server=server),
                PointsSystem(url=url, keys=[points_key], database=points, server=server),
            )
    finally:
        server.stop()
        drop_database(insurers)
        drop_database(banks)


@pytest.fixture
def insurer(partner_process: tuple[Insurer, PointsSystem]) -> Insurer:
    """The reference insurer, empty and well-behaved."""
    partner_process[0].forgets()
    return partner_process[0]


@pytest.fixture
def points_system(partner_process: tuple[Insurer, PointsSystem]) -> PointsSystem:
    """The points system, empty and well-behaved."""
    partner_process[1].forgets()
    return partner_process[1]


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        else:
            return
