"""A batch becoming insured cards, beside COPY of the very same rows into the very same tables."""

import os
import tempfile
from io import BytesIO
from pathlib import Path
from statistics import median
from time import perf_counter

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.contrib.auth.models import User  # noqa: E402
from psycopg import sql  # noqa: E402

from config import tiers  # noqa: E402
from insurance.models import Insurer, Product  # noqa: E402
from issuing import batches  # noqa: E402
from issuing.models import Batch, CardProgram, Kind  # noqa: E402
from prepaid import processing  # noqa: E402
from tests import cards  # noqa: E402
from tests.benchmarks.measuring import Figure, seconds  # noqa: E402

CARDS = 20_000
ROUNDS = 3
# In the order in which rows refer to each other.
WRITTEN = (
    "prepaid_networkaccount", "prepaid_card", "prepaid_load", "prepaid_subcard", "prepaid_transaction",
    "prepaid_entry", "insurance_policy", "issuing_event",
)  # fmt: skip


def insured_program(**facts: object) -> CardProgram:
    """12,345.67 at a limit of 5,000.00 becomes three sub-cards; the gift is of the highest tier."""
    merchant = cards.merchant()
    Product.objects.create(
        merchant=merchant,
        insurer=Insurer.objects.get_or_create(code="INS", defaults={"name": "Pacific"})[0],
        code="GUARANTEE",
        annual_rate="0.012",
        valid_from_date="2020-01-01",
    )
    return cards.program(
        Kind.BONUS, merchant=merchant, card_limit=500_000, tiers=[(100_000, 5_000), (1_000_000, 200_000)], **facts
    )


def approved_batch(program: CardProgram, rows: int, *, first: int = 0) -> Batch:
    """A file of purchases by as many holders, staged and approved by two people."""
    lines = [
        f"PUR-{number},{program.code},王小明,139{number:08d},12345.67,2026-05-01T10:00:00+08:00,WECHAT\n"
        for number in range(first, first + rows)
    ]
    source = BytesIO((",".join(batches.COLUMNS) + "\n" + "".join(lines)).encode())
    maker, _made = User.objects.get_or_create(username="maker")
    approver, _made = User.objects.get_or_create(username="approver")
    batch = batches.stage(name="purchases.csv", source=source, made_by=maker, now=cards.NOW)
    assert (batch.rows, batch.bad_rows) == (rows, 0), batch.problem
    batches.approve(batch=batch, by=tiers.let_decide(approver), now=cards.NOW)
    return batch


def issue(batch: Batch) -> None:
    while processing.issue_slice(batch=batch, now=cards.NOW):
        pass


def measure(*, share: float) -> list[Figure]:
    rows = max(2_000, int(CARDS * share))
    program = insured_program()
    issuing, copying = [], []
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as owner, tempfile.TemporaryDirectory() as folder:
        for round_number in range(ROUNDS):
            batch = approved_batch(program, rows, first=round_number * rows)
            issuing.append(seconds(lambda batch=batch: issue(batch)))
            _take_out(owner, Path(folder))
            copying.append(_copy_in(owner, Path(folder)))
            _empty(owner)
    issued, copied = rows / median(issuing), rows / median(copying)
    return [Figure("issuing", "a batch", issued, "COPY of its rows", copied, at_least=0.6, unit=" cards/s")]


def _take_out(owner: psycopg.Connection, folder: Path) -> None:
    for table in WRITTEN:
        with (folder / table).open("wb") as file, owner.cursor().copy(_copy(table, "TO STDOUT")) as copy:
            for block in copy:
                file.write(block)
    _empty(owner)


def _empty(owner: psycopg.Connection) -> None:
    owner.execute(f"TRUNCATE {', '.join(WRITTEN)} CASCADE")
    owner.execute("CHECKPOINT")


def _copy_in(owner: psycopg.Connection, folder: Path) -> float:
    """As issuing commits: one transaction, with all keys, constraints and indexes of the tables."""
    start = perf_counter()
    with owner.transaction():
        for table in WRITTEN:
            with (folder / table).open("rb") as file, owner.cursor().copy(_copy(table, "FROM STDIN")) as copy:
                while block := file.read(1 << 20):
                    copy.write(block)
    return perf_counter() - start


def _copy(table: str, direction: str) -> sql.Composed:
    return sql.SQL("COPY {} " + direction).format(sql.Identifier(table))
