"""Kill -9 at every step of every handshake with the points system, beside everything it can do wrong.

A process of its own carries an exchange, a return or a reversal: the web process that a merchant asks, or the clock.
It is brought to a stand at a named step, by a lock that the test holds in our database or in the points system's, and
killed there. Then the clock finishes by itself and both books are compared, point by point and coupon by coupon.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import product
from typing import Any

import psycopg
import pytest
from django.conf import settings as ours
from django.db import connections
from django.test import Client
from django.urls import resolve
from django.utils import timezone

from config import messages
from config.ids import public_id
from points import bank, coupons, exchange
from points.models import CouponProduct, Exchange, ExchangeQuote, ExchangeRatio, PointsReturn
from tests import cards
from tests import points_world as world
from tests.api.asking import asker
from tests.partners import PATIENCE, PROJECT, PointsSystem, database_url, partner_process, points_system

__all__ = ["partner_process", "points_system"]

pytestmark = pytest.mark.django_db(transaction=True)

HELD, STOCK, COUNT, PRICE = 100_000, 1_000, 3, 1_000
DOOMED = "doomed"
"""What a process that is to be killed calls itself before the database."""

KINDS = (
    "GOOD", "SILENT_BEFORE", "SILENT_AFTER", "SLOW", "GARBLED", "WRONG_SIGNATURE", "WRONG_POINTS", "DUPLICATE", "LATE",
    "ACTS_LATE", "DOWN",
)  # fmt: skip
LASTS = {"SLOW": 0.2, "LATE": 0.2, "DUPLICATE": 0.1, "ACTS_LATE": 0.3, "SILENT_BEFORE": 0.6, "SILENT_AFTER": 0.6}
DEADLINE = 0.5
"""Nobody waits ten seconds in a test; what is silent is so for longer than this. Who is to be stopped at a certain
step must not run out of time before it: for him it is ``PATIENCE``."""


# The processes that are killed -----------------------------------------------------------------------------------


def nursery() -> None:
    """Runs in a process of its own: let a child carry each order that is read, and tell its number."""
    # The children find everything there.
    resolve("/api/v1/exchanges")
    messages._tls()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for order in sys.stdin:
        child = os.fork()
        if not child:
            deadline, *what = order.split()
            bank.DEADLINE_SECONDS = float(deadline)
            _carry(*what)
        print(child, flush=True)


def _carry(carrier: str, *what: str) -> None:
    if carrier == "web":
        key, quote, reference = what
        Client().post(
            "/api/v1/exchanges", {"quote": quote, "reference": reference}, "application/json",
            headers={"Authorization": f"Bearer {key}", "Idempotency-Key": reference},
        )  # fmt: skip
    else:
        bank.sweep(now=timezone.now(), seconds=5)
    connections.close_all()
    os.kill(os.getpid(), signal.SIGSTOP)  # it has done everything, and lives


class Nursery:
    def __init__(self, partner: PointsSystem) -> None:
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "DATABASE_URL": database_url(ours.DATABASES["owner"]["NAME"]),
            "PGAPPNAME": DOOMED,
            "API_KEY_PEPPER": ours.API_KEY_PEPPER,
            "COUPON_CODE_KEYS": ",".join(ours.COUPON_CODE_KEYS),
            "POINTS_SYSTEM_URL": f"{partner.url}/points/",
            "POINTS_SYSTEM_KEYS": partner.keys[0],
            "LOG_LEVEL": "CRITICAL",
        }
        start = "import django; django.setup(); from tests.test_points_killed import nursery; nursery()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", start], cwd=PROJECT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._children: list[int] = []

    def child(self, *order: str, deadline: float = DEADLINE) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(" ".join((str(deadline), *order)) + "\n")
        self._process.stdin.flush()
        self._children.append(int(self._process.stdout.readline()))
        return self._children[-1]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for child in self._children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


@pytest.fixture(scope="module")
def nursed(partner_process: Any, django_db_setup: None) -> Iterator[Nursery]:
    running = Nursery(partner_process[1])
    try:
        yield running
    finally:
        running.close()


# Where they are stopped ------------------------------------------------------------------------------------------


class Doom:
    """Brings a process to a stand at a step, and kills it there."""

    def __init__(self, partner: PointsSystem, kind: str) -> None:
        self.partner, self.kind = partner, kind
        # What is seen of others stands still within a transaction, so who holds a lock does not look.
        self._ours, self._looks = (
            psycopg.connect(database_url(ours.DATABASES["owner"]["NAME"]), autocommit=True) for _door in range(2)
        )
        self._theirs = psycopg.connect(database_url(partner.database.info.dbname), autocommit=True)

    def close(self) -> None:
        for connection in (self._ours, self._looks, self._theirs):
            connection.close()

    def before_it_is_sent(self, start: Callable[[], int]) -> None:
        with self._locked("points_pointsmessage"):
            self._kill(self._stands(start()))

    def sent(self, start: Callable[[], int]) -> None:
        """It dies, and only then does the points system act."""
        with self._account_locked():
            child = start()
            self._until(lambda: self._they_have_it() or self._is_still(child))
            self._kill(child)
        self._until(self._they_are_done)

    def committed_there(self, start: Callable[[], int]) -> None:
        with self._account_locked():
            child = start()
            self._until(lambda: self._they_have_it() or self._is_still(child))
            os.kill(child, signal.SIGSTOP)
        self._until(self._they_are_done)
        self._kill(child)

    def answered(self, start: Callable[[], int]) -> None:
        self._answered(start, "points_pointsmessage")

    def before_our_commit(self, start: Callable[[], int]) -> None:
        self._answered(start, "points_coupon", "points_couponproduct")

    def after_our_commit(self, start: Callable[[], int]) -> None:
        child = start()
        self._until(lambda: self._is_still(child))
        self._kill(child)

    def _answered(self, start: Callable[[], int], *tables: str) -> None:
        with ExitStack() as locks:
            with self._account_locked():
                child = start()
                self._until(lambda: self._they_have_it() or self._is_still(child))
                locks.enter_context(self._locked(*tables))
            self._kill(self._stands(child))

    # Locks, and what can be seen of the others

    @contextmanager
    def _locked(self, *tables: str) -> Iterator[None]:
        """Nobody writes to these tables of ours."""
        with self._ours.transaction():
            self._ours.execute(f"LOCK TABLE {', '.join(tables)} IN SHARE MODE")  # type: ignore[arg-type]
            yield

    @contextmanager
    def _account_locked(self) -> Iterator[None]:
        """The points system takes no point from anybody, and gives none back."""
        with self._theirs.transaction():
            self._theirs.execute("SELECT FROM points_system_account FOR UPDATE")
            yield

    def _they_have_it(self) -> bool:
        if self.kind in ("SILENT_BEFORE", "DOWN", "ACTS_LATE"):
            [row] = self.partner.holds("SELECT remaining FROM points_system_behaviour")
            return bool(row["remaining"] == 0)
        return self._is_waiting(self.partner.database.info.dbname)

    def _they_are_done(self) -> bool:
        row = self._looks.execute(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = %s AND state <> 'idle')",
            [self.partner.database.info.dbname],
        ).fetchone()
        return row == (True,)

    def _is_waiting(self, database: str, name: str = "%") -> bool:
        row = self._looks.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE datname = %s AND wait_event_type = 'Lock' AND application_name LIKE %s)",
            [database, name],
        ).fetchone()
        return row == (True,)

    def _stands(self, child: int) -> int:
        self._until(lambda: self._is_waiting(self._looks.info.dbname, DOOMED) or self._is_still(child))
        return child

    @staticmethod
    def _is_still(child: int) -> bool:
        with open(f"/proc/{child}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"

    def _kill(self, child: int) -> None:
        os.kill(child, signal.SIGKILL)
        self._until(lambda: not os.path.exists(f"/proc/{child}"))

    def nobody_is_left(self) -> None:
        """The database has noticed the death of whoever died."""

        def is_alone() -> bool:
            query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
            row = self._looks.execute(query, [DOOMED]).fetchone()
            return row == (0,)

        self._until(is_alone)

    @staticmethod
    def _until(is_so: Callable[[], bool]) -> None:
        patience = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < patience, "it never came to that"
            time.sleep(0.005)


STEPS = (
    Doom.before_it_is_sent, Doom.sent, Doom.committed_there, Doom.answered, Doom.before_our_commit,
    Doom.after_our_commit,
)  # fmt: skip


# The two books ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tea(points_system: PointsSystem, settings: Any, monkeypatch: pytest.MonkeyPatch) -> CouponProduct:
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/points/"
    settings.POINTS_SYSTEM_KEYS = points_system.keys
    monkeypatch.setattr(bank, "DEADLINE_SECONDS", 2.0)
    points_system.has_account((HELD - 500, "2031-12-31"), (500, "2030-06-30"))
    made = world.product(stock=STOCK)
    world.ratio(made, "333.33")
    ExchangeRatio.objects.update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    return made


@contextmanager
def dooming(partner: PointsSystem, kind: str) -> Iterator[Doom]:
    doom = Doom(partner, kind)
    try:
        yield doom
    finally:
        doom.close()


class World:
    """What is exchanged, returned and reversed, and by whom."""

    def __init__(self, partner: PointsSystem, tea: CouponProduct, nursed: Nursery) -> None:
        self.partner, self.tea, self.nursed = partner, tea, nursed
        self.deadline = DEADLINE
        self.till = asker(tea.merchant)
        self.asked: dict[str, str] = {}

    def by_the_web(self) -> Callable[[], int]:
        """A merchant asks for an exchange, and waits."""
        quote, reference = public_id("quo", self._quote().pk), cards.reference("EX")
        self.asked[reference] = quote
        return partial(self.nursed.child, "web", self.till.key, quote, reference, deadline=self.deadline)

    def by_the_clock(self) -> Callable[[], int]:
        """Whoever asked for the exchange has died, and the clock finds it."""
        Exchange.objects.filter(pk=self._submitted().pk).update(due_at=cards.OPENED)
        return partial(self.nursed.child, "clock", deadline=self.deadline)

    def a_return(self) -> Callable[[], int]:
        row = self._submitted()
        bank.deduct(row=row, now=timezone.now())
        first, second, _kept = row.coupons.order_by("ordinal")
        coupons.give_back(exchange=row, coupon_ids=[first.pk, second.pk], reason="", by="buyer", now=cards.NOW)
        return partial(self.nursed.child, "clock")

    def a_reversal(self) -> Callable[[], int]:
        row = self._submitted()
        self.partner.behaves("DOWN_AFTER", type="DEDUCTION_REQUEST", remaining=1)
        bank.deduct(row=row, now=timezone.now())
        assert exchange.give_up(exchange=row)
        return partial(self.nursed.child, "clock")

    def _quote(self) -> ExchangeQuote:
        return exchange.quote(account=world.account(), product=self.tea, count=COUNT, now=timezone.now())

    def _submitted(self) -> Exchange:
        return exchange.submit(
            quote_id=self._quote().pk, account=None, merchant=self.tea.merchant, reference=cards.reference("EX"),
            now=timezone.now(),
        )  # fmt: skip


HANDSHAKES = (
    ((World.by_the_web, World.by_the_clock), "DEDUCTION_REQUEST"),
    ((World.a_return,), "RETURN_REQUEST"),
    ((World.a_reversal,), "REVERSAL_ADVICE"),
)
"""By turns, so that over all kinds of misbehaviour the web process and the clock die at every step."""


@pytest.fixture
def shop(points_system: PointsSystem, tea: CouponProduct, nursed: Nursery) -> World:
    return World(points_system, tea, nursed)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_goes_wrong_and_wherever_a_process_is_killed_no_point_is_lost(
    kind: str, shop: World, live_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every handshake once for every step; and after the deaths the next messages go wrong in the same way."""
    how = {"seconds": str(LASTS.get(kind, 1)), "callback_url": f"{live_server.url}/partners/points/callback"}
    with dooming(shop.partner, kind) as doom:
        for (prepared, type), (turn, step) in product(HANDSHAKES, enumerate(STEPS, KINDS.index(kind))):
            start = prepared[turn % len(prepared)](shop)
            shop.partner.behaves(kind, type=type, remaining=1, **how)
            step(doom, start)
            doom.nobody_is_left()
            shop.partner.behaves()
    shop.partner.behaves(kind, remaining=3, **how)
    monkeypatch.setattr(bank, "DEADLINE_SECONDS", DEADLINE)
    world.the_clock_finishes()
    assert Exchange.objects.count() == len(STEPS) * len(HANDSHAKES)
    assert Exchange.objects.filter(state=Exchange.State.REVERSED).count() >= len(STEPS)
    assert PointsReturn.objects.count() == len(STEPS)
    world.both_books_agree(shop.partner, shop.tea, points=HELD, stock=STOCK)
    # The merchant asks again where he had no answer, and is told what became of it, with the coupons.
    for reference, quote in shop.asked.items():
        told = shop.till.post("exchanges", {"quote": quote, "reference": reference}, Idempotency_Key=reference)
        row = Exchange.objects.get(reference=reference)
        assert told.status_code == (201 if row.state == Exchange.State.ISSUED else 409), told.json()
        assert len(told.json().get("coupons", [])) == row.coupons.count()
    world.both_books_agree(shop.partner, shop.tea, points=HELD, stock=STOCK)


