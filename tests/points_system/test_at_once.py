"""Many at once: exactly what there is, each request once, and the same races going wrong without the lock."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Barrier
from typing import Any, TypeVar

import psycopg
import pytest
from django.utils import timezone

from config import messages
from tests.partners import PointsSystem
from tests.points_system.asking import a_deduction, balances, deduct, deducted, give_back, query, reverse

T = TypeVar("T")
MANY = 50


@pytest.fixture
def bank(points_system):
    points_system.advise()
    return points_system


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    start = Barrier(len(calls))

    def started(call: Callable[[], T]) -> T:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(started, calls))


def test_fifty_deductions_on_the_last_points_get_exactly_what_there_is(bank):
    bank.has_account((7500, "2026-12-31"), (4999, "2027-12-31"), (1, "2028-12-31"))
    answers = at_once([lambda: deduct(bank) for _asker in range(MANY)])
    assert Counter(answer.code for answer in answers) == {"0000": 12, "1001": MANY - 12}
    assert sum(bank.remaining()) == 500
    assert {answer.body["balance_after"] for answer in answers if answer.code == "0000"} == {
        12500 - 1000 * taken for taken in range(1, 13)
    }
    balances(bank)


def _race_in_the_database(bank: PointsSystem, function: str) -> Counter[str]:
    """Fifty deductions by ``function``, each on a connection of its own; what became of them."""
    bank.has_account((7500, "2026-12-31"), (4999, "2027-12-31"), (1, "2028-12-31"))
    now: datetime = timezone.now()

    def one() -> str:
        request_no = messages.new_request_no()
        with psycopg.connect(bank.database.info.dsn) as connection:
            start.wait()
            try:
                row = connection.execute(
                    f"SELECT code FROM {function}(%s, 'DEDUCTION_REQUEST', %s, %s, %s, '', '', %s, %s, NULL)",
                    (request_no, request_no, request_no, json.dumps(a_deduction()), now, now.date()),
                ).fetchone()
                connection.commit()
            except psycopg.errors.Error as fault:
                return type(fault).__name__
        assert row is not None
        return str(row[0])

    start = Barrier(20)
    with ThreadPoolExecutor(20) as pool:
        return Counter(pool.map(lambda _asker: one(), range(20)))


def test_in_the_database_alone_too(bank):
    assert _race_in_the_database(bank, "points_system_post") == {"0000": 12, "1001": 8}
    assert sum(bank.remaining()) == 500
    balances(bank)


def test_without_the_lock_the_same_race_goes_wrong(bank):
    """The control: the functions as they are, but for the lock, and slow between looking and taking."""
    for name in ("post", "deduct"):
        (row,) = bank.holds(f"SELECT pg_get_functiondef('points_system_{name}'::regproc) AS source")
        source = row["source"].replace("points_system_post(", "points_system_post_unlocked(")
        source = source.replace("points_system_deduct(", "points_system_deduct_unlocked(")
        source = source.replace(" FOR NO KEY UPDATE;", ";")
        source = source.replace("IF available < wanted", "PERFORM pg_sleep(0.05); IF available < wanted")
        bank.database.execute(source)  # type: ignore[call-overload]  it came out of the database
    try:
        outcome = _race_in_the_database(bank, "points_system_post_unlocked")
    finally:
        for (signature,) in [
            (row["signature"],)
            for row in bank.holds(
                "SELECT oid::regprocedure::text AS signature FROM pg_proc WHERE proname LIKE %(name)s",
                name="points_system_%_unlocked",
            )
        ]:
            bank.database.execute(f"DROP FUNCTION {signature}")  # type: ignore[call-overload]
    # The constraint still keeps every lot from going below zero, so it shows as failures instead of refusals.
    assert outcome["CheckViolation"] > 0
    assert outcome != {"0000": 12, "1001": 8}


def test_the_same_request_at_once_deducts_once(bank):
    bank.has_account((50000, "2027-12-31"))
    request_no = messages.new_request_no()
    answers = at_once([lambda: deduct(bank, request_no=request_no) for _asker in range(20)])
    assert {answer.code for answer in answers} == {"0000"}
    assert len({json.dumps(answer.body) for answer in answers}) == 1
    assert bank.remaining() == [49000]


def test_one_request_no_for_two_contents_at_once_acts_for_one(bank):
    bank.has_account((50000, "2027-12-31"))
    request_no = messages.new_request_no()
    contents = [{}, {"coupon_count": 6, "points": 2000}] * 10
    answers = at_once([lambda how=how: deduct(bank, request_no=request_no, **how) for how in contents])
    assert Counter(answer.code for answer in answers) == {"0000": 10, "2001": 10}
    assert bank.remaining()[0] in (49000, 48000)


def test_a_message_replayed_at_once_acts_once(bank):
    bank.has_account((50000, "2027-12-31"))
    now = timezone.now()
    question = messages.compose(
        keys=bank.keys, type="DEDUCTION_REQUEST", request_no=messages.new_request_no(), body=a_deduction(),
        now=now, business_date=now.date(),
    )  # fmt: skip

    def send() -> str:
        reply = messages.send(url=bank.messages_url, question=question)
        return messages.believe(reply=reply, question=question, keys=bank.keys).code

    codes = Counter(at_once([send] * 20))
    assert codes == {"0000": 1, "3003": 19}
    assert bank.remaining() == [49000]


@pytest.mark.parametrize("_round", range(5))
def test_a_deduction_and_its_reversal_at_once_leave_nothing_taken(bank, _round):
    bank.has_account((50000, "2027-12-31"))
    request_no = messages.new_request_no()
    deduction, reversal = at_once([lambda: deduct(bank, request_no=request_no), lambda: reverse(bank, request_no)])
    assert reversal.result == "SUCCESS"
    assert (deduction.code, reversal.body["original_found"]) in {("0000", True), ("2003", False)}
    assert query(bank, request_no).body["state"] == "REVERSED"
    assert bank.remaining() == [50000]
    balances(bank)


def test_reversals_and_returns_at_once_give_back_once(bank):
    bank.has_account((600, "2026-12-31"), (50000, "2027-12-31"))
    request_no, _body = deducted(bank)
    calls: list[Callable[[], Any]] = [lambda: reverse(bank, request_no) for _asker in range(10)]
    calls += [lambda coupon=coupon: give_back(bank, request_no, f"C{coupon}", points=333) for coupon in range(10)]
    random.Random(1).shuffle(calls)
    accepted = [answer for answer in at_once(calls) if answer.result == "SUCCESS"]
    assert len(accepted) in (1, 3)
    given = sum(answer.body["points"] for answer in accepted)
    assert given in (1000, 999)
    assert sum(bank.remaining()) == 50600 - 1000 + given
    balances(bank)
