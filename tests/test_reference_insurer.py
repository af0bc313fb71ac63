"""The reference insurer, asked over real HTTP: what it accepts, refuses, answers again, and how it goes wrong."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import date, timedelta
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from typing import Any

import httpx
import pytest
from django.utils import timezone

from config import messages
from config.money import half_up
from tests.partners import STAFF, Insurer, insurer, partner_process

__all__ = ["insurer", "partner_process"]

FROM = date(2026, 11, 21)


def an_enrolment(**changes: Any) -> dict[str, Any]:
    """12,345.67 at 1.2 % for 180 days."""
    item: dict[str, Any] = {
        "request_no": messages.new_request_no(),
        "insurer": "ANPING",
        "product": "PCPG-A",
        "merchant": "HAIR01",
        "card_ref": messages.new_request_no(),
        "sum_insured": 1234567,
        "premium": 7306,
        "annual_rate": "0.0120",
        "minimum_premium": 100,
        "days": 180,
        "cover_from": FROM.isoformat(),
        "cover_to": (FROM + timedelta(days=180)).isoformat(),
        "currency": "CNY",
    }
    return item | changes


def answers(insurer: Insurer, type: str, *items: dict[str, Any]) -> list[dict[str, Any]]:
    answer = insurer.ask(type, {"items": list(items)})
    assert answer.result == "SUCCESS", answer
    return answer.body["items"]


def codes(insurer: Insurer, type: str, *items: dict[str, Any]) -> list[str]:
    return [item["code"] for item in answers(insurer, type, *items)]


def status(insurer: Insurer, *items: dict[str, Any]) -> list[dict[str, Any]]:
    return insurer.ask("STATUS_QUERY", {"request_nos": [item["request_no"] for item in items]}).body["items"]


# Enrolment ----------------------------------------------------------------------------------------------


def test_a_card_is_enrolled_at_the_premium_of_the_worked_example(insurer):
    item = an_enrolment()
    (answer,) = answers(insurer, "ENROLMENT", item)
    assert answer["code"] == "0000"
    assert len(answer["policy_no"]) == 12
    (policy,) = insurer.holds("SELECT * FROM insurer_policy")
    assert (policy["policy_no"], policy["card_ref"], policy["state"]) == (
        answer["policy_no"],
        item["card_ref"],
        "IN_FORCE",
    )
    assert (policy["sum_insured"], policy["premium"], policy["cover_from_date"]) == (1234567, 7306, FROM)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("1001", {"sum_insured": 0}),
        ("1001", {"sum_insured": -1}),
        ("1003", {"premium": 7305}),
        ("1003", {"premium": 7307}),
        ("1003", {"minimum_premium": 8000}),
        ("1004", {"cover_to": FROM.isoformat(), "days": 0}),
        ("1004", {"days": 181}),
        ("1007", {"premium": "7306"}),
        ("1007", {"premium": True}),
        ("1007", {"sum_insured": 10**30}),
        ("1007", {"annual_rate": "1/3"}),
        ("1007", {"annual_rate": "-0.01"}),
        ("1007", {"annual_rate": "1e9"}),
        ("1007", {"annual_rate": "."}),
        ("1007", {"cover_to": "2026-02-30"}),
        ("1007", {"card_ref": "x" * 65}),
        ("1007", {"holder": "王"}),
    ],
)
def test_an_item_that_is_wrong_is_refused_and_the_others_are_not(insurer, code, changes):
    assert codes(insurer, "ENROLMENT", an_enrolment(), an_enrolment(**changes), an_enrolment()) == [
        "0000",
        code,
        "0000",
    ]
    assert insurer.count("policy") == 2


def test_the_minimum_premium_applies(insurer):
    item = an_enrolment(sum_insured=1000, premium=100)
    assert codes(insurer, "ENROLMENT", item) == ["0000"]


def test_a_card_has_one_policy_in_force(insurer):
    first = an_enrolment()
    again = an_enrolment(card_ref=first["card_ref"])
    assert codes(insurer, "ENROLMENT", first, again) == ["0000", "1005"]
    assert codes(insurer, "ENROLMENT", an_enrolment(card_ref=first["card_ref"])) == ["1005"]
    assert insurer.count("policy") == 1


def test_the_same_request_is_answered_as_it_was_first(insurer):
    items = [an_enrolment(), an_enrolment(premium=1)]
    first = answers(insurer, "ENROLMENT", *items)
    insurer.database.execute("UPDATE insurer_item SET posted_at = posted_at - interval '1 day'")
    yesterday = status(insurer, *items)
    assert answers(insurer, "ENROLMENT", *items) == yesterday
    assert [item["code"] for item in first] == [item["code"] for item in yesterday] == ["0000", "1003"]
    assert insurer.count("policy") == 1


def test_a_request_no_is_not_used_for_other_content(insurer):
    item = an_enrolment()
    assert codes(insurer, "ENROLMENT", item, item | {"card_ref": "another"}) == ["0000", "2001"]
    assert codes(insurer, "ENROLMENT", item | {"product": "PCPG-B"}) == ["2001"]
    assert codes(insurer, "LOSS_NOTICE", item) == ["2001"]
    assert codes(insurer, "ENROLMENT", item) == ["0000"]


def test_a_message_is_not_used_for_other_content(insurer):
    request_no = messages.new_request_no()
    item = an_enrolment()
    assert insurer.ask("ENROLMENT", {"items": [item]}, request_no=request_no).result == "SUCCESS"
    assert insurer.ask("ENROLMENT", {"items": [item]}, request_no=request_no, repeat=True).result == "SUCCESS"
    other = insurer.ask("ENROLMENT", {"items": [an_enrolment()]}, request_no=request_no)
    assert (other.result, other.code) == ("REJECTED", "2001")
    assert insurer.count("policy") == 1


def test_a_replayed_message_acts_once(insurer):
    now = timezone.now()
    question = messages.compose(
        keys=insurer.keys,
        type="ENROLMENT",
        request_no=messages.new_request_no(),
        body={"items": [an_enrolment()]},
        now=now,
        business_date=now.date(),
    )
    results = []
    for _ in range(2):
        reply = messages.send(url=insurer.messages_url, question=question)
        results.append(messages.believe(reply=reply, question=question, keys=insurer.keys).code)
    assert results == ["0000", "3003"]
    assert insurer.count("message") == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": []},
        {"items": {}},
        {"items": ["x"]},
        {"items": [{}]},
        {"items": [{"request_no": 7}]},
        {"items": [{"request_no": "n"}] * 501},
    ],
)
def test_a_body_without_items_is_rejected_whole(insurer, body):
    answer = insurer.ask("ENROLMENT", body)
    assert (answer.result, answer.code) == ("REJECTED", "9999")
    assert insurer.count("item") == 0


def test_an_unsigned_message_is_refused_and_nothing_is_kept(insurer):
    answer = httpx.post(insurer.messages_url, content=b'{"type":"ENROLMENT"}', trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (401, "3001")
    assert insurer.count("message") == 0


def test_five_hundred_answers_fit_into_64_kib(insurer):
    items = [an_enrolment() for _ in range(500)]
    accepted = answers(insurer, "ENROLMENT", *items)
    assert [item["request_no"] for item in accepted] == [item["request_no"] for item in items]
    assert {item["code"] for item in accepted} == {"0000"}
    assert status(insurer, *items) == accepted
    cancellations = [a_cancellation(item, effective_date=FROM.isoformat(), unearned_premium=7306) for item in items]
    assert set(codes(insurer, "CANCELLATION", *cancellations)) == {"0000"}
    (largest,) = insurer.holds("SELECT max(length(answer)) AS bytes FROM insurer_message")
    assert largest["bytes"] <= messages.MOST_ANSWER_BYTES


def test_two_workers_sending_the_same_cards_get_one_policy_each(insurer):
    items = [an_enrolment() for _ in range(200)]
    got: list[list[dict[str, Any]]] = []
    workers = [threading.Thread(target=lambda: got.append(answers(insurer, "ENROLMENT", *items))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(got) == 4
    assert got[0] == got[1] == got[2] == got[3]
    assert insurer.count("policy") == 200


# Endorsement and cancellation ---------------------------------------------------------------------------


def an_endorsement(policy_no: str) -> dict[str, Any]:
    """500.00 more, on day 80 of 180."""
    return {
        "request_no": messages.new_request_no(),
        "policy_no": policy_no,
        "amount": 50000,
        "premium": half_up(50000 * Fraction("0.0120") * 100, 365),
        "effective_date": (FROM + timedelta(days=80)).isoformat(),
    }


def a_cancellation(enrolment: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "request_no": messages.new_request_no(),
        "original": enrolment["request_no"],
        "effective_date": (FROM + timedelta(days=90)).isoformat(),
        "unearned_premium": 3653,
    } | changes


def test_a_top_up_raises_the_sum_insured(insurer):
    (enrolled,) = answers(insurer, "ENROLMENT", an_enrolment())
    first, second = an_endorsement(enrolled["policy_no"]), an_endorsement(enrolled["policy_no"])
    assert codes(insurer, "ENDORSEMENT", first, second) == ["0000", "0000"]
    assert codes(insurer, "ENDORSEMENT", first) == ["0000"]
    (policy,) = insurer.holds("SELECT sum_insured FROM insurer_policy")
    assert policy["sum_insured"] == 1234567 + 2 * 50000
    assert insurer.count("endorsement") == 2


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("1001", {"amount": 0}),
        ("1003", {"premium": 1}),
        ("1004", {"effective_date": (FROM - timedelta(days=1)).isoformat()}),
        ("1004", {"effective_date": (FROM + timedelta(days=180)).isoformat()}),
        ("1006", {"policy_no": "P99999999999"}),
        ("1007", {"effective_date": "tomorrow"}),
        ("1007", {"amount": "50000"}),
    ],
)
def test_a_wrong_endorsement_changes_nothing(insurer, code, changes):
    (enrolled,) = answers(insurer, "ENROLMENT", an_enrolment())
    assert codes(insurer, "ENDORSEMENT", an_endorsement(enrolled["policy_no"]) | changes) == [code]
    assert insurer.holds("SELECT sum_insured FROM insurer_policy") == [{"sum_insured": 1234567}]


def test_cancelling_gives_the_unearned_premium_back(insurer):
    item = an_enrolment()
    answers(insurer, "ENROLMENT", item)
    assert codes(insurer, "CANCELLATION", a_cancellation(item, unearned_premium=3654)) == ["1008"]
    cancellation = a_cancellation(item)
    (answer,) = answers(insurer, "CANCELLATION", cancellation)
    assert answer["code"] == "0000"
    assert answer["endorsement_no"].startswith("E")
    assert answers(insurer, "CANCELLATION", cancellation) == [answer]
    assert codes(insurer, "CANCELLATION", a_cancellation(item)) == ["2003"]
    assert insurer.holds("SELECT state FROM insurer_policy") == [{"state": "CANCELLED"}]


def test_endorsements_are_given_back_by_their_own_days(insurer):
    item = an_enrolment()
    (enrolled,) = answers(insurer, "ENROLMENT", item)
    endorsement = an_endorsement(enrolled["policy_no"])
    answers(insurer, "ENDORSEMENT", endorsement)
    unearned = 3653 + half_up(endorsement["premium"] * 90, 100)
    assert codes(insurer, "CANCELLATION", a_cancellation(item, unearned_premium=unearned)) == ["0000"]


def test_a_card_whose_policy_was_cancelled_can_be_enrolled_again(insurer):
    item = an_enrolment()
    answers(insurer, "ENROLMENT", item)
    answers(insurer, "CANCELLATION", a_cancellation(item))
    assert codes(insurer, "ENROLMENT", an_enrolment(card_ref=item["card_ref"])) == ["0000"]


def test_an_enrolment_cancelled_before_it_arrives_is_refused(insurer):
    item = an_enrolment()
    assert [answer["code"] for answer in status(insurer, item)] == ["2002"]
    assert codes(insurer, "CANCELLATION", a_cancellation(item)) == ["0000"]
    assert [answer["code"] for answer in status(insurer, item)] == ["2003"]
    assert codes(insurer, "ENROLMENT", item) == ["2003"]
    assert insurer.count("policy") == 0


def test_notice_is_taken_of_losses_and_claims_on_known_policies(insurer):
    (enrolled,) = answers(insurer, "ENROLMENT", an_enrolment())
    for type in ("LOSS_NOTICE", "CLAIM_NOTICE"):
        notice = {
            "request_no": messages.new_request_no(),
            "policy_no": enrolled["policy_no"],
            "loss_date": "2026-12-01",
            "amount": 56250,
        }
        stranger = notice | {"request_no": messages.new_request_no(), "policy_no": "P99999999999"}
        assert codes(insurer, type, notice, stranger) == ["0000", "1006"]


# The bordereau ------------------------------------------------------------------------------------------


def the_bordereau(insurer: Insurer, day: date) -> list[str]:
    file = BytesIO()
    reply = messages.download(
        url=f"{insurer.url}/insurer/bordereau/{day}",
        keys=insurer.keys,
        file=file,
        deadline=10,
        most=10**7,
        message_id=messages.new_message_id(),
    )
    assert (reply.status, reply.failure) == (200, "")
    return file.getvalue().decode().splitlines(keepends=True)


def test_the_bordereau_lists_a_day_and_can_be_checked(insurer):
    good, bad = an_enrolment(), an_enrolment(premium=1)
    (enrolled, _) = answers(insurer, "ENROLMENT", good, bad)
    answers(insurer, "CANCELLATION", a_cancellation(good))
    today = timezone.localdate()
    header, *rows, trailer, signature = the_bordereau(insurer, today)
    assert header.startswith(f"H,1,{today},")
    assert [row.split(",")[1:7] for row in rows[:2]] == [
        [good["request_no"], "ENROLMENT", "1234567", "7306", "ACCEPTED", enrolled["policy_no"]],
        [bad["request_no"], "ENROLMENT", "0", "0", "REFUSED", ""],
    ]
    assert rows[2].split(",")[2:6] == ["CANCELLATION", "-1234567", "-3653", "ACCEPTED"]
    digest = hashlib.sha256("".join([header, *rows]).encode()).hexdigest()
    assert trailer == f"T,3,CANCELLATION:1:-1234567:-3653;ENROLMENT:1:1234567:7306,{digest}\n"
    _, message_id, timestamp, signed = signature.rstrip("\n").split(",", 3)
    headers = {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": signed}
    assert messages.verify(keys=insurer.keys, headers=headers, content=trailer.encode()) == message_id


def test_a_day_without_business_has_a_file_that_says_so(insurer):
    header, trailer, _ = the_bordereau(insurer, date(2020, 1, 1))
    assert header.startswith("H,1,2020-01-01,")
    assert trailer.startswith("T,0,,")


def test_the_bordereau_is_for_those_who_sign(insurer):
    url = f"{insurer.url}/insurer/bordereau/2026-11-21"
    assert httpx.get(url, trust_env=False).status_code == 401
    signed_for_another_day = messages.sign(
        keys=insurer.keys, message_id="m", content=b"GET /insurer/bordereau/2026-11-20"
    )
    assert httpx.get(url, headers=signed_for_another_day, trust_env=False).status_code == 401


# Misbehaviour -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason", "accepted"),
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
def test_it_goes_wrong_as_told_and_a_query_then_tells_the_truth(insurer, kind, reason, accepted):
    insurer.behaves(kind, remaining=1, seconds="0.3")
    item = an_enrolment()
    with pytest.raises(messages.Unknown) as caught:
        insurer.ask("ENROLMENT", {"items": [item]})
    assert caught.value.reason == reason
    assert [answer["code"] for answer in status(insurer, item)] == ["0000" if accepted else "2002"]


def test_it_can_be_slow(insurer):
    insurer.behaves("SLOW", seconds="0.4")
    started = time.monotonic()
    assert codes(insurer, "ENROLMENT", an_enrolment()) == ["0000"]
    assert time.monotonic() - started >= 0.4


def test_it_can_say_refused_and_mean_accepted(insurer):
    insurer.behaves("CONTRADICTORY", remaining=1)
    item = an_enrolment()
    assert codes(insurer, "ENROLMENT", item) == ["1009"]
    assert [answer["code"] for answer in status(insurer, item)] == ["0000"]


def test_it_can_leave_items_out(insurer):
    insurer.behaves("PARTIAL", type="ENROLMENT")
    items = [an_enrolment() for _ in range(5)]
    assert [answer["request_no"] for answer in answers(insurer, "ENROLMENT", *items)] == [
        item["request_no"] for item in items[::2]
    ]
    assert {answer["code"] for answer in status(insurer, *items)} == {"0000"}


def test_it_can_refuse_every_third_item(insurer):
    insurer.behaves("REFUSE_SOME", every=3, code="1042")
    items = [an_enrolment() for _ in range(7)]
    expected = ["0000", "0000", "1042", "0000", "0000", "1042", "0000"]
    assert codes(insurer, "ENROLMENT", *items) == expected
    insurer.behaves("GOOD")
    assert codes(insurer, "ENROLMENT", *items) == expected


def test_a_behaviour_lasts_for_so_many_messages_of_a_type(insurer):
    insurer.behaves("CONTRADICTORY", remaining=2, type="ENROLMENT")
    assert insurer.ask("ECHO", {}).code == "0000"
    assert [codes(insurer, "ENROLMENT", an_enrolment())[0] for _ in range(3)] == ["1009", "1009", "0000"]


def test_a_late_answer_comes_by_callback(insurer):
    told: list[tuple[bytes, dict[str, str]]] = []
    arrived = threading.Event()

    class Listening(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.append((body, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Listening) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        insurer.behaves("LATE", remaining=1, seconds="0.2", callback_url=f"http://127.0.0.1:{server.server_port}/late")
        item = an_enrolment()
        request_no = messages.new_request_no()
        answer = insurer.ask("ENROLMENT", {"items": [item]}, request_no=request_no)
        assert (answer.result, answer.code, answer.body) == ("IN_PROGRESS", "9998", {})
        assert arrived.wait(60)
        server.shutdown()
    raw, headers = told[0]
    late = messages.receive(raw=raw, headers=headers, keys=insurer.keys)
    assert (late.type, late.request_no) == ("LATE_ANSWER", request_no)
    assert late.body["items"] == status(insurer, item)


def test_only_those_who_sign_tell_it_how_to_behave(insurer):
    answer = httpx.post(f"{insurer.url}/insurer/behaviour", content=b'{"kind":"DOWN"}', trust_env=False)
    assert answer.status_code == 401
    assert insurer.ask("ECHO", {}).code == "0000"


def test_its_desk_is_for_its_staff(insurer):
    answer = httpx.get(f"{insurer.url}/insurer/", trust_env=False)
    assert (answer.status_code, answer.headers["location"].split("?")[0]) == (302, "/admin/login/")


@pytest.fixture
def desk(insurer: Insurer) -> Iterator[httpx.Client]:
    """A member of the insurer's staff, signed in."""
    with httpx.Client(base_url=insurer.url, trust_env=False, follow_redirects=True) as client:
        client.get("/admin/login/")
        answer = client.post("/admin/login/", data={**token(client), "username": STAFF[0], "password": STAFF[1]})
        assert answer.status_code == 200
        yield client


