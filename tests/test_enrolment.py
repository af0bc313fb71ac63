"""Enrolment of each card with the insurer: what is owed, what silence means, what an answer changes."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils import timezone

from config import messages
from config.errors import Refused
from insurance import enrolment, insurer
from insurance.enrolment import Cover, Verdict
from insurance.models import Endorsement, Insurer, InsurerMessage, Notice, Policy, Product
from issuing.models import CardProgram, Kind
from prepaid import holds
from prepaid.models import Card, Load, Run
from tests import cards
from tests.partners import Insurer as Partner
from tests.partners import insurer as partner
from tests.partners import partner_process

__all__ = ["partner", "partner_process"]

pytestmark = pytest.mark.django_db
committing = pytest.mark.django_db(transaction=True)

TERM = 180


@pytest.fixture(autouse=True)
def _spoken_to(partner: Partner, settings: Any) -> None:
    settings.INSURER_URL = f"{partner.url}/insurer/"
    settings.INSURER_KEYS = partner.keys


@pytest.fixture
def program() -> CardProgram:
    """Cards of a merchant who is insured at 1.2 % from the year's beginning on, at least 1.00."""
    made = cards.program(Kind.BONUS, term_days=TERM)
    Product.objects.create(
        merchant=made.merchant,
        insurer=Insurer.objects.create(code="ANPING", name="Anping"),
        code="PCPG-A",
        annual_rate=Decimal("0.0120"),
        minimum_premium=100,
        valid_from_date=cards.OPENED.date(),
    )
    return made


def owed(program: CardProgram, count: int = 1, *, paid: int = 1_234_567) -> list[Policy]:
    opened = [cards.opened(program, paid) for _ in range(count)]
    covers = [Cover(card.pk, program.merchant_id, paid, cards.local_date(cards.OPENED), TERM) for card in opened]
    enrolment.owe(covers, now=cards.OPENED)
    return list(Policy.objects.filter(card__in=opened).order_by("pk"))


def sweep() -> int:
    return insurer.sweep(now=timezone.now(), seconds=20)


def pass_the_pauses() -> None:
    """What waits for its next moment has waited."""
    for model in (Policy, Endorsement, Notice):
        model._default_manager.filter(due_at__isnull=False).update(due_at=cards.OPENED)
    InsurerMessage.objects.update(recorded_at=cards.OPENED)


def sweep_until(state: str, policy: Policy, *, tries: int = 10) -> int:
    for turn in range(tries):
        policy.refresh_from_db()
        if policy.state == state:
            return turn
        pass_the_pauses()
        sweep()
    policy.refresh_from_db()
    assert policy.state == state
    return tries


def states() -> list[str]:
    return list(Policy.objects.order_by("pk").values_list("state", flat=True))


# The good way -------------------------------------------------------------------------------------------


def test_a_card_is_enrolled(program, partner):
    [policy] = owed(program)
    assert (policy.state, policy.premium) == (Policy.State.PENDING, 7306)
    assert sweep() == 1
    policy.refresh_from_db()
    [theirs] = partner.holds("SELECT * FROM insurer_policy")
    assert policy.state == Policy.State.ACCEPTED
    assert (policy.policy_no, policy.due_at, policy.attempts) == (theirs["policy_no"], None, 0)
    assert (theirs["card_ref"], theirs["sum_insured"], theirs["premium"]) == (policy.card_id.hex, 1_234_567, 7306)
    assert theirs["accepted_at"] - policy.accepted_at < timedelta(seconds=1)


def test_cards_are_enrolled_in_messages_of_at_most_five_hundred(program, partner):
    [one] = owed(program)
    opening = [cards.opened(program, 10_000) for _ in range(3)]
    covers = [Cover(card.pk, program.merchant_id, 10_000, cards.local_date(cards.OPENED), TERM) for card in opening]
    enrolment.owe(covers, now=cards.OPENED)
    assert sweep() == 4
    assert partner.count("message") == 1
    [sent] = InsurerMessage.objects.filter(direction=InsurerMessage.Direction.SENT)
    assert len(sent.request_nos) == 4
    assert one.request_no in sent.request_nos
    assert insurer.MOST_ITEMS == 500


def test_a_card_that_waits_for_its_cover_can_then_be_spent_from(program):
    program.spend_before_cover = False
    program.save()
    [policy] = owed(program)
    Card.objects.filter(pk=policy.card_id).update(awaits_cover=True)
    with pytest.raises(Refused):
        cards.paid(policy.card, 1000)
    sweep()
    cards.paid(policy.card, 1000)


