"""What the clock says to this room. The work, and whether there is any, stands in the modules called."""

from celery import shared_task
from django.utils import timezone

from insurance import adjustment, insurer, reconciliation


@shared_task
def speak_to_the_insurer() -> None:
    """Send what is owed, ask about what is unknown. With nothing due this costs a few short queries."""
    insurer.sweep(now=timezone.now())


@shared_task
def adjust_premiums() -> None:
    """What cover by the daily balance has cost, for every policy whose cover is over."""
    adjustment.owe_due(now=timezone.now())


@shared_task
def reconcile_the_insurer() -> None:
    """The insurer's bordereau, for every business date that is over and was not reconciled."""
    reconciliation.bordereau_days(now=timezone.now())
