"""PostgreSQL and Valkey out of wheels, for a machine that has only Python: the default set-up.

Whoever needs them calls ``join``. The first one starts the keeper (``config.keeper``), a process of its own that
runs the servers. Everyone holds a shared lock on ``users.lock`` for as long as they live; the keeper stops the
servers when it gets that lock for itself. The kernel gives locks back however a process ends, so nothing has to
be counted and nothing is left running.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from config import processes

PROJECT = Path(__file__).resolve().parent.parent
VAR = Path(os.environ.get("VAR_DIR") or PROJECT / "var").resolve()
"""Everything that is made while running, and that is not in the database."""
FOLDER = VAR / "servers"
PATIENCE = 120.0
"""Seconds that a start may take: after a power cut PostgreSQL first reads its log again."""


class ServersDidNotStart(Exception):
    """The embedded servers are not there, and why."""


class ServersAreUsed(Exception):
    """They cannot be taken away under their users."""


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Addresses of the running servers. They are told, never built: where the socket lies depends on the folder.

    Ours and those of our partners are databases of their own: no line between us is crossed by a query.
    """

    database_url: str
    partners_database_url: str
    points_system_database_url: str
    redis_url: str


_membership: IO[bytes] | None = None


def join() -> Servers:
    """The servers, started if nobody had; they stay at least until this process and its forks have ended.

    Calling it again is cheap, and starts a new keeper should the old one have been killed.

    :raises ServersDidNotStart: with the end of the keeper's log.
    """
    global _membership  # a lock lives as long as its file is open, so somebody has to keep the file
    FOLDER.mkdir(parents=True, exist_ok=True)
    if _membership is None:
        membership = (FOLDER / "users.lock").open("ab")
        fcntl.flock(membership, fcntl.LOCK_SH)
        _membership = membership
    published = FOLDER / "servers.json"
    keeper: subprocess.Popen[bytes] | None = None
    deadline = time.monotonic() + PATIENCE
    while True:
        with (FOLDER / "keeper.lock").open("ab") as lock:
            if is_taken(lock):
                if published.exists():
                    return Servers(**json.loads(published.read_text()))
            elif keeper is None:
                published.unlink(missing_ok=True)
                keeper = _start_keeper(lock)
            else:
                raise ServersDidNotStart(
                    f"The embedded PostgreSQL and Valkey did not start. The end of {FOLDER / 'keeper.log'}:\n"
                    f"{processes.last_lines(FOLDER / 'keeper.log')}"
                )
        if time.monotonic() > deadline:
            raise ServersDidNotStart(f"The embedded PostgreSQL and Valkey take too long; see the logs in {FOLDER}.")
        time.sleep(0.02)


def remove(*, patience: float = 15.0) -> None:
    """Take the servers away with all their data.

    :raises ServersAreUsed: somebody uses them.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "users.lock").open("ab") as users:
        # The last user may only just have left: then the keeper is still writing down what was in memory.
        deadline = time.monotonic() + patience
        while is_taken(users):
            if time.monotonic() > deadline:
                raise ServersAreUsed(
                    "The embedded PostgreSQL is in use by another program of this folder (./run, ./test or "
                    "manage.py). End that first."
                )
            time.sleep(0.1)
        for path in FOLDER.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "users.lock":  # others may be waiting for this very file
                path.unlink()


def is_taken(lock: IO[Any]) -> bool:
    """Whether others hold the lock; if not, it is ours until the file is closed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _start_keeper(lock: IO[bytes]) -> subprocess.Popen[bytes]:
    """The keeper inherits the lock as an open file, so it is held from before its first step until its end."""
    with (FOLDER / "keeper.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "config.keeper", str(FOLDER)],
            cwd=PROJECT,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )


def partners_url() -> str:
    """Where the partner systems beside us answer, when they run: told by ``./run``, until then a free port."""
    told = VAR / "partners.url"
    if not told.exists():
        VAR.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            told.write_text(f"http://127.0.0.1:{probe.getsockname()[1]}")
    return told.read_text().strip()
