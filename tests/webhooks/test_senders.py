"""Several senders at once, and one that dies: nothing is sent twice without need, and nothing is lost."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from django.conf import settings as django_settings
from django.db import connections
from django.db.models.functions import Now

from issuing import delivering
from issuing.models import WebhookAttempt, WebhookDelivery
from tests import cards
from tests.partners import PROJECT, database_url
from tests.races import together
from tests.webhooks.conftest import Receiver, added, make_due
from tests.webhooks.test_delivering import happened

pytestmark = pytest.mark.django_db(transaction=True)

NOW = cards.NOW
ENDPOINTS = 6


def owed(receiver: Receiver) -> None:
    """One message to each of several machines, all slow enough for two senders to meet."""
    for number in range(ENDPOINTS):
        receiver.behaves(f"hook{number}", "slow", seconds=0.5)
        merchant = cards.merchant()
        added(merchant, receiver.url(f"hook{number}"))
        happened(merchant)
    delivering.fan_out(now=NOW)


def how_often(receiver: Receiver) -> list[int]:
    return sorted(Counter(got["headers"]["webhook-id"] for got in receiver.got()).values())


def test_two_clocks_at_once_send_each_message_once(receiver: Receiver):
    owed(receiver)
    sent = together([lambda: delivering.sweep(now=NOW)] * 2)
    assert sum(sent) == ENDPOINTS
    assert how_often(receiver) == [1] * ENDPOINTS


def test_without_a_lease_they_send_it_twice(receiver: Receiver, monkeypatch):
    # The negative control: both see what is due, and neither takes it.
    def seen(rows, *, limit: int, seconds: int) -> Sequence:
        return list(rows.filter(due_at__lte=Now()).values_list("pk", flat=True)[:limit])

    monkeypatch.setattr(delivering, "lease", seen)
    monkeypatch.setattr(delivering, "_keep_to_ourselves", set)
    owed(receiver)
    together([lambda: delivering.sweep(now=NOW, seconds=0.3)] * 2)
    assert max(how_often(receiver)) > 1


SENDER = """
import django
django.setup()
from issuing import delivering
from tests import cards
delivering.sweep(now=cards.NOW)
"""


def test_a_sender_that_is_killed_between_sending_and_writing_down_loses_nothing(merchant, receiver: Receiver):
    added(merchant, receiver.url())
    happened(merchant)
    sender = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.stdin.readline()\n{SENDER}"],
        stdin=subprocess.PIPE,
        cwd=PROJECT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "DATABASE_URL": database_url(str(django_settings.DATABASES["owner"]["NAME"])),
            "DEMO_SECRETS": "1",
            "WEBHOOK_INTERNAL_NETWORKS": "127.0.0.1/32",
        },
    )
    receiver.behaves("hook", "kill", pid=sender.pid)
    assert sender.stdin is not None
    sender.stdin.write(b"go\n")
    sender.stdin.close()
    assert sender.wait(60) == -9
    assert len(receiver.got()) == 1
    assert not WebhookAttempt.objects.exists(), "it died before it wrote down what it did"
    assert WebhookDelivery.objects.get().state == "PENDING"
    receiver.behaves("hook", "good")
    assert delivering.sweep(now=NOW) == 0, "its lease holds: it might still be at it"
    make_due()
    assert delivering.sweep(now=NOW) == 1
    assert how_often(receiver) == [2], "told twice under one id, and never not at all"
    assert WebhookDelivery.objects.get().state == "DELIVERED"


def test_no_transaction_is_open_while_the_answer_is_waited_for(receiver: Receiver):
    owed(receiver)
    seen: list[str] = []
    sent = delivering._send

    def watched(outgoing, find):
        with connections["owner"].cursor() as cursor:
            cursor.execute(
                "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL"
                " AND pid <> pg_backend_pid()"
            )
            seen.extend(state for (state,) in cursor.fetchall())
        connections.close_all()
        return sent(outgoing, find)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivering, "_send", watched)
        assert delivering.sweep(now=NOW) == ENDPOINTS
    assert "idle in transaction" not in seen
