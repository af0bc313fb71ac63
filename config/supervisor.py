"""``./run``: everything the product needs, in one terminal.

Prepares, starts the processes, says when they are ready, starts again what dies, and stops all of it together.
None of it outlives this process, however this one ends.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit
from urllib.request import ProxyHandler, build_opener

import psycopg
from psycopg import sql

from config import embedded, keys, processes

PROJECT = embedded.PROJECT
VAR = embedded.VAR
LOGS = VAR / "log"
DEMO = VAR / "demo.json"
GRACE = 10.0
LONGEST_PAUSE = 30.0
LONGEST_START = 60.0
STEADY = 60.0
"""Seconds after which a process counts as healthy, and its next death as the first."""

WORKERS = 2
HANDS = 4
"""Tasks at once: one may wait ten seconds for each silent partner, and the others must not wait with it."""

THREADS = 8


class CannotRun(Exception):
    """What stands in the way, and what to do about it."""


class Part:
    """One of the processes that make up the product."""

    def __init__(self, name: str, command: Sequence[object], environment: Mapping[str, str]) -> None:
        self.name = name
        self.command = [sys.executable, *command]
        self.environment = environment
        self.log = LOGS / f"{name}.log"
        self.deaths = 0
        self.again_at: float | None = None
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.started = time.monotonic()
        return processes.start(self.command, log=self.log, environment=self.environment, folder=PROJECT)

    def mend(self) -> None:
        """Start it again if it has ended, after a pause that grows with each death in a row."""
        now = time.monotonic()
        if self.again_at is None and self.process.poll() is not None:
            processes.sweep(self.process)
            self.deaths = 1 if now - self.started > STEADY else self.deaths + 1
            pause = min(2.0 ** (self.deaths - 1), LONGEST_PAUSE)
            say(f"{self.name} ended ({_how(self.process.returncode)}); starting it again in {pause:.0f} s")
            self.again_at = now + pause
        elif self.again_at is not None and now >= self.again_at:
            self.again_at = None
            self.process = self._start()


def _how(returncode: int) -> str:
    if returncode < 0:
        return signal.Signals(-returncode).name
    return f"exit code {returncode}"


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run until somebody ends it; the exit code is 1 where it could not run."""
    parser = argparse.ArgumentParser(prog="./run", description="Run the whole product on this machine.")
    parser.add_argument("--port", type=int, default=8000, help="port of the web pages and the API (8000)")
    parser.add_argument("--size", choices=["small", "full"], default="full", help="how much sample data (full)")
    parser.add_argument("--reset", action="store_true", help="forget everything and start from scratch")
    options = parser.parse_args(arguments)
    # Ending is the same however one is asked to; a shell starts what runs behind it deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        LOGS.mkdir(parents=True, exist_ok=True)
        with (VAR / "run.lock").open("a+") as lock:
            _be_alone(lock)
            _run(port=options.port, size=options.size, reset=options.reset)
    except PermissionError as problem:
        print(f"{problem}\nThis folder is not yours: run it as its owner, or make a copy.", file=sys.stderr)
        return 1
    except (CannotRun, embedded.ServersDidNotStart, embedded.ServersAreUsed) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("stopped")
    return 0


