"""The statement of a day: every request that moved points or was refused, in a file that can be checked."""

from __future__ import annotations

import hashlib
from datetime import date
from io import BytesIO

import httpx
import pytest
from django.utils import timezone

from config import messages
from tests.partners import PointsSystem
from tests.points_system.asking import deduct, deducted, give_back, query, reverse


@pytest.fixture
def bank(points_system):
    points_system.has_account((50000, "2027-12-31"))
    points_system.advise()
    return points_system


def the_statement(bank: PointsSystem, day: date) -> list[str]:
    file = BytesIO()
    reply = messages.download(
        url=f"{bank.url}/points/statement/{day}",
        keys=bank.keys,
        file=file,
        deadline=10,
        most=10**7,
        message_id="statement-asked-for",
    )
    assert (reply.status, reply.failure) == (200, "")
    return file.getvalue().decode().splitlines(keepends=True)


def test_the_statement_lists_a_day_and_can_be_checked(bank):
    kept, first = deducted(bank)
    given_up, _body = deducted(bank)
    refused, late = messages.new_request_no(), messages.new_request_no()
    deduct(bank, request_no=refused, points=999)
    query(bank, kept)
    back = messages.new_request_no()
    reversal = reverse(bank, given_up, request_no=back).body["bank_reference"]
    tombstone, returned = messages.new_request_no(), messages.new_request_no()
    reverse(bank, late, request_no=tombstone)
    returning = give_back(bank, kept, "C1", points=333, request_no=returned).body["bank_reference"]

    today = timezone.localdate()
    header, *rows, trailer, signature = the_statement(bank, today)
    assert header == f"H,1,{today},statement-asked-for\n"
    cells = [row.rstrip("\n").split(",") for row in rows]
    assert [cell[:7] for cell in cells] == [
        ["D", kept, "DEDUCTION_REQUEST", "1000", "ACCEPTED", first["bank_reference"], ""],
        ["D", given_up, "DEDUCTION_REQUEST", "1000", "ACCEPTED", cells[1][5], ""],
        ["D", refused, "DEDUCTION_REQUEST", "0", "REFUSED", "", ""],
        ["D", back, "REVERSAL_ADVICE", "1000", "ACCEPTED", reversal, given_up],
        ["D", tombstone, "REVERSAL_ADVICE", "0", "ACCEPTED", "", late],
        ["D", returned, "RETURN_REQUEST", "333", "ACCEPTED", returning, kept],
    ]
    digest = hashlib.sha256("".join([header, *rows]).encode()).hexdigest()
    assert trailer == f"T,6,DEDUCTION_REQUEST:2:2000;RETURN_REQUEST:1:333;REVERSAL_ADVICE:2:1000,{digest}\n"
    _, message_id, timestamp, signed = signature.rstrip("\n").split(",", 3)
    headers = {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": signed}
    assert messages.verify(keys=bank.keys, headers=headers, content=trailer.encode()) == message_id
    assert the_statement(bank, today)[:-1] == [header, *rows, trailer]


def test_a_day_ends_at_midnight_and_never_changes(bank):
    request_no, _body = deducted(bank)
    for table in ("request", "deduction"):
        bank.database.execute(f"UPDATE points_system_{table} SET accounting_date = '2026-01-05'")
    day = date(2026, 1, 5)
    before = the_statement(bank, day)[:-1]
    assert len(before) == 3
    reverse(bank, request_no)
    assert the_statement(bank, day)[:-1] == before
    assert ",REVERSAL_ADVICE,1000,ACCEPTED," in the_statement(bank, timezone.localdate())[1]


def test_a_day_without_business_has_a_file_that_says_so(bank):
    header, trailer, _signature = the_statement(bank, date(2020, 1, 1))
    assert header.startswith("H,1,2020-01-01,")
    assert trailer == f"T,0,,{hashlib.sha256(header.encode()).hexdigest()}\n"


def test_thousands_of_rows_are_streamed_in_order(bank):
    bank.database.execute(
        "INSERT INTO points_system_request (request_no, type, fingerprint, code, answer, points, bank_reference,"
        " posted_at, accounting_date, original) SELECT 'many' || n, 'DEDUCTION_REQUEST', '', '0000', '{}', n, 'B' || n,"
        " now(), '2026-02-01', '' FROM generate_series(1, 5000) n"
    )
    header, *rows, trailer, _signature = the_statement(bank, date(2026, 2, 1))
    assert [row.split(",")[3] for row in rows] == [str(n) for n in range(1, 5001)]
    digest = hashlib.sha256("".join([header, *rows]).encode()).hexdigest()
    assert trailer == f"T,5000,DEDUCTION_REQUEST:5000:{5000 * 5001 // 2},{digest}\n"


def test_the_statement_is_for_those_who_sign(bank):
    url = f"{bank.url}/points/statement/2026-11-21"
    assert httpx.get(url, trust_env=False).status_code == 401
    other_day = messages.sign(keys=bank.keys, message_id="m", content=b"GET /points/statement/2026-11-20")
    assert httpx.get(url, headers=other_day, trust_env=False).status_code == 401
    assert httpx.get(f"{bank.url}/points/statement/2026-13-01", trust_env=False).status_code == 404


def test_an_answer_says_on_which_accounting_date_it_counts(bank):
    request_no, taken = deducted(bank)
    other, _body = deducted(bank)
    bank.database.execute("UPDATE points_system_deduction SET accounting_date = '2026-01-05'")
    today = timezone.localdate().isoformat()
    said = reverse(bank, request_no).body
    assert (said["accounting_date"], said["original_date"]) == (today, "2026-01-05")
    said = reverse(bank, messages.new_request_no()).body
    assert (said["accounting_date"], said["original_date"], said["original_found"]) == (today, None, False)
    assert give_back(bank, other, "C1", points=333).body["accounting_date"] == today == taken["accounting_date"]


def test_what_is_spoken_of_cannot_break_the_line_it_is_written_in(bank):
    assert reverse(bank, "a,b\nD,c").code == "9999"
    header, trailer, _signature = the_statement(bank, timezone.localdate())
    assert header.startswith("H,")
    assert trailer.startswith("T,0,,")
