"""The main job: a folder of files becomes insured cards and payments, whatever happens on the way."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connections
from django.utils import timezone

from insurance.models import InsurerMessage, Policy, Product
from issuing.models import Batch, BonusTier, CardProgram, Merchant
from prepaid import ingest
from prepaid.models import Card, Load, RefusedPayment, Transaction
from tests import expected, invariants
from tests.partners import PATIENCE, PROJECT, database_url, partner_process
from tests.partners import Insurer as Partner
from tests.partners import insurer as partner

__all__ = ["partner", "partner_process"]

pytestmark = pytest.mark.django_db(transaction=True)

SAMPLE = Path(ingest.__file__).parent / "sample"
PURCHASES = 120


@pytest.fixture(autouse=True)
def _insured_by(partner: Partner, settings: Any) -> None:
    settings.INSURER_URL = f"{partner.url}/insurer/"
    settings.INSURER_KEYS = partner.keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The sample's first purchases and all of their payments."""
    made = tmp_path / "folder"
    made.mkdir()
    for name in ("merchants.csv", "programs.csv", "insurance.csv"):
        (made / name).write_bytes((SAMPLE / name).read_bytes())
    with (SAMPLE / "purchases.csv").open(encoding="utf-8") as file:
        purchases = [line for number, line in enumerate(file) if number <= PURCHASES]
    write(made / "purchases.csv", *purchases)
    kept = {line.split(",")[0] for line in purchases}
    with (SAMPLE / "payments.csv").open(encoding="utf-8") as file:
        write(
            made / "payments.csv",
            *(line for number, line in enumerate(file) if not number or line.split(",")[1] in kept),
        )
    return made


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(line if line.endswith("\n") else f"{line}\n" for line in lines), encoding="utf-8")


def ingested(folder: Path, **options: Any) -> dict[str, Any]:
    said = StringIO()
    call_command("ingest", str(folder), "--json", report=folder.parent / "report.csv", stdout=said, **options)
    document: dict[str, Any] = json.loads(said.getvalue())
    return document


