"""The sandbox: a test merchant moves its clock, has its partners decide, and fails; a live one can do none of it."""

from datetime import date, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone

from claims.models import Claim, InsuredEvent
from config.ids import new_id, public_id
from insurance import insurer
from insurance.models import Endorsement, Policy, Product
from issuing import merchants
from issuing.models import Event, Kind, Merchant
from points import bank, coupons
from points.models import Coupon, Exchange
from prepaid import processing, sandbox
from prepaid.models import Card
from prepaid.refusals import DOCUMENT
from tests import cards, invariants
from tests import points_world as world
from tests.api.asking import Asker, asker, without_id
from tests.api.routes import SANDBOX
from tests.api.test_input import DOCUMENTS
from tests.partners import insurer as reference_insurer
from tests.partners import partner_process, points_system

__all__ = ["partner_process", "points_system", "reference_insurer"]

pytestmark = pytest.mark.django_db

DAY = 86_400
POSTS: dict[str, dict[str, Any]] = {
    "test-clock": {"advance_seconds": DAY},
    "test/default": {"loss_date": "2026-01-01"},
}
ASKED = [(route.route, method) for route in SANDBOX for method in route.methods]


@pytest.fixture
def test(merchant: Merchant, settings: Any) -> Asker:
    """The test twin's program: it sells a bonus card for 365 days, and coupons for points."""
    settings.INSURER_TEST_URL = settings.POINTS_SYSTEM_TEST_URL = "http://127.0.0.1:9/"
    cards.program(Kind.BONUS, merchant=merchant, tiers=[(100_000, 20_000)])
    world.ratio(world.product(merchant=merchant))
    return asker(processing.make_test_twin(merchant=merchant, now=timezone.now()))


@pytest.fixture
def covered(test: Asker, reference_insurer: Any, settings: Any) -> Asker:
    """The same, with an insurer that answers."""
    settings.INSURER_TEST_KEYS = reference_insurer.keys
    settings.INSURER_TEST_URL = f"{reference_insurer.url}/insurer/"
    return test


@pytest.fixture
def banked(test: Asker, points_system: Any, settings: Any) -> Asker:
    """The same, with a points system that answers and knows the ratio."""
    settings.POINTS_SYSTEM_TEST_KEYS = points_system.keys
    settings.POINTS_SYSTEM_TEST_URL = f"{points_system.url}/points/"
    bank.sweep(now=timezone.now(), seconds=5)
    return test


def opened(asked: Asker, amount: int = 100_000, reference: str = "PUR-1") -> dict[str, Any]:
    order = {
        "program": asked.get("programs").json()["data"][0]["id"],
        "prepaid_amount": amount,
        "holder": {"name": "王小明", "phone": "13912342893"},
        "reference": reference,
        "payment_method": "WECHAT",
    }
    answer = asked.post("cards", order)
    assert answer.status_code == 201, answer.content
    return answer.json()


def policy(asked: Asker, card: dict[str, Any]) -> dict[str, Any]:
    return asked.get(f"policies/{card['policy']['id']}").json()


def swept(seconds: int = 0) -> None:
    """Let the clock go round once, with whatever waits for its next moment having waited."""
    Policy.objects.filter(due_at__isnull=False).update(due_at=cards.OPENED)
    insurer.sweep_tests(now=timezone.now(), seconds=20)


def exchanged(asked: Asker, account: str, reference: str = "EX-1") -> Any:
    product = asked.get("coupon-products").json()["data"][0]["id"]
    quoted = asked.post("exchange-quotes", {"points_account": account, "coupon_product": product, "count": 3})
    return asked.post("exchanges", {"quote": quoted.json()["id"], "reference": reference})


def address(route: str) -> str:
    return route.replace("<str:policy_id>", public_id("pol", new_id())).replace(
        "<str:exchange_id>", public_id("exc", new_id())
    )


# For test merchants only


@pytest.mark.parametrize(("route", "method"), ASKED)
def test_to_a_live_key_these_addresses_are_none(lotus, test, route, method):
    before = invariants.picture()
    answer, nothing = (
        lotus.ask(method.upper(), path, POSTS.get(route, {}) if method == "post" else None)
        for path in (address(route), "there-is-nothing")
    )
    assert answer.status_code == 404
    assert without_id(answer) == without_id(nothing)
    told = [{k: v for k, v in one.headers.items() if k != "Request-Id"} for one in (answer, nothing)]
    assert told[0] == told[1]
    assert lotus.ask("DELETE", address(route)).status_code == 404
    assert invariants.picture() == before