# For each step: our row, the messages that we have stored, and whether the points were taken when the process died.
PLACES = {
    Doom.before_it_is_sent: ("PENDING", [], False),
    Doom.sent: ("UNKNOWN", ["SENT"], False),
    Doom.committed_there: ("UNKNOWN", ["SENT"], True),
    Doom.answered: ("UNKNOWN", ["SENT"], True),
    Doom.before_our_commit: ("UNKNOWN", ["SENT", "RECEIVED"], True),
    Doom.after_our_commit: ("ISSUED", ["SENT", "RECEIVED"], True),
}


@pytest.mark.parametrize("prepared", [World.by_the_web, World.by_the_clock], ids=["web", "clock"])
def test_each_process_dies_where_it_is_said_to(prepared: Callable[[World], Callable[[], int]], shop: World) -> None:
    found: list[tuple[str, list[str], bool]] = []
    shop.deadline = PATIENCE

    class Watching(Doom):
        def _kill(self, child: int) -> None:
            row = Exchange.objects.order_by("pk").last()
            assert row
            taken = shop.partner.holds(
                "SELECT FROM points_system_request WHERE request_no = %(request_no)s", request_no=row.request_no
            )
            directions = row.messages.order_by("pk").values_list("direction", flat=True)
            found.append((row.state, list(directions), bool(taken)))
            super()._kill(child)

    doom = Watching(shop.partner, "GOOD")
    try:
        for step in STEPS:
            getattr(doom, step.__name__)(prepared(shop))
            doom.nobody_is_left()
    finally:
        doom.close()
    assert found == [PLACES[step] for step in STEPS]
    world.the_clock_finishes()
    world.both_books_agree(shop.partner, shop.tea, points=HELD, stock=STOCK)
    assert set(Exchange.objects.values_list("state", flat=True)) == {Exchange.State.ISSUED}