def test_what_is_refused_is_declined_with_its_code(program, partner):
    partner.behaves("REFUSE_SOME", every=2, code="1042")
    owed(program, 3)
    assert sweep() == 3
    assert sorted(states()) == ["ACCEPTED", "ACCEPTED", "DECLINED"]
    declined = Policy.objects.get(state=Policy.State.DECLINED)
    assert (declined.refusal_code, declined.policy_no, declined.due_at) == ("1042", None, None)


def test_nothing_due_sends_nothing(program, partner):
    owed(program)
    sweep()
    before = partner.count("message")
    pass_the_pauses()
    assert sweep() == 0
    assert partner.count("message") == before


@committing
def test_a_row_is_committed_as_sent_before_it_is_sent(program, partner):
    owed(program)
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        sweep()
    assert partner.count("message") == 0


# Silence ------------------------------------------------------------------------------------------------

WRONG_WITHOUT_ACTING = ["SILENT_BEFORE", "DOWN"]
WRONG_AFTER_ACTING = [
    "SILENT_AFTER",
    "DOWN_AFTER",
    "GARBLED",
    "WRONG_SIGNATURE",
    "WRONG_REQUEST_NO",
    "WRONG_REPLY",
    "OVERSIZE",
    "REDIRECT",
    "SERVER_ERROR",
    "LATE",
]


@pytest.mark.parametrize("kind", WRONG_WITHOUT_ACTING + WRONG_AFTER_ACTING)
def test_silence_is_unknown_and_a_question_finds_the_truth(program, partner, kind):
    partner.behaves(kind, remaining=1, seconds="0.2")
    [policy] = owed(program)
    assert sweep() == 0
    policy.refresh_from_db()
    assert (policy.state, policy.attempts) == (Policy.State.UNKNOWN, 1)
    assert policy.problem
    assert 0 < (policy.due_at - timezone.now()).total_seconds() <= 1
    pass_the_pauses()
    assert sweep() == 1
    policy.refresh_from_db()
    assert (policy.state, policy.problem) == (Policy.State.ACCEPTED, "")
    assert partner.count("policy") == 1
    types = [row["type"] for row in partner.holds("SELECT type FROM insurer_message ORDER BY id")]
    sent_again = ["ENROLMENT"] if kind in WRONG_WITHOUT_ACTING else []
    assert types == [*([] if sent_again else ["ENROLMENT"]), "STATUS_QUERY", *sent_again]


def test_what_never_arrived_is_sent_again_under_the_same_number(program, partner):
    partner.behaves("SILENT_BEFORE", remaining=1, seconds="0.2")
    [policy] = owed(program)
    sweep_until(Policy.State.ACCEPTED, policy)
    sent = InsurerMessage.objects.filter(direction=InsurerMessage.Direction.SENT).order_by("pk")
    bodies = [messages.read_json(bytes(message.body)) for message in sent]
    assert [(body["type"], body["repeat"]) for body in bodies] == [
        ("ENROLMENT", False),
        ("STATUS_QUERY", False),
        ("ENROLMENT", True),
    ]
    assert all(message.request_nos == [policy.request_no] for message in sent)


def test_the_insurer_is_asked_after_1_2_4_8_16_and_32_seconds_and_then_staff_see_it(program, partner):
    partner.behaves("GARBLED")
    [policy] = owed(program)
    pauses = []
    for _ in range(8):
        sweep()
        policy.refresh_from_db()
        pauses.append((policy.state, round((policy.due_at - timezone.now()).total_seconds())))
        pass_the_pauses()
    unknown, unresolved = Policy.State.UNKNOWN, Policy.State.UNRESOLVED
    assert pauses == [
        *[(unknown, seconds) for seconds in (1, 2, 4, 8, 16, 32)],
        (unresolved, 300),
        (unresolved, 300),
    ]
    log = InsurerMessage.objects.filter(direction=InsurerMessage.Direction.SENT)
    assert all(policy.request_no in message.request_nos for message in log)
    assert InsurerMessage.objects.filter(direction=InsurerMessage.Direction.RECEIVED).count() == log.count() == 8
    assert set(log.values_list("problem", flat=True)) == {"GARBLED"}


