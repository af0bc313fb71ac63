"""Before the first process is started on a restored database."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from prepaid import holds
from prepaid.models import Run


class Command(BaseCommand):
    help = "Send nothing to the partners until every business date has been reconciled, today included; ask them still."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--partner", choices=holds.PARTNERS, help="only this one; without it both")
        parser.add_argument("--reason", default="the database was restored")

    def handle(self, *args: Any, **options: Any) -> None:
        chosen = options["partner"]
        for partner in [Run.Partner(chosen)] if chosen else holds.PARTNERS:
            try:
                holds.hold(partner=partner, reason=options["reason"], by="operator", now=timezone.now())
            except holds.HeldAlready as refused:
                self.stdout.write(f"{partner}: {refused}")
            else:
                self.stdout.write(f"{partner}: nothing is sent from now on.")
