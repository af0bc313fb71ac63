"""What holds the house together: the timetable, the pins, the translations, the two doors."""

import re
from pathlib import Path

import pytest
from django.db import connection, connections
from django.db.utils import ProgrammingError

from config import embedded, prepared, translations
from config.celery import TIMETABLE, app

PIN = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)(\[[a-z]+\])?==(?P<version>[^\s]+)")


def test_the_clock_only_calls_tasks_that_there_are():
    app.loader.import_default_modules()
    assert {entry["task"] for entry in TIMETABLE.values()} <= set(app.tasks)


def test_a_tick_that_nobody_took_is_dropped_before_the_next_would_be_the_second():
    for entry in TIMETABLE.values():
        assert "expires" in entry["options"]


def test_every_requirement_is_pinned_has_a_reason_and_stands_in_the_lock():
    lock = (embedded.PROJECT / "requirements.lock").read_text().replace("# Proof\n", "").split()
    assert all(PIN.fullmatch(line) for line in lock)
    direct = [
        line
        for line in (embedded.PROJECT / "requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(direct) > 20
    for line in direct:
        pin, _, reason = line.partition("#")
        match = PIN.fullmatch(pin.strip())
        assert match, line
        assert reason.strip(), line
        assert f"{match['name']}=={match['version']}".lower() in [locked.lower() for locked in lock], line


def test_a_translation_is_compiled_when_it_is_newer(tmp_path: Path):
    source = tmp_path / "zh_Hans" / "LC_MESSAGES" / "django.po"
    source.parent.mkdir(parents=True)
    source.write_text('msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\nmsgid "card"\nmsgstr "卡"\n')
    translations.compile_all(tmp_path)
    target = source.with_suffix(".mo")
    assert "卡".encode() in target.read_bytes()
    made = target.stat().st_mtime_ns
    translations.compile_all(tmp_path)
    assert target.stat().st_mtime_ns == made


@pytest.mark.django_db(databases=["default", "owner"])
def test_the_program_goes_through_a_door_that_cannot_make_tables():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == ("prepaid_app",)
        with pytest.raises(ProgrammingError, match="permission denied"):
            cursor.execute("CREATE TABLE mischief ()")
    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT current_user <> 'prepaid_app'")
        assert cursor.fetchone() == (True,)


@pytest.mark.django_db(transaction=True, databases=["default", "owner"])
def test_a_connection_that_the_server_ended_while_it_lay_idle_is_made_anew():
    """Found out without asking: a request does not pay a round trip for it."""
    assert prepared.row("SELECT 1", []) == (1,)
    idle = connection.connection
    with connections["owner"].cursor() as owner:
        owner.execute("SELECT pg_terminate_backend(%s, 60000)", [idle.info.backend_pid])
    connection.close_if_unusable_or_obsolete()  # as each request begins
    assert prepared.row("SELECT 1", []) == (1,)
    assert connection.connection is not idle


@pytest.mark.django_db(transaction=True, databases=["default", "owner"])
def test_a_connection_that_is_still_there_is_not_asked_whether_it_is(monkeypatch):
    assert prepared.row("SELECT 1", []) == (1,)
    monkeypatch.setattr(type(connections["default"]), "is_usable", lambda self: pytest.fail("it was asked"))
    connection.close_if_unusable_or_obsolete()
    assert prepared.row("SELECT 1", []) == (1,)
