"""The customer's page, as a browser without JavaScript uses it, against the real points system."""

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from points import accounts, bank, codes, guessing
from points.models import Coupon, CouponMove, CouponProduct, Exchange, ExchangeQuote, ExchangeRatio, WrongGuess
from tests import cards
from tests import points_world as world
from tests.partners import PointsSystem, partner_process, points_system

__all__ = ["partner_process", "points_system"]

pytestmark = pytest.mark.django_db

ACCOUNT, OTHER, PASSWORD = "6225000026000000", "6225000026000018", "correct horse"


@pytest.fixture
def tea() -> CouponProduct:
    made = world.product(stock=50, most_per_order=20, name_zh="茶券")
    world.ratio(made, "333.33")
    return made


@pytest.fixture
def bank_open(points_system: PointsSystem, tea: CouponProduct, settings: Any, monkeypatch: Any) -> PointsSystem:
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/points/"
    settings.POINTS_SYSTEM_KEYS = points_system.keys
    monkeypatch.setattr(bank, "DEADLINE_SECONDS", 2.0)
    points_system.has_account((2_000, "2031-12-31"), number=ACCOUNT)
    ExchangeRatio.objects.update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    return points_system


def customer(number: str = ACCOUNT) -> Client:
    """A browser in which the account's owner has signed in."""
    accounts.set_password(account=world.account(number), password=PASSWORD)
    browser = Client()
    answer = browser.post(reverse("points-sign-in"), {"account": number, "password": PASSWORD})
    assert answer.headers["Location"] == reverse("points-home")
    return browser


def quoted(browser: Client, tea: CouponProduct, count: str = "3") -> Any:
    return browser.post(reverse("points-quotes"), {"product": f"cpr_{tea.pk.hex}", "count": count})


def submitted(browser: Client, tea: CouponProduct, count: str = "3") -> Any:
    quote = quoted(browser, tea, count)
    assert quote.status_code == 302, quote.content.decode()
    return browser.post(f"{quote.headers['Location']}/submit")


def text_of(answer: Any) -> str:
    return re.sub(r"\s+", " ", answer.content.decode())


def test_a_customer_chooses_sees_the_points_and_holds_coupons(bank_open: PointsSystem, tea: CouponProduct) -> None:
    browser = customer()
    assert "333.33 points per coupon" in text_of(browser.get(reverse("points-home")))
    assert "2,000 points are available" in text_of(browser.get(reverse("points-balance")))
    quote = quoted(browser, tea)
    page = text_of(browser.get(quote.headers["Location"]))
    assert "1,000" in page
    assert "Nothing has been taken yet" in page
    done = browser.post(f"{quote.headers['Location']}/submit")
    shown = browser.get(done.headers["Location"])
    page = text_of(shown)
    for coupon in Coupon.objects.all():
        assert codes.written(codes.VAULT.unseal(coupon.code_sealed)) in page
    assert page.count("data:image/svg+xml") == 3
    assert 'http-equiv="refresh"' not in page
    assert "no-store" in shown.headers["Cache-Control"]
    assert CouponMove.objects.filter(what="READ", by="buyer").count() == 3
    assert sum(bank_open.remaining()) == 1_000
    assert "3 × Tea" in page
    assert "<dd>1,000</dd>" in page
    assert f"<dd>{tea.merchant.name}</dd>" in page
    # What stands on the pages leads to this very exchange.
    assert f'action="{done.headers["Location"]}/returns"' in page
    assert f'href="{done.headers["Location"]}"' in text_of(browser.get(reverse("points-home")))
    # Pressed again, or gone back to: the same exchange.
    assert browser.post(f"{quote.headers['Location']}/submit").headers["Location"] == done.headers["Location"]
    assert browser.get(quote.headers["Location"]).headers["Location"] == done.headers["Location"]
    assert sum(bank_open.remaining()) == 1_000


