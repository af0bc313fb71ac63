"""The partners' process as it is served, on a port that our settings name, with databases of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

PROJECT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 60.0


def database_url(partner: str) -> str:
    """Where ``partners`` or ``points_system`` keeps what it holds."""
    server = urlsplit(os.environ["DATABASE_URL"])
    return urlunsplit(server._replace(path=f"{server.path}_{partner}"))


@contextmanager
def served(url: str) -> Iterator[None]:
    """While this block runs the partner systems answer at the port of ``url``, with empty databases."""
    names = {name: urlsplit(database_url(name)).path[1:] for name in ("partners", "points_system")}
    for name in names.values():
        _in_the_server("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        _in_the_server("CREATE DATABASE {}", name)
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.partner_settings",
        "PARTNERS_DATABASE_URL": database_url("partners"),
        "POINTS_SYSTEM_DATABASE_URL": database_url("points_system"),
        "INSURER_CALLBACK_URL": "",
        "POINTS_SYSTEM_CALLBACK_URL": "",
    }
    subprocess.run(
        [sys.executable, "-m", "config.partner_prepare"],
        cwd=PROJECT, env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    port = urlsplit(url).port
    process = subprocess.Popen(
        [
            sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port),
            "--workers", "1", "--blocking-threads", "8", "--no-access-log", "--log-level", "error",
            "config.partner_wsgi:application",
        ],
        cwd=PROJECT, env=environment,
    )  # fmt: skip
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)
        for name in names.values():
            _in_the_server("DROP DATABASE {} WITH (FORCE)", name)


def _in_the_server(statement: str, name: str) -> None:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as maker:
        maker.execute(sql.SQL(statement).format(sql.Identifier(name)))
