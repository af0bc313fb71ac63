"""One round of the clock, by hand."""

import sys
from time import monotonic
from typing import Any

from django.core.management.base import BaseCommand

from config.celery import TIMETABLE, app


class Command(BaseCommand):
    help = "Do once, here and now, whatever the clock would do: each job of the timetable, in its order."

    def handle(self, *args: Any, **options: Any) -> None:
        app.loader.import_default_modules()
        failed = 0
        for name, entry in TIMETABLE.items():
            began = monotonic()
            try:
                app.tasks[str(entry["task"])]()
            except Exception as problem:  # one job that fails must not keep the others from their turn
                failed += 1
                self.stdout.write(f"{name}: FAILED: {type(problem).__name__}: {problem}")
            else:
                self.stdout.write(f"{name}: done in {monotonic() - began:.2f} s")
        if failed:
            sys.exit(1)
