"""The insurer's bordereau against our policies: every way of not agreeing, once, and the same when done again."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from config import messages
from insurance import enrolment, insurer, reconciliation
from insurance.enrolment import Cover
from insurance.models import Insurer, InsurerMessage, Notice, Policy, Product
from issuing.models import CardProgram, Kind
from prepaid import holds
from prepaid.models import Break, Load, Run
from prepaid.reconciliation import RETRY, business_date, span
from tests import cards
from tests.partners import Insurer as Partner
from tests.partners import insurer as partner
from tests.partners import partner_process

__all__ = ["partner", "partner_process"]

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _spoken_to(partner: Partner, settings: Any) -> None:
    settings.INSURER_URL = f"{partner.url}/insurer/"
    settings.INSURER_KEYS = partner.keys


@pytest.fixture
def program() -> CardProgram:
    made = cards.program(Kind.BONUS, term_days=180)
    Product.objects.create(
        merchant=made.merchant,
        insurer=Insurer.objects.create(code="ANPING", name="Anping"),
        code="PCPG-A",
        annual_rate=Decimal("0.0120"),
        valid_from_date=cards.OPENED.date(),
    )
    return made


def enrolled(program: CardProgram, count: int) -> list[Policy]:
    opened = [cards.opened(program, 1_234_567) for _ in range(count)]
    covers = [Cover(card.pk, program.merchant_id, 1_234_567, cards.OPENED.date(), 180) for card in opened]
    enrolment.owe(covers, now=cards.OPENED)
    insurer.sweep(now=timezone.now(), seconds=20)
    return list(Policy.objects.filter(card__in=opened).order_by("pk"))


TODAY = business_date(timezone.now())


def reconciled(day: date = TODAY) -> Run:
    """The day's comparison, asked for on the day after."""
    run = reconciliation.bordereau_day(business_date=day, now=span(day)[1] + timedelta(hours=2))
    run.refresh_from_db()
    return run


def breaks(run: Run) -> list[tuple[str, str]]:
    return sorted(run.breaks.values_list("type", "subject"))


def theirs(partner: Partner, statement: str, policy: Policy, **values: Any) -> None:
    partner.database.execute(statement, {"no": policy.request_no, **values})


def test_a_day_that_agrees_has_no_breaks(program, partner):
    policies = enrolled(program, 3)
    posted = cards.topped_up(policies[0].card, 50_000)
    load = Load.objects.filter(card=policies[0].card_id).latest("seq")
    assert posted
    enrolment.owe_increase(card_id=policies[0].card_id, load=load, today=cards.NOW.date(), now=cards.NOW)
    enrolment.owe_cancellation(card_id=policies[1].card_id, today=cards.NOW.date(), now=cards.NOW)
    Notice.objects.create(
        kind=Notice.Kind.CLAIM,
        insurer=policies[2].product.insurer,
        policy=policies[2],
        subject=policies[2].pk,
        body={"amount": 62_500},
        due_at=cards.NOW,
        recorded_at=cards.NOW,
    )
    insurer.sweep(now=timezone.now(), seconds=20)
    run = reconciled()
    assert (run.state, run.compared, run.problem) == (Run.State.DONE, 6, "")
    assert breaks(run) == []
    figures = {row["type"]: row for row in run.totals["by_type"]}
    assert sorted(figures) == ["CANCELLATION", "CLAIM_NOTICE", "ENDORSEMENT", "ENROLMENT"]
    assert all(row["ours"] == row["theirs"] for row in figures.values())
    assert figures["ENROLMENT"]["ours"] == {"count": 3, "amount": 3 * 1_234_567, "premium": 3 * 7306}


def test_what_was_refused_on_both_sides_agrees(program, partner):
    partner.behaves("REFUSE_SOME", every=2)
    enrolled(program, 4)
    assert breaks(reconciled()) == []


def test_an_amount_that_differs(program, partner):
    first, second, _ = enrolled(program, 3)
    theirs(partner, "UPDATE insurer_item SET amount = amount + 1 WHERE request_no = %(no)s", first)
    theirs(partner, "UPDATE insurer_item SET premium = premium - 1 WHERE request_no = %(no)s", second)
    run = reconciled()
    assert breaks(run) == sorted([("AMOUNT_DIFFERS", first.request_no), ("AMOUNT_DIFFERS", second.request_no)])
    found = run.breaks.get(subject=first.request_no)
    assert (found.card_id, found.merchant_id) == (first.card_id, first.merchant_id)
    assert found.theirs["amount"] - found.ours["amount"] == 1


def test_a_state_that_differs(program, partner):
    partner.behaves("CONTRADICTORY", remaining=1)
    [declined_here] = enrolled(program, 1)
    [refused_there, unknown_here] = enrolled(program, 2)
    theirs(partner, "UPDATE insurer_item SET code = '1009' WHERE request_no = %(no)s", refused_there)
    Policy.objects.filter(pk=unknown_here.pk).update(state="UNKNOWN", policy_no=None, accepted_at=None)
    assert breaks(reconciled()) == sorted(
        ("STATE_DIFFERS", policy.request_no) for policy in (declined_here, refused_there, unknown_here)
    )


