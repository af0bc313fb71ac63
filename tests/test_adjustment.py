"""Cover by the daily balance: charged provisionally, settled once when it is over, exact to the fen."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from insurance import adjustment, enrolment, insurer, reconciliation
from insurance.enrolment import Cover
from insurance.models import Endorsement, Insurer, Policy, Product
from insurance.premium import daily_balance_premium
from issuing.models import Kind
from prepaid import consumption, processing
from prepaid.models import Card, Load, Run
from prepaid.reconciliation import business_date, span
from tests import cards, failures
from tests.partners import Insurer as Partner
from tests.partners import insurer as partner
from tests.partners import partner_process

__all__ = ["partner", "partner_process"]

pytestmark = pytest.mark.django_db

FROM = cards.local_date(cards.OPENED)
RATE = Decimal("0.0120")
AFTER_ALL = cards.day(400)


@pytest.fixture(autouse=True)
def _spoken_to(partner: Partner, settings: Any) -> None:
    settings.INSURER_URL = f"{partner.url}/insurer/"
    settings.INSURER_KEYS = partner.keys


def insured(kind: Kind, paid: int = 100_000, *, days: int = 180, minimum: int = 100, **facts: Any) -> Policy:
    """A card bought on 1 January and covered from that day on by its daily balance at 1.2 %."""
    gift = facts.pop("gift", 0)
    program = cards.program(kind, term_days=days, **facts)
    Product.objects.create(
        merchant=program.merchant,
        insurer=Insurer.objects.get_or_create(code="ANPING", defaults={"name": "Anping"})[0],
        code="PCPG-D",
        annual_rate=RATE,
        basis=Product.Basis.DAILY_BALANCE,
        minimum_premium=minimum,
        valid_from_date=FROM,
    )
    card = cards.opened(program, paid, gift=gift)
    enrolment.owe([Cover(card.pk, program.merchant_id, paid, FROM, days)], now=cards.OPENED)
    told()
    return Policy.objects.get(card=card)


def told() -> int:
    """What is owed is sent; the day on which it was owed may lie in the tests' future."""
    Endorsement.objects.filter(state=Endorsement.State.PENDING).update(due_at=cards.OPENED)
    return insurer.sweep(now=timezone.now(), seconds=20)


def adjusted(policy: Policy, *, now: datetime = AFTER_ALL) -> Endorsement:
    """The policy's adjustment, made by the clock and accepted by the insurer."""
    assert adjustment.owe_due(now=now) == 1
    assert told() == 1
    row = Endorsement.objects.get(policy=policy, kind=Endorsement.Kind.ADJUSTMENT)
    assert row.state == Endorsement.State.ACCEPTED, row.refusal_code
    return row


def topped_up(card: Card, paid: int, at: datetime) -> None:
    posted = cards.topped_up(card, paid, at=at)
    load = Load.objects.get(pk=posted.id)
    enrolment.owe_increase(card_id=card.pk, load=load, today=cards.local_date(at), now=at)


def day_by_day(card: Card, until: date) -> int:
    """Σ of what the card was worth at the end of each day, one valuation a day: slow, and another way."""
    return sum(
        consumption.valuation_at(card, datetime.combine(day, time.max, cards.SHANGHAI)).refundable
        for day in (FROM + timedelta(days=n) for n in range((until - FROM).days))
    )


# The worked examples ------------------------------------------------------------------------------------


def test_half_of_the_gift_card_spent_half_way_gives_premium_back(partner):
    policy = insured(Kind.BONUS, gift=20_000)
    assert policy.premium == 592  # 1,000.00 × 1.2 % × 180 / 365
    cards.paid(policy.card, 45_000, at=cards.day(90))
    row = adjusted(policy)
    # 90 days of 1,000.00 and 90 of 625.00: 4.81.
    assert (row.balance_days, row.premium, row.amount) == (90 * 100_000 + 90 * 62_500, -111, 0)
    assert row.effective_date == policy.cover_to_date
    [theirs] = partner.holds("SELECT * FROM insurer_policy")
    assert (theirs["adjustment"], theirs["state"], theirs["sum_insured"]) == (-111, "IN_FORCE", 100_000)


