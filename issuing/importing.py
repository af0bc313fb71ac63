"""Reading CSV files that people send us: strictly, line by line, in little memory whatever the file is.

A file that is not what it should be is refused whole, by name and with the line. One record is one line: no column
of ours holds a line break, so a quote that is still open at the end of a line was never closed.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from config.spreadsheets import FORMULA_STARTS

MOST_BYTES = 256 * 1024 * 1024
LONGEST_LINE = 8 * 1024
_CHUNK = 256 * 1024
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/#-]{0,63}")
_MOMENT = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_QUOTED_LINE = re.compile(r'(?:[^",]*|"(?:[^"]|"")*")(?:,(?:[^",]*|"(?:[^"]|"")*"))*')


class FileRefused(Refused):
    """The file as a whole is not readable; nothing in it is believed."""

    status = 422


class WrongHeader(FileRefused):
    text = _("Line 1 is not the header this file must have: %(wanted)s")


class LineTooLong(FileRefused):
    text = _("Line %(line)s is longer than a line can be. Is this a CSV file?")


class FileTooLarge(FileRefused):
    text = _("The file is larger than %(most)s MB: send it in parts.")


class NotUtf8(FileRefused):
    text = _("Line %(line)s is not UTF-8 text. Save the file as CSV UTF-8.")


class HoldsNul(FileRefused):
    text = _("Line %(line)s holds a NUL character.")


class QuotesNotBalanced(FileRefused):
    text = _("Line %(line)s has a quotation mark that is not closed, or one in the wrong place.")


class WrongColumns(FileRefused):
    text = _("Line %(line)s has %(found)s columns instead of %(wanted)s.")


class FormulaCell(Refused):
    status = 422
    text = _("A cell begins with a character that makes a spreadsheet run it as a formula.")


class ReferenceNotReadable(Refused):
    status = 422
    text = _("A reference has 1 to 64 letters, digits and . _ : / # -, and begins with a letter or a digit.")


class MomentNotReadable(Refused):
    status = 422
    text = _("A moment is written with its offset from UTC and must exist, like 2026-03-01T10:00:00+08:00.")


class Readable(Protocol):
    """All that is asked of a file: bytes, as they come."""

    def read(self, size: int, /) -> bytes: ...


class Line(NamedTuple):
    """One record: its number in the file (the header is line 1), the text as it stands there, its cells."""

    number: int
    raw: str
    cells: list[str]


def read(source: Readable, *, columns: Sequence[str]) -> Iterator[Line]:
    """The records of a CSV file (RFC 4180, UTF-8, a byte order mark is tolerated) whose header is ``columns``.

    :raises WrongHeader, LineTooLong, FileTooLarge, NotUtf8, HoldsNul, QuotesNotBalanced, WrongColumns: while it is
        read; what came before the fault has been given out already, so the caller takes it back.
    """
    wanted = len(columns)
    lines = _lines(source, wanted=",".join(columns))
    _number, header = next(lines, (1, ""))
    if header.removeprefix("\ufeff") != ",".join(columns):
        raise WrongHeader(wanted=",".join(columns))
    for number, raw in lines:
        if '"' not in raw:
            cells = raw.split(",")
        elif _QUOTED_LINE.fullmatch(raw):
            cells = next(csv.reader([raw], strict=True))
        else:
            raise QuotesNotBalanced(line=number)
        if len(cells) != wanted:
            raise WrongColumns(line=number, found=len(cells), wanted=wanted)
        yield Line(number, raw, cells)


def _lines(source: Readable, *, wanted: str) -> Iterator[tuple[int, str]]:
    number = size = 0
    rest = b""
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > MOST_BYTES:
            raise FileTooLarge(most=MOST_BYTES // 1024**2)
        whole, newline, tail = chunk.rpartition(b"\n")
        if newline:
            for raw in _text(rest + whole, after=number).split("\n"):
                number += 1
                yield number, _bounded(raw.removesuffix("\r"), number, wanted)
            rest = tail
        else:
            rest += tail
        if len(rest) > LONGEST_LINE:
            raise (LineTooLong(line=number + 1) if number else WrongHeader(wanted=wanted))
    if rest:
        yield number + 1, _bounded(_text(rest, after=number).removesuffix("\r"), number + 1, wanted)


def _bounded(raw: str, number: int, wanted: str) -> str:
    if len(raw) > LONGEST_LINE:
        raise (LineTooLong(line=number) if number > 1 else WrongHeader(wanted=wanted))
    return raw


def _text(block: bytes, *, after: int) -> str:
    """Decoded text of whole lines, the first of which is line ``after`` + 1."""
    if (nul := block.find(b"\0")) >= 0:
        raise HoldsNul(line=after + 1 + block.count(b"\n", 0, nul))
    try:
        return block.decode()
    except UnicodeDecodeError as problem:
        raise NotUtf8(line=after + 1 + block.count(b"\n", 0, problem.start)) from problem


def check_no_formula(cells: Sequence[str]) -> None:
    """Refuse cells that a spreadsheet would run when somebody opens a list that quotes them.

    :raises FormulaCell:
    """
    for cell in cells:
        if cell and cell[0] in FORMULA_STARTS:
            raise FormulaCell()


def is_reference(text: str) -> bool:
    """Whether a merchant's own reference can look like this."""
    return _REFERENCE.fullmatch(text) is not None


def check_reference(text: str) -> None:
    """:raises ReferenceNotReadable: unless it can be a merchant's own reference."""
    if not is_reference(text):
        raise ReferenceNotReadable()


def parse_moment(text: str) -> datetime:
    """A moment of this century in ISO 8601 with seconds and offset.

    :raises MomentNotReadable: for anything else; a day, hour or offset that does not exist among it.
    """
    if not _MOMENT.fullmatch(text):
        raise MomentNotReadable()
    try:
        return datetime.fromisoformat(text)
    except ValueError as problem:
        raise MomentNotReadable() from problem
