"""The table of roles as a page of the documents."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from config import roles


class Command(BaseCommand):
    help = "Print who may see what and do what; with --write, into docs/roles.md."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--write", action="store_true", help="write docs/roles.md anew")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["write"]:
            roles.DOCUMENT.write_text(roles.as_markdown(), encoding="utf-8")
        else:
            print(roles.as_markdown())