def test_what_an_outage_left_unresolved_settles_when_it_is_over(program, partner):
    partner.behaves("DOWN")
    [policy] = owed(program)
    sweep_until(Policy.State.UNRESOLVED, policy)
    partner.behaves("GOOD")
    pass_the_pauses()
    assert sweep() == 1
    policy.refresh_from_db()
    assert policy.state == Policy.State.ACCEPTED
    assert partner.count("policy") == 1


def test_staff_let_an_unresolved_row_be_asked_about_at_once(program, partner):
    partner.behaves("GARBLED")
    [policy] = owed(program)
    sweep_until(Policy.State.UNRESOLVED, policy)
    partner.behaves("GOOD")
    assert insurer.ask_again(Policy.objects.filter(pk=policy.pk)) == 1
    assert sweep() == 1


def test_in_progress_is_asked_about_for_as_long_as_it_takes(program, partner):
    partner.behaves("LATE")
    [policy] = owed(program)
    for _ in range(12):
        pass_the_pauses()
        sweep()
    policy.refresh_from_db()
    assert policy.state == Policy.State.UNKNOWN
    partner.behaves("GOOD")
    sweep_until(Policy.State.ACCEPTED, policy)


def test_an_insurer_that_is_down_is_not_sent_everything_that_is_owed(program, partner, monkeypatch):
    monkeypatch.setattr(insurer, "MOST_ITEMS", 2)
    partner.behaves("DOWN")
    owed(program, 6)
    for _ in range(3):
        sweep()
    assert sorted(states()) == ["PENDING"] * 4 + ["UNKNOWN"] * 2
    InsurerMessage.objects.update(recorded_at=cards.OPENED)
    sweep()
    assert sorted(states()) == ["PENDING"] * 3 + ["UNKNOWN"] * 3
    partner.behaves("GOOD")
    for _ in range(4):
        pass_the_pauses()
        sweep()
    assert states() == ["ACCEPTED"] * 6


def test_items_left_out_of_an_answer_are_asked_about(program, partner):
    partner.behaves("PARTIAL", remaining=1)
    owed(program, 5)
    assert sweep() == 3
    assert sorted(states()) == ["ACCEPTED"] * 3 + ["UNKNOWN"] * 2
    pass_the_pauses()
    assert sweep() == 2
    assert partner.count("policy") == 5


def test_a_slow_answer_within_the_deadline_is_an_answer(program, partner):
    partner.behaves("SLOW", seconds="0.5")
    owed(program)
    assert sweep() == 1


@pytest.mark.parametrize("kind", ["SLOW", "DRIPPING", "SILENT_AFTER"])
def test_nobody_waits_longer_than_the_deadline(program, partner, monkeypatch, kind):
    monkeypatch.setattr(insurer, "DEADLINE_SECONDS", 0.5)
    partner.behaves(kind, remaining=1, seconds="8")
    [policy] = owed(program)
    started = time.monotonic()
    assert sweep() == 0
    assert time.monotonic() - started < 7
    policy.refresh_from_db()
    assert (policy.state, policy.problem) == (Policy.State.UNKNOWN, "TIMED_OUT")
    monkeypatch.undo()
    pass_the_pauses()
    assert sweep() == 1
    assert partner.count("policy") == 1


def test_while_sending_is_held_the_insurer_is_asked_but_sent_nothing(program, partner):
    partner.behaves("SILENT_BEFORE", remaining=1, seconds="0.2")
    [sent_before] = owed(program)
    sweep()
    [owed_since] = owed(program)
    held = holds.hold(partner=Run.Partner.INSURER, reason="restored", by="operator", now=timezone.now())
    pass_the_pauses()
    assert sweep() == 0
    assert [row["type"] for row in partner.holds("SELECT type FROM insurer_message")] == ["STATUS_QUERY"]
    sent_before.refresh_from_db()
    owed_since.refresh_from_db()
    assert (sent_before.state, sent_before.problem) == (Policy.State.UNKNOWN, "2002")
    assert owed_since.state == Policy.State.PENDING
    holds.release(held=held, reason="compared by hand", by="operator", now=timezone.now())
    pass_the_pauses()
    assert sweep() == 2


