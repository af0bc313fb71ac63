"""A file of purchases: checked row by row, approved by a second person, issued in slices by the clock."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from psycopg.errors import UniqueViolation

from config import tiers
from config.errors import SamePerson
from config.states import IllegalMove
from insurance.models import Insurer, Policy, Product
from issuing import batches, importing
from issuing.models import Batch, BatchRow, CardProgram, Kind, PaymentMethod
from issuing.orders import Holder, Order
from prepaid import ingest, processing
from prepaid.models import Card, Load, SubCard, Transaction
from tests import cards, invariants
from tests.partners import PATIENCE, PROJECT, database_url

pytestmark = pytest.mark.django_db

SAMPLE = Path(ingest.__file__).parent / "sample"
HEADER = ",".join(batches.COLUMNS) + "\n"


@pytest.fixture
def maker() -> User:
    return User.objects.create(username="maker")


@pytest.fixture
def approver() -> User:
    return tiers.let_decide(User.objects.create(username="approver"))


@pytest.fixture
def program() -> CardProgram:
    """1,000.00 on a sub-card, 20.00 given from 1,000.00 on; the merchant is insured."""
    made = cards.program(Kind.BONUS, code="LOTUS", card_limit=100_000, tiers=[(100_000, 2_000)])
    insure(made)
    return made


def insure(program: CardProgram) -> None:
    Product.objects.create(
        merchant=program.merchant,
        insurer=Insurer.objects.create(code=cards.reference("INS"), name="Anping"),
        code="PCPG-A",
        annual_rate=Decimal("0.0120"),
        valid_from_date=cards.OPENED.date(),
    )


def line(reference: str = "PUR-1", **cells: str) -> str:
    row = {
        "reference": reference,
        "program": "LOTUS",
        "holder_name": "王芳",
        "phone": "19900000001",
        "prepaid_amount": "2500.00",
        "paid_at": "2026-03-01T10:00:00+08:00",
        "payment_method": "CARD",
        **cells,
    }
    return ",".join(row.values()) + "\n"


def staged(content: str | bytes, maker: User, *, now: datetime = cards.NOW) -> Batch:
    content = content.encode() if isinstance(content, str) else content
    return batches.stage(name="purchases.csv", source=BytesIO(content), made_by=maker, now=now)


def refusals(batch: Batch) -> dict[int, str]:
    """What each refused line is refused as."""
    return dict(batch.lines.exclude(refusal="").values_list("line", "refusal"))


def references() -> list[str]:
    return sorted(Load.objects.values_list("reference", flat=True))


# Staging


def test_of_the_bad_purchases_two_are_good_and_each_other_has_one_clear_error(maker):
    with (SAMPLE / "purchases-bad.csv").open("rb") as source, open(os.devnull, "w") as out:
        report = ingest.Report(out)
        ingest.merchants(SAMPLE, report=report)
        ingest.programs(SAMPLE, report=report)
        batch = batches.stage(name="purchases-bad.csv", source=source, made_by=maker, now=cards.NOW)
    assert not report.codes
    assert (batch.state, batch.rows, batch.bad_rows, batch.good_amount) == (Batch.State.STAGED, 20, 18, 110_000)
    assert list(batch.lines.filter(refusal="").order_by("line").values_list("reference", flat=True)) == [
        "PUR-GOOD-1",
        "PUR-GOOD-2",
    ]
    assert refusals(batch) == {
        2: "AmountNotReadable",  # "12,345.67"
        3: "AmountNotReadable",  # -100.00
        4: "AmountNotPositive",  # 0
        5: "AmountNotReadable",  # 100.001
        6: "AmountNotReadable",  # 1e4
        7: "AmountNotReadable",  # full-width digits
        8: "ProgramUnknown",
        9: "HolderNeeded",
        10: "PhoneNotReadable",
        11: "MomentNotReadable",  # 30 February
        12: "MomentNotReadable",  # no offset
        13: "PaymentMethodUnknown",  # BARTER
        14: "WrongPrice",  # a TIMES card has one price
        15: "CashNotAllowed",  # 60,000.00
        16: "IdentityNeeded",  # unnamed, 10,000.00
        17: "FormulaCell",
        18: "AmountTooLarge",
        19: "ReferenceRepeated",  # that of line 18
    }
    assert all(batch.lines.exclude(refusal="").values_list("reason", flat=True))
    assert batch.lines.get(line=19).reason == "Line 18 has the same reference."


def test_the_whole_file_is_kept_as_it_stands(maker, program):
    content = (
        HEADER + line("PUR-1") + line("PUR-2", prepaid_amount="nothing") + line("PUR-3", holder_name='"王, ""芳"""')
    )
    batch = staged(content, maker)
    kept = list(batch.lines.order_by("line").values_list("raw", flat=True))
    assert "".join(f"{raw}\n" for raw in [batch.header, *kept]) == content
    assert batch.sha256 == hashlib.sha256(content.encode()).hexdigest()
    assert batch.made_by == maker
    good = batch.lines.get(line=2)
    assert (good.reference, good.program, good.amount, good.payment_method) == ("PUR-1", program, 250_000, "CARD")
    assert good.paid_at == datetime.fromisoformat("2026-03-01T10:00:00+08:00")


