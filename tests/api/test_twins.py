"""Test and live never meet: a test twin is a merchant of its own, its keys are its own, and no figure counts it."""

import base64
from datetime import date, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from config import messages
from insurance import exposure, insurer
from insurance import reconciliation as bordereau
from insurance.models import InsurerMessage, Policy, Product
from issuing import keys, merchants
from issuing.models import CardProgram, Kind, Merchant, MerchantKey
from points.models import CouponProduct, ExchangeRatio
from prepaid import figures, processing
from prepaid.reconciliation import business_date, span
from tests import cards
from tests import points_world as world
from tests.api.asking import Asker, asker, insured
from tests.partners import insurer as reference_insurer
from tests.partners import partner_process

__all__ = ["partner_process", "reference_insurer"]

pytestmark = pytest.mark.django_db


@pytest.fixture
def twin(merchant: Merchant) -> Merchant:
    cards.program(Kind.BONUS, merchant=merchant, tiers=[(100_000, 20_000)])
    return processing.make_test_twin(merchant=merchant, now=timezone.now())


def order(asked: Asker, reference: str = "PUR-1") -> dict[str, Any]:
    return {
        "program": asked.get("programs").json()["data"][0]["id"],
        "prepaid_amount": 100_000,
        "holder": {"name": "王小明", "phone": "13912342893"},
        "reference": reference,
        "payment_method": "WECHAT",
    }


def test_a_twin_sells_what_its_merchant_sells_on_the_same_terms(merchant):
    program = cards.program(Kind.BONUS, merchant=merchant, tiers=[(100_000, 20_000)])
    tea = world.product(merchant=merchant)
    world.ratio(tea)
    made = processing.make_test_twin(merchant=merchant, now=timezone.now())
    copy = CardProgram.objects.get(merchant=made)
    assert (made.code, made.test_of, copy.code) == (f"{merchant.code}-TEST", merchant, f"{program.code}-TEST")
    assert (copy.card_limit, copy.term_days, [(t.from_amount, t.gift) for t in copy.tiers.all()]) == (
        program.card_limit, program.term_days, [(100_000, 20_000)],
    )  # fmt: skip
    assert Product.objects.get(merchant=made).annual_rate == Product.objects.get(merchant=merchant).annual_rate
    ratio = ExchangeRatio.objects.get(product__merchant=made)
    assert (ratio.ratio, ratio.version, ratio.advised_at) == (ExchangeRatio.objects.get(product=tea).ratio, 1, None)
    assert ratio.due_at is not None  # owed to the points system's test side


def test_a_twin_made_again_is_the_same_one_with_what_is_new(merchant, twin):
    cards.program(Kind.TIMES, merchant=merchant)
    world.product(merchant=merchant)
    before = set(CardProgram.objects.filter(merchant=twin).values_list("pk", flat=True))
    assert processing.make_test_twin(merchant=merchant, now=timezone.now()) == twin
    assert processing.make_test_twin(merchant=merchant, now=timezone.now()) == twin
    after = set(CardProgram.objects.filter(merchant=twin).values_list("pk", flat=True))
    assert (len(before), len(after), before < after) == (1, 2, True)
    assert CouponProduct.objects.filter(merchant=twin).count() == 1
    assert Product.objects.filter(merchant=twin).count() == 1


def test_a_twin_has_no_twin(twin):
    with pytest.raises(merchants.AlreadyATestMerchant):
        processing.make_test_twin(merchant=twin, now=timezone.now())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda live, twin: Merchant.objects.create(code="TWO-TEST", name="x", test_of=twin),
        lambda live, twin: Merchant.objects.create(code="SECOND-TEST", name="x", test_of=live),
        lambda live, twin: Merchant.objects.create(code="LIVE-TEST", name="x"),
        lambda live, twin: Merchant.objects.filter(pk=twin.pk).update(code="LIVE"),
        lambda live, twin: Merchant.objects.filter(pk=twin.pk).update(test_of=None, code="LIVE"),
        lambda live, twin: Merchant.objects.filter(pk=live.pk).update(test_of=insured(), code="X-TEST"),
        lambda live, twin: MerchantKey.objects.filter(merchant=twin).update(merchant=live),
    ],
)
def test_the_database_keeps_the_sides_apart_whoever_writes(merchant, twin, wrong):
    keys.make(merchant=twin, name="till", now=timezone.now())
    with pytest.raises(IntegrityError), transaction.atomic():
        wrong(merchant, twin)


def test_what_one_side_has_the_other_does_not_find(merchant, twin):
    live, test = asker(merchant), asker(twin)
    assert (live.key[:8], test.key[:8]) == ("sk_live_", "sk_test_")
    real, trial = (one.post("cards", order(one)).json() for one in (live, test))  # one reference, used on both sides
    assert real["program"] != trial["program"]
    for one, other in ((live, trial), (test, real)):
        assert one.get(f"cards/{other['id']}").status_code == 404
        paid = one.post(f"cards/{other['id']}/payments", {"list_amount": 1, "reference": "ORDER-1"})
        assert paid.status_code == 404
        assert one.post("cards", {**order(one, "PUR-2"), "program": other["program"]}).status_code == 404
    assert [[row["id"] for row in one.get("cards").json()["data"]] for one in (live, test)] == [
        [real["id"]], [trial["id"]],
    ]  # fmt: skip


