"""What the clock does for points."""

from celery import shared_task
from django.utils import timezone

from issuing.models import Merchant
from points import bank, coupons, guessing, reconciliation


@shared_task
def speak_to_the_points_system() -> int:
    """Send what is owed, ask about what is unknown, reverse what was given up."""
    return bank.sweep(now=timezone.now())


@shared_task
def expire_coupons() -> int:
    """End the coupons that have run out."""
    ended = 0
    while some := coupons.expire(now=timezone.now()):
        ended += some
    for merchant in Merchant.objects.for_tests().filter(test_clock_ahead__gt=0):
        ended += coupons.expire_by_test_clock(merchant=merchant, now=timezone.now())
    return ended


@shared_task
def forget_guesses() -> int:
    """Let go of wrong guesses that count for nothing any more."""
    forgotten = 0
    while some := guessing.forget(now=timezone.now()):
        forgotten += some
    return forgotten


@shared_task
def reconcile_the_points_system() -> None:
    """The points system's statement, for every business date that is over and was not reconciled."""
    reconciliation.statement_days(now=timezone.now())
