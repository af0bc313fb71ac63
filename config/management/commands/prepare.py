"""Everything between an installed program and a running one."""

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from config import roles, translations


class Command(BaseCommand):
    help = "Compile the translations, bring the tables up to date, set the roles and gather the static files."

    def handle(self, *args: Any, **options: Any) -> None:
        translations.compile_all()
        call_command("migrate", interactive=False, verbosity=0)
        roles.apply()
        # Of the contract's page only what it shows.
        call_command("collectstatic", interactive=False, verbosity=0, ignore_patterns=["redoc"])
