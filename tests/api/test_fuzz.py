"""Nothing that a client can send is a failure of ours: every address, asked with nonsense and near-sense."""

import json
import string
from typing import Any

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.ids import public_id
from issuing import events, webhooks
from issuing.models import Kind, Merchant
from points import views as points_views
from prepaid import endpoint, views, webhook_views
from prepaid.refusals import catalogue
from tests import cards, failures, invariants
from tests import points_world as world
from tests.api.asking import Asker
from tests.api.routes import ENDPOINTS

pytestmark = pytest.mark.django_db

CODES = {entry.code: entry.status for entry in catalogue()}

integers = st.one_of(
    st.integers(), st.integers(-3, 200_000), st.sampled_from([0, -1, 2**31, 2**63, 2**63 - 1, -(2**63), 10**15, 10**30])
)
words = st.one_of(
    st.text(max_size=80),
    st.text(st.characters(codec=None, exclude_categories=()), max_size=8),
    st.sampled_from(
        ["", "\0", "a\0", "\ud800", "１２", "NaN", "1e400", "crd_", "'; --", "=1+1", "%s", "{0}", "王", "­"]
    ),
)
moments = st.one_of(
    words,
    st.datetimes().map(lambda at: at.isoformat() + "Z"),
    st.sampled_from(["2026-02-30T00:00:00Z", "2099-12-31T23:59:59-23:59", "2000-01-01T00:00:00+14:00"]),
)
scalars = st.one_of(st.none(), st.booleans(), integers, st.floats(), words)
nonsense = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)

PLACES = [(route.view, route.route) for route in ENDPOINTS]
POSTS = [(view, route) for view, route in PLACES if hasattr(view, "post")]
GETS = [(view, route) for view, route in PLACES if hasattr(view, "get")]

bounded = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def known(lotus) -> dict[str, list[str]]:
    """Ids that are there, of every kind."""
    opened = [cards.opened(cards.program(kind, merchant=lotus.merchant)) for kind in (Kind.BONUS, Kind.TIMES)]
    payment = cards.paid(opened[0], 100)
    tea = world.product(merchant=lotus.merchant)
    world.ratio(tea)
    exchange = world.issued(tea, 3)
    return {
        "program_id": [public_id("prg", card.program_id) for card in opened],
        "card_id": [public_id("crd", card.pk) for card in opened],
        "transaction_id": [public_id("txn", payment.id)],
        "policy_id": ["pol_" + "0" * 32],
        "claim_id": ["clm_" + "0" * 32],
        "exchange_id": [public_id("exc", exchange.pk)],
        "product_id": [public_id("cpr", tea.pk)],
        "coupon_id": [public_id("cpn", coupon.pk) for coupon in exchange.coupons.all()],
        **_told(lotus.merchant),
    }


def _told(merchant: Merchant) -> dict[str, list[str]]:
    now = timezone.now()
    hook, _secret = webhooks.add(
        merchant=merchant, url="https://93.184.216.34/", types=[], is_live=False, by="key", now=now
    )
    told = webhooks.ping(endpoint=hook, now=now)
    return {
        "event_id": [public_id("evt", told.event_id)],
        "endpoint_id": [public_id("whe", hook.pk)],
        "delivery_id": [public_id("whd", told.pk)],
    }


