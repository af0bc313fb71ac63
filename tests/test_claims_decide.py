"""Deciding and paying: a second person, and what was approved is what is paid."""

import pytest
from django.db import IntegrityError, transaction

from claims import adjudication
from claims.models import Claim, InsuredEvent, Recovery
from claims.worksheet import worksheet
from config.errors import SamePerson
from config.states import IllegalMove
from insurance.models import Policy
from issuing.models import Kind
from prepaid.models import Card, CardMove, Transaction
from tests import cards, failures, invariants
from tests.test_claims_file import carried_on

pytestmark = pytest.mark.django_db

CHIEF, ADJUSTER, CASHIER = "chief", "adjuster", "cashier"


@pytest.fixture
def card() -> Card:
    card = cards.opened(cards.program(Kind.BONUS), 100_000, gift=20_000)
    cards.paid(card, 45_000)
    failures.covered(card, terms=failures.product(card.merchant, deductible_rate="0.1"))
    return card


def approve(claim: Claim, name: str = CHIEF) -> None:
    adjudication.approve(claim=claim, by=failures.staff(name), now=failures.NOW)


def reject(claim: Claim, name: str = CHIEF, reason: str = "bought with a stolen bank card") -> None:
    adjudication.reject(claim=claim, reason=reason, by=failures.staff(name), now=failures.NOW)


def pay(claim: Claim) -> None:
    adjudication.pay(claim=claim, by=failures.staff(CASHIER), now=failures.NOW)


def test_another_person_than_the_one_who_assessed_approves(card):
    claim = failures.assessed(card)
    with pytest.raises(SamePerson):
        approve(claim, ADJUSTER)
    with pytest.raises(SamePerson):
        reject(claim, ADJUSTER)
    approve(claim)
    assert (claim.state, claim.approved_by, claim.decided_at) == (
        Claim.State.APPROVED, failures.staff(CHIEF), failures.NOW
    )  # fmt: skip


def test_the_database_itself_knows_that_four_eyes_are_needed(card):
    claim = failures.assessed(card)
    with pytest.raises(IntegrityError), transaction.atomic():
        claim.move(Claim.State.APPROVED, approved_by=failures.staff(ADJUSTER), decided_at=failures.NOW)


def test_what_is_not_assessed_is_not_approved_and_what_is_not_approved_is_not_paid(card):
    claim = failures.filed(card)
    with pytest.raises(IllegalMove):
        approve(claim)
    adjudication.assess(claim=claim, by=failures.staff(ADJUSTER), now=failures.NOW)
    with pytest.raises(IllegalMove):
        pay(claim)


def test_what_was_paid_in_between_the_loss_and_its_confirmation_is_no_loss_and_stays_owed():
    card = cards.opened(cards.program(Kind.BONUS), 100_000)
    failures.covered(card, sum_insured=150_000)
    cards.topped_up(card, 50_000, at=failures.AFTER)
    claim = failures.approved(card)
    assert (claim.refundable_at_loss, claim.refundable_now, claim.loss, claim.payable) == (100_000,) * 4
    pay(claim)
    card.refresh_from_db()
    assert (card.state, card.remaining, cards.balances(card)) == (Card.State.COMPENSATED, 50_000, [0, 50_000])
    assert worksheet(claim)["paid_in_after_loss"] == 50_000
    assert card.transactions.get(kind=Transaction.Kind.COMPENSATION).principal == 100_000
    # A fact from before the loss still changes the claim, and not what was paid in since.
    failures.arrived_late(card, 30_000)
    assert adjudication.look_again(now=failures.NOW) == (0, 1)
    supplement = failures.settled(Claim.objects.get(kind=Claim.Kind.SUPPLEMENT))
    assert (supplement.loss, worksheet(supplement)["paid_in_after_loss"]) == (-30_000, 50_000)
    card.refresh_from_db()
    assert (card.state, cards.balances(card)) == (Card.State.COMPENSATED, [0, 50_000])
    invariants.hold()


def test_paying_takes_everything_off_the_card_and_raises_what_the_policy_compensated(card):
    claim = failures.paid(card)
    card.refresh_from_db()
    assert (claim.state, claim.paid_at) == (Claim.State.PAID, failures.NOW)
    assert (card.state, card.remaining, cards.balances(card)) == (Card.State.COMPENSATED, 0, [0])
    compensation = Transaction.objects.get(kind=Transaction.Kind.COMPENSATION)
    assert (compensation.reference, compensation.amount, compensation.principal) == (str(claim.pk), -75_000, 62_500)
    assert Policy.objects.get().compensated == 56_250
    assert list(CardMove.objects.order_by("id").values_list("to_state", "by")) == [
        ("CLAIMED", "staff:clerk"), ("COMPENSATED", "staff:cashier")
    ]  # fmt: skip
    invariants.hold()


def test_what_was_paid_may_be_recovered_from_the_merchant_by_its_insurer(card):
    claim = failures.paid(card)
    recovery = Recovery.objects.get()
    assert (recovery.claim, recovery.amount, recovery.recovered, recovery.insurer.code, recovery.merchant) == (
        claim, 56_250, 0, "ANPING", card.merchant
    )  # fmt: skip


