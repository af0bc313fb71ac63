"""What a watcher sees of a web process, and the id that ties its log lines together."""

import os
import subprocess
import sys

import pytest

from config import embedded

ASK_WITHOUT_DATABASE = """
import django
django.setup()
from django.test import Client
answer = Client().get("/healthz", headers={"host": "localhost"})
print(answer.status_code, answer.content.decode())
"""


@pytest.mark.django_db
def test_healthy_while_the_database_answers(client):
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert "no-store" in answer["Cache-Control"]


def test_unhealthy_while_it_does_not():
    asked = subprocess.run(
        [sys.executable, "-c", ASK_WITHOUT_DATABASE],
        cwd=embedded.PROJECT,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "DATABASE_URL": "postgres://nobody@127.0.0.1:1/nothing",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "DEMO_SECRETS": "1",
        },
        capture_output=True,
        text=True,
    )
    assert asked.stdout.splitlines()[-1] == '503 {"status": "the database does not answer"}'


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "kept"),
    [("7f3c9a4e12d84b6f", True), ("short", False), ("line\tbreaks-and-more", False), ("x" * 65, False)],
)
def test_a_proxys_request_id_is_kept_where_it_is_harmless(client, given, kept):
    answer = client.get("/healthz", headers={"X-Request-Id": given})
    assert (answer["Request-Id"] == given) is kept
    assert answer["Request-Id"]


@pytest.mark.django_db
def test_every_request_has_an_id_of_its_own(client):
    assert client.get("/healthz")["Request-Id"] != client.get("/healthz")["Request-Id"]
