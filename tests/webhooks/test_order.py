"""Events come in an order that nothing slips into: transactions commit in another order than they begin."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connection, connections, transaction
from django.db.utils import ProgrammingError
from django.utils import timezone

from config.ids import new_id
from issuing import delivering, events
from issuing.models import Event, Merchant, WebhookDelivery
from tests import cards
from tests.api.asking import asker
from tests.partners import database_url
from tests.webhooks.conftest import Receiver, added

pytestmark = pytest.mark.django_db(transaction=True)


def frozen(merchant: Merchant) -> Event:
    card = new_id()
    return events.record(
        Event.Type.CARD_FROZEN, merchant_id=merchant.pk, subject_id=card, card_id=card, state="FROZEN", now=cards.NOW
    )


@contextmanager
def not_committed(merchant: Merchant) -> Iterator[dict]:
    """A verb of another process has written its event and not committed yet; at the end it does."""
    written, go_on = threading.Event(), threading.Event()
    made: dict = {}

    def verb() -> None:
        try:
            with transaction.atomic():
                made["event"] = frozen(merchant)
                written.set()
                assert go_on.wait(60)
        finally:
            connections.close_all()

    thread = threading.Thread(target=verb)
    thread.start()
    try:
        assert written.wait(60)
        yield made
    finally:
        go_on.set()
        thread.join()


def by_id_alone(after: str) -> set:
    """A reader who only remembers the last identity: the negative control."""
    return set(Event.objects.filter(pk__gt=after).values_list("pk", flat=True))


def test_an_event_that_is_committed_late_is_told_all_the_same(merchant):
    endpoint, _secret = added(merchant, "https://93.184.216.34/")
    with not_committed(merchant) as late:
        early = frozen(merchant)
        assert early.pk > late["event"].pk, "the one that is committed first was begun last"
        delivering.fan_out(now=cards.NOW)
        assert not WebhookDelivery.objects.exists(), "nothing is passed while something can still slip in before it"
        # Who reads by identity has passed it by now, and never sees the other one.
        assert by_id_alone("00000000-0000-0000-0000-000000000000") == {early.pk}
    assert late["event"].pk not in by_id_alone(early.pk), "the control must miss it, or this proves nothing"
    delivering.fan_out(now=cards.NOW)
    told = WebhookDelivery.objects.filter(endpoint=endpoint).values_list("event", flat=True)
    assert set(told) == {early.pk, late["event"].pk}
    assert delivering.fan_out(now=cards.NOW) == 0


def test_a_list_shows_nothing_that_something_can_still_slip_in_before(merchant):
    asked = asker(merchant)
    first = frozen(merchant)

    def listed(path: str = "events") -> list[str]:
        return [row["id"][4:] for row in asked.get(path).json()["data"]]

    assert listed() == [first.pk.hex]
    with not_committed(merchant) as late:
        newer = frozen(merchant)
        assert listed() == [first.pk.hex]
        assert asked.get(f"events/evt_{newer.pk.hex}").status_code == 404
    assert listed() == [newer.pk.hex, late["event"].pk.hex, first.pk.hex]
    cursor = asked.get("events?limit=1").json()["next_cursor"]
    assert listed(f"events?cursor={cursor}") == [late["event"].pk.hex]
    cursor = asked.get(f"events?cursor={cursor}").json()["next_cursor"]
    frozen(merchant)
    assert listed(f"events?cursor={cursor}") == [first.pk.hex]


def test_what_runs_in_another_database_holds_nothing_up(merchant):
    added(merchant, "https://93.184.216.34/")
    with psycopg.connect(database_url("postgres")) as elsewhere:
        elsewhere.execute("SELECT pg_current_xact_id()")
        told = frozen(merchant)
        assert delivering.fan_out(now=cards.NOW) == 1
        assert Event.objects.settled().get() == told


def as_application(change: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL ROLE prepaid_app")
        cursor.execute(change)


def test_what_happened_is_never_changed(merchant):
    event = frozen(merchant)
    for change in ("UPDATE issuing_event SET state = 'x'", "DELETE FROM issuing_event"):
        with pytest.raises(ProgrammingError, match="append-only"), connections["owner"].cursor() as cursor:
            cursor.execute(change)
        with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic():
            as_application(change)
    event.refresh_from_db()
    assert event.state == "FROZEN"


def test_a_verb_that_fails_has_not_happened(merchant):
    with transaction.atomic():
        frozen(merchant)
        assert Event.objects.exists()
        transaction.set_rollback(True)
    assert not Event.objects.exists()


def test_an_identity_made_in_the_database_is_a_uuid_of_this_moment():
    with connection.cursor() as cursor:
        cursor.execute("SELECT new_id() FROM generate_series(1, 1000)")
        made = [row for (row,) in cursor.fetchall()]
    assert len(set(made)) == 1000
    assert {one.version for one in made} == {7}
    millis = timezone.now().timestamp() * 1000
    assert all(abs((one.int >> 80) - millis) < 60_000 for one in made)
    ours = new_id()
    assert abs((ours.int >> 80) - (made[-1].int >> 80)) < 60_000


def test_fan_out_takes_as_many_queries_for_many_endpoints_as_for_one(merchant, django_assert_num_queries):
    def told(endpoints: int, happened: int) -> None:
        for one in range(endpoints):
            owner = merchant if not one else cards.merchant()
            added(owner, "https://93.184.216.34/")
            for _n in range(happened):
                frozen(owner)
        with django_assert_num_queries(2):
            assert delivering.fan_out(now=cards.NOW) > 0

    told(1, 1)
    told(12, 9)
    assert WebhookDelivery.objects.count() == 1 + 9 + 12 * 9


def test_a_backlog_is_caught_up_whole(merchant, monkeypatch):
    monkeypatch.setattr(delivering, "MOST_EVENTS", 3)
    added(merchant, "https://93.184.216.34/")
    made = [frozen(merchant).pk for _n in range(10)]
    assert delivering.fan_out(now=cards.NOW) == 10
    assert list(WebhookDelivery.objects.order_by("event__xid").values_list("event", flat=True)) == made


def test_each_is_told_of_his_own_and_of_what_he_chose(merchant):
    everything, _secret = added(merchant, "https://93.184.216.34/all")
    payments, _secret = added(merchant, "https://93.184.216.34/payments", "payment.recorded", "refund.recorded")
    strangers, _secret = added(cards.merchant(), "https://93.184.216.34/other")
    mine = frozen(merchant)
    paid = events.record(Event.Type.PAYMENT_RECORDED, merchant_id=merchant.pk, subject_id=new_id(), now=cards.NOW)
    delivering.fan_out(now=cards.NOW)

    def told(endpoint) -> set:
        return set(WebhookDelivery.objects.filter(endpoint=endpoint).values_list("event", flat=True))

    assert (told(everything), told(payments), told(strangers)) == ({mine.pk, paid.pk}, {paid.pk}, set())


def test_an_endpoint_is_told_what_happens_from_its_beginning_on(merchant, receiver: Receiver):
    frozen(merchant)
    added(merchant, receiver.url())
    later = frozen(merchant)
    delivering.fan_out(now=cards.NOW)
    assert list(WebhookDelivery.objects.values_list("event", flat=True)) == [later.pk]
