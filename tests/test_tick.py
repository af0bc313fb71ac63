"""One round of the clock by hand: every job of the timetable once, in its order."""

from io import StringIO

import pytest
from celery import shared_task
from django.core.management import call_command

from config.celery import TIMETABLE, app, every
from prepaid.management.commands import tick as tick_command

pytestmark = pytest.mark.django_db(transaction=True)


def tick() -> list[str]:
    said = StringIO()
    call_command("tick", stdout=said)
    return said.getvalue().splitlines()


def test_each_job_of_the_timetable_has_its_turn_in_its_order():
    assert [line.split(":")[0] for line in tick()] == list(TIMETABLE)


def test_every_job_of_the_timetable_is_there():
    app.loader.import_default_modules()
    assert {entry["task"] for entry in TIMETABLE.values()} <= set(app.tasks)


@shared_task
def always_fails() -> None:
    raise ConnectionError("no way")


def test_a_job_that_fails_is_named_and_the_others_have_their_turn(monkeypatch):
    others = list(TIMETABLE)
    monkeypatch.setattr(tick_command, "TIMETABLE", {"fail": every(1, "tests.test_tick.always_fails"), **TIMETABLE})
    said = StringIO()
    with pytest.raises(SystemExit):
        call_command("tick", stdout=said)
    first, *rest = said.getvalue().splitlines()
    assert first == "fail: FAILED: ConnectionError: no way"
    assert [line.split(": done")[0] for line in rest] == others