@pytest.mark.parametrize(("route", "method"), ASKED)
def test_to_a_test_key_they_answer(test, route, method):
    # Otherwise the test above would pass for addresses that answer nobody.
    answer = test.ask(method.upper(), address(route), POSTS.get(route, {}) if method == "post" else None)
    assert answer.headers["RateLimit-Limit"]
    assert answer.status_code in (200, 201) or (
        answer.json()["code"].endswith("NotFound") and answer.json()["code"] != "NotFound"
    )


@pytest.mark.parametrize("route", [route for route, method in ASKED if method == "post" and "<" not in route])
def test_they_read_as_strictly_as_all_others(test, route):
    for document, code in DOCUMENTS.values():
        answer = test.ask("POST", route, raw=document)
        assert (answer.status_code, answer.json()["code"]) == (400, code), document
    assert test.post(route, {**POSTS.get(route, {}), "nobody_knows": 1}).json()["code"] == "InvalidInput"
    assert test.ask("POST", route, POSTS.get(route, {}), Idempotency_Key=None).json()["code"] == "IdempotencyKeyMissing"


@pytest.mark.parametrize(
    ("route", "scope"),
    [("test-clock", "cards:write"), ("test/default", "claims:write"), ("test/reset", "claims:write")],
)
def test_a_key_needs_the_scope(test, route, scope):
    reading = asker(test.merchant, scopes=["cards:read"])
    answer = reading.post(route, POSTS.get(route, {}))
    assert (answer.status_code, answer.json()["code"]) == (403, "ScopeMissing")
    assert scope in answer.json()["detail"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda live, twin: Merchant.objects.filter(pk=live.pk).update(test_clock_ahead=1),
        lambda live, twin: Merchant.objects.filter(pk=twin.pk).update(test_clock_ahead=-1),
        lambda live, twin: Merchant.objects.filter(pk=twin.pk).update(test_clock_ahead=9),
        lambda live, twin: Merchant.objects.filter(pk=live.pk).update(state="ACTIVE", failed_at=None),
        lambda live, twin: InsuredEvent.objects.filter(merchant=live).update(state="ENDED"),
    ],
)
def test_the_database_keeps_time_and_failures_of_live_merchants_whoever_writes(merchant, test, wrong):
    Merchant.objects.filter(pk=test.merchant.pk).update(test_clock_ahead=10)
    people = [world.person(name) for name in ("clerk", "chief")]
    Merchant.objects.filter(pk=merchant.pk).update(state="FAILED", failed_at=timezone.now())
    InsuredEvent.objects.create(
        merchant=merchant, trigger="CLOSED_DOWN", loss_date=date(2026, 1, 1), evidence="x", declared_by=people[0],
        confirmed_by=people[1], state="CONFIRMED", recorded_at=timezone.now(), confirmed_at=timezone.now(),
    )  # fmt: skip
    with pytest.raises(IntegrityError), transaction.atomic():
        wrong(merchant, test.merchant)


# The clock


def test_the_clock_goes_ahead_and_on_from_there(test):
    assert test.get("test-clock").json()["ahead_seconds"] == 0
    before = timezone.now()
    moved = test.post("test-clock", {"advance_seconds": 30 * DAY}).json()
    assert moved["ahead_seconds"] == 30 * DAY
    assert datetime.fromisoformat(moved["now"]) >= (before + timedelta(days=30)).replace(microsecond=0)
    later = before + timedelta(days=40)
    moved = test.post("test-clock", {"to": later.isoformat(timespec="seconds")}).json()
    assert 0 <= (datetime.fromisoformat(moved["now"]) - later.replace(microsecond=0)).total_seconds() < 5
    assert test.get("test-clock").json()["ahead_seconds"] == moved["ahead_seconds"]


