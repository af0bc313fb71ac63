"""The points system's own staff: what they may do, and that what is the insurer's is not theirs to see."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from django.utils import timezone

from tests.partners import BANK_STAFF, STAFF, PointsSystem
from tests.points_system.asking import balances, deduct, deducted


@pytest.fixture
def bank(points_system):
    points_system.has_account((5000, "2027-12-31"))
    points_system.advise()
    return points_system


def signed_in(bank: PointsSystem, person: tuple[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=bank.url, trust_env=False, follow_redirects=True) as client:
        client.get("/admin/login/")
        answer = client.post("/admin/login/", data={**token(client), "username": person[0], "password": person[1]})
        assert answer.status_code == 200
        yield client


@pytest.fixture
def desk(bank: PointsSystem) -> Iterator[httpx.Client]:
    """A member of the points system's staff, signed in."""
    yield from signed_in(bank, BANK_STAFF)


@pytest.fixture
def insurers_desk(bank: PointsSystem) -> Iterator[httpx.Client]:
    yield from signed_in(bank, STAFF)


def token(client: httpx.Client) -> dict[str, str]:
    return {"csrfmiddlewaretoken": client.cookies["partner_csrf"]}


def the_account(bank: PointsSystem) -> int:
    return bank.holds("SELECT id FROM points_system_account")[0]["id"]


def test_staff_choose_how_it_behaves_and_see_what_it_holds(bank, desk):
    assert "Accounts: 1. Points that can be used: 5000." in desk.get("/points/").text
    choice = {"kind": "CONTRADICTORY", "type": "DEDUCTION_REQUEST", "remaining": "1", "seconds": "1"}
    page = desk.post("/points/", data={**token(desk), **choice})
    assert "for 1 more messages" in page.text
    assert [deduct(bank).code for _time in range(2)] == ["1001", "0000"]
    assert "what was asked for is over" in desk.get("/points/").text


@pytest.mark.parametrize("choice", [{"kind": "SULKING"}, {"type": "ECHOES"}, {"remaining": "-1"}, {"seconds": "x"}])
def test_a_choice_that_makes_no_sense_changes_nothing(bank, desk, choice):
    usual = {"kind": "DOWN", "type": "", "remaining": "", "seconds": "1"}
    assert desk.post("/points/", data={**token(desk), **usual, **choice}).status_code == 200
    assert bank.ask("ECHO", {}).code == "0000"


def test_staff_freeze_and_unfreeze_an_account(bank, desk):
    data = {"action": "freeze", "_selected_action": the_account(bank)}
    desk.post("/admin/points_system/account/", data={**token(desk), **data})
    assert deduct(bank).code == "1002"
    again = desk.post("/admin/points_system/account/", data={**token(desk), **data})
    assert "no longer possible" in again.text
    desk.post("/admin/points_system/account/", data={**token(desk), **data, "action": "unfreeze"})
    deducted(bank)


def test_staff_add_points_as_a_new_lot(bank, desk):
    lot = {"account": the_account(bank), "points": "700", "expires_date": "2028-01-31", "reason": "goodwill"}
    desk.post("/admin/points_system/lot/add/", data={**token(desk), **lot})
    assert bank.remaining() == [5000, 700]
    (row,) = bank.holds("SELECT origin FROM points_system_lot WHERE points = 700")
    assert row["origin"] == "banker: goodwill"
    yesterday = (timezone.localdate() - timedelta(days=1)).isoformat()
    for wrong in ({"points": "0"}, {"points": "-5"}, {"expires_date": yesterday}, {"reason": ""}):
        desk.post("/admin/points_system/lot/add/", data={**token(desk), **lot, **wrong})
    assert bank.remaining() == [5000, 700]


def test_staff_take_points_off_by_a_new_row(bank, desk):
    (lot,) = bank.holds("SELECT id FROM points_system_lot")
    movement = {"lot": lot["id"], "points": "1500", "reason": "given by mistake"}
    desk.post("/admin/points_system/movement/add/", data={**token(desk), **movement})
    assert bank.remaining() == [3500]
    for wrong in ({"points": "3501"}, {"points": "0"}, {"reason": ""}):
        page = desk.post("/admin/points_system/movement/add/", data={**token(desk), **movement, **wrong})
        assert page.status_code == 200
    assert bank.remaining() == [3500]
    (row,) = bank.holds("SELECT points, reason FROM points_system_movement")
    assert (row["points"], row["reason"]) == (-1500, "banker: given by mistake")
    balances(bank)


def test_limits_can_be_changed_and_nothing_else_of_an_account(bank, desk):
    url = f"/admin/points_system/account/{the_account(bank)}/change/"
    change = {"most_per_deduction": "10", "most_per_day": "20", "number": "1", "state": "FROZEN"}
    desk.post(url, data={**token(desk), **change})
    (row,) = bank.holds("SELECT number, state, most_per_deduction FROM points_system_account")
    assert (row["number"], row["state"], row["most_per_deduction"]) == ("6225000026000000", "ACTIVE", 10)
    assert deduct(bank).code == "1005"


@pytest.mark.parametrize(
    "table", ["account", "lot", "movement", "deduction", "return", "request", "ratio", "tombstone", "message"]
)
def test_what_it_holds_can_be_looked_at_but_not_edited(bank, desk, table):
    deducted(bank)
    assert desk.get(f"/admin/points_system/{table}/").status_code == 200
    key = "request_id" if table in ("deduction", "return") else "id"
    for row in bank.holds(f"SELECT {key} AS id FROM points_system_{table}"):
        assert desk.get(f"/admin/points_system/{table}/{row['id']}/change/").status_code == 200
        assert desk.post(f"/admin/points_system/{table}/{row['id']}/delete/", data=token(desk)).status_code == 403
        if table != "account":
            url = f"/admin/points_system/{table}/{row['id']}/change/"
            assert desk.post(url, data=token(desk)).status_code == 403


def test_each_partners_staff_see_what_is_theirs(bank, desk, insurers_desk):
    for stranger, doors in (
        (desk, ["/insurer/", "/admin/insurer/policy/", "/admin/auth/user/"]),
        (insurers_desk, ["/points/", "/admin/points_system/account/", "/admin/points_system/message/"]),
    ):
        for door in doors:
            assert stranger.get(door).status_code == 403, door
    with httpx.Client(base_url=bank.url, trust_env=False) as nobody:
        assert nobody.get("/points/").headers["location"].startswith("/admin/login/")


def test_neither_database_has_the_others_tables(partner_process):
    insurer, bank = partner_process
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename LIKE %(name)s"
    assert insurer.holds(tables, name="points%") == []
    assert bank.holds(tables, name="insurer%") == []
    assert bank.holds(tables, name="auth%") == []
