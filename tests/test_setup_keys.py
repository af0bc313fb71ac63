"""Secrets: from the environment, or made once for a demonstration, never made silently for real cards."""

import base64
import json
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from config import keys

REAL = {"DATABASE_URL": "postgres://db.example/prepaid"}


def test_the_environment_wins_and_lists_the_newest_first(tmp_path):
    environment = {"CARD_NUMBER_KEYS": "new, old,"}
    assert keys.read("CARD_NUMBER_KEYS", environment=environment, folder=tmp_path) == ["new", "old"]
    assert list(tmp_path.iterdir()) == []


def test_with_a_database_of_its_own_a_missing_secret_stops_the_program_and_says_what_to_do(tmp_path):
    with pytest.raises(ImproperlyConfigured, match=r"SECRET_KEY is not set.*DEMO_SECRETS=1"):
        keys.read("SECRET_KEY", environment=REAL, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("environment", [{}, REAL | {"DEMO_SECRETS": "1"}], ids=["embedded", "allowed"])
def test_a_demonstration_makes_a_secret_once_and_keeps_it_from_others(tmp_path, environment):
    (made,) = keys.read("SECRET_KEY", environment=environment, folder=tmp_path)
    assert len(base64.b64decode(made, validate=True)) == 32
    assert keys.read("SECRET_KEY", environment=environment, folder=tmp_path) == [made]
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600


def test_a_secret_that_is_asked_for_later_leaves_the_earlier_ones_alone(tmp_path):
    first = keys.read("SECRET_KEY", environment={}, folder=tmp_path)
    second = keys.read("INSURER_KEYS", environment={}, folder=tmp_path)
    assert first != second
    assert keys.read("SECRET_KEY", environment={}, folder=tmp_path) == first
    assert set(json.loads((tmp_path / "secrets.json").read_text())) == {"SECRET_KEY", "INSURER_KEYS"}


def _ask(folder: Path) -> list[str]:
    return [keys.read(name, environment={}, folder=folder)[0] for name in ("SECRET_KEY", "INSURER_KEYS")]


def test_processes_that_start_at_once_agree_on_the_secrets(tmp_path):
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as several:
        answers = list(several.map(_ask, [tmp_path] * 40))
    assert all(answer == answers[0] for answer in answers)
