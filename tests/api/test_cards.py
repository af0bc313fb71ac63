"""Cards: quoted, opened, found, topped up, held and ended."""

from datetime import timedelta

import pytest
from django.utils import timezone

from config.ids import public_id
from insurance.models import Endorsement, Policy
from issuing import numbering
from issuing.models import CardProgram, Kind
from prepaid.models import Card, CardMove, Load
from tests import cards

pytestmark = pytest.mark.django_db

HOLDER = {"name": "王小明", "phone": "13912342893"}


@pytest.fixture
def program(merchant) -> CardProgram:
    return cards.program(Kind.BONUS, merchant=merchant, card_limit=100_000, tiers=[(1_000_000, 200_000)], term_days=180)


def order(program: CardProgram, **facts) -> dict:
    return {
        "program": public_id("prg", program.pk),
        "prepaid_amount": 1_234_567,
        "holder": HOLDER,
        "reference": cards.reference("PUR"),
        "payment_method": "WECHAT",
        **facts,
    }


@pytest.fixture
def card(lotus, program) -> dict:
    return lotus.post("cards", order(program)).json()


def refused(answer, status: int, code: str) -> dict:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.content
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["Request-Id"]
    return answer.json()


# Quoting


def test_a_quote_says_how_an_amount_would_be_split_and_does_nothing(lotus, program):
    answer = lotus.post(
        "cards/quote", {"program": public_id("prg", program.pk), "prepaid_amount": 1_234_567}, Idempotency_Key=None
    )
    assert answer.status_code == 200
    body = answer.json()
    assert (body["bonus"], body["unit"], body["face"]) == (200_000, "MONEY", 1_434_567)
    assert [part["paid"] for part in body["sub_cards"]] == [100_000] * 12 + [34_567]
    assert [part["face"] for part in body["sub_cards"]] == [116_200] * 12 + [40_167]
    assert (body["sum_insured"], body["premium"], body["term_days"]) == (1_234_567, 7_306, 180)
    assert not Card.objects.exists()


def test_what_is_opened_is_what_was_quoted(lotus, program):
    quoted = lotus.post("cards/quote", {"program": public_id("prg", program.pk), "prepaid_amount": 1_234_567}).json()
    card = lotus.post("cards", order(program)).json()
    assert [
        {"seq": part["seq"], "paid": part["paid"], "face": part["face"]} for part in card["loads"][0]["sub_cards"]
    ] == quoted["sub_cards"]


# Opening


def test_a_card_is_opened_split_linked_and_owed_cover(lotus, program):
    answer = lotus.post("cards", order(program))
    assert answer.status_code == 201, answer.content
    body = answer.json()
    row = Card.objects.get()
    policy = Policy.objects.get()
    assert body == {
        "id": public_id("crd", row.pk),
        "last4": row.last4,
        "program": public_id("prg", program.pk),
        "kind": "BONUS",
        "state": "ACTIVE",
        "currency": "CNY",
        "network_account": public_id("net", row.network_account_id),
        "holder": {"name": "王*", "phone": "139****2893"},
        "balance": {"unit": "MONEY", "usable": 1_434_567, "refundable_principal": 1_234_567},
        "loads": [
            {
                "id": public_id("lod", Load.objects.get().pk),
                "paid": 1_234_567,
                "face": 1_434_567,
                "remaining": 1_434_567,
                "sub_cards": [
                    {"seq": seq, "paid": 100_000, "face": 116_200, "remaining": 116_200} for seq in range(1, 13)
                ]
                + [{"seq": 13, "paid": 34_567, "face": 40_167, "remaining": 40_167}],
            }
        ],
        "policy": {
            "id": public_id("pol", policy.pk),
            "state": "PENDING",
            "policy_no": None,
            "sum_insured": 1_234_567,
            "premium": 7_306,
        },
        "created_at": body["created_at"],
    }


