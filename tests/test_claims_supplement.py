"""What arrives later from before the loss: an open claim is assessed again, a paid one is supplemented."""

import pytest

from claims import adjudication
from claims.models import Claim, Recovery
from claims.worksheet import worksheet
from insurance.models import Notice, Policy
from issuing.models import Kind
from prepaid.models import Card
from tests import cards, failures, invariants

pytestmark = pytest.mark.django_db


@pytest.fixture
def card() -> Card:
    card = cards.opened(cards.program(Kind.BONUS), 100_000, gift=20_000)
    failures.covered(card, terms=failures.product(card.merchant, deductible_amount=10_000))
    return card


def looked_again() -> tuple[int, int]:
    return adjudication.look_again(now=failures.NOW)


def supplement() -> Claim:
    assert looked_again()[1] == 1
    return Claim.objects.get(kind=Claim.Kind.SUPPLEMENT, state=Claim.State.FILED)


def test_an_open_claim_is_simply_assessed_again(card):
    claim = failures.assessed(card)
    assert looked_again() == (0, 0)
    failures.arrived_late(card, 12_000)
    assert looked_again() == (1, 0)
    claim.refresh_from_db()
    assert claim.state == Claim.State.FILED


def test_a_paid_claim_to_which_nothing_arrives_is_never_supplemented(card):
    failures.paid(card)
    assert looked_again() == (0, 0)


def test_a_late_payment_lowers_what_was_compensated(card):
    claim = failures.paid(card)
    assert (claim.loss, claim.payable) == (100_000, 90_000)
    failures.arrived_late(card, 12_000)
    later = supplement()
    assert (later.supplements, later.filed_by) == (claim, "clock")
    failures.settled(later)
    assert (later.refundable_at_loss, later.loss, later.payable) == (-10_000, -10_000, -10_000)
    assert worksheet(later)["paid_before"] == 90_000
    assert Policy.objects.get().compensated == 80_000
    assert sorted(Recovery.objects.values_list("amount", flat=True)) == [-10_000, 90_000]
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.COMPENSATED, 0)
    assert looked_again() == (0, 0)
    invariants.hold()


def test_a_late_refund_raises_it_and_what_came_back_is_taken_off_too(card):
    payment = cards.paid(card, 60_000)
    claim = failures.paid(card)
    assert (claim.loss, claim.payable) == (50_000, 40_000)
    cards.refunded(payment, at=failures.BEFORE, now=failures.NOW, amount=12_000)
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.CLAIMED, 12_000)
    later = failures.settled(supplement())
    assert (later.loss, later.payable) == (10_000, 10_000)
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.COMPENSATED, 0)
    assert Policy.objects.get().compensated == 50_000
    assert looked_again() == (0, 0)
    invariants.hold()


def test_supplements_follow_one_another_and_add_up_to_one_claim_that_knew_everything(card):
    payment = cards.paid(card, 60_000)
    failures.paid(card)
    failures.arrived_late(card, 24_000)
    failures.settled(supplement())
    cards.refunded(payment, at=failures.BEFORE, now=failures.NOW, amount=36_000)
    last = failures.settled(supplement())
    assert last.supplements.kind == Claim.Kind.SUPPLEMENT
    claims = Claim.objects.all()
    assert sum(claim.loss for claim in claims) == 60_000  # 720 of 1,200 left
    assert sum(claim.payable for claim in claims) == Policy.objects.get().compensated == 50_000
    assert looked_again() == (0, 0)
    invariants.hold()


def test_what_the_late_payment_changes_is_the_difference_of_two_whole_calculations():
    card = cards.opened(cards.program(Kind.BONUS), 100_000)
    failures.covered(card, sum_insured=50_000)
    claim = failures.paid(card)
    assert claim.payable == 50_000
    failures.arrived_late(card, 40_000)
    later = failures.settled(supplement())
    assert (later.loss, later.payable) == (-40_000, 0)  # 600.00 is still above the sum insured


def test_a_supplement_in_progress_takes_up_what_arrives_meanwhile(card):
    failures.paid(card)
    failures.arrived_late(card, 12_000)
    later = supplement()
    adjudication.assess(claim=later, by=failures.staff("adjuster"), now=failures.NOW)
    failures.arrived_late(card, 12_000)
    assert looked_again() == (1, 0)
    later.refresh_from_db()
    failures.settled(later)
    assert later.payable == -20_000


def test_a_supplement_that_was_rejected_is_not_made_again_until_something_new_arrives(card):
    failures.paid(card)
    failures.arrived_late(card, 12_000)
    adjudication.reject(
        claim=supplement(), reason="the receipt is forged", by=failures.staff("chief"), now=failures.NOW
    )
    card.refresh_from_db()
    assert card.state == Card.State.COMPENSATED
    assert looked_again() == (0, 0)
    failures.arrived_late(card, 12_000)
    assert supplement().supplements.kind == Claim.Kind.ORIGINAL


def test_cover_that_is_accepted_after_payment_is_compensated_by_a_supplement():
    card = cards.opened(cards.program(Kind.BONUS))
    assert failures.paid(card).payable == 0
    policy = failures.covered(card)
    later = failures.settled(supplement())
    assert (later.loss, later.payable) == (0, 100_000)
    policy.refresh_from_db()
    assert policy.compensated == 100_000
    looked_again()
    assert Notice.objects.get(kind=Notice.Kind.CLAIM).subject == later.pk


def test_the_insurer_is_told_of_a_supplement_too(card):
    failures.paid(card)
    failures.arrived_late(card, 12_000)
    later = supplement()
    assert Notice.objects.get(subject=later.pk).policy == Policy.objects.get()


def test_a_refund_from_after_the_loss_is_none_of_the_insurers_business(card):
    payment = cards.paid(card, 60_000)
    cards.refunded(payment, at=failures.AFTER)
    claim = failures.assessed(card)
    assert (claim.loss, claim.spent_after_loss) == (50_000, 0)