def test_a_repetition_does_not_move_it_again(test):
    first, second = (test.post("test-clock", {"advance_seconds": DAY}, Idempotency_Key="once") for _time in range(2))
    assert first.content == second.content
    assert second.headers["Idempotency-Replayed"] == "true"
    assert test.get("test-clock").json()["ahead_seconds"] == DAY


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "ClockMoveUnclear"),
        ({"advance_seconds": 1, "to": "2030-01-01T00:00:00Z"}, 422, "ClockMoveUnclear"),
        ({"advance_seconds": 0}, 400, "InvalidInput"),
        ({"advance_seconds": -1}, 400, "InvalidInput"),
        ({"to": "2020-01-01T00:00:00Z"}, 422, "ClockGoesBack"),
        ({"advance_seconds": 21 * 366 * DAY}, 422, "ClockTooFarAhead"),
        ({"to": "2099-01-01T00:00:00Z"}, 422, "ClockTooFarAhead"),
    ],
)
def test_it_never_goes_back_nor_too_far(test, body, status, code):
    test.post("test-clock", {"advance_seconds": DAY})
    answer = test.post("test-clock", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert test.get("test-clock").json()["ahead_seconds"] == DAY


def test_what_is_done_bears_the_time_of_the_clock_and_a_card_expires_by_it(test):
    sold_at = timezone.now()
    card = opened(test)
    test.post("test-clock", {"advance_seconds": 10 * DAY})
    paid = test.post(f"cards/{card['id']}/payments", {"list_amount": 100, "reference": "ORDER-1"}).json()
    at = datetime.fromisoformat(paid["occurred_at"])
    assert timedelta(days=10) <= at - sold_at < timedelta(days=10, minutes=5)
    Card.objects.update(expires_on_date=timezone.localdate() + timedelta(days=20))
    test.post("test-clock", {"advance_seconds": 20 * DAY})
    refused = test.post(f"cards/{card['id']}/payments", {"list_amount": 100, "reference": "ORDER-2"})
    assert refused.json()["code"] == "CardExpired"


def test_a_test_clock_moves_nobody_elses(lotus, test, merchant):
    mine, theirs = opened(lotus), opened(test)
    Card.objects.update(expires_on_date=timezone.localdate() + timedelta(days=20))
    test.post("test-clock", {"advance_seconds": 30 * DAY})
    pay = {"list_amount": 100, "reference": "ORDER-1"}
    paid = lotus.post(f"cards/{mine['id']}/payments", pay)
    assert paid.status_code == 201
    assert abs(datetime.fromisoformat(paid.json()["occurred_at"]) - timezone.now()) < timedelta(minutes=5)
    assert test.post(f"cards/{theirs['id']}/payments", pay).json()["code"] == "CardExpired"
    merchant.refresh_from_db()
    assert merchant.test_clock_ahead == 0
    with pytest.raises(merchants.NotATestMerchant):
        merchants.advance_clock(merchant, seconds=1)


def test_coupons_run_out_by_it_and_those_of_live_merchants_do_not(test, merchant):
    live = world.issued(_with_ratio(merchant))
    tested = world.issued(_with_ratio(test.merchant))
    Coupon.objects.update(expires_at=timezone.now() + timedelta(days=20), state="ACTIVE")
    test.post("test-clock", {"advance_seconds": 19 * DAY})
    assert set(tested.coupons.values_list("state", flat=True)) == {"ACTIVE"}
    test.post("test-clock", {"advance_seconds": 2 * DAY})
    assert set(tested.coupons.values_list("state", flat=True)) == {"EXPIRED"}
    assert coupons.expire(now=timezone.now()) == 0
    assert set(live.coupons.values_list("state", flat=True)) == {"ACTIVE"}


def _with_ratio(of: Merchant) -> Any:
    made = world.product(merchant=of)
    world.ratio(made)
    return made


def test_a_quote_ends_by_it(test):
    product = _with_ratio(test.merchant)
    asked = {"points_account": "9900000000000001", "coupon_product": public_id("cpr", product.pk), "count": 1}
    quoted = test.post("exchange-quotes", asked).json()
    test.post("test-clock", {"advance_seconds": 16 * 60})
    assert test.post("exchanges", {"quote": quoted["id"], "reference": "EX-1"}).json()["code"] == "QuoteExpired"


def test_webhooks_and_answers_are_kept_by_our_own_time(test):
    test.post("test-clock", {"advance_seconds": 400 * DAY})
    hook = test.post("webhook-endpoints", {"url": "https://93.184.216.34/"}).json()
    assert abs(datetime.fromisoformat(hook["created_at"]) - timezone.now()) < timedelta(minutes=5)
    opened(test)
    assert Policy.objects.get(merchant=test.merchant).due_at <= timezone.now()


# The developer's story, end to end


@pytest.mark.django_db(transaction=True)
def test_from_a_card_to_the_end_of_its_cover_in_one_sitting(covered, reference_insurer):
    Product.objects.update(basis="DAILY_BALANCE")
    card = opened(covered)
    covered.post("test-clock", {"advance_seconds": 1})  # what is owed to the insurer goes out at once
    assert policy(covered, card)["state"] == "ACCEPTED"
    paid = covered.post(f"cards/{card['id']}/payments", {"list_amount": 45_000, "reference": "ORDER-1"})
    assert paid.json()["balance"]["refundable_principal"] == 62_500
    Card.objects.update(expires_on_date=timezone.localdate() + timedelta(days=180))
    covered.post("test-clock", {"advance_seconds": 366 * DAY})
    told = policy(covered, card)
    # 62,500 fen a day, 365 days long, since it was spent on the first day: 62,500 × 1.2 % = 750 instead of 1,200.
    assert [(one["kind"], one["state"], one["premium"]) for one in told["endorsements"]] == [
        ("ADJUSTMENT", "ACCEPTED", -450)
    ]
    refused = covered.post(f"cards/{card['id']}/payments", {"list_amount": 1, "reference": "ORDER-2"})
    assert refused.json()["code"] == "CardExpired"
    assert Endorsement.objects.get().sent_at <= timezone.now()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("amount", "at_first", "then"),
    [
        (100_911, ("DECLINED", "1009"), ("DECLINED", "1009")),
        (100_921, ("UNKNOWN", None), ("UNKNOWN", None)),
        (100_931, ("UNKNOWN", None), ("ACCEPTED", None)),
        (100_000, ("ACCEPTED", None), ("ACCEPTED", None)),
    ],
)
def test_amounts_that_the_insurer_declines_keeps_silent_about_and_answers_late(covered, amount, at_first, then):
    card = opened(covered, amount)
    swept()
    assert (policy(covered, card)["state"], policy(covered, card)["refusal_code"]) == at_first
    swept()
    assert (policy(covered, card)["state"], policy(covered, card)["refusal_code"]) == then


