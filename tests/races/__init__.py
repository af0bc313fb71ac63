"""Races on the real database, each beside a negative control: with the lock taken out the race must appear.

The control calls a variant of the ledger's own function, made from the one that is installed. A variant stops at a
gate after it has read what it will decide by, and the gate opens when all calls stand there or wait for one who does:
they meet for certain, on any machine. The same variant WITH its lock must stay right, which shows that it is the lock
and not the meeting that decides.
"""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from time import monotonic, sleep
from typing import Any

from django.db import connections

LOCK = re.compile(r" FOR UPDATE(?: OF c)?;")
GATE = 4_711_000_815
"""The advisory lock that variants stop at while the test holds it."""
STOP = f"pg_advisory_xact_lock_shared({GATE})"
PATIENCE = 60.0
"""Seconds after which a call that should have come has not."""


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """Make every call on a connection of its own, all let go at one moment; answers and exceptions in their order.

    Whoever gets no connection ends the race at once, for all: nobody waits for one who will not come. A gate that a
    variant has shut is opened when every call has ended or waits for a lock.
    """
    start = threading.Barrier(len(calls))
    missing: list[str] = []
    pids: list[int] = []

    def make(number: int, call: Callable[[], Any]) -> Any:
        try:
            try:
                connections["default"].ensure_connection()
                pids.append(connections["default"].connection.info.backend_pid)
            except Exception as reason:
                missing.append(f"connection {number} of {len(calls)}: {reason}".strip())
                start.abort()
                raise
            start.wait(PATIENCE)
            return call()
        except Exception as refusal:
            return refusal
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as threads:
        made = [threads.submit(make, number, call) for number, call in enumerate(calls, 1)]
        try:
            patience = monotonic() + PATIENCE
            while _gate_is_shut() and _waiting(pids) < sum(not one.done() for one in made):
                assert monotonic() < patience, f"not all calls meet\n{_who_is_connected()}"
                sleep(0.005)
        finally:
            _open_gate()  # also when it failed: who stands there would stand for ever
        answers = [one.result() for one in made]
    assert not missing, f"{missing[0]}\n{_who_is_connected()}"
    return answers


def _who_is_connected() -> str:
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(datname, backend_type), count(*) FROM pg_stat_activity GROUP BY 1 ORDER BY 2 DESC"
        )
        return "connected now: " + ", ".join(f"{name} {number}" for name, number in cursor.fetchall())


@contextmanager
def meanwhile(call: Callable[[], Any]) -> Iterator[Callable[[], Any]]:
    """Start a call and wait until the database says that it waits for a lock; yields how to fetch its answer."""
    started: list[int] = []

    def make() -> Any:
        try:
            connections["default"].ensure_connection()
            started.append(connections["default"].connection.info.backend_pid)
            return call()
        except Exception as refusal:
            return refusal
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(make)
        patience = monotonic() + PATIENCE
        while not answer.done() and not _waiting(started):
            assert monotonic() < patience, "the call neither ends nor waits"
            sleep(0.002)
        yield lambda: answer.result(PATIENCE)


def _waiting(pids: list[int]) -> int:
    """How many of the connections wait for a lock, all looked at in one moment."""
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s) AND wait_event_type = 'Lock'", [pids]
        )
        return int(cursor.fetchone()[0])


@contextmanager
def gate() -> Iterator[None]:
    """Have whoever comes to ``STOP`` stand there, until ``together`` sees that all have come."""
    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [GATE])
    try:
        yield
    finally:
        _open_gate()


def _gate_is_shut() -> bool:
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted)"
        )
        return bool(cursor.fetchone()[0])


def _open_gate() -> None:
    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all()")


@contextmanager
def variant(function: str, *, lock: bool, meet: bool = True, after: str | None = None) -> Iterator[None]:
    """The installed function with or without its lock, stopping at the gate after its lock or after ``after``."""
    with connections["owner"].cursor() as cursor, gate() if meet else nullcontext():
        cursor.execute("SELECT pg_get_functiondef(%s::regproc)", [function])
        original = cursor.fetchone()[0]
        [its_lock] = LOCK.findall(original)
        after = after or its_lock
        assert original.count(after) == 1
        changed = original.replace(after, f"{after} PERFORM {STOP};") if meet else original
        cursor.execute(changed if lock else changed.replace(its_lock, ";"))
        try:
            yield
        finally:
            cursor.execute(original)


@contextmanager
def without_indexes(table: str, *names: str) -> Iterator[None]:
    """Unique indexes taken away, and put back over an emptied table."""
    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT indexname, indexdef FROM pg_indexes WHERE indexname = ANY (%s)", [list(names)])
        definitions = dict(cursor.fetchall())
        assert set(definitions) == set(names)
        cursor.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = ANY (%s)", [list(names)]
        )
        constraints = dict(cursor.fetchall())
        for name in names:
            cursor.execute(
                f"ALTER TABLE {table} DROP CONSTRAINT {name}" if name in constraints else f"DROP INDEX {name}"
            )
        try:
            yield
        finally:
            cursor.execute(f"TRUNCATE {table} CASCADE")
            for name, definition in definitions.items():
                cursor.execute(
                    f"ALTER TABLE {table} ADD CONSTRAINT {name} {constraints[name]}"
                    if name in constraints
                    else definition
                )
