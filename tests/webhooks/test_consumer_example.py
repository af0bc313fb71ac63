"""The example for merchants' developers runs as it stands in the documents."""

import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from issuing import delivering, webhooks
from issuing.models import WebhookDelivery
from tests import cards
from tests.partners import PATIENCE, PROJECT, free_port
from tests.webhooks.conftest import added, make_due
from tests.webhooks.test_delivering import happened

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLE = PROJECT / "docs" / "api" / "webhook_consumer.py"
NOW = cards.NOW


def test_the_example_takes_what_is_genuine_once_and_refuses_the_rest(merchant, settings, tmp_path: Path):
    settings.WEBHOOK_INTERNAL_NETWORKS = ["127.0.0.1/32"]
    port = free_port()
    endpoint, secret = added(merchant, f"http://127.0.0.1:{port}/")
    forged, _secret = added(merchant, f"http://127.0.0.1:{port}/forged")
    process = subprocess.Popen([sys.executable, EXAMPLE, str(port), secret], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE
        while not answers(port):
            assert process.poll() is None
            assert time.monotonic() < until
        webhooks.rotate(endpoint=endpoint, now=NOW)
        happened(merchant, 2)
        delivering.sweep(now=NOW)
        for row in endpoint.deliveries.all():
            webhooks.resend(delivery=row)
        make_due()
        delivering.sweep(now=NOW)
    finally:
        process.kill()
        process.wait()
    told = sqlite3.connect(tmp_path / "webhooks.db").execute("SELECT id FROM told").fetchall()
    assert len(told) == 2, "each sent twice, and taken once"
    assert {row.state for row in endpoint.deliveries.all()} == {"DELIVERED"}
    assert {row.problem for row in WebhookDelivery.objects.filter(endpoint=forged, attempts__gt=0)} == {"HTTP 401"}


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        time.sleep(0.02)
        return False
    return True


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) <= 45