@pytest.mark.django_db(transaction=True)
def test_these_amounts_mean_nothing_for_a_live_card(lotus, covered, reference_insurer, settings):
    settings.INSURER_KEYS, settings.INSURER_URL = settings.INSURER_TEST_KEYS, settings.INSURER_TEST_URL
    for amount in (100_911, 100_921, 100_931):
        opened(lotus, amount, f"PUR-{amount}")
    insurer.sweep(now=timezone.now(), seconds=20)
    assert set(Policy.objects.values_list("state", flat=True)) == {"ACCEPTED"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("was_sent", [True, False])
@pytest.mark.parametrize(("word", "state"), [("accept", "ACCEPTED"), ("decline", "DECLINED")])
def test_the_insurer_decides_when_it_is_told_to(covered, was_sent, word, state):
    card = opened(covered, 100_921)
    if was_sent:
        swept()
    first = covered.post(f"test/policies/{card['policy']['id']}/{word}", Idempotency_Key="decide")
    assert (first.status_code, first.json()["state"]) == (200, state)
    again = covered.post(f"test/policies/{card['policy']['id']}/{word}", Idempotency_Key="decide")
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
    assert covered.post(f"test/policies/{card['policy']['id']}/{word}").json()["state"] == state
    other = {"accept": "decline", "decline": "accept"}[word]
    assert covered.post(f"test/policies/{card['policy']['id']}/{other}").json()["code"] == "IllegalMove"
    assert Event.objects.filter(type=f"policy.{state.lower()}").count() == 1


@pytest.mark.django_db(transaction=True)
def test_an_insurer_that_does_not_answer_decides_nothing(test):
    card = opened(test)
    answer = test.post(f"test/policies/{card['policy']['id']}/accept", Idempotency_Key="decide")
    assert (answer.status_code, answer.json()["code"]) == (409, "PolicyNotDecided")
    assert policy(test, card)["state"] == "UNKNOWN"


# Points


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("account", "status", "said"),
    [
        ("9900000000000001", 201, "ISSUED"),
        ("9900000000000002", 409, "InsufficientPoints"),
        ("9900000000000003", 422, "PointsAccountNotUsable"),
        ("9900000000000004", 202, "PENDING"),
        ("9900000000000005", 202, "PENDING"),
        ("9900000000000006", 202, "PENDING"),
    ],
)
def test_accounts_that_the_points_system_answers_otherwise(banked, account, status, said):
    answer = exchanged(banked, account)
    assert (answer.status_code, answer.json().get("code", answer.json().get("state"))) == (status, said)