def test_another_policy_number_is_another_state(program, partner):
    [policy] = enrolled(program, 1)
    theirs(partner, "UPDATE insurer_item SET policy_no = 'P9' WHERE request_no = %(no)s", policy)
    assert breaks(reconciled()) == [("STATE_DIFFERS", policy.request_no)]


def test_what_only_one_side_has(program, partner):
    here, _ = enrolled(program, 2)
    Policy.objects.update(accepted_at=span(TODAY)[0] + timedelta(hours=1))
    theirs(partner, "UPDATE insurer_item SET request_no = 'stranger' WHERE request_no = %(no)s", here)
    assert breaks(reconciled()) == [("LOCAL_ONLY", here.request_no), ("PARTNER_ONLY", "stranger")]


def test_totals_that_are_not_the_sum_of_their_rows(program, partner, monkeypatch):
    enrolled(program, 2)
    monkeypatch.setattr(
        reconciliation, "_THEIR_TOTALS", reconciliation._THEIR_TOTALS.replace("sum(amount)", "sum(amount + 1)")
    )
    [found] = reconciled().breaks.all()
    assert (found.type, found.subject) == (Break.Type.TOTALS_DIFFER, "ENROLMENT")


# The cut-off --------------------------------------------------------------------------------------------

YESTERDAY = TODAY - timedelta(days=1)


def accepted_late_yesterday(policy: Policy) -> None:
    Policy.objects.filter(pk=policy.pk).update(accepted_at=span(YESTERDAY)[1] - timedelta(minutes=5))


def test_what_was_accepted_at_midnight_is_carried_to_the_next_day_once(program, partner):
    found_later, never_found = enrolled(program, 2)
    for policy in (found_later, never_found):
        accepted_late_yesterday(policy)
    theirs(partner, "DELETE FROM insurer_item WHERE request_no = %(no)s", never_found)
    carried = sorted(("CUT_OFF", policy.request_no) for policy in (found_later, never_found))
    assert breaks(reconciled(YESTERDAY)) == carried
    today = reconciled(TODAY)
    assert breaks(today) == [("LOCAL_ONLY", never_found.request_no)]
    assert Break.objects.get(type="CUT_OFF", subject=found_later.request_no).state == Break.State.RESOLVED
    assert Break.objects.get(type="CUT_OFF", subject=never_found.request_no).state == Break.State.OPEN
    assert breaks(reconciled(YESTERDAY)) == carried
    assert breaks(reconciled(TODAY)) == [("LOCAL_ONLY", never_found.request_no)]


def test_what_the_insurer_booked_a_moment_before_our_midnight_is_not_missed_after_it(program, partner):
    [policy] = enrolled(program, 1)
    Policy.objects.update(accepted_at=span(TODAY)[0] + timedelta(seconds=5))
    theirs(partner, "UPDATE insurer_item SET business_date = %(day)s WHERE request_no = %(no)s", policy, day=YESTERDAY)
    assert breaks(reconciled(YESTERDAY)) == [("CUT_OFF", policy.request_no)]
    assert breaks(reconciled(TODAY)) == []
    assert Break.objects.get().state == Break.State.RESOLVED


def test_what_was_accepted_long_before_midnight_is_not_carried(program, partner):
    [policy] = enrolled(program, 1)
    Policy.objects.update(accepted_at=span(YESTERDAY)[1] - timedelta(hours=1))
    assert breaks(reconciled(YESTERDAY)) == [("LOCAL_ONLY", policy.request_no)]


# Again --------------------------------------------------------------------------------------------------


def test_a_day_done_again_gives_the_same_and_leaves_what_staff_did(program, partner):
    first, second = enrolled(program, 2)
    theirs(partner, "UPDATE insurer_item SET amount = amount + 1 WHERE request_no = %(no)s", first)
    theirs(partner, "UPDATE insurer_item SET amount = amount + 2 WHERE request_no = %(no)s", second)
    once = reconciled()
    figures = (once.compared, once.totals, breaks(once))
    person = User.objects.create_user("clerk")
    once.breaks.get(subject=first.request_no).move(
        Break.State.RESOLVED, resolution="their slip", resolved_by=person, resolved_at=timezone.now()
    )
    again = reconciled()
    assert again.pk == once.pk
    assert (again.compared, again.totals, breaks(again)) == figures
    assert again.breaks.get(subject=first.request_no).resolution == "their slip"


def test_the_clock_catches_up_the_days_it_missed_in_order_and_once(program, partner):
    enrolled(program, 1)
    InsurerMessage.objects.update(recorded_at=span(TODAY - timedelta(days=2))[0] + timedelta(hours=9))
    tomorrow = span(TODAY)[1] + timedelta(hours=2)
    days = [run.business_date for run in reconciliation.bordereau_days(now=tomorrow)]
    assert days == [TODAY - timedelta(days=2), YESTERDAY, TODAY]
    assert reconciliation.bordereau_days(now=tomorrow) == []


