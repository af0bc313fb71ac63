"""Lists ask the database as often for fifty rows as for one, and find what somebody means by looking it up."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from claims.models import Claim
from config import admin as backoffice
from config.admin import House, Pages
from config.ids import public_id
from insurance.models import Endorsement, Policy
from issuing import numbering
from issuing.models import Batch, BatchRow
from prepaid import processing
from prepaid.models import Break, Card, Entry, Load, NetworkAccount, SubCard, Transaction
from tests import cards
from tests.admin import records

pytestmark = pytest.mark.django_db(databases=["default", "owner"])


def asked(browser: Client, address: str) -> int:
    browser.get(address)
    with CaptureQueriesContext(connection) as queries:
        page = browser.get(address)
    assert page.status_code == 200
    return len(queries)


def open_many(count: int) -> list[Card]:
    program = records.insured_program()
    now = timezone.now()
    orders = [records.purchase(program)._replace(paid_at=now - timedelta(days=30)) for _n in range(count)]
    found = [Card.objects.get(pk=key) for key in processing.open_cards(orders=orders, now=now)]
    for card in found:
        cards.paid(card, 100, at=now)
    return found


def claims(count: int) -> None:
    for card in open_many(count):
        records.claim(card)


def endorsements(count: int) -> None:
    for card in open_many(count):
        processing.top_up(
            merchant=card.merchant, card_id=card.pk, amount=10_000, reference=cards.reference("TOP"),
            payment_method="WECHAT", now=timezone.now(),
        )  # fmt: skip


def batches(count: int) -> None:
    program = records.insured_program()
    for _n in range(count):
        records.batch(program, made_by=records.staff("first-clerk"))


def breaks(count: int) -> None:
    for _n in range(count):
        records.found_break()


@pytest.mark.parametrize(
    ("model", "make"),
    [
        (Card, open_many),
        (NetworkAccount, open_many),
        (Load, open_many),
        (SubCard, open_many),
        (Transaction, open_many),
        (Entry, open_many),
        (Policy, open_many),
        (Endorsement, endorsements),
        (Claim, claims),
        (Batch, batches),
        (BatchRow, batches),
        (Break, breaks),
    ],
)
def test_a_list_of_fifty_asks_as_often_as_a_list_of_one(
    root: Client, model: type, make: Callable[[int], object]
) -> None:
    address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    make(1)
    once = asked(root, address)
    make(49)
    assert model.objects.count() >= 50 or model is NetworkAccount
    assert asked(root, address) == once


def test_the_first_page_asks_as_often_however_much_waits(root: Client) -> None:
    address = reverse("admin:index")
    claims(1)
    batches(1)
    breaks(1)
    once = asked(root, address)
    open_many(20)
    batches(5)
    breaks(5)
    assert asked(root, address) == once


def test_a_card_page_asks_as_often_however_much_happened(root: Client) -> None:
    [card] = open_many(1)
    address = reverse("admin:prepaid_card_change", args=[card.pk])
    once = asked(root, address)
    for _n in range(20):
        cards.paid(card, 10, at=timezone.now())
    assert asked(root, address) == once


def test_at_most_fifty_rows_are_on_a_page(root: Client) -> None:
    open_many(51)
    page = root.get(reverse("admin:prepaid_card_changelist"), {"all": ""})
    assert page.content.decode().count("data-row") == 50


def test_nothing_is_counted_further_than_somebody_would_turn_pages(
    root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pages, "MOST", 3)
    open_many(5)
    assert "more than 3" in root.get(reverse("admin:prepaid_card_changelist")).content.decode()


def found(browser: Client, model: str, text: str) -> list[str]:
    page = browser.get(reverse(f"admin:{model}_changelist"), {"q": text})
    assert page.status_code == 200
    return [str(row.pk) for row in page.context["cl"].result_list]


def test_a_card_is_found_by_everything_it_is_known_by(root: Client) -> None:
    mine, _other = open_many(2)
    NetworkAccount.objects.filter(pk=mine.network_account_id)
    policy = records.accepted(mine)
    number = numbering.unseal(mine.number_sealed)
    reference = Load.objects.get(card=mine).reference
    for text in (number, reference, policy.policy_no, public_id("crd", mine.pk)):
        assert found(root, "prepaid_card", str(text)) == [str(mine.pk)], text
    assert str(mine.pk) in found(root, "prepaid_card", mine.last4)
    assert str(mine.pk) in found(root, "prepaid_card", "13800000001")
    for text in (number[:-1] + "x", reference[:-1] + "?", "1380000000", mine.number_hash):
        assert found(root, "prepaid_card", text) == [], text


def test_a_replaced_number_still_leads_to_its_card(root: Client) -> None:
    [card] = open_many(1)
    old = numbering.unseal(card.number_sealed)
    processing.report_lost(card=card, reason="lost", by="staff:x", now=timezone.now())
    processing.replace(card=card, reason="lost", by="staff:x", now=timezone.now())
    assert found(root, "prepaid_card", old) == [str(card.pk)]


def test_a_transaction_is_found_by_its_reference(root: Client) -> None:
    [card] = open_many(1)
    payment = Transaction.objects.get(card=card, kind="PAYMENT")
    assert found(root, "prepaid_transaction", payment.reference) == [str(payment.pk)]
    assert found(root, "prepaid_transaction", public_id("txn", payment.pk)) == [str(payment.pk)]


def test_no_page_tells_a_number_or_a_whole_name(root: Client) -> None:
    [card] = open_many(1)
    pages = (
        root.get(reverse("admin:prepaid_card_changelist")).content
        + root.get(reverse("admin:prepaid_card_change", args=[card.pk])).content
    )
    text = pages.decode()
    assert numbering.unseal(card.number_sealed) not in text
    assert card.number_hash not in text
    assert "王小明" not in text
    assert "13800000001" not in text
    assert "138****0001" in text


def test_money_stands_in_yuan_with_separators(root: Client) -> None:
    records.card(records.insured_program(card_limit=500_000), 1_234_567)
    text = root.get(reverse("admin:prepaid_card_changelist")).content.decode()
    assert '<span class="figure">¥12,345.67</span>' in text


def test_the_first_page_counts_what_waits_and_leads_to_it(root: Client) -> None:
    maker = User.objects.create_user("maker")
    program = records.insured_program()
    records.batch(program, made_by=maker)
    card = records.card(program)
    records.unresolved(card)
    needs = {str(need.label): need for need in root.get(reverse("admin:index")).context["needs"]}
    assert needs["batches to approve"].count == 1
    assert needs["unresolved policies"].count == 1
    assert needs["cards without accepted cover"].count == 1
    assert "¥1,000.00" in str(needs["cards without accepted cover"].detail)
    for need in needs.values():
        page = root.get(need.address)
        assert page.status_code == 200
        assert page.context["cl"].result_count == need.count, need.label


def test_what_waits_for_others_is_told_apart(at_desk: Any) -> None:
    records.batch(records.insured_program(), made_by=User.objects.create_user("maker"))
    for role, mine, others in (("approver", 1, 0), ("clerk", 0, 1), ("auditor", 0, 1)):
        page = at_desk(role).get(reverse("admin:index")).context
        assert sum(need.count for need in page["needs"] if str(need.label) == "batches to approve") == mine
        assert sum(need.count for need in page["others"] if str(need.label) == "batches to approve") == others


# What stands above a list ----------------------------------------------------------------------------------------


def test_each_tab_leads_to_its_rows_and_the_current_one_is_marked(root: Client) -> None:
    frozen, expiring, covered, lost = open_many(4)
    processing.freeze(card=frozen, reason="x", by="staff:x", now=timezone.now())
    today = timezone.localdate()
    Card.objects.filter(pk=expiring.pk).update(expires_on_date=today + timedelta(days=30))
    Card.objects.filter(pk=covered.pk).update(expires_on_date=today + timedelta(days=31))
    for card in (frozen, expiring, covered):
        records.accepted(card)
    tabs = root.get(reverse("admin:prepaid_card_changelist")).context["tabs"]
    shown = {}
    for label, where, _is_current in tabs:
        page = root.get(reverse("admin:prepaid_card_changelist") + where)
        assert page.content.decode().count('aria-current="page"') == 1
        assert [str(one[0]) for one in page.context["tabs"] if one[2]] == [str(label)]
        shown[str(label)] = {row.pk for row in page.context["cl"].result_list}
    assert shown == {
        "all cards": {frozen.pk, expiring.pk, covered.pk, lost.pk},
        "frozen": {frozen.pk},
        "awaiting cover": {lost.pk},
        "expiring in 30 days": {expiring.pk},
    }


def test_my_breaks_are_those_i_took(root: Client) -> None:
    mine, theirs = records.found_break(), records.found_break()
    Break.objects.filter(pk=mine.pk).update(owner=User.objects.get(username="root"))
    Break.objects.filter(pk=theirs.pk).update(owner=records.staff("other"))
    page = root.get(reverse("admin:prepaid_break_changelist"))
    where = {str(label): address for label, address, _is_current in page.context["tabs"]}
    found = root.get(reverse("admin:prepaid_break_changelist") + where["my breaks"])
    assert [row.pk for row in found.context["cl"].result_list] == [mine.pk]


@pytest.mark.parametrize("house", [one for one in admin.site._registry.values() if isinstance(one, House) and one.tabs])
def test_every_tab_of_every_list_can_be_opened(root: Client, house: House) -> None:
    where = reverse(f"admin:{house.opts.app_label}_{house.opts.model_name}_changelist")
    for _label, query, _is_current in root.get(where).context["tabs"]:
        page = root.get(where + query)
        assert page.status_code == 200
        assert sum(is_current for _label, _query, is_current in page.context["tabs"]) == 1


def test_from_and_to_belong_to_a_range_of_the_readers_days(root: Client) -> None:
    early, late = records.found_break(), records.found_break()
    zone = timezone.get_current_timezone()
    Break.objects.filter(pk=early.pk).update(recorded_at=datetime(2026, 3, 1, 0, 0, tzinfo=zone))
    Break.objects.filter(pk=late.pk).update(recorded_at=datetime(2026, 3, 2, 23, 59, 59, tzinfo=zone))
    for low, high, found in (
        ("2026-03-01", "2026-03-02", 2), ("2026-03-01", "2026-03-01", 1), ("2026-03-02", "", 1), ("", "2026-02-28", 0),
    ):  # fmt: skip
        address = reverse("admin:prepaid_break_changelist")
        page = root.get(address, {"recorded_at_from": low, "recorded_at_to": high, "state__exact": "OPEN"})
        assert page.context["cl"].result_count == found, (low, high)
        assert '<input type="hidden" name="state__exact" value="OPEN">' in page.content.decode()


def test_when_it_was_entered_stands_in_the_identity(root: Client) -> None:
    found = open_many(2)
    today = timezone.localdate()
    day = timedelta(days=1)
    for low, high, count in ((today - day, today + day, 2), (today + day, "", 0), ("", today - day, 0)):
        page = root.get(reverse("admin:prepaid_card_changelist"), {"id_from": low, "id_to": high})
        assert page.context["cl"].result_count == count, (low, high)
    assert len(found) == 2


def test_amounts_are_narrowed_in_yuan(root: Client) -> None:
    program = records.insured_program()
    for rows in (1, 2):
        records.batch(program, made_by=records.staff("first-clerk"), rows=rows)
    address = reverse("admin:issuing_batch_changelist")
    for low, high, found in (("1000", "2,000.00", 2), ("1000.01", "", 1), ("", "¥1000", 1), ("2000.01", "", 0)):
        page = root.get(address, {"good_amount_from": low, "good_amount_to": high})
        assert page.context["cl"].result_count == found, (low, high)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("good_amount_from", text)
        for text in ("x", "1e400", "NaN", "-1", "１２", "0.001", "9" * 40, "٣")
    ]
    + [
        ("id_to", text)
        for text in ("x", "2026-02-30", "２０２６-01-01", "0001-01-01", "9999-12-31", "01/02/2026", "2026-3-1", "1e400")
    ],
)  # fmt: skip
def test_a_range_that_cannot_be_read_is_told_and_shows_nothing(root: Client, name: str, text: str) -> None:
    records.batch(records.insured_program(), made_by=records.staff("first-clerk"))
    page = root.get(reverse("admin:issuing_batch_changelist"), {name: text})
    assert page.status_code == 200
    assert page.context["cl"].ranges.errors.keys() == {name}
    assert page.context["cl"].result_count == 0
    assert "Nothing is shown until this can be read." in page.content.decode()


def test_a_list_says_what_it_adds_up_to(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_many(3)
    processing.freeze(card=found[0], reason="x", by="staff:x", now=timezone.now())
    address = reverse("admin:prepaid_card_changelist")
    assert "¥2,997.00" in root.get(address).content.decode()
    page = root.get(address, {"state__exact": "FROZEN"})
    assert [str(sum) for _label, sum in page.context["totals"]["sums"]] == ['<span class="figure">¥999.00</span>']
    policies = root.get(reverse("admin:insurance_policy_changelist"))
    assert [str(label) for label, _sum in policies.context["totals"]["sums"]] == ["sum insured", "premium"]
    monkeypatch.setattr(backoffice, "MOST_SUMMED", 2)
    assert "more than 2 rows" in root.get(address).content.decode()


@pytest.mark.parametrize(
    "house", [one for one in admin.site._registry.values() if isinstance(one, House) and one.ranges]
)
def test_every_range_of_every_list_can_be_asked_for(root: Client, house: House) -> None:
    where = reverse(f"admin:{house.opts.app_label}_{house.opts.model_name}_changelist")
    for name in house.ranges:
        low, high = ("1", "2") if name in house.money else ("2026-01-01", "2026-01-31")
        page = root.get(where, {f"{name}_from": low, f"{name}_to": high})
        assert (page.status_code, page.context["cl"].ranges.errors) == (200, {})
