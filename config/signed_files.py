"""A partner's file of one business date, written so that the other side can tell whether it has all of it, and read.

Lines of comma-separated values, streamed:

``H,1,<business date>,<message id of the request>``
``D,…`` for every row, in the order of posting
``T,<rows>,<sums by type>,<SHA-256 of all lines before this one>``
``S,<webhook-id>,<webhook-timestamp>,<webhook-signature>`` over the T line, and by its hash over the whole

Neither side holds the file: it is written a few thousand rows at a time, and read a line at a time into a temporary
table, to be compared as a set. A file that is missing, short, altered or unsigned is an error, never an empty one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import islice
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NamedTuple

from django.db import connection, transaction
from django.utils import timezone
from psycopg import DataError
from psycopg.errors import UniqueViolation

from config import messages

ROWS_A_TIME = 2_000
DEADLINE = 600.0
MOST_BYTES = 1024**3
MOST_OF_A_LINE = 4096
"""A file without line ends must not come into memory as one line."""


class FileMissing(Exception):
    """The partner gave no file for the day."""


class FileDamaged(Exception):
    """The file is short, altered, unsigned or not written as agreed."""


# Writing ------------------------------------------------------------------------------------------------


def write(
    *, business_date: date, in_reply_to: str, lines: Iterable[str], sums: Callable[[], str], keys: Sequence[str]
) -> Iterator[bytes]:
    """The file, with at most a few thousand rows in memory; ``sums`` is asked once all ``lines`` are written."""
    header = _header(business_date, in_reply_to)
    digest = hashlib.sha256(header)
    yield header
    rows = 0
    source = iter(lines)
    while chunk := list(islice(source, ROWS_A_TIME)):
        rows += len(chunk)
        text = "".join(chunk).encode()
        digest.update(text)
        yield text
    trailer = f"T,{rows},{sums()},{digest.hexdigest()}\n".encode()
    yield trailer
    headers = messages.sign(keys=keys, message_id=messages.new_message_id(), content=trailer)
    yield f"S,{headers['webhook-id']},{headers['webhook-timestamp']},{headers['webhook-signature']}\n".encode()


def moment(at: datetime) -> str:
    """``2026-11-21T09:00:00Z``."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# Reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the rows of a file are written, and into which temporary table they are read.

    ``columns`` is the table's definition, in the order of a row after its ``D``; ``row`` matches a whole line.
    ``figures`` is how many figures the trailer gives of a type, its count among them.
    """

    table: str
    columns: str
    row: re.Pattern[bytes]
    figures: int


class Contents(NamedTuple):
    """What a checked file holds: how many rows, and the figures that its trailer gives of each type."""

    rows: int
    totals: dict[str, list[int]]


Keep = Callable[[BinaryIO, str], object]
"""Told of a file that was received, open, and of the id of the request for it; leaves it at its beginning."""


def read(
    *, url: str, keys: Sequence[str], business_date: date, layout: Layout, log: Any, type: str, keep: Keep
) -> Contents:
    """Fetch the day's file, check it against its own trailer and signature, and leave its rows in the table.

    ``log`` is the model that keeps what was sent to this partner and received, ``type`` what the request is called
    there; ``keep`` has the file before anything in it is believed. The table lasts as long as the connection; who
    compares drops it.

    :raises FileMissing, FileDamaged: whatever is in the table is then worth nothing.
    """
    with TemporaryFile() as file:
        message_id = _fetch(url=url, keys=keys, business_date=business_date, log=log, type=type, file=file)
        keep(file, message_id)
        return _load(file, header=_header(business_date, message_id), keys=keys, layout=layout)


def read_again(
    file: BinaryIO, *, message_id: str, keys: Sequence[str], business_date: date, layout: Layout
) -> Contents:
    """Check a file that was received under ``message_id`` once more, and leave its rows in the table.

    Its signature was fresh when it was received, so it may be of any age.

    :raises FileDamaged:
    """
    return _load(file, header=_header(business_date, message_id), keys=keys, layout=layout, is_kept=True)


def _header(business_date: date, message_id: str) -> bytes:
    return f"H,1,{business_date},{message_id}\n".encode()


def _fetch(*, url: str, keys: Sequence[str], business_date: date, log: Any, type: str, file: BinaryIO) -> str:
    """Download the file and keep a record of it; returns the id of the request, which the file repeats."""
    message_id = messages.new_message_id()
    log.objects.create(
        direction="SENT",
        message_id=message_id,
        type=type,
        body=business_date.isoformat().encode(),
        recorded_at=timezone.now(),
    )
    reply = messages.download(url=url, keys=keys, file=file, deadline=DEADLINE, most=MOST_BYTES, message_id=message_id)
    # A file may be too large for a row; its last lines carry the hash of all of it and the signature.
    size = file.seek(0, 2)
    file.seek(max(0, size - 4096))
    log.objects.create(
        direction="RECEIVED",
        message_id=message_id,
        type=type,
        in_reply_to=message_id,
        headers=reply.headers,
        body=file.read(),
        status=reply.status,
        problem=reply.failure,
        recorded_at=timezone.now(),
    )
    if reply.failure or reply.status != 200:
        raise FileMissing(f"{reply.failure or reply.status} {reply.detail}".strip())
    file.seek(0)
    return message_id


def _load(file: BinaryIO, *, header: bytes, keys: Sequence[str], layout: Layout, is_kept: bool = False) -> Contents:
    if file.readline(MOST_OF_A_LINE) != header:
        raise FileDamaged("the header is not that of this day and this request")
    digest = hashlib.sha256(header)
    rows = 0
    line = b""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {layout.table}; CREATE TEMPORARY TABLE {layout.table} ({layout.columns})")
        try:
            with cursor.copy(f"COPY {layout.table} FROM STDIN (FORMAT csv)") as copy:
                while line := file.readline(MOST_OF_A_LINE):
                    if not line.startswith(b"D,"):
                        break
                    rows += 1
                    if not layout.row.fullmatch(line):
                        raise FileDamaged(f"row {rows} is not written as agreed")
                    digest.update(line)
                    copy.write(line[2:])
        except (UniqueViolation, DataError) as fault:
            raise FileDamaged(f"a row is there twice or cannot be: {fault}") from fault
        cursor.execute(f"ANALYZE {layout.table}")
    figures = r":-?[0-9]+" * (layout.figures - 1)
    trailer = rf"T,([0-9]+),((?:[A-Z_]+:[0-9]+{figures}(?:;|(?=,)))*),([0-9a-f]{{64}})\n"
    said = re.fullmatch(trailer, line.decode(errors="replace"))
    if said is None:
        raise FileDamaged("there is no trailer written as agreed")
    count, sums, sha256 = said.groups()
    if int(count) != rows:
        raise FileDamaged(f"the trailer counts {count} rows, there are {rows}")
    if sha256 != digest.hexdigest():
        raise FileDamaged("the hash differs")
    _check_signature(file.readline(MOST_OF_A_LINE), signed=line, keys=keys, is_kept=is_kept)
    if file.read(1):
        raise FileDamaged("the file goes on after its end")
    totals = {}
    for part in filter(None, sums.split(";")):
        name, *numbers = part.split(":")
        totals[name] = [int(one) for one in numbers]
    return Contents(rows, totals)


def _check_signature(line: bytes, *, signed: bytes, keys: Sequence[str], is_kept: bool) -> None:
    word, *values = line.decode(errors="replace").rstrip("\n").split(",", 3)
    if word != "S" or len(values) != 3:
        raise FileDamaged("the file is not signed")
    headers = dict(zip(("webhook-id", "webhook-timestamp", "webhook-signature"), values, strict=True))
    if is_kept:
        if not messages.was_signed(keys=keys, headers=headers, content=signed):
            raise FileDamaged("the signature is not the partner's")
        return
    try:
        messages.verify(keys=keys, headers=headers, content=signed)
    except messages.Mistrusted as fault:
        raise FileDamaged(f"the signature is not the partner's: {fault.text}") from fault
