"""One verb for many records: seen first, each done once as its button would, and those that failed again."""

from collections.abc import Sequence
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from config import bulk
from config.models import Act, Bulk, BulkItem
from insurance.models import Policy
from issuing.models import WebhookDelivery
from points.models import Exchange
from prepaid import processing
from prepaid.admin import CardAdmin
from prepaid.models import Break, Card, CardMove
from tests import cards
from tests import points_world as world
from tests.admin import records
from tests.admin.conftest import person, signed_in
from tests.admin.test_exports import table
from tests.admin.test_lists import open_many
from tests.admin.test_verbs import sure

pytestmark = pytest.mark.django_db(databases=["default", "owner"])

State = Bulk.State


def chosen(browser: Client, model: str, verb: str, rows: Sequence[Any] = (), **filters: str) -> str:
    """Tick records on a list, or all that the filters leave, and choose a verb; the address that this leads to."""
    page = browser.post(
        reverse(f"admin:{model}_changelist", query=filters),
        {"action": verb, "_selected_action": [str(row.pk) for row in rows], "select_across": "0" if rows else "1"},
    )
    assert page.status_code == 302
    return str(page.headers["Location"])


def ordered(browser: Client, address: str, reason: str = "because") -> Bulk:
    before = Bulk.objects.count()
    page = browser.get(address).content.decode()
    assert Bulk.objects.count() == before, "looking orders nothing"
    answer = browser.post(address, {"reason": reason, "sure": sure(page)})
    assert answer.status_code == 302
    work = Bulk.objects.order_by("-pk").first()
    assert work is not None
    assert answer.headers["Location"] == reverse("admin:config_bulk_change", args=[work.pk])
    return work


def finished(work: Bulk) -> Bulk:
    bulk.carry_on(now=timezone.now())
    work.refresh_from_db()
    return work


def states(rows: Sequence[Card]) -> set[str]:
    return set(Card.objects.filter(pk__in=[row.pk for row in rows]).values_list("state", flat=True))


def test_chosen_cards_are_frozen_each_as_by_its_button(at_desk: Any) -> None:
    clerk = at_desk("clerk")
    first, second, third = open_many(3)
    address = chosen(clerk, "prepaid_card", "freeze", [first, second])
    page = clerk.get(address).content.decode()
    assert "¥1,998.00" in page
    work = ordered(clerk, address, "the terminal was stolen")
    assert states([first, second, third]) == {"ACTIVE"}
    running = clerk.get(reverse("admin:config_bulk_change", args=[work.pk])).content.decode()
    assert 'http-equiv="refresh"' in running

    finished(work)
    assert (work.state, work.total, work.done, work.failed, work.due_at) == (State.DONE, 2, 2, 0, None)
    assert states([first, second]) == {"FROZEN"}
    assert states([third]) == {"ACTIVE"}
    assert {(move.by, move.reason) for move in CardMove.objects.all()} == {("staff:clerk", "the terminal was stolen")}
    acts = Act.objects.filter(verb="freeze")
    assert {(act.who, act.object_id, act.reason, act.address) for act in acts} == {
        ("clerk", str(card.pk), "the terminal was stolen", "127.0.0.1") for card in (first, second)
    }
    assert acts[0].after["state"] == "FROZEN"
    assert Act.objects.get(verb="order_bulk").reason == "the terminal was stolen"

    freed = ordered(clerk, chosen(clerk, "prepaid_card", "unfreeze", state__exact="FROZEN"))
    assert finished(freed).done == 2
    assert states([first, second, third]) == {"ACTIVE"}


def test_all_of_the_filtered_set_and_nothing_else(at_desk: Any) -> None:
    clerk = at_desk("clerk")
    mine = open_many(3)
    other = open_many(2)
    work = ordered(clerk, chosen(clerk, "prepaid_card", "freeze", merchant__id__exact=str(mine[0].merchant_id)))
    assert finished(work).done == 3
    assert (states(mine), states(other)) == ({"FROZEN"}, {"ACTIVE"})


def test_a_list_that_changed_since_it_was_seen_is_shown_again(at_desk: Any) -> None:
    clerk = at_desk("clerk")
    [card] = open_many(1)
    address = chosen(clerk, "prepaid_card", "freeze")
    seen = sure(clerk.get(address).content.decode())
    open_many(1)
    page = clerk.post(address, {"reason": "x", "sure": seen})
    assert "The list has changed meanwhile" in page.content.decode()
    assert not Bulk.objects.exists()
    assert states([card]) == {"ACTIVE"}


def test_without_a_reason_nothing_is_ordered(at_desk: Any) -> None:
    clerk = at_desk("clerk")
    address = chosen(clerk, "prepaid_card", "freeze", open_many(1))
    page = clerk.post(address, {"reason": "", "sure": sure(clerk.get(address).content.decode())})
    assert page.status_code == 200
    assert not Bulk.objects.exists()


