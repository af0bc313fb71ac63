"""Papers for holders: what stands in them is read back out of the PDF, in both languages."""

import io
import re
from collections.abc import Callable
from datetime import date, timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pypdf import PdfReader

from config.models import Act
from issuing import numbering
from prepaid import papers
from prepaid.models import Card
from tests import cards
from tests.admin import records

pytestmark = pytest.mark.django_db(databases=["default", "owner"])


def text_of(pdf: bytes) -> str:
    """All that can be read, without blanks and what the reader puts between two-byte characters."""
    return re.sub(r"[\s\x00]", "", "".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages))


@pytest.fixture
def card() -> Card:
    """Bought with 1,000.00 and a gift of 200.00 on 1 January; spent from, and given back, in May."""
    card = cards.opened(cards.program("BONUS"), 100_000, gift=20_000)
    payment = cards.paid(card, 36_000, at=cards.NOW)
    cards.refunded(payment, amount=6_000, at=cards.NOW + timedelta(hours=1))
    return card


def stated(card: Card, language: str, first: date = date(2026, 5, 1), last: date = date(2026, 5, 31)) -> bytes:
    now = cards.NOW + timedelta(days=30)
    return papers.statement(card=card, first=first, last=last, language=language, now=now)


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ["Statementofaprepaidcard", "Openingbalance¥1,200.00", "Closingbalance¥900.00", "Payment", "Refund"]),
        ("zh-hans", ["预付卡对账单", "期初余额¥1,200.00", "期末余额¥900.00", "支付", "退货", "应退本金"]),
    ],
)
def test_a_statement_is_the_balance_before_what_happened_and_the_balance_after(
    card: Card, language: str, words: list[str]
) -> None:
    text = text_of(stated(card, language))
    for word in (*words, "-¥360.00", "¥60.00", "2026-05-1512:00:00", f"****{card.last4}", "2026-05-01–2026-05-31"):
        assert word in text, word
    for secret in (numbering.unseal(card.number_sealed), "王小明"):
        assert secret not in text
    assert "PUR-" not in text  # that was before


def test_a_period_begins_and_ends_at_midnight_where_the_merchant_is(card: Card) -> None:
    before = text_of(stated(card, "en", date(2026, 1, 1), date(2026, 5, 14)))
    assert "Openingbalance¥0.00" in before
    assert "Closingbalance¥1,200.00" in before
    day = text_of(stated(card, "en", date(2026, 5, 15), date(2026, 5, 15)))
    assert ("Openingbalance¥1,200.00" in day, "Closingbalance¥900.00" in day) == (True, True)
    assert "Nothinghappenedinthisperiod." in text_of(stated(card, "en", date(2026, 5, 16), date(2026, 5, 17)))


def test_the_same_facts_at_the_same_moment_are_the_same_bytes(card: Card) -> None:
    assert stated(card, "zh-hans") == stated(card, "zh-hans")
    assert len(stated(card, "zh-hans")) < 60_000  # of the font only what is used


def test_what_does_not_fit_is_said_and_counted(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(papers, "MOST_ROWS", 1)
    text = text_of(stated(card, "en"))
    assert "1furthertransactionsoftheperiodarenotprinted" in text
    assert "Closingbalance¥900.00" in text


@pytest.mark.parametrize(
    ("first", "last"), [(date(2026, 5, 2), date(2026, 5, 1)), (date(2025, 1, 1), date(2026, 5, 1))]
)
def test_a_period_turned_round_or_too_long_is_refused(card: Card, first: date, last: date) -> None:
    with pytest.raises(papers.PeriodNotStatable):
        stated(card, "en", first, last)


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ["Certificateofcover", "Suminsured¥1,000.00", "Insurer"]),
        ("zh-hans", ["保险凭证", "保险金额¥1,000.00", "子卡"]),
    ],
)
def test_a_certificate_says_who_covers_what_and_how_long(language: str, words: list[str]) -> None:
    card = records.card(records.insured_program(card_limit=60_000), 100_000)
    with pytest.raises(papers.NotCovered):
        papers.certificate(card=card, language=language, now=timezone.now())
    policy = records.accepted(card)
    text = text_of(papers.certificate(card=card, language=language, now=timezone.now()))
    dates = f"{policy.cover_from_date.isoformat()}–{policy.cover_to_date.isoformat()}"
    for word in (*words, str(policy.policy_no), "SafeHarbour", dates, "¥600.00", "¥400.00", f"****{card.last4}"):
        assert word in text, word


def test_drawing_is_a_permission_and_stands_in_the_audit(at_desk: Callable[[str], Client]) -> None:
    card = records.card()
    asked = {"first": "2026-01-01", "last": "2026-01-31", "language": "en"}
    address = reverse("admin:prepaid_card_statement", args=[card.pk])
    assert at_desk("auditor").post(address, asked).status_code == 403
    clerk = at_desk("clerk")
    answer = clerk.post(address, asked)
    assert answer.headers["Content-Type"] == "application/pdf"
    assert "no-store" in answer.headers["Cache-Control"]
    act = Act.objects.get(verb="statement", outcome="DONE")
    assert (act.who, act.object_id, act.asked["first"]) == ("clerk", str(card.pk), "2026-01-01")
    page = clerk.get(reverse("admin:prepaid_card_change", args=[card.pk]))
    [barred] = [one for one in page.context["buttons"] if str(one.label) == "draw a certificate"]
    assert "no cover to certify" in str(barred.barred)
    too_long = clerk.post(address, {**asked, "last": "2028-01-01"})
    assert too_long.status_code == 200
    assert "at most 366 days" in too_long.content.decode()


def test_what_was_recorded_late_stands_where_it_belongs_and_the_balances_add_up(card: Card) -> None:
    cards.paid(card, 12_000, at=cards.NOW - timedelta(days=1))
    text = text_of(stated(card, "en"))
    for balance in ("-¥120.00¥1,080.00", "-¥360.00¥720.00", "¥60.00¥780.00", "Closingbalance¥780.00"):
        assert balance in text, balance
