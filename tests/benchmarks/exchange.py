"""An exchange of a thousand coupons over the merchant API beside the points system's own answer to its deduction."""

from itertools import count
from time import perf_counter
from typing import Any

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.conf import settings  # noqa: E402
from django.utils import timezone  # noqa: E402

from config import messages  # noqa: E402
from config.ids import public_id  # noqa: E402
from points import bank, exchange  # noqa: E402
from points.models import CouponProduct, ExchangeRatio  # noqa: E402
from tests import cards  # noqa: E402
from tests import points_world as world  # noqa: E402
from tests.api.asking import Asker, asker  # noqa: E402
from tests.benchmarks import partners  # noqa: E402
from tests.benchmarks.measuring import Figure  # noqa: E402

COUPONS = 1_000
MOST_MILLISECONDS = 150
ACCOUNT = "6225990000000001"

_numbers = count(1)


def measure(*, share: float) -> list[Figure]:
    settings.ALLOWED_HOSTS = ["testserver"]
    tea = world.product(most_per_order=COUPONS)
    ratio = world.ratio(tea, "1")
    with (
        partners.served(settings.POINTS_SYSTEM_URL),
        psycopg.connect(partners.database_url("points_system"), autocommit=True) as theirs,
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
        till = asker(tea.merchant)
        _exchange(till, tea)  # warm
        # The best of all rounds: whatever else the machine does only ever adds.
        added, theirs_alone = [], []
        for _round in range(max(5, int(20 * share))):
            alone = _answered(tea, bank.ratio_version(ratio))
            added.append(_exchange(till, tea) - alone)
            theirs_alone.append(alone)
    return [
        Figure(
            "exchange", f"{COUPONS:,} coupons: added to the points system's {min(theirs_alone):.0f} ms",
            min(added), "what is wanted", MOST_MILLISECONDS, at_most=1, unit=" ms",
        ),
    ]  # fmt: skip


def _exchange(till: Asker, tea: CouponProduct) -> float:
    """Milliseconds from the merchant's question to his answer with all codes."""
    quote = exchange.quote(account=world.account(ACCOUNT), product=tea, count=COUPONS, now=timezone.now())
    asked = {"quote": public_id("quo", quote.pk), "reference": f"EX-{next(_numbers)}"}
    start = perf_counter()
    answer = till.post("exchanges", asked)
    taken = perf_counter() - start
    assert (answer.status_code, len(answer.json()["coupons"])) == (201, COUPONS), answer.content
    return taken * 1000


def _answered(tea: CouponProduct, version: str) -> float:
    """Milliseconds of the points system's answer to the same deduction."""
    now = timezone.now()
    body: dict[str, Any] = {
        "account": ACCOUNT, "points": COUPONS, "coupon_count": COUPONS, "exchange_ratio": "1",
        "ratio_version": version, "rounding": "CEIL",
    }  # fmt: skip
    question = messages.compose(
        keys=settings.POINTS_SYSTEM_KEYS, type="DEDUCTION_REQUEST", request_no=messages.new_request_no(), body=body,
        now=now, business_date=timezone.localdate(now),
    )  # fmt: skip
    start = perf_counter()
    reply = messages.send(url=f"{settings.POINTS_SYSTEM_URL}messages", question=question)
    taken = perf_counter() - start
    assert messages.believe(reply=reply, question=question, keys=settings.POINTS_SYSTEM_KEYS).code == "0000"
    return taken * 1000
