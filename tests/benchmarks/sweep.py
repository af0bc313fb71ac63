"""After an outage: 100,000 exchanges whose outcome is unknown, found out in bulk, with somebody new every second.

Everything runs as ``./run`` starts it: the points system, the web process, the worker and the clock, whose first tick
ends the outage. A half of the old ones was deducted there, a quarter refused, a quarter never arrived. Found out is
what is issued, rejected, or was answered "not found" and waits for its next question; counted from the first question.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from statistics import median
from time import monotonic, perf_counter, sleep

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.conf import settings  # noqa: E402
from django.db import connections  # noqa: E402
from django.utils import timezone  # noqa: E402

from config import supervisor  # noqa: E402
from config.ids import public_id  # noqa: E402
from issuing import keys  # noqa: E402
from points import bank, exchange  # noqa: E402
from points.models import Coupon, CouponProduct, Exchange, ExchangeRatio  # noqa: E402
from tests import cards  # noqa: E402
from tests import points_world as world  # noqa: E402
from tests.benchmarks import partners, web  # noqa: E402
from tests.benchmarks.measuring import Figure  # noqa: E402

EXCHANGES = 100_000
WANTED = 5_000
MOST_MILLISECONDS = 1_000
ACCOUNT = "6225990000000001"
PATIENCE = 300.0
HANDS = ("--concurrency", str(supervisor.HANDS), "--without-mingle", "--without-gossip")

_numbers = count(1)

# Celery as ./run starts it, on a queue of this run's own: a ./run beside it may use the same Redis.
_CELERY = """
import sys
from config.celery import app
app.conf.task_default_queue = sys.argv[1]
app.start(sys.argv[2:])
"""

_THEIRS = (
    """INSERT INTO points_system_request (request_no, type, fingerprint, code, answer, points, bank_reference,
        posted_at, accounting_date, original)
    SELECT left(md5('request' || n), 22), 'DEDUCTION_REQUEST', md5(n::text), '0000',
        jsonb_build_object('bank_reference', 'X' || lpad(n::text, 11, '0'), 'points', 1, 'balance_after', 1000000,
            'accounting_date', %(date)s::text,
            'lots', jsonb_build_array(jsonb_build_object('lot', 1, 'points', 1, 'expires', '2035-12-31'))),
        1, 'X' || lpad(n::text, 11, '0'), now(), %(date)s, ''
    FROM generate_series(1, %(many)s) n WHERE n %% 4 IN (0, 1)""",
    """INSERT INTO points_system_deduction (request_id, account_id, points, coupon_count, ratio_version,
        bank_reference, accounting_date, state, returned)
    SELECT r.id, a.id, 1, 1, %(version)s, r.bank_reference, %(date)s, 'DEDUCTED', 0
    FROM points_system_request r, points_system_account a
    WHERE r.bank_reference LIKE 'X%%' AND a.number = %(number)s""",
    """INSERT INTO points_system_request (request_no, type, fingerprint, code, answer, points, bank_reference,
        posted_at, accounting_date, original)
    SELECT left(md5('request' || n), 22), 'DEDUCTION_REQUEST', md5(n::text), '1001', '{}', 0, '', now(), %(date)s, ''
    FROM generate_series(1, %(many)s) n WHERE n %% 4 = 2""",
    "VACUUM ANALYZE",
)

_OURS = (
    """INSERT INTO points_exchangequote (id, account_id, product_id, ratio_id, count, points, expires_at, recorded_at)
    SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, %(account)s, %(product)s, %(ratio)s, 1, 1,
        %(at)s, %(at)s FROM generate_series(1, %(many)s) n""",
    """INSERT INTO points_exchange (id, quote_id, account_id, product_id, merchant_id, reference, count, points, state,
        bank_reference, refusal_code, incident, reversal_reference, submitted_at, sent_at, settlement,
        settlement_reason, request_no, attempts, due_at, problem)
    SELECT id, id, account_id, product_id, %(merchant)s, 'OLD-' || n, 1, 1, 'UNKNOWN', '', '', '', '', %(at)s, %(at)s,
        '', '', left(md5('request' || n), 22), 1, %(at)s::timestamptz + n * interval '1 ms', 'TIMED_OUT'
    FROM points_exchangequote, LATERAL (SELECT ('x' || right(id::text, 12))::bit(48)::bigint) AS numbered(n)""",
    "VACUUM ANALYZE",
)


def measure(*, share: float) -> list[Figure]:
    size = max(1, int(EXCHANGES * share / 4)) * 4
    tea = world.product(stock=10 * EXCHANGES)
    ratio = world.ratio(tea, "1")
    with (
        partners.served(settings.POINTS_SYSTEM_URL),
        psycopg.connect(partners.database_url("points_system"), autocommit=True) as theirs,
        psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as owner,
    ):
        theirs.execute(
            "WITH account AS (INSERT INTO points_system_account"
            " (number, customer, state, most_per_deduction, most_per_day, opened_at)"
            " VALUES (%s, '刘杰', 'ACTIVE', 1000000000, 1000000000, now()) RETURNING id)"
            " INSERT INTO points_system_lot (account_id, points, remaining, expires_date, origin, added_at)"
            " SELECT id, 1000000000, 1000000000, '2035-12-31', '', now() FROM account",
            [ACCOUNT],
        )
        ExchangeRatio.objects.update(advised_at=None, due_at=cards.OPENED)
        bank.sweep(now=timezone.now(), seconds=10)
        facts = {
            "account": world.account(ACCOUNT).pk, "number": ACCOUNT,
            "product": tea.pk, "ratio": ratio.pk, "merchant": tea.merchant_id,
            "at": cards.OPENED, "many": size, "version": bank.ratio_version(ratio), "date": timezone.localdate(),
        }  # fmt: skip
        for statement in _THEIRS:
            theirs.execute(statement, facts if "%(" in statement else None)
        for statement in _OURS:
            owner.execute(statement, facts if "%(" in statement else None)
        with web.served(workers=supervisor.WORKERS, threads=supervisor.THREADS) as port, _celery("worker", *HANDS):
            till = _Till(port, tea)
            for _turn in range(4 * supervisor.WORKERS * supervisor.THREADS):
                till.exchange()  # warm
            alone = [till.exchange() for _turn in range(20)]
            new = _Customers(till)
            with _celery("beat"):
                new.start()
                taken = _found_out(owner)
            beside = new.stop()
        bare = _bare(owner, size)
    issued = Exchange.objects.filter(state=Exchange.State.ISSUED, reference__startswith="OLD-")
    assert issued.count() == size // 2
    assert Coupon.objects.filter(exchange__in=issued).count() == size // 2
    old = Exchange.objects.filter(reference__startswith="OLD-")
    assert old.filter(state=Exchange.State.REJECTED).count() == size // 4
    assert old.filter(problem="2002").count() == size // 4
    told = f"{size:,} unknown exchanges"
    return [
        Figure("sweep", told, size / taken, "what is wanted", WANTED, at_least=1, unit=" rows/s"),
        Figure("sweep", told, size / taken, "one UPDATE and INSERT of the rows", bare, unit=" rows/s"),
        Figure("sweep", "a new exchange meanwhile, median", median(beside), "without", median(alone), unit=" ms"),
        Figure("sweep", "the slowest of them", max(beside), "without", max(alone), unit=" ms"),
        Figure("sweep", "the slowest of them", max(beside), "wanted", MOST_MILLISECONDS, at_most=1, unit=" ms"),
    ]


@contextmanager
def _celery(role: str, *options: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", _CELERY, f"benchmark-{os.getpid()}", "--quiet", role, "--loglevel", "ERROR", *options],
        cwd=partners.PROJECT, env={**os.environ, "LOG_LEVEL": "ERROR"},
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def _found_out(owner: psycopg.Connection[tuple[object, ...]]) -> float:
    """Seconds from the first question until nothing old has still to be asked about for the first time."""
    until = monotonic() + PATIENCE
    while owner.execute(_TO_ASK).fetchone() == (True,):
        assert monotonic() < until, "the clock does not come to an end"
        sleep(0.25)
    [(taken,)] = owner.execute(
        "SELECT extract(epoch FROM clock_timestamp() - min(recorded_at))::float FROM points_pointsmessage"
        " WHERE type = 'DEDUCTION_QUERY'"
    )
    return float(taken)


_TO_ASK = """SELECT EXISTS (
    SELECT FROM points_exchange WHERE state = 'UNKNOWN' AND attempts = 1 AND reference LIKE 'OLD-%')"""


class _Till:
    """A merchant's till: one connection to the web process for each thread that serves there."""

    def __init__(self, port: int, tea: CouponProduct) -> None:
        _key, self.key = keys.make(merchant=tea.merchant, name="till", now=timezone.now())
        self.port, self.tea = port, tea

    def exchange(self) -> float:
        """Milliseconds from the merchant's question to his answer with the coupon."""
        quote = exchange.quote(account=world.account(ACCOUNT), product=self.tea, count=1, now=timezone.now())
        reference = f"NEW-{next(_numbers)}"
        line = http.client.HTTPConnection("127.0.0.1", self.port)
        start = perf_counter()
        line.request(
            "POST", "/api/v1/exchanges",
            json.dumps({"quote": public_id("quo", quote.pk), "reference": reference}),
            {
                "Authorization": f"Bearer {self.key}", "Idempotency-Key": reference,
                "Content-Type": "application/json",
            },
        )  # fmt: skip
        answer = line.getresponse()
        said = json.loads(answer.read())
        taken = perf_counter() - start
        line.close()
        assert (answer.status, len(said["coupons"])) == (201, 1), said
        return taken * 1000