def test_no_figure_counts_a_test_merchant(merchant, twin):
    live, test = asker(merchant), asker(twin)
    for one, amount in ((live, 100_000), (test, 70_000)):
        assert one.post("cards", {**order(one), "prepaid_amount": amount}).status_code == 201
    for at, policy in enumerate(Policy.objects.all()):
        Policy.objects.filter(pk=policy.pk).update(
            state="ACCEPTED", policy_no=f"HT-{at}", accepted_at=timezone.now(), cover_from_date=date(2020, 1, 1)
        )
    exposed = exposure.exposures(now=timezone.now())
    assert [(one.merchant, one.sum_insured) for one in exposed] == [(merchant.code, 100_000)]
    counted = figures.as_at(timezone.now(), merchants=list(Merchant.objects.live()))
    assert counted[""]["principal"] == 100_000


# The partners' test side


@pytest.mark.django_db(transaction=True)
def test_a_test_merchants_cards_are_insured_at_the_test_address_only(merchant, twin, reference_insurer, settings):
    """The live address is one where nobody answers: whatever were sent there would stay unknown."""
    settings.INSURER_KEYS = settings.INSURER_TEST_KEYS = reference_insurer.keys
    settings.INSURER_URL = "http://127.0.0.1:9/insurer/"
    settings.INSURER_TEST_URL = f"{reference_insurer.url}/insurer/"
    for one in (asker(merchant), asker(twin)):
        one.post("cards", order(one))
    _swept()
    assert {(policy.merchant.code, policy.state) for policy in Policy.objects.all()} == {
        (merchant.code, "UNKNOWN"),
        (twin.code, "ACCEPTED"),
    }
    assert reference_insurer.holds("SELECT merchant FROM insurer_policy") == [{"merchant": twin.code}]
    sent = InsurerMessage.objects.filter(direction="SENT").values_list("type", "is_test")
    assert set(sent) == {("ENROLMENT", False), ("ENROLMENT", True)}


def _swept() -> None:
    insurer.sweep(now=timezone.now(), seconds=20)


@pytest.mark.django_db(transaction=True)
def test_an_insurer_that_is_down_for_tests_does_not_hold_up_live_cards(merchant, twin, reference_insurer, settings):
    settings.INSURER_KEYS = settings.INSURER_TEST_KEYS = reference_insurer.keys
    settings.INSURER_URL = f"{reference_insurer.url}/insurer/"
    settings.INSURER_TEST_URL = "http://127.0.0.1:9/insurer/"
    live, test = asker(merchant), asker(twin)
    test.post("cards", order(test))
    _swept()
    live.post("cards", order(live))
    _swept()
    assert set(Policy.objects.values_list("merchant__code", "state")) == {
        (twin.code, "UNKNOWN"),
        (merchant.code, "ACCEPTED"),
    }


def late_answer(policies: list[Policy], signed_with: list[str]) -> messages.Question:
    now = timezone.now()
    items = [
        {"request_no": one.request_no, "code": "0000", "accepted_at": now.isoformat(), "policy_no": f"P{one.pk.hex}"}
        for one in policies
    ]
    return messages.compose(
        keys=signed_with, type="LATE_ANSWER", request_no=messages.new_request_no(), body={"items": items},
        now=now, business_date=now.date(),
    )  # fmt: skip


@pytest.mark.parametrize(("side", "settled"), [("live", {"live"}), ("test", {"test"}), ("both", {"live", "test"})])
def test_what_one_side_of_the_insurer_says_counts_for_its_own_cards(merchant, twin, settings, side, settled):
    own = {word: base64.b64encode(word.encode() * 8).decode() for word in ("live", "test")}
    settings.INSURER_KEYS = [own["live"]]
    # The insurer beside us is both sides at once, with one key.
    settings.INSURER_TEST_KEYS = [own["test" if side != "both" else "live"]]
    for one in (asker(merchant), asker(twin)):
        one.post("cards", order(one))
    Policy.objects.update(state="UNKNOWN")
    question = late_answer(list(Policy.objects.all()), [own["test" if side == "test" else "live"]])
    insurer.take_late_answer(raw=question.raw, headers=question.headers)
    accepted = Policy.objects.filter(state="ACCEPTED").values_list("merchant__code", flat=True)
    assert set(accepted) == {{"live": merchant.code, "test": twin.code}[one] for one in settled}


@pytest.mark.django_db(transaction=True)
def test_the_bordereau_is_compared_without_what_test_merchants_insured(merchant, twin, reference_insurer, settings):
    settings.INSURER_KEYS = settings.INSURER_TEST_KEYS = reference_insurer.keys
    settings.INSURER_URL = settings.INSURER_TEST_URL = f"{reference_insurer.url}/insurer/"
    live, test = asker(merchant), asker(twin)
    live.post("cards", order(live))
    for n in range(2):
        test.post("cards", order(test, f"PUR-{n}"))
    _swept()
    day = business_date(timezone.now())
    run = bordereau.bordereau_day(business_date=day, now=span(day)[1] + timedelta(hours=2))
    run.refresh_from_db()
    assert (run.state, run.compared, run.totals["tests_left_out"]) == ("DONE", 1, 2)
    assert list(run.breaks.all()) == []
    assert run.totals["by_type"] == [
        {"type": "ENROLMENT", "ours": run.totals["by_type"][0]["theirs"], "theirs": run.totals["by_type"][0]["ours"]}
    ]
    assert run.totals["by_type"][0]["ours"]["count"] == 1
