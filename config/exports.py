"""Lists as files. The row is the queue; the clock writes the file slice by slice, each a short transaction.

A slice reads the next keys below the last one written, appends its rows to the file and then tells the row how far the
file is good. A worker that dies leaves what was told; the next one cuts off the rest and goes on
(docs/decisions/exports-are-written-in-slices.md).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ALL_VAR, ERROR_FLAG, PAGE_VAR, SEARCH_VAR
from django.core.exceptions import SuspiciousOperation
from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from config import audit, spreadsheets
from config.background import LEASE, NotAllowedAnyMore, as_its_maker, house_of, in_words_of, ordered_by
from config.errors import Refused
from config.handshakes import lease
from config.models import Export

SLICE = 2_000
RUNNING, DONE = Export.State.RUNNING, Export.State.DONE


class FileGone(Refused):
    status = 410
    text = _("The file is no longer there. Order the export again.")


class TooManyRows(Refused):
    status = 422
    text = _("A sheet holds %(most)s rows: choose CSV, or narrow the list.")


class ListChanged(Refused):
    text = _("The list can no longer be read with these filters. Order the export again.")


def folder() -> Path:
    return Path(settings.VAR_DIR) / "exports"


def path_of(export: Export) -> Path:
    return folder() / f"{export.pk.hex}.{export.format.lower()}"


def _rows_path(export: Export) -> Path:
    """Where rows are appended: of a CSV the file itself, of an XLSX the sheet that is zipped at the end."""
    return path_of(export) if export.format == Export.Format.CSV else path_of(export).with_suffix(".xml")


def may_order(request: HttpRequest) -> bool:
    return request.user.has_perm("config.view_export")


@transaction.atomic
def order(*, request: HttpRequest, house: Any, format: str, keys: list[Any] | None = None) -> Export:
    """Have the list that ``request`` asks for written into a file, in its maker's name.

    ``keys`` are the records that a search found: the words that were searched for are not kept.
    """
    query = request.GET.copy()
    for name in (SEARCH_VAR, PAGE_VAR, ALL_VAR, ERROR_FLAG):
        query.pop(name, None)
    export = Export.objects.create(
        kind=house.opts.label_lower,
        format=Export.Format(format),
        query=query.urlencode(),
        keys=None if keys is None else [str(key) for key in keys],
        **ordered_by(request),
    )
    audit.record(request, "order_export", row=export, asked={"list": export.kind, "filters": export.query})
    return export


def cancel(*, export: Export, now: datetime) -> None:
    """Write no further; what is there is deleted by the clock.

    :raises IllegalMove: it is not, or no longer, being written.
    """
    export.move(Export.State.CANCELLED, due_at=None, finished_at=now)


def opened(*, export: Export, now: datetime) -> IO[bytes]:
    """The finished file.

    :raises FileGone: it is past its time, or was made on another machine.
    """
    try:
        if export.state != DONE or export.expires_at is None or export.expires_at <= now:
            raise FileGone()
        return path_of(export).open("rb")
    except FileNotFoundError as problem:
        raise FileGone() from problem


# The clock -------------------------------------------------------------------------------------------------------


def carry_on(*, now: datetime, seconds: float = 20) -> int:
    """Write what was ordered, a slice of each in turn, until ``seconds`` are over. Returns how many slices."""
    slices = 0
    until = monotonic() + seconds
    running = Export.objects.filter(state=RUNNING)
    while monotonic() < until and (leased := lease(running, limit=1, seconds=LEASE)):
        slices += write_slice(Export.objects.get(pk=leased[0]), now=now)
        running.filter(pk=leased[0]).update(due_at=Now())
    return slices


def write_slice(export: Export, *, now: datetime) -> bool:
    """Append the next rows to the file, and end it after the last. Returns whether there is more to do."""
    with _locked_file(export) as file:
        export.refresh_from_db()
        if export.state != RUNNING:
            return False
        if file.seek(0, os.SEEK_END) < export.size:
            # Another machine's, or from before a restore: what was told is not there.
            export.rows = export.size = 0
            export.last = ""
        try:
            with in_words_of(export):
                rows = _next_rows(export)
        except Refused as refused:
            export.move(Export.State.FAILED, problem=str(refused)[:200], due_at=None, finished_at=now)
            return False
        # Beyond what was told lies what a worker wrote that died before it told.
        file.seek(export.size)
        file.truncate()
        file.write(rows.text)
        file.flush()
        os.fsync(file.fileno())
        told = {"rows": export.rows + rows.count, "size": file.tell(), "last": rows.last, "total": rows.total}
        Export.objects.filter(pk=export.pk, state=RUNNING).update(**told)
        if not rows.is_end:
            return True
        if export.format == Export.Format.XLSX:
            spreadsheets.zip_xlsx(_rows_path(export), path_of(export))
            os.chmod(path_of(export), 0o600)
        size = path_of(export).stat().st_size
        kept = timedelta(hours=settings.EXPORTS_KEPT_HOURS)
        # Unless it was cancelled meanwhile: then the file goes with the next sweep.
        Export.objects.filter(pk=export.pk, state=RUNNING).update(
            state=DONE, size=size, due_at=None, finished_at=now, expires_at=now + kept
        )
        return False


@contextmanager
def _locked_file(export: Export) -> Iterator[IO[bytes]]:
    """The file for one writer: a worker that was thought dead may still be writing."""
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    number = os.open(_rows_path(export), os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(number, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


class _Rows:
    """A slice: its text, how many rows, the key it ends with, and whether it is the last one."""

    def __init__(self, text: bytes, count: int, last: str, total: int | None, is_end: bool) -> None:
        self.text, self.count, self.last, self.total, self.is_end = text, count, last, total, is_end


def _next_rows(export: Export) -> _Rows:
    house = house_of(export.kind)
    request = as_its_maker(export, query=export.query)
    if not (may_order(request) and house.has_view_permission(request)):
        raise NotAllowedAnyMore()
    names = house.columns_of(request)
    write, head = spreadsheets.csv_rows, spreadsheets.CSV_HEAD
    if export.format == Export.Format.XLSX:
        write, head = spreadsheets.xlsx_rows, spreadsheets.XLSX_HEAD
    try:
        rows = listed(house, request, export.keys)
    except (IncorrectLookupParameters, SuspiciousOperation) as problem:
        raise ListChanged() from problem
    total, text = export.total, b""
    if not export.size:
        # Reading all of them is what is ordered, so they can be counted once.
        total = rows.order_by().values("pk").count()
        text = head + write([[str(house.label(name)) for name in names]])
    if export.format == Export.Format.XLSX and (total or 0) >= spreadsheets.MOST_ROWS:
        raise TooManyRows(most=f"{spreadsheets.MOST_ROWS - 1:,}")
    if export.last:
        rows = rows.filter(pk__lt=export.last)
    # Downwards by key, as the list stands: what comes in meanwhile is above, and no row is met twice.
    found = list(rows.order_by("-pk")[:SLICE])
    text += write([house.plain(row, name) for name in names] for row in found)
    return _Rows(text, len(found), str(found[-1].pk) if found else export.last, total, len(found) < SLICE)


def listed(house: Any, request: HttpRequest, keys: list[Any] | None) -> QuerySet[Any]:
    """The rows of a list as its filters leave them to this person.

    :raises IncorrectLookupParameters, SuspiciousOperation: the filters are none of this list.
    """
    rows: QuerySet[Any] = house.get_changelist_instance(request).queryset
    return rows if keys is None else rows.filter(pk__in=keys)


def forget(*, now: datetime) -> int:
    """Delete the files that are past their time, cancelled, failed or nobody's. Returns how many."""
    Export.objects.filter(state=DONE, expires_at__lte=now).update(state=Export.State.EXPIRED)
    if not folder().is_dir():
        return 0
    files = {path: UUID(path.stem) for path in folder().iterdir()}
    kept = set(
        Export.objects.filter(pk__in=files.values(), state__in=(RUNNING, DONE)).values_list("pk", "state", "format")
    )
    finished = {(key, f".{format.lower()}") for key, state, format in kept if state == DONE}
    running = {key for key, state, _format in kept if state == RUNNING}
    gone = [path for path, key in files.items() if key not in running and (key, path.suffix) not in finished]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)
