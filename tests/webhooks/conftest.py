"""A merchant's machine that is told what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connection

from issuing import webhooks
from issuing.models import Merchant, WebhookDelivery, WebhookEndpoint
from tests import cards
from tests.partners import PATIENCE, PROJECT, free_port

DECOY = "127.0.0.2"
"""Another address of this machine, into which no webhook may ever be led; the receiver itself is at 127.0.0.1."""


@dataclass
class Receiver:
    port: int

    def url(self, path: str = "hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}/{path}"

    def behaves(self, path: str, kind: str, **how: Any) -> None:
        self._tell("_/behave", {f"/{path}": {"kind": kind, **how}})

    def forgets(self) -> None:
        self._tell("_/forget", {})

    def got(self, path: str | None = None, address: str = "127.0.0.1") -> list[dict[str, Any]]:
        """What arrived at one of its addresses, at every path or one."""
        with urllib.request.urlopen(self.url("_/got"), timeout=PATIENCE) as answer:
            rows = json.load(answer)
        return [row for row in rows if row["address"] == address and path in (None, row["path"].removeprefix("/"))]

    def _tell(self, path: str, body: dict[str, Any]) -> None:
        urllib.request.urlopen(self.url(path), json.dumps(body).encode(), timeout=PATIENCE).close()


@pytest.fixture(scope="session")
def receiver_process() -> Iterator[Receiver]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.webhooks.receiver", f"127.0.0.1:{port}", f"{DECOY}:{port}"],
        cwd=PROJECT,
        env=dict(os.environ),
    )
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"http://{DECOY}:{port}/", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
        yield Receiver(port)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def receiver(receiver_process: Receiver, settings: Any) -> Receiver:
    """Empty and well-behaved; and the one internal address that may be told."""
    settings.WEBHOOK_INTERNAL_NETWORKS = ["127.0.0.1/32"]
    receiver_process.forgets()
    return receiver_process


@pytest.fixture
def merchant(db: None) -> Merchant:
    return cards.merchant()


def added(merchant: Merchant, url: str, *types: str, **facts: Any) -> tuple[WebhookEndpoint, str]:
    return webhooks.add(
        merchant=merchant, url=url, types=types, **{"is_live": False, "by": "test", "now": cards.NOW, **facts}
    )


def make_due() -> None:
    """Let the pauses be over: what waits is due, and nobody is left alone any more."""
    WebhookDelivery.objects.filter(state=WebhookDelivery.State.PENDING).update(due_at="2020-01-01T00:00:00Z")
    WebhookEndpoint.objects.update(resting_until_at=None)


def pauses() -> list[float]:
    """Seconds until each pending delivery is due, by the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM due_at - now()) FROM issuing_webhookdelivery WHERE due_at > now()")
        return [float(seconds) for (seconds,) in cursor.fetchall()]