@pytest.mark.django_db(transaction=True)
def test_a_lost_answer_is_found_out_by_asking_and_a_lost_request_is_given_up(banked):
    found, lost = (exchanged(banked, f"990000000000000{n}", f"EX-{n}").json()["id"] for n in (5, 6))
    world.the_clock_finishes()
    states = {one: banked.get(f"exchanges/{one}").json()["state"] for one in (found, lost)}
    assert states == {found: "ISSUED", lost: "REVERSED"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("word", "state"), [("deduct", "ISSUED"), ("refuse", "REJECTED")])
def test_the_bank_decides_when_it_is_told_to(banked, word, state, points_system):
    exchange = exchanged(banked, "9900000000000006").json()["id"]
    first = banked.post(f"test/exchanges/{exchange}/{word}", Idempotency_Key="decide")
    assert (first.status_code, first.json()["state"]) == (200, state), first.content
    again = banked.post(f"test/exchanges/{exchange}/{word}", Idempotency_Key="decide")
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
    other = {"deduct": "refuse", "refuse": "deduct"}[word]
    assert banked.post(f"test/exchanges/{exchange}/{other}").json()["code"] == "IllegalMove"
    assert points_system.remaining("9900000000000006") == [10**9 - (1_000 if word == "deduct" else 0)]


@pytest.mark.django_db(transaction=True)
def test_a_late_answer_comes_at_once_when_it_is_told_to(banked, points_system):
    exchange = exchanged(banked, "9900000000000004").json()["id"]
    assert banked.post(f"test/exchanges/{exchange}/deduct").json()["state"] == "ISSUED"
    assert points_system.remaining("9900000000000004") == [10**9 - 1_000]


@pytest.mark.django_db(transaction=True)
def test_coupons_issued_late_run_from_the_merchants_own_time(banked):
    banked.post("test-clock", {"advance_seconds": 30 * DAY})
    exchange = exchanged(banked, "9900000000000005").json()["id"]
    world.the_clock_finishes()
    issued_at = datetime.fromisoformat(banked.get(f"exchanges/{exchange}").json()["issued_at"])
    assert timedelta(days=30) <= issued_at - Exchange.objects.get().sent_at < timedelta(days=30, minutes=5)
    assert Coupon.objects.first().expires_at > timezone.now() + timedelta(days=115)


@pytest.mark.django_db(transaction=True)
def test_no_live_merchants_coupons_are_given_for_points_of_these_accounts(lotus, banked, points_system, settings):
    settings.POINTS_SYSTEM_KEYS, settings.POINTS_SYSTEM_URL = (
        settings.POINTS_SYSTEM_TEST_KEYS, settings.POINTS_SYSTEM_TEST_URL,
    )  # fmt: skip
    assert exchanged(banked, "9900000000000001").status_code == 201
    answer = exchanged(lotus, "9900000000000001", "EX-2")
    assert (answer.status_code, answer.json()["code"]) == (422, "PointsAccountNotUsable")
    assert points_system.remaining("9900000000000001") == [10**9 - 1_000]


# The drill


@pytest.mark.django_db(transaction=True)
def test_a_merchant_that_lets_itself_fail_sees_every_claim_paid(covered, lotus):
    first, second = opened(covered), opened(covered, 50_000, "PUR-2")
    covered.post(f"cards/{first['id']}/payments", {"list_amount": 45_000, "reference": "ORDER-1"})
    covered.post("test-clock", {"advance_seconds": 2 * DAY})
    loss_date = covered.get("test-clock").json()["now"][:10]
    answer = covered.post("test/default", {"loss_date": loss_date}, Idempotency_Key="drill")
    assert answer.status_code == 201
    drill = answer.json()
    # 625.00 left of the first card, 500.00 on the second.
    assert (drill["state"], drill["done"], drill["compensation"]) == ("CONFIRMED", True, 112_500)
    assert drill["claims"] == {"filed": 0, "assessed": 0, "approved": 0, "paid": 2, "rejected": 0}
    assert covered.get("test/default").json() == drill
    claims = covered.get("claims").json()["data"]
    assert {one["card"]: one["compensation"] for one in claims} == {first["id"]: 62_500, second["id"]: 50_000}
    assert covered.get(f"cards/{first['id']}").json()["state"] == "COMPENSATED"
    assert covered.get(f"claims/{claims[0]['id']}").json()["worksheet"]
    told = Event.objects.filter(merchant=covered.merchant, type__startswith="claim.").values_list("type", flat=True)
    assert sorted(told) == ["claim.approved"] * 2 + ["claim.filed"] * 2 + ["claim.paid"] * 2
    # Four eyes stay two people, whom nobody can be.
    event = InsuredEvent.objects.get()
    assert (event.declared_by.username, event.confirmed_by.username) == (sandbox.MAKER, sandbox.APPROVER)
    assert {(one.assessed_by.username, one.approved_by.username) for one in Claim.objects.all()} == {
        (sandbox.MAKER, sandbox.APPROVER)
    }
    for person in User.objects.filter(username__startswith="sandbox-"):
        assert not any([person.has_usable_password(), person.is_active, person.is_staff, person.is_superuser])
    again = covered.post("test/default", {"loss_date": loss_date}, Idempotency_Key="drill")
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (drill, "true")
    assert covered.post("test/default", {"loss_date": loss_date}).json()["code"] == "AlreadyDeclared"
    sold = covered.post("cards/quote", {"program": first["program"], "prepaid_amount": 100})
    assert sold.status_code in (200, 409)
    # The merchant whose twin it is goes on.
    assert opened(lotus)["state"] == "ACTIVE"
    invariants.hold()


