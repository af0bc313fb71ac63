"""Filing: the card is frozen at the moment of loss and the insurer is told."""

import pytest
from django.utils import timezone

from claims import adjudication
from claims.models import Claim, InsuredEvent
from insurance.models import Notice
from issuing.models import Kind
from prepaid import ledger
from prepaid.models import Card, CardMove
from tests import cards, failures

pytestmark = pytest.mark.django_db


def card_of_1000(**facts) -> Card:
    return cards.opened(cards.program(Kind.BONUS, **facts), 100_000)


def test_filing_freezes_the_card_at_the_moment_of_loss():
    card = card_of_1000()
    claim = failures.filed(card)
    card.refresh_from_db()
    assert (claim.state, claim.kind, claim.filed_by) == (Claim.State.FILED, Claim.Kind.ORIGINAL, "staff:clerk")
    assert (card.state, card.loss_at) == (Card.State.CLAIMED, failures.LOSS_AT)
    move = CardMove.objects.get(card=card)
    assert (move.from_state, move.to_state, move.by) == ("ACTIVE", "CLAIMED", "staff:clerk")
    with pytest.raises(ledger.CardNotActive):
        cards.paid(card, 100, at=failures.AFTER)


def test_the_insurer_of_a_covered_card_is_told_once():
    card = card_of_1000()
    policy = failures.covered(card)
    claim = failures.filed(card)
    notice = Notice.objects.get(kind=Notice.Kind.CLAIM)
    assert (notice.subject, notice.policy, notice.insurer) == (claim.pk, policy, policy.product.insurer)
    assert notice.body == {"claim": str(claim.pk), "policy_no": policy.policy_no, "loss_date": "2026-05-20"}
    assert (notice.state, len(notice.request_no)) == (Notice.State.PENDING, 22)
    assert notice.due_at <= timezone.now()


def test_without_a_confirmed_event_there_is_nothing_to_claim_on():
    card = card_of_1000()
    with pytest.raises(adjudication.NoInsuredEvent):
        adjudication.file_claim(card=card, by="staff:clerk", now=failures.NOW)
    failures.declared(card.merchant)
    with pytest.raises(adjudication.NoInsuredEvent):
        adjudication.file_claim(card=card, by="staff:clerk", now=failures.NOW)


def test_a_card_is_claimed_for_once():
    card = card_of_1000()
    failures.filed(card)
    with pytest.raises(adjudication.AlreadyClaimed):
        failures.filed(card)


def test_an_empty_card_and_a_term_that_was_served_are_nothing_to_claim_for():
    spent = card_of_1000()
    cards.paid(spent, 100_000)
    served = cards.opened(cards.program(Kind.ENTITLEMENT, term_days=139))
    for card in (spent, served):
        failures.failed(card.merchant)
        with pytest.raises(adjudication.NothingToClaim):
            failures.filed(card)
    day_left = cards.opened(cards.program(Kind.ENTITLEMENT, term_days=140))
    assert failures.filed(day_left)


def test_a_card_bought_after_the_loss_is_nothing_to_claim_for():
    after = cards.opened(cards.program(Kind.BONUS), 100_000, at=failures.AFTER)
    spent = cards.opened(after.program, 100_000)
    cards.paid(spent, 100_000)
    cards.topped_up(spent, 50_000, at=failures.AFTER)
    event = failures.failed(after.merchant)
    for card in (after, spent):
        with pytest.raises(adjudication.NothingToClaim):
            failures.filed(card)
    adjudication.file_all(event=event, by=failures.staff("clerk"), now=failures.NOW)
    assert event.job_total == 0
    carried_on()
    assert not Claim.objects.exists()


def test_frozen_and_lost_cards_are_claimed_for_as_well():
    for state in (Card.State.FROZEN, Card.State.LOST):
        card = card_of_1000()
        Card.objects.filter(pk=card.pk).update(state=state)
        failures.filed(card)
        assert CardMove.objects.get(card=card).from_state == state


def test_a_merchants_reference_stands_on_one_claim():
    card = card_of_1000()
    other = cards.opened(card.program)
    failures.failed(card.merchant)
    claim = adjudication.file_claim(card=card, by="key:…abcd", now=failures.NOW, reference="CLM-1")
    with pytest.raises(ledger.ReferenceUsed) as refused:
        adjudication.file_claim(card=other, by="key:…abcd", now=failures.NOW, reference="CLM-1")
    assert claim.pk.hex in str(refused.value)
    other.refresh_from_db()
    assert other.state == Card.State.ACTIVE


# All of an event ------------------------------------------------------------------------------------------------


def chain(count: int) -> list[Card]:
    program = cards.program(Kind.BONUS)
    return [cards.opened(program) for _n in range(count)]


def carried_on() -> None:
    while adjudication.carry_on(now=failures.NOW):
        pass


def test_the_clock_files_for_every_card_that_something_is_left_on(monkeypatch):
    monkeypatch.setitem(adjudication.SLICE, InsuredEvent.Job.FILE, 2)
    several = chain(5)
    cards.paid(several[0], 100_000)
    elsewhere = card_of_1000()
    failures.covered(several[1])
    event = failures.failed(several[0].merchant)
    adjudication.file_all(event=event, by=failures.staff("clerk"), now=failures.NOW)
    assert (event.job, event.job_total, event.job_done) == (InsuredEvent.Job.FILE, 4, 0)
    carried_on()
    event.refresh_from_db()
    assert (event.job_done, event.due_at) == (4, None)
    assert set(Claim.objects.values_list("card", flat=True)) == {card.pk for card in several[1:]}
    assert Notice.objects.filter(kind=Notice.Kind.CLAIM).count() == 1
    elsewhere.refresh_from_db()
    assert elsewhere.state == Card.State.ACTIVE


def test_a_job_stopped_after_any_slice_is_finished_and_nothing_is_filed_twice(monkeypatch):
    monkeypatch.setitem(adjudication.SLICE, InsuredEvent.Job.FILE, 2)
    several = chain(5)
    event = failures.failed(several[0].merchant)
    adjudication.file_all(event=event, by=failures.staff("clerk"), now=failures.NOW)
    assert adjudication.carry_on(now=failures.NOW, seconds=0) == 0
    event.refresh_from_db()
    assert event.due_at is not None
    carried_on()
    assert Claim.objects.count() == 5


def test_while_the_clock_is_at_work_for_an_event_nothing_else_is_asked_of_it():
    event = failures.failed(chain(1)[0].merchant)
    adjudication.file_all(event=event, by=failures.staff("clerk"), now=failures.NOW)
    with pytest.raises(adjudication.JobInProgress):
        adjudication.assess_all(event=event, by=failures.staff("adjuster"), now=failures.NOW)


def test_a_claim_that_was_rejected_is_not_filed_again_by_the_clock():
    card, other = chain(2)
    claim = failures.filed(card)
    adjudication.reject(claim=claim, reason="not the holder", by=failures.staff("chief"), now=failures.NOW)
    event = InsuredEvent.objects.get()
    adjudication.file_all(event=event, by=failures.staff("clerk"), now=failures.NOW)
    carried_on()
    assert list(Claim.objects.filter(state=Claim.State.FILED).values_list("card", flat=True)) == [other.pk]
    assert failures.filed(card)