def _be_alone(lock: Any) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise CannotRun(
            f"Another ./run (process {lock.read().strip()}) is running in this folder. Stop it with Ctrl-C there, "
            "or make a second copy of the folder."
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def _run(*, port: int, size: str, reset: bool) -> NoReturn:
    began = time.monotonic()
    if reset:
        _forget()
    if not _is_free(port):
        raise CannotRun(f"Port {port} is taken by another program. Choose another one: ./run --port {port + 10}")
    demo = _withdraw()
    partners_port = port + 1 if _is_free(port + 1) else _any_free_port()
    base_url, partners_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{partners_port}"
    (VAR / "partners.url").write_text(partners_url)

    if not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")):
        say("starting PostgreSQL and Valkey …")
    ours = _environment_of_ours()
    theirs = _environment_of_partners(callback_url=f"{base_url}/partners/{{}}/callback")
    for url in (os.environ.get("DATABASE_URL"), theirs["PARTNERS_DATABASE_URL"], theirs["POINTS_SYSTEM_DATABASE_URL"]):
        if url:
            _make_database(url)

    say("preparing the databases …")
    _all_succeed(
        Part("prepare", ["manage.py", "prepare"], ours),
        Part("prepare-partners", ["-m", "config.partner_prepare"], theirs | _desk(demo)),
    )
    parts = []
    try:
        parts.append(Part("partners", _web("config.partner_wsgi:application", partners_port, 1), theirs))
        parts.append(Part("web", _web("config.wsgi:application", port, WORKERS), ours))
        _wait_until_healthy(parts, urls=[f"{base_url}/healthz", f"{partners_url}/admin/login/"])
        if any(PROJECT.glob("*/management/commands/demo.py")):
            say(f"loading the sample data ({size}) …")
            _all_succeed(Part("demo", ["manage.py", "demo", "--size", size], ours))
        parts.append(
            Part("worker", _celery("worker", "--concurrency", HANDS, "--without-mingle", "--without-gossip"), ours)
        )
        parts.append(Part("clock", _celery("beat"), ours))
        _announce(_publish(base_url=base_url, partners_url=partners_url), seconds=time.monotonic() - began)
        while True:
            time.sleep(0.25)
            for part in parts:
                part.mend()
            if not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")):
                embedded.join()  # should the keeper itself have been killed
    finally:
        say("stopping …")
        processes.stop([part.process for part in parts], grace=GRACE)


@contextmanager
def partners_beside_us(url: str) -> Iterator[None]:
    """See to it that the partner systems answer at ``url``, an address on this machine, while this block runs.

    They are those of the ``./run`` in this folder, or else some that last as long as the block.

    :raises CannotRun: they cannot be started.
    """
    root = urlunsplit(urlsplit(url)._replace(path="/admin/login/", query=""))
    LOGS.mkdir(parents=True, exist_ok=True)
    with (VAR / "run.lock").open("a+") as lock:
        # Who answers there without our ./run is somebody else, perhaps the same program in another folder.
        runs = embedded.is_taken(lock)
    if runs:
        _wait_until_healthy([], urls=[root])
        yield
        return
    port = urlsplit(url).port or 80
    if not _is_free(port):
        raise CannotRun(
            f"Port {port}, where the partner systems should answer, is taken by another program. End that, or remove "
            f"{VAR / 'partners.url'}, and another port will be found."
        )
    theirs = _environment_of_partners()
    _make_database(theirs["PARTNERS_DATABASE_URL"])
    _make_database(theirs["POINTS_SYSTEM_DATABASE_URL"])
    _all_succeed(Part("prepare-partners", ["-m", "config.partner_prepare"], theirs))
    partners = Part("partners", _web("config.partner_wsgi:application", port, 1), theirs)
    try:
        _wait_until_healthy([partners], urls=[root])
        yield
    finally:
        processes.stop([partners.process], grace=GRACE)


def _forget() -> None:
    if os.environ.get("DATABASE_URL"):
        raise CannotRun(
            "--reset empties the embedded servers only, and DATABASE_URL names another one. Drop that database "
            "yourself and run again without --reset."
        )
    embedded.remove()
    for name in ("demo.json", "secrets.json"):
        (VAR / name).unlink(missing_ok=True)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _any_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment_of_ours() -> dict[str, str]:
    if not os.environ.get("DATABASE_URL") or not os.environ.get("REDIS_URL"):
        embedded.join()
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings", "DEMO_SECRETS": "1"}


def _environment_of_partners(*, callback_url: str = "") -> dict[str, str]:
    """They are other people's systems: they get the keys that we share with them and none of ours."""
    ours = {**os.environ, "DEMO_SECRETS": "1"}

    def secret(name: str) -> str:
        return ",".join(keys.read(name, environment=ours, folder=VAR))

    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "VAR_DIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "DJANGO_SETTINGS_MODULE": "config.partner_settings",
        "PARTNERS_SECRET_KEY": secret("PARTNERS_SECRET_KEY"),
        "PARTNERS_DATABASE_URL": _partners_database_url("PARTNERS_DATABASE_URL"),
        "POINTS_SYSTEM_DATABASE_URL": _partners_database_url("POINTS_SYSTEM_DATABASE_URL"),
        "INSURER_KEYS": secret("INSURER_KEYS"),
        "POINTS_SYSTEM_KEYS": secret("POINTS_SYSTEM_KEYS"),
        "INSURER_CALLBACK_URL": callback_url.format("insurer"),
        "POINTS_SYSTEM_CALLBACK_URL": callback_url.format("points"),
    }


def _partners_database_url(name: str) -> str:
    """A database of a partner's own, beside ours where nobody says otherwise."""
    if os.environ.get(name):
        return os.environ[name]
    if not os.environ.get("DATABASE_URL"):
        url: str = getattr(embedded.join(), name.lower())
        return url
    parts = urlsplit(os.environ["DATABASE_URL"])
    return urlunsplit(parts._replace(path=f"{parts.path}_{name.lower().removesuffix('_database_url')}"))


