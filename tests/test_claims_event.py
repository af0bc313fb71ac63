"""The insured event: declared by one person, confirmed by another, and the merchant fails."""

from datetime import date

import pytest
from django.utils import timezone

from claims import adjudication
from claims.models import InsuredEvent
from config.errors import SamePerson
from config.states import IllegalMove
from insurance.models import Insurer, Notice, Policy
from issuing import merchants
from issuing.models import Kind, Merchant
from tests import cards, failures

pytestmark = pytest.mark.django_db


def test_a_declared_event_changes_nothing_yet():
    merchant = cards.merchant()
    event = failures.declared(merchant)
    merchant.refresh_from_db()
    assert (event.state, merchant.state) == (InsuredEvent.State.DECLARED, Merchant.State.ACTIVE)
    assert not Notice.objects.exists()


def test_confirmed_by_another_person_it_fails_the_merchant_and_is_told_to_each_insurer_concerned():
    card = cards.opened(cards.program(Kind.BONUS))
    other = cards.opened(card.program)
    hezhong = Insurer.objects.create(code="HEZHONG", name="Hezhong")
    Insurer.objects.create(code="NOBODY", name="Covers nothing here")
    failures.covered(card)
    failures.covered(other, terms=failures.product(card.merchant, insurer=hezhong, valid_from_date=date(2026, 2, 1)))
    pending = cards.opened(cards.program(Kind.BONUS))
    failures.covered(pending, state=Policy.State.PENDING, policy_no=None, accepted_at=None)
    event = failures.failed(card.merchant)
    merchant = Merchant.objects.get(pk=card.merchant_id)
    assert (merchant.state, merchant.failed_at) == (Merchant.State.FAILED, failures.NOW)
    assert (event.confirmed_by, event.confirmed_at) == (failures.staff("chief"), failures.NOW)
    notices = Notice.objects.filter(kind=Notice.Kind.LOSS, subject=event.pk)
    assert set(notices.values_list("insurer__code", flat=True)) == {"ANPING", "HEZHONG"}
    assert {str(notice.body) for notice in notices} == {
        str({"trigger": "CLOSED_DOWN", "merchant": merchant.code, "loss_date": "2026-05-20"})
    }
    assert all(notice.due_at <= timezone.now() for notice in notices)


def test_whoever_declares_an_event_never_confirms_it():
    merchant = cards.merchant()
    event = failures.declared(merchant)
    with pytest.raises(SamePerson):
        adjudication.confirm(event=event, by=failures.staff("clerk"), now=failures.NOW)
    merchant.refresh_from_db()
    assert merchant.state == Merchant.State.ACTIVE


def test_an_event_is_confirmed_once():
    event = failures.failed(cards.merchant())
    with pytest.raises(IllegalMove):
        adjudication.confirm(event=event, by=failures.staff("third"), now=failures.NOW)


def test_a_merchant_fails_once():
    merchant = cards.merchant()
    failures.failed(merchant)
    with pytest.raises(adjudication.AlreadyDeclared):
        failures.declared(merchant)
    with pytest.raises(IllegalMove):
        merchants.fail(merchant, failures.NOW)


def test_a_declaration_that_was_withdrawn_makes_room_for_another():
    merchant = cards.merchant()
    adjudication.withdraw(event=failures.declared(merchant))
    assert failures.declared(merchant).state == InsuredEvent.State.DECLARED


def test_a_confirmed_event_cannot_be_withdrawn():
    event = failures.failed(cards.merchant())
    with pytest.raises(IllegalMove):
        adjudication.withdraw(event=event)


def test_an_event_needs_evidence():
    with pytest.raises(adjudication.EvidenceNeeded):
        adjudication.declare(
            merchant=cards.merchant(), trigger="CLOSED_DOWN", loss_date=failures.LOSS_DATE, evidence=" ",
            by=failures.staff("clerk"), now=failures.NOW,
        )  # fmt: skip


def test_a_loss_has_happened():
    with pytest.raises(adjudication.LossInFuture):
        failures.declared(cards.merchant(), loss_date=date(2026, 6, 2))
    assert failures.declared(cards.merchant(), loss_date=date(2026, 6, 1))


def test_the_loss_begins_at_midnight_where_the_merchant_is():
    event = failures.declared(cards.merchant(time_zone="Asia/Tokyo"))
    assert adjudication.loss_at(event).isoformat() == "2026-05-20T00:00:00+09:00"
