"""Input is strict: whatever is not exactly what is asked for is refused by name, and changes nothing."""

import json
import re

import pytest
from django.test import override_settings

from config.ids import public_id
from issuing.models import Kind
from tests import cards, invariants
from tests.api.routes import ENDPOINTS

pytestmark = pytest.mark.django_db


@pytest.fixture
def path(lotus) -> str:
    card = cards.opened(cards.program(Kind.BONUS, merchant=lotus.merchant))
    return f"cards/{public_id('crd', card.pk)}/payments"


@pytest.fixture
def unchanged(path):
    before = invariants.picture()
    yield
    assert invariants.picture() == before


def faults(answer) -> list[tuple[str, str]]:
    assert answer.status_code == 400, answer.content
    return [(fault["pointer"], fault["code"]) for fault in answer.json()["errors"]]


DOCUMENTS = {
    "nothing": (b" ", "BodyNotJson"),
    "no JSON": (b"list_amount=1", "BodyNotJson"),
    "two documents": (b"{} {}", "BodyNotJson"),
    "a trailing comma": (b'{"list_amount": 1,}', "BodyNotJson"),
    "single quotes": (b"{'list_amount': 1}", "BodyNotJson"),
    "a comment": (b'{"list_amount": 1 /* fen */}', "BodyNotJson"),
    "a byte order mark": (b'\xef\xbb\xbf{"list_amount": 1}', "BodyNotJson"),
    "Latin-1": ('{"reference": "é"}'.encode("latin-1"), "BodyNotJson"),
    "UTF-16": ('{"list_amount": 1}'.encode("utf-16"), "BodyNotJson"),
    "NaN": (b'{"list_amount": NaN}', "BodyNotJson"),
    "Infinity": (b'{"list_amount": -Infinity}', "BodyNotJson"),
    "a NUL": (b'{"reference": "\x00"}', "BodyNotJson"),
    "full-width digits": ('{"list_amount": １２}'.encode(), "BodyNotJson"),
    "a leading zero": (b'{"list_amount": 01}', "BodyNotJson"),
    "a plus": (b'{"list_amount": +1}', "BodyNotJson"),
    "hexadecimal": (b'{"list_amount": 0x1}', "BodyNotJson"),
    "one member twice": (b'{"list_amount": 1, "list_amount": 2}', "DuplicateMember"),
    "twice by escape": (b'{"list_amount": 1, "list\\u005famount": 2}', "DuplicateMember"),
    "twice deep inside": (b'{"x": [{"a": 1, "a": 1}]}', "DuplicateMember"),
    "deep arrays": (b"[" * 30_000, "NestedTooDeep"),
    "deep objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "NestedTooDeep"),
    "an array": (b"[]", "InvalidInput"),
    "a text": (b'"list_amount"', "InvalidInput"),
    "null": (b"null", "InvalidInput"),
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.usefixtures("unchanged")
def test_a_body_that_is_not_one_json_object_is_refused(lotus, path, name):
    document, code = DOCUMENTS[name]
    answer = lotus.ask("POST", path, raw=document)
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.content


WRONG_INTEGERS = {
    "1.0": "WrongType", "1e3": "WrongType", "1E400": "WrongType", '"1"': "WrongType", '"１"': "WrongType",
    "true": "WrongType", "null": "WrongType", "[1]": "WrongType", '{"a": 1}': "WrongType", "0": "TooSmall",
    "-0": "TooSmall", "-1": "TooSmall", "0.001": "WrongType", "1000000000000001": "TooLarge",
    "1" + "0" * 30: "TooLarge", "9" * 60_000: "TooLarge", "-" + "9" * 5_000: "TooSmall",
}  # fmt: skip


@pytest.mark.parametrize("number", WRONG_INTEGERS, ids=lambda number: number[:20])
@pytest.mark.usefixtures("unchanged")
def test_an_amount_is_a_json_integer_in_range(lotus, path, number):
    answer = lotus.ask("POST", path, raw=b'{"reference": "ORDER-1", "list_amount": %s}' % number.encode())
    assert faults(answer) == [("/list_amount", WRONG_INTEGERS[number])]


WRONG_TEXTS = {
    '""': "TooShort", '" "': "BlanksAround", '" a"': "BlanksAround", '"a\\n"': "UnusableCharacter",
    '"a\\u0000"': "UnusableCharacter", '"\\ud800"': "UnusableCharacter", '"\\udc00\\ud800"': "UnusableCharacter",
    '"a\\u2028b"': "UnusableCharacter", "1": "WrongType", "true": "WrongType", "null": "WrongType",
    '["a"]': "WrongType", '"' + "a" * 65 + '"': "TooLong", '"\\u3000a"': "BlanksAround",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG_TEXTS, ids=lambda text: text[:20])
@pytest.mark.usefixtures("unchanged")
def test_a_reference_is_one_line_of_text(lotus, path, text):
    answer = lotus.ask("POST", path, raw=b'{"list_amount": 1, "reference": %s}' % text.encode())
    assert faults(answer) == [("/reference", WRONG_TEXTS[text])]


def test_a_reference_may_be_chinese_and_as_long_as_allowed(lotus, path):
    reference = "订单" * 32
    answer = lotus.post(path, {"list_amount": 1, "reference": reference})
    assert (answer.status_code, answer.json()["reference"]) == (201, reference)
    assert "订单" in answer.content.decode()


def test_every_member_that_is_wrong_is_named_at_once(lotus, path):
    answer = lotus.post(path, {"list_amount": "1", "uses": 0, "amount": 1, "Store ": "x", "occurred_at": "now"})
    assert faults(answer) == [
        ("/amount", "UnknownMember"),
        ("", "UnknownMember"),
        ("/list_amount", "WrongType"),
        ("/uses", "TooSmall"),
        ("/reference", "Missing"),
        ("/occurred_at", "NotAMoment"),
    ]


def test_a_member_inside_a_member_is_pointed_at(lotus):
    body = {"holder": {"name": 5, "email": "x"}}
    assert ("/holder/name", "WrongType") in faults(lotus.post("cards", body))
    assert ("/holder/email", "UnknownMember") in faults(lotus.post("cards", body))


def test_a_body_of_unknown_members_is_not_answered_at_its_own_length(lotus, path):
    answer = lotus.post(path, {f"m{'x' * (n % 30)}{n}": 1 for n in range(2_000)})
    assert len(faults(answer)) == 20


@pytest.mark.parametrize("member", ["balance", "remaining", "merchant", "state", "id", "currency", "amount", "rate"])
@pytest.mark.usefixtures("unchanged")
def test_nobody_sets_what_the_ledger_works_out(lotus, path, member):
    answer = lotus.post(path, {"list_amount": 1, "reference": "ORDER-1", member: 1})
    assert faults(answer) == [(f"/{member}", "UnknownMember")]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "",
     "application/json; charset=gbk", "application/jsonx", "application/problem+json"],
)  # fmt: skip
@pytest.mark.usefixtures("unchanged")
def test_another_content_type_is_refused(lotus, path, content_type):
    raw = b'{"list_amount": 1, "reference": "ORDER-1"}'
    answer = lotus.ask("POST", path, raw=raw, Content_Type=content_type)
    assert (answer.status_code, answer.json()["code"]) == (415, "ContentTypeNotJson")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON;charset=UTF-8"])