def refusals(folder: Path) -> list[tuple[str, str, str, str]]:
    """File, line, reference and code of what the report lists."""
    with (folder.parent / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        return [(row["file"], row["line"], row["reference"], row["code"]) for row in csv.DictReader(file)]


# Figures


def test_the_figures_are_those_of_the_files_at_any_moment(folder):
    for moment in ("2026-11-01T00:00:00+08:00", "2026-03-31T23:59:59+08:00", "2026-01-20T12:00:00+08:00"):
        document = ingested(folder, as_of=moment)
        assert document == {"as_of": moment, **expected.figures(folder, datetime.fromisoformat(moment))}
    assert document["total"]["payments_refused"] <= len(refusals(folder))
    invariants.hold()


def test_some_payments_ask_for_more_than_the_card_holds_and_only_those_are_refused(folder):
    document = ingested(folder)
    refused = refusals(folder)
    assert document["total"]["payments_refused"] == len(refused) > 0
    assert {(file, code) for file, _line, _reference, code in refused} == {("payments.csv", "InsufficientBalance")}
    lines = (folder / "payments.csv").read_text().splitlines()
    assert all(lines[int(line) - 1].startswith(f"{reference},") for _file, line, reference, _code in refused)


def test_without_json_there_is_a_table(folder):
    said = StringIO()
    call_command("ingest", str(folder), report=folder.parent / "report.csv", stdout=said)
    lines = said.getvalue().splitlines()
    assert [line.split()[0] for line in lines[2:11]] == [
        *sorted(Merchant.objects.values_list("code", flat=True)),
        "total",
    ]
    assert str(folder.parent / "report.csv") in lines[-1]


def test_what_is_refused_stays_as_a_row_however_often_the_file_is_read(folder):
    document = ingested(folder)
    rows = {row.pk: row for row in RefusedPayment.objects.all()}
    reported = refusals(folder)
    assert sorted((row.file, str(row.line), row.reference, row.refusal) for row in rows.values()) == sorted(reported)
    assert len(rows) == document["total"]["payments_refused"] > 0
    for row in rows.values():
        lines = (folder / "payments.csv").read_text(encoding="utf-8").splitlines()
        assert (row.raw, row.posted_at, row.card.merchant_id) == (lines[row.line - 1], None, row.merchant_id)
        assert datetime.fromisoformat(row.raw.split(",")[4]) == row.occurred_at
    ingested(folder)
    assert set(RefusedPayment.objects.values_list("pk", flat=True)) == set(rows)
    first = next(iter(rows.values()))
    again = RefusedPayment.objects.get(pk=first.pk)
    assert again.recorded_at == first.recorded_at < again.refused_at


def test_a_refused_payment_that_a_later_run_posts_is_marked_and_no_longer_counted(folder):
    bought = (folder / "purchases.csv").read_text().splitlines()
    kept, missing = bought[:-1], bought[-1].split(",")[0]
    times = next(line.split(",")[0] for line in kept if ",HAIR-TIMES," in line)
    moment = "2026-07-01T10:00:00+08:00"
    header = ",".join(ingest.PAYMENTS)
    write(folder / "purchases.csv", *kept)
    write(
        folder / "payments.csv",
        header,
        f"P-1,{times},,99,{moment},S01",
        f"P-2,{missing},1.00,,{moment},S01",
        f"P-3,{times},,x,2026-02-30T10:00:00+08:00,S01",
    )
    assert ingested(folder)["total"]["payments_refused"] == 3
    assert ingested(folder, as_of="2026-06-01T00:00:00+08:00")["total"]["payments_refused"] == 1  # no moment: always
    # The purchase arrives, the first line is corrected, and the third is wrong in another way.
    write(folder / "purchases.csv", *bought)
    write(
        folder / "payments.csv",
        header,
        f"P-1,{times},,2,{moment},S01",
        f"P-2,{missing},1.00,,{moment},S01",
        f"P-3,{times},,x,{moment},S01",
    )
    document = ingested(folder)
    rows = {row.reference: row for row in RefusedPayment.objects.all()}
    assert {name: (row.refusal, row.posted_at is not None) for name, row in rows.items()} == {
        "P-1": ("InsufficientBalance", True),
        "P-2": ("PurchaseUnknown", True),
        "P-3": ("CellNotReadable", False),
    }
    assert (document["total"]["payments_refused"], document["total"]["payments_posted"]) == (1, 2)
    marked = rows["P-1"].posted_at
    ingested(folder)
    assert RefusedPayment.objects.get(reference="P-1").posted_at == marked


# Again and again


def test_a_second_run_does_nothing_twice(folder):
    first = ingested(folder)
    ids = set(Transaction.objects.values_list("pk", flat=True))
    second = ingested(folder)
    assert second["total"] == first["total"]
    assert second["merchants"] == first["merchants"]
    assert set(Transaction.objects.values_list("pk", flat=True)) == ids
    assert Batch.objects.count() == 1


def test_a_longer_file_adds_what_is_new_and_refuses_nothing_that_is_there(folder):
    whole = (folder / "purchases.csv").read_text().splitlines()
    write(folder / "purchases.csv", *whole[:50])
    ingested(folder)
    write(folder / "purchases.csv", *whole)
    document = ingested(folder)
    moment = datetime.fromisoformat(document["as_of"])
    assert document["total"] == expected.figures(folder, moment)["total"]
    assert {file for file, *_rest in refusals(folder)} == {"payments.csv"}


def test_purchases_refused_for_want_of_their_program_are_issued_once_it_is_there(folder):
    programs = (folder / "programs.csv").read_text()
    write(folder / "programs.csv", *programs.splitlines()[:2])
    assert 0 < ingested(folder)["total"]["cards"] < PURCHASES
    assert {code for file, _line, _reference, code in refusals(folder) if file == "purchases.csv"} == {"ProgramUnknown"}
    (folder / "programs.csv").write_text(programs)
    assert ingested(folder)["total"]["cards"] == PURCHASES


@pytest.mark.parametrize("word", [signal.SIGKILL, signal.SIGINT])
def test_stopped_again_and_again_it_ends_as_if_it_had_not_been(folder, partner, word):
    for is_far_enough in (
        lambda: Batch.objects.exists(),
        lambda: Card.objects.exists(),
        lambda: Policy.objects.exclude(state=Policy.State.PENDING).exists(),
        lambda: Transaction.objects.filter(kind=Transaction.Kind.PAYMENT).count() > 20,
    ):
        stopped_when(is_far_enough, folder, partner, word)
        # What was on its way to the insurer in that moment is asked about when its lease has run out.
        Policy.objects.filter(due_at__isnull=False).update(due_at=timezone.now() - timedelta(minutes=1))
        InsurerMessage.objects.update(recorded_at=timezone.now() - timedelta(minutes=1))
    document = ingested(folder)
    moment = datetime.fromisoformat(document["as_of"])
    assert document == {"as_of": document["as_of"], **expected.figures(folder, moment)}
    assert partner.count("policy") == PURCHASES
    invariants.hold()


def test_ctrl_c_ends_it_quietly_even_where_the_unwinding_fails(folder, monkeypatch, capsys):
    def cut_short(*args: Any, **more: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise ProgrammingError("can't change 'autocommit' now")

    monkeypatch.setattr(ingest, "run", cut_short)
    with pytest.raises(SystemExit) as ended:
        ingested(folder)
    assert ended.value.code == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_what_fails_without_ctrl_c_is_raised(folder, monkeypatch):
    def broken(*args: Any, **more: Any) -> None:
        raise ProgrammingError("broken")

    monkeypatch.setattr(ingest, "run", broken)
    with pytest.raises(ProgrammingError, match="broken"):
        ingested(folder)


def stopped_when(is_far_enough: Any, folder: Path, partner: Partner, word: signal.Signals) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DATABASE_URL": database_url(django_settings.DATABASES["owner"]["NAME"]),
        "INSURER_URL": f"{partner.url}/insurer/",
        "INSURER_KEYS": partner.keys[0],
    }
    process = subprocess.Popen(
        [sys.executable, "manage.py", "ingest", str(folder), "--report", os.devnull],
        cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        until = time.monotonic() + PATIENCE
        while not is_far_enough():
            if process.poll() is not None:
                break  # it was faster than we looked: then it is a whole run that is repeated
            assert time.monotonic() < until, "the command does nothing"
            time.sleep(0.002)
        process.send_signal(word)
        said = process.communicate(timeout=PATIENCE)[1].decode()
    finally:
        process.kill()
        process.wait()
    assert process.returncode in (0, -word, 130), said
    if process.returncode == 130:
        assert "goes on from here" in said


def test_a_silent_insurer_stops_nobody_from_paying(folder, partner, monkeypatch):
    monkeypatch.setattr(ingest, "PATIENCE", 0.5)
    partner.behaves("DOWN")
    document = ingested(folder)
    assert document["total"]["policies_accepted"] == 0
    assert document["total"]["payments_posted"] > 0
    assert Policy.objects.filter(state__in=["PENDING", "UNKNOWN"]).count() == PURCHASES


def test_two_at_once_do_not_stage_one_file_twice(folder):
    with connections["owner"].cursor() as other:
        other.execute("SELECT pg_advisory_lock(hashtext('ingest'))")
        try:
            with pytest.raises(CommandError, match="Another ingest"):
                ingested(folder)
        finally:
            other.execute("SELECT pg_advisory_unlock(hashtext('ingest'))")
    assert not Batch.objects.exists()


# Whose work it is


def test_a_batch_has_two_people_and_nobody_signs_in_as_them(folder):
    ingested(folder)
    batch = Batch.objects.get()
    people = [batch.made_by, batch.approved_by]
    assert [person.username for person in people] == ["ingest-maker", "ingest-checker"]
    assert all(not person.has_usable_password() and not person.is_active for person in people)
    assert User.objects.count() == 2


def test_terms_are_recorded_as_the_files_say(folder):
    ingested(folder)
    hair = CardProgram.objects.get(code="HAIR-BONUS")
    assert (hair.merchant.code, hair.named, hair.card_limit, hair.term_days) == ("HAIR01", True, 500_000, 1095)
    assert list(BonusTier.objects.filter(program=hair).order_by("from_amount").values_list("from_amount", "gift")) == [
        (100_000, 20_000),
        (300_000, 100_000),
        (1_000_000, 400_000),
    ]
    gym = Product.objects.get(merchant__code="GYM001")
    assert (gym.insurer.code, gym.code, str(gym.coverage_ratio)) == ("ANPING", "PCPG-B", "0.8000")


# What is refused


def test_a_row_that_contradicts_what_is_there_is_refused_by_name(folder):
    ingested(folder)
    write(folder / "merchants.csv", ",".join(ingest.MERCHANTS), "HAIR01,Other Name,resident services,Chongqing")
    programs = (folder / "programs.csv").read_text()
    (folder / "programs.csv").write_text(programs.replace("1000.00:200.00;", "1000.00:999.00;"))
    insurance = (folder / "insurance.csv").read_text()
    (folder / "insurance.csv").write_text(insurance.replace("PCPG-B,0.0150", "PCPG-B,0.0160"))
    ingested(folder)
    assert [row for row in refusals(folder) if row[0] != "payments.csv"] == [
        ("merchants.csv", "2", "HAIR01", "RecordedOtherwise"),
        ("programs.csv", "2", "HAIR-BONUS", "RecordedOtherwise"),
        ("insurance.csv", "3", "GYM001", "RecordedOtherwise"),
    ]
    assert Merchant.objects.get(code="HAIR01").name == "云锦美发"
    assert not BonusTier.objects.filter(gift=99_900).exists()


@pytest.mark.parametrize(
    ("file", "row", "refusal"),
    [
        ("merchants.csv", "lower,Name,retail,Beijing", "RecordNotValid"),
        ("merchants.csv", "NEW1,=1+1,retail,Beijing", "FormulaCell"),
        ("programs.csv", "NEW,NOBODY,BONUS,1,5000.00,,,,,,365", "MerchantUnknown"),
        ("programs.csv", "NEW,HAIR01,GIFT,1,5000.00,,,,,,365", "RecordNotValid"),
        ("programs.csv", "NEW,HAIR01,BONUS,yes,5000.00,,,,,,365", "CellNotReadable"),
        ("programs.csv", "NEW,HAIR01,BONUS,1,5000.00,1000,,,,,365", "CellNotReadable"),
        ("programs.csv", "NEW,HAIR01,BONUS,1,NaN,,,,,,365", "AmountNotReadable"),
        ("programs.csv", "NEW,HAIR01,TIMES,1,5000.00,,,12,,1000.00,365", "RecordNotValid"),
        ("programs.csv", "NEW,HAIR01,DISCOUNT,1,5000.00,,1e400,,,,365", "CellNotReadable"),
        ("programs.csv", "NEW,HAIR01,DISCOUNT,1,5000.00,,1.5,,,,365", "RecordNotValid"),
        ("insurance.csv", "NOBODY,ANPING,A,0.01,INITIAL,1.00,0.00,0.00,0.10", "MerchantUnknown"),
        ("insurance.csv", "HAIR01,ANPING,A,-0.01,INITIAL,1.00,0.00,0.00,0.10", "FormulaCell"),
        ("insurance.csv", "HAIR01,ANPING,A,1e-2,INITIAL,1.00,0.00,0.00,0.10", "CellNotReadable"),
    ],
)
def test_a_record_that_cannot_be_is_refused_by_name(folder, file, row, refusal):
    ingest_only = folder.parent / "only"
    ingest_only.mkdir()
    (ingest_only / "merchants.csv").write_bytes((folder / "merchants.csv").read_bytes())
    header = (folder / file).read_text().splitlines()[0]
    first = (folder / "merchants.csv").read_text().splitlines()[1] if file == "merchants.csv" else None
    write(ingest_only / file, header, *filter(None, [first]), row)
    ingested(ingest_only)
    assert [(name, code) for name, _line, _reference, code in refusals(ingest_only)] == [(file, refusal)]
    assert not Merchant.objects.filter(code__in=["lower", "NEW1"]).exists()
    assert not CardProgram.objects.exists()


def test_payments_are_refused_row_by_row_and_the_rest_is_posted(folder):
    times = next(
        line.split(",")[0] for line in (folder / "purchases.csv").read_text().splitlines() if ",HAIR-TIMES," in line
    )
    moment = "2026-07-01T10:00:00+08:00"
    write(
        folder / "payments.csv",
        ",".join(ingest.PAYMENTS),
        f"P-1,{times},,1,{moment},S01",
        f"P-2,{times},100.00,,{moment},S01",
        f"P-3,{times},,1.5,{moment},S01",
        f"P-4,{times},,0,{moment},S01",
        f"P-5,{times},,１,{moment},S01",
        f"P-6,NO-SUCH,,1,{moment},S01",
        f"P-7,{times},,1,2026-02-30T10:00:00+08:00,S01",
        f"P-8,{times},,1,2999-01-01T10:00:00+08:00,S01",
        f"P-9,{times},,1,2020-01-01T10:00:00+08:00,S01",
        f"P-10,{times},,1,{moment},=cmd",
        f"P-1,{times},,2,{moment},S01",
        f"P-1,{times},,1,{moment},S01",
        f"P-12,{times},,1,{moment},{'S' * 33}",
        f"P-13,{times},1.00,1,{moment},S01",
        f"P-14,{times},,,{moment},S01",
        f"P 15,{times},,1,{moment},S01",
        f"P-16,{times},,1,{moment},S01",
    )
    document = ingested(folder)
    assert [(line, code) for _file, line, _reference, code in refusals(folder)] == [
        ("3", "WrongUnit"),
        ("4", "CellNotReadable"),
        ("5", "CellNotReadable"),
        ("6", "CellNotReadable"),
        ("7", "PurchaseUnknown"),
        ("8", "MomentNotReadable"),
        ("9", "MomentNotReadable"),
        ("10", "BeforeOpening"),
        ("11", "FormulaCell"),
        ("12", "IdempotencyKeyReused"),
        ("14", "CellNotReadable"),
        ("15", "WrongUnit"),
        ("16", "WrongUnit"),
        ("17", "ReferenceNotReadable"),
    ]
    assert sorted(Transaction.objects.filter(kind="PAYMENT").values_list("reference", flat=True)) == ["P-1", "P-16"]
    assert document["total"]["payments_posted"] == 2
    # Of a payment for no purchase of ours nobody knows the merchant.
    assert document["total"]["payments_refused"] == 14
    assert document["merchants"]["HAIR01"]["payments_refused"] == 13


def test_what_a_spreadsheet_would_run_is_text_in_the_report(folder):
    write(folder / "payments.csv", ",".join(ingest.PAYMENTS), "=1+1,PUR,,1,2026-07-01T10:00:00+08:00,S01")
    ingested(folder)
    assert "'=1+1" in (folder.parent / "report.csv").read_text(encoding="utf-8-sig")
    assert [reference for _file, _line, reference, _code in refusals(folder)] == ["'=1+1"]


@pytest.mark.parametrize("file", ["merchants.csv", "purchases.csv", "payments.csv"])
def test_a_malformed_file_is_refused_whole_and_named(folder, file):
    path = folder / file
    path.write_bytes(path.read_bytes() + b'"never closed\n')
    ingested(folder)
    assert file in {name for name, _line, _reference, _code in refusals(folder)}
    assert Load.objects.exists() == (file != "purchases.csv")


def test_files_that_are_missing_are_named_and_passed_over(folder):
    (folder / "payments.csv").unlink()
    said = StringIO()
    call_command("ingest", str(folder), "--json", report=folder.parent / "report.csv", stdout=StringIO(), stderr=said)
    assert f"payments.csv is not in {folder}" in said.getvalue()
    assert Card.objects.count() == PURCHASES


@pytest.mark.parametrize("moment", ["yesterday", "2026-02-30T00:00:00+08:00", "2026-13-01"])
def test_a_moment_that_is_none_is_refused(folder, moment):
    with pytest.raises(CommandError, match="is not a moment"):
        call_command("ingest", str(folder), "--as-of", moment, stdout=StringIO())


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(CommandError, match="holds none of"):
        call_command("ingest", str(tmp_path), stdout=StringIO())
