"""The ledger against itself: once per business date, missed days in order, and a wrong card frozen for staff."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections, transaction
from django.db.utils import IntegrityError, ProgrammingError

from config.errors import SamePerson
from config.states import IllegalMove
from issuing.models import Kind
from prepaid import reconciliation
from prepaid.models import Break, BreakStep, Card, CardMove, Run
from prepaid.reconciliation import Comparison, Finding
from tests import cards
from tests.cards import SHANGHAI

pytestmark = pytest.mark.django_db(transaction=True)

FIRST = date(2026, 1, 1)
MORNING = datetime(2026, 1, 4, 0, 30, tzinfo=SHANGHAI)


@pytest.fixture
def clerk() -> User:
    return User.objects.create_user("clerk")


@pytest.fixture
def chief() -> User:
    return User.objects.create_user("chief")


@pytest.fixture
def card() -> Card:
    card = cards.opened(cards.program(Kind.BONUS, card_limit=50_000), 100_000, gift=20_000)
    payment = cards.paid(card, 45_000, at=cards.day(1))
    cards.refunded(payment, at=cards.day(2), amount=5_000)
    return card


def tampered(statement: str, *arguments: object) -> None:
    """What only the owner of the tables could do, past the ledger."""
    with connections["owner"].cursor() as cursor:
        cursor.execute(statement, arguments)


def breaks() -> list[tuple[str, str, dict, dict]]:
    return list(Break.objects.order_by("id").values_list("type", "subject", "ours", "theirs"))


def test_every_day_since_the_first_transaction_is_reconciled_once_and_in_order(card):
    runs = reconciliation.ledger_days(now=MORNING)
    assert [(run.business_date, run.state) for run in runs] == [
        (FIRST + timedelta(days=n), Run.State.DONE) for n in range(3)
    ]
    assert reconciliation.ledger_days(now=MORNING) == []
    assert breaks() == []
    assert Card.objects.get().state == Card.State.ACTIVE


def test_totals_of_a_day_are_by_kind(card):
    cards.opened(cards.program(Kind.TIMES), 100_000)
    run = reconciliation.ledger_days(now=MORNING)[0]
    run.refresh_from_db()
    assert run.totals["by_kind"] == [
        {"kind": "PURCHASE", "unit": "MONEY", "count": 1, "transactions": 120_000, "entries": 120_000},
        {"kind": "PURCHASE", "unit": "USES", "count": 1, "transactions": 12, "entries": 12},
    ]
    assert run.compared == 2


def test_a_day_is_not_touched_before_it_is_over_and_settled(card):
    midnight = datetime(2026, 1, 2, tzinfo=SHANGHAI)
    assert reconciliation.ledger_days(now=midnight + timedelta(minutes=4)) == []
    assert len(reconciliation.ledger_days(now=midnight + timedelta(minutes=5))) == 1
    with pytest.raises(reconciliation.DayNotOver):
        reconciliation.ledger_day(business_date=date(2026, 1, 2), now=midnight + timedelta(hours=1))


def test_nothing_happened_yet_is_nothing_to_reconcile():
    assert reconciliation.ledger_days(now=MORNING) == []


def test_a_sub_card_that_its_entries_do_not_explain_freezes_that_card_and_no_other(card):
    other = cards.opened(cards.program(Kind.BONUS))
    sub_card = card.sub_cards.order_by("seq").first()
    tampered("UPDATE prepaid_subcard SET remaining = remaining + 1 WHERE id = %s", sub_card.pk)
    run = reconciliation.ledger_days(now=MORNING)[0]
    assert run.state == Run.State.DONE
    assert breaks()[0] == (
        Break.Type.BALANCE_DIFFERS,
        str(card.pk),
        {"amount": 80_000, "loads": 80_000, "sub_cards": 80_001},
        {"amount": 80_000, "sub_cards": [{"sub_card": 1, "balance": 20_001, "entries": 20_000}]},
    )
    card.refresh_from_db()
    other.refresh_from_db()
    assert (card.state, other.state) == (Card.State.FROZEN, Card.State.ACTIVE)
    assert CardMove.objects.get(card=card).reason == "balance differs from its entries"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE prepaid_card SET remaining = remaining + 7 WHERE id = %s",
        "UPDATE prepaid_load SET remaining = remaining - 7 WHERE card_id = %s",
        "UPDATE prepaid_subcard SET remaining = remaining - 7 WHERE card_id = %s AND seq = 2",
        "INSERT INTO prepaid_entry (transaction_id, card_id, sub_card_id, amount, balance_after) SELECT "
        "transaction_id, card_id, sub_card_id, 7, 0 FROM prepaid_entry WHERE card_id = %s ORDER BY id DESC LIMIT 1",
    ],
)  # fmt: skip
def test_a_change_past_the_ledger_is_found_wherever_it_was_made(card, statement):
    cards.opened(cards.program(Kind.BONUS))
    tampered(statement, card.pk)
    reconciliation.ledger_day(business_date=date(2026, 1, 3), now=MORNING)
    assert list(Break.objects.exclude(card=None).values_list("card", flat=True)) == [card.pk]


def test_a_balance_changed_on_a_card_nothing_happened_to_is_found_by_the_sum_of_all(card):
    quiet = cards.opened(cards.program(Kind.BONUS))
    for table, column in (("subcard", "card_id"), ("load", "card_id"), ("card", "id")):
        tampered(f"UPDATE prepaid_{table} SET remaining = remaining - 7 WHERE {column} = %s", quiet.pk)
    reconciliation.ledger_day(business_date=date(2026, 1, 2), now=MORNING)
    assert list(Break.objects.values_list("subject", flat=True)) == [str(quiet.pk)]


def test_totals_of_a_kind_that_differ_are_a_break_of_the_day(card):
    tampered(
        "INSERT INTO prepaid_entry (transaction_id, card_id, sub_card_id, amount, balance_after) "
        "SELECT transaction_id, card_id, sub_card_id, 7, 0 FROM prepaid_entry ORDER BY id LIMIT 1"
    )
    reconciliation.ledger_day(business_date=FIRST, now=MORNING)
    assert (
        Break.Type.TOTALS_DIFFER, "PURCHASE MONEY", {"amount": 120_000}, {"amount": 120_007}
    ) in breaks()  # fmt: skip


def test_a_day_done_again_gives_the_same_and_leaves_breaks_as_staff_left_them(card, clerk):
    tampered("UPDATE prepaid_card SET remaining = remaining + 7 WHERE id = %s", card.pk)
    first = reconciliation.ledger_day(business_date=FIRST, now=MORNING)
    found = Break.objects.get()
    reconciliation.resolve(found=found, resolution="booked by hand", by=clerk, now=MORNING)
    Card.objects.filter(pk=card.pk).update(state=Card.State.ACTIVE)
    again = reconciliation.ledger_day(business_date=FIRST, now=MORNING)
    assert (again.pk, again.state, again.compared) == (first.pk, Run.State.DONE, first.compared)
    found.refresh_from_db()
    assert (found.state, found.resolution, found.resolved_by) == (
        Break.State.RESOLVED, "booked by hand", clerk
    )  # fmt: skip
    card.refresh_from_db()
    assert card.state == Card.State.ACTIVE


def test_however_many_clocks_tick_each_day_is_done_once(card):
    seen = []

    def compare(run: Run) -> Comparison:
        seen.append(run.business_date)
        return Comparison(0, {}, [])

    def tick(_n: int) -> None:
        try:
            reconciliation.catch_up(partner=Run.Partner.POINTS, first_date=FIRST, compare=compare, now=MORNING)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tick, range(8)))
    # A clock that found another at work left; what it left is done by whoever comes next.
    reconciliation.catch_up(partner=Run.Partner.POINTS, first_date=FIRST, compare=compare, now=MORNING)
    assert seen == [FIRST + timedelta(days=n) for n in range(3)]


def test_a_day_has_one_run_whoever_writes_it(card):
    Run.objects.create(partner=Run.Partner.LEDGER, business_date=FIRST, started_at=MORNING)
    with pytest.raises(IntegrityError):
        Run.objects.create(partner=Run.Partner.LEDGER, business_date=FIRST, started_at=MORNING)


def test_a_day_that_fails_says_why_waits_and_keeps_no_other_day_waiting(card):
    def compare(run: Run) -> Comparison:
        if run.business_date == FIRST:
            raise RuntimeError("the file is short")
        return Comparison(1, {}, [])

    runs = reconciliation.catch_up(partner=Run.Partner.INSURER, first_date=FIRST, compare=compare, now=MORNING)
    assert [run.state for run in runs] == [Run.State.FAILED, Run.State.DONE, Run.State.DONE]
    assert runs[0].problem == "RuntimeError: the file is short"
    assert not reconciliation.catch_up(partner=Run.Partner.INSURER, first_date=FIRST, compare=compare, now=MORNING)
    Run.objects.filter(pk=runs[0].pk).update(due_at=MORNING - timedelta(days=400))
    [again] = reconciliation.catch_up(
        partner=Run.Partner.INSURER, first_date=FIRST, compare=lambda run: Comparison(2, {}, []), now=MORNING
    )
    assert (again.pk, again.state, again.problem) == (runs[0].pk, Run.State.DONE, "")


def test_a_worker_that_died_is_followed_by_another_once_its_lease_is_over(card):
    dead = reconciliation.begin(partner=Run.Partner.LEDGER, business_date=FIRST, now=MORNING)
    assert dead is not None
    assert reconciliation.ledger_days(now=MORNING) == []
    with pytest.raises(reconciliation.RunInProgress):
        reconciliation.ledger_day(business_date=FIRST, now=MORNING)
    Run.objects.update(due_at=MORNING - timedelta(days=400))
    assert reconciliation.ledger_days(now=MORNING)[0].pk == dead.pk


def one_break(amount: int = 500) -> Break:
    run = Run.objects.create(partner=Run.Partner.INSURER, business_date=FIRST, started_at=MORNING)
    finding = Finding(Break.Type.LOCAL_ONLY, "R1", ours={"amount": amount})
    reconciliation.record(run=run, findings=[finding], now=MORNING)
    return Break.objects.get()


def test_a_break_is_taken_resolved_and_opened_again(clerk):
    found = one_break()
    reconciliation.take(found=found, owner=clerk, now=MORNING)
    with pytest.raises(reconciliation.ResolutionNeeded):
        reconciliation.resolve(found=found, resolution="  ", by=clerk, now=MORNING)
    reconciliation.resolve(found=found, resolution="sent again", by=clerk, now=MORNING)
    with pytest.raises(IllegalMove):
        reconciliation.take(found=found, owner=clerk, now=MORNING)
    with pytest.raises(reconciliation.ResolutionNeeded):
        reconciliation.reopen(found=found, reason=" ", by=clerk, now=MORNING)
    reconciliation.reopen(found=found, reason="it was not", by=clerk, now=MORNING)
    found.refresh_from_db()
    assert (found.state, found.owner, found.resolved_by, found.resolution) == (
        Break.State.OPEN, clerk, None, "sent again"
    )  # fmt: skip
    assert [(step.what, step.reason) for step in found.steps.order_by("pk")] == [
        ("TAKEN", ""), ("RESOLVED", "sent again"), ("REOPENED", "it was not"),
    ]  # fmt: skip


def the_other_side(found: Break, amount: int = 500, days: int = 1) -> Break:
    run = Run.objects.create(partner=found.run.partner, business_date=FIRST + timedelta(days=days), started_at=MORNING)
    finding = Finding(Break.Type.PARTNER_ONLY, f"P{days}", theirs={"amount": amount})
    reconciliation.record(run=run, findings=[finding], now=MORNING)
    return Break.objects.get(run=run)


def test_two_sides_of_one_thing_are_suggested_to_each_other_and_resolved_together(clerk):
    found = one_break()
    far, near = the_other_side(found, days=5), the_other_side(found, days=2)
    the_other_side(found, amount=501, days=1)
    the_other_side(found, days=8)
    assert reconciliation.counterparts(found) == [near, far]
    assert reconciliation.counterparts(near) == [found]
    reconciliation.match(found=found, other=near, reason="booked a day late", by=clerk, now=MORNING)
    for one, its in ((found, near), (near, found)):
        one.refresh_from_db()
        assert (one.state, one.resolution) == (Break.State.RESOLVED, "booked a day late")
        assert one.steps.get().counterpart == its
    assert reconciliation.counterparts(found) == []


def test_what_is_not_the_same_thing_is_not_matched(clerk):
    found = one_break()
    other = the_other_side(found, amount=501)
    for pair in ((found, other), (found, found)):
        with pytest.raises(reconciliation.NotAMatch):
            reconciliation.match(found=pair[0], other=pair[1], reason="x", by=clerk, now=MORNING)
    fits = the_other_side(found, days=2)
    reconciliation.resolve(found=fits, resolution="by itself", by=clerk, now=MORNING)
    with pytest.raises(IllegalMove):
        reconciliation.match(found=found, other=fits, reason="x", by=clerk, now=MORNING)
    found.refresh_from_db()
    assert (found.state, found.steps.count()) == (Break.State.OPEN, 0)


def test_a_large_match_takes_two_people_on_both_sides(clerk, chief):
    found = one_break(reconciliation.FOUR_EYES_FROM)
    other = the_other_side(found, reconciliation.FOUR_EYES_FROM)
    reconciliation.take(found=found, owner=clerk, now=MORNING)
    with pytest.raises(reconciliation.OwnerNeeded):
        reconciliation.match(found=found, other=other, reason="x", by=chief, now=MORNING)
    reconciliation.take(found=other, owner=chief, now=MORNING)
    with pytest.raises(SamePerson):
        reconciliation.match(found=found, other=other, reason="x", by=chief, now=MORNING)
    reconciliation.take(found=other, owner=clerk, now=MORNING)
    reconciliation.match(found=found, other=other, reason="x", by=chief, now=MORNING)


def test_a_break_is_carried_over_to_a_day_ahead_and_stays_open(clerk):
    found = one_break()
    today = reconciliation.business_date(MORNING)
    for until in (today, today - timedelta(days=1), today + timedelta(days=32)):
        with pytest.raises(reconciliation.NotALaterDay):
            reconciliation.carry_over(found=found, until=until, reason="x", by=clerk, now=MORNING)
    until = today + timedelta(days=3)
    reconciliation.carry_over(found=found, until=until, reason="comes with Monday's file", by=clerk, now=MORNING)
    found.refresh_from_db()
    assert (found.state, found.waits_until_date) == (Break.State.OPEN, until)


def test_what_was_done_about_a_break_is_never_changed(clerk):
    found = one_break()
    reconciliation.take(found=found, owner=clerk, now=MORNING)
    for change in ("UPDATE prepaid_breakstep SET by_id = by_id", "DELETE FROM prepaid_breakstep"):
        with pytest.raises(ProgrammingError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(change)
    with pytest.raises(IntegrityError), transaction.atomic():
        BreakStep.objects.create(found=found, what="RESOLVED", reason="", by=clerk, recorded_at=MORNING)
    with pytest.raises(IntegrityError), transaction.atomic():
        BreakStep.objects.create(found=found, what="MATCHED", reason="x", by=clerk, recorded_at=MORNING)


def test_a_large_difference_is_resolved_by_a_second_person(clerk, chief):
    found = one_break(reconciliation.FOUR_EYES_FROM)
    reconciliation.take(found=found, owner=clerk, now=MORNING)
    with pytest.raises(SamePerson):
        reconciliation.resolve(found=found, resolution="paid", by=clerk, now=MORNING)
    reconciliation.resolve(found=found, resolution="paid", by=chief, now=MORNING)
    found.refresh_from_db()
    assert found.resolved_by == chief


def test_an_open_break_found_again_follows_its_figures():
    found = one_break()
    again = Finding(Break.Type.LOCAL_ONLY, "R1", ours={"amount": 600})
    reconciliation.record(run=found.run, findings=[again], now=MORNING)
    found.refresh_from_db()
    assert found.ours == {"amount": 600}
