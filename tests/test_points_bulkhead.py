"""A silent points system stops nothing but itself: payments go on while fifty exchanges hang."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import pytest
from django.utils import timezone

from config.ids import public_id
from issuing.models import Kind
from points import accounts, bank, exchange
from points.models import CouponProduct, Exchange, ExchangeRatio, PointsMessage
from tests import cards
from tests import points_world as world
from tests.api.asking import asker
from tests.partners import PATIENCE, PointsSystem, partner_process, points_system
from tests.web import served

__all__ = ["partner_process", "points_system"]

pytestmark = pytest.mark.django_db(transaction=True)

SILENCE, THREADS, STOCK, HELD = 6, 6, 100, 100_000


@pytest.fixture
def tea(points_system: PointsSystem, settings: Any) -> CouponProduct:
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/points/"
    settings.POINTS_SYSTEM_KEYS = points_system.keys
    points_system.has_account((HELD, "2031-12-31"))
    made = world.product(stock=STOCK)
    world.ratio(made, "333.33")
    ExchangeRatio.objects.update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    return made


def payments_beside(exchanges: int, tea: CouponProduct, log: Path, *, waiting: int) -> tuple[list[float], Counter[int]]:
    """How long each payment took while exchanges hang, of which so many may wait; and what those were answered."""
    now = timezone.now()
    till = asker(tea.merchant)
    card = public_id("crd", cards.opened(cards.program(Kind.BONUS, merchant=tea.merchant)).pk)
    quotes = [
        public_id("quo", exchange.quote(account=world.account(), product=tea, count=1, now=now).pk)
        for _turn in range(exchanges)
    ]
    with (
        served(log, threads=THREADS, POINTS_SYSTEM_WAITING=str(waiting)) as port,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1/",
            headers={"Authorization": f"Bearer {till.key}"},
            timeout=60,
            limits=httpx.Limits(max_connections=exchanges + 1),
        ) as web,
        ThreadPoolExecutor(exchanges) as customers,
    ):

        def ask(path: str, body: dict[str, Any]) -> int:
            answer = web.post(path, json=body, headers={"Idempotency-Key": body["reference"]})
            return answer.status_code

        asked = [
            customers.submit(ask, "exchanges", {"quote": quote, "reference": f"EX-{turn}"})
            for turn, quote in enumerate(quotes)
        ]
        patience = monotonic() + PATIENCE
        while PointsMessage.objects.filter(type="DEDUCTION_REQUEST").count() < min(waiting, THREADS) or (
            sum(one.done() for one in asked) < exchanges - waiting
        ):
            assert monotonic() < patience, "they neither hang nor are answered"
            sleep(0.01)
        taken: list[float] = []
        while not (all(one.done() for one in asked) and taken):
            began = monotonic()
            reference = cards.reference("PAY")
            assert ask(f"cards/{card}/payments", {"list_amount": 1, "reference": reference}) == 201
            taken.append(monotonic() - began)
        return taken, Counter(one.result() for one in asked)


def test_payments_go_on_while_fifty_exchanges_hang_and_none_of_those_is_lost(
    points_system: PointsSystem, tea: CouponProduct, tmp_path: Path
) -> None:
    points_system.behaves("SILENT_BEFORE", type="DEDUCTION_REQUEST", seconds=str(SILENCE))
    taken, answers = payments_beside(50, tea, tmp_path / "log", waiting=3)
    assert answers == {202: 50}
    assert max(taken) < 1
    assert len(taken) > 10
    # Those who waited have sent; all others are the clock's at once, and their customers see that it goes on.
    assert Exchange.objects.filter(state=Exchange.State.PENDING, due_at__lte=timezone.now()).count() >= 40
    points_system.behaves()
    world.the_clock_finishes()
    # What was sent into silence and never arrived has been reversed; all others have their coupons.
    assert Counter(Exchange.objects.values_list("state", flat=True)) == {"ISSUED": 47, "REVERSED": 3}
    world.both_books_agree(points_system, tea, points=HELD, stock=STOCK)


def test_control_without_a_limit_a_payment_waits_as_long_as_the_points_system_is_silent(
    points_system: PointsSystem, tea: CouponProduct, tmp_path: Path
) -> None:
    points_system.behaves("SILENT_BEFORE", type="DEDUCTION_REQUEST", seconds=str(SILENCE))
    taken, answers = payments_beside(2 * THREADS, tea, tmp_path / "log", waiting=50)
    assert answers == {202: 2 * THREADS}
    assert max(taken) > SILENCE / 2


def test_a_customer_beyond_the_limit_sees_at_once_that_it_is_in_progress(
    points_system: PointsSystem, tea: CouponProduct, client: Any
) -> None:
    account = world.account()
    accounts.set_password(account=account, password="correct horse")
    client.post("/points/sign-in", {"account": "6225000026000000", "password": "correct horse"})
    quote = exchange.quote(account=account, product=tea, count=3, now=timezone.now())
    seats = [bank._SEATS.acquire(blocking=False) for _seat in range(4)]
    try:
        assert all(seats)
        page = client.post(f"/points/quotes/{quote.pk}/submit", follow=True).content.decode()
        assert "does not answer at the moment" in client.get("/points/balance").content.decode()
    finally:
        for _seat in seats:
            bank._SEATS.release()
    assert "In progress" in page
    assert points_system.count("deduction") == 0
    bank.sweep(now=timezone.now(), seconds=5)
    assert Exchange.objects.get().state == Exchange.State.ISSUED
    world.both_books_agree(points_system, tea, points=HELD, stock=STOCK)