def test_a_reference_is_used_once_in_a_file_and_once_for_ever(maker, approver, program):
    first = staged(HEADER + line("PUR-1"), maker)
    batches.approve(batch=first, by=approver, now=cards.NOW)
    processing.issue_due_batches(now=cards.NOW)
    second = staged(HEADER + line("PUR-2") + line("PUR-1") + line("PUR-2") + line("PUR-2"), maker)
    assert refusals(second) == {3: "AlreadyIssued", 4: "ReferenceRepeated", 5: "ReferenceRepeated"}
    assert second.good_amount == 250_000


def test_another_merchant_may_use_the_same_reference(maker, approver, program):
    other = cards.program(Kind.BONUS, code="ORCHID")
    insure(other)
    for batch in (staged(HEADER + line("PUR-1"), maker), staged(HEADER + line("PUR-1", program="ORCHID"), maker)):
        batches.approve(batch=batch, by=approver, now=cards.NOW)
    processing.issue_due_batches(now=cards.NOW)
    assert references() == ["PUR-1", "PUR-1"]


@pytest.mark.parametrize(
    ("cells", "refusal"),
    [
        ({"reference": "bad reference"}, "ReferenceNotReadable"),
        ({"reference": "-1"}, "FormulaCell"),
        ({"program": "@SUM"}, "FormulaCell"),
        ({"phone": "+8619900000001"}, "FormulaCell"),
        ({"payment_method": "\tCASH"}, "FormulaCell"),
        ({"prepaid_amount": "NaN"}, "AmountNotReadable"),
        ({"prepaid_amount": "1e400"}, "AmountNotReadable"),
        ({"prepaid_amount": ""}, "AmountNotReadable"),
        ({"prepaid_amount": "9999999999999.99"}, "TooManySubCards"),
        ({"paid_at": "2026-05-15T12:00:01+08:00"}, "PaidInFuture"),
        ({"paid_at": "2011-05-15T12:00:01+08:00"}, "NoRegulation"),
        ({"holder_name": "王" * 61}, "HolderNameNotReadable"),
        ({"holder_name": "王\x07芳"}, "HolderNameNotReadable"),
        ({"phone": "1990000000１"}, "PhoneNotReadable"),
    ],
)
def test_what_no_order_may_be_is_refused_by_name(maker, program, cells, refusal):
    batch = staged(HEADER + line(**cells) + line("PUR-GOOD"), maker)
    assert refusals(batch) == {2: refusal}
    assert (batch.rows, batch.bad_rows) == (2, 1)


def test_what_a_withdrawn_program_would_sell_is_refused(maker, program):
    program.move(CardProgram.State.WITHDRAWN)
    assert refusals(staged(HEADER + line(), maker)) == {2: "ProgramWithdrawn"}


def test_splitting_is_no_way_around_identity(maker):
    cards.program(Kind.BONUS, code="LOTUS", named=False, card_limit=100_000)
    unknown = {"holder_name": "", "phone": ""}
    content = HEADER + line("A", prepaid_amount="9999.99", **unknown) + line("B", prepaid_amount="10000.00", **unknown)
    assert refusals(staged(content, maker)) == {3: "IdentityNeeded"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Line 1"),
        (b"PK\x03\x04 a spreadsheet, not a CSV file", "Line 1"),
        (HEADER.upper().encode(), "Line 1"),
        ((HEADER + line() + "PUR-2,LOTUS\n").encode(), "Line 3"),
        ((HEADER + line() + line("PUR-2", holder_name='"王芳')).encode(), "Line 3"),
        ((HEADER + line()).encode() + line("PUR-2").encode("gb18030"), "Line 3"),
        ((HEADER + line() + line("PUR-2", holder_name="\0")).encode(), "Line 3"),
    ],
)
def test_a_malformed_file_is_refused_whole_and_staff_see_why(maker, program, content, says):
    batch = staged(content, maker)
    assert batch.state == Batch.State.REJECTED
    assert says in batch.problem
    assert Batch.objects.get() == batch
    assert not BatchRow.objects.exists()


