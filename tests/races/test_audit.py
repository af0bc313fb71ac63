"""Two people's deeds are written down at once: both stand in the chain, one after the other."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
from django.db import DatabaseError, connections, transaction

from config import audit
from config.models import Act
from tests import cards
from tests.races import STOP, gate, meanwhile, together

pytestmark = pytest.mark.django_db(databases=["default", "owner"], transaction=True)

LOCK = "PERFORM pg_advisory_xact_lock(7163850294);"
READ = "ORDER BY a.seq DESC LIMIT 1;"


@contextmanager
def without_the_lock() -> Iterator[None]:
    with connections["owner"].cursor() as cursor, gate():
        cursor.execute("SELECT pg_get_functiondef('audit_head'::regproc)")
        original = cursor.fetchone()[0]
        assert original.count(LOCK) == original.count(READ) == 1
        cursor.execute(original.replace(LOCK, "").replace(READ, f"{READ} PERFORM {STOP};"))
        try:
            yield
        finally:
            cursor.execute(original)


def write(who: str) -> Act:
    return audit.record(None, "freeze", who=who)


def test_eight_writers_make_one_chain_without_a_gap():
    answers = together([partial(write, f"person {n}") for n in range(8)])
    assert sorted(act.seq for act in answers) == list(range(1, 9))
    assert audit.verify(anchors={})[0::2] == (8, "")


def test_without_the_lock_two_writers_take_the_same_place():
    with without_the_lock():
        answers = together([partial(write, "one"), partial(write, "two")])
    # Which rule refuses the second, that of the chain or that of the place, is a matter of microseconds.
    assert len([one for one in answers if isinstance(one, DatabaseError)]) == 1
    assert Act.objects.count() == 1


def test_a_verb_waits_for_nobody_until_its_last_line():
    """A long deed that has not been written down yet holds nobody up."""
    with transaction.atomic():
        cards.merchant()
        [other] = together([partial(write, "quick")])
        assert other.seq == 1
        assert write("slow").seq == 2
    assert audit.verify(anchors={}).problem == ""


def test_who_is_rolled_back_leaves_no_gap():
    write("first")
    with transaction.atomic():
        write("rolled back")
        transaction.set_rollback(True)
    with ExitStack() as until_then:
        with transaction.atomic():
            write("second")
            third = until_then.enter_context(meanwhile(partial(write, "third")))
        assert third().seq == 3
    assert list(Act.objects.order_by("seq").values_list("who", flat=True)) == ["first", "second", "third"]
    assert audit.verify(anchors={}).problem == ""
