"""Two merchants, every address, every id: what is another's is not there. And no member that is not described.

Addresses, methods and bodies are read off what is served: one that is added later is asked here at once, or fails here
until it is said what to put in the place of its ids and members.
"""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.utils import timezone

from config.ids import new_id, public_id
from insurance.models import Policy
from issuing import numbering, webhooks
from issuing.models import Kind, WebhookEndpoint
from points import coupons
from points.models import Coupon
from prepaid.models import Card
from tests import cards, failures, invariants
from tests import points_world as world
from tests.api.asking import Asker, without_id
from tests.api.routes import ENDPOINTS, Route

pytestmark = pytest.mark.django_db

# What an id in an address, or a member of a body, is an id of.
PREFIXES = {
    "program_id": "prg", "card_id": "crd", "transaction_id": "txn", "policy_id": "pol", "claim_id": "clm",
    "exchange_id": "exc", "program": "prg", "card": "crd", "coupon_product": "cpr", "quote": "quo", "coupons": "cpn",
    "event_id": "evt", "endpoint_id": "whe", "delivery_id": "whd", "endpoint": "whe", "event": "evt",
}  # fmt: skip
PLAIN = {
    "prepaid_amount": 100_000, "payment_method": "WECHAT", "list_amount": 1, "reason": "none", "count": 1,
    "points_account": "6225000026000000", "holder": {"name": "王小明", "phone": "13912342893"},
    "url": "https://93.184.216.34/", "from": "2026-11-01T00:00:00Z", "to": "2026-11-02T00:00:00Z",
}  # fmt: skip
"""Members that name nothing of anybody's."""

SENT_THOUGH_OPTIONAL = {"list_amount", "holder"}


@pytest.fixture
def owned(lotus: Asker) -> dict[str, str]:
    """One of everything that the merchant owns: ids by their prefix, a card's number, a coupon's code."""
    sold = cards.program(Kind.BONUS, merchant=lotus.merchant)
    program = public_id("prg", sold.pk)
    order = {"program": program, "prepaid_amount": 100_000, "reference": "PUR-0", "payment_method": "WECHAT",
             "holder": PLAIN["holder"]}  # fmt: skip
    card = lotus.post("cards", order).json()
    payment = lotus.post(f"cards/{card['id']}/payments", {"list_amount": 100, "reference": "ORDER-0"}).json()
    Policy.objects.update(state="ACCEPTED", policy_no="HT-1", accepted_at=timezone.now())
    tea = world.product(merchant=lotus.merchant)
    world.ratio(tea)
    exchange = world.issued(tea, 3)
    Coupon.objects.update(expires_at=timezone.now() + timedelta(days=1))
    product = public_id("cpr", tea.pk)
    quote = {"points_account": PLAIN["points_account"], "coupon_product": product, "count": 1}
    found = {
        "prg": program,
        "crd": card["id"],
        "txn": payment["id"],
        "pol": card["policy"]["id"],
        "cpr": product,
        "quo": lotus.post("exchange-quotes", quote).json()["id"],
        "exc": public_id("exc", exchange.pk),
        "cpn": public_id("cpn", exchange.coupons.get(ordinal=2).pk),
        "number": numbering.unseal(Card.objects.get().number_sealed),
        "code": coupons.read_codes(coupons=[exchange.coupons.get(ordinal=1)], reason="", by="test", now=timezone.now())[
            0
        ],
    }
    hook, _secret = webhooks.add(
        merchant=lotus.merchant, url="https://93.184.216.35/", types=[], is_live=True, by="test", now=timezone.now()
    )
    told = webhooks.ping(endpoint=hook, now=timezone.now())
    found |= {
        "evt": public_id("evt", told.event_id),
        "whe": public_id("whe", hook.pk),
        "whd": public_id("whd", told.pk),
    }
    lost = cards.opened(sold)
    failures.covered(lost)
    failures.failed(lotus.merchant)
    claim = lotus.post("claims", {"card": public_id("crd", lost.pk), "reference": "CLAIM-0"})
    return {**found, "clm": claim.json()["id"]}


def nobodys() -> dict[str, str]:
    """The same, of nobody."""
    found = {prefix: public_id(prefix, new_id()) for prefix in PREFIXES.values()}
    return {**found, "number": numbering.new_number(), "code": "8H4K-PQ2M-XW9R-TB77-K"}


def address(route: Route, things: dict[str, str]) -> str:
    return re.sub(r"<str:(\w+)>", lambda found: things[PREFIXES[found[1]]], route.route)


