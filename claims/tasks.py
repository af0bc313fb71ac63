"""What the clock says to this room. The work, and whether there is any, stands in the modules called."""

from celery import shared_task
from django.utils import timezone

from claims import adjudication


@shared_task
def carry_on() -> None:
    """Claims of whole events, as far as they were asked for: filed, assessed, approved, paid."""
    adjudication.carry_on(now=timezone.now())


@shared_task
def look_again() -> None:
    """Claims that later facts made outdated: assessed again, or supplemented."""
    adjudication.look_again(now=timezone.now())
