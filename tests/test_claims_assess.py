"""Assessing: the balance at the loss date, what the law owes of it and what is insured of that."""

from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db.models import Max, Sum
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from claims import adjudication, compensation
from claims.models import Claim
from claims.worksheet import worksheet
from config.states import IllegalMove
from insurance.models import Policy
from issuing.models import Kind
from prepaid import interest, valuation
from prepaid.models import Card, Entry
from tests import cards, failures
from tests.cards import SHANGHAI

pytestmark = pytest.mark.django_db


def holding_625() -> Card:
    """1,000.00 paid and 200.00 given, 450.00 of it spent."""
    card = cards.opened(cards.program(Kind.BONUS), 100_000, gift=20_000)
    cards.paid(card, 45_000)
    return card


def assessed(card: Card, *, refunded: int = 0, **terms) -> Claim:
    failures.covered(card, terms=failures.product(card.merchant, **terms))
    return failures.assessed(card, refunded_by_merchant=refunded)


# The worked example ---------------------------------------------------------------------------------------------


def test_a_bonus_card_of_1000_and_200_given_with_450_spent_is_a_loss_of_625():
    claim = assessed(holding_625())
    assert (claim.refundable_at_loss, claim.loss, claim.payable) == (62_500, 62_500, 62_500)


def test_ten_percent_deductible_leaves_562_50():
    assert assessed(holding_625(), deductible_rate=Decimal("0.1")).payable == 56_250


def test_an_absolute_deductible_of_100_leaves_525():
    assert assessed(holding_625(), deductible_amount=10_000).payable == 52_500


def test_coverage_of_80_percent_leaves_500():
    assert assessed(holding_625(), coverage_ratio=Decimal("0.8")).payable == 50_000


def test_200_refunded_by_the_merchant_then_ten_percent_leaves_382_50():
    claim = assessed(holding_625(), refunded=20_000, deductible_rate=Decimal("0.1"))
    assert (claim.loss, claim.payable) == (42_500, 38_250)


def test_an_entitlement_of_999_stopped_on_15_may_leaves_632_24():
    card = cards.opened(cards.program(Kind.ENTITLEMENT), 99_900)
    failures.covered(card)
    failures.failed(card.merchant, loss_date=date(2026, 5, 15))
    claim = failures.assessed(card)
    assert (claim.refundable_at_loss, claim.loss, claim.payable) == (63_224, 63_224, 63_224)


def test_a_times_card_of_12_uses_with_5_used_is_a_loss_of_583_33():
    card = cards.opened(cards.program(Kind.TIMES), 100_000)
    cards.paid(card, uses=5)
    assert assessed(card).loss == 58_333


# The moment of loss ---------------------------------------------------------------------------------------------


def test_what_was_spent_the_minute_before_midnight_counts_and_at_midnight_no_longer():
    card = holding_625()
    cards.paid(card, 12_000, at=failures.BEFORE)
    cards.paid(card, 6_000, at=failures.LOSS_AT)
    claim = assessed(card)
    assert (claim.refundable_at_loss, claim.spent_after_loss, claim.loss) == (52_500, 5_000, 47_500)


def test_what_was_spent_after_the_loss_was_consumed_and_is_not_compensated():
    card = holding_625()
    cards.paid(card, 75_000, at=failures.AFTER)
    failures.covered(card)
    failures.failed(card.merchant)
    with pytest.raises(adjudication.NothingToClaim):
        adjudication.file_claim(card=card, by="staff:clerk", now=failures.NOW)


def test_a_load_from_after_the_loss_date_is_no_loss():
    card = holding_625()
    cards.topped_up(card, 50_000, at=failures.AFTER)
    assert assessed(card).loss == 62_500


def test_a_load_from_after_the_loss_does_not_hide_what_was_spent_since():
    card = holding_625()
    cards.topped_up(card, 50_000, at=failures.LOSS_AT)
    cards.paid(card, 12_000, at=failures.AFTER)
    claim = assessed(card)
    assert (claim.refundable_at_loss, claim.refundable_now, claim.spent_after_loss, claim.loss) == (
        62_500, 52_500, 10_000, 52_500
    )  # fmt: skip


def test_every_load_has_its_own_share_and_rounding_is_once_per_card():
    card = cards.opened(cards.program(Kind.BONUS), 100_000, gift=20_000)
    cards.topped_up(card, 30_000, gift=1)
    cards.paid(card, 119_999)
    assert assessed(card).refundable_at_loss == 30_001  # 0.83 + 30,000


# What is insured ------------------------------------------------------------------------------------------------


