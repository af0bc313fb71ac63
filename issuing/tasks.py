"""What the clock says to this room. The work, and whether there is any, stands in the modules called."""

from celery import shared_task
from django.utils import timezone

from issuing import delivering


@shared_task
def tell_merchants() -> None:
    """Webhooks: what happened becomes deliveries, and what is due is sent."""
    delivering.sweep(now=timezone.now())