def member(name: str, known: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    """Near-sense for a member of that name: mostly of its type, at the edges of what is accepted."""
    good: dict[str, st.SearchStrategy[Any]] = {
        "program": st.sampled_from(known["program_id"]),
        "card": st.sampled_from(known["card_id"]),
        "reason": words,
        "occurred_at": moments,
        "holder": st.fixed_dictionaries(
            {}, optional={"name": words, "phone": words, "id_number": words, "is_organisation": st.booleans()}
        ),
        "payment_method": st.sampled_from(["CASH", "WECHAT", "x"]),
        "coupon_product": st.sampled_from(known["product_id"]),
        "points_account": words | st.text(string.digits, min_size=12, max_size=19),
        "coupons": st.lists(st.sampled_from(known["coupon_id"]) | words, max_size=4),
        "number": words | st.text(string.digits, min_size=19, max_size=19),
        "url": st.sampled_from(["https://93.184.216.34/", "http://127.0.0.1/", "http://[::1", "http://\0"]) | words,
        "events": st.lists(st.sampled_from(events.TYPES) | words, max_size=4) | st.just("*"),
        "from": moments,
        "to": moments,
    }
    amounts = ("prepaid_amount", "list_amount", "uses", "amount", "count")
    return st.one_of(good.get(name, integers if name in amounts else words), nonsense)


def bodies(view: Any, known: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    members = {name: member(name, known) for name in getattr(view, "BODY", {})}
    return st.one_of(st.fixed_dictionaries({}, optional=members), st.fixed_dictionaries(members), nonsense)


def proper(asker: Asker, method: str, path: str, **more: Any) -> None:
    answer = asker.ask(method, path, **more)
    assert answer.status_code < 500, (method, path, more, answer.content)
    assert answer.headers["Content-Type"] in ("application/json", "application/problem+json")
    body = json.loads(answer.content)
    if answer.status_code >= 400:
        assert CODES[body["code"]] == answer.status_code == body["status"], body
        assert set(body) >= {"type", "title", "status", "detail", "code", "request_id", "errors"}


def address(route: str, known: dict[str, list[str]], draw: st.DataObject) -> str:
    for name, ids in known.items():
        if f"<str:{name}>" in route:
            drawn = draw.draw(st.sampled_from(ids) | st.text(string.ascii_letters + "_-%0", min_size=1, max_size=40))
            route = route.replace(f"<str:{name}>", drawn)
    return route


@pytest.mark.parametrize(("view", "route"), POSTS, ids=[route for _view, route in POSTS])
def test_no_body_is_a_failure_of_ours(lotus, known, view, route):
    if route == "claims":
        failures.failed(lotus.merchant)

    @bounded
    @given(st.data())
    def ask(draw: st.DataObject) -> None:
        body = draw.draw(bodies(view, known))
        key = draw.draw(st.none() | st.text(string.printable.strip(), min_size=1, max_size=8))
        headers = {} if key is None else {"Idempotency_Key": key}
        proper(lotus, "POST", address(route, known, draw), body=body, **headers)

    ask()
    invariants.hold()


@pytest.mark.parametrize(("view", "route"), GETS, ids=[route for _view, route in GETS])
def test_no_query_is_a_failure_of_ours(lotus, known, view, route):
    names = [*getattr(view, "FILTERS", {}), *getattr(view, "QUERY", {}), "limit", "cursor", "page"]

    @bounded
    @given(st.data())
    def ask(draw: st.DataObject) -> None:
        values = st.one_of(words.map(lambda text: text.encode("utf-8", "replace").decode()), moments, integers)
        query = draw.draw(st.dictionaries(st.sampled_from(names), values, max_size=3))
        encoded = "&".join(f"{name}={quoted(value)}" for name, value in query.items())
        proper(lotus, "GET", f"{address(route, known, draw)}?{encoded}")

    ask()


def quoted(value: Any) -> str:
    return "".join(f"%{byte:02X}" for byte in str(value).encode("utf-8", "replace"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=200) | st.text('{}[]",:0123456789eE+-.truefalsn \\u\0', max_size=200).map(str.encode))
def test_no_bytes_are_a_failure_of_ours(lotus, raw):
    proper(lotus, "POST", f"cards/crd_{'0' * 32}/payments", raw=raw or b" ")


def test_every_view_was_asked():
    assert {view for view, _route in PLACES} == {
        view
        for room in (views, points_views, webhook_views)
        for view in vars(room).values()
        if isinstance(view, type)
        and issubclass(view, endpoint.Endpoint)
        and view
        not in (
            endpoint.Endpoint,
            views.Endpoint,
            views.CardMoves,
            webhook_views.Endpoint,
            webhook_views.EndpointMoves,
        )
    }
