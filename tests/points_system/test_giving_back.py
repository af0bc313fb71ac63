"""Reversals and returns: the original lots get their points back, once, and no more than they gave."""

from __future__ import annotations

import pytest

from config import messages
from tests.points_system.asking import ACCOUNT, balances, deduct, deducted, give_back, query, reverse


@pytest.fixture
def bank(points_system):
    points_system.has_account((500, "2026-12-31"), (600, "2027-12-31"), (5000, "2028-12-31"))
    points_system.advise()
    return points_system


def test_a_reversal_restores_the_original_lots(bank):
    request_no, _body = deducted(bank)
    answer = reverse(bank, request_no)
    assert (answer.result, answer.body["original_found"], answer.body["original_state"]) == (
        "SUCCESS",
        True,
        "REVERSED",
    )
    assert sorted((lot["points"], lot["expires"]) for lot in answer.body["lots"]) == [
        (500, "2026-12-31"),
        (500, "2027-12-31"),
    ]
    assert bank.remaining() == [500, 600, 5000]
    told = query(bank, request_no)
    assert (told.body["state"], told.body["points"]) == ("REVERSED", 1000)
    balances(bank)


def test_points_go_back_to_a_lot_that_has_expired_meanwhile(bank):
    request_no, _body = deducted(bank)
    bank.database.execute("UPDATE points_system_lot SET expires_date = '2026-01-01' WHERE expires_date < '2027-01-01'")
    assert reverse(bank, request_no).code == "0000"
    assert bank.remaining() == [500, 600, 5000]
    assert bank.ask("BALANCE_QUERY", {"account": ACCOUNT}).body["available"] == 5600


def test_a_frozen_account_gets_its_points_back(bank):
    request_no, _body = deducted(bank)
    bank.database.execute("UPDATE points_system_account SET state = 'FROZEN'")
    assert reverse(bank, request_no).code == "0000"
    assert bank.remaining() == [500, 600, 5000]


def test_a_repeated_reversal_is_answered_as_it_was_first_and_another_one_refused(bank):
    request_no, _body = deducted(bank)
    advice = messages.new_request_no()
    first = reverse(bank, request_no, request_no=advice)
    assert reverse(bank, request_no, request_no=advice).body == first.body
    another = reverse(bank, request_no)
    assert (another.result, another.code, another.body) == ("REJECTED", "2003", {"original_state": "REVERSED"})
    assert bank.remaining() == [500, 600, 5000]


@pytest.mark.parametrize("points", [999, 1001, 0, -1000, 500])
def test_only_the_whole_deduction_is_reversed(bank, points):
    request_no, _body = deducted(bank)
    assert reverse(bank, request_no, points=points).code == "1003"
    assert bank.remaining() == [0, 100, 5000]


def test_a_reversal_of_what_never_came_is_remembered_and_the_late_original_refused(bank):
    late = messages.new_request_no()
    answer = reverse(bank, late)
    assert (answer.result, answer.body["original_found"], answer.body["original_state"]) == (
        "SUCCESS",
        False,
        "REVERSED",
    )
    assert (query(bank, late).body["state"], query(bank, late).body["points"]) == ("REVERSED", 0)
    original = deduct(bank, request_no=late)
    assert (original.result, original.code) == ("REJECTED", "2003")
    assert deduct(bank, request_no=late).code == "2003"
    assert query(bank, late).body["state"] == "REVERSED"
    assert bank.remaining() == [500, 600, 5000]
    assert reverse(bank, messages.new_request_no(), points=0).body["original_found"] is False


def test_two_advices_on_what_never_came(bank):
    late = messages.new_request_no()
    assert reverse(bank, late).code == "0000"
    assert (reverse(bank, late).code, reverse(bank, late).body) == ("2003", {"original_state": "REVERSED"})


def test_reversing_a_refused_deduction_gives_nothing_back(bank):
    request_no = messages.new_request_no()
    assert deduct(bank, request_no=request_no, points=999).code == "1003"
    answer = reverse(bank, request_no, points=999)
    assert (answer.result, answer.body["original_state"], answer.body["points"]) == ("SUCCESS", "REFUSED", 0)
    assert bank.remaining() == [500, 600, 5000]