def test_a_hold_ends_with_the_comparison_of_the_day_on_which_it_began(program, partner):
    enrolled(program, 1)
    holds.hold(partner=Run.Partner.INSURER, reason="restored", by="operator", now=timezone.now())
    reconciliation.bordereau_days(now=span(TODAY)[1] - timedelta(hours=1))
    assert holds.is_held(Run.Partner.INSURER)
    reconciliation.bordereau_days(now=span(TODAY)[1] + timedelta(hours=1))
    assert not holds.is_held(Run.Partner.INSURER)


# Files that are not a file ------------------------------------------------------------------------------


def failed(run: Run) -> str:
    assert run.state == Run.State.FAILED
    assert run.breaks.count() == 0
    return run.problem


def test_a_missing_file_is_an_error_and_tried_again(program, partner, settings):
    enrolled(program, 1)
    good = settings.INSURER_URL
    settings.INSURER_URL = f"{partner.url}/nowhere/"
    run = reconciled()
    assert "FileMissing: 404" in failed(run)
    assert run.due_at - timezone.now() > RETRY / 2
    settings.INSURER_URL = good
    assert reconciled().state == Run.State.DONE


def test_an_insurer_that_is_down_gives_no_file(program, settings):
    settings.INSURER_URL = "http://127.0.0.1:1/insurer/"
    assert "FileMissing: CONNECTION_LOST" in failed(reconciled())


def test_a_file_signed_by_somebody_else_is_an_error(program, partner, settings):
    enrolled(program, 1)
    settings.INSURER_KEYS = ["c3RyYW5nZXI=", *partner.keys]
    assert reconciled().state == Run.State.DONE
    settings.INSURER_KEYS = ["c3RyYW5nZXI="]
    assert "FileMissing: 401" in failed(reconciled())


def altered(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let the file be changed on its way, as a line that breaks or a hand in between would."""
    download = messages.download

    def meddled(**how: Any) -> messages.Reply:
        reply = download(**how)
        file = how["file"]
        file.seek(0)
        content = change(file.read())
        file.seek(0)
        file.truncate()
        file.write(content)
        return reply

    monkeypatch.setattr(messages, "download", meddled)


def without_a_row(raw: bytes) -> bytes:
    header, _, *rest = raw.splitlines(keepends=True)
    return b"".join([header, *rest])


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("the header", lambda raw: b""),
        ("the header", lambda raw: raw[5:]),
        ("no trailer", lambda raw: b"\n".join(raw.splitlines()[:2]) + b"\n"),
        ("counts 3 rows, there are 2", without_a_row),
        ("the hash differs", lambda raw: raw.replace(b",1234567,", b",1234568,", 1)),
        ("not signed", lambda raw: b"".join(raw.splitlines(keepends=True)[:-1])),
        ("the signature", lambda raw: raw.replace(b"T,3,ENROLMENT:3", b"T,3,ENROLMENT:4")),
        ("goes on after its end", lambda raw: raw + b"D,x\n"),
        ("row 1 is not written as agreed", lambda raw: raw.replace(b",7306,", b",73.06,")),
        ("row 1 is not written as agreed", lambda raw: raw.replace(b",ENROLMENT,", b",\x00,")),
        ("no trailer written as agreed", lambda raw: raw.replace(b"T,3,", b"T,three,")),
    ],
)  # fmt: skip
def test_a_damaged_file_is_an_error_never_no_differences(program, partner, monkeypatch, problem, change):
    enrolled(program, 3)
    altered(monkeypatch, change)
    assert problem in failed(reconciled())


def test_a_row_that_is_there_twice_is_an_error(program, partner):
    [policy] = enrolled(program, 1)
    partner.database.execute("ALTER TABLE insurer_item DROP CONSTRAINT IF EXISTS insurer_item_request_no_key")
    columns = (
        "request_no, type, fingerprint, code, policy_no, endorsement_no, amount, premium, posted_at, business_date"
    )
    try:
        theirs(
            partner,
            f"INSERT INTO insurer_item ({columns}) SELECT {columns} FROM insurer_item WHERE request_no = %(no)s",
            policy,
        )
        assert "a row is there twice" in failed(reconciled())
    finally:
        partner.forgets()
        partner.database.execute(
            "ALTER TABLE insurer_item ADD CONSTRAINT insurer_item_request_no_key UNIQUE (request_no)"
        )


def test_a_day_that_is_not_over_is_not_reconciled(program):
    at: datetime = span(TODAY)[0] + timedelta(hours=12)
    with pytest.raises(reconciliation.reconciliation.DayNotOver):
        reconciliation.bordereau_day(business_date=TODAY, now=at)
