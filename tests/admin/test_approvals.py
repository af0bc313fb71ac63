"""What waits for a second person: one list of it, tiers by amount, and what was shown is what is decided."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.db import IntegrityError, connection, transaction
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from claims import adjudication, recovery
from claims.models import Claim, InsuredEvent, Recovery
from config.admin import ChangedSinceShown
from config.errors import NotTheMaker, SamePerson
from config.models import Act
from config.tiers import AboveTier
from issuing import batches
from issuing.models import Batch
from points import exchange, parameters
from points.models import Exchange, ExchangeRatio
from tests import cards, failures
from tests.admin import records
from tests.admin.conftest import person, signed_in
from tests.admin.test_verbs import address, press, seen

pytestmark = pytest.mark.django_db(databases=["default", "owner"])

DECIDED_BY = {
    Batch: "approve", ExchangeRatio: "approve", InsuredEvent: "confirm", Claim: "approve", Exchange: "settle",
    Recovery: "write_off",
}  # fmt: skip
TAKEN_BACK_BY = {
    Batch: "withdraw", ExchangeRatio: "withdraw", InsuredEvent: "withdraw", Claim: "withdraw",
    Exchange: "withdraw_settlement", Recovery: "withdraw_write_off",
}  # fmt: skip


def items(browser: Client, query: str = "") -> list[Any]:
    page = browser.get(reverse("inbox") + query)
    assert page.status_code == 200
    return list(page.context["items"])


def offered(item: Any) -> dict[str, bool]:
    """By the end of its address, each button and whether it can be pressed."""
    return {one.address.split("/")[-2]: not one.barred for one in item.buttons}


def decide(browser: Client, row: Model, verb: str, **form: Any) -> str:
    page = browser.get(address(row, verb)).content.decode()
    answer = browser.post(address(row, verb), {**seen(page), "reason": "so", "bank_reference": "B-1", **form})
    return " ".join(str(message) for message in get_messages(answer.wsgi_request))


# The inbox -------------------------------------------------------------------------------------------------------


def test_every_kind_of_four_eyes_stands_in_one_list_and_is_decided_from_it() -> None:
    root = User.objects.create_superuser("root", password="secret")
    waiting = records.one_of_each_waiting(root)
    assert {type(row) for row in waiting} == set(DECIDED_BY)

    mine = {type(item.row): item for item in items(signed_in(root))}
    theirs = {type(item.row): item for item in items(signed_in(person("senior approver")))}
    chief = signed_in(User.objects.create_superuser("chief", password="secret"))
    assert len(items(chief, "?kind=mine")) == len(waiting)
    assert items(signed_in(root), "?kind=mine") == []
    assert set(mine) == set(theirs) == set(DECIDED_BY)
    for row in waiting:
        kind = type(row)
        assert mine[kind].asked_by == root
        # Whoever prepared it takes it back and decides nothing about it; everybody else the other way round.
        assert {verb for verb, can in offered(mine[kind]).items() if can} >= {TAKEN_BACK_BY[kind]}
        assert not offered(mine[kind])[DECIDED_BY[kind]], kind
        assert offered(theirs[kind])[DECIDED_BY[kind]], kind
        page = chief.get(f"{address(row, DECIDED_BY[kind])}?then=inbox").content.decode()
        assert "as it will be" in page.lower()
        answer = chief.post(f"{address(row, DECIDED_BY[kind])}?then=inbox", {**seen(page), "bank_reference": "B-1"})
        assert answer.headers["Location"] == reverse("inbox"), kind
    assert items(chief) == []
    assert "Nothing waits for a second person" in chief.get(reverse("inbox")).content.decode()


def test_whoever_prepared_it_takes_it_back_and_leaves_a_trace() -> None:
    root = User.objects.create_superuser("root", password="secret")
    waiting = records.one_of_each_waiting(root)
    browser, other = signed_in(root), signed_in(User.objects.create_superuser("chief", password="secret"))
    for row in waiting:
        verb = TAKEN_BACK_BY[type(row)]
        if not isinstance(row, InsuredEvent):
            assert str(NotTheMaker.text) in decide(other, row, verb)
        press(browser, row, verb, **({"reason": "wrong file"} if isinstance(row, Batch) else {}))
        act = Act.objects.get(verb=verb, kind=row._meta.label_lower, object_id=str(row.pk), outcome="DONE")
        assert act.who == "root"
        assert act.before
    assert items(browser) == []
    states = [type(row).objects.values_list("state", flat=True).get(pk=row.pk) for row in waiting]  # type: ignore[attr-defined]
    assert states == ["REJECTED", "WITHDRAWN", "WITHDRAWN", "FILED", "UNRESOLVED", "OPEN"]


def test_the_inbox_asks_as_often_for_fifty_as_for_one_and_ends_after_fifty(root: Client) -> None:
    maker = records.staff("maker")
    records.one_of_each_waiting(maker)
    items(root)
    with CaptureQueriesContext(connection) as few:
        items(root)
    records.one_of_each_waiting(records.staff("another"))
    waiting: Any = Batch.objects.filter(state="STAGED").first()
    for _n in range(51):
        Batch.objects.create(
            name="copy.csv", state="STAGED", rows=1, made_by=waiting.made_by, merchant_id=waiting.merchant_id
        )
    with CaptureQueriesContext(connection) as many:
        shown = items(root)
    assert len(many) == len(few)
    assert len(shown) == 50
    page = root.get(reverse("inbox") + "?kind=batch")
    assert len(page.context["items"]) == 50
    last = [item.row.pk for item in items(root, "?" + page.context["more"].partition("?")[2])]
    assert len(last) == 3
    assert not set(last) & {item.row.pk for item in page.context["items"]}


@pytest.mark.parametrize(
    "query", ["?kind=%00", "?kind=batch&after=%00", "?kind=batch&after=x", "?kind=recovery&after=y"]
)
def test_a_nonsense_question_to_the_inbox_is_no_error(root: Client, query: str) -> None:
    assert root.get(reverse("inbox") + query, follow=True).status_code == 200


def test_what_waits_is_found_by_its_partial_index(root: Client) -> None:
    """However much history there is, the statement of each kind reads the index on what waits."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        plans = []
        for model in DECIDED_BY:
            house: Any = admin.site._registry[model]
            rows = house.waiting.rows(model.objects.all()).order_by("pk")[:51]
            plans.append(rows.explain())
    names = [
        "batches_waiting", "ratios_waiting", "events_waiting", "claims_waiting", "settlements_waiting",
        "write_offs_waiting",
    ]  # fmt: skip
    assert [name in plan for name, plan in zip(names, plans, strict=True)] == [True] * 6, plans


