"""The catalogue of what the API refuses, written beside its document."""

from typing import Any

from django.core.management.base import BaseCommand

from config import translations
from prepaid import refusals


class Command(BaseCommand):
    help = "Write docs/api/errors.md anew from the refusals as they stand in the code."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        translations.compile_all()
        refusals.ERRORS.write_text(refusals.as_markdown(), encoding="utf-8")
