"""Payments, refunds and reversals, and the list of what happened."""

from decimal import Decimal

import pytest

from config.ids import public_id
from issuing.models import Kind
from tests import cards, invariants

pytestmark = pytest.mark.django_db


@pytest.fixture
def card(lotus) -> str:
    """A discount card with 1,000.00 at 0.8."""
    opened = cards.opened(cards.program(Kind.DISCOUNT, merchant=lotus.merchant, rate=Decimal("0.8")), 100_000)
    return public_id("crd", opened.pk)


def paid(lotus, card: str, list_amount: int = 50_000, reference: str = "ORDER-1", **facts) -> dict:
    answer = lotus.post(f"cards/{card}/payments", {"list_amount": list_amount, "reference": reference, **facts})
    assert answer.status_code == 201, answer.content
    return answer.json()


def test_a_payment_answers_what_was_charged_and_what_is_left(lotus, card):
    body = paid(lotus, card, store="S-01")
    assert body == {
        "id": body["id"],
        "card": card,
        "kind": "PAYMENT",
        "original": None,
        "reference": "ORDER-1",
        "store": "S-01",
        "unit": "MONEY",
        "list_amount": 50_000,
        "charged_amount": 40_000,
        "amount": 40_000,
        "refunded": 0,
        "occurred_at": body["recorded_at"],
        "recorded_at": body["recorded_at"],
        "balance": {"unit": "MONEY", "usable": 60_000, "refundable_principal": 60_000},
        "entries": [{"sub_card": 1, "amount": -40_000, "balance_after": 60_000}],
    }
    assert body["id"].startswith("txn_")
    assert body["recorded_at"].endswith("+08:00")
    assert lotus.get(f"transactions/{body['id']}").json() == body
    invariants.hold()


def test_uses_are_drawn_from_a_times_card(lotus):
    opened = cards.opened(cards.program(Kind.TIMES, merchant=lotus.merchant), 100_000)
    answer = lotus.post(f"cards/{public_id('crd', opened.pk)}/payments", {"uses": 5, "reference": "ORDER-1"})
    assert answer.json()["balance"] == {"unit": "USES", "usable": 7, "refundable_principal": 58_333}


def test_the_use_of_an_entitlement_keeps_list_and_paid_price_and_moves_no_value(lotus):
    opened = cards.opened(cards.program(Kind.ENTITLEMENT, merchant=lotus.merchant), 99_900)
    body = paid(lotus, public_id("crd", opened.pk), occurred_at="2026-05-15T10:00:00+08:00")
    assert (body["unit"], body["list_amount"], body["charged_amount"], body["amount"]) == ("DAYS", 50_000, 40_000, 0)
    assert (body["entries"], body["occurred_at"]) == ([], "2026-05-15T10:00:00+08:00")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"list_amount": 125_002}, 409, "InsufficientBalance"),
        ({"uses": 1}, 422, "WrongUnit"),
        ({}, 422, "WrongUnit"),
        ({"list_amount": 1, "uses": 1}, 422, "WrongUnit"),
        ({"list_amount": 1, "occurred_at": "2025-12-31T00:00:00+08:00"}, 422, "BeforeOpening"),
    ],
)
def test_a_refused_payment_has_a_name_and_changes_nothing(lotus, card, body, status, code):
    before = invariants.picture()
    answer = lotus.post(f"cards/{card}/payments", {"reference": "ORDER-1", **body})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert invariants.picture() == before


def test_a_payment_is_given_back_in_part_and_then_whole_and_no_further(lotus, card):
    payment = paid(lotus, card)
    path = f"transactions/{payment['id']}/refunds"
    first = lotus.post(path, {"amount": 10_000, "reference": "BACK-1"})
    assert first.status_code == 201
    assert (first.json()["kind"], first.json()["original"], first.json()["amount"]) == ("REFUND", payment["id"], 10_000)
    assert lotus.get(f"transactions/{payment['id']}").json()["refunded"] == 10_000
    assert lotus.post(path, {"amount": 30_001, "reference": "BACK-2"}).json()["code"] == "RefundExceedsPayment"
    assert lotus.post(path, {"reference": "BACK-2"}).json()["amount"] == 30_000
    assert lotus.post(path, {"reference": "BACK-3"}).json()["code"] == "NothingLeftToRefund"
    invariants.hold()


def test_a_payment_is_reversed_whole(lotus, card):
    payment = paid(lotus, card)
    answer = lotus.post(f"transactions/{payment['id']}/reversals", {"reference": "UNDO-1"})
    assert (answer.status_code, answer.json()["kind"], answer.json()["amount"]) == (201, "REVERSAL", 40_000)
    assert answer.json()["balance"]["usable"] == 100_000


def test_a_reference_is_used_once_per_kind_and_the_refusal_names_the_first(lotus, card):
    payment = paid(lotus, card)
    answer = lotus.post(f"cards/{card}/payments", {"list_amount": 1, "reference": "ORDER-1"})
    assert (answer.status_code, answer.json()["code"], answer.json()["first"]) == (409, "ReferenceUsed", payment["id"])
    # A refund may carry the order's own reference.
    assert lotus.post(f"transactions/{payment['id']}/refunds", {"reference": "ORDER-1"}).status_code == 201


def test_transactions_are_listed_by_what_is_asked_for(lotus, card):
    payment = paid(lotus, card, store="S-01", occurred_at="2026-03-01T12:00:00+08:00")
    refund = lotus.post(f"transactions/{payment['id']}/refunds", {"amount": 1, "reference": "BACK-1"}).json()
    for query, expected in {
        "kind=PAYMENT": [payment["id"]],
        "reference=BACK-1": [refund["id"]],
        "store=S-01&kind=PAYMENT": [payment["id"]],
        f"card={card}&kind=REFUND": [refund["id"]],
        f"card=crd_{'0' * 32}": [],
        "occurred_at_after=2026-03-01T12:00:00%2B08:00&occurred_at_before=2026-03-01T12:00:01%2B08:00": [payment["id"]],
        "kind=PAYMENT&created_at_before=2026-03-01T12:00:00Z": [],
    }.items():
        assert [row["id"] for row in lotus.get(f"transactions?{query}").json()["data"]] == expected, query
    listed = {row["id"]: row["refunded"] for row in lotus.get("transactions").json()["data"]}
    assert listed[payment["id"]] == 1