def test_only_deductions_are_reversed(bank):
    request_no, _body = deducted(bank)
    advice = messages.new_request_no()
    reverse(bank, request_no, request_no=advice)
    assert reverse(bank, advice).code == "2002"


def test_a_return_restores_the_original_lots_the_longest_lasting_first(bank):
    request_no, _body = deducted(bank)
    answer = give_back(bank, request_no, "C1", points=333)
    assert (answer.result, answer.body["points"], answer.body["returned"]) == ("SUCCESS", 333, 333)
    assert [(lot["points"], lot["expires"]) for lot in answer.body["lots"]] == [(333, "2027-12-31")]
    assert bank.remaining() == [0, 433, 5000]
    answer = give_back(bank, request_no, "C2", "C3", points=667)
    assert [(lot["points"], lot["expires"]) for lot in answer.body["lots"]] == [
        (167, "2027-12-31"),
        (500, "2026-12-31"),
    ]
    assert bank.remaining() == [500, 600, 5000]
    assert (query(bank, request_no).body["state"], query(bank, request_no).body["returned"]) == ("DEDUCTED", 1000)
    balances(bank)


def test_returns_never_give_more_than_was_taken(bank):
    request_no, _body = deducted(bank)
    assert give_back(bank, request_no, "C1", points=1001).code == "1005"
    assert give_back(bank, request_no, "C1", points=600).code == "0000"
    assert give_back(bank, request_no, "C2", points=401).code == "1005"
    assert give_back(bank, request_no, "C2", "C3", "C4", points=1).code == "1005"
    assert give_back(bank, request_no, "C2", points=0).code == "1003"
    assert give_back(bank, request_no, "C2", points=-5).code == "1003"
    assert give_back(bank, request_no, "C2", points=400).code == "0000"
    assert bank.remaining() == [500, 600, 5000]
    balances(bank)


def test_a_coupon_is_returned_once(bank):
    request_no, _body = deducted(bank)
    assert give_back(bank, request_no, "C1", points=333).code == "0000"
    assert give_back(bank, request_no, "C1", points=333).code == "2003"
    assert give_back(bank, request_no, "C2", "C1", points=333).code == "2003"


def test_a_return_no_is_used_once(bank):
    request_no, _body = deducted(bank)
    message = messages.new_request_no()
    first = give_back(bank, request_no, "C1", points=333, return_no="R1", request_no=message)
    assert give_back(bank, request_no, "C1", points=333, return_no="R1", request_no=message).body == first.body
    assert give_back(bank, request_no, "C2", points=333, return_no="R1").code == "2001"
    assert bank.count("return") == 1


def test_returning_and_reversing_exclude_each_other(bank):
    reversed_one, _body = deducted(bank)
    reverse(bank, reversed_one)
    assert give_back(bank, reversed_one, "C1", points=333).code == "2003"
    returned_one, _body = deducted(bank)
    give_back(bank, returned_one, "C1", points=333)
    answer = reverse(bank, returned_one)
    assert (answer.code, answer.body) == ("2003", {"original_state": "DEDUCTED"})
    assert sum(bank.remaining()) == 6100 - 667
    balances(bank)


def test_nothing_is_returned_of_what_was_never_deducted(bank):
    assert give_back(bank, messages.new_request_no(), "C1", points=333).code == "2002"
    refused = messages.new_request_no()
    deduct(bank, request_no=refused, points=999)
    assert give_back(bank, refused, "C1", points=333).code == "2002"


@pytest.mark.parametrize("coupons", [[], ["C1", "C1"], [""], ["C" * 65], [1], "C1", [str(n) for n in range(1001)]])
def test_a_return_without_proper_coupons_is_not_understood(bank, coupons):
    request_no, _body = deducted(bank)
    body = {"return_no": "R1", "original": request_no, "points": 333, "coupons": coupons}
    assert bank.ask("RETURN_REQUEST", body).code == "9999"
