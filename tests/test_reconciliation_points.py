"""The points system's statement against our exchanges: every way of not agreeing, once, and what is done about it.

The points system is the real process with a database of its own; what differs was made to differ there, or by telling
it to misbehave on the wire.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone

from config import messages
from config.errors import SamePerson
from points import bank, coupons, exchange, reconciliation, repairs
from points.models import (
    Coupon,
    CouponMove,
    CouponProduct,
    Exchange,
    ExchangeRatio,
    PointsMessage,
    PointsReturn,
    Repair,
)
from prepaid.models import Break, Run
from prepaid.reconciliation import RETRY, DayNotOver, OwnerNeeded, begin, business_date, resolve, span, take
from tests import cards
from tests import points_world as world
from tests.partners import PointsSystem, partner_process, points_system
from tests.races import together, without_indexes

__all__ = ["partner_process", "points_system"]

pytestmark = pytest.mark.django_db

TODAY = business_date(timezone.now())
YESTERDAY = TODAY - timedelta(days=1)
PRICE = 1_000
What = Repair.What


@pytest.fixture
def tea(points_system: PointsSystem, settings: Any, monkeypatch: pytest.MonkeyPatch) -> CouponProduct:
    """A coupon product for 333.33 points, and an account with a million."""
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/points/"
    settings.POINTS_SYSTEM_KEYS = points_system.keys
    monkeypatch.setattr(bank, "DEADLINE_SECONDS", 1.0)
    points_system.has_account((1_000_000, "2031-12-31"))
    made = world.product()
    ratio = world.ratio(made, "333.33")
    ExchangeRatio.objects.filter(pk=ratio.pk).update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    return made


def bought(tea: CouponProduct, count: int = 3) -> Exchange:
    row = world.submitted(world.quote(tea, count))
    bank.deduct(row=row, now=timezone.now())
    row.refresh_from_db()
    return row


def swept() -> None:
    """What waits for its next moment has waited, and is done."""
    for model in (Exchange, PointsReturn, Repair):
        model._default_manager.filter(due_at__isnull=False).update(due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)


def given_back(row: Exchange, count: int = 1) -> PointsReturn:
    chosen = list(row.coupons.filter(state=Coupon.State.ACTIVE).order_by("ordinal")[:count])
    back = coupons.give_back(exchange=row, coupon_ids=[one.pk for one in chosen], reason="x", by="buyer", now=cards.NOW)
    swept()
    back.refresh_from_db()
    return back


def reversed_before_it_was_heard_of(points_system: PointsSystem, tea: CouponProduct, *, acted: bool) -> Exchange:
    points_system.behaves("SILENT_AFTER" if acted else "SILENT_BEFORE", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea)
    assert exchange.give_up(exchange=row)
    swept()
    row.refresh_from_db()
    assert row.state == Exchange.State.REVERSED
    return row


def reconciled(day: date = TODAY) -> Run:
    """The day's comparison, asked for on the day after."""
    run = reconciliation.statement_day(business_date=day, now=span(day)[1] + timedelta(hours=2))
    run.refresh_from_db()
    return run


def breaks(run: Run) -> list[tuple[str, str]]:
    return sorted(run.breaks.values_list("type", "subject"))


def theirs(points_system: PointsSystem, statement: str, number: str, **values: Any) -> None:
    points_system.database.execute(statement, {"no": number, **values})


def forgotten(points_system: PointsSystem, number: str) -> None:
    """The points system knows nothing of a request, nor of what followed from it."""
    theirs(
        points_system,
        "UPDATE points_system_lot l SET remaining = remaining - m.points FROM points_system_movement m"
        " JOIN points_system_request r ON r.id = m.request_id WHERE l.id = m.lot_id AND r.request_no = %(no)s",
        number,
    )
    for table, column in (("movement", "request_id"), ("return", "request_id"), ("deduction", "request_id")):
        theirs(
            points_system,
            f"DELETE FROM points_system_{table} WHERE {column} ="
            " (SELECT id FROM points_system_request WHERE request_no = %(no)s)",
            number,
        )
    theirs(points_system, "DELETE FROM points_system_request WHERE request_no = %(no)s", number)


def totals(run: Run) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    return {row["type"]: (row["ours"], row["theirs"]) for row in run.totals["by_type"]}


# Days that agree ----------------------------------------------------------------------------------------


