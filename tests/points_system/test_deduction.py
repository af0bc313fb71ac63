"""Deducting points: from the lot that expires first, once, and never what is not there."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from django.utils import timezone

from config import messages
from tests.points_system.asking import ACCOUNT, a_deduction, balances, deduct, deducted, query


@pytest.fixture
def bank(points_system):
    points_system.has_account((600, "2027-12-31"), (5000, "2028-12-31"), (500, "2026-12-31"))
    points_system.advise()
    return points_system


def test_points_are_taken_from_the_lots_that_expire_first(bank):
    request_no, body = deducted(bank)
    assert [(lot["points"], lot["expires"]) for lot in body["lots"]] == [(500, "2026-12-31"), (500, "2027-12-31")]
    assert (body["points"], body["balance_after"]) == (1000, 5100)
    assert body["accounting_date"] == timezone.localdate().isoformat()
    assert len(body["bank_reference"]) == 12
    assert bank.remaining() == [0, 100, 5000]
    told = query(bank, request_no)
    assert (told.result, told.body) == (
        "SUCCESS",
        body | {"original": request_no, "state": "DEDUCTED", "code": "0000", "returned": 0},
    )
    balances(bank)


def test_what_has_expired_cannot_be_used_but_its_last_day_counts(points_system):
    today = timezone.localdate()
    points_system.has_account((900, (today - timedelta(days=1)).isoformat()), (1000, today.isoformat()))
    points_system.advise()
    assert points_system.ask("BALANCE_QUERY", {"account": ACCOUNT}).body["available"] == 1000
    deducted(points_system)
    assert points_system.remaining() == [900, 0]
    assert deduct(points_system).code == "1001"


def test_the_balance_is_told_with_the_lots_that_expire_first(bank):
    body = bank.ask("BALANCE_QUERY", {"account": ACCOUNT}).body
    assert body["available"] == 6100
    assert [(lot["points"], lot["expires"]) for lot in body["lots"]] == [
        (500, "2026-12-31"),
        (600, "2027-12-31"),
        (5000, "2028-12-31"),
    ]
    stranger = bank.ask("BALANCE_QUERY", {"account": "6225000026009999"})
    assert (stranger.result, stranger.code) == ("REJECTED", "1002")


@pytest.mark.parametrize(
    ("ratio", "rounding", "count", "points"),
    [
        ("333.33", "CEIL", 3, 1000),
        ("12.5", "CEIL", 7, 88),
        ("12.5", "CEIL", 1, 13),
        ("12.5", "HALF_UP", 1, 13),
        ("12.5", "HALF_UP", 7, 88),
        ("12.4", "HALF_UP", 1, 12),
        ("12.5", "FLOOR", 7, 87),
        ("100", "CEIL", 5, 500),
    ],
)
def test_points_are_recomputed_and_a_mismatch_is_refused(bank, ratio, rounding, count, points):
    bank.advise("OTHER:1", ratio, rounding)
    terms = {"exchange_ratio": ratio, "ratio_version": "OTHER:1", "rounding": rounding, "coupon_count": count}
    for wrong in (points - 1, points + 1):
        assert deduct(bank, **terms, points=wrong).code == "1003"
    deducted(bank, **terms, points=points)
    assert sum(bank.remaining()) == 6100 - points


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("1001", {"coupon_count": 19, "points": 6334}),
        ("1002", {"account": "6225000026009999"}),
        ("1003", {"points": 999}),
        ("1003", {"points": 0, "coupon_count": 0}),
        ("1003", {"points": -1000, "coupon_count": -3}),
        ("1003", {"coupon_count": 10**9}),
        ("1004", {"ratio_version": "TEA50:2"}),
        ("1004", {"exchange_ratio": "333.34"}),
        ("1004", {"rounding": "FLOOR"}),
        ("9999", {"points": "1000"}),
        ("9999", {"points": True}),
        ("9999", {"points": 10**13}),
        ("9999", {"points": None}),
        ("9999", {"exchange_ratio": 333}),
        ("9999", {"exchange_ratio": "-1"}),
        ("9999", {"exchange_ratio": "1e3"}),
        ("9999", {"exchange_ratio": "0.0"}),
        ("9999", {"rounding": "UP"}),
        ("9999", {"account": ""}),
        ("9999", {"account": "6" * 33}),
        ("9999", {"account": "1\n2"}),
        ("9999", {"customer": "刘杰"}),
    ],
)
def test_what_is_wrong_is_refused_and_takes_nothing(bank, code, changes):
    answer = deduct(bank, **changes)
    assert (answer.result, answer.code) == ("REJECTED", code)
    assert bank.remaining() == [500, 600, 5000]
    assert bank.count("deduction") == bank.count("movement") == 0


def test_a_fraction_is_no_message(bank):
    body = messages.write_json(a_deduction()).replace(b'"coupon_count":3', b'"coupon_count":1.5')
    now = timezone.now()
    question = messages.compose(
        keys=bank.keys, type="DEDUCTION_REQUEST", request_no=messages.new_request_no(), body=a_deduction(),
        now=now, business_date=now.date(),
    )  # fmt: skip
    raw = question.raw.replace(messages.write_json(a_deduction()), body)
    headers = messages.sign(keys=bank.keys, message_id=question.message_id, content=raw)
    answer = httpx.post(bank.messages_url, content=raw, headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (401, "9999")
    assert bank.count("message") == 1  # the advice


@pytest.mark.parametrize("missing", ["account", "points", "coupon_count", "exchange_ratio", "ratio_version"])
def test_a_body_without_a_member_is_not_understood(bank, missing):
    body = a_deduction()
    del body[missing]
    assert bank.ask("DEDUCTION_REQUEST", body).code == "9999"
    assert bank.ask("DEDUCTION_DEMAND", a_deduction()).code == "9999"


def test_nothing_is_taken_from_a_frozen_account(points_system):
    points_system.has_account((5000, "2027-12-31"), state="FROZEN")
    points_system.advise()
    assert deduct(points_system).code == "1002"
    assert points_system.ask("BALANCE_QUERY", {"account": ACCOUNT}).code == "1002"


def test_an_account_has_a_limit_for_each_deduction_and_for_each_day(points_system):
    points_system.has_account((50000, "2027-12-31"), most_per_deduction=1000, most_per_day=2500)
    points_system.advise()
    assert deduct(points_system, coupon_count=4, points=1334).code == "1005"
    deducted(points_system)
    deducted(points_system)
    assert deduct(points_system).code == "1005"
    points_system.database.execute("UPDATE points_system_deduction SET accounting_date = accounting_date - 1")
    deducted(points_system)


def test_the_same_request_is_answered_as_it_was_first(bank):
    request_no, body = deducted(bank)
    for _time in range(3):
        again = bank.ask("DEDUCTION_REQUEST", a_deduction(), request_no=request_no, repeat=True)
        assert (again.result, again.body) == ("SUCCESS", body)
    assert bank.remaining() == [0, 100, 5000]
    assert bank.count("request") == 2  # with the advice


def test_a_refusal_stays_one(points_system):
    points_system.has_account((10, "2027-12-31"))
    points_system.advise()
    request_no = messages.new_request_no()
    assert deduct(points_system, request_no=request_no).code == "1001"
    points_system.database.execute("UPDATE points_system_lot SET points = 5000, remaining = 5000")
    assert deduct(points_system, request_no=request_no).code == "1001"
    told = query(points_system, request_no)
    assert (told.result, told.body["state"], told.body["code"]) == ("SUCCESS", "REFUSED", "1001")
    deducted(points_system)


@pytest.mark.parametrize("change", [{"points": 999}, {"account": "6225000026000001"}, {"coupon_count": 4}])
def test_a_request_no_is_not_used_for_other_content(bank, change):
    request_no, body = deducted(bank)
    other = deduct(bank, request_no=request_no, **change)
    assert (other.result, other.code) == ("REJECTED", "2001")
    advice = {"original": "x", "points": 1, "reason": "x"}
    assert bank.ask("REVERSAL_ADVICE", advice, request_no=request_no).code == "2001"
    assert deduct(bank, request_no=request_no).body == body
    assert bank.remaining() == [0, 100, 5000]


def test_a_replayed_message_acts_once(bank):
    now = timezone.now()
    question = messages.compose(
        keys=bank.keys, type="DEDUCTION_REQUEST", request_no=messages.new_request_no(), body=a_deduction(),
        now=now, business_date=now.date(),
    )  # fmt: skip
    replies = [messages.send(url=bank.messages_url, question=question) for _time in range(2)]
    believed = [messages.believe(reply=reply, question=question, keys=bank.keys) for reply in replies]
    assert [answer.code for answer in believed] == ["0000", "3003"]
    assert bank.remaining() == [0, 100, 5000]


def test_an_unsigned_message_is_refused_and_nothing_is_kept(bank):
    answer = httpx.post(bank.messages_url, content=b'{"type":"DEDUCTION_REQUEST"}', trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (401, "3001")
    assert bank.count("message") == 1  # the advice


def test_a_deduction_nobody_asked_for_is_not_found(bank):
    told = query(bank, messages.new_request_no())
    assert (told.result, told.code) == ("REJECTED", "2002")


def test_a_version_means_one_ratio_for_ever(bank):
    assert bank.advise().code == "0000"
    for changed in ({"ratio": "333.34"}, {"rounding": "FLOOR"}, {"product": "TEA60"}):
        assert bank.advise(**changed).code == "2001"
    deducted(bank)


def test_what_came_in_is_kept_as_it_came(bank):
    request_no, body = deducted(bank)
    (message,) = bank.holds("SELECT * FROM points_system_message WHERE request_no = %(no)s", no=request_no)
    kept = messages.read_json(bytes(message["content"]))
    assert (kept["body"], message["code"], message["answer"]) == (a_deduction(), "0000", body)


def test_movements_are_never_changed(bank):
    deducted(bank)
    with pytest.raises(Exception, match="never changed"):
        bank.database.execute("UPDATE points_system_movement SET points = points + 1")