def test_json_may_say_that_it_is_utf_8(lotus, path, content_type):
    raw = b'{"list_amount": 1, "reference": "ORDER-1"}'
    assert lotus.ask("POST", path, raw=raw, Content_Type=content_type).status_code == 201


def test_a_body_over_64_kib_is_refused(lotus, path):
    body = json.dumps({"list_amount": 1, "reference": "ORDER-1"})
    fits = body + " " * (64 * 1024 - len(body))
    answer = lotus.ask("POST", path, raw=(fits + " ").encode())
    assert (answer.status_code, answer.json()["code"]) == (413, "BodyTooLarge")
    assert lotus.ask("POST", path, raw=fits.encode()).status_code == 201


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("limit=0", ("?limit", "TooSmall")),
        ("limit=201", ("?limit", "TooLarge")),
        ("limit=-1", ("?limit", "WrongType")),
        ("limit=1.0", ("?limit", "WrongType")),
        ("limit=%EF%BC%91", ("?limit", "WrongType")),
        ("limit=%C2%B2", ("?limit", "WrongType")),
        ("limit=" + "9" * 5_000, ("?limit", "TooLarge")),
        ("limit=", ("?limit", "WrongType")),
        ("limit=1&limit=1", ("", "Duplicate")),
        ("page=2", ("?page", "UnknownMember")),
        ("%00=1", ("?", "UnknownMember")),
        ("State=ACTIVE", ("?", "UnknownMember")),
        ("state=active", ("?state", "UnknownValue")),
        ("state=ACTIVE%00", ("?state", "UnknownValue")),
        ("program=1", ("?program", "NotAnId")),
        ("program=crd_" + "0" * 32, ("?program", "NotAnId")),
        ("reference=%00", ("?reference", "UnusableCharacter")),
        ("reference=", ("?reference", "TooShort")),
        ("created_at_after=2026-13-01T00:00:00Z", ("?created_at_after", "NotAMoment")),
    ],
)
def test_a_query_is_as_strict_as_a_body(lotus, query, expected):
    assert faults(lotus.get(f"cards?{query}")) == [expected]