def test_the_number_of_a_card_stands_in_no_answer(lotus, card):
    number = numbering.unseal(Card.objects.get().number_sealed)
    for answer in (
        lotus.get("cards"),
        lotus.get(f"cards/{card['id']}"),
        lotus.post("cards/lookup", {"number": number}),
    ):
        assert answer.status_code == 200
        assert number not in answer.content.decode()
        assert HOLDER["phone"] not in answer.content.decode()


def test_an_unnamed_card_needs_no_holder_below_the_threshold(lotus):
    program = cards.program(Kind.BONUS, merchant=lotus.merchant, named=False)
    body = order(program, prepaid_amount=999_999)
    del body["holder"]
    card = lotus.post("cards", body).json()
    assert card["holder"] == {"name": None, "phone": None}
    # The regulated limit of an unnamed card is 1,000.00.
    assert [part["paid"] for part in card["loads"][0]["sub_cards"]] == [100_000] * 9 + [99_999]
    refused(lotus.post("cards", body | {"prepaid_amount": 1_000_000, "reference": "PUR-X"}), 422, "IdentityNeeded")


def test_a_card_of_uses_has_one_price(lotus):
    program = cards.program(Kind.TIMES, merchant=lotus.merchant)
    refused(lotus.post("cards", order(program, prepaid_amount=99_999)), 422, "WrongPrice")
    card = lotus.post("cards", order(program, prepaid_amount=100_000)).json()
    assert card["balance"] == {"unit": "USES", "usable": 12, "refundable_principal": 100_000}


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"holder": {}}, 422, "HolderNeeded"),
        ({"holder": {"name": "=1+1", "phone": "13912342893"}}, 422, "HolderNameNotReadable"),
        ({"holder": {"name": "王小明", "phone": "123"}}, 422, "PhoneNotReadable"),
        ({"holder": {**HOLDER, "id_number": "123"}}, 422, "IdNumberNotReadable"),
        ({"payment_method": "SHELLS"}, 422, "PaymentMethodUnknown"),
        ({"prepaid_amount": 5_000_000, "payment_method": "CASH"}, 422, "CashNotAllowed"),
        ({"prepaid_amount": 10**15}, 422, "TooManySubCards"),
        ({"prepaid_amount": 10**15 + 1}, 400, "InvalidInput"),
        ({"prepaid_amount": 0}, 400, "InvalidInput"),
        ({"prepaid_amount": -5}, 400, "InvalidInput"),
        ({"program": "prg_0"}, 404, "ProgramNotFound"),
        ({"program": "prg_" + "0" * 32}, 404, "ProgramNotFound"),
    ],
)
def test_an_order_that_may_not_be_sold_is_refused_by_name_and_leaves_nothing(lotus, program, change, status, code):
    refused(lotus.post("cards", {**order(program), **change}), status, code)
    assert not Card.objects.exists()


def test_a_reference_is_used_once_and_the_refusal_names_the_first(lotus, program):
    body = order(program)
    lotus.post("cards", body)
    problem = refused(lotus.post("cards", body), 409, "ReferenceUsed")
    assert problem["first"] == public_id("txn", Load.objects.get().pk)
    assert problem["first"] in problem["detail"]


def test_another_merchant_may_use_the_same_reference(lotus, stranger, program):
    body = order(program)
    assert lotus.post("cards", body).status_code == 201
    theirs = cards.program(Kind.BONUS, merchant=stranger.merchant)
    answer = stranger.post("cards", {**body, "program": public_id("prg", theirs.pk)})
    assert answer.status_code == 201, answer.content


# Finding


def test_a_card_is_found_by_its_number(lotus, card):
    number = numbering.unseal(Card.objects.get().number_sealed)
    answer = lotus.post("cards/lookup", {"number": number}, Idempotency_Key=None)
    assert (answer.status_code, answer.json()) == (200, card)


@pytest.mark.parametrize("number", ["9156000000000000000", "x", "9" * 32])
def test_an_unknown_number_is_not_found(lotus, card, number):
    refused(lotus.post("cards/lookup", {"number": number}), 404, "CardNotFound")


