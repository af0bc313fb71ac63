"""GET /programs and /programs/{id}."""

from decimal import Decimal

import pytest

from config.ids import public_id
from issuing.models import Kind
from tests import cards

pytestmark = pytest.mark.django_db


def test_a_program_says_what_it_sells(lotus):
    program = cards.program(
        Kind.BONUS, merchant=lotus.merchant, tiers=[(100_000, 20_000)], code="LOTUS-BONUS", rate=Decimal("0.9")
    )
    answer = lotus.get(f"programs/{public_id('prg', program.pk)}")
    assert answer.status_code == 200
    body = answer.json()
    assert body["created_at"].endswith("+08:00")
    assert body | {"created_at": ""} == {
        "id": public_id("prg", program.pk),
        "code": "LOTUS-BONUS",
        "name": "",
        "kind": "BONUS",
        "state": "ACTIVE",
        "currency": "CNY",
        "unit": "MONEY",
        "named": True,
        "card_limit": 500_000,
        "limit_basis": "PRINCIPAL",
        "max_sub_cards": 1000,
        "draw_order": "OLDEST",
        "bonus_tiers": [{"from_amount": 100_000, "gift": 20_000}],
        "rate": "0.9",
        "uses": None,
        "single_use_price": None,
        "price": None,
        "term_days": 365,
        "spend_before_cover": True,
        "created_at": "",
    }


def test_programs_are_listed_by_kind_and_only_the_merchants_own(lotus, stranger):
    bonus = cards.program(Kind.BONUS, merchant=lotus.merchant)
    times = cards.program(Kind.TIMES, merchant=lotus.merchant)
    cards.program(Kind.BONUS, merchant=stranger.merchant)
    everything = lotus.get("programs").json()
    assert [row["id"] for row in everything["data"]] == [public_id("prg", times.pk), public_id("prg", bonus.pk)]
    assert (everything["has_more"], everything["next_cursor"]) == (False, None)
    assert [row["id"] for row in lotus.get("programs?kind=BONUS").json()["data"]] == [public_id("prg", bonus.pk)]