# The maker never approves ----------------------------------------------------------------------------------------

RAW = {
    Batch: "UPDATE issuing_batch SET state = 'APPROVED', approved_by_id = made_by_id, approved_at = now() "
    "WHERE id = %s",
    ExchangeRatio: "UPDATE points_exchangeratio SET state = 'APPROVED', approved_by_id = made_by_id, "
    "decided_at = now() WHERE id = %s",
    InsuredEvent: "UPDATE claims_insuredevent SET state = 'CONFIRMED', confirmed_by_id = declared_by_id, "
    "confirmed_at = now() WHERE id = %s",
    Claim: "UPDATE claims_claim SET state = 'APPROVED', approved_by_id = assessed_by_id, decided_at = now() "
    "WHERE id = %s",
    Exchange: "UPDATE points_exchange SET state = 'REVERSED', reversed_at = now(), settled_by_id = settlement_by_id "
    "WHERE id = %s",
    Recovery: "UPDATE claims_recovery SET state = 'WRITTEN_OFF', written_off_by_id = proposed_by_id WHERE id = %s",
}


def test_the_database_itself_lets_nobody_approve_what_they_prepared() -> None:
    maker = records.staff("maker")
    for row in records.one_of_each_waiting(maker):
        with pytest.raises(IntegrityError, match="who_"), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(RAW[type(row)], [row.pk])
        if isinstance(row, Exchange):
            # Nor without anybody who proposed it.
            with pytest.raises(IntegrityError, match="who_"), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(
                    "UPDATE points_exchange SET state = 'REVERSED', reversed_at = now(), settled_by_id = %s, "
                    "settlement_by_id = NULL WHERE id = %s",
                    [maker.pk, row.pk],
                )


# What was shown is what is decided -------------------------------------------------------------------------------


