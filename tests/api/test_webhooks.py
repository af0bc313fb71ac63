"""Events and webhooks as a merchant's program asks for them."""

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from config.ids import new_id, public_id
from issuing import events, keys, webhooks
from issuing.models import Event, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from prepaid import processing
from prepaid.models import StoredAnswer
from tests.api.asking import asker

pytestmark = pytest.mark.django_db

URL = "https://93.184.216.34/hook"


@pytest.fixture
def hook(lotus) -> dict:
    answer = lotus.post("webhook-endpoints", {"url": URL})
    assert answer.status_code == 201, answer.content
    return answer.json()


def happened(merchant, number: int = 1, type: Event.Type = Event.Type.CARD_CLOSED) -> list[Event]:
    return [
        events.record(type, merchant_id=merchant.pk, subject_id=new_id(), now=timezone.now()) for _n in range(number)
    ]


def row(shape: dict) -> WebhookEndpoint:
    return WebhookEndpoint.objects.get(pk=shape["id"][4:])


# Events


@pytest.mark.django_db(transaction=True)  # what is not committed is in no list
def test_an_event_says_what_it_is_about(lotus):
    card = new_id()
    event = events.record(
        Event.Type.POLICY_ACCEPTED, merchant_id=lotus.merchant.pk, subject_id=(policy := new_id()), card_id=card,
        state="ACCEPTED", amount=1_234_567, now=timezone.now(),
    )  # fmt: skip
    shape = lotus.get(f"events/evt_{event.pk.hex}").json()
    assert shape == {
        "id": public_id("evt", event.pk),
        "type": "policy.accepted",
        "created_at": shape["created_at"],
        "data": {
            "id": public_id("pol", policy), "card": public_id("crd", card), "state": "ACCEPTED", "amount": 1_234_567,
        },
    }  # fmt: skip
    assert shape["created_at"].endswith("+08:00")
    assert lotus.get("events").json()["data"] == [shape]


@pytest.mark.django_db(transaction=True)
def test_events_come_in_pages_by_type_and_time(lotus):
    made = happened(lotus.merchant, 5)[::-1]
    other = happened(lotus.merchant, 1, Event.Type.CLAIM_PAID)

    def ids(path: str) -> list[str]:
        return [one["id"] for one in lotus.get(path).json()["data"]]

    wanted = [public_id("evt", one.pk) for one in made]
    assert sorted(ids("events?type=card.closed")) == sorted(wanted)
    assert ids("events?type=claim.paid") == [public_id("evt", other[0].pk)]
    seen: list[str] = []
    answer = lotus.get("events?type=card.closed&limit=2").json()
    while True:
        seen += [one["id"] for one in answer["data"]]
        if not answer["has_more"]:
            break
        answer = lotus.get(f"events?cursor={answer['next_cursor']}").json()
    assert sorted(seen) == sorted(wanted)
    assert len(seen) == 5
    later = (timezone.now() + timedelta(hours=1)).isoformat().replace("+", "%2B")
    assert ids(f"events?created_at_after={later}") == []
    assert len(ids(f"events?created_at_before={later}")) == 6
    assert lotus.get("events?type=card.eaten").status_code == 400


# Endpoints


def test_an_endpoint_is_added_and_its_secret_shown_in_that_answer_only(lotus, hook):
    assert hook == {
        "id": hook["id"], "url": URL, "description": None, "events": "*", "live": True, "state": "ACTIVE",
        "paused": None, "failing_since": None, "old_secret_until": None, "created_at": hook["created_at"],
        "secret": hook["secret"],
    }  # fmt: skip
    assert hook["secret"].startswith("whsec_")
    shown = lotus.get(f"webhook-endpoints/{hook['id']}").json()
    assert shown == {name: value for name, value in hook.items() if name != "secret"}
    assert lotus.get("webhook-endpoints").json()["data"] == [shown]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT e::text FROM issuing_webhookendpoint e UNION ALL SELECT a::text FROM prepaid_storedanswer a"
        )
        kept = " ".join(text for (text,) in cursor.fetchall())
    assert hook["secret"] not in kept
    assert hook["secret"][6:40] not in kept