def test_an_unspent_card_costs_what_was_charged_and_that_is_said_too():
    row = adjusted(insured(Kind.BONUS, 1_234_567))
    assert (row.balance_days, row.premium) == (1_234_567 * 180, 0)


def test_a_term_costs_less_each_day():
    policy = insured(Kind.ENTITLEMENT, 99_900, days=365)
    row = adjusted(policy)
    assert row.balance_days == sum(int(Decimal(99_900 * (365 - n) * 2 + 365) // 730) for n in range(365))
    assert row.balance_days == day_by_day(policy.card, policy.cover_to_date) == 18_281_700
    assert (policy.premium, row.premium) == (1_199, 601 - 1_199)


def test_uses_and_discounts_cost_what_is_left_of_them():
    times = insured(Kind.TIMES)
    for n in (10, 20, 20, 30):
        cards.paid(times.card, uses=1, at=cards.day(n))
    row = adjusted(times)
    assert row.balance_days == 10 * 100_000 + 10 * 91_667 + 10 * 75_000 + 150 * 66_667
    discount = insured(Kind.DISCOUNT)
    cards.paid(discount.card, 50_000, at=cards.day(30))
    assert adjusted(discount).balance_days == 30 * 100_000 + 150 * 60_000


def test_a_payment_counts_from_the_end_of_its_own_local_day():
    policy = insured(Kind.BONUS)
    cards.paid(policy.card, 40_000, at=datetime(2026, 1, 11, 0, 30, tzinfo=cards.SHANGHAI))
    cards.paid(policy.card, 60_000, at=datetime(2026, 1, 20, 23, 59, tzinfo=cards.SHANGHAI))
    assert adjusted(policy).balance_days == 10 * 100_000 + 9 * 60_000


def test_the_minimum_is_honoured_once_a_day_of_cover_ran():
    policy = insured(Kind.BONUS, minimum=500)
    cards.paid(policy.card, 100_000, at=cards.OPENED)
    row = adjusted(policy)
    assert (policy.premium, row.balance_days, row.premium) == (592, 0, 500 - 592)


# What happens to a card ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.BONUS, Kind.DISCOUNT])
def test_top_ups_refunds_and_what_is_told_late_are_on_the_days_they_occurred(kind):
    policy = insured(kind, 100_000, gift=20_000 if kind == Kind.BONUS else 0)
    card = policy.card
    first = cards.paid(card, 30_000, at=cards.day(10))
    topped_up(card, 33_333, cards.day(40))
    told()
    cards.paid(card, 70_000, at=cards.day(60))
    cards.refunded(first, amount=7_001, at=cards.day(80))
    cards.paid(card, 1_111, at=cards.day(20), now=cards.day(120))  # told a hundred days late
    row = adjusted(policy)
    assert row.balance_days == day_by_day(card, policy.cover_to_date)
    increase = Endorsement.objects.get(kind=Endorsement.Kind.INCREASE)
    due = daily_balance_premium(row.balance_days, annual_rate=RATE, minimum=100)
    assert row.premium == due - policy.premium - increase.premium < 0


def test_a_topped_up_term_goes_on_where_the_first_ends():
    policy = insured(Kind.ENTITLEMENT, 99_900, days=180, price=99_900)
    topped_up(policy.card, 99_900, cards.day(100))
    told()
    assert adjusted(policy).balance_days == day_by_day(policy.card, policy.cover_to_date)


def test_a_top_up_that_the_insurer_declined_costs_nothing(partner):
    policy = insured(Kind.BONUS)
    partner.behaves("REFUSE_SOME", remaining=1)
    topped_up(policy.card, 50_000, cards.day(40))
    told()
    assert Endorsement.objects.get().state == Endorsement.State.DECLINED
    row = adjusted(policy)
    assert (row.balance_days, row.premium) == (180 * 100_000, 0)


def test_a_closed_card_is_cancelled_first_and_adjusted_then():
    policy = insured(Kind.BONUS, gift=20_000)
    cards.paid(policy.card, 45_000, at=cards.day(30))
    processing.close(card=Card.objects.get(pk=policy.card_id), reason="moved away", by="x", now=cards.day(60))
    # What the cancellation gives back is part of what was charged, so it is waited for.
    assert adjustment.owe_due(now=cards.day(60)) == 0
    told()
    cancellation = Endorsement.objects.get(kind=Endorsement.Kind.CANCELLATION)
    assert cancellation.premium == -395  # 120 of 180 days of 5.92
    row = adjusted(policy, now=cards.day(60))
    assert row.effective_date == cancellation.effective_date
    assert row.balance_days == 30 * 100_000 + 30 * 62_500
    assert row.premium == 160 - (592 - 395)


def test_a_card_closed_on_its_first_day_costs_nothing_at_all():
    policy = insured(Kind.BONUS, minimum=500)
    processing.close(card=policy.card, reason="withdrawn", by="x", now=cards.OPENED)
    told()
    row = adjusted(policy, now=cards.day(1))
    assert (row.balance_days, row.premium) == (0, 0)


def test_a_compensated_card_was_covered_up_to_its_loss():
    policy = insured(Kind.BONUS, gift=20_000)
    cards.paid(policy.card, 45_000, at=cards.day(30))
    claim = failures.filed(policy.card)
    later = cards.day(200)
    assert adjustment.owe_due(now=later) == 0, "a claim that is open may still be rejected"
    failures.settled(claim)
    told()  # the notices
    row = adjusted(policy, now=later)
    assert row.effective_date == failures.LOSS_DATE
    assert row.balance_days == 30 * 100_000 + 109 * 62_500 == day_by_day(policy.card, failures.LOSS_DATE)


def test_before_its_end_nothing_is_adjusted_and_after_it_once(partner):
    policy = insured(Kind.BONUS)
    last_day = cards.day(179)
    assert adjustment.owe_due(now=last_day) == 0
    adjusted(policy, now=cards.day(180))
    cards.paid(policy.card, 10_000, at=cards.day(10), now=cards.day(200))
    assert adjustment.owe_due(now=AFTER_ALL) == 0
    assert Endorsement.objects.count() == 1
    # The ledger went on; the sheet is still that of what was known when it was adjusted.
    sheet = adjustment.statement(policy, now=AFTER_ALL, today=AFTER_ALL.date())
    assert (sheet.balance_days, sheet.due, sheet.until_date) == (180 * 100_000, 592, policy.cover_to_date)
    partner.forgets()


def test_initial_cover_is_never_adjusted():
    policy = insured(Kind.BONUS)
    Product.objects.update(basis=Product.Basis.INITIAL)
    assert adjustment.owe_due(now=AFTER_ALL) == 0
    assert not policy.endorsements.exists()


def test_many_policies_are_worked_out_together_and_in_slices(django_assert_max_num_queries):
    policies = [insured(Kind.BONUS, 100_000 + n) for n in range(5)]
    with django_assert_max_num_queries(20):
        assert adjustment.owe_due(now=AFTER_ALL, size=2) == 5
    sums = dict(Endorsement.objects.values_list("policy", "balance_days"))
    assert sums == {policy.pk: 180 * policy.sum_insured for policy in policies}


# What the insurer makes of it ---------------------------------------------------------------------------


def test_the_insurer_that_is_silent_is_asked_and_adjusts_once(partner):
    policy = insured(Kind.BONUS, gift=20_000)
    cards.paid(policy.card, 45_000, at=cards.day(90))
    assert adjustment.owe_due(now=AFTER_ALL) == 1
    partner.behaves("SILENT_AFTER", type="ADJUSTMENT", remaining=1)
    told()
    row = Endorsement.objects.get()
    assert row.state == Endorsement.State.UNKNOWN
    Endorsement.objects.update(due_at=cards.OPENED)
    told()
    row.refresh_from_db()
    assert row.state == Endorsement.State.ACCEPTED
    assert len(partner.holds("SELECT 1 FROM insurer_item WHERE type = 'ADJUSTMENT'")) == 1


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("1003", {"premium": -110}),
        ("1003", {"balance_days": 14_700_000}),
        ("1004", {"effective_date": "2026-07-01"}),
        ("1004", {"effective_date": "2025-12-31"}),
        ("1006", {"policy_no": "P0"}),
        ("1007", {"premium": "-111"}),
        ("1011", {"balance_days": 180 * 100_000 + 1}),
        ("1011", {"balance_days": -1}),
    ],
)
def test_a_wrong_adjustment_is_refused_and_a_second_one_too(partner, code, changes):
    policy = insured(Kind.BONUS)
    item = {
        "request_no": "adj-1", "policy_no": policy.policy_no, "balance_days": 14_625_000, "premium": -111,
        "effective_date": policy.cover_to_date.isoformat(),
    }  # fmt: skip

    def asked(request_no: str, **changes: object) -> str:
        answer = partner.ask("ADJUSTMENT", {"items": [item | {"request_no": request_no} | changes]})
        return str(answer.body["items"][0]["code"])

    assert asked("wrong", **changes) == code
    assert asked("right") == "0000"
    assert asked("again") == "1010"