def changed(row: Any) -> None:
    """Something about it becomes another than it was, though it still waits."""
    now = timezone.now()
    match row:
        case Batch():
            Batch.objects.filter(pk=row.pk).update(name="another.csv")
        case ExchangeRatio():
            other = parameters.propose(
                product=row.product, ratio=row.ratio * 2, rounding=ExchangeRatio.Rounding.CEIL, valid_from_at=now,
                valid_until_at=None, by=records.staff("x"), now=now,
            )  # fmt: skip
            parameters.approve(ratio=other, by=records.staff("y"), now=now)
            ExchangeRatio.objects.filter(pk=other.pk).update(advised_at=now)
        case InsuredEvent():
            InsuredEvent.objects.filter(pk=row.pk).update(evidence="a rumour")
        case Claim():
            adjudication.assess(claim=row, by=records.staff("first-adjuster"), now=now, excluded=1_00)
        case Exchange():
            exchange.propose_settlement(
                exchange=row, outcome=Exchange.State.REVERSED, reason="the other way", by=records.staff("x"), now=now
            )
        case Recovery():
            recovery.record(recovery=row, amount=100, reference="WIRE-9", by=records.staff("x"), now=now)


def test_what_changed_since_it_was_shown_is_asked_again(root: Client) -> None:
    """Also an approval that somebody edited, or that says nothing of what it was shown."""
    for row in records.one_of_each_waiting(records.staff("maker")):
        verb = DECIDED_BY[type(row)]
        where = address(row, verb)
        form = {**seen(root.get(where).content.decode()), "bank_reference": "B-1"}
        changed(row)
        row.refresh_from_db()
        for sent in (form, {"bank_reference": "B-1"}, {**form, "seen": "0" * 64}):
            answer = root.post(where, sent)
            assert str(ChangedSinceShown.text) in " ".join(map(str, get_messages(answer.wsgi_request))), verb
            assert answer.headers["Location"] == where
        assert Act.objects.filter(kind=row._meta.label_lower, after={"refused": "ChangedSinceShown"}).count() == 3
        state = row.state  # type: ignore[attr-defined]
        row.refresh_from_db()
        assert row.state == state  # type: ignore[attr-defined]
        # Shown again as it is now, it is decided.
        decide(root, row, verb)
        row.refresh_from_db()
        assert row.state != state, verb  # type: ignore[attr-defined]


# Tiers -----------------------------------------------------------------------------------------------------------


def test_the_amount_decides_who_is_the_second_person(settings: Any) -> None:
    """In the verb itself, whoever calls it; a fen below the limit an approver suffices."""
    approver, senior, maker = person("approver"), person("senior approver"), records.staff("maker")
    found = {type(row): row for row in records.one_of_each_waiting(maker)}
    now = timezone.now()
    verbs: dict[Any, Any] = {
        Batch: lambda by: batches.approve(batch=found[Batch], by=by, now=now),  # type: ignore[arg-type]
        Claim: lambda by: adjudication.approve(claim=found[Claim], by=by, now=now),  # type: ignore[arg-type]
        Exchange: lambda by: exchange.settle_by_hand(
            exchange=found[Exchange], bank_reference="B-1", by=by, now=now  # type: ignore[arg-type]
        ),
        Recovery: lambda by: recovery.write_off(recovery=found[Recovery], by=by, now=now),  # type: ignore[arg-type]
    }  # fmt: skip
    worth = {Batch: 200_000, Claim: 100_000, Exchange: 15_000, Recovery: 100_000}
    for kind, verb in verbs.items():
        settings.SENIOR_APPROVAL_FROM = worth[kind]
        page = signed_in(approver).get(address(found[kind], DECIDED_BY[kind]), follow=True).content.decode()
        assert "a senior approver decides" in page, kind
        before = type(found[kind]).objects.values().get(pk=found[kind].pk)  # type: ignore[attr-defined]
        with pytest.raises(AboveTier):
            verb(approver)
        assert type(found[kind]).objects.values().get(pk=found[kind].pk) == before  # type: ignore[attr-defined]
        with transaction.atomic():
            verb(senior)
            transaction.set_rollback(True)
        found[kind].refresh_from_db()
        settings.SENIOR_APPROVAL_FROM = worth[kind] + 1
        verb(approver)
    settings.SENIOR_APPROVAL_FROM = 100_000
    with pytest.raises(AboveTier):
        adjudication.pay(claim=found[Claim], by=approver, now=now)  # type: ignore[arg-type]
    adjudication.pay(claim=found[Claim], by=senior, now=now)  # type: ignore[arg-type]


