"""The points system goes wrong as it is told, each way once, and a query then tells the truth."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

from config import messages
from tests.partners import PointsSystem
from tests.points_system.asking import balances, deduct, deducted, query, reverse


@pytest.fixture
def bank(points_system):
    points_system.has_account((5000, "2027-12-31"))
    points_system.advise()
    return points_system


@pytest.mark.parametrize(
    ("kind", "reason", "acts"),
    [
        ("SILENT_BEFORE", "CONNECTION_LOST", False),
        ("SILENT_AFTER", "CONNECTION_LOST", True),
        ("DOWN", "CONNECTION_LOST", False),
        ("DOWN_AFTER", "CONNECTION_LOST", True),
        ("GARBLED", "GARBLED", True),
        ("WRONG_SIGNATURE", "BAD_SIGNATURE", True),
        ("WRONG_REQUEST_NO", "WRONG_REQUEST_NO", True),
        ("WRONG_REPLY", "WRONG_REPLY", True),
        ("OVERSIZE", "OVERSIZED", True),
        ("REDIRECT", "HTTP_STATUS", True),
        ("SERVER_ERROR", "HTTP_STATUS", True),
    ],
)
def test_an_answer_that_cannot_be_believed(bank, kind, reason, acts):
    bank.behaves(kind, remaining=1, seconds="0.2")
    request_no = messages.new_request_no()
    with pytest.raises(messages.Unknown) as caught:
        deduct(bank, request_no=request_no)
    assert caught.value.reason == reason
    assert query(bank, request_no).code == ("0000" if acts else "2002")
    assert bank.remaining() == [4000 if acts else 5000]
    assert deduct(bank, request_no=request_no).code == "0000"
    assert bank.remaining() == [4000]
    balances(bank)


def test_silence_is_told_apart_from_a_slow_answer_by_the_asker_alone(bank):
    bank.behaves("SLOW", remaining=1, seconds="0.3")
    started = time.monotonic()
    deducted(bank)
    assert time.monotonic() - started >= 0.3


def test_a_dripping_answer_comes_whole_in_the_end(bank):
    bank.behaves("DRIPPING", remaining=1, seconds="0.5")
    started = time.monotonic()
    deducted(bank)
    assert time.monotonic() - started >= 0.5


def test_it_can_say_refused_and_have_deducted(bank):
    bank.behaves("CONTRADICTORY", remaining=1)
    request_no = messages.new_request_no()
    answer = deduct(bank, request_no=request_no)
    assert (answer.result, answer.code) == ("REJECTED", "1001")
    assert query(bank, request_no).body["state"] == "DEDUCTED"


def test_it_can_say_success_and_have_done_nothing(bank):
    bank.behaves("PRETENDS", remaining=1)
    request_no = messages.new_request_no()
    answer = deduct(bank, request_no=request_no)
    assert (answer.result, answer.body["points"], answer.body["balance_after"]) == ("SUCCESS", 1000, 4000)
    assert query(bank, request_no).code == "2002"
    assert bank.remaining() == [5000]
    assert bank.count("message") == 2  # the advice and the query


def test_it_can_tell_other_points_than_it_took(bank):
    bank.behaves("WRONG_POINTS", remaining=1)
    request_no = messages.new_request_no()
    assert deduct(bank, request_no=request_no).body["points"] == 1001
    assert query(bank, request_no).body["points"] == 1000
    assert bank.remaining() == [4000]


def test_it_can_be_in_progress_for_a_while(bank):
    bank.behaves("LATE", remaining=1, seconds="1.5")
    request_no = messages.new_request_no()
    answer = deduct(bank, request_no=request_no)
    assert (answer.result, answer.code, answer.body) == ("IN_PROGRESS", "9998", {})
    told = query(bank, request_no)
    assert (told.result, told.code) == ("IN_PROGRESS", "9998")
    assert deduct(bank, request_no=request_no).result == "IN_PROGRESS"
    until = time.monotonic() + 20
    while query(bank, request_no).result == "IN_PROGRESS":
        assert time.monotonic() < until
        time.sleep(0.1)
    assert query(bank, request_no).body["state"] == "DEDUCTED"
    assert bank.remaining() == [4000]


def test_it_can_act_long_after_it_hung_up(bank):
    bank.behaves("ACTS_LATE", remaining=1, seconds="1")
    request_no = messages.new_request_no()
    with pytest.raises(messages.Unknown):
        deduct(bank, request_no=request_no)
    assert query(bank, request_no).code == "2002"
    until = time.monotonic() + 20
    while query(bank, request_no).code == "2002":
        assert time.monotonic() < until
        time.sleep(0.1)
    assert bank.remaining() == [4000]


def test_what_acts_late_finds_its_reversal_and_does_nothing(bank):
    bank.behaves("ACTS_LATE", remaining=1, seconds="1")
    request_no = messages.new_request_no()
    with pytest.raises(messages.Unknown):
        deduct(bank, request_no=request_no)
    assert reverse(bank, request_no).body["original_found"] is False
    until = time.monotonic() + 20
    while bank.count("request") < 3:  # the advice of the ratio, the reversal, the late deduction
        assert time.monotonic() < until
        time.sleep(0.1)
    assert bank.remaining() == [5000]
    assert query(bank, request_no).body["state"] == "REVERSED"


def test_a_behaviour_lasts_for_so_many_messages_of_a_type(bank):
    bank.behaves("CONTRADICTORY", remaining=2, type="DEDUCTION_REQUEST")
    assert bank.ask("ECHO", {}).code == "0000"
    assert [deduct(bank).code for _time in range(3)] == ["1001", "1001", "0000"]


def test_what_went_out_instead_is_kept(bank):
    bank.behaves("WRONG_POINTS", remaining=1)
    deduct(bank)
    (row,) = bank.holds("SELECT sent, answer FROM points_system_message WHERE misbehaviour = 'WRONG_POINTS'")
    assert messages.read_json(bytes(row["sent"]))["body"]["points"] == 1001
    assert row["answer"]["points"] == 1000


@pytest.fixture
def listening() -> Iterator[tuple[str, list[tuple[bytes, dict[str, str]]]]]:
    """An address for callbacks, and what came there."""
    told: list[tuple[bytes, dict[str, str]]] = []

    class Listening(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.append((body, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listening) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/late", told
        server.shutdown()


@pytest.mark.parametrize(("kind", "times"), [("LATE", 1), ("DUPLICATE", 2)])
def test_the_answer_comes_by_callback(bank, listening, kind, times):
    url, told = listening
    bank.behaves(kind, remaining=1, seconds="0.2", callback_url=url)
    request_no = messages.new_request_no()
    answer = deduct(bank, request_no=request_no)
    assert answer.result == ("IN_PROGRESS" if kind == "LATE" else "SUCCESS")
    until = time.monotonic() + 20
    while len(told) < times:
        assert time.monotonic() < until
        time.sleep(0.05)
    late = [messages.receive(raw=raw, headers=headers, keys=bank.keys) for raw, headers in told]
    assert {(message.type, message.request_no) for message in late} == {("LATE_ANSWER", request_no)}
    assert len({message.message_id for message in late}) == 1
    body = late[0].body
    assert (body["type"], body["result"], body["code"]) == ("DEDUCTION_REQUEST", "SUCCESS", "0000")
    assert body["body"]["points"] == 1000
    assert bank.remaining() == [4000]


def test_only_those_who_sign_tell_it_how_to_behave(bank):
    answer = httpx.post(f"{bank.url}/points/behaviour", content=b'{"kind":"DOWN"}', trust_env=False)
    assert answer.status_code == 401
    assert bank.ask("ECHO", {}).code == "0000"


def test_the_insurers_key_opens_nothing_here(bank, partner_process):
    insurer, _bank = partner_process
    stranger = PointsSystem(url=bank.url, keys=insurer.keys, database=bank.database, server=bank.server)
    with pytest.raises(messages.Unknown):
        stranger.ask("ECHO", {})