def test_a_malformed_file_far_into_it_leaves_no_rows(maker, program, monkeypatch):
    monkeypatch.setattr(batches, "SLICE", 10)
    content = HEADER + "".join(line(f"PUR-{number}") for number in range(35)) + "the end is missing"
    batch = staged(content, maker)
    assert (batch.state, batch.problem) == (
        Batch.State.REJECTED,
        str(importing.WrongColumns(line=37, found=1, wanted=7)),
    )
    assert not BatchRow.objects.exists()


# Approving and rejecting


def test_whoever_prepared_a_batch_never_approves_it(maker, program):
    batch = staged(HEADER + line(), maker)
    with pytest.raises(SamePerson):
        batches.approve(batch=batch, by=maker, now=cards.NOW)
    with pytest.raises(IntegrityError), transaction.atomic():
        Batch.objects.update(state=Batch.State.APPROVED, approved_by=maker, approved_at=cards.NOW)
    batch.refresh_from_db()
    assert batch.state == Batch.State.STAGED


def test_nothing_is_issued_before_somebody_approves(maker, program):
    batch = staged(HEADER + line(), maker)
    processing.issue_due_batches(now=cards.NOW)
    with pytest.raises(IllegalMove):
        processing.issue_slice(batch=batch, now=cards.NOW)
    assert not Card.objects.exists()


def test_a_batch_without_a_good_row_is_not_approved(maker, approver, program):
    batch = staged(HEADER + line(prepaid_amount="0"), maker)
    with pytest.raises(batches.NothingToIssue):
        batches.approve(batch=batch, by=approver, now=cards.NOW)


def test_a_batch_is_approved_once_and_not_after_it_was_rejected(maker, approver, program):
    approved, rejected = staged(HEADER + line("PUR-1"), maker), staged(HEADER + line("PUR-2"), maker)
    batches.approve(batch=approved, by=approver, now=cards.NOW)
    batches.reject(batch=rejected, by=approver, reason="last month's file", now=cards.NOW)
    for batch in (approved, rejected):
        with pytest.raises(IllegalMove):
            batches.approve(batch=batch, by=approver, now=cards.NOW)
        with pytest.raises(IllegalMove):
            batches.reject(batch=batch, by=approver, reason="no", now=cards.NOW)
        with pytest.raises(IllegalMove):
            batches.withdraw(batch=batch, by=maker, reason="no", now=cards.NOW)
    assert rejected.problem == "approver: last month's file"
    processing.issue_due_batches(now=cards.NOW)
    assert references() == ["PUR-1"]


# Issuing


def test_the_clock_issues_what_was_approved_and_owes_each_card_its_cover(maker, approver, program):
    batch = staged(HEADER + line("PUR-1") + line("PUR-2", prepaid_amount="x") + line("PUR-3"), maker)
    batches.approve(batch=batch, by=approver, now=cards.NOW)
    assert processing.issue_due_batches(now=cards.NOW) == 2
    batch.refresh_from_db()
    assert (batch.state, batch.issued_rows, batch.bad_rows, batch.due_at) == (Batch.State.ISSUED, 2, 1, None)
    assert references() == ["PUR-1", "PUR-3"]
    assert set(Card.objects.values_list("batch", "remaining")) == {(batch.pk, 252_000)}
    first = SubCard.objects.filter(load__reference="PUR-1").order_by("seq")
    assert list(first.values_list("paid", "face")) == [(100_000, 100_800), (100_000, 100_800), (50_000, 50_400)]
    assert list(Policy.objects.values_list("sum_insured", flat=True)) == [250_000, 250_000]
    # A purchase happened when it was paid, not when its file arrived.
    assert set(Transaction.objects.values_list("occurred_at", "recorded_at")) == {
        (datetime.fromisoformat("2026-03-01T10:00:00+08:00"), cards.NOW)
    }
    invariants.hold()
    assert processing.issue_due_batches(now=cards.NOW) == 0


def test_a_batch_is_issued_in_slices_with_its_progress(maker, approver, program):
    batch = staged(HEADER + "".join(line(f"PUR-{number}") for number in range(25)), maker)
    batches.approve(batch=batch, by=approver, now=cards.NOW)
    progress = []
    while processing.issue_slice(batch=batch, now=cards.NOW, size=10):
        batch.refresh_from_db()
        progress.append((batch.state, batch.issued_rows))
    assert progress == [("APPROVED", 10), ("APPROVED", 20), ("APPROVED", 25)]
    assert batch.state == Batch.State.ISSUED
    assert not batch.lines.filter(line__gt=batch.settled_line).exists()