def body(route: Route, things: dict[str, str]) -> dict[str, Any]:
    """What the view wants, with the ids in ``things``: a member that nobody has told of here fails."""
    wanted = [
        name
        for name, member in getattr(route.view, "BODY", {}).items()
        if member.required or name in SENT_THOUGH_OPTIONAL
    ]
    told: dict[str, Any] = {}
    for name in wanted:
        if name in PREFIXES:
            one = things[PREFIXES[name]]
            told[name] = [one] if name == "coupons" else one
        elif name in ("number", "code"):
            told[name] = things[name]
        elif name == "reference":
            told[name] = cards.reference("CRAWL")
        else:
            told[name] = PLAIN[name]
    return told


def names_something(route: Route, method: str) -> bool:
    members = set(getattr(route.view, "BODY", ())) if method == "post" else set()
    return "<" in route.route or bool(members & {*PREFIXES, "number"})


EVERY = [(route, method) for route in ENDPOINTS for method in route.methods]
IDS = [f"{method} {route.route}" for route, method in EVERY]


def asked(asker: Asker, route: Route, method: str, things: dict[str, str]) -> Any:
    where = address(route, things)
    return asker.get(where) if method == "get" else asker.post(where, body(route, things))


def as_it_stands(owner: Asker) -> tuple[dict[str, str], list[Any]]:
    """Everything there is; of webhook endpoints the owner's, since anybody may add his own."""
    picture = {table: sum for table, sum in invariants.picture().items() if table != "issuing_webhookendpoint"}
    return picture, list(WebhookEndpoint.objects.filter(merchant=owner.merchant).values())


def test_what_is_anothers_is_answered_byte_for_byte_like_what_nobody_has(owned, lotus, stranger):
    before = as_it_stands(lotus)
    for route, method in EVERY:
        foreign, absent = (asked(stranger, route, method, things) for things in (owned, nobodys()))
        if method == "post" and not names_something(route, method) and foreign.status_code == 201:
            continue  # it names nothing of anybody's, and makes something of the asker's own
        assert without_id(foreign) == without_id(absent), (method, route.route)
        assert foreign.status_code == absent.status_code
        if names_something(route, method):
            assert foreign.status_code == 404, (method, route.route, foreign.content)
        elif method == "get":
            # Whatever is listed is the asker's own, and he has nothing.
            assert foreign.json()["data"] == [], route.route
        text = foreign.content.decode()
        assert not [one for one in owned.values() if one in text], (method, route.route)
    assert as_it_stands(lotus) == before


def test_the_owner_is_answered_at_every_one_of_these_addresses(owned, lotus):
    # Otherwise the test above would pass for addresses that answer nobody, and for bodies that nobody accepts.
    for route, method in EVERY:
        answer = asked(lotus, route, method, owned)
        assert answer.status_code not in (400, 403, 404, 405), (method, route.route, answer.content)


def test_a_list_holds_everything_of_its_owner_and_a_filter_by_anothers_id_holds_nothing(owned, lotus, stranger):
    for route, method in EVERY:
        for name in getattr(route.view, "FILTERS", ()) if method == "get" else ():
            if name in PREFIXES:
                for asker, holds in ((lotus, True), (stranger, False)):
                    rows = asker.get(f"{route.route}?{name}={owned[PREFIXES[name]]}").json()["data"]
                    assert bool(rows) == holds or route.route == "claims", (route.route, name)


# No member that is not described


FIELDS = sorted(
    {
        field.attname
        for model in apps.get_models()
        if model._meta.app_label in ("issuing", "prepaid", "insurance", "claims", "points")
        for field in model._meta.concrete_fields
    }
)


@pytest.mark.parametrize("route", [route for route, method in EVERY if method == "post"], ids=lambda route: route.route)
def test_no_field_of_any_model_can_be_set_by_naming_it(owned, lotus, route):
    """Mass assignment: each name of a field, beside a body that is right, is an unknown member by itself."""
    before = invariants.picture()
    strange = [name for name in FIELDS if name not in getattr(route.view, "BODY", {})]
    assert len(strange) > 100
    holder = {"name", "phone", "id_number", "is_organisation"}
    for at in range(0, len(strange), 15):
        part = strange[at : at + 15]
        told = body(route, owned)
        problem = lotus.post(address(route, owned), {**told, **dict.fromkeys(part, 1)}).json()
        assert (problem["status"], problem["code"]) == (400, "InvalidInput")
        assert [fault["code"] for fault in problem["errors"]] == ["UnknownMember"] * len(part), part
        if "holder" in told:
            part = [name for name in part if name not in holder]
            inner = {**told, "holder": {**told["holder"], **dict.fromkeys(part, 1)}}
            problem = lotus.post(address(route, owned), inner).json()
            assert [fault["code"] for fault in problem["errors"]] == ["UnknownMember"] * len(part), part
    assert invariants.picture() == before
