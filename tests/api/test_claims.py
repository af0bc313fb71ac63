"""Claims: notice of loss for one card, and the calculation sheet."""

from datetime import date
from decimal import Decimal

import pytest

from claims import adjudication
from claims.models import Claim
from config.ids import public_id
from issuing.models import Kind
from prepaid.models import Card
from tests import cards, failures

pytestmark = pytest.mark.django_db


@pytest.fixture
def card(lotus) -> Card:
    """1,000.00 paid and 200.00 given, 450.00 of it spent: 625.00 are owed back."""
    opened = cards.opened(cards.program(Kind.BONUS, merchant=lotus.merchant), 100_000, gift=20_000)
    cards.paid(opened, 45_000)
    terms = failures.product(lotus.merchant, deductible_rate=Decimal("0.1"), valid_from_date=date(2025, 6, 1))
    failures.covered(opened, terms=terms)
    return opened


def notice(card: Card, reference: str = "CLAIM-1") -> dict[str, str]:
    return {"card": public_id("crd", card.pk), "reference": reference}


def test_a_claim_is_filed_freezes_the_card_and_is_there(lotus, card):
    failures.failed(lotus.merchant)
    answer = lotus.post("claims", notice(card))
    assert answer.status_code == 201, answer.content
    claim = Claim.objects.get()
    body = answer.json()
    assert body == {
        "id": public_id("clm", claim.pk),
        "card": public_id("crd", card.pk),
        "policy": public_id("pol", claim.policy_id),
        "kind": "ORIGINAL",
        "supplements": None,
        "state": "FILED",
        "reference": "CLAIM-1",
        "event": {"trigger": "CLOSED_DOWN", "loss_date": "2026-05-20"},
        "currency": "CNY",
        "loss": None,
        "legal_entitlement": None,
        "compensation": None,
        "reason": None,
        "created_at": body["created_at"],
        "assessed_at": None,
        "decided_at": None,
        "paid_at": None,
        "worksheet": None,
    }
    assert claim.filed_by == f"key:till …{lotus.key[-4:]}"
    assert lotus.get(f"cards/{body['card']}").json()["state"] == "CLAIMED"
    assert lotus.get(f"claims/{body['id']}").json() == body


def test_the_calculation_sheet_comes_with_the_assessment(lotus, card):
    failures.failed(lotus.merchant)
    filed = lotus.post("claims", notice(card)).json()
    adjudication.assess(claim=Claim.objects.get(), by=failures.staff("adjuster"), now=failures.NOW)
    body = lotus.get(f"claims/{filed['id']}").json()
    assert (body["state"], body["loss"], body["compensation"]) == ("ASSESSED", 62_500, 56_250)
    assert body["worksheet"]["payable"] == 56_250
    assert body["legal_entitlement"] >= 62_500
    # What was answered first is still the answer to that request.
    again = lotus.post("claims", notice(card), Idempotency_Key="k-2")
    assert (again.status_code, again.json()["code"]) == (409, "ReferenceUsed")


def test_a_claim_sent_again_is_answered_again_and_filed_once(lotus, card):
    failures.failed(lotus.merchant)
    first = lotus.post("claims", notice(card), Idempotency_Key="k-1")
    again = lotus.post("claims", notice(card), Idempotency_Key="k-1")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert Claim.objects.count() == 1


def test_a_claim_needs_a_confirmed_event_a_card_and_a_reference_of_its_own(lotus, stranger, card):
    def refused(body: dict[str, str], asker=lotus) -> tuple[int, str]:
        answer = asker.post("claims", body)
        return answer.status_code, answer.json()["code"]

    assert refused(notice(card)) == (409, "NoInsuredEvent")
    failures.failed(lotus.merchant)
    assert refused({"card": "crd_1", "reference": "CLAIM-1"}) == (404, "CardNotFound")
    assert refused(notice(card), stranger) == (404, "CardNotFound")
    assert refused({"card": public_id("crd", card.pk)}) == (400, "InvalidInput")
    filed = lotus.post("claims", notice(card)).json()
    assert refused(notice(card, "CLAIM-2")) == (409, "AlreadyClaimed")
    other = cards.opened(cards.program(Kind.BONUS, merchant=lotus.merchant))
    answer = lotus.post("claims", notice(other))
    assert (answer.status_code, answer.json()["code"], answer.json()["first"]) == (409, "ReferenceUsed", filed["id"])
    assert Claim.objects.count() == 1


def test_a_strangers_claim_is_not_there(lotus, stranger, card):
    failures.failed(lotus.merchant)
    filed = lotus.post("claims", notice(card)).json()
    answer = stranger.get(f"claims/{filed['id']}")
    unknown = stranger.get("claims/clm_" + "0" * 32)
    assert (answer.status_code, answer.json() | {"request_id": ""}) == (404, unknown.json() | {"request_id": ""})
    assert stranger.get("claims").json()["data"] == []


def test_claims_are_listed_by_what_is_asked_for(lotus, card):
    failures.failed(lotus.merchant)
    filed = lotus.post("claims", notice(card)).json()
    del filed["worksheet"]  # only of one claim
    for query, expected in {
        "": [filed],
        "?state=FILED&kind=ORIGINAL": [filed],
        "?state=PAID": [],
        f"?card={filed['card']}": [filed],
        "?reference=CLAIM-1": [filed],
        "?reference=CLAIM-2": [],
        "?created_at_after=2090-01-01T00:00:00Z": [],
    }.items():
        assert lotus.get(f"claims{query}").json()["data"] == expected, query
