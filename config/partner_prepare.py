"""Bring the partner systems' databases up to date, load the sample accounts and let a demonstration sign in there."""

import os
from pathlib import Path

import django
from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command

SAMPLE = Path(__file__).resolve().parent.parent / "points" / "system" / "sample" / "points_accounts.csv"
STAFF = {"PARTNERS": "insurer", "POINTS_SYSTEM": "points_system"}
"""Whose staff the environment names by ``<…>_USERNAME`` and ``<…>_PASSWORD``."""


def prepare() -> None:
    """Migrate every database; bring in the sample accounts that are not there."""
    for alias in settings.DATABASES:
        call_command("migrate", database=alias, interactive=False, verbosity=0)
    call_command("bring_in", SAMPLE)


def hire(*, username: str, password: str, partner: str) -> None:
    """See to it that ``username`` may do with ``password`` everything there is at one partner, and nothing else."""
    person, _ = get_user_model()._default_manager.get_or_create(username=username)
    person.is_staff, person.is_superuser = True, False
    if not person.check_password(password):
        person.set_password(password)
    person.save()
    permissions = apps.get_model("auth", "Permission")._default_manager
    person.user_permissions.set(permissions.filter(content_type__app_label=partner))


if __name__ == "__main__":
    django.setup()
    prepare()
    for name, partner in STAFF.items():
        if f"{name}_USERNAME" in os.environ:
            hire(username=os.environ[f"{name}_USERNAME"], password=os.environ[f"{name}_PASSWORD"], partner=partner)
