"""The main job from the command line: a folder of files becomes insured cards and payments."""

import json
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from config import embedded, supervisor
from config.money import format_yuan
from prepaid import ingest


class Command(BaseCommand):
    help = (
        "Read merchants, programs, insurance products, purchases and payments from a folder, issue and insure the "
        "cards and post the payments. It may be stopped and started again; nothing is done twice."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("folder", type=Path, help=f"where {', '.join(ingest.FILES)} are; each may be missing")
        parser.add_argument("--as-of", help="the moment of the figures, like 2026-06-30T23:59:59+08:00; default: now")
        parser.add_argument("--json", action="store_true", help="one JSON document on standard output, nothing else")
        parser.add_argument("--report", type=Path, help="where refused rows are listed; default: var/ingest-report.csv")

    def handle(self, *args: Any, **options: Any) -> None:
        folder, path = options["folder"], options["report"] or settings.VAR_DIR / "ingest-report.csv"
        as_of = _moment(options["as_of"]) if options["as_of"] else timezone.localtime()
        missing = [name for name in ingest.FILES if not (folder / name).is_file()]
        if len(missing) == len(ingest.FILES):
            raise CommandError(f"{folder} holds none of {', '.join(ingest.FILES)}.")
        for name in missing:
            self.stderr.write(f"{name} is not in {folder}: passed over")
        if not MigrationRecorder(connections["owner"]).has_table():
            self.stderr.write("the database is empty: making its tables")
            call_command("migrate", interactive=False, verbosity=0)
        _be_alone()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                _ended_by_ctrl_c(),
                _insurer_beside_us(),
                path.open("w", newline="", encoding="utf-8-sig") as file,
            ):
                report = ingest.Report(file)
                figures = ingest.run(folder, as_of=as_of, clock=timezone.now, report=report, progress=Progress())
        except supervisor.CannotRun as problem:
            raise CommandError(str(problem)) from problem
        for (name, code), count in sorted(report.codes.items()):
            self.stderr.write(f"{name}: {count} × {code}")
        total = figures.pop("")
        if options["json"]:
            document = {"as_of": as_of.isoformat(), "merchants": figures, "total": total}
            self.stdout.write(json.dumps(document, ensure_ascii=False, indent=1))
        else:
            self.stdout.write(_table({**figures, "total": total}, as_of))
            self.stdout.write(f"refused rows: {sum(report.codes.values())}, listed in {path}")


class Progress:
    """What is being done, on standard error: on one line of a terminal, now and then in a log."""

    def __init__(self) -> None:
        self.job = ""

    def __call__(self, job: str, done: int, total: int) -> None:
        now = monotonic()
        live = sys.stderr.isatty()
        if job != self.job:
            if self.job and live:
                sys.stderr.write("\n")
            self.job, self.began, self.before, self.said = job, now, done, 0.0
        if done < total and now - self.said < (0.2 if live else 5):
            return
        self.said = now
        share = f" {100 * done // total} %" if total else ""
        rate = f", {(done - self.before) / (now - self.began):,.0f}/s" if now - self.began > 0.1 else ""
        line = f"{job}: {done:,} of {total:,}{share}{rate}"
        sys.stderr.write(f"\r{line}   " if live else f"{line}\n")
        sys.stderr.flush()


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """End the command with 130 when Ctrl-C cuts the block short, whatever is raised on the way out.

    The word may come in the middle of the driver's exchange with the server. Then it is the unwinding that fails
    ("can't change 'autocommit' now"), which says nothing of the job: what was not committed is not there, and the next
    run does it.
    """
    was_pressed = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal was_pressed
        was_pressed = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException:
        if not was_pressed:
            raise
        sys.stderr.write("\nstopped; the same command goes on from here\n")
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, before)


def _be_alone() -> None:
    """Two at once would stage the same file twice. The lock goes with the connection, however the process ends."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtext('ingest'))")
        if not cursor.fetchone()[0]:
            raise CommandError("Another ingest runs on this database: let it end first.")


def _insurer_beside_us() -> AbstractContextManager[None]:
    """The partner systems, unless INSURER_URL names somebody's own."""
    url = settings.INSURER_URL
    return supervisor.partners_beside_us(url) if url.startswith(embedded.partners_url()) else nullcontext()


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as problem:
        raise CommandError(f"--as-of {text!r} is not a moment: write 2026-06-30T23:59:59+08:00.") from problem
    return moment if moment.tzinfo else timezone.make_aware(moment)


def _table(figures: dict[str, dict[str, Any]], as_of: datetime) -> str:
    heads = ["", "cards", "sub-cards", "principal", "usable money", "uses", "days", "refundable", "policies", "premium",
             "posted", "refused"]  # fmt: skip
    rows = [
        [
            code, f"{row['cards']:,}", f"{row['sub_cards']:,}", format_yuan(row["principal"]),
            format_yuan(row["usable"]["MONEY"]), f"{row['usable']['USES']:,}", f"{row['usable']['DAYS']:,}",
            format_yuan(row["refundable_principal"]), f"{row['policies_accepted']:,}", format_yuan(row["premium"]),
            f"{row['payments_posted']:,}", f"{row['payments_refused']:,}",
        ]
        for code, row in figures.items()
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [heads, *rows]]
    return "\n".join([f"as of {as_of.isoformat()}", *lines])
