"""The customer's page in a real browser, in both languages, on a phone and on a desk."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from points import accounts, bank
from points.models import CouponProduct, Exchange, ExchangeRatio
from tests import browser, cards
from tests import points_world as world
from tests.browser import Browser
from tests.partners import PointsSystem, partner_process, points_system

__all__ = ["partner_process", "points_system"]

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not browser.PATH, reason="this machine has no Chromium"),
]

ACCOUNT, PASSWORD = "6225000026000000", "correct horse"
PICTURES = "document.querySelectorAll('.coupons img').length === 3"
DRAWN = "[...document.querySelectorAll('.coupons img')].every(one => one.naturalWidth > 0)"


@pytest.fixture
def bank_open(points_system: PointsSystem, settings: Any, monkeypatch: Any) -> PointsSystem:
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/points/"
    settings.POINTS_SYSTEM_KEYS = points_system.keys
    monkeypatch.setattr(bank, "DEADLINE_SECONDS", 2.0)
    points_system.has_account((2_000, "2031-12-31"), number=ACCOUNT)
    tea: CouponProduct = world.product(stock=50, most_per_order=20, name="Tea for fifty", name_zh="茶券 50 元")
    world.ratio(tea, "333.33")
    ExchangeRatio.objects.update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    accounts.set_password(account=world.account(ACCOUNT), password=PASSWORD)
    return points_system


@pytest.fixture(params=[390, 1280], ids=["phone", "desk"])
def at(request: pytest.FixtureRequest, tmp_path: Path, live_server: Any) -> Iterator[Browser]:
    """A browser at the door of the page."""
    page = Browser(tmp_path / "profile", width=request.param)
    try:
        page.open(f"{live_server.url}/points/")
        yield page
        assert page.wrongs == []
    finally:
        page.close()


def look(page: Browser, name: str) -> None:
    """Nothing stands out to the side; a picture is kept where somebody asks for one."""
    assert page.run("document.documentElement.scrollWidth") <= page.width, name
    if folder := os.environ.get("PICTURES"):
        page.picture(Path(folder) / f"points-{name}-{page.width}.png")


def sign_in(page: Browser) -> None:
    look(page, "sign-in")
    page.type("#account", ACCOUNT)
    page.type("#password", PASSWORD)
    page.click("form.stack button")


def choose_and_submit(page: Browser, count: int) -> None:
    page.type("input[name=count]", str(count))
    page.click("form.choose button")
    look(page, "quote")
    page.click("form[data-once] button")


def test_points_are_seen_spent_and_coupons_held_in_both_languages(bank_open: PointsSystem, at: Browser) -> None:
    sign_in(at)
    at.type("input[name=count]", "3")
    at.until("document.querySelector('output').textContent === '1,000 points'")
    look(at, "choose")
    choose_and_submit(at, 3)
    at.until(f"{PICTURES} && {DRAWN}")
    assert "Your coupons" in at.run("document.querySelector('h1').textContent")
    look(at, "coupons")
    at.click("button[name=language]")
    assert at.run("document.documentElement.lang") == "zh-hans"
    assert "3 × 茶券 50 元" in at.run("document.body.innerText")
    at.until(f"{PICTURES} && {DRAWN}")
    look(at, "coupons-zh")
    assert sum(bank_open.remaining()) == 1_000


def test_a_page_in_progress_resolves_by_itself(bank_open: PointsSystem, at: Browser) -> None:
    sign_in(at)
    bank_open.behaves("SILENT_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    choose_and_submit(at, 3)
    at.until("document.querySelector('h1').textContent === 'In progress'")
    look(at, "in-progress")
    Exchange.objects.update(due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    at.until(f"{PICTURES} && {DRAWN}")


@pytest.fixture
def without_scripts(tmp_path: Path, live_server: Any) -> Iterator[Browser]:
    """A phone whose owner lets no page run scripts."""
    page = Browser(tmp_path / "profile", width=390, scripts=False)
    try:
        page.open(f"{live_server.url}/points/")
        yield page
        assert page.wrongs == []
    finally:
        page.close()


HEADING = "document.querySelector('h1').textContent"


@pytest.mark.parametrize(
    ("language", "coupons", "in_progress", "price", "balance"),
    [
        ("en", "Your coupons", "In progress", "333.33 points per coupon", "2,000 points are available."),
        ("zh-hans", "您的电子券", "处理中", "每券 333.33 积分", "可用积分：2000。"),
    ],
)
def test_all_of_it_works_on_a_phone_with_scripts_off(
    bank_open: PointsSystem, without_scripts: Browser, language: str, coupons: str, in_progress: str, price: str,
    balance: str,
) -> None:  # fmt: skip
    at = without_scripts
    if language != "en":
        at.click("button[name=language]")
    assert at.run("document.documentElement.lang") == language
    sign_in(at)
    look(at, f"no-scripts-choose-{language}")
    assert price in at.run("document.body.innerText")
    # No script ran: it would have written the price of one beside the field.
    assert at.run("document.querySelector('output').textContent") == ""
    at.click("[data-balance] a")
    assert balance in at.run("document.body.innerText")
    at.click("main p:last-child a")
    # The first answer is lost: the page says so and looks again by itself, without a script.
    bank_open.behaves("DOWN_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    choose_and_submit(at, 3)
    assert at.run(HEADING) == in_progress
    look(at, f"no-scripts-in-progress-{language}")
    Exchange.objects.update(due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    at.until(f"{HEADING} === {coupons!r} && {PICTURES} && {DRAWN}")
    look(at, f"no-scripts-coupons-{language}")
    assert sum(bank_open.remaining()) == 1_000
    # And one of them goes back for its points.
    at.run("document.querySelector('.coupons input').click()")
    at.click("main form button")
    world.the_clock_finishes()
    at.until("document.querySelectorAll('.coupons img').length === 2")
    assert sum(bank_open.remaining()) == 1_333
