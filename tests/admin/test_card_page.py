"""A card's page: its facts, what can be done, one timeline, and why the balance is what it is."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from claims.models import Claim
from config.models import Act
from insurance.models import InsurerMessage
from issuing import numbering, webhooks
from issuing.models import Kind, WebhookDelivery
from prepaid import consumption, notes, processing, timeline
from prepaid.models import Card, Note, Transaction
from tests import cards
from tests.admin import plans, records
from tests.admin.conftest import person, signed_in

pytestmark = pytest.mark.django_db(databases=["default", "owner"])


def everything(_model: type[Model]) -> bool:
    return True


def all_lines(card: Card) -> list[timeline.Line]:
    """All pages of a timeline, turned one after the other as their links do."""
    lines, older = timeline.timeline(card, may_see=everything)
    found = list(lines)
    while older is not None:
        assert len(lines) == timeline.SHOWN
        lines, older = timeline.timeline(card, before=timeline.read(timeline.written(older)), may_see=everything)
        found += lines
        assert len(found) < 1_000, "the pages go round in a circle"
    return found


def eventful() -> Card:
    """A card to which something of every kind has happened."""
    program = records.insured_program()
    webhooks.add(
        merchant=program.merchant, url="https://93.184.216.34/", types=[], is_live=False, by="x", now=cards.NOW
    )
    card = records.card(program)
    policy = records.accepted(card)
    now = timezone.now()
    processing.top_up(
        merchant=card.merchant, card_id=card.pk, amount=60_000, reference=cards.reference("TOP"),
        payment_method="WECHAT", now=now,
    )  # fmt: skip
    cards.paid(card, 1_234, at=now)
    notes.note(card=card, text="The holder rang.", by="staff:x", now=now)
    sent = {"type": "ENROLMENT", "headers": {}, "recorded_at": now}
    InsurerMessage.objects.create(
        direction="SENT", message_id="m-1", request_nos=[policy.request_no], body=b"{}", **sent
    )
    InsurerMessage.objects.create(direction="RECEIVED", message_id="m-1", body=b"{}", status=200, **sent)
    InsurerMessage.objects.create(direction="SENT", message_id="m-2", request_nos=["another"], body=b"{}", **sent)
    records.claim(card, Claim.State.PAID)
    browser = signed_in(person("clerk"))
    browser.post(reverse("admin:prepaid_card_note", args=[card.pk]), {"text": "It was paid."})
    endpoint, now = program.merchant.webhookendpoint_set.get(), timezone.now()
    week = timedelta(days=7)
    webhooks.resend_range(endpoint=endpoint, from_at=now - week, to_at=now + week, now=now)
    return Card.objects.get(pk=card.pk)


def test_everything_that_happened_stands_in_one_timeline_newest_first() -> None:
    card = eventful()
    lines = all_lines(card)
    assert {line.kind for line in lines} == set(timeline.MODELS)
    moments = [line.place.at for line in lines]
    assert moments == sorted(moments, reverse=True)
    said = [line.row.message_id for line in lines if line.kind == "message"]
    assert said == ["m-1", "m-1"]
    assert [line.moment for line in lines if line.kind == "claim"] == [
        "paid_at", "decided_at", "assessed_at", "filed_at",
    ]  # fmt: skip


def test_a_delivery_knows_its_card() -> None:
    card = eventful()
    of_card = WebhookDelivery.objects.filter(card_id=card.pk).count()
    assert of_card == WebhookDelivery.objects.filter(event__card_id=card.pk).count() > 3
    assert sum(line.kind == "delivery" for line in all_lines(card)) == of_card


def test_pages_leave_nothing_out_and_show_nothing_twice_however_many_things_share_a_moment() -> None:
    card = records.card()
    now = timezone.now()
    # A row that moved on has its lines on two pages.
    records.accepted(card)
    card.policies.update(recorded_at=now - timedelta(seconds=10))
    for number in range(130):
        cards.paid(card, 10, at=now - timedelta(seconds=number // 60))
        notes.note(card=card, text=f"{number}", by="staff:x", now=now - timedelta(seconds=number // 65))
    lines = all_lines(card)
    assert len({line.place for line in lines}) == len(lines) >= 2 * 130 + 2
    assert sum(line.kind == "note" for line in lines) == 130
    assert sum(line.kind == "transaction" for line in lines) == 131


def test_the_page_asks_as_often_and_reads_no_more_after_a_long_history(root: Client) -> None:
    card = records.card()
    address = reverse("admin:prepaid_card_change", args=[card.pk])

    def asked() -> list[str]:
        root.get(address)
        with CaptureQueriesContext(connection) as queries:
            assert root.get(address).status_code == 200
        return [str(query["sql"]) for query in queries]

    once = asked()
    for number in range(60):
        cards.paid(card, 10, at=timezone.now() - timedelta(minutes=number))
        notes.note(card=card, text=f"{number}", by="staff:x", now=timezone.now())
    often = asked()
    assert len(often) == len(once)
    # Entries are history without end: the page is made of balances.
    assert not [sql for sql in often if "prepaid_entry" in sql]
    with CaptureQueriesContext(connection) as queries:
        timeline.timeline(card, may_see=everything)
    assert all(re.search(r"LIMIT \d+", str(query["sql"])) for query in queries)


def test_each_source_is_found_by_an_index_that_begins_with_the_card() -> None:
    card = eventful()
    with CaptureQueriesContext(connection) as queries:
        timeline.timeline(card, may_see=everything)
    found = [scan for query in queries for scan in plans.scans(str(query["sql"]))]
    assert len(found) > 10
    assert [scan for scan in found if not scan.is_by_index] == []


def test_older_lines_are_one_link_away(root: Client) -> None:
    card = records.card()
    for number in range(60):
        cards.paid(card, 10, at=timezone.now() - timedelta(minutes=number))
    page = root.get(reverse("admin:prepaid_card_change", args=[card.pk]))
    [panel] = page.context["panels"]
    assert len(panel.rows) == timeline.SHOWN
    older = root.get(panel.more[1])
    [rest] = older.context["panels"]
    assert len(rest.rows) == len(all_lines(card)) - timeline.SHOWN
    assert rest.more is None
    assert root.get(panel.more[1] + "x").status_code == 200
    for nonsense in ("x", "%00", "20260101T000000.000000~act~x~0", "20260101T000000.000000~policy~9~0"):
        assert root.get(f"{page.request['PATH_INFO']}?before={nonsense}").status_code == 200


def test_what_somebody_may_not_see_stands_not_in_the_timeline() -> None:
    card = eventful()
    lines, _older = timeline.timeline(card, may_see=lambda model: model is Transaction)
    assert {line.kind for line in lines} == {"transaction"}


# Notes -------------------------------------------------------------------------------------------------------


def test_a_note_is_written_with_its_author_and_kept_for_ever(at_desk: Callable[[str], Client]) -> None:
    card = records.card()
    number = numbering.unseal(card.number_sealed)
    browser = at_desk("clerk")
    browser.post(reverse("admin:prepaid_card_note", args=[card.pk]), {"text": f"Read {number} to me."})
    note = Note.objects.get()
    assert (note.text, note.by) == (f"Read •••{number[-4:]} to me.", "staff:clerk")
    act = Act.objects.get(verb="note")
    assert number not in str(act.asked)
    assert (act.kind, act.object_id, act.outcome) == ("prepaid.card", str(card.pk), "DONE")
    assert (
        f"Read •••{number[-4:]} to me."
        in browser.get(reverse("admin:prepaid_card_change", args=[card.pk])).content.decode()
    )
    for change in (lambda: note.delete(), lambda: Note.objects.update(text="x")):
        with pytest.raises(DatabaseError), transaction.atomic():
            change()


def test_an_auditor_writes_no_note(at_desk: Callable[[str], Client]) -> None:
    card = records.card()
    answer = at_desk("auditor").post(reverse("admin:prepaid_card_note", args=[card.pk]), {"text": "x"})
    assert answer.status_code == 403
    assert not Note.objects.exists()


# Why the balance is this -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", Kind)
def test_the_present_is_what_the_entries_say_of_this_moment(kind: Kind) -> None:
    card = cards.opened(cards.program(kind), 100_000)
    uses = {"list_amount": None, "uses": 1} if kind == Kind.TIMES else {"list_amount": 1_234}
    cards.paid(card, **uses)
    value = consumption.valuation_at(card, cards.NOW)
    assert consumption.present(card, cards.NOW) == (value.usable, value.refundable)


def sums(page: Any) -> list[list[str]]:
    """The rows of sums that must agree, as the page shows them."""
    return [
        [re.sub("<.*?>", "", str(cell)) for cell in panel.rows[0]]
        for panel in page.context["panels"]
        if str(panel.title) == "must agree"
    ]


def test_a_balance_is_followed_down_to_its_entries(root: Client) -> None:
    card = records.card(records.insured_program(card_limit=50_000), 100_000)
    cards.topped_up(card, 30_000, at=timezone.now())
    for _n in range(60):
        cards.paid(card, 100, at=timezone.now())
    address = reverse("admin:prepaid_card_why", args=[card.pk])
    page = root.get(address)
    assert sums(page) == [["¥1,240.00"] * 4]
    assert "why is the balance this" in str(page.context["title"]).lower()
    page = root.get(address, {"load": 1})
    assert sums(page)[1] == ["¥940.00"] * 3
    page = root.get(address, {"load": 1, "sub": 1})
    assert sums(page)[2] == ["¥440.00"] * 2
    *_others, entries = page.context["panels"]
    assert len(entries.rows) == 50
    *_others, rest = root.get(entries.more[1]).context["panels"]
    assert len(rest.rows) == 11  # with what opened it
    assert rest.more is None
    for nonsense in ({"load": "x"}, {"load": 9}, {"load": 1, "sub": "9" * 40}, {"load": 1, "sub": 1, "before": "-1"}):
        assert root.get(address, nonsense).status_code == 200


def test_sums_that_do_not_agree_say_so(root: Client) -> None:
    card = records.card()
    address = reverse("admin:prepaid_card_why", args=[card.pk])
    assert "Differs" not in root.get(address).content.decode().replace("differs", "Differs")
    with connection.cursor() as cursor:
        cursor.execute("RESET ROLE")
        cursor.execute("UPDATE prepaid_subcard SET remaining = remaining - 1 WHERE card_id = %s", [card.pk])
    assert "differs" in root.get(address).content.decode()