@pytest.mark.parametrize("address", ["programs", "cards", "transactions", "policies"])
def test_one_row_takes_no_parameters(lotus, address):
    prefix = {"programs": "prg", "cards": "crd", "transactions": "txn", "policies": "pol"}[address]
    assert faults(lotus.get(f"{address}/{prefix}_{'0' * 32}?expand=all")) == [("?expand", "UnknownMember")]


def test_a_post_takes_no_parameters(lotus, path):
    answer = lotus.post(f"{path}?dry_run=1", {"list_amount": 1, "reference": "ORDER-1"})
    assert faults(answer) == [("?dry_run", "UnknownMember")]


def test_more_parameters_than_anybody_needs_are_refused(lotus):
    answer = lotus.get("cards?" + "&".join(f"a{n}=1" for n in range(1_500)))
    assert (answer.status_code, answer.json()["code"]) == (400, "BadRequest")


# The same at every address


EVERY_POST = [route for route in ENDPOINTS if "post" in route.methods]
IDS = {"program_id": "prg", "card_id": "crd", "transaction_id": "txn", "policy_id": "pol", "claim_id": "clm",
       "exchange_id": "exc", "event_id": "evt", "endpoint_id": "whe", "delivery_id": "whd"}  # fmt: skip


@pytest.mark.parametrize("route", EVERY_POST, ids=lambda route: route.route)
def test_every_address_is_as_strict(lotus, route):
    """What stands above about payments, asked of each address that is posted to: none reads in a way of its own."""
    where = re.sub(r"<str:(\w+)>", lambda found: f"{IDS.get(found[1], 'x')}_{'0' * 32}", route.route)
    before = invariants.picture()
    name = next(iter(route.view.BODY or ["reference"]))
    documents = [
        *((document, 400, code) for document, code in DOCUMENTS.values()),
        (b'{"%s": 1, "%s": 1}' % (name.encode(), name.encode()), 400, "DuplicateMember"),
        *((b'{"%s": %s}' % (name.encode(), value), 400, "InvalidInput")
          for value in (b"1.0", b"1e3", b"null", b"[[]]", '"１\\u0000"'.encode(), b"{}", b"-1")),
        (b'{"nobody_knows": 1}', 400, "InvalidInput"),
        (b"{" + b" " * 64 * 1024 + b"}", 413, "BodyTooLarge"),
    ]  # fmt: skip
    for document, status, code in documents:
        answer = lotus.ask("POST", where, raw=document)
        assert (answer.status_code, answer.json()["code"]) == (status, code), (document[:60], answer.content)
    for content_type in ("text/plain", "application/json; charset=gbk", "multipart/form-data; boundary=x"):
        answer = lotus.ask("POST", where, raw=b"{}", Content_Type=content_type)
        assert (answer.status_code, answer.json()["code"]) == (415, "ContentTypeNotJson")
    assert faults(lotus.post(f"{where}?dry_run=1"))[0] == ("?dry_run", "UnknownMember")
    assert invariants.picture() == before


