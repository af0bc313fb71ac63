"""The starting gate itself: who cannot come ends the race at once, and by name."""

from time import monotonic

import pytest
from django.db import connections

from tests.partners import free_port
from tests.races import PATIENCE, together

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_connection_that_is_not_had_is_named_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    monkeypatch.setitem(connections.settings["default"], "PORT", str(free_port()))
    began = monotonic()
    with pytest.raises(AssertionError, match=r"connection [1-3] of 3: .*failed: (.|\n)*connected now: "):
        together([lambda: made.append(True)] * 3)
    assert monotonic() - began < PATIENCE / 4
    assert made == []


def test_all_who_have_come_are_let_go_at_one_moment() -> None:
    moments = together([monotonic] * 8)
    assert max(moments) - min(moments) < 1
