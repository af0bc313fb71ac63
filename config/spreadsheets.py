"""Rows for spreadsheets, as CSV and as XLSX, written piece by piece in little memory.

Either is a text that rows are appended to, so a writer that was killed goes on where it was. An XLSX is zipped at its
end: one sheet (ECMA-376), whose texts stand in their cells, so that no table of texts has to be held.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

Cell = str | int | Decimal | None
FORMULA_STARTS = "=+-@\t\r"
"""What a spreadsheet takes for the beginning of a formula, and runs."""
MOST_ROWS = 1_048_576
"""So many a sheet of an XLSX has, its head included."""
_MOST_CHARACTERS = 32_767
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})


def without_formula(cell: str) -> str:
    """A cell as it may be written into a list for spreadsheets: an apostrophe makes text of a formula."""
    return f"'{cell}" if cell and cell[0] in FORMULA_STARTS else cell


def _plain(cell: Cell) -> str:
    # A number is ours and no formula; a text may be anybody's.
    return without_formula(cell) if isinstance(cell, str) else "" if cell is None else str(cell)


def csv_rows(rows: Iterable[Sequence[Cell]]) -> bytes:
    """Rows as UTF-8 CSV (RFC 4180). A file begins with ``CSV_HEAD``: without it Excel misreads Chinese."""
    page = io.StringIO()
    csv.writer(page).writerows([_plain(cell) for cell in row] for row in rows)
    return page.getvalue().encode("utf-8", "replace")


CSV_HEAD = b"\xef\xbb\xbf"


def xlsx_rows(rows: Iterable[Sequence[Cell]]) -> bytes:
    """Rows as they stand in a sheet. A file of them begins with ``XLSX_HEAD`` and is ended by ``zip_xlsx``."""
    return "".join(f"<row>{''.join(map(_xlsx_cell, row))}</row>" for row in rows).encode()


def _xlsx_cell(cell: Cell) -> str:
    if cell is None or cell == "":
        return "<c/>"
    if not isinstance(cell, str):
        return f"<c><v>{cell}</v></c>"
    text = _NOT_XML.sub("�", _plain(cell)[:_MOST_CHARACTERS]).translate(_ESCAPES)
    return f'<c t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


_XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml"
XLSX_HEAD = f'{_XML}<worksheet xmlns="{_MAIN}"><sheetData>'.encode()
_XLSX_END = b"</sheetData></worksheet>"
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_SHEET}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_SHEET}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
    '<sheets><sheet name="1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


def zip_xlsx(rows: Path, target: Path) -> None:
    """Make the workbook whose one sheet holds what was written into ``rows``."""
    with ZipFile(target, "w", ZIP_DEFLATED, compresslevel=1) as book:
        for name, text in _PARTS.items():
            book.writestr(ZipInfo(name), _XML + text)
        with rows.open("rb") as source, book.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as sheet:
            while chunk := source.read(1 << 20):
                sheet.write(chunk)
            sheet.write(_XLSX_END)