def test_cards_are_listed_by_what_is_asked_for(lotus, program, card):
    other = lotus.post("cards", order(cards.program(Kind.DISCOUNT, merchant=lotus.merchant), prepaid_amount=5)).json()
    lotus.post(f"cards/{other['id']}/freeze", {"reason": "asked for"})
    reference = Load.objects.get(card__kind="BONUS").reference
    for query, expected in {
        "": [other["id"], card["id"]],
        "?kind=BONUS": [card["id"]],
        "?state=FROZEN": [other["id"]],
        f"?program={card['program']}": [card["id"]],
        f"?network_account={card['network_account']}": [other["id"], card["id"]],
        f"?reference={reference}": [card["id"]],
        "?created_at_after=2090-01-01T00:00:00Z": [],
        "?created_at_before=2090-01-01T00:00:00%2B08:00&kind=DISCOUNT": [other["id"]],
    }.items():
        assert [row["id"] for row in lotus.get(f"cards{query}").json()["data"]] == expected, query


# Topping up


def test_a_top_up_is_a_load_of_its_own_and_owes_an_endorsement(lotus, card):
    answer = lotus.post(f"cards/{card['id']}/top-ups", {"prepaid_amount": 150_000, "reference": "TOP-1"})
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert [load["paid"] for load in body["loads"]] == [1_234_567, 150_000]
    assert [part["seq"] for part in body["loads"][1]["sub_cards"]] == [14, 15]
    assert body["balance"] == {"unit": "MONEY", "usable": 1_584_567, "refundable_principal": 1_384_567}
    assert Endorsement.objects.get().amount == 150_000
    assert Load.objects.get(reference="TOP-1").payment_method == "WECHAT"


def test_a_top_up_reference_is_used_once(lotus, card):
    body = {"prepaid_amount": 100, "reference": "TOP-1", "payment_method": "CASH"}
    assert lotus.post(f"cards/{card['id']}/top-ups", body).status_code == 201
    refused(lotus.post(f"cards/{card['id']}/top-ups", body), 409, "ReferenceUsed")


# Holding and ending


def test_a_frozen_card_is_not_spent_from_until_it_is_unfrozen(lotus, card):
    path = f"cards/{card['id']}"
    assert lotus.post(f"{path}/freeze", {"reason": "the holder asked"}).json()["state"] == "FROZEN"
    refused(lotus.post(f"{path}/payments", {"list_amount": 1, "reference": "ORDER-1"}), 409, "CardNotActive")
    refused(lotus.post(f"{path}/freeze", {"reason": "again"}), 409, "IllegalMove")
    assert lotus.post(f"{path}/unfreeze", {"reason": "found it"}).json()["state"] == "ACTIVE"
    assert lotus.post(f"{path}/payments", {"list_amount": 1, "reference": "ORDER-1"}).status_code == 201
    moves = CardMove.objects.order_by("pk").values_list("to_state", "reason", "by")
    assert list(moves) == [
        ("FROZEN", "the holder asked", f"key:till …{lotus.key[-4:]}"),
        ("ACTIVE", "found it", f"key:till …{lotus.key[-4:]}"),
    ]


def test_a_lost_card_is_replaced_and_its_old_number_is_dead(lotus, card):
    number = numbering.unseal(Card.objects.get().number_sealed)
    assert lotus.post(f"cards/{card['id']}/report-lost", {"reason": "on the bus"}).json()["state"] == "LOST"
    replaced = lotus.post(f"cards/{card['id']}/replace", {"reason": "on the bus"}).json()
    assert (replaced["state"], replaced["balance"]) == ("ACTIVE", card["balance"])
    refused(lotus.post("cards/lookup", {"number": number}), 404, "CardNotFound")


def test_closing_says_what_is_due_to_the_holder_and_cancels_the_cover(lotus, card):
    lotus.post(f"cards/{card['id']}/payments", {"list_amount": 434_567, "reference": "ORDER-1"})
    closed = lotus.post(f"cards/{card['id']}/close", {"reason": "the holder asked"}).json()
    assert closed["state"] == "CLOSED"
    assert closed["balance"] == {"unit": "MONEY", "usable": 0, "refundable_principal": 0}
    # 12,345.67 × 10,000.00 / 14,345.67
    assert closed["refund_due"] == 860_585
    assert Endorsement.objects.get().kind == Endorsement.Kind.CANCELLATION


