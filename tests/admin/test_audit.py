"""What staff did stands in one chain: a row for each deed, with what it changed; nothing is changed there unseen."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.contrib.messages.storage.fallback import FallbackStorage
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import Error, connection, connections, transaction
from django.db.models import QuerySet
from django.db.utils import ProgrammingError
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from config import audit, roles
from config.admin import Audited, House, Reason
from config.errors import Refused
from config.models import Act
from issuing.models import CardProgram, Merchant
from points import coupons
from points.models import Coupon
from prepaid.models import Card
from tests import cards
from tests.admin import records
from tests.admin.conftest import person, signed_in
from tests.admin.test_verbs import address, press

pytestmark = pytest.mark.django_db(databases=["default", "owner"])

PAGES = list(admin.site._registry.values())
VERBS = [
    pytest.param(house, verb, id=f"{house.opts.label_lower} {verb.name}")
    for house in PAGES
    if isinstance(house, House)
    for verb in (*house.verbs, *house.list_verbs)
]


def written(count: int) -> None:
    for n in range(count):
        audit.record(None, "freeze", who="clerk", reason=f"reason {n}")


def deeds() -> QuerySet[Act]:
    """What was done but for the roles, which every person of the tests comes with."""
    return Act.objects.exclude(verb="set_role")


def verdict() -> audit.Verdict:
    return audit.verify(anchors={})


# One row for each deed -------------------------------------------------------------------------------------------


def test_no_page_is_outside_the_audit() -> None:
    for page in PAGES:
        assert isinstance(page, Audited), page
        for name in ("log_addition", "log_change", "log_deletions", "history_view"):
            assert getattr(type(page), name) is getattr(Audited, name), (page, name)
        if isinstance(page, House):
            assert (type(page).do, type(page)._done) == (House.do, House._done)


@pytest.mark.parametrize(("house", "verb"), VERBS)
@pytest.mark.parametrize("is_refused", [False, True])
def test_every_button_there_is_leaves_exactly_one_row(house: House, verb: Any, is_refused: bool) -> None:
    """The pages as they are registered; only what the button calls is a stand-in, so that it can always be pressed."""

    def run(request: Any, row: Any, data: Any) -> str:
        Merchant.objects.filter(code="AUDITED").update(name="Changed")
        if is_refused:
            raise Refused
        return "done"

    cards.merchant(code="AUDITED")
    row = person("clerk", "somebody")
    request = RequestFactory().post("/", {"reason": "because"})
    request.user = User.objects.create_superuser("chief")
    request.session = SessionStore()
    request._messages = FallbackStorage(request)  # type: ignore[attr-defined]
    stands_in = replace(verb, run=run, form=Reason, states=None, shown=None, barred=None, preview=None, quotes=False)
    house.do(request, None, verb=stands_in)
    rows = list(deeds().order_by("seq").values_list("who", "verb", "kind", "reason", "outcome"))
    deed = ("chief", verb.name, house.opts.label_lower, "because")
    if not is_refused:
        assert rows == [(*deed, "DONE")]
    elif verb.apart:
        # It had begun when it was refused, and cannot be rolled back as a whole.
        assert rows == [(*deed, "DONE"), (*deed, "REFUSED")]
    else:
        assert rows == [(*deed, "REFUSED")]
        assert not Merchant.objects.filter(name="Changed").exists()
    assert row.pk
    assert verdict().problem == ""


def test_a_verb_is_written_down_with_what_it_changed_and_why(at_desk: Any) -> None:
    card = records.card()
    clerk = at_desk("clerk")
    clerk.post(address(card, "freeze"), {"reason": "left on the train, asks 王小明"}, REMOTE_ADDR="192.0.2.7")
    act = deeds().get()
    assert (act.who, act.address, act.verb, act.outcome) == ("clerk", "192.0.2.7", "freeze", "DONE")
    assert (act.kind, act.object_id, act.reason) == ("prepaid.card", str(card.pk), "left on the train, asks 王小明")
    assert (act.before["state"], act.after["state"]) == ("ACTIVE", "FROZEN")
    assert len(act.session) == 16
    assert act.session not in clerk.session.session_key


def test_a_refused_verb_leaves_its_attempt_and_nothing_else(at_desk: Any) -> None:
    card = records.card()
    payment = cards.paid(card, 30_000, at=timezone.now())
    before = Card.objects.values().get()
    clerk = at_desk("clerk")
    where = reverse("admin:prepaid_transaction_refund", args=[payment.id])
    clerk.post(where, {"amount": "300.01", "reference": "RF-1", "reason": "more than paid"})
    act = deeds().get()
    assert (act.verb, act.outcome, act.after) == ("refund", "REFUSED", {"refused": "RefundExceedsPayment"})
    assert act.asked["reference"] == "RF-1"
    assert Card.objects.values().get() == before


def test_trying_to_decide_ones_own_proposal_is_written_down(root: Client) -> None:
    claim = records.claim(records.card())
    press(root, claim, "assess", refunded_by_merchant="0", excluded="")
    press(root, claim, "approve")
    act = Act.objects.get(verb="approve")
    assert (act.who, act.outcome, act.after) == ("root", "REFUSED", {"refused": "Barred"})


def test_looking_and_wrong_forms_leave_nothing(at_desk: Any) -> None:
    card = records.card()
    clerk = at_desk("clerk")
    clerk.get(reverse("admin:prepaid_card_change", args=[card.pk]))
    clerk.get(address(card, "freeze"))
    clerk.post(address(card, "freeze"), {"reason": ""})
    assert not deeds().exists()


def test_terms_are_written_down_field_by_field_with_their_lines(root: Client) -> None:
    program = records.insured_program()
    form = {
        "merchant": program.merchant_id, "code": program.code, "name": "New name", "kind": "BONUS", "named": "on",
        "card_limit": "4,000.00", "limit_basis": "PRINCIPAL", "max_sub_cards": "1000", "draw_order": "OLDEST",
        "term_days": "365", "tiers-TOTAL_FORMS": "1", "tiers-INITIAL_FORMS": "0", "tiers-0-from_amount": "1000",
        "tiers-0-gift": "50.5",
    }  # fmt: skip
    was = CardProgram.objects.get()
    root.post(reverse("admin:issuing_cardprogram_change", args=[program.pk]), form)
    act = deeds().get()
    assert (act.verb, act.object_id) == ("change", str(program.pk))
    assert (act.before["card_limit"], act.after["card_limit"]) == (was.card_limit, 400_000)
    assert (act.before["name"], act.after["name"]) == (was.name, "New name")
    assert act.before["bonustier"] == "[]"
    assert '"gift": 5050' in act.after["bonustier"]
    assert "code" not in act.after


def test_a_role_given_is_written_down(at_desk: Any, root: Client) -> None:
    clerk = person("clerk")
    role = clerk.groups.get()
    person("approver")
    form = {"first_name": "Li", "last_name": "", "email": "", "is_active": "on", "is_staff": "on", "groups": []}
    form |= {"date_joined_0": "2026-01-05", "date_joined_1": "10:00:00"}
    assert root.post(reverse("admin:auth_user_change", args=[clerk.pk]), form).status_code == 302
    act = deeds().get()
    assert (act.kind, act.label) == ("auth.user", "clerk")
    assert (act.before["groups"], act.after["groups"]) == (f'["{role.name}"]', "[]")


def test_what_a_role_may_do_is_written_down_when_it_changes_and_not_else() -> None:
    roles.apply()
    roles.apply()
    assert sorted(Act.objects.values_list("label", flat=True)) == sorted(roles.ROLES)
    auditor = Group.objects.get(name="auditor")
    auditor.permissions.add(Permission.objects.get(codename="approve_batch"))
    roles.apply()
    act = Act.objects.get(seq=len(roles.ROLES) + 1)
    assert (act.verb, act.label) == ("set_role", "auditor")
    assert set(json.loads(act.before["may"])) - set(json.loads(act.after["may"])) == {"approve_batch"}


# What must not stand in it ---------------------------------------------------------------------------------------


def test_a_code_that_was_read_is_told_with_its_reason_and_not_itself(at_desk: Any) -> None:
    records.exchanged(cards.merchant())
    coupon = Coupon.objects.filter(state="ACTIVE").first()
    assert coupon is not None
    desk = at_desk("partner desk")
    desk.post(address(coupon, "read_code"), {"reason": ""})
    assert not deeds().exists()
    page = desk.post(address(coupon, "read_code"), {"reason": "lost the message"}).content.decode()
    act = deeds().get()
    assert (act.verb, act.object_id, act.reason) == ("read_code", str(coupon.pk), "lost the message")
    [code] = re.findall(r'class="secret">([^<]+)<', page)
    assert code.replace("-", "") not in audit.content(act).replace("-", "")
    assert code == coupons.read_code(coupon=coupon, reason="x", by="staff:x", now=timezone.now())


def test_a_new_number_is_shown_once_and_kept_nowhere(at_desk: Any) -> None:
    card = records.card()
    clerk = at_desk("clerk")
    press(clerk, card, "report_lost", reason="lost")
    page = clerk.post(address(card, "replace"), {"reason": "holder came"}).content.decode()
    [number] = re.findall(r'class="secret">([^<]+)<', page)
    act = Act.objects.get(verb="replace")
    assert act.after["number_hash"] == act.after["number_sealed"] == audit.HIDDEN
    assert number not in audit.content(act)


def test_a_password_is_told_to_have_changed(root: Client) -> None:
    clerk = person("clerk")
    secret = "a long enough sentence 7"
    form = {"password1": secret, "password2": secret}
    root.post(reverse("admin:auth_user_password_change", args=[clerk.pk]), form)
    act = deeds().get()
    assert (act.before["password"], act.after["password"]) == (audit.HIDDEN, audit.HIDDEN)
    clerk.refresh_from_db()
    assert clerk.check_password(secret)
    assert clerk.password not in audit.content(act)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("card 9156091234567890123 found", "card •••0123 found"),
        ("card 9156 0912 3456 7890 123 found", "card •••0123 found"),
        ("id 11010519491231002X", "id •••002X"),
        ("call 13800000001", "call •••0001"),
        ("code ABCD-2345-EFGH-6789-K", "code •••"),
        ("key sk_test_" + "a" * 48, "key •••"),
        ("¥12,345.67 on 2026-01-05, COUNTER-1, row 123456", "¥12,345.67 on 2026-01-05, COUNTER-1, row 123456"),
    ],
)
def test_what_somebody_types_into_a_reason_is_masked(typed: str, kept: str) -> None:
    assert audit.record(None, "freeze", reason=typed).reason == kept


# The chain -------------------------------------------------------------------------------------------------------


def as_owner(statement: str) -> None:
    """Whoever owns the tables can lift the triggers; the chain must show it."""
    with connection.cursor() as cursor:
        cursor.execute("RESET ROLE")
        cursor.execute("ALTER TABLE config_act DISABLE TRIGGER USER")
        cursor.execute(statement)
        cursor.execute("ALTER TABLE config_act ENABLE TRIGGER USER")


@pytest.mark.parametrize("what", ["UPDATE config_act SET who = 'x'", "DELETE FROM config_act", "TRUNCATE config_act"])
def test_the_application_cannot_change_it(what: str) -> None:
    written(1)
    with pytest.raises(ProgrammingError, match="permission denied"), transaction.atomic():
        connection.cursor().execute(what)


@pytest.mark.django_db(databases=["default", "owner"], transaction=True)
@pytest.mark.parametrize("statement", ["UPDATE config_act SET who = 'x'", "DELETE FROM config_act"])
def test_even_the_owner_is_refused(statement: str) -> None:
    written(1)
    with pytest.raises(ProgrammingError, match="append-only"), transaction.atomic("owner"):
        connections["owner"].cursor().execute(statement)


@pytest.mark.parametrize("place", ["seq = 7", "seq = 1", "seq = 2"])
def test_a_row_only_ever_follows_the_last(place: str) -> None:
    written(3)
    copy = Act.objects.get(seq=3)
    copy.seq = int(place[-1])
    with pytest.raises(Error), transaction.atomic():
        copy.save(force_insert=True)
    copy.seq = 4  # the right place, but not after row 3
    with pytest.raises(ProgrammingError, match="a row follows the last one"), transaction.atomic():
        copy.save(force_insert=True)


@pytest.mark.parametrize("column", [*audit._CONTENT[1:], "previous", "hash"])
def test_any_changed_column_is_found_and_its_row_named(column: str) -> None:
    written(5)
    assert verdict() == (5, Act.objects.get(seq=5).hash, "")
    value = {
        "recorded_at": "recorded_at + interval '1 microsecond'",
        "asked": "'{\"amount\": 1}'",
        "before": '\'{"state": "x"}\'',
        "after": '\'{"state": "x"}\'',
        "previous": "repeat('1', 64)",
        "hash": "repeat('1', 64)",
    }.get(column, "'z'")
    as_owner(f"UPDATE config_act SET {column} = {value} WHERE seq = 3")
    found = verdict()
    assert found.rows == 2
    assert found.problem.startswith("row 3 ")


def test_a_deleted_row_is_found() -> None:
    written(5)
    as_owner("DELETE FROM config_act WHERE seq = 3")
    assert verdict().problem == "row 3 is missing"
    with pytest.raises(CommandError, match="BROKEN: row 3 is missing; the 2 rows before hold") as raised:
        call_command("verify_audit")
    assert raised.value.returncode == 1


def test_a_row_put_in_the_middle_is_found() -> None:
    written(5)
    as_owner("UPDATE config_act SET seq = seq + 100 WHERE seq > 3")
    as_owner("UPDATE config_act SET seq = seq - 99 WHERE seq > 100")
    forged = Act.objects.get(seq=3)
    forged.seq, forged.previous, forged.reason = 4, forged.hash, "never happened"
    forged.hash = audit.digest(forged.previous, audit.content(forged))
    as_owner("SELECT 1")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE config_act DISABLE TRIGGER USER")
    forged.save(force_insert=True)
    found = verdict()
    assert (found.rows, found.problem) == (4, "row 5 does not follow row 4")


def test_a_cut_off_end_and_a_chain_written_anew_are_found_by_a_head_kept_elsewhere(capsys: Any) -> None:
    written(5)
    call_command("verify_audit", "--head")
    anchor = capsys.readouterr().out.strip()
    assert anchor == f"5:{Act.objects.get(seq=5).hash}"
    written(1)
    call_command("verify_audit", "--anchor", anchor)
    assert "6 rows, unbroken. Head 6:" in capsys.readouterr().out
    as_owner("DELETE FROM config_act WHERE seq > 4")
    call_command("verify_audit")
    assert "4 rows, unbroken" in capsys.readouterr().out
    with pytest.raises(CommandError, match="row 5, whose hash was kept elsewhere, is missing"):
        call_command("verify_audit", "--anchor", anchor)
    written(1)
    with pytest.raises(CommandError, match="row 5 is another than the one whose hash was kept elsewhere"):
        call_command("verify_audit", "--anchor", anchor)


def test_a_hundred_thousand_rows_are_walked_in_seconds() -> None:
    previous, rows, now = audit.FIRST, [], datetime(2026, 1, 5, tzinfo=UTC)
    for seq in range(1, 100_001):
        act = Act(
            seq=seq, recorded_at=now, who="clerk", verb="freeze", outcome="DONE", kind="prepaid.card",
            object_id=str(seq), label="•••• 1234", reason="left on the train", previous=previous,
            before={"state": "ACTIVE"}, after={"state": "FROZEN"},
        )  # fmt: skip
        previous = act.hash = audit.digest(previous, audit.content(act))
        rows.append(act)
    as_owner("SELECT 1")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE config_act DISABLE TRIGGER USER")
    Act.objects.bulk_create(rows, batch_size=5_000)
    began = monotonic()
    assert verdict() == (100_000, previous, "")
    seconds = monotonic() - began
    print(f"100,000 rows in {seconds:.1f} s")
    assert seconds < 30


# Who reads it ----------------------------------------------------------------------------------------------------


def test_the_auditor_and_the_administrator_read_it_and_nobody_writes_it(at_desk: Any, root: Client) -> None:
    card = records.card()
    press(at_desk("clerk"), card, "freeze", reason="left on the train")
    act = deeds().get()
    one, many = reverse("admin:config_act_change", args=[act.seq]), reverse("admin:config_act_changelist")
    for role in ("auditor", "administrator"):
        browser = at_desk(role)
        page = browser.get(many).content.decode()
        assert "left on the train" in page
        assert "FROZEN" in browser.get(one).content.decode()
        assert browser.get(f"{many}?verb=freeze&who=clerk&kind=prepaid.card").context["cl"].result_count == 1
        assert browser.get(f"{many}?object_id={card.pk}").context["cl"].result_count == 1
        assert browser.get(f"{many}?verb=close").context["cl"].result_count == 0
        assert browser.get(f"{many}?recorded_at__gte=2020-01-01+00:00:00%2B08:00").status_code == 200
    for role in ("adjuster", "approver", "partner desk"):
        assert at_desk(role).get(many).status_code == 403
    assert root.post(one, {"who": "x"}).status_code == 403
    assert root.post(reverse("admin:config_act_delete", args=[act.seq]), {"post": "yes"}).status_code == 403


def test_an_object_shows_its_own_history_and_no_addresses_to_those_who_only_work_with_it(at_desk: Any) -> None:
    card = records.card()
    other = records.card(card.program)
    clerk = at_desk("clerk")
    press(clerk, card, "freeze", reason="left on the train")
    press(clerk, other, "freeze", reason="another reason")
    history = reverse("admin:prepaid_card_history", args=[card.pk])
    assert history in clerk.get(reverse("admin:prepaid_card_change", args=[card.pk])).content.decode()
    page = clerk.get(history).content.decode()
    assert "left on the train" in page
    assert "another reason" not in page
    assert "ACTIVE → FROZEN" in page
    assert "127.0.0.1" not in page
    assert reverse("admin:config_act_changelist") not in page
    assert reverse("admin:config_act_changelist") in at_desk("auditor").get(history).content.decode()


def test_a_claim_shows_who_filed_it_though_that_was_done_to_the_card(at_desk: Any) -> None:
    card = records.card()
    records.event(card.merchant, declared_by=records.staff("a"), confirmed_by=records.staff("b"))
    press(at_desk("adjuster"), card, "file_claim")
    act = deeds().get()
    assert act.kind == "prepaid.card"
    assert act.made.startswith("claims.claim:")
    claim = act.made.partition(":")[2]
    page = signed_in(person("auditor")).get(reverse("admin:claims_claim_history", args=[claim])).content.decode()
    assert "File a claim" in page or "file a claim" in page


def test_the_address_is_what_our_own_proxies_saw(settings: Any) -> None:
    def seen(forwarded: str) -> str:
        return audit.came_from(
            RequestFactory().get("/", headers={"X-Forwarded-For": forwarded}, REMOTE_ADDR="10.0.0.1")
        )

    settings.TRUSTED_PROXIES = 0
    assert seen("192.0.2.1") == "10.0.0.1"
    settings.TRUSTED_PROXIES = 1
    assert seen("6.6.6.6, 192.0.2.1") == "192.0.2.1"
    settings.TRUSTED_PROXIES = 2
    assert seen("6.6.6.6, 192.0.2.1, 10.0.0.2") == "192.0.2.1"
    # One hop too few: it did not come through our proxies, so nobody trusted says from where.
    assert seen("192.0.2.1") == ""
    assert seen("x, y, z") == ""