def _make_database(url: str) -> None:
    """Make the database that ``url`` names if its server has none of that name."""
    parts = urlsplit(url)
    name = parts.path.lstrip("/")
    try:
        with psycopg.connect(urlunsplit(parts._replace(path="/postgres")), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg.Error as problem:
        raise CannotRun(
            f"The database {name} on {parts.hostname}:{parts.port or 5432} cannot be reached: {problem}\n"
            "Correct DATABASE_URL, or unset it to use the embedded PostgreSQL."
        ) from problem


def _web(application: str, port: int, workers: int) -> list[object]:
    return [
        *("-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", port, "--workers", workers),
        *("--blocking-threads", THREADS, "--respawn-failed-workers", "--workers-kill-timeout", 5),
        *("--no-access-log", application),
    ]


def _celery(role: str, *options: object) -> list[object]:
    return ["-m", "celery", "--app", "config.celery", "--quiet", role, "--loglevel", "INFO", *options]


def _withdraw() -> dict[str, Any]:
    """What the last run told, less the addresses: whoever waits for those waits for this run."""
    told: dict[str, Any] = json.loads(DEMO.read_text()) if DEMO.exists() else {}
    told.pop("base_url", None)
    told.pop("partners", None)
    staff = told.setdefault("partner_staff", [])
    for username in ("underwriter", "banker"):
        if username not in [person["username"] for person in staff]:
            staff.append({"username": username, "password": secrets.token_urlsafe(9)})
    write_demo(told)
    return told


def _desk(told: Mapping[str, Any]) -> dict[str, str]:
    """Who may sign in at the partners' own desks."""
    underwriter, banker = told["partner_staff"]
    return {
        "PARTNERS_USERNAME": underwriter["username"],
        "PARTNERS_PASSWORD": underwriter["password"],
        "POINTS_SYSTEM_USERNAME": banker["username"],
        "POINTS_SYSTEM_PASSWORD": banker["password"],
    }


def _publish(*, base_url: str, partners_url: str) -> dict[str, Any]:
    """Add the addresses to what ``manage.py demo`` has written: staff, merchants and customers."""
    told: dict[str, Any] = {"base_url": base_url, "staff": [], "merchants": [], **json.loads(DEMO.read_text())}
    told["partners"] = {"insurer": f"{partners_url}/insurer/", "points_system": f"{partners_url}/points/"}
    write_demo(told)
    return told


def write_demo(told: Mapping[str, Any]) -> None:
    """Replace ``var/demo.json``, which only its owner may read."""
    new = DEMO.with_suffix(".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(told, file, indent=1, ensure_ascii=False)
    new.replace(DEMO)


def _all_succeed(*steps: Part) -> None:
    """Wait for steps that run side by side; none goes on when we do not."""
    try:
        for step in steps:
            if step.process.wait() != 0:
                raise CannotRun(
                    f"{step.name} failed ({_how(step.process.returncode)}). The end of {step.log}:\n"
                    f"{processes.last_lines(step.log)}"
                )
    finally:
        processes.stop([step.process for step in steps], grace=GRACE)


def _wait_until_healthy(parts: Sequence[Part], *, urls: Sequence[str]) -> None:
    """Until each url answers 200. Our own processes are asked, so no proxy of the environment is."""
    opener = build_opener(ProxyHandler({}))
    deadline = time.monotonic() + LONGEST_START
    for url in urls:
        while True:
            with suppress(OSError), opener.open(url, timeout=5) as answer:
                if answer.status == 200:
                    break
            for part in parts:
                part.mend()
            if time.monotonic() > deadline:
                logs = "\n".join(f"{part.log}:\n{processes.last_lines(part.log)}" for part in parts)
                raise CannotRun(f"{url} does not answer after {LONGEST_START:.0f} s.\n{logs}")
            time.sleep(0.05)


def _announce(told: Mapping[str, Any], *, seconds: float) -> None:
    base_url, (underwriter, banker) = told["base_url"], told["partner_staff"]
    say(f"\nPrepaid is ready after {seconds:.1f} s: {base_url}/admin/\n")
    for person in told["staff"]:
        say(f"  {person['username']:<20} {person['password']:<20} {person['role']}")
    for merchant in told["merchants"][:1]:
        say(f"\n  merchant {merchant['code']} has the API key {merchant['api_key']}; try")
        say(f'  curl -H "Authorization: Bearer {merchant["api_key"]}" {base_url}/api/v1/cards')
    for customer in told.get("customers", [])[:1]:
        say(f"\n  customers exchange points at {base_url}/points/ ({customer['account']} / {customer['password']})")
    for whose, name, person in (("insurer", "insurer", underwriter), ("points system", "points_system", banker)):
        say(f"\n  the {whose}'s own desk: {told['partners'][name]} ({person['username']} / {person['password']})")
    say(f"\nAll of this is in {os.path.relpath(DEMO)}, the logs are in {os.path.relpath(LOGS)}/. Ctrl-C stops.\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