def test_asked_again_with_its_key_it_is_answered_with_the_same_secret_also_after_a_rotation(lotus):
    first = lotus.post("webhook-endpoints", {"url": URL}, Idempotency_Key="add-1")
    lotus.post(f"webhook-endpoints/{first.json()['id']}/rotate-secret")
    again = lotus.post("webhook-endpoints", {"url": URL}, Idempotency_Key="add-1")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert WebhookEndpoint.objects.count() == 1
    other = lotus.post("webhook-endpoints", {"url": URL + "2"}, Idempotency_Key="add-1")
    assert (other.status_code, other.json()["code"]) == (422, "IdempotencyKeyReused")


def test_a_secret_is_rotated_and_both_live_for_a_day(lotus, hook):
    before = timezone.now()
    answer = lotus.post(f"webhook-endpoints/{hook['id']}/rotate-secret").json()
    assert answer["secret"] not in (hook["secret"], None)
    assert answer["old_secret_until"] is not None
    assert webhooks.secrets_of(row(hook), now=before + timedelta(hours=23)) == [answer["secret"], hook["secret"]]
    assert webhooks.secrets_of(row(hook), now=before + timedelta(hours=25)) == [answer["secret"]]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://2130706433/", "http://localhost:5432/", "ftp://93.184.216.34/", "http://[::1]/", "x"],
)
def test_an_internal_address_is_refused_by_one_text_and_burns_no_key(lotus, hook, url):
    for path in ("webhook-endpoints", f"webhook-endpoints/{hook['id']}"):
        answer = lotus.post(path, {"url": url}, Idempotency_Key="key-x")
        assert (answer.status_code, answer.json()["code"]) == (422, "WebhookUrlNotAllowed")
        assert answer.json()["errors"][0]["pointer"] == "/url"
        assert url not in answer.json()["detail"]
    assert not StoredAnswer.objects.filter(key="key-x").exists()
    assert row(hook).url == URL


def test_a_live_key_adds_live_endpoints_over_https_only(merchant):
    live, test = asker(merchant), asker(processing.make_test_twin(merchant=merchant, now=timezone.now()))
    assert live.post("webhook-endpoints", {"url": "http://93.184.216.34/"}).json()["code"] == "WebhookUrlNotAllowed"
    assert live.post("webhook-endpoints", {"url": URL}).json()["live"] is True
    added = test.post("webhook-endpoints", {"url": "http://93.184.216.34/"})
    assert (added.status_code, added.json()["live"]) == (201, False)


def test_url_events_and_description_can_be_changed_one_by_one(lotus, hook):
    path = f"webhook-endpoints/{hook['id']}"
    changed = lotus.post(path, {"events": ["payment.recorded", "card.closed", "card.closed"]}).json()
    assert changed["events"] == ["card.closed", "payment.recorded"]
    changed = lotus.post(path, {"url": URL + "/2", "description": "shop 12"}).json()
    assert (changed["url"], changed["description"]) == (URL + "/2", "shop 12")
    assert changed["events"] == ["card.closed", "payment.recorded"]
    assert lotus.post(path, {"events": "*"}).json()["events"] == "*"
    assert lotus.post(path, {"description": ""}).json()["description"] is None


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": URL, "events": []}, "/events"),
        ({"url": URL, "events": ["card.eaten"]}, "/events/0"),
        ({"url": URL, "events": ["webhook.ping"]}, "/events/0"),
        ({"url": URL, "events": "card.closed"}, "/events"),
        ({"url": 1}, "/url"),
        ({"url": "https://x/" + "x" * 500}, "/url"),
        ({"url": URL, "secret": "whsec_mine"}, "/secret"),
    ],
)
def test_input_is_strict(lotus, body, pointer):
    answer = lotus.post("webhook-endpoints", body)
    assert (answer.status_code, [fault["pointer"] for fault in answer.json()["errors"]]) == (400, [pointer])


def test_paused_resumed_removed(lotus, hook):
    path = f"webhook-endpoints/{hook['id']}"
    paused = lotus.post(f"{path}/pause").json()
    assert (paused["state"], paused["paused"]["because"]) == ("PAUSED", "ASKED")
    assert lotus.post(f"{path}/pause").json()["code"] == "IllegalMove"
    assert lotus.post(f"{path}/ping").json()["code"] == "IllegalMove"
    resumed = lotus.post(f"{path}/resume").json()
    assert (resumed["state"], resumed["paused"]) == ("ACTIVE", None)
    assert lotus.post(f"{path}/remove").json()["state"] == "DISABLED"
    for verb, body in (("resume", {}), ("rotate-secret", {}), ("ping", {}), ("remove", {})):
        assert lotus.post(f"{path}/{verb}", body).json()["code"] == "IllegalMove", verb
    assert lotus.post(path, {"description": "x"}).json()["code"] == "IllegalMove"
    assert [one["id"] for one in lotus.get("webhook-endpoints?state=DISABLED").json()["data"]] == [hook["id"]]