def test_a_contradiction_changes_nothing_that_was_settled(program, partner):
    partner.behaves("CONTRADICTORY", remaining=1)
    [policy] = owed(program)
    sweep()
    policy.refresh_from_db()
    assert policy.state == Policy.State.DECLINED
    now = timezone.now()
    assert enrolment.settle_policies([Verdict(policy.request_no, True, "0000", "P1", now)]) == 0
    policy.refresh_from_db()
    assert (policy.state, policy.policy_no) == (Policy.State.DECLINED, None)


def test_a_policy_number_that_is_taken_settles_nothing(program):
    first, second = owed(program, 2)
    Policy.objects.update(state=Policy.State.UNKNOWN)
    now = timezone.now()
    assert enrolment.settle_policies([Verdict(first.request_no, True, "0000", "P1", now)]) == 1
    assert enrolment.settle_policies([Verdict(second.request_no, True, "0000", "P1", now)]) == 0


@pytest.mark.parametrize(
    "items",
    [
        None,
        "x",
        [None, 7, []],
        [{"code": "0000"}],
        [{"request_no": "R", "code": 0}],
        [{"request_no": "R", "code": "0000", "accepted_at": "2026-01-01T00:00:00Z"}],
        [{"request_no": "R", "code": "0000", "accepted_at": "2026-01-01T00:00:00", "policy_no": "P"}],
        [{"request_no": "R", "code": "0000", "accepted_at": "yesterday", "policy_no": "P"}],
        [{"request_no": "R", "code": "0000", "accepted_at": "2026-01-01T00:00:00Z", "policy_no": "P" * 41}],
        [{"request_no": "R", "code": "2001"}],
        [{"request_no": "R", "code": "9999"}],
        [{"request_no": "R", "code": "1005"}, {"request_no": "R", "code": "1004"}],
        [{"request_no": "R", "code": "1005"}, {"request_no": "R", "code": "9998"}],
        [
            {"request_no": "R", "code": "0000", "accepted_at": "2026-01-01T00:00:00Z", "policy_no": "P"},
            {"request_no": "S", "code": "0000", "accepted_at": "2026-01-01T00:00:00Z", "policy_no": "P"},
        ],
    ],
)
def test_an_item_that_cannot_be_read_one_way_is_no_verdict(items):
    talk = insurer.TALKS[0]
    verdicts, _ = insurer._read(items, talk)
    assert verdicts == []


def test_a_verdict_on_what_was_not_asked_is_not_listened_to():
    items = [{"request_no": "R", "code": "1005"}, {"request_no": "S", "code": "1005"}]
    verdicts, _ = insurer._read(items, insurer.TALKS[0], {"R"})
    assert [verdict.request_no for verdict in verdicts] == ["R"]


# Endorsement and cancellation ---------------------------------------------------------------------------


def topped_up(policy: Policy, paid: int) -> Endorsement:
    posted = cards.topped_up(policy.card, paid)
    load = Load.objects.filter(card=policy.card_id).latest("seq")
    assert posted
    endorsement = enrolment.owe_increase(card_id=policy.card_id, load=load, today=cards.NOW.date(), now=cards.NOW)
    assert endorsement is not None
    return endorsement


def closed(policy: Policy) -> Endorsement:
    cancellation = enrolment.owe_cancellation(card_id=policy.card_id, today=cards.NOW.date(), now=cards.NOW)
    assert cancellation is not None
    return cancellation


def test_a_top_up_raises_the_sum_insured_once_it_is_accepted(program, partner):
    [policy] = owed(program)
    sweep()
    endorsement = topped_up(policy, 50_000)
    assert sweep() == 1
    policy.refresh_from_db()
    endorsement.refresh_from_db()
    assert (policy.sum_insured, policy.state) == (1_284_567, Policy.State.ACCEPTED)
    assert endorsement.state == Endorsement.State.ACCEPTED
    assert endorsement.endorsement_no
    assert partner.holds("SELECT sum_insured FROM insurer_policy") == [{"sum_insured": 1_284_567}]


def test_enrolment_increase_and_cancellation_go_in_their_order_in_one_sweep(program, partner):
    [policy] = owed(program)
    increase, cancellation = topped_up(policy, 50_000), closed(policy)
    sweep()
    for row in (policy, increase, cancellation):
        row.refresh_from_db()
    assert (policy.state, increase.state, cancellation.state) == ("CANCELLED", "ACCEPTED", "ACCEPTED")
    types = [row["type"] for row in partner.holds("SELECT type FROM insurer_message ORDER BY id")]
    assert types == ["ENROLMENT", "ENDORSEMENT", "CANCELLATION"]
    [theirs] = partner.holds("SELECT amount, premium FROM insurer_item WHERE type = 'CANCELLATION'")
    assert (cancellation.amount, cancellation.premium) == (theirs["amount"], theirs["premium"])
    assert cancellation.amount == -1_284_567