def test_what_failed_is_told_with_why_and_done_again_alone(at_desk: Any) -> None:
    clerk = at_desk("clerk")
    good, frozen, closed = open_many(3)
    work = ordered(clerk, chosen(clerk, "prepaid_card", "freeze", [good, frozen, closed]))
    processing.freeze(card=Card.objects.get(pk=frozen.pk), reason="x", by="staff:x", now=timezone.now())
    processing.close(card=Card.objects.get(pk=closed.pk), reason="x", by="staff:x", now=timezone.now())
    finished(work)
    assert (work.state, work.done, work.failed) == (State.DONE, 1, 2)
    assert Act.objects.filter(verb="freeze", outcome=Act.Outcome.REFUSED).count() == 2

    file = clerk.post(reverse("admin:config_bulk_download", args=[work.pk]))
    head, *rows = table(b"".join(file.streaming_content))  # type: ignore[arg-type]
    assert head == ["record", "id", "refused_as", "reason"]
    assert {row[1] for row in rows} == {str(frozen.pk), str(closed.pk)}
    assert {row[2] for row in rows} == {"NotPossible"}
    assert all("somebody was first" in row[3] for row in rows)

    processing.unfreeze(card=Card.objects.get(pk=frozen.pk), reason="x", by="staff:x", now=timezone.now())
    clerk.post(reverse("admin:config_bulk_again", args=[work.pk]))
    again = Bulk.objects.get(again_of=work)
    assert (again.total, again.data) == (2, work.data)
    finished(again)
    assert (again.done, again.failed) == (1, 1)
    assert states([good, frozen]) == {"FROZEN"}


class Killed(BaseException):
    """Nothing after it runs: neither handlers of errors nor the end of the transaction."""