def test_so_many_endpoints_and_no_more(lotus, hook, monkeypatch):
    monkeypatch.setattr(webhooks, "MOST_ENDPOINTS", 2)
    assert lotus.post("webhook-endpoints", {"url": URL}).status_code == 201
    assert lotus.post("webhook-endpoints", {"url": URL}).json()["code"] == "TooManyWebhookEndpoints"
    lotus.post(f"webhook-endpoints/{hook['id']}/remove")
    assert lotus.post("webhook-endpoints", {"url": URL}).status_code == 201


def test_a_key_without_the_scope_reads_and_changes_nothing(merchant, lotus, hook):
    reader = asker(merchant, scopes=["cards:read"])
    assert reader.get(f"webhook-endpoints/{hook['id']}").status_code == 200
    for path in ("webhook-endpoints", f"webhook-endpoints/{hook['id']}/ping", f"webhook-endpoints/{hook['id']}/pause"):
        assert reader.post(path, {"url": URL}).json()["code"] == "ScopeMissing"
    assert asker(merchant, scopes=["webhooks:write"]).get("events").json()["code"] == "ScopeMissing"
    assert "webhooks:write" in keys.SCOPES


# Deliveries


def test_a_delivery_shows_every_attempt_and_is_sent_again(lotus, hook):
    owed = lotus.post(f"webhook-endpoints/{hook['id']}/ping")
    assert owed.status_code == 202
    told = owed.json()
    assert (told["endpoint"], told["type"], told["state"], told["attempts"]) == (
        hook["id"],
        "webhook.ping",
        "PENDING",
        0,
    )
    kept = WebhookDelivery.objects.get()
    for status in (500, 200):
        WebhookAttempt.objects.create(
            delivery=kept, url=URL, status=status, answer="so", duration_ms=7, recorded_at=timezone.now()
        )
    path = f"webhook-deliveries/{told['id']}"
    assert lotus.post(f"{path}/resend").json()["code"] == "IllegalMove", "it is still to be sent"
    kept.move("DELIVERED", due_at=None, delivered_at=timezone.now(), attempts=2)
    shown = lotus.get(path).json()
    assert [(one["status"], one["answer"], one["duration_ms"]) for one in shown["log"]] == [
        (200, "so", 7),
        (500, "so", 7),
    ]
    again = lotus.post(f"{path}/resend")
    assert (again.status_code, again.json()["state"], again.json()["attempts"]) == (202, "PENDING", 0)
    assert [one["id"] for one in lotus.get("webhook-deliveries?state=PENDING").json()["data"]] == [told["id"]]
    for query in (f"endpoint={hook['id']}", f"event={told['event']}"):
        assert [one["id"] for one in lotus.get(f"webhook-deliveries?{query}").json()["data"]] == [told["id"]]
    assert lotus.get("webhook-deliveries?state=FAILED").json()["data"] == []


def test_a_range_is_sent_again(lotus, hook):
    happened(lotus.merchant, 3)
    path = f"webhook-endpoints/{hook['id']}/resend"
    now = timezone.now()
    span = {"from": (now - timedelta(hours=1)).isoformat(), "to": (now + timedelta(hours=1)).isoformat()}
    answer = lotus.post(path, span)
    assert (answer.status_code, answer.json()) == (202, {"resent": 3})
    assert WebhookDelivery.objects.filter(state="PENDING").count() == 3
    assert lotus.post(path, {"from": span["to"], "to": span["from"]}).json() == {"resent": 0}
    assert lotus.post(path, {"from": span["from"]}).status_code == 400


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("events/evt_" + "0" * 32, "EventNotFound"),
        ("webhook-endpoints/whe_" + "0" * 32, "WebhookEndpointNotFound"),
        ("webhook-deliveries/whd_" + "0" * 32, "WebhookDeliveryNotFound"),
    ],
)
def test_what_is_not_there_is_named(lotus, address, code):
    assert (lotus.get(address).status_code, lotus.get(address).json()["code"]) == (404, code)