def test_an_increase_that_was_declined_is_not_returned(program, partner):
    [policy] = owed(program)
    topped_up(policy, 50_000)
    cancellation = closed(policy)
    partner.behaves("REFUSE_SOME", type="ENDORSEMENT")
    sweep()
    policy.refresh_from_db()
    cancellation.refresh_from_db()
    assert policy.state == Policy.State.CANCELLED
    assert (cancellation.state, cancellation.amount) == (Endorsement.State.ACCEPTED, -1_234_567)
    days_run = (cards.NOW.date() - policy.cover_from_date).days
    assert -cancellation.premium == enrolment.unearned(7306, days=TERM, days_run=days_run)


def test_a_policy_is_not_endorsed_before_it_is_known_what_became_of_it(program, partner):
    [policy] = owed(program)
    endorsement = topped_up(policy, 50_000)
    partner.behaves("GARBLED", remaining=1)
    sweep()
    endorsement.refresh_from_db()
    assert endorsement.state == Endorsement.State.PENDING
    assert partner.count("endorsement") == 0
    sweep_until(Policy.State.ACCEPTED, policy)
    sweep()
    endorsement.refresh_from_db()
    assert endorsement.state == Endorsement.State.ACCEPTED


def test_what_is_owed_on_a_declined_policy_is_declined(program, partner):
    [policy] = owed(program)
    increase, cancellation = topped_up(policy, 50_000), closed(policy)
    partner.behaves("REFUSE_SOME", type="ENROLMENT")
    sweep()
    for row in (policy, increase, cancellation):
        row.refresh_from_db()
    assert (policy.state, increase.state, cancellation.state) == ("DECLINED", "DECLINED", "DECLINED")


@pytest.mark.parametrize("kind", ["SILENT_AFTER", "SILENT_BEFORE"])
@pytest.mark.parametrize("type", ["ENDORSEMENT", "CANCELLATION"])
def test_silence_about_an_endorsement_changes_the_policy_once(program, partner, kind, type):
    [policy] = owed(program)
    sweep()
    row = topped_up(policy, 50_000) if type == "ENDORSEMENT" else closed(policy)
    partner.behaves(kind, remaining=1, seconds="0.2", type=type)
    assert sweep() == 0
    row.refresh_from_db()
    assert row.state == Endorsement.State.UNKNOWN
    pass_the_pauses()
    assert sweep() == 1
    policy.refresh_from_db()
    row.refresh_from_db()
    assert row.state == Endorsement.State.ACCEPTED
    [theirs] = partner.holds("SELECT sum_insured, state FROM insurer_policy")
    assert policy.sum_insured == theirs["sum_insured"] == 1_234_567 + max(row.amount, 0)
    assert (policy.state, theirs["state"]) in (("ACCEPTED", "IN_FORCE"), ("CANCELLED", "CANCELLED"))


@pytest.mark.parametrize("kind", [Notice.Kind.LOSS, Notice.Kind.CLAIM])
def test_the_insurer_is_told_of_losses_and_claims(program, partner, kind):
    [policy] = owed(program)
    sweep()
    notice = Notice.objects.create(
        kind=kind,
        insurer=policy.product.insurer,
        policy=policy if kind == Notice.Kind.CLAIM else None,
        subject=policy.pk,
        body={"loss_date": "2026-05-15", "amount": 62_500},
        due_at=cards.NOW,
        recorded_at=cards.NOW,
    )
    assert sweep() == 1
    notice.refresh_from_db()
    assert notice.state == Notice.State.ACCEPTED
    assert notice.accepted_at is not None
    [item] = partner.holds("SELECT type, amount FROM insurer_item ORDER BY id DESC LIMIT 1")
    assert item == {"type": kind.value, "amount": 62_500}


# Late answers -------------------------------------------------------------------------------------------


def a_late_answer(partner: Partner, policy: Policy, **changes: Any) -> messages.Question:
    now = timezone.now()
    item = {"request_no": policy.request_no, "code": "0000", "accepted_at": now.isoformat(), "policy_no": "P1"}
    facts: dict[str, Any] = {
        "keys": partner.keys,
        "type": "LATE_ANSWER",
        "request_no": messages.new_request_no(),
        "body": {"items": [item]},
        "now": now,
        "business_date": now.date(),
    }
    return messages.compose(**(facts | changes))