class _Customers(threading.Thread):
    """Somebody new every second."""

    def __init__(self, till: _Till) -> None:
        super().__init__(daemon=True)
        self.till, self.taken, self.is_over = till, list[float](), threading.Event()

    def run(self) -> None:
        try:
            while not self.is_over.is_set():
                began = monotonic()
                self.taken.append(self.till.exchange())
                self.is_over.wait(max(0, 1 - (monotonic() - began)))
        finally:
            connections.close_all()

    def stop(self) -> list[float]:
        self.is_over.set()
        self.join()
        return self.taken


def _bare(owner: psycopg.Connection[tuple[object, ...]], size: int) -> float:
    """Rows per second of what must be written at least: each row leased and settled, each coupon there once more."""
    start = perf_counter()
    with owner.transaction():
        owner.execute("UPDATE points_exchange SET due_at = now() WHERE reference LIKE 'OLD-%'")
        owner.execute("UPDATE points_exchange SET due_at = NULL, problem = 'bare' WHERE reference LIKE 'OLD-%'")
        owner.execute(
            "INSERT INTO points_coupon (id, ordinal, code_hash, code_sealed, last4, generation, state,"
            " redeemed_reference, store, exchange_id, product_id, merchant_id, account_id, face_value, issued_at,"
            " expires_at) SELECT gen_random_uuid(), 2, md5(c.id::text), code_sealed, last4, 1, 'ACTIVE', '', '',"
            " exchange_id, product_id, merchant_id, account_id, face_value, issued_at, expires_at FROM points_coupon c"
        )
        taken = perf_counter() - start
        raise psycopg.Rollback
    return size / taken
