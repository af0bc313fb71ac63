"""Filing against a payment, two who decide at once, two who pay at once."""

import pytest
from django.db import transaction

from claims import adjudication
from claims.models import Claim
from config.states import IllegalMove
from insurance.models import Policy
from issuing.models import Kind
from prepaid import ledger
from prepaid.models import Card, Transaction
from tests import cards, failures, invariants
from tests.races import STOP, gate, meanwhile, together, variant

pytestmark = pytest.mark.django_db(transaction=True)

MET = f"FROM chosen, {STOP} AS met WHERE c.id = chosen.id"


@pytest.fixture
def card() -> Card:
    card = cards.opened(cards.program(Kind.BONUS))
    failures.covered(card)
    failures.failed(card.merchant)
    return card


# Filing freezes -------------------------------------------------------------------------------------------------


def pay_while_it_is_filed(card: Card):
    transaction.set_autocommit(False)
    try:
        failures.filed(card)
        with meanwhile(lambda: cards.paid(card, 10_000, at=failures.AFTER)) as answer:
            transaction.commit()
            return answer()
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_a_payment_that_meets_a_filing_is_refused(card):
    assert isinstance(pay_while_it_is_filed(card), ledger.CardNotActive)
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.CLAIMED, 100_000)


def test_control_without_the_lock_a_claimed_card_pays(card):
    with variant("ledger_pay", lock=False, meet=False):
        assert isinstance(pay_while_it_is_filed(card), ledger.Posted)
    card.refresh_from_db()
    assert (card.state, card.remaining) == (Card.State.CLAIMED, 90_000)


def test_a_filing_that_meets_a_payment_waits_for_it_and_claims_what_is_left(card):
    transaction.set_autocommit(False)
    try:
        cards.paid(card, 100_000, at=failures.AFTER)
        with meanwhile(lambda: failures.filed(card)) as answer:
            transaction.commit()
            assert isinstance(answer(), adjudication.NothingToClaim)
    finally:
        transaction.set_autocommit(True)
    assert not Claim.objects.exists()


def test_a_card_is_claimed_for_once_however_many_file_at_once(card):
    answers = together([lambda: failures.filed(card) for _filing in range(6)])
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert sum(isinstance(answer, adjudication.AlreadyClaimed) for answer in answers) == 5
    assert card.moves.count() == 1


def test_of_two_cards_claimed_for_under_one_reference_at_once_one_is(card):
    other = cards.opened(card.program)
    answers = together(
        [
            lambda claimed=claimed: adjudication.file_claim(
                card=claimed, by="key:…abcd", now=failures.NOW, reference="CLM-1"
            )
            for claimed in (card, other, card, other)
        ]
    )
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert sum(isinstance(answer, ledger.ReferenceUsed | adjudication.AlreadyClaimed) for answer in answers) == 3
    assert Card.objects.filter(state=Card.State.CLAIMED).count() == 1


# Two approvers --------------------------------------------------------------------------------------------------


def approve_at_once(claim: Claim) -> list:
    people = [failures.staff(f"approver{n}") for n in range(4)]
    return together(
        [
            lambda person=person: adjudication.approve(
                claim=Claim.objects.get(pk=claim.pk), by=person, now=failures.NOW
            )
            for person in people
        ]
    )


def test_of_two_who_approve_at_once_one_does(card):
    answers = approve_at_once(failures.assessed(card))
    assert answers.count(None) == 1
    assert sum(isinstance(answer, IllegalMove) for answer in answers) == 3


def test_control_with_its_lock_the_slow_approval_stays_right(card, monkeypatch):
    slow = adjudication._APPROVE.replace("FROM chosen WHERE c.id = chosen.id", MET)
    assert slow != adjudication._APPROVE
    monkeypatch.setattr(adjudication, "_APPROVE", slow)
    with gate():
        assert approve_at_once(failures.assessed(card)).count(None) == 1


