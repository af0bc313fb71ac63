"""Reading files that people send: strictly, and in little memory whatever they are."""

import tracemalloc
from datetime import UTC, datetime
from io import BytesIO
from typing import BinaryIO

import pytest

from config.spreadsheets import without_formula
from issuing import importing

COLUMNS = ("reference", "name", "amount")
HEADER = b"reference,name,amount\n"


def read(content: bytes) -> list[importing.Line]:
    return list(importing.read(BytesIO(content), columns=COLUMNS))


class Endless:
    """A file without an end, that counts what was read of it."""

    def __init__(self, beginning: bytes, rest: bytes) -> None:
        self.beginning, self.rest, self.given = beginning, rest, 0

    def read(self, size: int) -> bytes:
        self.given += size
        chunk, self.beginning = self.beginning, b""
        return chunk + (self.rest * (size // len(self.rest) + 1))[: size - len(chunk)]


# What is read


def test_each_line_keeps_its_number_its_text_and_its_cells():
    assert read(HEADER + "A-1,王芳,10.00\nA-2,,\n".encode()) == [
        importing.Line(2, "A-1,王芳,10.00", ["A-1", "王芳", "10.00"]),
        importing.Line(3, "A-2,,", ["A-2", "", ""]),
    ]


def test_quoted_cells_may_hold_commas_and_quotes():
    [line] = read(HEADER + b'A-1,"Wang, ""Fang""","12,345.67"\n')
    assert line.cells == ["A-1", 'Wang, "Fang"', "12,345.67"]
    assert line.raw == 'A-1,"Wang, ""Fang""","12,345.67"'


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + HEADER + b"A-1,b,1\n",  # a byte order mark, as Excel writes it
        HEADER.replace(b"\n", b"\r\n") + b"A-1,b,1\r\n",  # line ends of Windows
        HEADER + b"A-1,b,1",  # no line end after the last line
    ],
)
def test_the_same_lines_however_the_program_that_wrote_them_ends_them(content):
    assert [line.cells for line in read(content)] == [["A-1", "b", "1"]]


def test_a_file_of_its_header_alone_has_no_lines():
    assert read(HEADER) == []


@pytest.mark.parametrize("size", [1, 3, 7, 4096])
def test_lines_are_the_same_in_whatever_pieces_they_arrive(monkeypatch, size):
    content = (
        b"\xef\xbb\xbf" + HEADER + "".join(f"A-{number},王芳 {number},{number}.00\n" for number in range(500)).encode()
    )
    whole = read(content)
    monkeypatch.setattr(importing, "_CHUNK", size)
    assert read(content) == whole
    assert len(whole) == 500


# What is refused


@pytest.mark.parametrize(
    ("content", "refusal", "line"),
    [
        (b"", importing.WrongHeader, None),
        (b"reference,name\n", importing.WrongHeader, None),
        (b"name,reference,amount\nA-1,b,1\n", importing.WrongHeader, None),
        (b"reference;name;amount\nA-1;b;1\n", importing.WrongHeader, None),
        (b'"reference","name","amount"\n', importing.WrongHeader, None),
        (HEADER + b"A-1,b,1\nA-2,b\n", importing.WrongColumns, 3),
        (HEADER + b"A-1,b,1\n\nA-2,b,1\n", importing.WrongColumns, 3),
        (HEADER + b"A-1,b,1,2\n", importing.WrongColumns, 2),
        (HEADER + b'A-1,b,1\nA-2,"b,1\nA-3,c,1\n', importing.QuotesNotBalanced, 3),
        (HEADER + b'A-1,b"c",1\n', importing.QuotesNotBalanced, 2),
        (HEADER + b'A-1,"b"c,1\n', importing.QuotesNotBalanced, 2),
        (HEADER + "A-1,b,1\nA-2,王,1\n".encode("gbk"), importing.NotUtf8, 3),
        ("reference,name,amount\nA-1,b,1\n".encode("utf-16"), importing.HoldsNul, 1),
        (HEADER + b"A-1,b,1\nA-2,b\0c,1\n", importing.HoldsNul, 3),
        (HEADER + b"A-1," + b"b" * 9000 + b",1\n", importing.LineTooLong, 2),
    ],
)
def test_a_malformed_file_is_refused_by_name_and_line(content, refusal, line):
    with pytest.raises(refusal) as caught:
        read(content)
    assert caught.value.facts.get("line") == line


@pytest.mark.parametrize(
    ("file", "refusal"),
    [
        (Endless(b"", b"junk without an end "), importing.WrongHeader),
        (Endless(b"", b"\x1f\x8b\x08\x00"), importing.WrongHeader),
        (Endless(HEADER, b"one line without an end "), importing.LineTooLong),
        (Endless(HEADER + b'A-1,"', b"a quote that is never closed\n"), importing.QuotesNotBalanced),
        (Endless(HEADER, b"A-1,b,1\n"), importing.FileTooLarge),
    ],
)
def test_a_file_without_an_end_is_refused_in_little_memory(monkeypatch, file, refusal):
    monkeypatch.setattr(importing, "MOST_BYTES", 8 * 1024 * 1024)
    tracemalloc.start()
    try:
        with pytest.raises(refusal):
            exhaust(file)
        _now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * 1024 * 1024
    assert file.given <= importing.MOST_BYTES + 1024 * 1024


def exhaust(file: BinaryIO) -> None:
    for _line in importing.read(file, columns=COLUMNS):
        pass


# Cells


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_refused_and_written_as_text(cell):
    with pytest.raises(importing.FormulaCell):
        importing.check_no_formula(["A-1", cell])
    assert without_formula(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "王芳", "1-1", "a=b", "x@example.test"])
def test_what_is_no_formula_stays_as_it_is(cell):
    importing.check_no_formula(["A-1", cell])
    assert without_formula(cell) == cell


def test_a_moment_is_read_with_its_offset():
    assert importing.parse_moment("2026-03-01T10:00:00+08:00") == datetime(2026, 3, 1, 2, tzinfo=UTC)
    assert importing.parse_moment("2026-03-01T10:00:00.5Z") == datetime(2026, 3, 1, 10, 0, 0, 500_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "", "2026-03-01", "2026-03-01T10:00:00", "2026-02-30T10:00:00+08:00", "2026-13-01T10:00:00+08:00",
        "2026-03-01T24:00:00+08:00", "2026-03-01T10:00:00+99:00", "2026-03-01 10:00:00+08:00",
        "20260301T100000+0800", "２０26-03-01T10:00:00+08:00", "1026-03-01T10:00:00+08:00",
        "2026-03-01T10:00:00+08:00\n", "tomorrow",
    ],
)  # fmt: skip
def test_a_moment_that_is_none_is_refused(text):
    with pytest.raises(importing.MomentNotReadable):
        importing.parse_moment(text)


@pytest.mark.parametrize("text", ["", "-1", " A", "A B", "A" * 65, "订单", "A\n", "=A"])
def test_a_reference_that_is_none_is_refused(text):
    with pytest.raises(importing.ReferenceNotReadable):
        importing.check_reference(text)


@pytest.mark.parametrize("text", ["A", "PUR-2026-000001", "order/7#2", "9" * 64])
def test_a_reference_is_the_merchants_own(text):
    importing.check_reference(text)