@pytest.mark.parametrize(
    "route", [route for route in ENDPOINTS if "get" in route.methods], ids=lambda route: route.route
)
def test_every_query_is_as_strict(lotus, route):
    where = re.sub(r"<str:(\w+)>", lambda found: f"{IDS.get(found[1], 'x')}_{'0' * 32}", route.route)
    assert faults(lotus.get(f"{where}?nobody_knows=1")) == [("?nobody_knows", "UnknownMember")]
    assert faults(lotus.get(f"{where}?a=1&a=2")) == [("", "Duplicate")]
    for name in getattr(route.view, "FILTERS", ()):
        assert faults(lotus.get(f"{where}?{name}=%00"))[0][0] == f"?{name}"


# Outside the views


@pytest.mark.parametrize(
    ("method", "address", "status", "code"),
    [
        ("GET", "nothing", 404, "NotFound"),
        ("POST", "nothing", 404, "NotFound"),
        ("GET", "", 404, "NotFound"),
        ("GET", "cards/", 404, "NotFound"),
        ("POST", "cards/quote/", 404, "NotFound"),
        ("GET", "cards/crd_1/nothing", 404, "NotFound"),
        ("GET", "cards/%00", 400, "BadRequest"),
        ("GET", "cards/%ff", 404, "CardNotFound"),
        ("PUT", "cards", 405, "MethodNotAllowed"),
        ("DELETE", "cards/crd_1", 405, "MethodNotAllowed"),
        ("PATCH", "programs", 405, "MethodNotAllowed"),
        ("OPTIONS", "cards", 405, "MethodNotAllowed"),
        ("TRACE", "cards", 405, "MethodNotAllowed"),
        ("GET", "cards/quote", 405, "MethodNotAllowed"),
        ("POST", "programs", 405, "MethodNotAllowed"),
    ],
)
def test_what_the_framework_would_answer_with_a_page_is_a_problem_too(lotus, method, address, status, code):
    answer = lotus.ask(method, f"/api/v1/{address}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    if status == 405:
        assert answer.headers["Allow"]


def test_the_wrong_method_is_told_the_right_ones(lotus):
    assert lotus.ask("DELETE", "cards").headers["Allow"] == "GET, HEAD, POST"


def test_head_is_get_without_the_body(lotus):
    answer = lotus.ask("HEAD", "cards")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_host_that_is_not_ours_is_a_problem_not_a_page(lotus):
    answer = lotus.get("cards", Host="evil.example")
    assert (answer.status_code, answer.json()["code"]) == (400, "BadRequest")


@override_settings(ALLOWED_HOSTS=["evil.example"])
def test_people_still_get_pages(client):
    assert client.get("/nothing", headers={"Host": "evil.example"}).headers["Content-Type"].startswith("text/html")


def test_every_answer_carries_its_request_id_and_is_kept_by_nobody(lotus):
    good, bad = lotus.get("cards"), lotus.get("cards/x")
    assert good.headers["Request-Id"] != bad.headers["Request-Id"]
    assert bad.json()["request_id"] == bad.headers["Request-Id"]
    assert good.headers["Cache-Control"] == bad.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in good.headers


def test_a_card_number_in_the_wrong_place_is_not_given_back(lotus, path):
    number = "9156000000000000000"
    for answer in (
        lotus.get(f"cards/{number}"),
        lotus.get(f"cards?{number}=1"),
        lotus.get(f"cards?state={number}"),
        lotus.post(path, {number: 1, "list_amount": number, "reference": int(number)}),
        lotus.post("cards/lookup", {"number": int(number)}),
        lotus.post("cards/lookup", {"number": number}),
    ):
        assert answer.status_code in (400, 404)
        assert number not in answer.content.decode()