def test_control_without_the_lock_several_approve(card, monkeypatch):
    slow = adjudication._APPROVE.replace("FROM chosen WHERE c.id = chosen.id", MET)
    monkeypatch.setattr(adjudication, "_APPROVE", slow.replace(" FOR UPDATE OF c", ""))
    with gate():
        assert approve_at_once(failures.assessed(card)).count(None) > 1


def test_of_one_who_approves_and_one_who_rejects_at_once_one_does(card):
    claim = failures.assessed(card)
    chief, other = failures.staff("chief"), failures.staff("other")
    answers = together(
        [
            lambda: adjudication.approve(claim=Claim.objects.get(pk=claim.pk), by=chief, now=failures.NOW),
            lambda: adjudication.reject(
                claim=Claim.objects.get(pk=claim.pk), reason="forged", by=other, now=failures.NOW
            ),
        ]
    )
    assert answers.count(None) == 1
    assert sum(isinstance(answer, IllegalMove) for answer in answers) == 1


# Paying ---------------------------------------------------------------------------------------------------------


def test_a_claim_is_paid_once_however_many_pay_at_once(card):
    claim = failures.approved(card)
    cashier = failures.staff("cashier")
    answers = together(
        [
            lambda: adjudication.pay(claim=Claim.objects.get(pk=claim.pk), by=cashier, now=failures.NOW)
            for _payment in range(6)
        ]
    )
    assert answers.count(None) == 1
    assert sum(isinstance(answer, IllegalMove) for answer in answers) == 5
    assert Transaction.objects.filter(kind=Transaction.Kind.COMPENSATION).count() == 1
    assert Policy.objects.get().compensated == 100_000
    invariants.hold()


def test_a_late_payment_that_meets_the_compensation_changes_what_was_paid_and_not_what_there_was(card):
    claim = failures.approved(card)
    transaction.set_autocommit(False)
    try:
        adjudication.pay(claim=claim, by=failures.staff("cashier"), now=failures.NOW)
        with meanwhile(lambda: failures.arrived_late(card, 10_000)) as answer:
            transaction.commit()
            assert isinstance(answer(), ledger.Posted)
    finally:
        transaction.set_autocommit(True)
    invariants.hold()
    assert adjudication.look_again(now=failures.NOW) == (0, 1)
    later = failures.settled(Claim.objects.get(kind=Claim.Kind.SUPPLEMENT))
    assert later.payable == -10_000
    assert Policy.objects.get().compensated == 90_000


def test_a_payment_of_a_claim_that_meets_a_late_one_waits_for_it_and_is_refused(card):
    claim = failures.approved(card)
    cashier = failures.staff("cashier")
    transaction.set_autocommit(False)
    try:
        failures.arrived_late(card, 10_000)
        with meanwhile(lambda: adjudication.pay(claim=claim, by=cashier, now=failures.NOW)) as answer:
            transaction.commit()
            assert isinstance(answer(), adjudication.AssessmentOutdated)
    finally:
        transaction.set_autocommit(True)
    claim.refresh_from_db()
    assert claim.state == Claim.State.FILED
    invariants.hold()


def test_workers_side_by_side_do_a_job_once(monkeypatch):
    for job in adjudication.SLICE:
        monkeypatch.setitem(adjudication.SLICE, job, 3)
    program = cards.program(Kind.BONUS)
    for _card in range(10):
        failures.covered(cards.opened(program))
    event = failures.failed(program.merchant)
    for verb, name in (
        (adjudication.file_all, "clerk"), (adjudication.assess_all, "adjuster"),
        (adjudication.approve_all, "chief"), (adjudication.pay_all, "cashier"),
    ):  # fmt: skip
        verb(event=event, by=failures.staff(name), now=failures.NOW)
        done = together([lambda: adjudication.carry_on(now=failures.NOW) for _worker in range(4)])
        assert sorted(done) == [0, 0, 0, 10]
    assert Claim.objects.filter(state=Claim.State.PAID).count() == 10
    assert Transaction.objects.filter(kind=Transaction.Kind.COMPENSATION).count() == 10
    invariants.hold()
