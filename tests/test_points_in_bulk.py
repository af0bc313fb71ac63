"""What is unknown about many exchanges is found out in bulk: one question, item-wise answers, each counted once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

import psycopg
import pytest
from django.conf import settings as ours
from django.db import connections
from django.utils import timezone

from config import messages
from points import bank, exchange
from points.models import Coupon, CouponProduct, Exchange, ExchangeRatio, Inquiry, PointsMessage
from tests import cards
from tests import points_world as world
from tests.partners import PATIENCE, PointsSystem, database_url, partner_process, points_system
from tests.test_points_killed import Doom, Nursery, nursed

__all__ = ["nursed", "partner_process", "points_system"]

pytestmark = pytest.mark.django_db(transaction=True)

HELD, STOCK = 100_000, 1_000
POOR = "6225000026000018"
State = Exchange.State


@pytest.fixture
def tea(points_system: PointsSystem, settings: Any, monkeypatch: pytest.MonkeyPatch) -> CouponProduct:
    settings.POINTS_SYSTEM_URL = f"{points_system.url}/points/"
    settings.POINTS_SYSTEM_KEYS = points_system.keys
    monkeypatch.setattr(bank, "DEADLINE_SECONDS", 2.0)
    points_system.has_account((HELD, "2031-12-31"))
    points_system.has_account((1, "2031-12-31"), number=POOR)
    made = world.product(stock=STOCK)
    world.ratio(made, "333.33")
    ExchangeRatio.objects.update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    return made


def unknown(
    partner: PointsSystem, tea: CouponProduct, many: int, *, count: int = 1, by: str = "6225000026000000",
    is_there: bool = True,
) -> list[Exchange]:  # fmt: skip
    """Exchanges that were sent and never answered; the points system has them, or never got them."""
    rows = []
    for _turn in range(many):
        row = world.sent(world.submitted(world.quote(tea, count, by=world.account(by))))
        if is_there:
            partner.ask("DEDUCTION_REQUEST", bank._deduction(row), request_no=row.request_no)
        rows.append(row)
    world.due()
    return rows


def states(rows: list[Exchange]) -> Counter[str]:
    return Counter(Exchange.objects.filter(pk__in=[row.pk for row in rows]).values_list("state", flat=True))


def sent(type: str) -> int:
    return PointsMessage.objects.filter(direction="SENT", type=type).count()


def group(partner: PointsSystem, tea: CouponProduct) -> dict[str, list[Exchange]]:
    """One of each: deducted, refused, never arrived, reversed there, and still in progress."""
    found = {
        "deducted": unknown(partner, tea, 3, count=2),
        "refused": unknown(partner, tea, 2, by=POOR),
        "lost": unknown(partner, tea, 2, is_there=False),
        "reversed": unknown(partner, tea, 1),
        "progress": unknown(partner, tea, 1),
    }
    [gone] = found["reversed"]
    assert partner.ask("REVERSAL_ADVICE", bank._reversal(gone.request_no, gone.points)).code == "0000"
    partner.holds(
        "UPDATE points_system_request SET told_from_at = now() + interval '1 day'"
        " WHERE request_no = %(no)s RETURNING id",
        no=found["progress"][0].request_no,
    )
    return found


def problems(rows: list[Exchange]) -> set[str]:
    return set(Exchange.objects.filter(pk__in=[row.pk for row in rows]).values_list("problem", flat=True))


# The points system ----------------------------------------------------------------------------------------------


def test_each_item_says_what_the_single_question_says(points_system: PointsSystem, tea: CouponProduct) -> None:
    rows = [row for some in group(points_system, tea).values() for row in some]
    originals = [row.request_no for row in rows]
    answer = points_system.ask("DEDUCTION_QUERY", {"originals": originals})
    assert [item["original"] for item in answer.body["items"]] == originals
    for original, item in zip(originals, answer.body["items"], strict=True):
        alone = points_system.ask("DEDUCTION_QUERY", {"original": original})
        if alone.result == messages.SUCCESS:
            assert item == alone.body
        else:
            assert item == {"original": original, "code": alone.code}
    codes = Counter(item["code"] for item in answer.body["items"])
    assert codes == {"0000": 4, "1001": 2, "2002": 2, "9998": 1}
    assert points_system.ask("DEDUCTION_QUERY", {"originals": originals}).body == answer.body


@pytest.mark.parametrize(
    "body",
    [
        {"originals": []}, {"originals": ["a", "a"]}, {"originals": [1]}, {"originals": "a"},
        {"originals": [str(number) for number in range(501)]}, {"original": "a", "originals": ["b"]}, {},
    ],
)  # fmt: skip
def test_a_question_about_many_that_is_not_as_it_should_be_is_not_understood(
    body: dict[str, Any], points_system: PointsSystem
) -> None:
    assert points_system.ask("DEDUCTION_QUERY", body).code == "9999"


# The sweep ------------------------------------------------------------------------------------------------------


def test_a_mixed_group_is_found_out_by_one_question(points_system: PointsSystem, tea: CouponProduct) -> None:
    found = group(points_system, tea)
    bank.sweep(now=timezone.now(), seconds=5)
    assert sent("DEDUCTION_QUERY") == 1
    assert states(found["deducted"]) == {State.ISSUED: 3}
    assert all(row.coupons.count() == 2 for row in found["deducted"])
    assert states(found["refused"]) == {State.REJECTED: 2}
    for kind, problem in (("lost", "2002"), ("reversed", "REVERSED"), ("progress", "9998")):
        assert states(found[kind]) == {State.UNKNOWN: len(found[kind])}
        assert problems(found[kind]) == {problem}
    tea.refresh_from_db()
    # Six for the deducted, two lost, one reversed, one in progress.
    assert tea.stock == STOCK - 10
    # One conversation for each, of the same two messages.
    for row in (*found["deducted"], *found["lost"]):
        log = PointsMessage.objects.about(row).values_list("direction", "type")
        assert list(log) == [("SENT", "DEDUCTION_QUERY"), ("RECEIVED", "ANSWER")]
    points_system.holds("UPDATE points_system_request SET told_from_at = NULL RETURNING id")
    world.the_clock_finishes()
    assert states(found["lost"] + found["reversed"]) == {State.REVERSED: 3}
    assert states(found["progress"]) == {State.ISSUED: 1}
    world.both_books_agree(points_system, tea, points=HELD + 1, stock=STOCK)


# What an answer about four is worth, item by item, when it is wrong in each way: how many are issued by it.
WRONG = {
    **dict.fromkeys(("GOOD", "SLOW", "DUPLICATE"), 4),
    **dict.fromkeys(("ITEMS_LEFT_OUT", "ITEMS_OF_OTHERS", "ITEMS_TWICE"), 2),
    **dict.fromkeys(("WRONG_POINTS", "CONTRADICTORY", "LATE", "WRONG_SIGNATURE", "WRONG_REQUEST_NO", "WRONG_REPLY"), 0),
    **dict.fromkeys(("SILENT_BEFORE", "SILENT_AFTER", "DOWN", "DOWN_AFTER", "DRIPPING"), 0),
}


@pytest.mark.parametrize("kind", WRONG)
def test_whatever_goes_wrong_with_the_answer_about_many(
    kind: str, points_system: PointsSystem, tea: CouponProduct
) -> None:
    rows = unknown(points_system, tea, 4)
    seconds = "0.2" if kind in ("SLOW", "LATE", "DUPLICATE") else "3"
    points_system.behaves(kind, type="DEDUCTION_QUERY", remaining=1, seconds=seconds)
    bank.sweep(now=timezone.now(), seconds=5)
    assert sent("DEDUCTION_QUERY") == 1
    assert states(rows)[State.ISSUED] == WRONG[kind]
    assert states(rows)[State.UNKNOWN] == 4 - WRONG[kind]
    assert Coupon.objects.count() == WRONG[kind]
    world.the_clock_finishes()
    assert states(rows) == {State.ISSUED: 4}
    world.both_books_agree(points_system, tea, points=HELD + 1, stock=STOCK)


@pytest.mark.parametrize("kind", ["OVERSIZE", "GARBLED", "SERVER_ERROR", "REDIRECT"])
def test_an_answer_that_one_item_may_have_spoilt_is_asked_for_in_halves(
    kind: str, points_system: PointsSystem, tea: CouponProduct
) -> None:
    rows = unknown(points_system, tea, 4)
    points_system.behaves(kind, type="DEDUCTION_QUERY", remaining=1)
    bank.sweep(now=timezone.now(), seconds=5)
    assert sent("DEDUCTION_QUERY") == 3
    assert states(rows) == {State.ISSUED: 4}
    world.both_books_agree(points_system, tea, points=HELD + 1, stock=STOCK)


def test_a_product_of_which_no_coupon_can_be_made_does_not_keep_the_others_from_theirs(
    points_system: PointsSystem, tea: CouponProduct
) -> None:
    endless = world.product(merchant=tea.merchant, valid_days=2_000_000_000)
    ratio = world.ratio(endless, "333.33")
    ExchangeRatio.objects.filter(pk=ratio.pk).update(advised_at=None, due_at=cards.OPENED)
    bank.sweep(now=timezone.now(), seconds=5)
    good, [bad] = unknown(points_system, tea, 3), unknown(points_system, endless, 1)
    bank.sweep(now=timezone.now(), seconds=5)
    assert states(good) == {State.ISSUED: 3}
    bad.refresh_from_db()
    assert (bad.state, bad.problem, bad.coupons.count()) == (State.UNKNOWN, "NOT_ISSUED", 0)
    # Asked six times, it is reversed: nobody pays for what he cannot get.
    world.the_clock_finishes()
    bad.refresh_from_db()
    assert bad.state == State.REVERSED
    assert sum(points_system.remaining()) == HELD - 3 * 334


def test_silence_costs_a_sweep_one_deadline_whatever_is_due(
    points_system: PointsSystem, tea: CouponProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "DEADLINE_SECONDS", 0.5)
    given_up = unknown(points_system, tea, 10)
    for row in given_up:
        assert exchange.give_up(exchange=row)
    asked = unknown(points_system, tea, 20)
    points_system.behaves("SILENT_BEFORE", seconds="0.7")
    for rows in (asked, given_up):
        before = PointsMessage.objects.filter(direction="SENT").count()
        began = monotonic()
        bank.sweep(now=timezone.now(), seconds=10)
        assert monotonic() - began < 4
        assert PointsMessage.objects.filter(direction="SENT").count() == before + 1
        assert "TIMED_OUT" in problems(rows)
    # Every one of the twenty was asked about, and of the given up the first.
    assert set(Exchange.objects.filter(state=State.UNKNOWN).values_list("attempts", flat=True)) == {1}
    assert Exchange.objects.filter(state=State.REVERSING, attempts=1).count() == 1


def test_who_may_wait_still_is_asked_about_before_a_heap_of_old_ones(
    points_system: PointsSystem, tea: CouponProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "TURN_SECONDS", 0.0001)  # one group and no more
    monkeypatch.setattr(bank, "_KINDS", [kind._replace(most=min(kind.most, 5)) for kind in bank._KINDS])
    rows = unknown(points_system, tea, 21)
    for place, row in enumerate(rows):
        # Those that were asked about already are due last, and nobody waits for them.
        Exchange.objects.filter(pk=row.pk).update(due_at=cards.OPENED + timedelta(seconds=place))
    Exchange.objects.filter(pk__in=[row.pk for row in rows[8:13]]).update(sent_at=timezone.now())
    bank.sweep(now=timezone.now(), seconds=5)
    asked = PointsMessage.objects.filter(direction="SENT", type="DEDUCTION_QUERY").order_by("pk")
    first, second = asked.values_list("exchanges", flat=True)[:2]
    # Whoever waits since a moment, and then whoever has waited longest: neither starves the other.
    assert set(first) == {row.pk for row in rows[8:13]}
    assert set(second) == {row.pk for row in rows[:5]}
    assert states(rows) == {State.ISSUED: 21}


def test_who_is_asked_about_stays_as_he_was_and_nobody_else_asks(
    points_system: PointsSystem, tea: CouponProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = unknown(points_system, tea, 4)
    Exchange.objects.filter(pk=rows[3].pk).update(due_at=timezone.now() + timedelta(days=1))
    held = Inquiry.objects.create(
        exchanges=[row.pk for row in rows[:2]], until_at=timezone.now() + timedelta(seconds=30)
    )
    bank.sweep(now=timezone.now(), seconds=5)
    assert states(rows[:2]) == {State.UNKNOWN: 2}
    assert states(rows[2:]) == {State.ISSUED: 1, State.UNKNOWN: 1}
    assert Inquiry.objects.get() == held
    # Whoever asked has died: they are free again once his time is over, and nothing is left of him.
    Inquiry.objects.update(until_at=timezone.now())
    bank.sweep(now=timezone.now(), seconds=5)
    assert states(rows[:2]) == {State.ISSUED: 2}
    assert not Inquiry.objects.exists()


# Races ----------------------------------------------------------------------------------------------------------


def test_no_two_workers_ask_about_the_same_exchange(
    points_system: PointsSystem, tea: CouponProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "_KINDS", [kind._replace(most=min(kind.most, 3)) for kind in bank._KINDS])
    rows = unknown(points_system, tea, 36)
    together, errors = threading.Barrier(4), list[BaseException]()

    def work() -> None:
        try:
            together.wait(PATIENCE)
            bank.sweep(now=timezone.now(), seconds=PATIENCE)
        except BaseException as fault:
            errors.append(fault)
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work) for _worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    asked = PointsMessage.objects.filter(direction="SENT", type="DEDUCTION_QUERY").values_list("exchanges", flat=True)
    assert Counter(one for some in asked for one in some) == {row.pk: 1 for row in rows}
    assert states(rows) == {State.ISSUED: 36}


@pytest.fixture
def doom(points_system: PointsSystem) -> Iterator[Doom]:
    made = Doom(points_system, "GOOD")
    try:
        yield made
    finally:
        made.close()


def _late_answers(partner: PointsSystem, rows: list[Exchange]) -> None:
    items = partner.ask("DEDUCTION_QUERY", {"originals": [row.request_no for row in rows]}).body["items"]
    for row, item in zip(rows, items, strict=True):
        told = messages.compose(
            keys=partner.keys, type="LATE_ANSWER", request_no=row.request_no, now=timezone.now(),
            business_date=timezone.localdate(),
            body={"type": "DEDUCTION_REQUEST", "result": "SUCCESS", "code": "0000", "text": "", "body": item},
        )  # fmt: skip
        bank.take_late_answer(raw=told.raw, headers=told.headers)


def race(partner: PointsSystem, tea: CouponProduct) -> list[Exchange]:
    """A group is settled while the late answers about half of it come in: both are past all looking when they write."""
    rows = unknown(partner, tea, 6)
    errors: list[BaseException] = []

    def run(act: Any) -> None:
        try:
            act()
        except BaseException as fault:
            errors.append(fault)
        finally:
            connections.close_all()

    one = threading.Thread(target=run, args=[lambda: bank.sweep(now=timezone.now(), seconds=5)])
    other = threading.Thread(target=run, args=[lambda: _late_answers(partner, rows[::2])])
    with psycopg.connect(database_url(ours.DATABASES["owner"]["NAME"])) as gate:
        gate.execute("LOCK TABLE points_coupon IN SHARE MODE")
        one.start()
        other.start()
        patience = monotonic() + PATIENCE
        with psycopg.connect(database_url(ours.DATABASES["owner"]["NAME"]), autocommit=True) as looks:
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            while (looks.execute(waiting).fetchone() or (0,))[0] < 2:
                assert monotonic() < patience, errors
        gate.rollback()
    one.join()
    other.join()
    assert not errors
    return rows


def test_a_late_answer_and_the_answer_about_many_at_once_make_the_coupons_once(
    points_system: PointsSystem, tea: CouponProduct
) -> None:
    rows = race(points_system, tea)
    assert states(rows) == {State.ISSUED: 6}
    assert Coupon.objects.count() == 6
    world.both_books_agree(points_system, tea, points=HELD + 1, stock=STOCK)


def test_control_without_the_condition_on_the_state_they_would_make_them_twice(
    points_system: PointsSystem, tea: CouponProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_or_not = exchange._ISSUE.replace("AND e.state = %(came_from)s", "AND %(came_from)s <> ''")
    assert open_or_not != exchange._ISSUE
    monkeypatch.setattr(exchange, "_ISSUE", open_or_not)
    with _without_the_constraints_on_coupons():
        race(points_system, tea)
        assert Coupon.objects.count() > 6


@contextmanager
def _without_the_constraints_on_coupons() -> Iterator[None]:
    """The database would refuse the second coupon too, were the program wrong."""
    unique = ["one_live_coupon_per_ordinal"]
    with connections["owner"].cursor() as owner:
        owner.execute("SELECT indexdef FROM pg_indexes WHERE indexname = ANY(%s)", [unique])
        made = [statement for (statement,) in owner.fetchall()]
        assert len(made) == len(unique)
        owner.execute(f"DROP INDEX {', '.join(unique)}")
        try:
            yield
        finally:
            owner.execute("DELETE FROM points_coupon")
            for statement in made:
                owner.execute(statement)


def test_a_person_settles_one_of_a_group_meanwhile_and_it_ends_once(
    points_system: PointsSystem, tea: CouponProduct
) -> None:
    rows = unknown(points_system, tea, 3)
    taken = [(row, exchange.Deducted(f"B{place}", row.points, "2026-11-22")) for place, row in enumerate(rows)]
    Exchange.objects.filter(pk=rows[1].pk).update(state=State.UNRESOLVED, due_at=None)
    exchange.propose_settlement(
        exchange=rows[1], outcome=State.ISSUED, reason="shown", by=world.person("maker"), now=timezone.now()
    )
    exchange.settle_by_hand(exchange=rows[1], bank_reference="B77", by=world.person("checker"), now=timezone.now())
    assert exchange.issue_all(taken=taken, now=timezone.now()) == 2
    assert Coupon.objects.count() == 3
    rows[1].refresh_from_db()
    assert (rows[1].bank_reference, rows[1].incident) == ("B77", "")


# Kill -9 --------------------------------------------------------------------------------------------------------


def test_the_clock_is_killed_in_the_middle_of_a_group(
    points_system: PointsSystem, tea: CouponProduct, nursed: Nursery, doom: Doom
) -> None:
    """Before the question, before the answer is kept, and before our commit: each time nothing is done by halves."""
    found = group(points_system, tea)
    for tables in (("points_pointsmessage",), ("points_coupon",), ("points_couponproduct",)):
        world.due()
        with doom._locked(*tables):
            child = doom._stands(nursed.child("clock", deadline=PATIENCE))
            assert not doom._is_still(child)
            doom._kill(child)
        doom.nobody_is_left()
        is_settled = tables == ("points_couponproduct",)
        # Coupons first, then the refused: what was committed stays, what was not has left nothing.
        assert states(found["deducted"]) == {State.ISSUED if is_settled else State.UNKNOWN: 3}
        assert states(found["refused"]) == {State.UNKNOWN: 2}
        assert Coupon.objects.count() == (6 if is_settled else 0)
    points_system.holds("UPDATE points_system_request SET told_from_at = NULL RETURNING id")
    world.the_clock_finishes()
    assert states(found["deducted"] + found["progress"]) == {State.ISSUED: 4}
    assert states(found["refused"]) == {State.REJECTED: 2}
    world.both_books_agree(points_system, tea, points=HELD + 1, stock=STOCK)