def test_a_busy_mixed_day_agrees_to_the_point(points_system, tea):
    first, second = bought(tea, 3), bought(tea, 10)
    given_back(first, 1)
    given_back(second, 2)
    given_back(second, 3)
    reversed_before_it_was_heard_of(points_system, tea, acted=True)
    reversed_before_it_was_heard_of(points_system, tea, acted=False)
    poor = world.submitted(world.quote(tea, 5, by=world.account("6225000026000018")))
    bank.deduct(row=poor, now=timezone.now())  # an account they do not know
    points_system.behaves("SILENT_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    late = bought(tea, 4)
    swept()
    late.refresh_from_db()
    assert late.state == Exchange.State.ISSUED
    run = reconciled()
    assert (run.state, run.problem, breaks(run)) == (Run.State.DONE, "", [])
    # Deducted: 3, 10, the one given back again, and 4 coupons; one deduction was never there.
    figures = totals(run)
    assert figures["DEDUCTION_REQUEST"][0] == {"count": 4, "points": 1_000 + 3_334 + 1_000 + 1_334}
    assert figures["REVERSAL_ADVICE"][0] == {"count": 2, "points": 1_000}
    assert figures["RETURN_REQUEST"][0]["count"] == 3
    assert all(ours == their for ours, their in figures.values())
    # Three accepted and one refused deduction more, two reversals, three returns: every row was compared.
    assert run.compared == 4 + 1 + 2 + 3
    moved = 1_000_000 - sum(points_system.remaining())
    assert moved == sum(
        sign * figures[type][0]["points"]
        for type, sign in (("DEDUCTION_REQUEST", 1), ("REVERSAL_ADVICE", -1), ("RETURN_REQUEST", -1))
    )


def test_what_was_refused_on_both_sides_agrees(points_system, tea):
    rich = world.submitted(world.quote(tea, 3, by=world.account("6225000026000018")))
    bank.deduct(row=rich, now=timezone.now())
    rich.refresh_from_db()
    assert rich.state == Exchange.State.REJECTED
    run = reconciled()
    assert (run.compared, breaks(run)) == (1, [])


def test_what_was_heard_of_days_later_belongs_to_the_day_it_was_booked_on(points_system, tea):
    points_system.behaves("SILENT_AFTER", type="RETURN_REQUEST", remaining=1)
    row = bought(tea)
    back = given_back(row)
    assert back.state == PointsReturn.State.UNKNOWN
    for table in ("request", "deduction"):
        points_system.database.execute(f"UPDATE points_system_{table} SET accounting_date = %s", [YESTERDAY])
    points_system.database.execute(
        "UPDATE points_system_request SET posted_at = posted_at - interval '1 day', answer = answer"
        " || jsonb_build_object('accounting_date', %s::date)",
        [YESTERDAY],
    )
    swept()
    Exchange.objects.update(accounting_date=YESTERDAY)
    assert breaks(reconciled(YESTERDAY)) == []
    assert breaks(reconciled(TODAY)) == []


# Every way of not agreeing ------------------------------------------------------------------------------


def test_points_that_differ(points_system, tea):
    row, other = bought(tea), bought(tea)
    back = given_back(other)
    theirs(
        points_system, "UPDATE points_system_request SET points = points + 1 WHERE request_no = %(no)s", row.request_no
    )
    theirs(
        points_system, "UPDATE points_system_request SET points = points - 3 WHERE request_no = %(no)s", back.request_no
    )
    run = reconciled()
    assert breaks(run) == sorted([("AMOUNT_DIFFERS", row.request_no), ("AMOUNT_DIFFERS", back.request_no)])
    found = run.breaks.get(subject=row.request_no)
    assert (found.merchant_id, found.ours["points"], found.theirs["points"]) == (row.merchant_id, 1_000, 1_001)


def test_states_that_differ(points_system, tea):
    points_system.behaves("CONTRADICTORY", type="DEDUCTION_REQUEST", remaining=1)
    rejected_here = bought(tea)
    assert rejected_here.state == Exchange.State.REJECTED
    refused_there, other_reference = bought(tea), bought(tea)
    theirs(
        points_system,
        "UPDATE points_system_request SET code = '1001', points = 0 WHERE request_no = %(no)s",
        refused_there.request_no,
    )
    theirs(
        points_system,
        "UPDATE points_system_request SET bank_reference = 'B9' WHERE request_no = %(no)s",
        other_reference.request_no,
    )
    run = reconciled()
    assert breaks(run) == sorted(
        ("STATE_DIFFERS", row.request_no) for row in (rejected_here, refused_there, other_reference)
    )
    assert run.breaks.get(subject=rejected_here.request_no).ours["points"] == 0


def test_points_given_back_here_and_not_there(points_system, tea):
    row = reversed_before_it_was_heard_of(points_system, tea, acted=True)
    back = given_back(bought(tea))
    forgotten(points_system, back.request_no)
    theirs(
        points_system,
        "UPDATE points_system_request SET code = '1003', points = 0 WHERE request_no = %(no)s",
        row.reversal_request_no,
    )
    PointsReturn.objects.update(returned_at=span(TODAY)[0] + timedelta(hours=1))
    assert breaks(reconciled()) == sorted([("STATE_DIFFERS", row.reversal_request_no), ("LOCAL_ONLY", back.request_no)])


def test_a_reversal_that_found_nothing_and_a_deduction_all_the_same(points_system, tea):
    row = reversed_before_it_was_heard_of(points_system, tea, acted=False)
    points_system.database.execute(
        "INSERT INTO points_system_request (request_no, type, fingerprint, code, answer, points, bank_reference,"
        " posted_at, accounting_date, original) VALUES (%s, 'DEDUCTION_REQUEST', '', '0000', '{}', 1000, 'B7', now(),"
        " %s, '')",
        [row.request_no, TODAY],
    )
    assert breaks(reconciled()) == [("STATE_DIFFERS", row.request_no)]


def test_what_only_one_side_has(points_system, tea):
    here, there = bought(tea), bought(tea)
    Exchange.objects.update(issued_at=span(TODAY)[0] + timedelta(hours=1))
    theirs(
        points_system, "UPDATE points_system_request SET request_no = 'stranger' WHERE request_no = %(no)s",
        here.request_no,
    )  # fmt: skip
    back = points_system.ask("REVERSAL_ADVICE", {"original": there.request_no, "points": PRICE, "reason": "their own"})
    assert back.code == "0000"
    [unasked] = points_system.holds("SELECT request_no FROM points_system_request WHERE type = 'REVERSAL_ADVICE'")
    run = reconciled()
    assert breaks(run) == sorted(
        [("LOCAL_ONLY", here.request_no), ("PARTNER_ONLY", "stranger"), ("PARTNER_ONLY", unasked["request_no"])]
    )
    # The reversal speaks of a deduction of ours, and so leads to it and to its merchant.
    found = run.breaks.get(subject=unasked["request_no"])
    assert found.merchant_id == there.merchant_id
    assert repairs.subject_of(found).exchange == there
    assert repairs.breaks_of(here) == [run.breaks.get(subject=here.request_no)]


def test_totals_that_are_not_the_sum_of_their_rows(points_system, tea, monkeypatch):
    bought(tea)
    wrong = reconciliation._THEIR_TOTALS.replace("sum(points)", "sum(points + 1)")
    monkeypatch.setattr(reconciliation, "_THEIR_TOTALS", wrong)
    [found] = reconciled().breaks.all()
    assert (found.type, found.subject) == (Break.Type.TOTALS_DIFFER, "DEDUCTION_REQUEST")


# The cut-off --------------------------------------------------------------------------------------------


def booked_yesterday(row: Exchange, *, minutes_to_midnight: int = 5) -> None:
    at = span(YESTERDAY)[1] - timedelta(minutes=minutes_to_midnight)
    Exchange.objects.filter(pk=row.pk).update(accounting_date=YESTERDAY, issued_at=at)


def test_what_was_booked_at_midnight_is_carried_to_the_next_day_once(points_system, tea):
    found_later, never_found = bought(tea), bought(tea)
    for row in (found_later, never_found):
        booked_yesterday(row)
    forgotten(points_system, never_found.request_no)
    carried = sorted(("CUT_OFF", row.request_no) for row in (found_later, never_found))
    assert breaks(reconciled(YESTERDAY)) == carried
    assert breaks(reconciled(TODAY)) == [("LOCAL_ONLY", never_found.request_no)]
    assert Break.objects.get(type="CUT_OFF", subject=found_later.request_no).state == Break.State.RESOLVED
    assert Break.objects.get(type="CUT_OFF", subject=never_found.request_no).state == Break.State.OPEN
    assert breaks(reconciled(YESTERDAY)) == carried
    assert breaks(reconciled(TODAY)) == [("LOCAL_ONLY", never_found.request_no)]


def test_what_they_booked_a_moment_before_midnight_is_not_missed_after_it(points_system, tea):
    row = bought(tea)
    Exchange.objects.update(issued_at=span(TODAY)[0] + timedelta(seconds=5))
    theirs(
        points_system, "UPDATE points_system_request SET accounting_date = %(day)s WHERE request_no = %(no)s",
        row.request_no, day=YESTERDAY,
    )  # fmt: skip
    assert breaks(reconciled(YESTERDAY)) == [("CUT_OFF", row.request_no)]
    assert breaks(reconciled(TODAY)) == []
    assert Break.objects.get().state == Break.State.RESOLVED


def test_what_was_booked_long_before_midnight_is_not_carried(points_system, tea):
    row = bought(tea)
    booked_yesterday(row, minutes_to_midnight=31)
    assert breaks(reconciled(YESTERDAY)) == [("LOCAL_ONLY", row.request_no)]


# Again, and in order ------------------------------------------------------------------------------------


def test_a_day_done_again_gives_the_same_and_leaves_what_staff_did(points_system, tea):
    first, second = bought(tea), bought(tea)
    for row, more in ((first, 1), (second, 2)):
        theirs(
            points_system, "UPDATE points_system_request SET points = points + %(more)s WHERE request_no = %(no)s",
            row.request_no, more=more,
        )  # fmt: skip
    once = reconciled()
    figures = (once.compared, once.totals, breaks(once))
    resolve(
        found=once.breaks.get(subject=first.request_no), resolution="their slip", by=world.person("clerk"),
        now=timezone.now(),
    )  # fmt: skip
    again = reconciled()
    assert again.pk == once.pk
    assert (again.compared, again.totals, breaks(again)) == figures
    assert again.breaks.get(subject=first.request_no).resolution == "their slip"


def test_the_clock_catches_up_the_days_it_missed_in_order_and_once(points_system, tea):
    bought(tea)
    PointsMessage.objects.update(recorded_at=span(TODAY - timedelta(days=2))[0] + timedelta(hours=9))
    tomorrow = span(TODAY)[1] + timedelta(hours=2)
    days = [run.business_date for run in reconciliation.statement_days(now=tomorrow)]
    assert days == [TODAY - timedelta(days=2), YESTERDAY, TODAY]
    assert reconciliation.statement_days(now=tomorrow) == []


def test_nothing_was_ever_sent_is_nothing_to_reconcile():
    assert reconciliation.statement_days(now=timezone.now()) == []


def test_a_day_that_is_not_over_is_not_reconciled(tea):
    with pytest.raises(DayNotOver):
        reconciliation.statement_day(business_date=TODAY, now=span(TODAY)[0] + timedelta(hours=12))


def many_clocks(now: Any) -> list[int]:
    return together([lambda: len(reconciliation.statement_days(now=now))] * 4)


@pytest.mark.django_db(transaction=True)
def test_however_many_clocks_tick_each_day_is_compared_once(points_system, tea):
    bought(tea)
    PointsMessage.objects.update(recorded_at=span(YESTERDAY)[0] + timedelta(hours=9))
    asked_before = PointsMessage.objects.filter(type="STATEMENT", direction="SENT").count()
    tomorrow = span(TODAY)[1] + timedelta(hours=2)
    # A clock that found another at work left; what it left is done by whoever comes next.
    made = [*many_clocks(tomorrow), len(reconciliation.statement_days(now=tomorrow))]
    assert sum(made) == 2
    assert PointsMessage.objects.filter(type="STATEMENT", direction="SENT").count() - asked_before == 2


@pytest.mark.django_db(transaction=True)
def test_control_without_the_one_statement_that_decides_clocks_do_compare_a_day_twice(points_system, tea, monkeypatch):
    bought(tea)
    PointsMessage.objects.update(recorded_at=span(YESTERDAY)[0] + timedelta(hours=9))

    def looks_first(**how: Any) -> Run | None:
        taken = begin(**{**how, "again": True})
        return taken or Run.objects.filter(partner=how["partner"], business_date=how["business_date"]).first()

    monkeypatch.setattr(reconciliation.reconciliation, "begin", looks_first)
    monkeypatch.setattr(reconciliation.reconciliation, "carry_out", lambda *, run, compare, now: (compare(run), run)[1])
    made = many_clocks(span(TODAY)[1] + timedelta(hours=2))
    assert sum(made) > 2


# Files that are not a file ------------------------------------------------------------------------------


def failed(run: Run) -> str:
    assert run.state == Run.State.FAILED
    assert run.breaks.count() == 0
    return run.problem


def test_a_missing_file_is_an_error_and_tried_again(points_system, tea, settings):
    bought(tea)
    good = settings.POINTS_SYSTEM_URL
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/nowhere/"
    run = reconciled()
    assert "FileMissing: 404" in failed(run)
    assert run.due_at - timezone.now() > RETRY / 2
    settings.POINTS_SYSTEM_URL = good
    assert reconciled().state == Run.State.DONE


def test_a_points_system_that_is_down_gives_no_file(tea, settings):
    settings.POINTS_SYSTEM_URL = "http://127.0.0.1:1/points/"
    assert "FileMissing: CONNECTION_LOST" in failed(reconciled())


def test_a_file_signed_by_somebody_else_is_an_error(points_system, tea, settings):
    bought(tea)
    settings.POINTS_SYSTEM_KEYS = ["c3RyYW5nZXI=", *points_system.keys]
    assert reconciled().state == Run.State.DONE
    settings.POINTS_SYSTEM_KEYS = ["c3RyYW5nZXI="]
    assert "FileMissing: 401" in failed(reconciled())


def altered(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let the file be changed on its way, as a line that breaks or a hand in between would."""
    download = messages.download

    def meddled(**how: Any) -> messages.Reply:
        reply = download(**how)
        file = how["file"]
        file.seek(0)
        content = change(file.read())
        file.seek(0)
        file.truncate()
        file.write(content)
        return reply

    monkeypatch.setattr(messages, "download", meddled)


def without_a_row(raw: bytes) -> bytes:
    header, _, *rest = raw.splitlines(keepends=True)
    return b"".join([header, *rest])


def with_a_row_twice(raw: bytes) -> bytes:
    header, row, *rest = raw.splitlines(keepends=True)
    return b"".join([header, row, row, *rest])


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("the header", lambda raw: b""),
        ("the header", lambda raw: raw[5:]),
        ("the header", lambda raw: b"H" * 10_000_000),
        ("no trailer", lambda raw: b"\n".join(raw.splitlines()[:2]) + b"\n"),
        ("counts 3 rows, there are 2", without_a_row),
        ("there twice", with_a_row_twice),
        ("the hash differs", lambda raw: raw.replace(b",1000,", b",1001,", 1)),
        ("not signed", lambda raw: b"".join(raw.splitlines(keepends=True)[:-1])),
        ("the signature", lambda raw: raw.replace(b"T,3,DEDUCTION_REQUEST:3", b"T,3,DEDUCTION_REQUEST:4")),
        ("goes on after its end", lambda raw: raw + b"D,x\n"),
        ("row 1 is not written as agreed", lambda raw: raw.replace(b",1000,", b",-1000,")),
        ("row 1 is not written as agreed", lambda raw: raw.replace(b",DEDUCTION_REQUEST,", b",\x00,")),
        ("no trailer written as agreed", lambda raw: raw.replace(b"T,3,", b"T,three,")),
        ("no trailer written as agreed", lambda raw: raw.replace(b":3000,", b":3000:0,")),
    ],
)  # fmt: skip
def test_a_damaged_file_is_an_error_never_no_differences(points_system, tea, monkeypatch, problem, change):
    for _each in range(3):
        bought(tea)
    altered(monkeypatch, change)
    assert problem in failed(reconciled())


# Repairs ------------------------------------------------------------------------------------------------


def one_break(run: Run) -> Break:
    [found] = run.breaks.select_related("run")
    return found


def repaired(found: Break, what: Repair.What, *, by: User | None = None) -> Repair:
    made = repairs.repair(
        found=found, what=what, reason="as agreed with the bank", by=by or world.person("desk"), now=timezone.now()
    )
    swept()
    made.refresh_from_db()
    return made


def test_what_they_deducted_and_we_never_heard_of_is_asked_about_by_itself(points_system, tea):
    points_system.behaves("SILENT_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea)
    Exchange.objects.update(due_at=timezone.now() + timedelta(days=9))
    run = reconciled()
    assert breaks(run) == [("STATE_DIFFERS", row.request_no)]
    made = Repair.objects.get()
    assert (made.what, made.state, made.by, made.exchange) == ("ASK_AGAIN", "DONE", None, row)
    bank.sweep(now=timezone.now(), seconds=5)
    row.refresh_from_db()
    assert (row.state, row.coupons.count()) == (Exchange.State.ISSUED, 3)
    # Once, however often the day is compared; and now it agrees.
    reconciled()
    assert reconciliation.mend(now=timezone.now()) == 0
    assert Repair.objects.count() == 1
    assert totals(reconciled())["DEDUCTION_REQUEST"][0] == {"count": 1, "points": PRICE}


def test_what_they_deducted_and_we_gave_up_on_is_reversed_by_itself(points_system, tea):
    points_system.behaves("SILENT_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea)
    exchange.give_up(exchange=row)
    row.refresh_from_db()
    row.move(Exchange.State.UNRESOLVED, due_at=None)
    run = reconciled()
    assert breaks(run) == [("STATE_DIFFERS", row.request_no)]
    swept()
    row.refresh_from_db()
    assert row.state == Exchange.State.REVERSED
    assert sum(points_system.remaining()) == 1_000_000
    assert totals(reconciled())["REVERSAL_ADVICE"][0] == {"count": 1, "points": PRICE}


def test_what_somebody_is_settling_by_hand_is_left_to_them(points_system, tea):
    points_system.behaves("SILENT_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea)
    exchange.give_up(exchange=row)
    row.refresh_from_db()
    row.move(Exchange.State.UNRESOLVED, due_at=None)
    exchange.propose_settlement(
        exchange=row,
        outcome=Exchange.State.ISSUED,
        reason="shown by the bank",
        by=world.person("maker"),
        now=timezone.now(),
    )
    reconciled()
    row.refresh_from_db()
    assert (row.state, Repair.objects.count()) == (Exchange.State.UNRESOLVED, 0)


def test_points_taken_for_an_exchange_that_was_refused_here_go_back_once(points_system, tea):
    points_system.behaves("CONTRADICTORY", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea)
    found = one_break(reconciled())
    assert repairs.possible(found) == {What.REVERSE}
    made = repaired(found, What.REVERSE)
    assert (made.state, made.points, made.accounting_date) == ("DONE", PRICE, TODAY)
    assert sum(points_system.remaining()) == 1_000_000
    assert repaired(found, What.REVERSE) == made
    assert points_system.count("request") == 3  # the ratio, the deduction, one reversal
    # The reversal of the repair is known on both sides; what was done to the break stays to be accepted.
    run = reconciled()
    assert breaks(run) == [("STATE_DIFFERS", row.request_no)]
    assert totals(run)["REVERSAL_ADVICE"] == ({"count": 1, "points": PRICE}, {"count": 1, "points": PRICE})
    resolve(found=found, resolution="given back", by=world.person("desk"), now=timezone.now())
    assert found.state == Break.State.RESOLVED


def test_points_taken_for_nobody_go_back(points_system, tea):
    row = world.submitted(world.quote(tea, 3))
    body = bank._deduction(row)
    row.delete()
    assert points_system.ask("DEDUCTION_REQUEST", body).code == "0000"
    found = one_break(reconciled())
    assert (found.type, found.merchant) == (Break.Type.PARTNER_ONLY, None)
    made = repaired(found, What.REVERSE)
    assert (made.state, made.exchange) == ("DONE", None)
    assert sum(points_system.remaining()) == 1_000_000


def test_coupons_of_a_deduction_they_do_not_know_are_frozen_and_freed(points_system, tea):
    row = bought(tea)
    Exchange.objects.update(issued_at=span(TODAY)[0] + timedelta(hours=1))
    by_hand = row.coupons.get(ordinal=3)
    coupons.freeze(coupon=by_hand, reason="lost phone", by="staff:x", now=cards.NOW)
    forgotten(points_system, row.request_no)
    found = one_break(reconciled())
    assert repairs.possible(found) == {What.RESUBMIT, What.FREEZE}
    code = coupons.read_code(coupon=row.coupons.get(ordinal=1), reason="x", by="x", now=timezone.now())
    repaired(found, What.FREEZE)
    with pytest.raises(coupons.CouponNotRedeemable):
        coupons.redeem(merchant=row.merchant, code=code, reference="TILL-1", now=cards.NOW)
    with pytest.raises(coupons.CouponsNotReturnable):
        coupons.give_back(exchange=row, coupon_ids=[row.coupons.get(ordinal=1).pk], reason="x", by="x", now=cards.NOW)
    assert CouponMove.objects.filter(what="FREEZE", reason="as agreed with the bank").count() == 2
    repaired(found, What.UNFREEZE)
    # The one that staff froze for another reason stays frozen.
    assert list(row.coupons.order_by("ordinal").values_list("state", flat=True)) == ["ACTIVE", "ACTIVE", "FROZEN"]
    assert coupons.redeem(merchant=row.merchant, code=code, reference="TILL-1", now=cards.NOW).state == "REDEEMED"


def test_a_deduction_they_do_not_know_is_sent_again_and_the_coupons_stay(points_system, tea):
    row = bought(tea)
    Exchange.objects.update(issued_at=span(TODAY)[0] + timedelta(hours=1))
    before = list(row.coupons.values_list("pk", "code_hash"))
    forgotten(points_system, row.request_no)
    found = one_break(reconciled())
    made = repaired(found, What.RESUBMIT)
    row.refresh_from_db()
    assert (made.state, row.bank_reference, row.accounting_date) == ("DONE", made.bank_reference, TODAY)
    assert list(row.coupons.values_list("pk", "code_hash")) == before
    [deduction] = points_system.holds("SELECT points, bank_reference FROM points_system_deduction")
    assert deduction == {"points": PRICE, "bank_reference": row.bank_reference}
    assert totals(reconciled())["DEDUCTION_REQUEST"] == ({"count": 1, "points": PRICE}, {"count": 1, "points": PRICE})


def test_a_deduction_sent_again_may_be_refused_and_nothing_is_made_of_it(points_system, tea):
    row = bought(tea)
    Exchange.objects.update(issued_at=span(TODAY)[0] + timedelta(hours=1))
    forgotten(points_system, row.request_no)
    points_system.database.execute("UPDATE points_system_account SET state = 'FROZEN'")
    reference = row.bank_reference
    made = repaired(one_break(reconciled()), What.RESUBMIT)
    row.refresh_from_db()
    assert (made.state, made.refusal_code, row.state, row.bank_reference) == ("REJECTED", "1002", "ISSUED", reference)


@pytest.mark.parametrize("kind", ["SILENT_AFTER", "SILENT_BEFORE", "GARBLED", "WRONG_SIGNATURE", "DOWN_AFTER"])
def test_a_repair_survives_silence_and_happens_once(points_system, tea, kind):
    points_system.behaves("CONTRADICTORY", type="DEDUCTION_REQUEST", remaining=1)
    bought(tea)
    found = one_break(reconciled())
    points_system.behaves(kind, type="REVERSAL_ADVICE", remaining=2)
    made = repaired(found, What.REVERSE)
    assert made.state == Repair.State.UNKNOWN
    for _turn in range(4):
        swept()
    made.refresh_from_db()
    assert made.state == Repair.State.DONE
    assert sum(points_system.remaining()) == 1_000_000


def test_a_return_they_do_not_know_is_sent_again(points_system, tea):
    row = bought(tea)
    back = given_back(row, 2)
    PointsReturn.objects.update(returned_at=span(TODAY)[0] + timedelta(hours=1))
    theirs(points_system, "UPDATE points_system_deduction SET returned = 0 WHERE %(no)s <> ''", row.request_no)
    forgotten(points_system, back.request_no)
    found = one_break(reconciled())
    assert found.type == Break.Type.LOCAL_ONLY
    assert repaired(found, What.RESUBMIT).state == Repair.State.DONE
    back.refresh_from_db()
    [known] = points_system.holds("SELECT points, bank_reference FROM points_system_request WHERE type LIKE 'RETURN%%'")
    assert known == {"points": back.points, "bank_reference": back.bank_reference}


def test_what_does_not_fit_is_refused(points_system, tea):
    row = bought(tea)
    theirs(
        points_system, "UPDATE points_system_request SET points = points + 1 WHERE request_no = %(no)s", row.request_no
    )
    found = one_break(reconciled())
    for what in (What.ASK_AGAIN, What.REVERSE, What.RESUBMIT, What.UNFREEZE):
        with pytest.raises(repairs.RepairNotPossible):
            repaired(found, what)
    assert Repair.objects.count() == 0


def test_from_ten_thousand_points_on_a_repair_takes_two_people(points_system, tea):
    points_system.behaves("CONTRADICTORY", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea, 30)
    assert row.points == 10_000
    found = one_break(reconciled())
    one, other = world.person("desk"), world.person("chief")
    with pytest.raises(OwnerNeeded):
        repaired(found, What.REVERSE, by=one)
    take(found=found, owner=one, now=timezone.now())
    with pytest.raises(SamePerson):
        repaired(found, What.REVERSE, by=one)
    with pytest.raises(SamePerson):
        resolve(found=found, resolution="accepted", by=one, now=timezone.now())
    made = repaired(found, What.REVERSE, by=other)
    assert (made.state, made.owner, made.by) == ("DONE", one, other)
    # Past the verb the database says the same.
    with pytest.raises(IntegrityError, match="who_took_a_large_break"), transaction.atomic():
        Repair.objects.filter(pk=made.pk).update(by=one)


def test_a_point_below_it_one_person_does(points_system, tea):
    points_system.behaves("CONTRADICTORY", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea, 29)
    assert row.points == 9_667
    assert repaired(one_break(reconciled()), What.REVERSE).state == Repair.State.DONE


@pytest.mark.django_db(transaction=True)
def test_however_many_ask_for_a_repair_at_once_there_is_one(points_system, tea):
    points_system.behaves("CONTRADICTORY", type="DEDUCTION_REQUEST", remaining=1)
    bought(tea)
    found = one_break(reconciled())
    person = world.person("desk")

    def reverse() -> str:
        return str(repairs.repair(found=found, what=What.REVERSE, reason="x", by=person, now=timezone.now()).request_no)

    assert len(set(together([reverse] * 6))) == 1
    swept()
    assert sum(points_system.remaining()) == 1_000_000


@pytest.mark.django_db(transaction=True, databases=["default", "owner"])
def test_control_without_its_constraints_a_deduction_would_be_reversed_as_often_as_asked(
    points_system, tea, monkeypatch
):
    points_system.behaves("CONTRADICTORY", type="DEDUCTION_REQUEST", remaining=1)
    bought(tea)
    found = one_break(reconciled())
    person = world.person("desk")
    # As if all had looked before anybody wrote.
    monkeypatch.setattr(repairs, "_made", lambda found, what: None)
    rules = ("a_break_is_repaired_once_in_each_way", "a_deduction_is_reversed_by_one_repair")
    reverse = partial(repairs.repair, found=found, what=What.REVERSE, reason="x", by=person, now=timezone.now())
    with without_indexes("points_repair", *rules):
        together([reverse] * 6)
        assert Repair.objects.filter(what=What.REVERSE).count() == 6
    together([reverse] * 6)
    assert Repair.objects.filter(what=What.REVERSE).count() == 1


# By hand ------------------------------------------------------------------------------------------------


def unresolved_but_deducted(points_system: PointsSystem, tea: CouponProduct) -> Exchange:
    """Deducted on the day before, as the points system says; never heard of, never reversed."""
    points_system.behaves("SILENT_AFTER", type="DEDUCTION_REQUEST", remaining=1)
    row = bought(tea)
    exchange.give_up(exchange=row)
    row.refresh_from_db()
    row.move(Exchange.State.UNRESOLVED, due_at=None)
    for table in ("request", "deduction"):
        points_system.database.execute(f"UPDATE points_system_{table} SET accounting_date = %s", [YESTERDAY])
    return row


def test_what_was_settled_by_hand_is_not_looked_for_on_the_day_of_the_settlement(points_system, tea):
    row = unresolved_but_deducted(points_system, tea)
    exchange.propose_settlement(
        exchange=row,
        outcome=Exchange.State.ISSUED,
        reason="shown by the bank",
        by=world.person("maker"),
        now=timezone.now(),
    )
    assert breaks(reconciled(YESTERDAY)) == [("STATE_DIFFERS", row.request_no)]
    [deduction] = points_system.holds("SELECT bank_reference FROM points_system_deduction")
    exchange.settle_by_hand(
        exchange=row, bank_reference=deduction["bank_reference"], by=world.person("checker"), now=timezone.now()
    )
    assert row.state == Exchange.State.ISSUED
    assert breaks(reconciled(TODAY)) == []


def test_points_given_back_for_coupons_that_were_issued_by_hand_are_found(points_system, tea):
    row = unresolved_but_deducted(points_system, tea)
    exchange.propose_settlement(
        exchange=row, outcome=Exchange.State.ISSUED, reason="shown", by=world.person("maker"), now=timezone.now()
    )
    exchange.settle_by_hand(exchange=row, bank_reference="B1", by=world.person("checker"), now=timezone.now())
    body = {"original": row.request_no, "points": PRICE, "reason": "late"}
    assert points_system.ask("REVERSAL_ADVICE", body, request_no=row.reversal_request_no).code == "0000"
    found = reconciled(TODAY).breaks.select_related("run").get(subject=row.reversal_request_no)
    assert found.type == Break.Type.STATE_DIFFERS
    assert What.FREEZE in repairs.possible(found)


def test_a_day_is_compared_again_from_the_copy_that_was_kept(tea, settings):
    bought(tea)
    run = reconciled()
    before = (run.state, run.compared, run.totals, breaks(run))
    assert before[:2] == (Run.State.DONE, 1)
    settings.POINTS_SYSTEM_URL = "http://127.0.0.1:1/points/"
    run = reconciliation.statement_again(run=run, now=span(TODAY)[1] + timedelta(hours=3))
    assert (run.state, run.compared, run.totals, breaks(run)) == before
    assert run.files.count() == 1