def token(client: httpx.Client) -> dict[str, str]:
    return {"csrfmiddlewaretoken": client.cookies["partner_csrf"]}


def test_staff_choose_how_it_behaves_and_see_what_it_holds(insurer, desk):
    answers(insurer, "ENROLMENT", an_enrolment())
    page = desk.get("/insurer/")
    assert "Policies in force: 1" in page.text
    choice = {
        "kind": "CONTRADICTORY",
        "type": "ENROLMENT",
        "remaining": "1",
        "seconds": "1",
        "every": "1",
        "code": "1042",
    }
    page = desk.post("/insurer/", data={**token(desk), **choice})
    assert "for 1 more messages" in page.text
    assert codes(insurer, "ENROLMENT", an_enrolment()) == ["1009"]
    assert codes(insurer, "ENROLMENT", an_enrolment()) == ["0000"]
    assert "what was asked for is over" in desk.get("/insurer/").text


@pytest.mark.parametrize("choice", [{"kind": "SULKING"}, {"every": "0"}, {"type": "ECHOES"}, {"remaining": "-1"}])
def test_a_choice_that_makes_no_sense_changes_nothing(insurer, desk, choice):
    usual = {"kind": "DOWN", "type": "", "remaining": "", "seconds": "1", "every": "1", "code": "1042"}
    assert desk.post("/insurer/", data={**token(desk), **usual, **choice}).status_code == 200
    assert insurer.ask("ECHO", {}).code == "0000"


@pytest.mark.parametrize("table", ["policy", "endorsement", "item", "message", "tombstone"])
def test_what_it_holds_can_be_looked_at_but_not_changed(insurer, desk, table):
    answers(insurer, "ENROLMENT", an_enrolment())
    assert desk.get(f"/admin/insurer/{table}/").status_code == 200
    assert desk.get(f"/admin/insurer/{table}/add/").status_code == 403
    for row in insurer.holds(f"SELECT id FROM insurer_{table}"):
        assert desk.get(f"/admin/insurer/{table}/{row['id']}/change/").status_code == 200
        assert desk.post(f"/admin/insurer/{table}/{row['id']}/delete/", data=token(desk)).status_code == 403


def test_a_port_that_was_taken_away_is_down():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    nobody = Insurer(url=f"http://127.0.0.1:{port}", keys=["AAAA"], database=None, server=None)  # type: ignore[arg-type]
    with pytest.raises(messages.Unknown) as caught:
        nobody.ask("ECHO", {})
    assert caught.value.reason == "CONNECTION_LOST"
