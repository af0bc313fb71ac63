"""By when what is owed to a claimant (Insurance Law, arts. 22–25)."""

from datetime import timedelta

import pytest

from claims import deadlines
from claims.models import Claim
from config.states import IllegalMove
from issuing.models import Kind
from prepaid.models import Card
from tests import cards, failures
from tests.failures import NOW

pytestmark = pytest.mark.django_db

A_MINUTE = timedelta(minutes=1)


@pytest.fixture
def card() -> Card:
    card = cards.opened(cards.program(Kind.BONUS))
    failures.covered(card)
    return card


def runs_out(claim: Claim, queryset, after: timedelta) -> bool:
    """The clock runs out when that much time has passed, and not before."""
    over = NOW + after
    return (
        not queryset(over).exists()
        and list(queryset(over + A_MINUTE)) == [claim]
        and claim in deadlines.overdue(over + A_MINUTE)
    )


def test_a_claim_is_decided_within_30_days(card):
    claim = failures.filed(card)
    assert deadlines.due_at(claim) == NOW + timedelta(days=30)
    assert runs_out(claim, deadlines.to_decide, timedelta(days=30))
    assert not deadlines.overdue(NOW + timedelta(days=30)).exists()


def test_while_papers_are_awaited_the_clock_stands_still_and_starts_when_they_come(card):
    claim = failures.filed(card)
    deadlines.ask_for_papers(claim=claim, papers="proof of purchase", now=NOW)
    assert deadlines.due_at(claim) is None
    assert not deadlines.overdue(NOW + timedelta(days=300)).exists()
    deadlines.receive_papers(claim=claim, now=NOW + timedelta(days=20))
    assert deadlines.due_at(claim) == NOW + timedelta(days=50)
    assert runs_out(claim, deadlines.to_decide, timedelta(days=50))


def test_missing_papers_are_asked_for_once(card):
    claim = failures.filed(card)
    with pytest.raises(deadlines.PapersNeeded):
        deadlines.ask_for_papers(claim=claim, papers=" ", now=NOW)
    deadlines.ask_for_papers(claim=claim, papers="proof of purchase", now=NOW)
    with pytest.raises(deadlines.PapersAskedFor):
        deadlines.ask_for_papers(claim=claim, papers="and a photograph", now=NOW)
    deadlines.receive_papers(claim=claim, now=NOW)
    with pytest.raises(deadlines.PapersNotAskedFor):
        deadlines.receive_papers(claim=claim, now=NOW)


def test_nothing_is_asked_for_once_it_is_decided(card):
    claim = failures.approved(card)
    with pytest.raises(IllegalMove):
        deadlines.ask_for_papers(claim=claim, papers="proof of purchase", now=NOW)


def test_what_was_agreed_is_paid_within_10_days(card):
    claim = failures.approved(card)
    assert deadlines.due_at(claim) == NOW + timedelta(days=10)
    assert runs_out(claim, deadlines.to_pay, timedelta(days=10))


def test_what_is_not_covered_is_refused_within_3_days():
    claim = failures.assessed(cards.opened(cards.program(Kind.BONUS)))
    assert deadlines.due_at(claim) == NOW + timedelta(days=3)
    assert runs_out(claim, deadlines.to_refuse, timedelta(days=3))


def test_what_is_certain_after_60_days_is_paid_in_advance(card):
    claim = failures.assessed(card)
    assert runs_out(claim, deadlines.to_advance, timedelta(days=60))


def test_what_is_paid_is_owed_no_more(card):
    claim = failures.paid(card)
    assert deadlines.due_at(claim) is None
    assert not deadlines.overdue(NOW + timedelta(days=300)).exists()