def test_interest_is_owed_by_law_and_insured_by_nobody():
    failures.rate("0.03")
    claim = assessed(holding_625())
    assert (claim.interest, claim.legal_entitlement, claim.payable) == (62, 62_562, 62_500)  # 12 days


def test_without_a_rate_for_the_day_of_the_contract_interest_is_unknown_and_not_nothing():
    card = cards.opened(cards.program(Kind.BONUS), at=datetime(2018, 1, 1, tzinfo=SHANGHAI))
    claim = assessed(card)
    assert (claim.interest, claim.legal_entitlement) == (None, None)
    assert claim.loss == 100_000


@pytest.mark.parametrize(
    ("terms", "facts"),
    [
        ({}, {"state": Policy.State.UNKNOWN, "policy_no": None, "accepted_at": None}),
        ({}, {"state": Policy.State.PENDING, "policy_no": None, "accepted_at": None}),
        ({}, {"cover_from_date": date(2026, 5, 21)}),
        ({}, {"cover_to_date": failures.LOSS_DATE}),
        ({"waiting_days": 140}, {}),
    ],
)
def test_what_is_not_covered_on_the_loss_date_is_owed_by_law_and_compensated_by_nobody(terms, facts):
    card = holding_625()
    failures.covered(card, terms=failures.product(card.merchant, **terms), **facts)
    claim = failures.assessed(card)
    assert (claim.loss, claim.payable, claim.sum_insured, claim.reason) == (62_500, 0, 0, "not covered")


def test_a_card_nobody_insured_is_claimed_for_all_the_same():
    claim = failures.assessed(holding_625())
    assert (claim.policy, claim.loss, claim.payable, claim.reason) == (None, 62_500, 0, "not covered")


def test_the_last_day_of_the_waiting_time_is_over_on_the_day_it_ends():
    claim = assessed(holding_625(), waiting_days=139)  # from 1 January to 20 May
    assert claim.payable == 62_500


def test_no_more_than_the_sum_insured_is_payable():
    card = holding_625()
    failures.covered(card, sum_insured=40_000)
    assert failures.assessed(card).payable == 40_000


def test_what_is_excluded_is_no_loss():
    card = holding_625()
    failures.covered(card)
    claim = failures.assessed(card, excluded=12_500)
    assert (claim.excluded, claim.loss) == (12_500, 50_000)
    claim = adjudication.assess(claim=claim, by=failures.staff("adjuster"), now=failures.NOW)
    assert claim.excluded == 12_500


def test_an_amount_deducted_is_not_below_zero():
    claim = failures.filed(holding_625())
    with pytest.raises(adjudication.AmountNegative):
        adjudication.assess(claim=claim, by=failures.staff("adjuster"), now=failures.NOW, excluded=-1)


def test_what_is_decided_is_not_assessed_again():
    claim = failures.approved(holding_625())
    with pytest.raises(IllegalMove):
        adjudication.assess(claim=claim, by=failures.staff("adjuster"), now=failures.NOW)


# The worksheet --------------------------------------------------------------------------------------------------


def test_the_worksheet_shows_the_loads_the_entries_used_and_every_line():
    card = holding_625()
    cards.paid(card, 6_000, at=failures.AFTER)
    failures.rate("0.03")
    failures.covered(card, terms=failures.product(card.merchant, deductible_rate=Decimal("0.1")))
    claim = failures.assessed(card)
    through = Entry.objects.filter(card=card).aggregate(last=Max("id"))["last"]
    assert claim.formula == "compensation-1 valuation-1"
    assert claim.entries_through == through
    sheet = worksheet(claim)
    lines = [(line["step"], line["amount"], line["by"]) for line in sheet.pop("lines")]
    assert lines == [
        ("refundable_at_loss", 62_500, None),
        ("refundable_now", 57_500, None),
        ("still_there", 57_500, None),
        ("refunds_received", 57_500, 0),
        ("excluded", 57_500, 0),
        ("loss", 57_500, None),
        ("sum_insured_left", 100_000, None),
        ("insured_loss", 57_500, None),
        ("covered", 57_500, "1.0000"),
        ("after_deductible_rate", 51_750, "0.1000"),
        ("payable", 51_750, 0),
    ]
    assert sheet == {
        "formula": "compensation-1 valuation-1",
        "loss_date": "2026-05-20",
        "entries": {"through": through, "number": 2, "sum": 75_000},
        "loads": [{"load": 1, "paid": 100_000, "face": 120_000, "at_loss": 75_000, "now": 69_000}],
        "loss": 57_500,
        "payable": 51_750,
        "paid_in_after_loss": 0,
        "paid_before": 0,
        "interest": {"contract_date": "2026-01-01", "annual_rate": "0.030000", "days": 12, "amount": 57},
        "legal_entitlement": 57_557,
    }


