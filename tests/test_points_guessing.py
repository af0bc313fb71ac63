"""Wrong guesses are kept while they count, and then let go of; and what is kept of accounts tells no number."""

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from points import guessing, tasks
from points.models import PointsMessage, WrongGuess
from tests.cards import NOW

pytestmark = pytest.mark.django_db

WHAT, TILL = WrongGuess.What.COUPON, "M1 7 …1234"


def guess(times: int, *, at: object) -> None:
    WrongGuess.objects.bulk_create(WrongGuess(what=WHAT, subject=TILL, recorded_at=at) for _turn in range(times))


def test_a_guess_is_kept_while_it_counts_and_not_a_moment_longer() -> None:
    guess(guessing.MOST, at=NOW)
    end = NOW + guessing.SHOWN_FOR
    assert guessing.forget(now=end - timedelta(microseconds=1)) == 0
    assert [row["count"] for row in guessing.guessers(now=end - timedelta(microseconds=1))] == [guessing.MOST]
    assert list(guessing.guessers(now=end)) == []
    assert guessing.forget(now=end) == guessing.MOST
    assert not WrongGuess.objects.exists()


def test_old_guesses_go_in_slices_oldest_first_and_whoever_is_stopped_stays_so() -> None:
    guess(3, at=NOW - 3 * guessing.SHOWN_FOR)
    guess(4, at=NOW - 2 * guessing.SHOWN_FOR)
    guess(guessing.MOST, at=NOW)
    assert [guessing.forget(now=NOW, limit=3) for _slice in range(4)] == [3, 3, 1, 0]
    with pytest.raises(guessing.TooManyGuesses):
        guessing.check(WHAT, TILL, now=NOW + timedelta(seconds=1))


def test_the_clock_lets_go_of_all_that_are_old_in_one_statement_for_each_slice(
    django_assert_num_queries: object,
) -> None:
    guess(500, at=timezone.now() - 2 * guessing.SHOWN_FOR)
    guess(1, at=timezone.now())
    with django_assert_num_queries(2):  # type: ignore[operator]
        assert tasks.forget_guesses() == 500
    assert WrongGuess.objects.count() == 1


def test_the_database_alone_does_not_tell_what_stood_on_the_wire() -> None:
    raw = b'{"body":{"account":"6225000026000000"}} \xff'
    message = PointsMessage.objects.create(
        direction="SENT", message_id="m1", type="BALANCE_QUERY", request_no="r1", body=raw, recorded_at=NOW
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT body FROM points_pointsmessage WHERE id = %s", [message.pk])
        [held] = cursor.fetchone()
    assert b"6225000026000000" not in bytes(held)
    message.refresh_from_db()
    assert bytes(message.body) == raw