def test_without_an_event_there_is_none_to_show_or_to_end(test):
    for answer in (test.get("test/default"), test.post("test/reset")):
        assert (answer.status_code, answer.json()["code"]) == (404, "DrillNotFound")


def test_a_loss_is_not_in_the_future_of_the_merchants_clock(test):
    tomorrow = (timezone.localdate() + timedelta(days=1)).isoformat()
    assert test.post("test/default", {"loss_date": tomorrow}).json()["code"] == "LossInFuture"
    test.post("test-clock", {"advance_seconds": 2 * DAY})
    assert test.post("test/default", {"loss_date": tomorrow}).status_code == 201


def test_after_the_drill_it_sells_and_fails_again(test):
    opened(test)
    test.post("test-clock", {"advance_seconds": 2 * DAY})
    today = test.get("test-clock").json()["now"][:10]
    assert test.post("test/default", {"loss_date": today}).json()["done"]
    refused = test.post("cards", {"program": test.get("programs").json()["data"][0]["id"], "prepaid_amount": 100_000,
                                  "holder": {"name": "王小明", "phone": "13912342893"}, "reference": "PUR-2",
                                  "payment_method": "WECHAT"})  # fmt: skip
    assert refused.json()["code"] == "MerchantFailed"
    ended = test.post("test/reset", Idempotency_Key="reset")
    assert (ended.status_code, ended.json()["state"], ended.json()["claims"]["paid"]) == (200, "ENDED", 1)
    assert test.post("test/reset", Idempotency_Key="reset").content == ended.content
    opened(test, reference="PUR-3")
    test.post("test-clock", {"advance_seconds": 2 * DAY})
    today = test.get("test-clock").json()["now"][:10]
    second = test.post("test/default", {"loss_date": today}).json()
    assert (second["done"], second["claims"]["paid"]) == (True, 1)
    assert Claim.objects.count() == 2
    invariants.hold()


def test_a_drill_that_was_broken_off_is_carried_on_by_the_clock_and_not_ended_before(test):
    opened(test)
    test.post("test-clock", {"advance_seconds": 2 * DAY})
    now = timezone.now()
    twin = Merchant.objects.get(pk=test.merchant.pk)
    event = sandbox.begin_default(
        merchant=twin, loss_date=twin.moment(now).date(), by="test", now=twin.moment(now)
    )  # and then the process died
    assert test.get("test/default").json()["done"] is False
    assert test.post("test/reset").json()["code"] == "DrillGoingOn"
    assert sandbox.carry_on_drills(now=now) == 1
    assert test.get("test/default").json()["done"] is True
    assert sandbox.carry_on_drills(now=now) == 0
    assert Claim.objects.get(event=event).state == Claim.State.PAID


def test_the_clock_carries_on_no_event_that_staff_declared(test):
    event = sandbox.begin_default(merchant=test.merchant, loss_date=date(2026, 1, 1), by="x", now=timezone.now())
    InsuredEvent.objects.filter(pk=event.pk).update(declared_by=world.person("clerk"))
    assert sandbox.carry_on_drills(now=timezone.now()) == 0


def test_the_document_shows_every_address():
    text = (DOCUMENT.with_name("sandbox.md")).read_text(encoding="utf-8")
    for route, method in ASKED:
        shown = route.replace("<str:policy_id>", "{id}").replace("<str:exchange_id>", "{id}")
        assert f"{method.upper()} /{shown}`" in text, route
