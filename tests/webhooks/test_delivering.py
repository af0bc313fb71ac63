"""What is sent, to whom, how often and until when: against a machine that may be slow, down, or lie."""

import json
import random
import time
from datetime import timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from config.ids import new_id, public_id
from issuing import delivering, events, webhooks
from issuing.models import Event, Merchant, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from tests import cards
from tests.webhooks.conftest import Receiver, added, make_due, pauses

pytestmark = pytest.mark.django_db(transaction=True)

NOW = cards.NOW


def happened(merchant: Merchant, number: int = 1) -> list[Event]:
    """Events that may be told: other tests' transactions on the same server may be held for ours for a moment."""
    made = [
        events.record(
            Event.Type.CARD_FROZEN, merchant_id=merchant.pk, subject_id=new_id(), state="FROZEN", now=NOW, amount=100
        )
        for _n in range(number)
    ]
    until = time.monotonic() + 10
    while Event.objects.settled().filter(pk__in=[one.pk for one in made]).count() < number:
        assert time.monotonic() < until, "a transaction of ours is open"
        time.sleep(0.005)
    return made


def delivery() -> WebhookDelivery:
    return WebhookDelivery.objects.get()


def verified(got: dict, secret: str) -> dict:
    """As the merchant reads it: by the library, with his secret."""
    return Webhook(secret).verify(got["body"], got["headers"])


def test_what_happened_arrives_signed(merchant, receiver: Receiver):
    endpoint, secret = added(merchant, receiver.url())
    (event,) = happened(merchant)
    assert delivering.sweep(now=NOW) == 1
    (got,) = receiver.got()
    assert verified(got, secret) == {
        "id": public_id("evt", event.pk),
        "type": "card.frozen",
        "created_at": "2026-05-15T12:00:00+08:00",
        "data": {"id": public_id("crd", event.subject_id), "card": None, "state": "FROZEN", "amount": 100},
    }
    assert got["headers"]["webhook-id"] == public_id("whd", delivery().pk)
    assert got["headers"]["host"] == f"127.0.0.1:{receiver.port}"
    tried = WebhookAttempt.objects.get()
    assert (tried.status, tried.failure, tried.answer, tried.url) == (200, "", "ok", endpoint.url)
    row = delivery()
    assert (row.state, row.attempts, row.delivered_at, row.due_at) == ("DELIVERED", 1, NOW, None)
    assert delivering.sweep(now=NOW) == 0
    with pytest.raises(WebhookVerificationError):
        verified({**got, "body": got["body"].replace("100", "999")}, secret)


def test_a_secret_is_kept_sealed_and_no_two_are_alike(merchant, receiver: Receiver):
    one, secret = added(merchant, receiver.url())
    _other, another = added(merchant, receiver.url())
    assert secret != another
    assert secret.startswith("whsec_")
    assert secret.encode() not in bytes(one.secret_sealed)
    assert webhooks.secrets_of(one, now=NOW) == [secret]


def test_during_a_rotation_both_secrets_verify_and_then_only_the_new_one(merchant, receiver: Receiver):
    endpoint, old = added(merchant, receiver.url())
    new = webhooks.rotate(endpoint=endpoint, now=NOW)
    happened(merchant)
    delivering.sweep(now=NOW + timedelta(hours=23))
    happened(merchant)
    delivering.sweep(now=NOW + timedelta(hours=25))
    during, after = receiver.got()
    assert verified(during, old) == verified(during, new)
    assert verified(after, new)
    with pytest.raises(WebhookVerificationError):
        verified(after, old)
    newest = webhooks.rotate(endpoint=endpoint, now=NOW)
    assert webhooks.secrets_of(endpoint, now=NOW) == [newest, new], "two live at most"


PAUSES = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400]


def test_it_is_tried_for_three_days_with_growing_pauses_and_has_then_failed(merchant, receiver: Receiver):
    receiver.behaves("hook", "status", status=503, body="later")
    added(merchant, receiver.url())
    happened(merchant)
    now = NOW
    waited = []
    while True:
        make_due()
        assert delivering.sweep(now=now) == 1
        if delivery().state != "PENDING":
            break
        waited += pauses()
        now += timedelta(seconds=waited[-1])
    assert len(waited) == len(PAUSES)
    for seconds, wanted in zip(waited, PAUSES, strict=True):
        assert wanted * 0.89 < seconds <= wanted * 1.1
    assert timedelta(days=2.5) < now - NOW < timedelta(days=3.6)
    row = delivery()
    assert (row.state, row.attempts, row.problem) == ("FAILED", 10, "HTTP 503")
    assert len({got["headers"]["webhook-id"] for got in receiver.got()}) == 1
    assert len({got["body"] for got in receiver.got()}) == 1
    assert [tried.answer for tried in WebhookAttempt.objects.all()] == ["later"] * 10