def test_silence_is_an_honest_page_that_resolves_by_itself(bank_open: PointsSystem, tea: CouponProduct) -> None:
    bank_open.behaves("SILENT_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    browser = customer()
    where = submitted(browser, tea).headers["Location"]
    page = text_of(browser.get(where))
    assert "In progress" in page
    assert '<meta http-equiv="refresh" content="3">' in page
    assert "data:image/svg+xml" not in page
    Exchange.objects.update(due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    page = text_of(browser.get(where))
    assert page.count("data:image/svg+xml") == 3
    assert 'http-equiv="refresh"' not in page


def test_too_few_points_is_said_and_costs_nothing(bank_open: PointsSystem, tea: CouponProduct) -> None:
    browser = customer()
    page = text_of(browser.get(submitted(browser, tea, "7").headers["Location"]))
    assert "The account holds fewer points than this." in page
    assert sum(bank_open.remaining()) == 2_000
    assert not Coupon.objects.exists()


def test_unused_coupons_are_returned(bank_open: PointsSystem, tea: CouponProduct) -> None:
    browser = customer()
    where = submitted(browser, tea).headers["Location"]
    first, second, third = Coupon.objects.order_by("ordinal")
    back = browser.post(f"{where}/returns", {"coupon": [f"cpn_{first.pk.hex}", f"cpn_{second.pk.hex}"]})
    assert back.status_code == 302
    bank.sweep(now=timezone.now(), seconds=5)
    page = text_of(browser.get(where))
    assert "2 coupons for 666 points: returned" in page
    assert page.count("data:image/svg+xml") == 1
    assert sum(bank_open.remaining()) == 1_666
    for chosen in ([], [f"cpn_{first.pk.hex}"], ["cpn_x"], [f"cpn_{third.pk.hex}", "x"]):
        refused = browser.post(f"{where}/returns", {"coupon": chosen})
        assert refused.status_code == 409
        assert "Only unused coupons" in text_of(refused)
    assert sum(bank_open.remaining()) == 1_666


@pytest.mark.parametrize(
    ("count", "said"),
    [
        ("0", "Choose at least one coupon."),
        ("-1", "Give the number of coupons in digits."),
        ("1.5", "Give the number of coupons in digits."),
        ("３", "Give the number of coupons in digits."),
        ("", "Give the number of coupons in digits."),
        ("1000000000", "At most 20 coupons at once."),
        ("9" * 5000, "Give the number of coupons in digits."),
    ],
)
def test_a_count_that_nobody_can_buy_is_refused_in_words(tea: CouponProduct, count: str, said: str) -> None:
    refused = quoted(customer(), tea, count)
    assert refused.status_code == 422
    assert said in text_of(refused)
    assert not ExchangeQuote.objects.exists()


def test_the_price_of_what_is_being_typed(tea: CouponProduct) -> None:
    browser = customer()
    product = f"cpr_{tea.pk.hex}"
    for count, said in {"7": "2,334", "0": "", "-1": "", "x": "", "": ""}.items():
        answer = browser.get(reverse("points-price"), {"product": product, "count": count})
        assert (answer.status_code, answer.content.decode()) == (200, said)
    assert browser.get(reverse("points-price"), {"product": "x", "count": "1"}).content == b""
    assert not ExchangeQuote.objects.exists()


def test_what_is_another_customers_is_not_there(tea: CouponProduct) -> None:
    owner, stranger = customer(), customer(OTHER)
    row = world.issued(tea, 3)
    quote = world.quote(tea)
    coupon = row.coupons.get(ordinal=1)
    where = reverse("points-exchange", args=[row.pk])
    assert owner.get(reverse("points-quote", args=[quote.pk])).status_code == 200
    assert owner.get(where).status_code == 200
    assert stranger.get(where).status_code == 404
    assert stranger.get(reverse("points-quote", args=[quote.pk])).status_code == 404
    assert stranger.post(reverse("points-submit", args=[quote.pk])).status_code == 404
    assert stranger.post(f"{where}/returns", {"coupon": [f"cpn_{coupon.pk.hex}"]}).status_code == 404
    coupon.refresh_from_db()
    assert coupon.state == "ACTIVE"
    assert Exchange.objects.count() == 1


def test_nobody_gets_in_without_a_password_and_one_text_says_so(tea: CouponProduct) -> None:
    customer()
    world.account(OTHER)  # known, but of nobody who may sign in here
    door, said = Client(), set()
    for account, password in (
        (ACCOUNT, "wrong"), (ACCOUNT, ""), (OTHER, ""), (OTHER, "x"), ("0", "x"), ("", ""), ("\0", "\0"),
    ):  # fmt: skip
        answer = door.post(reverse("points-sign-in"), {"account": account, "password": password})
        assert answer.status_code == 403
        said.add(re.findall(r'role="alert">(.*?)<', text_of(answer))[0])
    assert said == {"Account and password do not belong together."}
    for name in ("points-home", "points-balance", "points-price"):
        assert door.get(reverse(name)).headers["Location"] == reverse("points-sign-in")


def test_whoever_guesses_a_password_has_to_wait_and_others_do_not(tea: CouponProduct) -> None:
    customer()
    accounts.set_password(account=world.account(OTHER), password=PASSWORD)
    door = Client()
    for _turn in range(guessing.MOST):
        assert door.post(reverse("points-sign-in"), {"account": ACCOUNT, "password": "x"}).status_code == 403
    right = {"account": ACCOUNT, "password": PASSWORD}
    stopped = door.post(reverse("points-sign-in"), right)
    assert stopped.status_code == 429
    assert "Too many wrong guesses." in text_of(stopped)
    assert door.post(reverse("points-sign-in"), {**right, "account": OTHER}).status_code == 302
    WrongGuess.objects.update(recorded_at=timezone.now() - guessing.WITHIN)
    assert Client().post(reverse("points-sign-in"), right).status_code == 302
    assert ACCOUNT not in " ".join(WrongGuess.objects.values_list("subject", flat=True))


def test_signing_out_closes_the_door(tea: CouponProduct) -> None:
    browser = customer()
    browser.post(reverse("points-sign-out"))
    assert browser.get(reverse("points-home")).status_code == 302


def test_the_page_is_strict_and_bilingual(tea: CouponProduct) -> None:
    browser = customer()
    row = world.issued(tea, 1)
    for address in (reverse("points-home"), reverse("points-exchange", args=[row.pk])):
        page = browser.get(address)
        assert "unsafe" not in page.headers["Content-Security-Policy"]
        text = text_of(page)
        assert not re.search(r"""<script>|style=|\son\w+=|(?:src|href|action)=["'](?:https?:)?//""", text)
        assert '<html lang="en">' in text
    browser.post("/i18n/setlang/", {"language": "zh-hans", "next": "/points/"})
    text = text_of(browser.get(reverse("points-home")))
    assert '<html lang="zh-hans">' in text
    assert "茶券" in text
    assert "Choose coupons" not in text


def test_a_form_from_elsewhere_spends_nothing(tea: CouponProduct) -> None:
    accounts.set_password(account=world.account(), password=PASSWORD)
    browser = Client(enforce_csrf_checks=True)
    session = browser.session
    session["points_account"] = world.account().pk.hex
    session.save()
    quote = world.quote(tea)
    assert browser.post(reverse("points-submit", args=[quote.pk])).status_code == 403
    assert not Exchange.objects.exists()
