"""The first page: what needs somebody, each number the very list it leads to, and how the business goes."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from claims.models import Claim
from config.admin import House
from insurance import exposure
from issuing import merchants
from issuing.models import WebhookDelivery, WebhookEndpoint
from points.models import Exchange
from prepaid import admin as desk
from prepaid import day_figures
from prepaid.models import Break, DayFigure, Run, Transaction
from prepaid.reconciliation import last_date, span
from tests import cards
from tests.admin import records

pytestmark = pytest.mark.django_db(databases=["default", "owner"])


def shown(browser: Client) -> dict[str, Any]:
    page = browser.get(reverse("admin:index")).context
    return {str(need.label): need for need in (*page["needs"], *page["others"])}


def everything_late() -> None:
    """Something that waits in every list that the first page counts."""
    records.one_of_each()
    now = timezone.now()
    program = records.insured_program()
    for state in (Claim.State.FILED, Claim.State.ASSESSED, Claim.State.APPROVED):
        records.claim(records.card(program), state)
        if state != Claim.State.APPROVED:
            program = records.insured_program()
    Claim.objects.filter(state="FILED").update(filed_at=now - timedelta(days=31))
    Claim.objects.filter(state="ASSESSED").update(payable=100, filed_at=now - timedelta(days=61))
    Claim.objects.filter(state="APPROVED").update(decided_at=now - timedelta(days=11), filed_at=now)
    for days in (0, 2, 9):
        found = records.found_break()
        Break.objects.filter(pk=found.pk).update(recorded_at=now - timedelta(days=days))
    Run.objects.create(partner="LEDGER", business_date=date(2025, 1, 1), state="FAILED", started_at=now)
    WebhookEndpoint.objects.update(state="PAUSED", paused_because="FAILING", paused_at=now)
    WebhookDelivery.objects.update(state="FAILED", due_at=None)
    records.unresolved(records.card(records.insured_program()))
    Exchange.objects.update(incident="two answers", submitted_at=now)


def test_every_number_is_the_list_it_leads_to(root: Client) -> None:
    everything_late()
    needs = shown(root)
    assert {label for label, need in needs.items() if need.count} >= {
        "batches to approve", "claims to assess", "claims to approve", "claims to pay",
        "claims not decided within 30 days", "claims not paid within 10 days", "claims with nothing paid for 60 days",
        "open breaks of today", "breaks open for days", "breaks open for too long", "reconciliations that failed",
        "webhook endpoints paused by themselves", "webhook deliveries that failed", "unresolved policies",
        "cards without accepted cover", "incidents with the points system",
    }  # fmt: skip
    for label, need in needs.items():
        page = root.get(need.address)
        assert page.status_code == 200, label
        listed = page.context["cl"].result_count if "cl" in page.context else len(page.context["items"])
        assert listed == need.count, label


def test_what_a_merchant_tries_out_is_in_neither(root: Client) -> None:
    card = records.card()
    twin = merchants.make_test_twin(merchant=card.merchant)
    records.unresolved(card)
    card.policies.update(merchant=twin)
    for label in ("unresolved policies", "cards without accepted cover"):
        need = shown(root)[label]
        assert need.count == root.get(need.address).context["cl"].result_count == 0


def test_every_wait_stands_on_the_first_page() -> None:
    told = {(model, name) for model, name, _whose, _presses in desk._NEEDS}
    offered = {
        (house.model, wait.name)
        for house in admin.site._registry.values()
        if isinstance(house, House)
        for wait in house.counted
    }
    assert told == offered


def test_a_nonsense_wait_narrows_nothing(root: Client) -> None:
    records.card()
    page = root.get(reverse("admin:insurance_policy_changelist"), {"waits": "x"})
    assert page.context["cl"].result_count == 1


# The figures of a day --------------------------------------------------------------------------------------------


def test_a_day_is_written_once_when_it_is_over_with_what_was_recorded_on_it() -> None:
    card = cards.opened(cards.program("BONUS"), 100_000, gift=20_000)
    payment = cards.paid(card, 60_000)
    cards.refunded(payment, amount=12_000)
    tomorrow = cards.NOW + timedelta(days=1)
    days = (last_date(tomorrow) - last_date(cards.OPENED) - timedelta(days=1)).days + 1
    assert day_figures.write(now=tomorrow) == days
    assert day_figures.write(now=tomorrow) == 0
    opened = DayFigure.objects.get(business_date=cards.OPENED.date())
    assert (opened.issued, opened.spent, opened.refundable) == (100_000, 0, None)
    last = DayFigure.objects.get(business_date=cards.NOW.date())
    [start, end] = span(last.business_date)
    drawn = [
        -row.principal
        for row in Transaction.objects.filter(
            recorded_at__gte=start, recorded_at__lt=end, kind__in=("PAYMENT", "REFUND")
        )
    ]
    assert (last.issued, last.spent) == (0, sum(drawn))
    whole = exposure.together(exposure.exposures(now=tomorrow))
    assert (last.refundable, last.exposed) == (whole.refundable, whole.exposed) == (60_000, 0)


def test_days_that_were_missed_have_their_flows_and_no_holdings(monkeypatch: pytest.MonkeyPatch) -> None:
    cards.opened(cards.program("BONUS"), 100_000)
    day_figures.write(now=cards.OPENED + timedelta(days=1))
    monkeypatch.setattr(day_figures, "MOST_DAYS", 3)
    later = cards.OPENED + timedelta(days=5)
    assert [day_figures.write(now=later), day_figures.write(now=later)] == [3, 1]
    held = list(DayFigure.objects.order_by("business_date").values_list("refundable", flat=True))
    assert held == [100_000, None, None, None, 100_000]


def test_a_test_merchants_cards_are_in_no_figure() -> None:
    card = cards.opened(cards.program("BONUS"), 100_000)
    merchants.make_test_twin(merchant=card.merchant)
    with connection.cursor() as cursor:
        cursor.execute("RESET ROLE")
        cursor.execute("SET session_replication_role = replica")
        twin = card.merchant.test_twin.pk
        for table in ("card", "transaction", "load"):
            cursor.execute(f"UPDATE prepaid_{table} SET merchant_id = %s", [twin])
        cursor.execute("SET session_replication_role = DEFAULT")
    day_figures.write(now=cards.OPENED + timedelta(days=1))
    assert list(DayFigure.objects.values_list("issued", "refundable")) == [(0, 0)]


# The charts ------------------------------------------------------------------------------------------------------


def figures(days: int) -> None:
    DayFigure.objects.bulk_create(
        DayFigure(
            business_date=date(2026, 1, 1) + timedelta(days=day), issued=1_000_00, spent=250_00,
            refundable=None if day == 1 else 40_000_00 + day, exposed=None if day == 1 else 30_000_00,
            recorded_at=cards.NOW,
        )
        for day in range(days)
    )  # fmt: skip


def test_a_chart_says_what_it_shows_and_has_its_figures_behind_it(root: Client) -> None:
    figures(31)
    page = root.get(reverse("admin:index"))
    held, flows = page.context["charts"]
    assert str(held.finding) == "Holders are owed ¥40,000.30; no insurer stands behind ¥10,000.30 of it (25.0 %)"
    assert str(flows.finding) == "More comes in than is consumed: ¥31,000.00 issued, ¥7,750.00 consumed in 31 days"
    assert (len(held.rows), len(flows.rows)) == (30, 31)
    assert held.drawing.count("M") == 2 * 2  # two lines, each interrupted once
    assert page.content.decode().count('<svg class="drawing"') == 2
    assert "2026-01-31" in page.content.decode()


@pytest.mark.parametrize("days", [0, 1, 2, 400])
def test_any_number_of_days_is_drawn_from_one_question(root: Client, days: int) -> None:
    figures(days)
    root.get(reverse("admin:index"))
    with CaptureQueriesContext(connection) as queries:
        page = root.get(reverse("admin:index"))
    assert page.status_code == 200
    asked = [str(one["sql"]) for one in queries if "dayfigure" in str(one["sql"])]
    assert len(asked) == 1
    assert "LIMIT 90" in asked[0]
    # Never from the history itself.
    assert not [one for one in queries if "prepaid_transaction" in str(one["sql"])]


def test_who_may_not_see_the_whole_house_sees_no_chart(at_desk: Callable[[str], Client]) -> None:
    figures(3)
    assert at_desk("clerk").get(reverse("admin:index")).context["charts"] == []
    assert at_desk("auditor").get(reverse("admin:index")).context["charts"]
