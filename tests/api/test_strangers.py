"""What is another merchant's is not there: every address, asked by a stranger, byte for byte."""

from datetime import timedelta

import pytest
from django.utils import timezone

from config.ids import new_id, public_id
from insurance.models import Policy
from issuing import numbering, webhooks
from issuing.models import Kind
from points.models import Coupon
from prepaid.models import Card
from tests import cards, invariants
from tests import points_world as world
from tests.api.asking import without_id
from tests.api.routes import ROUTES, SANDBOX

pytestmark = pytest.mark.django_db

CARD_POSTS = {
    "top-ups": {"prepaid_amount": 100, "reference": "TOP-1"},
    "payments": {"list_amount": 1, "reference": "ORDER-1"},
    "freeze": {"reason": "none"},
    "unfreeze": {"reason": "none"},
    "report-lost": {"reason": "none"},
    "replace": {"reason": "none"},
    "close": {"reason": "none"},
}


PREFIXES = ("prg", "crd", "txn", "pol", "cpr", "quo", "exc", "cpn", "evt", "whe", "whd")
HOOK_POSTS = {
    "ping": {},
    "rotate-secret": {},
    "resend": {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"},
    "pause": {},
    "resume": {},
    "remove": {},
}


@pytest.fixture
def owned(lotus) -> dict[str, str]:
    """One of everything that the merchant owns."""
    program = cards.program(Kind.BONUS, merchant=lotus.merchant)
    order = {
        "program": public_id("prg", program.pk),
        "prepaid_amount": 100_000,
        "holder": {"name": "王小明", "phone": "13912342893"},
        "reference": "PUR-1",
        "payment_method": "WECHAT",
    }
    card = lotus.post("cards", order).json()
    payment = lotus.post(f"cards/{card['id']}/payments", {"list_amount": 100, "reference": "ORDER-0"}).json()
    Policy.objects.update(state="ACCEPTED", policy_no="HT-1", accepted_at=timezone.now())
    tea = world.product(merchant=lotus.merchant)
    world.ratio(tea)
    exchange = world.issued(tea, 3)
    Coupon.objects.update(expires_at=timezone.now() + timedelta(days=1))
    quote = {"points_account": "6225000026000000", "coupon_product": public_id("cpr", tea.pk), "count": 1}
    quoted = lotus.post("exchange-quotes", quote).json()
    hook, _secret = webhooks.add(
        merchant=lotus.merchant, url="https://93.184.216.34/", types=[], is_live=False, by="test", now=timezone.now()
    )
    told = webhooks.ping(endpoint=hook, now=timezone.now())
    return {
        "evt": public_id("evt", told.event_id),
        "whe": public_id("whe", hook.pk),
        "whd": public_id("whd", told.pk),
        "cpr": quote["coupon_product"],
        "quo": quoted["id"],
        "exc": public_id("exc", exchange.pk),
        "cpn": public_id("cpn", exchange.coupons.get(ordinal=1).pk),
        "prg": order["program"],
        "crd": card["id"],
        "txn": payment["id"],
        "pol": card["policy"]["id"],
        "number": numbering.unseal(Card.objects.get().number_sealed),
    }


def asked(owned: dict[str, str]) -> list[tuple[str, str, dict | None]]:
    """Every address with an id in it, or in its body."""
    return [
        ("GET", f"programs/{owned['prg']}", None),
        ("POST", "cards/quote", {"program": owned["prg"], "prepaid_amount": 100}),
        (
            "POST",
            "cards",
            {"program": owned["prg"], "prepaid_amount": 100, "reference": "PUR-2", "payment_method": "WECHAT"},
        ),
        ("POST", "cards/lookup", {"number": owned["number"]}),
        ("GET", f"cards/{owned['crd']}", None),
        ("GET", f"cards/{owned['crd']}/consumption", None),
        ("GET", f"cards/{owned['crd']}/valuation?cause=CONSUMER", None),
        *(("POST", f"cards/{owned['crd']}/{verb}", body) for verb, body in CARD_POSTS.items()),
        ("GET", f"transactions/{owned['txn']}", None),
        ("POST", f"transactions/{owned['txn']}/refunds", {"reference": "BACK-1"}),
        ("POST", f"transactions/{owned['txn']}/reversals", {"reference": "UNDO-1"}),
        (
            "POST",
            "exchange-quotes",
            {"points_account": "6225000026000000", "coupon_product": owned["cpr"], "count": 1},
        ),
        ("POST", "exchanges", {"quote": owned["quo"], "reference": "EX-1"}),
        ("GET", f"exchanges/{owned['exc']}", None),
        ("POST", f"exchanges/{owned['exc']}/returns", {"coupons": [owned["cpn"]]}),
        ("GET", f"policies/{owned['pol']}", None),
        ("GET", f"policies/{owned['pol']}/certificate", None),
        ("GET", f"events/{owned['evt']}", None),
        ("GET", f"webhook-endpoints/{owned['whe']}", None),
        ("POST", f"webhook-endpoints/{owned['whe']}", {"description": "mine"}),
        *(("POST", f"webhook-endpoints/{owned['whe']}/{verb}", body) for verb, body in HOOK_POSTS.items()),
        ("GET", f"webhook-deliveries/{owned['whd']}", None),
        ("POST", f"webhook-deliveries/{owned['whd']}/resend", {}),
    ]


def test_what_is_anothers_and_what_does_not_exist_are_one_answer(owned, stranger):
    nothing = {prefix: public_id(prefix, new_id()) for prefix in PREFIXES}
    unknown = asked({**nothing, "number": numbering.new_number()})
    malformed = asked({
        "prg": "1", "crd": "crd_x", "txn": "crd_x", "pol": "%00x".replace("%00", "-"), "number": "1", "cpr": "x",
        "quo": "quo_", "exc": "exc_x", "cpn": "crd_x", "evt": "evt_x", "whe": "whd_x", "whd": "x",
    })  # fmt: skip
    before = invariants.picture()
    for foreign, absent, nonsense in zip(asked(owned), unknown, malformed, strict=True):
        answers = {without_id(stranger.ask(*question)) for question in (foreign, absent, nonsense)}
        assert len(answers) == 1, foreign
        assert stranger.ask(*foreign).status_code == 404, foreign
    assert invariants.picture() == before


@pytest.mark.django_db(transaction=True)  # an event that is not committed is nobody's yet
def test_the_owner_is_answered_at_every_one_of_these_addresses(owned, lotus):
    # Otherwise the test above would pass for addresses that answer nobody.
    for question in asked(owned):
        answer = lotus.ask(*question)
        assert answer.status_code != 404, (question, answer.content)


def test_lists_hold_nothing_of_anothers(owned, stranger):
    for path in (
        "programs",
        "cards",
        "transactions",
        "policies",
        "claims",
        "coupon-products",
        f"cards?program={owned['prg']}",
        "cards?reference=PUR-1",
        f"transactions?card={owned['crd']}",
        f"policies?card={owned['crd']}",
        "events",
        "webhook-endpoints",
        "webhook-deliveries",
        f"webhook-deliveries?endpoint={owned['whe']}",
        f"webhook-deliveries?event={owned['evt']}",
    ):
        assert stranger.get(path).json() == {"data": [], "next_cursor": None, "has_more": False}, path
    assert Policy.objects.exists()


LISTS = {
    "programs", "cards", "transactions", "policies", "claims", "coupon-products", "events", "webhook-endpoints",
    "webhook-deliveries",
}  # fmt: skip
# A foreign coupon code is refused as a wrong one is, see test_coupons.
ASKED_ELSEWHERE = {"claims/<str:claim_id>", "coupons/redeem", "errors", "docs", "openapi.json"}


def test_every_address_was_asked(owned):
    """An address added later fails here until it is asked as the stranger."""
    names = {owned["prg"]: "<str:program_id>", owned["crd"]: "<str:card_id>", owned["txn"]: "<str:transaction_id>",
             owned["pol"]: "<str:policy_id>", owned["exc"]: "<str:exchange_id>", owned["evt"]: "<str:event_id>",
             owned["whe"]: "<str:endpoint_id>", owned["whd"]: "<str:delivery_id>"}  # fmt: skip
    seen = set(LISTS | ASKED_ELSEWHERE)
    for _method, path, _body in asked(owned):
        for identity, name in names.items():
            path = path.partition("?")[0].replace(identity, name)
        seen.add(path)
    assert seen == {route.route for route in ROUTES if route not in SANDBOX}  # those: see test_sandbox
