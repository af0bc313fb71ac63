"""Races on the real database, each beside a negative control: with the lock taken out the race must appear.

The control calls a variant of the ledger's own function, made from the one that is installed. A variant rests a
moment after it has read the card, so that the calls meet for certain; the same variant WITH its lock must stay right,
which shows that it is the lock and not the haste that decides.
"""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from django.db import connections

LOCK = re.compile(r" FOR UPDATE(?: OF c)?;")
PATIENCE = 60.0
"""Seconds after which a call that should have come has not."""


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """Make every call on a connection of its own, all let go at one moment; answers and exceptions in their order.

    Whoever gets no connection ends the race at once, for all: nobody waits for one who will not come.
    """
    gate = threading.Barrier(len(calls))
    missing: list[str] = []

    def make(number: int, call: Callable[[], Any]) -> Any:
        try:
            try:
                connections["default"].ensure_connection()
            except Exception as reason:
                missing.append(f"connection {number} of {len(calls)}: {reason}".strip())
                gate.abort()
                raise
            gate.wait(PATIENCE)
            return call()
        except Exception as refusal:
            return refusal
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as threads:
        answers = list(threads.map(make, range(1, len(calls) + 1), calls))
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
    started: dict[str, int] = {}

    def make() -> Any:
        try:
            connections["default"].ensure_connection()
            started["pid"] = connections["default"].connection.info.backend_pid
            return call()
        except Exception as refusal:
            return refusal
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(make)
        patience = monotonic() + PATIENCE
        while not answer.done() and not _waits(started.get("pid")):
            assert monotonic() < patience, "the call neither ends nor waits"
            sleep(0.002)
        yield lambda: answer.result(PATIENCE)


def _waits(pid: int | None) -> bool:
    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s", [pid])
        row = cursor.fetchone()
    return bool(row and row[0])


@contextmanager
def variant(function: str, *, lock: bool, rest: float | None = None, rest_after: str | None = None) -> Iterator[None]:
    """The installed ledger function, with or without its lock, resting after its lock or after ``rest_after``.

    Without the lock all rest at the same time, so they may rest long enough to meet on any machine.
    """
    if rest is None:
        rest = 0.05 if lock else 1.5
    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT pg_get_functiondef(%s::regproc)", [function])
        original = cursor.fetchone()[0]
        [its_lock] = LOCK.findall(original)
        rest_after = rest_after or its_lock
        assert original.count(rest_after) == 1
        changed = original.replace(rest_after, f"{rest_after} PERFORM pg_sleep({rest});")
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
