"""The clock and its workers. What there is to do stands in the rows; a tick only says: look."""

import os

from celery import Celery
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


def every(seconds: float, task: str) -> dict[str, object]:
    """An entry of the timetable. A tick that nobody took within its period is dropped: the next one says the same."""
    return {"task": task, "schedule": float(seconds), "options": {"expires": float(seconds)}}


TIMETABLE: dict[str, dict[str, object]] = {
    "issue approved batches": every(5, "prepaid.tasks.issue_batches"),
    "speak to the insurer": every(2, "insurance.tasks.speak_to_the_insurer"),
    "reconcile the ledger": every(600, "prepaid.tasks.reconcile_ledger"),
    "adjust premiums": every(600, "insurance.tasks.adjust_premiums"),
    "reconcile the insurer": every(600, "insurance.tasks.reconcile_the_insurer"),
    "reconcile the points system": every(600, "points.tasks.reconcile_the_points_system"),
    "carry on claims of whole events": every(5, "claims.tasks.carry_on"),
    "speak to the points system": every(2, "points.tasks.speak_to_the_points_system"),
    "tell merchants": every(2, "issuing.tasks.tell_merchants"),
    "expire coupons": every(300, "points.tasks.expire_coupons"),
    "forget wrong guesses": every(600, "points.tasks.forget_guesses"),
    "forget old answers": every(3600, "prepaid.tasks.forget_old_answers"),
    "tell the audit's head": every(3600, "config.tasks.tell_audit_head"),
    "write exports": every(2, "config.tasks.write_exports"),
    "forget exports": every(300, "config.tasks.forget_exports"),
    "carry on bulk work": every(2, "config.tasks.carry_on_bulk_work"),
    "carry on drills": every(5, "prepaid.tasks.carry_on_drills"),
    "look at claims again": every(300, "claims.tasks.look_again"),
}

app = Celery("prepaid")
app.conf.update(
    broker_url=settings.REDIS_URL,
    beat_schedule=TIMETABLE,
    # In memory: all periods are short, and a file could be corrupted by a power cut.
    beat_scheduler="celery.beat:Scheduler",
    timezone=settings.TIME_ZONE,
    # Tasks answer nobody; what they did stands in the rows.
    task_ignore_result=True,
    # Taken is taken: if the worker dies, its rows' leases run out and a later tick finds them. Handing the same
    # message out again would only let a task that kills its worker kill the next one.
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    worker_max_tasks_per_child=1000,
    worker_max_memory_per_child=300_000,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    worker_send_task_events=False,
    # The broker may be wiped or away at any moment, for any time.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"socket_keepalive": True, "health_check_interval": 10},
)
app.autodiscover_tasks()
