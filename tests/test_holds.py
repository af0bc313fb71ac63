"""After a restore of the database: nothing is sent, what is open is asked about, until every day is reconciled."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.utils import timezone

from config.states import IllegalMove
from points import bank, coupons, exchange, reconciliation
from points.models import Exchange, ExchangeRatio, PointsMessage
from prepaid import holds
from prepaid.models import Hold, Run
from prepaid.reconciliation import business_date, span
from tests import cards
from tests import points_world as world
from tests.partners import PointsSystem, partner_process, points_system

__all__ = ["partner_process", "points_system"]

pytestmark = pytest.mark.django_db

TODAY = business_date(timezone.now())
POINTS = Run.Partner.POINTS


@pytest.fixture
def tea(points_system: PointsSystem, settings: Any) -> Any:
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/points/"
    settings.POINTS_SYSTEM_KEYS = points_system.keys
    points_system.has_account((100_000, "2031-12-31"))
    made = world.product()
    ratio = world.ratio(made)
    ExchangeRatio.objects.filter(pk=ratio.pk).update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    return made


def held(partner: Run.Partner = POINTS, **facts: Any) -> Hold:
    return holds.hold(partner=partner, reason="restored", by="operator", now=facts.get("now", timezone.now()))


def sent() -> list[str]:
    return list(PointsMessage.objects.filter(direction="SENT").order_by("id").values_list("type", flat=True))


def swept() -> None:
    Exchange.objects.filter(due_at__isnull=False).update(due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)


def test_while_it_is_held_nothing_is_deducted_reversed_or_returned(points_system, tea):
    quoted = world.quote(tea)
    owed = world.submitted(world.quote(tea))
    given_up = world.sent(world.submitted(world.quote(tea)))
    exchange.give_up(exchange=given_up)
    issued = world.submitted(world.quote(tea))
    bank.deduct(row=issued, now=timezone.now())
    coupons.give_back(exchange=issued, coupon_ids=[issued.coupons.get(ordinal=1).pk], reason="x", by="x", now=cards.NOW)
    before = sent()
    held()
    swept()
    bank.deduct(row=owed, now=timezone.now())
    assert sent() == before
    with pytest.raises(exchange.PointsSystemHeld):
        world.quote(tea)
    with pytest.raises(exchange.PointsSystemHeld):
        world.submitted(quoted)
    owed.refresh_from_db()
    assert owed.state == Exchange.State.PENDING
    holds.release(held=Hold.objects.get(), reason="compared by hand", by="staff:x", now=timezone.now())
    swept()
    assert sorted(sent()[len(before) :]) == ["DEDUCTION_REQUEST", "RETURN_REQUEST", "REVERSAL_ADVICE"]


def test_a_restored_database_meets_the_points_system_again_and_only_then_sends(points_system, tea):
    """The backup is from before the deduction was sent; the points system has it."""
    row = world.submitted(world.quote(tea, 3))
    bank.deduct(row=row, now=timezone.now())
    row.refresh_from_db()
    points = row.points
    row.coupons.all().delete()
    row.messages.all().delete()
    Exchange.objects.filter(pk=row.pk).update(
        state="PENDING", sent_at=None, issued_at=None, bank_reference="", accounting_date=None
    )
    lost = world.submitted(world.quote(tea, 1))
    body = bank._deduction(lost)
    lost.delete()
    assert points_system.ask("DEDUCTION_REQUEST", body).code == "0000"

    held()
    swept()
    assert points_system.count("request") == 3
    midnight = span(TODAY)[1]
    # Before the day on which it began is over nothing can be known of it.
    reconciliation.statement_days(now=midnight - timedelta(hours=1))
    assert holds.is_held(POINTS)
    [run] = reconciliation.statement_days(now=midnight + timedelta(hours=1))
    assert sorted(run.breaks.values_list("type", flat=True)) == ["PARTNER_ONLY", "STATE_DIFFERS"]
    assert not holds.is_held(POINTS)
    assert Hold.objects.get().release_reason == holds.RECONCILED
    swept()
    row.refresh_from_db()
    # Asked about, not sent a second time.
    assert (row.state, row.coupons.count()) == (Exchange.State.ISSUED, 3)
    assert sum(points_system.remaining()) == 100_000 - points - 334


def test_a_day_that_could_not_be_compared_keeps_it_held(points_system, tea, settings):
    held()
    good = settings.POINTS_SYSTEM_URL
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/nowhere/"
    tomorrow = span(TODAY)[1] + timedelta(hours=1)
    assert [run.state for run in reconciliation.statement_days(now=tomorrow)] == [Run.State.FAILED]
    assert holds.is_held(POINTS)
    settings.POINTS_SYSTEM_URL = good
    reconciliation.statement_day(business_date=TODAY, now=tomorrow)
    reconciliation.statement_days(now=tomorrow)
    assert not holds.is_held(POINTS)


def test_an_older_day_that_was_missed_keeps_it_held(points_system, tea):
    PointsMessage.objects.update(recorded_at=span(TODAY - timedelta(days=1))[0] + timedelta(hours=9))
    held()
    tomorrow = span(TODAY)[1] + timedelta(hours=1)
    reconciliation.statement_day(business_date=TODAY, now=tomorrow)
    holds.release_reconciled(partner=POINTS, first_date=TODAY - timedelta(days=1), now=tomorrow)
    assert holds.is_held(POINTS)


def test_one_partner_is_held_without_the_other():
    held(Run.Partner.INSURER)
    assert holds.is_held(Run.Partner.INSURER)
    assert not holds.is_held(POINTS)


def test_it_is_held_once_and_released_once_with_a_reason():
    one = held()
    with pytest.raises(holds.HeldAlready):
        held()
    with pytest.raises(holds.HoldReasonNeeded):
        holds.release(held=one, reason=" ", by="staff:x", now=timezone.now())
    holds.release(held=one, reason="nothing was lost", by="staff:x", now=timezone.now())
    with pytest.raises(IllegalMove):
        holds.release(held=one, reason="again", by="staff:x", now=timezone.now())
    held()
    with pytest.raises(IntegrityError, match="a_released_hold_says"), transaction.atomic():
        Hold.objects.filter(released_at=None).update(released_at=timezone.now())


def test_the_operator_holds_both_before_anything_is_started(capsys):
    call_command("hold_sending", "--reason", "restored from 03:00")
    assert set(Hold.objects.values_list("partner", "by", "reason")) == {
        ("INSURER", "operator", "restored from 03:00"),
        ("POINTS", "operator", "restored from 03:00"),
    }
    call_command("hold_sending", "--partner", "POINTS")
    assert "held already" in capsys.readouterr().out
    assert Hold.objects.count() == 2
