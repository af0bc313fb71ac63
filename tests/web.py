"""The web process as the tests meet it: the real server, on a real port, at the tests' own database."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import httpx
import pytest
from django.conf import settings

from tests.partners import PATIENCE, PROJECT, database_url, free_port


class Web(NamedTuple):
    port: int
    server: subprocess.Popen[bytes]

    def kill(self) -> None:
        """As a power cut does: the server and its worker at once, with nothing tidied up."""
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait(PATIENCE)


@contextmanager
def served(log: Path, *, threads: int = 4, **environment: str) -> Iterator[int]:
    """The port at which a web process answers, with the keys that the tests have; ``environment`` is added to it."""
    with serving(log, threads=threads, **environment) as web:
        yield web.port


@contextmanager
def serving(
    log: Path, *, threads: int = 4, application: str = "config.wsgi:application", **environment: str
) -> Iterator[Web]:
    port = free_port()
    lists = ("CARD_NUMBER_KEYS", "COUPON_CODE_KEYS", "POINTS_SYSTEM_KEYS")
    everything = {
        **os.environ,
        "DATABASE_URL": database_url(settings.DATABASES["owner"]["NAME"]),
        "DEMO_SECRETS": "1",
        "API_KEY_PEPPER": settings.API_KEY_PEPPER,
        **{name: ",".join(getattr(settings, name)) for name in lists},
        "POINTS_SYSTEM_URL": settings.POINTS_SYSTEM_URL,
        "LOG_LEVEL": "ERROR",
        **environment,
    }
    with log.open("ab") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port)),
                *("--workers", "1", "--blocking-threads", str(threads), application),
            ],
            cwd=PROJECT, env=everything, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _answers(port, log)
        yield Web(port, server)
    finally:
        server.terminate()
        server.wait(PATIENCE)


def _answers(port: int, log: Path) -> None:
    patience = monotonic() + PATIENCE
    while monotonic() < patience:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=PATIENCE).status_code == 200:
                return
        except httpx.TransportError:
            continue
    pytest.fail(log.read_text())


def holding(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application, but an answer to a request that asks for it is made whole and then never sent."""
    # Only the server's process has the settings to read it.
    from config.wsgi import application  # noqa: PLC0415

    answer = application(environ, start_response)
    if environ.get("HTTP_X_HOLD"):
        threading.Event().wait()
    return answer
