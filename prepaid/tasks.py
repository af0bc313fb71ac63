"""What the clock says to this room. The work, and whether there is any, stands in the modules called."""

from celery import shared_task
from django.utils import timezone

from prepaid import answers, day_figures, processing, reconciliation, sandbox


@shared_task
def issue_batches() -> None:
    """Approved batches become cards, slice by slice."""
    processing.issue_due_batches(now=timezone.now())


@shared_task
def reconcile_ledger() -> None:
    """The ledger against itself, for every business date that is over and was not reconciled."""
    reconciliation.ledger_days(now=timezone.now())


@shared_task
def write_day_figures() -> int:
    """What the first page draws, for each business date that is over."""
    return day_figures.write(now=timezone.now())


@shared_task
def carry_on_drills() -> None:
    """Test merchants that let themselves fail: the next step of each."""
    sandbox.carry_on_drills(now=timezone.now())


@shared_task
def forget_old_answers() -> int:
    """Answers to Idempotency-Keys, once they were kept as long as is promised."""
    return answers.forget(now=timezone.now())
