"""Recovery: what the insurer gets back from the merchant for what it paid (追偿)."""

import pytest
from django.db import IntegrityError, transaction

from claims import recovery as recoveries
from claims.models import Receipt, Recovery
from config.errors import SamePerson
from config.states import IllegalMove
from issuing.models import Kind
from tests import cards, failures

pytestmark = pytest.mark.django_db


@pytest.fixture
def recovery() -> Recovery:
    """Of 1,000.00 that the insurer compensated."""
    card = cards.opened(cards.program(Kind.BONUS))
    failures.covered(card)
    return failures.paid(card).recovery


def record(recovery: Recovery, amount: int, reference: str = "BANK-1") -> None:
    recoveries.record(
        recovery=recovery, amount=amount, reference=reference, by=failures.staff("clerk"), now=failures.NOW
    )


def propose(recovery: Recovery, note: str = "the estate is empty") -> None:
    recoveries.propose_write_off(recovery=recovery, note=note, by=failures.staff("clerk"), now=failures.NOW)


def test_money_from_the_estate_adds_up_and_all_of_it_closes_the_recovery(recovery):
    record(recovery, 30_000)
    assert (recovery.recovered, recovery.state) == (30_000, Recovery.State.OPEN)
    record(recovery, 70_000, "BANK-2")
    assert (recovery.recovered, recovery.state, recovery.closed_at) == (
        100_000, Recovery.State.RECOVERED, failures.NOW
    )  # fmt: skip
    assert list(Receipt.objects.order_by("id").values_list("reference", "amount")) == [
        ("BANK-1", 30_000), ("BANK-2", 70_000)
    ]  # fmt: skip


@pytest.mark.parametrize("amount", [100_001, 0, -1])
def test_never_more_than_is_open_nor_nothing_nor_less(recovery, amount):
    with pytest.raises(recoveries.MoreThanIsOpen):
        record(recovery, amount)
    assert not Receipt.objects.exists()
    recovery.refresh_from_db()
    assert recovery.recovered == 0


def test_one_transfer_is_recorded_once(recovery):
    record(recovery, 30_000)
    with pytest.raises(recoveries.ReceiptRecorded):
        record(recovery, 30_000)
    recovery.refresh_from_db()
    assert recovery.recovered == 30_000


def test_nothing_more_comes_for_what_is_closed(recovery):
    record(recovery, 100_000)
    with pytest.raises(IllegalMove):
        record(recovery, 1, "BANK-2")


def test_what_is_not_to_be_had_is_written_off_by_a_second_person(recovery):
    with pytest.raises(recoveries.NotProposed):
        recoveries.write_off(recovery=recovery, by=failures.staff("chief"), now=failures.NOW)
    with pytest.raises(recoveries.NoteNeeded):
        propose(recovery, " ")
    propose(recovery)
    with pytest.raises(SamePerson):
        recoveries.write_off(recovery=recovery, by=failures.staff("clerk"), now=failures.NOW)
    recoveries.write_off(recovery=recovery, by=failures.staff("chief"), now=failures.NOW)
    recovery.refresh_from_db()
    assert (recovery.state, recovery.note, recovery.written_off_by) == (
        Recovery.State.WRITTEN_OFF, "the estate is empty", failures.staff("chief")
    )  # fmt: skip
    with pytest.raises(IllegalMove):
        record(recovery, 1)
    with pytest.raises(IllegalMove):
        propose(recovery)


def test_the_database_itself_knows_that_a_write_off_needs_two(recovery):
    propose(recovery)
    with pytest.raises(IntegrityError), transaction.atomic():
        recovery.move(Recovery.State.WRITTEN_OFF, written_off_by=failures.staff("clerk"))


def test_what_a_supplement_took_back_is_settled_below_zero(recovery):
    Recovery.objects.filter(pk=recovery.pk).update(amount=-10_000)
    for wrong in (1, -10_001):
        with pytest.raises(recoveries.MoreThanIsOpen):
            record(recovery, wrong)
    record(recovery, -10_000)
    assert recovery.state == Recovery.State.RECOVERED
