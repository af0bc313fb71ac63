"""Whether what staff did still stands as it was written."""

import re
from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import audit


def _anchor(text: str) -> tuple[int, str]:
    found = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text)
    if not found:
        raise ArgumentTypeError("an anchor is written ROW:HASH, as this command prints it")
    return int(found[1]), found[2]


class Command(BaseCommand):
    help = (
        "Walk the audit's chain from its first row and say which row is the first that was changed, if one was; exit "
        "code 1 then. The head that is printed, kept elsewhere, shows later that nothing up to it was changed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--head", action="store_true", help="only print the head, ROW:HASH, without walking")
        parser.add_argument(
            "--anchor", action="append", default=[], type=_anchor, metavar="ROW:HASH", help="a head that was kept"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["head"]:
            seq, digest = audit.head()
            print(f"{seq}:{digest}")
            return
        found = audit.verify(anchors=dict(options["anchor"]))
        if found.problem:
            raise CommandError(f"BROKEN: {found.problem}; the {found.rows:,} rows before hold.", returncode=1)
        print(f"{found.rows:,} rows, unbroken. Head {found.rows}:{found.head}")