def test_what_was_refused_is_not_sent_for_ever(partner):
    policy = insured(Kind.BONUS)
    partner.behaves("REFUSE_SOME", remaining=1)
    assert adjustment.owe_due(now=AFTER_ALL) == 1
    assert told() == 1
    row = policy.endorsements.get()
    assert (row.state, row.refusal_code) == (Endorsement.State.DECLINED, "1009")
    assert adjustment.owe_due(now=AFTER_ALL) == 0


def test_it_stands_in_the_bordereau_and_agrees(partner):
    policy = insured(Kind.BONUS, gift=20_000)
    cards.paid(policy.card, 45_000, at=cards.day(90))
    row = adjusted(policy)
    today = business_date(timezone.now())
    after = span(today)[1] + timedelta(hours=1)
    run = reconciliation.bordereau_day(business_date=today, now=after)
    assert (run.state, run.breaks.count()) == (Run.State.DONE, 0)
    figures = {"count": 1, "amount": 0, "premium": -111}
    assert {"type": "ADJUSTMENT", "ours": figures, "theirs": figures} in run.totals["by_type"]
    partner.database.execute("UPDATE insurer_item SET premium = -110 WHERE type = 'ADJUSTMENT'")
    run = reconciliation.bordereau_day(business_date=today, now=after)
    assert [(one.type, one.subject) for one in run.breaks.all()] == [("AMOUNT_DIFFERS", row.request_no)]


# The sheet ----------------------------------------------------------------------------------------------


def test_the_sheet_says_every_run_of_days_and_a_terms_months():
    policy = insured(Kind.BONUS, gift=20_000)
    cards.paid(policy.card, 45_000, at=cards.day(90))
    sheet = adjustment.statement(policy, now=cards.NOW, today=date(2026, 4, 11))
    assert sheet.runs == [
        adjustment.Run(FROM, 90, 100_000, 9_000_000),
        adjustment.Run(date(2026, 4, 1), 10, 62_500, 625_000),
    ]
    assert (sheet.due, sheet.charged, sheet.adjustment) == (316, 592, None)
    term = insured(Kind.ENTITLEMENT, 99_900, days=365)
    sheet = adjustment.statement(term, now=AFTER_ALL, today=term.cover_to_date)
    assert [run.days for run in sheet.runs] == [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    assert sum(run.balance_days for run in sheet.runs) == sheet.balance_days == 18_281_700