def test_a_worker_killed_in_a_record_leaves_nothing_of_it_and_another_goes_on(
    at_desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clerk = at_desk("clerk")
    found = open_many(4)
    work = ordered(clerk, chosen(clerk, "prepaid_card", "freeze", found))
    settle = bulk._settle
    settled = []

    def killed_at_third(item: BulkItem, *facts: str) -> None:
        settled.append(item.key)
        if len(settled) == 3:
            raise Killed()
        settle(item, *facts)

    monkeypatch.setattr(bulk, "_settle", killed_at_third)
    with pytest.raises(Killed):
        bulk.carry_on(now=timezone.now())
    work.refresh_from_db()
    assert (work.state, work.done) == (State.RUNNING, 2)
    # The third card's own freeze went with its transaction.
    assert Card.objects.filter(state="FROZEN").count() == CardMove.objects.count() == 2

    monkeypatch.setattr(bulk, "_settle", settle)
    assert bulk.carry_on(now=timezone.now()) == 0, "the lease holds"
    Bulk.objects.update(due_at=timezone.now())
    finished(work)
    assert (work.state, work.done, work.failed) == (State.DONE, 4, 0)
    assert CardMove.objects.count() == Act.objects.filter(verb="freeze").count() == 4


def test_what_is_cancelled_does_no_further_record(at_desk: Any) -> None:
    clerk = at_desk("clerk")
    found = open_many(3)
    work = ordered(clerk, chosen(clerk, "prepaid_card", "freeze", found))
    bulk.do_slice(work, now=timezone.now(), size=1)
    clerk.post(reverse("admin:config_bulk_cancel", args=[work.pk]))
    assert bulk.do_slice(work, now=timezone.now()) == 0
    work.refresh_from_db()
    assert (work.state, work.done) == (State.CANCELLED, 1)
    assert CardMove.objects.count() == 1


def test_an_error_of_ours_is_one_records_and_not_the_others(at_desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clerk = at_desk("clerk")
    bad, good = open_many(2)
    work = ordered(clerk, chosen(clerk, "prepaid_card", "freeze", [bad, good]))
    freeze = processing.freeze

    def fails(*, card: Card, **rest: Any) -> None:
        freeze(card=card, **rest)
        if card.pk == bad.pk:
            raise ZeroDivisionError

    monkeypatch.setattr(processing, "freeze", fails)
    finished(work)
    assert (work.state, work.done, work.failed) == (State.DONE, 1, 1)
    assert work.items.get(state="FAILED").refusal == "ZeroDivisionError"
    assert (states([bad]), states([good])) == ({"ACTIVE"}, {"FROZEN"})


def test_who_may_not_press_the_button_may_not_press_it_many_times(at_desk: Any) -> None:
    cards_ = open_many(1)
    auditor = at_desk("auditor")
    page = auditor.get(reverse("admin:prepaid_card_changelist")).content.decode()
    assert "_selected_action" not in page
    auditor.post(
        reverse("admin:prepaid_card_changelist"), {"action": "freeze", "_selected_action": [str(cards_[0].pk)]}
    )
    address = reverse("admin:prepaid_card_bulk_freeze", query={"chosen": str(cards_[0].pk)})
    assert auditor.get(address).status_code == 403
    assert auditor.post(address, {"reason": "x"}).status_code == 403
    assert not Bulk.objects.exists()


def test_rights_that_were_taken_away_count_for_the_rest(at_desk: Any) -> None:
    user = person("clerk")
    clerk = signed_in(user)
    found = open_many(2)
    work = ordered(clerk, chosen(clerk, "prepaid_card", "freeze", found))
    bulk.do_slice(work, now=timezone.now(), size=1)
    user.groups.get().permissions.remove(Permission.objects.get(codename="freeze_card"))
    assert bulk.do_slice(work, now=timezone.now()) == 0
    work.refresh_from_db()
    assert (work.state, work.done) == (State.FAILED, 1)
    assert "You may no longer do this" in work.problem
    assert CardMove.objects.count() == 1


def test_a_record_that_the_maker_does_not_see_is_not_found(at_desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are reached through the page's own scope, whatever keys an address names."""
    hidden, seen = open_many(2)
    clerk = at_desk("clerk")
    work = ordered(clerk, chosen(clerk, "prepaid_card", "freeze", [hidden, seen]))
    whole = CardAdmin.get_queryset
    monkeypatch.setattr(CardAdmin, "get_queryset", lambda self, request: whole(self, request).exclude(pk=hidden.pk))
    page = clerk.get(reverse("admin:prepaid_card_bulk_freeze", query={"chosen": f"{hidden.pk},{seen.pk}"}))
    assert "¥999.00" in page.content.decode()
    finished(work)
    assert (work.done, work.failed) == (1, 1)
    assert states([hidden]) == {"ACTIVE"}


@pytest.mark.parametrize("keys", ["", "x", "%00", "'", "9" * 400, "01a202a9-a149-7196-b5d1-5b77fedd50ea"])
def test_a_choice_of_nothing_leads_back_to_the_list(at_desk: Any, keys: str) -> None:
    clerk = at_desk("clerk")
    page = clerk.get(f"{reverse('admin:prepaid_card_bulk_freeze')}?chosen={keys}", follow=True)
    assert page.status_code == 200
    assert "No record is chosen." in page.content.decode()


def test_too_many_at_once_are_refused(at_desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MOST", 2)
    open_many(3)
    clerk = at_desk("clerk")
    page = clerk.get(chosen(clerk, "prepaid_card", "freeze"), follow=True)
    assert "more than 2 records" in page.content.decode()


def test_deliveries_policies_breaks_and_exchanges_are_worked_on_many_at_a_time(at_desk: Any) -> None:
    merchant = cards.merchant()
    delivery = records.told(merchant)
    WebhookDelivery.objects.filter(pk=delivery.pk).update(state="FAILED", due_at=None, attempts=9)
    policies = [records.unresolved(card) for card in open_many(2)]
    breaks = [records.found_break(), records.found_break()]
    tea = world.product()
    world.ratio(tea)
    exchange = world.issued(tea, 1)
    desk = at_desk("partner desk")
    for model, verb, rows in (
        ("issuing_webhookdelivery", "resend", [delivery]),
        ("insurance_policy", "ask_again", policies),
        ("prepaid_break", "take", breaks),
        ("points_exchange", "ask_again", [exchange]),
    ):
        finished(ordered(desk, chosen(desk, model, verb, rows)))
    assert WebhookDelivery.objects.get(pk=delivery.pk).state == "PENDING"
    assert set(Policy.objects.filter(pk__in=[row.pk for row in policies]).values_list("state", flat=True)) == {
        "UNKNOWN"
    }
    assert set(Break.objects.values_list("owner__username", flat=True)) == {"partner-desk"}
    # Not unresolved: the single button would not be there.
    assert Exchange.objects.get(pk=exchange.pk).state == "ISSUED"
    assert sorted(Bulk.objects.values_list("done", "failed")) == [(0, 1), (1, 0), (2, 0), (2, 0)]


def test_work_of_others_is_not_seen(root: Client, at_desk: Any) -> None:
    clerk = at_desk("clerk")
    work = ordered(clerk, chosen(clerk, "prepaid_card", "freeze", open_many(1)))
    for page in ("change", "cancel", "again", "download"):
        assert root.post(reverse(f"admin:config_bulk_{page}", args=[work.pk])).status_code == 302
    work.refresh_from_db()
    assert work.state == State.RUNNING


def test_the_database_counts_no_record_twice(at_desk: Any) -> None:
    clerk = at_desk("clerk")
    work = ordered(clerk, chosen(clerk, "prepaid_card", "freeze", open_many(1)))
    with pytest.raises(IntegrityError, match="no_record_is_done_twice"), transaction.atomic():
        Bulk.objects.filter(pk=work.pk).update(done=2)
    with pytest.raises(IntegrityError, match="bulk_work_that_is_done_left_nothing"), transaction.atomic():
        Bulk.objects.filter(pk=work.pk).update(state="DONE")
    with pytest.raises(IntegrityError, match="a_record_stands_once_in_bulk_work"), transaction.atomic():
        BulkItem.objects.create(bulk=work, key=work.items.get().key)