def test_a_card_nobody_insured_is_emptied_with_nothing_to_recover():
    card = cards.opened(cards.program(Kind.BONUS))
    claim = failures.paid(card)
    card.refresh_from_db()
    assert (claim.payable, card.state) == (0, Card.State.COMPENSATED)
    assert not Recovery.objects.exists()


def test_a_claim_is_paid_once(card):
    claim = failures.approved(card)
    again = Claim.objects.get(pk=claim.pk)
    pay(claim)
    with pytest.raises(IllegalMove):
        pay(again)
    assert Transaction.objects.filter(kind=Transaction.Kind.COMPENSATION).count() == 1


def test_a_late_payment_from_before_the_loss_makes_an_assessment_outdated(card):
    claim = failures.assessed(card)
    failures.arrived_late(card, 12_000)
    with pytest.raises(adjudication.AssessmentOutdated):
        approve(claim)
    assert claim.state == Claim.State.FILED
    adjudication.assess(claim=claim, by=failures.staff(ADJUSTER), now=failures.NOW)
    assert (claim.loss, claim.payable) == (52_500, 47_250)
    approve(claim)


def test_what_was_approved_is_what_is_paid_or_it_is_assessed_again(card):
    claim = failures.approved(card)
    failures.arrived_late(card, 12_000)
    with pytest.raises(adjudication.AssessmentOutdated):
        pay(claim)
    card.refresh_from_db()
    assert (claim.state, claim.approved_by, card.state) == (Claim.State.FILED, None, Card.State.CLAIMED)
    assert Policy.objects.get().compensated == 0
    failures.settled(claim)
    assert (claim.payable, Policy.objects.get().compensated) == (47_250, 47_250)
    invariants.hold()


def test_cover_accepted_meanwhile_makes_an_assessment_outdated():
    card = cards.opened(cards.program(Kind.BONUS))
    claim = failures.approved(card)
    assert claim.payable == 0
    failures.covered(card)
    with pytest.raises(adjudication.AssessmentOutdated):
        pay(claim)
    failures.settled(claim)
    assert claim.payable == 100_000


def test_a_rejected_claim_gives_its_reason_and_the_card_back(card):
    claim = failures.assessed(card)
    with pytest.raises(adjudication.ReasonNeeded):
        reject(claim, reason=" ")
    reject(claim)
    card.refresh_from_db()
    assert (claim.state, claim.reason) == (Claim.State.REJECTED, "bought with a stolen bank card")
    assert (card.state, card.loss_at) == (Card.State.ACTIVE, None)
    assert cards.paid(card, 100, at=failures.AFTER)


def test_a_lost_card_is_still_lost_when_its_claim_is_rejected(card):
    Card.objects.update(state=Card.State.LOST)
    reject(failures.filed(card))
    card.refresh_from_db()
    assert card.state == Card.State.LOST


def test_what_is_approved_is_no_longer_rejected(card):
    claim = failures.approved(card)
    with pytest.raises(IllegalMove):
        reject(claim)


# All of an event ------------------------------------------------------------------------------------------------


def test_all_cards_of_a_failed_merchant_are_compensated_by_four_words_of_staff(monkeypatch):
    for job in InsuredEvent.Job:
        monkeypatch.setitem(adjudication.SLICE, job, 2)
    program = cards.program(Kind.BONUS)
    several = [cards.opened(program) for _n in range(5)]
    for card in several[1:]:
        failures.covered(card)
    event = failures.failed(program.merchant)
    for verb, name in (
        (adjudication.file_all, "clerk"),
        (adjudication.assess_all, ADJUSTER),
        (adjudication.approve_all, CHIEF),
        (adjudication.pay_all, CASHIER),
    ):
        verb(event=event, by=failures.staff(name), now=failures.NOW)
        carried_on()
        event.refresh_from_db()
        assert (event.job_total, event.job_done, event.due_at) == (5, 5, None)
    assert sorted(Claim.objects.filter(state=Claim.State.PAID).values_list("payable", flat=True)) == [
        0, 100_000, 100_000, 100_000, 100_000
    ]  # fmt: skip
    assert set(Card.objects.values_list("state", "remaining")) == {(Card.State.COMPENSATED, 0)}
    assert Recovery.objects.count() == 4
    invariants.hold()


def test_whoever_assessed_any_of_them_does_not_approve_all_of_them(card):
    claim = failures.assessed(card)
    with pytest.raises(SamePerson):
        adjudication.approve_all(event=claim.event, by=failures.staff(ADJUSTER), now=failures.NOW)


def test_an_outdated_one_among_many_goes_back_and_the_others_are_paid():
    program = cards.program(Kind.BONUS)
    several = [cards.opened(program) for _n in range(3)]
    for card in several:
        failures.covered(card)
    claims = [failures.approved(card) for card in several]
    failures.arrived_late(several[1], 100)
    adjudication.pay_all(event=claims[0].event, by=failures.staff(CASHIER), now=failures.NOW)
    carried_on()
    states = [Claim.objects.get(pk=claim.pk).state for claim in claims]
    assert states == [Claim.State.PAID, Claim.State.FILED, Claim.State.PAID]
    invariants.hold()
