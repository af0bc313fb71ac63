"""Lists ask the database as often for fifty rows as for one, and find what somebody means by looking it up."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from claims.models import Claim
from config.admin import Pages
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
    for text in (reference, policy.policy_no, public_id("crd", mine.pk)):
        assert found(root, "prepaid_card", str(text)) == [str(mine.pk)], text
    assert str(mine.pk) in found(root, "prepaid_card", mine.last4)
    assert str(mine.pk) in found(root, "prepaid_card", "13800000001")
    # What stands in an address stands in logs: a full number is looked up by the search of the house alone.
    for text in (number, number[:-1] + "x", reference[:-1] + "?", "1380000000", mine.number_hash):
        assert found(root, "prepaid_card", text) == [], text


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
        listed = page.context["cl"].result_count if "cl" in page.context else len(page.context["items"])
        assert listed == need.count, need.label


def test_what_waits_for_others_is_told_apart(at_desk: Any) -> None:
    records.batch(records.insured_program(), made_by=User.objects.create_user("maker"))
    for role, mine, others in (("approver", 1, 0), ("clerk", 0, 1), ("auditor", 0, 1)):
        page = at_desk(role).get(reverse("admin:index")).context
        assert sum(need.count for need in page["needs"] if str(need.label) == "batches to approve") == mine
        assert sum(need.count for need in page["others"] if str(need.label) == "batches to approve") == others