def test_whoever_approves_all_leaves_the_large_ones_over_and_says_so(settings: Any) -> None:
    settings.SENIOR_APPROVAL_FROM = 100_000
    program = records.insured_program()
    small, large = records.card(program, 99_999), records.card(program, 100_000)
    for card in (small, large):
        records.accepted(card)
    event = records.event(
        program.merchant, declared_by=records.staff("maker"), confirmed_by=records.staff("first-approver")
    )
    now = timezone.now()
    for card in (small, large):
        filed = adjudication.file_claim(card=card, by="staff:maker", now=now)
        adjudication.assess(claim=filed, by=records.staff("maker"), now=now)
    approver, senior = signed_in(person("approver")), signed_in(person("senior approver"))

    def states() -> list[str]:
        adjudication.carry_on(now=now)
        return [Claim.objects.get(card=card).state for card in (small, large)]

    assert "Left for a senior approver: 1." in press(approver, event, "approve_all")
    assert states() == ["APPROVED", "ASSESSED"]
    assert "Left for" not in press(senior, event, "approve_all")
    assert states() == ["APPROVED", "APPROVED"]
    assert "Left for a senior approver: 1." in press(approver, event, "pay_all")
    assert states() == ["PAID", "APPROVED"]
    press(senior, event, "pay_all")
    assert states() == ["PAID", "PAID"]


def test_a_role_that_is_taken_away_decides_no_more(settings: Any) -> None:
    settings.SENIOR_APPROVAL_FROM = 1
    batch = records.batch(records.insured_program(), made_by=records.staff("maker"))
    senior = person("senior approver")
    senior.groups.set(person("approver").groups.all())
    assert "a senior approver decides" in decide(signed_in(senior), batch, "approve")
    batch.refresh_from_db()
    assert batch.state == Batch.State.STAGED


def test_nothing_of_a_test_merchant_needs_a_senior_approver(settings: Any) -> None:
    settings.SENIOR_APPROVAL_FROM = 1
    live = cards.merchant()
    twin = cards.merchant(code=f"{live.code}-TEST", test_of=live)
    stuck = records.unresolved_exchange(twin)
    assert exchange.worth(stuck) == 0
    card = records.card(records.insured_program(merchant=twin))
    records.accepted(card)
    assert records.claim(card, Claim.State.PAID).state == Claim.State.PAID


def test_nobody_rejects_their_own_or_takes_back_anothers() -> None:
    maker = records.staff("maker")
    waiting = {type(row): row for row in records.one_of_each_waiting(maker)}
    owed, stuck = waiting[Recovery], waiting[Exchange]
    with pytest.raises(SamePerson):
        recovery.reject_write_off(recovery=owed, by=maker)  # type: ignore[arg-type]
    with pytest.raises(SamePerson):
        exchange.reject_settlement(exchange=stuck, by=maker)  # type: ignore[arg-type]
    for take_back in (
        lambda by: batches.withdraw(batch=waiting[Batch], by=by, reason="x", now=failures.NOW),  # type: ignore[arg-type]
        lambda by: parameters.withdraw(ratio=waiting[ExchangeRatio], by=by, now=failures.NOW),  # type: ignore[arg-type]
        lambda by: adjudication.withdraw_assessment(claim=waiting[Claim], by=by),  # type: ignore[arg-type]
        lambda by: exchange.withdraw_settlement(exchange=stuck, by=by),  # type: ignore[arg-type]
        lambda by: recovery.withdraw_write_off(recovery=owed, by=by),  # type: ignore[arg-type]
    ):
        with pytest.raises(NotTheMaker):
            take_back(records.staff("x"))
    with pytest.raises(SamePerson):
        batches.reject(batch=waiting[Batch], by=maker, reason="x", now=failures.NOW)  # type: ignore[arg-type]
    recovery.reject_write_off(recovery=owed, by=records.staff("x"))  # type: ignore[arg-type]
    with pytest.raises(recovery.NotProposed):
        recovery.write_off(recovery=owed, by=records.staff("x"), now=failures.NOW)  # type: ignore[arg-type]