def test_down_and_then_up_again_it_arrives(merchant, receiver: Receiver):
    receiver.behaves("hook", "status", status=500)
    endpoint, _secret = added(merchant, receiver.url())
    happened(merchant)
    delivering.sweep(now=NOW)
    endpoint.refresh_from_db()
    assert (delivery().state, endpoint.failures, endpoint.failing_since_at) == ("PENDING", 1, NOW)
    assert delivering.sweep(now=NOW) == 0, "not before its pause is over"
    receiver.forgets()
    make_due()
    assert delivering.sweep(now=NOW) == 1
    endpoint.refresh_from_db()
    assert (delivery().state, endpoint.failures, endpoint.failing_since_at) == ("DELIVERED", 0, None)


def test_nobody_there_is_a_failure_like_another(merchant, receiver: Receiver):
    added(merchant, receiver.url().replace(str(receiver.port), "9"))
    happened(merchant)
    delivering.sweep(now=NOW)
    assert (delivery().state, delivery().problem) == ("PENDING", "CONNECTION_LOST")


@pytest.mark.parametrize("kind", ["slow", "drip"])
def test_a_slow_or_dripping_answer_is_cut_off_at_the_deadline(merchant, receiver: Receiver, monkeypatch, kind):
    monkeypatch.setattr(delivering, "DEADLINE_SECONDS", 0.5)
    receiver.behaves("hook", kind, seconds=20)
    added(merchant, receiver.url())
    happened(merchant)
    began = time.monotonic()
    delivering.sweep(now=NOW)
    assert 0.4 < time.monotonic() - began < 15
    assert (delivery().state, delivery().problem) == ("PENDING", "TIMED_OUT")


def test_a_redirect_is_not_followed_and_not_taken(merchant, receiver: Receiver):
    for status in (301, 302, 307, 308):
        receiver.behaves(f"r{status}", "redirect", status=status, to=receiver.url("elsewhere"))
        added(merchant, receiver.url(f"r{status}"))
    happened(merchant)
    assert delivering.sweep(now=NOW) == 4
    assert {row.problem for row in WebhookDelivery.objects.filter(state="PENDING")} == {
        "HTTP 301", "HTTP 302", "HTTP 307", "HTTP 308",
    }  # fmt: skip
    assert receiver.got("elsewhere") == []


def test_what_it_answers_is_never_believed_only_its_status_counts(merchant, receiver: Receiver):
    receiver.behaves("echo", "echo")
    receiver.behaves("garbage", "garbage")
    liar, _secret = added(merchant, receiver.url("echo"))
    noisy, _secret = added(merchant, receiver.url("garbage"))
    happened(merchant)
    delivering.sweep(now=NOW)
    assert WebhookDelivery.objects.get(endpoint=liar).state == "PENDING", "our own signature coming back is no consent"
    taken = WebhookDelivery.objects.get(endpoint=noisy)
    assert taken.state == "DELIVERED"
    answer = taken.tries.get().answer
    assert len(answer) == 1024
    assert answer.startswith("\ufffd\ufffd\ufffd<html>xxx")


def test_one_slow_machine_keeps_nobody_waiting(merchant, receiver: Receiver, monkeypatch):
    # Fewer threads than it has messages waiting: whoever is slow gets one at a time.
    monkeypatch.setattr(delivering, "THREADS", 4)
    receiver.behaves("slow", "slow", seconds=5)
    added(merchant, receiver.url("slow"))
    quick, _secret = added(cards.merchant(), receiver.url("quick"))
    happened(merchant, 15)
    happened(quick.merchant, 15)
    delivering.sweep(now=NOW, seconds=4.5)
    assert (len(receiver.got("quick")), len(receiver.got("slow"))) == (15, 1)


def test_whoever_is_quick_is_sent_several_at_once(merchant, receiver: Receiver):
    receiver.behaves("hook", "slow", seconds=0.2)
    added(merchant, receiver.url())
    happened(merchant, 40)
    began = time.monotonic()
    assert delivering.sweep(now=NOW) == 40
    assert time.monotonic() - began < 40 * 0.2, "one after the other it takes longer"


def test_whoever_fails_is_left_alone_for_longer_and_longer(merchant, receiver: Receiver):
    receiver.behaves("hook", "status", status=500)
    added(merchant, receiver.url())
    happened(merchant, 20)
    assert delivering.sweep(now=NOW) == 1, "the others would fail as well"
    rests = []
    for _turn in range(8):
        left_alone = WebhookEndpoint.objects.get().resting_until_at
        rests.append(round((left_alone - WebhookEndpoint.objects.get().attempted_at).total_seconds()))
        WebhookEndpoint.objects.update(resting_until_at=None)
        assert delivering.sweep(now=NOW) == 1
    assert rests == [5, 10, 20, 40, 80, 160, 300, 300]