# The statement and the formulas ---------------------------------------------------------------------------------


def by_hand(card: Card, claim: Claim) -> tuple[dict, int | None]:
    """The worksheet and the interest as the pure formulas give them, from the entries alone."""

    def refundable(**which) -> int:
        positions = []
        for load in card.loads.filter(occurred_at__lt=failures.LOSS_AT).order_by("seq"):
            entries = Entry.objects.filter(sub_card__load=load, **which)
            positions.append(
                valuation.LoadPosition(
                    str(load.seq), load.paid, load.face, entries.aggregate(sum=Sum("amount"))["sum"] or 0,
                    starts_on=load.starts_on_date if card.unit == "DAYS" else None,
                )
            )  # fmt: skip
        return valuation.value(positions, on_date=failures.LOSS_DATE).refundable

    policy = claim.policy
    terms = (
        {
            "coverage_ratio": policy.product.coverage_ratio,
            "deductible_rate": policy.product.deductible_rate,
            "deductible_amount": policy.product.deductible_amount,
        }
        if policy
        else {"coverage_ratio": Decimal("1.0000"), "deductible_rate": Decimal("0.0000")}
    )
    sheet = compensation.compensation(
        refundable_at_loss=refundable(transaction__occurred_at__lt=failures.LOSS_AT),
        refundable_now=refundable(),
        refunds_received=claim.refunded_by_merchant,
        excluded=claim.excluded,
        sum_insured_left=policy.sum_insured - policy.compensated if policy else 0,
        **terms,
    )
    owed = interest.interest(
        sheet.loss, annual_rate=Decimal("0.03"), from_date=failures.LOSS_DATE, to_date=date(2026, 6, 1)
    )
    return sheet.sheet(), owed


ratios = st.decimals("0.01", "0.99", places=4)
moments = st.integers(0, 150)
amounts = st.integers(1, 60_000)


@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.generate],  # each example opens cards in the database; making a failing one smaller takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(list(Kind)),
    gift=st.integers(0, 7_777),
    top_up=st.none() | st.tuples(st.integers(1, 99_999), st.integers(0, 999), moments),
    payments=st.lists(st.tuples(amounts, moments, st.booleans()), max_size=6),
    coverage=ratios,
    rate=ratios,
    deducted=st.integers(0, 5_000),
    refunded=st.integers(0, 5_000),
    excluded=st.integers(0, 5_000),
    insured=st.none() | st.integers(1, 200_000),
)
def test_the_statement_gives_what_the_formulas_give(
    kind, gift, top_up, payments, coverage, rate, deducted, refunded, excluded, insured
):
    program = cards.program(kind, card_limit=30_000)
    price = program.price or 100_000
    card = cards.opened(program, price, gift=gift if kind == Kind.BONUS else 0)
    if top_up:
        paid, given_, days = top_up
        cards.topped_up(
            card,
            paid if program.price is None else price,
            gift=given_ if kind == Kind.BONUS else 0,
            at=cards.day(days),
        )
    for amount, days, is_refunded in payments:
        card.refresh_from_db()
        at = cards.day(days) + timedelta(hours=3)
        if kind == Kind.TIMES:
            amount = amount % 3 + 1
        if card.unit != "DAYS" and amount > card.remaining:
            continue
        payment = cards.paid(card, **{"uses" if kind == Kind.TIMES else "list_amount": amount}, at=at)
        if is_refunded and payment.amount:
            cards.refunded(payment, at=at + timedelta(days=1), amount=-(payment.amount // 2))
    card.refresh_from_db()
    if insured is not None:
        terms = failures.product(
            card.merchant, coverage_ratio=coverage, deductible_rate=rate, deductible_amount=deducted
        )
        failures.covered(card, terms=terms, sum_insured=insured)
    failures.rate("0.03")
    failures.failed(card.merchant)
    if not card.remaining:
        return
    claim = failures.assessed(card, refunded_by_merchant=refunded, excluded=excluded)
    sheet, owed = by_hand(card, claim)
    assert worksheet(claim)["lines"] == sheet["lines"]
    assert (claim.loss, claim.payable, claim.interest) == (sheet["loss"], sheet["payable"], owed)
    assert claim.legal_entitlement == claim.loss + owed
    used = Entry.objects.filter(card=card, transaction__occurred_at__lt=failures.LOSS_AT, id__lte=claim.entries_through)
    assert worksheet(claim)["entries"]["number"] == used.count()
    assert worksheet(claim)["entries"]["sum"] == used.aggregate(sum=Sum("amount"))["sum"]
