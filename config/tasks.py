"""What the clock says to the wiring itself."""

import structlog
from celery import shared_task
from django.utils import timezone

from config import audit, bulk, exports

logger = structlog.get_logger("audit")


@shared_task
def tell_audit_head() -> None:
    """Write the audit's last hash into the log, which is kept elsewhere: from then on nothing before it can be
    changed, and nothing up to it cut off, without ``verify_audit --anchor`` showing it."""
    seq, digest = audit.head()
    logger.info("audit head", head=f"{seq}:{digest}")


@shared_task
def write_exports() -> None:
    """Lists that staff ordered as files, slice by slice."""
    exports.carry_on(now=timezone.now())


@shared_task
def forget_exports() -> int:
    """Files of exports that are past their time."""
    return exports.forget(now=timezone.now())


@shared_task
def carry_on_bulk_work() -> None:
    """Verbs that staff ordered for many records at once."""
    bulk.carry_on(now=timezone.now())