@pytest.mark.parametrize("type", ["DEDUCTION_REQUEST", "RETURN_REQUEST", "REVERSAL_ADVICE"])
def test_the_points_system_itself_is_killed_between_its_commit_and_its_answer(
    type: str, points_system: PointsSystem, tea: CouponProduct, nursed: Nursery
) -> None:
    row = world.submitted(world.quote(tea, COUNT))
    if type == "REVERSAL_ADVICE":
        points_system.behaves("DOWN_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    if type != "DEDUCTION_REQUEST":
        bank.deduct(row=row, now=timezone.now())
    if type == "RETURN_REQUEST":
        coupons.give_back(
            exchange=row, coupon_ids=[row.coupons.get(ordinal=1).pk], reason="", by="buyer", now=cards.NOW
        )
    if type == "REVERSAL_ADVICE":
        assert exchange.give_up(exchange=row)
    points_system.behaves("SLOW", type=type, remaining=1, seconds="20")
    world.due()
    with dooming(points_system, "SLOW") as doom:
        child = nursed.child("clock")
        counted = "SELECT FROM points_system_request WHERE type = %(type)s"
        doom._until(lambda: bool(points_system.holds(counted, type=type)))
        points_system.server.kill()
        doom._until(lambda: doom._is_still(child))
        doom._kill(child)
    points_system.server.start()
    points_system.behaves()
    world.the_clock_finishes()
    world.both_books_agree(points_system, tea, points=HELD, stock=STOCK)
    row.refresh_from_db()
    assert row.state == (Exchange.State.REVERSED if type == "REVERSAL_ADVICE" else Exchange.State.ISSUED)
