"""``bring_in <file>``: accounts and lots of points from a CSV file into the points system."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from points.system import accounts


class Command(BaseCommand):
    help = "Open the accounts of a CSV file (account, customer, lot_points, lot_expires) that are not there yet."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *args: Any, **options: Any) -> None:
        report = accounts.bring_in(options["file"], now=timezone.now())
        self.stdout.write(f"{report.accounts} accounts, {report.lots} lots of points")
        for other in report.other_names:
            self.stdout.write(other)