def test_a_row_whose_reference_was_taken_meanwhile_is_refused_and_the_rest_goes_on(maker, approver, program):
    lines = "".join(line(f"PUR-{number}") for number in range(5))
    first, second = staged(HEADER + lines, maker), staged(HEADER + line("PUR-2") + line("PUR-9"), maker)
    for batch in (first, second):
        batches.approve(batch=batch, by=approver, now=cards.NOW)
        processing.issue_due_batches(now=cards.NOW)
    assert refusals(second) == {2: "ReferenceUsed"}
    second.refresh_from_db()
    assert (second.state, second.issued_rows, second.bad_rows) == (Batch.State.ISSUED, 1, 1)
    assert len(references()) == 6


@pytest.mark.parametrize("twins", [(0, 1), (0, 400), (250, 251), (598, 599)])
def test_of_cards_opened_in_a_row_all_are_opened_or_none(program, twins):
    """More of them than one statement opens: the database refuses one while later ones are on their way already."""
    orders = [
        Order(program, 250_000, Holder("王芳", "19900000001"), f"PUR-{number}", PaymentMethod.CARD, cards.OPENED)
        for number in range(600)
    ]
    first, second = twins
    wrong = [*orders[:second], orders[second]._replace(reference=orders[first].reference), *orders[second + 1 :]]
    with pytest.raises(IntegrityError) as raised, transaction.atomic():
        processing.open_cards(orders=wrong, now=cards.NOW)
    assert isinstance(raised.value.__cause__, UniqueViolation)
    assert not Card.objects.exists()
    assert len(set(processing.open_cards(orders=orders, now=cards.NOW))) == 600
    assert Policy.objects.count() == 600
    invariants.hold()


def test_what_cannot_be_insured_is_refused_row_by_row_and_the_rest_goes_on(maker, approver, program):
    cards.program(Kind.BONUS, code="UNINSURED")
    content = HEADER + "".join(
        line(f"PUR-{number}", program="UNINSURED" if number in (3, 4, 11) else "LOTUS") for number in range(15)
    )
    batch = staged(content, maker)
    batches.approve(batch=batch, by=approver, now=cards.NOW)
    processing.issue_due_batches(now=cards.NOW)
    assert refusals(batch) == dict.fromkeys((5, 6, 13), "NoInsuranceProduct")
    batch.refresh_from_db()
    assert (batch.state, batch.issued_rows, batch.bad_rows) == (Batch.State.ISSUED, 12, 3)
    invariants.hold()


def test_a_batch_approved_before_its_program_was_withdrawn_opens_nothing(maker, approver, program):
    batch = staged(HEADER + line(), maker)
    batches.approve(batch=batch, by=approver, now=cards.NOW)
    program.move(CardProgram.State.WITHDRAWN)
    processing.issue_due_batches(now=cards.NOW)
    assert refusals(batch) == {2: "OpensNoMore"}
    assert not Card.objects.exists()


WORKER = """
import django
django.setup()
from functools import partial
from django.utils import timezone
from prepaid import processing
processing.issue_slice = partial(processing.issue_slice, size=20)
processing.issue_due_batches(now=timezone.now(), seconds=60)
"""
ROWS = 600


@pytest.mark.django_db(transaction=True)
def test_a_worker_is_killed_again_and_again_and_every_row_is_issued_once(maker, approver, program):
    batch = staged(HEADER + "".join(line(f"PUR-{number}") for number in range(ROWS)), maker)
    batches.approve(batch=batch, by=approver, now=cards.NOW)
    for wanted in (1, 100, 200):
        killed_when(batch, issued=wanted)
        # Its lease runs out.
        Batch.objects.filter(due_at__isnull=False).update(due_at=cards.NOW)
    batch.refresh_from_db()
    assert batch.state == Batch.State.APPROVED
    settled = batch.lines.filter(line__lte=batch.settled_line)
    assert Card.objects.count() == batch.issued_rows == settled.count() < ROWS
    processing.issue_due_batches(now=cards.NOW)
    batch.refresh_from_db()
    assert (batch.state, batch.issued_rows) == (Batch.State.ISSUED, ROWS)
    assert len(set(references())) == Card.objects.count() == Policy.objects.count() == ROWS
    invariants.hold()


def killed_when(batch: Batch, *, issued: int) -> None:
    """Start a worker and kill it as soon as so many rows are issued."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DATABASE_URL": database_url(settings.DATABASES["owner"]["NAME"]),
    }
    worker = subprocess.Popen([sys.executable, "-c", WORKER], cwd=PROJECT, env=environment)
    try:
        until = time.monotonic() + PATIENCE
        while Batch.objects.values_list("issued_rows", flat=True).get(pk=batch.pk) < issued:
            assert worker.poll() is None, "the worker ended by itself"
            assert time.monotonic() < until, "the worker issues nothing"
            time.sleep(0.002)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
