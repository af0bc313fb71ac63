"""After an outage: 100,000 exchanges whose outcome is unknown, found out in bulk, with somebody new every second.

The points system is its own process; a half of the old ones was deducted there, a quarter refused, a quarter never
arrived. Found out is what is issued, rejected, or has been answered "not found" and waits for its next question.
"""

import os
import subprocess
import sys
import threading
from itertools import count
from statistics import median
from time import monotonic, perf_counter

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.conf import settings  # noqa: E402
from django.db import connections  # noqa: E402
from django.utils import timezone  # noqa: E402

from config.ids import public_id  # noqa: E402
from points import bank, exchange  # noqa: E402
from points.models import Coupon, CouponProduct, Exchange, ExchangeRatio  # noqa: E402
from tests import cards  # noqa: E402
from tests import points_world as world  # noqa: E402
from tests.api.asking import Asker, asker  # noqa: E402
from tests.benchmarks import partners  # noqa: E402
from tests.benchmarks.measuring import Figure, seconds  # noqa: E402

EXCHANGES = 100_000
WORKERS = 2
WANTED = 5_000
MOST_MILLISECONDS = 1_000
ACCOUNT = "6225990000000001"

_numbers = count(1)

# A row that never arrived is asked about again, and that is not what is measured.
_WORKER = """
import django
django.setup()
from django.utils import timezone
from points import bank
from points.models import Exchange
old = Exchange.objects.filter(state="UNKNOWN", attempts=1, reference__startswith="OLD-")
while old.exists():
    bank.sweep(now=timezone.now(), seconds=1)
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
    settings.ALLOWED_HOSTS = ["testserver"]
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
        till = asker(tea.merchant)
        _exchange(till, tea)  # warm
        alone = [_exchange(till, tea) for _turn in range(10)]
        new = _Customers(till, tea)
        new.start()
        taken = seconds(_work)
        beside = new.stop()
        bare = _bare(owner, size)
    issued = Exchange.objects.filter(state=Exchange.State.ISSUED, reference__startswith="OLD-")
    assert issued.count() == size // 2
    assert Coupon.objects.filter(exchange__in=issued).count() == size // 2
    assert (
        Exchange.objects.filter(problem="2002").count()
        == size - size // 2 - issued.model.objects.filter(state=Exchange.State.REJECTED).count()
    )
    told = f"{size:,} unknown exchanges"
    return [
        Figure("sweep", told, size / taken, "what is wanted", WANTED, at_least=1, unit=" rows/s"),
        Figure("sweep", told, size / taken, "one UPDATE and INSERT of the rows", bare, unit=" rows/s"),
        Figure("sweep", "a new exchange meanwhile, median", median(beside), "without", median(alone), unit=" ms"),
        Figure("sweep", "the slowest of them", max(beside), "without", max(alone), unit=" ms"),
        Figure("sweep", "the slowest of them", max(beside), "wanted", MOST_MILLISECONDS, at_most=1, unit=" ms"),
    ]


def _work() -> None:
    workers = [subprocess.Popen([sys.executable, "-c", _WORKER], cwd=partners.PROJECT) for _worker in range(WORKERS)]
    assert [worker.wait() for worker in workers] == [0] * WORKERS


class _Customers(threading.Thread):
    """Somebody new every second."""

    def __init__(self, till: Asker, tea: CouponProduct) -> None:
        super().__init__(daemon=True)
        self.till, self.tea, self.taken, self.is_over = till, tea, list[float](), threading.Event()

    def run(self) -> None:
        try:
            while not self.is_over.is_set():
                began = monotonic()
                self.taken.append(_exchange(self.till, self.tea))
                self.is_over.wait(max(0, 1 - (monotonic() - began)))
        finally:
            connections.close_all()

    def stop(self) -> list[float]:
        self.is_over.set()
        self.join()
        return self.taken


def _exchange(till: Asker, tea: CouponProduct) -> float:
    """Milliseconds from the merchant's question to his answer with the coupon."""
    quote = exchange.quote(account=world.account(ACCOUNT), product=tea, count=1, now=timezone.now())
    asked = {"quote": public_id("quo", quote.pk), "reference": f"NEW-{next(_numbers)}"}
    start = perf_counter()
    answer = till.post("exchanges", asked)
    taken = perf_counter() - start
    assert (answer.status_code, len(answer.json()["coupons"])) == (201, 1), answer.content
    return taken * 1000


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