def told(client: Any, question: messages.Question) -> Any:
    return client.post(
        "/partners/insurer/callback",
        data=question.raw,
        content_type="application/json",
        headers={name: value for name, value in question.headers.items() if name != "content-type"},
    )


def test_a_late_answer_settles_once(program, partner, client):
    [policy] = owed(program)
    Policy.objects.update(state=Policy.State.UNKNOWN)
    question = a_late_answer(partner, policy)
    first, second = told(client, question), told(client, question)
    assert (first.status_code, first.json()["result"]) == (200, "SUCCESS")
    assert (second.status_code, second.json()["code"]) == (200, "3003")
    policy.refresh_from_db()
    assert (policy.state, policy.policy_no) == (Policy.State.ACCEPTED, "P1")
    [kept] = InsurerMessage.objects.filter(direction=InsurerMessage.Direction.RECEIVED)
    assert bytes(kept.body) == question.raw


def test_a_late_answer_about_what_was_never_sent_settles_nothing(program, partner, client):
    [policy] = owed(program)
    assert told(client, a_late_answer(partner, policy)).status_code == 200
    policy.refresh_from_db()
    assert policy.state == Policy.State.PENDING


def test_a_callback_that_is_not_the_insurers_is_turned_away(program, partner, client):
    [policy] = owed(program)
    Policy.objects.update(state=Policy.State.UNKNOWN)
    forged = a_late_answer(partner, policy, keys=["c3RyYW5nZXI="])
    assert told(client, forged).status_code == 401
    assert client.get("/partners/insurer/callback").status_code == 405
    assert InsurerMessage.objects.count() == 0
    policy.refresh_from_db()
    assert policy.state == Policy.State.UNKNOWN


def test_a_callback_that_is_too_long_is_not_read(program, partner, client):
    [policy] = owed(program)
    question = a_late_answer(partner, policy, body={"items": [], "more": "x" * 300_000})
    assert told(client, question).status_code == 413
    assert InsurerMessage.objects.count() == 0


# Two workers --------------------------------------------------------------------------------------------


def at_once(count: int, work: Any) -> list[Any]:
    results: list[Any] = []
    start = threading.Barrier(count)

    def worker() -> None:
        start.wait(60)
        try:
            results.append(work())
        finally:
            connections.close_all()

    threads = [threading.Thread(target=worker) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results


def items_sent(partner: Partner) -> int:
    rows = partner.holds("SELECT request FROM insurer_message WHERE type = 'ENROLMENT'")
    return sum(len(messages.read_json(bytes(row["request"]))["body"]["items"]) for row in rows)


@committing
def test_two_workers_send_each_enrolment_once(program, partner):
    owed(program, 40)
    partner.behaves("SLOW", seconds="0.3")
    assert sum(at_once(2, sweep)) == 40
    assert items_sent(partner) == 40
    assert states() == ["ACCEPTED"] * 40


@committing
def test_control_without_the_lease_two_workers_send_everything_twice(program, partner, monkeypatch):
    both_have_read = threading.Barrier(2)

    def no_lease(rows: Any, *, limit: int, **_: Any) -> Any:
        keys = list(rows.filter(due_at__isnull=False).values_list("pk", flat=True)[:limit])
        both_have_read.wait(60)
        return keys

    owed(program, 40)
    monkeypatch.setattr(insurer, "lease", no_lease)
    at_once(2, lambda: insurer._tell(insurer.TALKS[0], insurer._lines()[0], now=timezone.now()))
    assert items_sent(partner) == 80


@committing
def test_two_answers_about_the_same_rows_settle_them_once(program):
    policies = owed(program, 50)
    Policy.objects.update(state=Policy.State.UNKNOWN)
    now = timezone.now()
    verdicts = [Verdict(row.request_no, True, "0000", f"P{at}", now) for at, row in enumerate(policies)]
    turned = list(reversed(verdicts))
    turns = iter([verdicts, turned, verdicts, turned])
    lock = threading.Lock()

    def settle() -> int:
        with lock:
            mine = next(turns)
        return enrolment.settle_policies(mine)

    assert sum(at_once(4, settle)) == 50
    assert states() == ["ACCEPTED"] * 50