def test_after_three_days_of_failing_it_is_paused_and_resumed_it_catches_up(merchant, receiver: Receiver):
    receiver.behaves("hook", "status", status=500)
    endpoint, _secret = added(merchant, receiver.url())
    happened(merchant)
    delivering.sweep(now=NOW)
    make_due()
    delivering.sweep(now=NOW + timedelta(days=2, hours=23))
    endpoint.refresh_from_db()
    assert endpoint.state == "ACTIVE"
    make_due()
    delivering.sweep(now=NOW + timedelta(days=3))
    endpoint.refresh_from_db()
    assert (endpoint.state, endpoint.paused_because, endpoint.paused_at) == (
        "PAUSED", "FAILING", NOW + timedelta(days=3),
    )  # fmt: skip
    happened(merchant, 2)
    make_due()
    assert delivering.sweep(now=NOW) == 0
    assert WebhookDelivery.objects.count() == 1, "what happens meanwhile is kept as events"
    receiver.forgets()
    webhooks.resume(endpoint=endpoint)
    assert delivering.sweep(now=NOW) == 3
    assert set(WebhookDelivery.objects.values_list("state", flat=True)) == {"DELIVERED"}


def test_whoever_says_that_it_is_gone_is_paused_at_once(merchant, receiver: Receiver):
    receiver.behaves("hook", "status", status=410)
    endpoint, _secret = added(merchant, receiver.url())
    happened(merchant)
    delivering.sweep(now=NOW)
    endpoint.refresh_from_db()
    assert (endpoint.state, endpoint.paused_because) == ("PAUSED", "GONE")


def test_paused_by_hand_it_is_sent_nothing_and_removed_never_again(merchant, receiver: Receiver):
    endpoint, _secret = added(merchant, receiver.url())
    happened(merchant)
    delivering.fan_out(now=NOW)
    webhooks.pause(endpoint=endpoint, now=NOW)
    assert delivering.sweep(now=NOW) == 0
    webhooks.remove(endpoint=endpoint)
    assert (delivery().state, delivery().problem) == ("FAILED", "REMOVED")
    happened(merchant)
    assert delivering.sweep(now=NOW) == 0
    assert receiver.got() == []


def test_a_ping_reaches_the_one_endpoint_that_it_was_asked_for(merchant, receiver: Receiver):
    endpoint, secret = added(merchant, receiver.url("one"), "card.closed")
    added(merchant, receiver.url("two"))
    webhooks.ping(endpoint=endpoint, now=NOW)
    delivering.sweep(now=NOW)
    (got,) = receiver.got()
    assert got["path"] == "/one"
    assert verified(got, secret)["type"] == "webhook.ping"
    assert verified(got, secret)["data"]["id"] == public_id("whe", endpoint.pk)


def test_a_delivery_is_sent_again_under_its_own_id(merchant, receiver: Receiver):
    added(merchant, receiver.url())
    happened(merchant)
    delivering.sweep(now=NOW)
    webhooks.resend(delivery=delivery())
    delivering.sweep(now=NOW)
    first, second = receiver.got()
    assert first["headers"]["webhook-id"] == second["headers"]["webhook-id"]
    assert (delivery().state, delivery().attempts, WebhookAttempt.objects.count()) == ("DELIVERED", 1, 2)


def test_a_range_is_sent_again_whole_also_what_was_before_its_time(merchant, receiver: Receiver):
    before = happened(merchant, 2)
    endpoint, _secret = added(merchant, receiver.url())
    after = happened(merchant, 2)
    events.record(Event.Type.CARD_FROZEN, merchant_id=cards.merchant().pk, subject_id=new_id(), now=NOW)
    delivering.sweep(now=NOW)
    hour = timedelta(hours=1)
    assert webhooks.resend_range(endpoint=endpoint, from_at=NOW, to_at=NOW + hour, now=NOW) == 4
    assert delivering.sweep(now=NOW) == 4
    assert webhooks.resend_range(endpoint=endpoint, from_at=NOW - hour, to_at=NOW, now=NOW) == 0
    told = [json.loads(got["body"])["id"] for got in receiver.got()]
    assert sorted(told) == sorted(public_id("evt", one.pk) for one in [*before, *after, *after])


def test_too_much_at_once_is_refused(merchant, receiver: Receiver, monkeypatch):
    monkeypatch.setattr(webhooks, "MOST_AGAIN", 3)
    endpoint, _secret = added(merchant, receiver.url())
    happened(merchant, 4)
    with pytest.raises(webhooks.TooManyToResend):
        webhooks.resend_range(endpoint=endpoint, from_at=NOW, to_at=NOW + timedelta(hours=1), now=NOW)
    assert not WebhookDelivery.objects.exists()


def test_what_cannot_even_be_sent_does_not_hold_up_the_others(merchant, receiver: Receiver):
    broken, _secret = added(merchant, receiver.url())
    added(merchant, receiver.url("good"))
    WebhookEndpoint.objects.filter(pk=broken.pk).update(url="http://[::1")
    happened(merchant)
    assert delivering.sweep(now=NOW) == 2
    assert WebhookDelivery.objects.get(endpoint=broken).problem == "MALFORMED"
    assert len(receiver.got("good")) == 1


def test_pauses_differ_so_that_what_failed_together_does_not_come_back_together():
    random.seed(1)
    assert delivering.JITTER == 0.1
    assert sum(delivering.PAUSES) > 3 * 24 * 3600
