"""GET /policies and /policies/{id}: the cover of a card."""

from datetime import date

import pytest
from django.utils import timezone

from config.ids import public_id
from insurance.models import Endorsement, Policy
from issuing.models import Kind
from tests import cards

pytestmark = pytest.mark.django_db


@pytest.fixture
def card(lotus) -> dict:
    program = cards.program(Kind.BONUS, merchant=lotus.merchant, term_days=180)
    body = {
        "program": public_id("prg", program.pk),
        "prepaid_amount": 1_234_567,
        "holder": {"name": "王小明", "phone": "13912342893"},
        "reference": "PUR-1",
        "payment_method": "WECHAT",
    }
    return lotus.post("cards", body).json()


def test_a_policy_says_what_it_covers_and_how_it_was_changed(lotus, card):
    lotus.post(f"cards/{card['id']}/top-ups", {"prepaid_amount": 100_000, "reference": "TOP-1"})
    now = timezone.now()
    Policy.objects.update(state="ACCEPTED", policy_no="HT-1", accepted_at=now)
    body = lotus.get(f"policies/{card['policy']['id']}").json()
    endorsement = Endorsement.objects.get()
    today = date.fromisoformat(body["cover_from"])
    assert body == {
        "id": card["policy"]["id"],
        "card": card["id"],
        "insurer": "Huatai",
        "product": "PI-1",
        "state": "ACCEPTED",
        "policy_no": "HT-1",
        "currency": "CNY",
        "sum_insured": body["sum_insured"],
        "premium": body["premium"],
        "cover_from": today.isoformat(),
        "cover_to": body["cover_to"],
        "compensated": 0,
        "refusal_code": None,
        "endorsements": [
            {
                "kind": "INCREASE",
                "state": "PENDING",
                "endorsement_no": None,
                "amount": 100_000,
                "premium": endorsement.premium,
                "effective": today.isoformat(),
                "accepted_at": None,
            }
        ],
        "certificate": f"/api/v1/policies/{card['policy']['id']}/certificate",
        "accepted_at": body["accepted_at"],
        "created_at": body["created_at"],
    }
    assert (date.fromisoformat(body["cover_to"]) - today).days == 180
    assert (lotus.get(f"cards/{card['id']}").json()["policy"]["policy_no"]) == "HT-1"


def test_an_accepted_policy_has_a_certificate(lotus, stranger, card):
    path = f"policies/{card['policy']['id']}/certificate"
    assert lotus.get(f"policies/{card['policy']['id']}").json()["certificate"] is None
    assert lotus.get(path).status_code == 404
    Policy.objects.update(state="ACCEPTED", policy_no="HT-1", accepted_at=timezone.now())
    body = lotus.get(path).json()
    assert (body["policy_no"], body["policyholder"], body["insurer"]) == ("HT-1", "Lotus", "Huatai")
    assert (body["insured"], body["card"]["last4"]) == ({"name": "王*", "phone": "139****2893"}, card["last4"])
    assert (body["sum_insured"], body["coverage_ratio"], body["deductible_rate"]) == (1_234_567, "1", "0")
    assert stranger.get(path).status_code == 404


def test_the_card_shows_the_policy_that_lives(lotus, card):
    declined = Policy.objects.get()
    Policy.objects.update(state="DECLINED", refusal_code="R01")
    assert lotus.get(f"cards/{card['id']}").json()["policy"]["state"] == "DECLINED"
    second = Policy.objects.create(
        card_id=declined.card_id,
        merchant=lotus.merchant,
        product=declined.product,
        sum_insured=1,
        premium=1,
        cover_from_date=declined.cover_from_date,
        cover_to_date=declined.cover_to_date,
        recorded_at=timezone.now(),
    )
    assert lotus.get(f"cards/{card['id']}").json()["policy"]["id"] == public_id("pol", second.pk)


def test_policies_are_listed_by_what_is_asked_for(lotus, card):
    [policy] = lotus.get("policies").json()["data"]
    assert policy["id"] == card["policy"]["id"]
    assert lotus.get(f"policies?card={card['id']}&state=PENDING").json()["data"] == [policy]
    assert lotus.get("policies?state=ACCEPTED").json()["data"] == []
    assert lotus.get("policies?created_at_before=2026-01-01T00:00:00Z").json()["data"] == []
