"""A worker killed in the middle of an enrolment: nothing is lost, nothing is insured twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from insurance import enrolment, insurer
from insurance.enrolment import Cover
from insurance.models import Insurer, InsurerMessage, Policy, Product
from issuing.models import Kind
from tests import cards
from tests.partners import PATIENCE, PROJECT, database_url, partner_process
from tests.partners import Insurer as Partner
from tests.partners import insurer as partner

__all__ = ["partner", "partner_process"]

pytestmark = pytest.mark.django_db(transaction=True)

COUNT = 60

WORKER = """
import django
django.setup()
from django.utils import timezone
from insurance import insurer
insurer.MOST_ITEMS = 5
insurer.sweep(now=timezone.now(), seconds=60)
"""


@pytest.fixture(autouse=True)
def _owed(partner: Partner, settings: Any) -> None:
    """Sixty cards that the insurer is owed."""
    settings.INSURER_URL = f"{partner.url}/insurer/"
    settings.INSURER_KEYS = partner.keys
    program = cards.program(Kind.BONUS, term_days=180)
    Product.objects.create(
        merchant=program.merchant,
        insurer=Insurer.objects.create(code="ANPING", name="Anping"),
        code="PCPG-A",
        annual_rate=Decimal("0.0120"),
        valid_from_date=cards.OPENED.date(),
    )
    opened = [cards.opened(program, 1_234_567) for _ in range(COUNT)]
    enrolment.owe(
        [Cover(card.pk, program.merchant_id, 1_234_567, cards.OPENED.date(), 180) for card in opened],
        now=cards.OPENED,
    )


@contextmanager
def a_worker(partner: Partner) -> Iterator[subprocess.Popen[bytes]]:
    """A process that enrols, five cards to a message."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DATABASE_URL": database_url(django_settings.DATABASES["owner"]["NAME"]),
        "INSURER_URL": f"{partner.url}/insurer/",
        "INSURER_KEYS": partner.keys[0],
    }
    process = subprocess.Popen([sys.executable, "-c", WORKER], cwd=PROJECT, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def killed_after(partner: Partner, messages: int) -> None:
    """Start a worker and kill it when the insurer has so many messages."""
    wanted = partner.count("message") + messages
    with a_worker(partner) as process:
        until = time.monotonic() + PATIENCE
        while partner.count("message") < wanted:
            assert process.poll() is None, "the worker ended by itself"
            assert time.monotonic() < until, "the worker sends nothing"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()


def leases_run_out() -> None:
    Policy.objects.filter(due_at__isnull=False).update(due_at=cards.OPENED)
    InsurerMessage.objects.update(recorded_at=cards.OPENED)


@pytest.mark.parametrize("kind", ["GOOD", "SLOW"])
def test_a_worker_is_killed_again_and_again_and_all_cards_are_insured_once(partner, kind):
    partner.behaves(kind, seconds="0.4")
    for messages in (1, 2, 1):
        killed_after(partner, messages)
        leases_run_out()
    assert Policy.objects.exclude(state=Policy.State.ACCEPTED).exists()
    partner.behaves("GOOD")
    insurer.sweep(now=timezone.now(), seconds=20)
    assert set(Policy.objects.values_list("state", flat=True)) == {Policy.State.ACCEPTED}
    numbers = {row["policy_no"] for row in partner.holds("SELECT policy_no FROM insurer_policy")}
    assert set(Policy.objects.values_list("policy_no", flat=True)) == numbers
    assert len(numbers) == partner.count("item") == COUNT


def test_what_a_killed_worker_had_in_hand_is_left_alone_until_its_lease_runs_out(partner):
    partner.behaves("SLOW", seconds="1")
    killed_after(partner, 1)
    [*in_hand] = Policy.objects.filter(state=Policy.State.UNKNOWN)
    assert len(in_hand) == 5
    partner.behaves("GOOD")
    insurer.sweep(now=timezone.now(), seconds=20)
    assert Policy.objects.filter(state=Policy.State.ACCEPTED).count() == COUNT - 5
    leases_run_out()
    assert insurer.sweep(now=timezone.now(), seconds=20) == 5
    assert partner.count("policy") == COUNT