# As at a moment


def test_the_consumption_information_is_as_at_a_moment(lotus, program):
    card = cards.opened(program, 100_000, gift=20_000, at=cards.OPENED)
    first = cards.paid(card, 45_000, at=cards.day(10))
    cards.refunded(first, amount=5_000, at=cards.day(20))
    path = f"cards/{public_id('crd', card.pk)}/consumption"
    then = lotus.get(f"{path}?at=2026-01-11T09:00:00%2B08:00").json()
    assert then["balance"] == {"unit": "MONEY", "usable": 75_000, "refundable_principal": 62_500}
    assert [(row["kind"], row["amount"], row["refunded"]) for row in then["transactions"]] == [
        ("PURCHASE", 120_000, 0),
        ("PAYMENT", 45_000, 0),
    ]
    now = lotus.get(path).json()
    assert [(row["kind"], row["amount"], row["refunded"]) for row in now["transactions"]] == [
        ("PURCHASE", 120_000, 0),
        ("PAYMENT", 45_000, 5_000),
        ("REFUND", 5_000, 0),
    ]
    # A plus sign that nobody escaped is understood.
    assert lotus.get(f"{path}?at=2026-01-11T09:00:00+08:00").json() == then


def test_the_valuation_shows_its_calculation_for_both_causes(lotus, program):
    card = cards.opened(program, 100_000, gift=20_000, at=cards.OPENED)
    cards.paid(card, 45_000, at=cards.day(10))
    path = f"cards/{public_id('crd', card.pk)}/valuation?at=2026-02-01T00:00:00%2B08:00"
    operator = lotus.get(path).json()
    assert (operator["usable"], operator["refundable_principal"], operator["used"]) == (75_000, 62_500, 37_500)
    assert operator["loads"] == [
        {"load": "1", "paid": 100_000, "face": 120_000, "remaining": 75_000, "spent": None, "refundable": "62500"}
    ]
    consumer = lotus.get(f"{path}&cause=CONSUMER").json()
    assert (consumer["cause"], consumer["refundable_principal"]) == ("CONSUMER", 55_000)


def test_an_entitlement_is_worth_its_days_not_yet_served(lotus, merchant):
    program = cards.program(Kind.ENTITLEMENT, merchant=merchant)
    card = cards.opened(program, 99_900, at=cards.OPENED)
    found = lotus.get(f"cards/{public_id('crd', card.pk)}/valuation?at=2026-05-15T12:00:00%2B08:00").json()
    assert (found["unit"], found["usable"], found["refundable_principal"]) == ("DAYS", 231, 63_224)


@pytest.mark.parametrize(
    "at",
    [
        "yesterday", "2026-05-15", "2026-05-15T12:00:00", "2026-02-30T12:00:00Z", "2026-05-15T24:00:00Z",
        "2026-05-15T12:00:60Z", "1026-05-15T12:00:00Z", "9999-12-31T23:59:59-23:59", "２０26-05-15T12:00:00Z",
        "2026-05-15T12:00:00%2B99:00", "2026-05-15T12:00:00Z%00",
    ],
)  # fmt: skip
def test_a_moment_that_is_none_is_refused(lotus, card, at):
    problem = refused(lotus.get(f"cards/{card['id']}/consumption?at={at}"), 400, "InvalidInput")
    assert [(fault["pointer"], fault["code"]) for fault in problem["errors"]] == [("?at", "NotAMoment")]


def test_a_payment_that_occurred_tomorrow_has_not(lotus, card):
    tomorrow = (timezone.now() + timedelta(days=1)).isoformat()
    body = {"list_amount": 1, "reference": "ORDER-1", "occurred_at": tomorrow}
    refused(lotus.post(f"cards/{card['id']}/payments", body), 422, "OccursInFuture")
