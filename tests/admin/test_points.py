"""The back office of points: four eyes on ratios and settlements, the conversation, and codes read with a reason."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from points import codes, exchange
from points.models import Coupon, CouponMove, CouponProduct, Exchange, ExchangeRatio, PointsReturn, Repair
from prepaid.models import Hold, Run
from tests import points_world as world
from tests.admin import records
from tests.admin.conftest import person, signed_in
from tests.admin.test_verbs import is_offered, press

pytestmark = pytest.mark.django_db(databases=["default", "owner"])


@pytest.fixture
def desk(at_desk: Any) -> Client:
    return at_desk("partner desk")


@pytest.fixture
def approver(at_desk: Any) -> Client:
    return at_desk("approver")


def needs(browser: Client) -> dict[str, int]:
    """What the first page says is waiting."""
    return {str(need.label): need.count for need in browser.get(reverse("admin:index")).context["needs"]}


def unresolved() -> Exchange:
    tea = world.product()
    world.ratio(tea)
    row = world.sent(world.submitted(world.quote(tea)))
    exchange.give_up(exchange=row)
    row.refresh_from_db()
    row.move(Exchange.State.UNRESOLVED, due_at=None)
    return row


def test_a_ratio_is_proposed_by_one_and_approved_by_another(desk: Client, approver: Client) -> None:
    tea = world.product()
    press(desk, ExchangeRatio, "propose", product=tea.pk, ratio="333.33", rounding="CEIL")
    ratio = ExchangeRatio.objects.get()
    assert (ratio.version, ratio.state) == (1, "PROPOSED")
    assert not is_offered(desk, ratio, "approve")
    assert needs(approver)["exchange ratios to approve"] == 1
    assert "Approved." in press(approver, ratio, "approve")
    ratio.refresh_from_db()
    assert ratio.state == "APPROVED"
    page = approver.get(reverse("admin:points_exchangeratio_change", args=[ratio.pk])).content.decode()
    assert "does not know this ratio yet" in page
    ExchangeRatio.objects.update(advised_at=timezone.now(), valid_from_at=timezone.now())
    page = approver.get(reverse("admin:points_couponproduct_change", args=[tea.pk])).content.decode()
    assert "in force" in page


def test_a_superuser_does_not_approve_his_own_ratio(root: Client) -> None:
    tea = world.product()
    press(root, ExchangeRatio, "propose", product=tea.pk, ratio="10", rounding="CEIL")
    ratio = ExchangeRatio.objects.get()
    assert "second person" in press(root, ratio, "approve")
    ratio.refresh_from_db()
    assert ratio.state == "PROPOSED"


def test_an_impossible_ratio_is_refused_in_words(desk: Client) -> None:
    tea = world.product()
    said = press(desk, ExchangeRatio, "propose", product=tea.pk, ratio="-1", rounding="CEIL")
    assert "costs more than nothing" in said
    assert not ExchangeRatio.objects.exists()


def test_stock_is_added_to_and_terms_stay_once_there_is_a_ratio(root: Client) -> None:
    tea = world.product(stock=5)
    world.ratio(tea)
    CouponProduct.objects.filter(pk=tea.pk).update(stock=2)
    press(root, tea, "restock", more=10)
    form = {"name": "New", "name_zh": "", "valid_days": "30", "most_per_order": "5", "face_value": "9", "stock": "99"}
    answer = root.post(reverse("admin:points_couponproduct_change", args=[tea.pk]), form)
    assert answer.status_code == 302
    tea.refresh_from_db()
    assert (tea.name, tea.valid_days, tea.stock, tea.face_value) == ("New", 30, 12, 5_000)


def test_an_unresolved_exchange_is_settled_by_two(desk: Client, approver: Client) -> None:
    row = unresolved()
    assert needs(desk)["unresolved exchanges"] == 1
    assert not is_offered(approver, row, "settle")
    press(desk, row, "propose_settlement", outcome="ISSUED", reason="their statement shows it")
    assert "second person" in press(desk, row, "settle", bank_reference="B1")
    assert "Settled" in press(approver, row, "settle", bank_reference="B1")
    row.refresh_from_db()
    assert (row.state, row.coupons.count()) == ("ISSUED", 3)


def test_an_unresolved_exchange_is_asked_about_again(desk: Client) -> None:
    row = unresolved()
    press(desk, row, "ask_again")
    row.refresh_from_db()
    assert row.state == "REVERSING"
    assert row.due_at is not None


def test_an_unresolved_return_is_asked_for_again(desk: Client) -> None:
    row = records.exchanged(records.insured_program().merchant).returns.get()
    row.move(PointsReturn.State.UNKNOWN)
    row.move(PointsReturn.State.UNRESOLVED, due_at=None)
    assert needs(desk)["unresolved returns of points"] == 1
    press(desk, row, "ask_again")
    row.refresh_from_db()
    assert row.state == "UNKNOWN"
    assert row.due_at is not None
    assert not is_offered(desk, row, "ask_again")


def test_the_conversation_stands_on_the_page_without_the_account(root: Client) -> None:
    row = records.exchanged(records.insured_program().merchant)
    for address in (
        reverse("admin:points_exchange_change", args=[row.pk]),
        reverse("admin:points_pointsmessage_change", args=[row.messages.get().pk]),
    ):
        page = root.get(address).content.decode()
        assert "DEDUCTION_REQUEST" in page
        assert "6225000026000000" not in page


def test_a_code_is_read_with_a_reason_and_stands_nowhere_else(desk: Client) -> None:
    row = records.exchanged(records.insured_program().merchant)
    coupon = row.coupons.get(ordinal=3)
    code = codes.written(codes.VAULT.unseal(coupon.code_sealed))
    where = reverse("admin:points_coupon_read_code", args=[coupon.pk])
    assert code not in desk.post(where, {"reason": ""}).content.decode()
    shown = desk.post(where, {"reason": "the buyer lost it"})
    assert code in shown.content.decode()
    assert "no-store" in shown.headers["Cache-Control"]
    assert CouponMove.objects.filter(coupon=coupon).get().reason == "the buyer lost it"
    for address in (
        reverse("admin:points_coupon_change", args=[coupon.pk]),
        reverse("admin:points_coupon_changelist"),
    ):
        page = desk.get(address).content.decode()
        assert code not in page
        assert code.replace("-", "") not in page


def test_a_coupon_is_frozen_freed_extended_replaced_and_voided(desk: Client) -> None:
    row = records.exchanged(records.insured_program().merchant)
    coupon = row.coupons.get(ordinal=3)
    why = {"reason": "dispute"}
    press(desk, coupon, "freeze", **why)
    press(desk, coupon, "unfreeze", **why)
    later = timezone.localtime(timezone.now() + timedelta(days=60))
    assert "Good until" in press(desk, coupon, "extend", expires_at=f"{later:%Y-%m-%dT%H:%M}", **why)
    press(desk, coupon, "reissue", **why)
    new = Coupon.objects.get(exchange=row, ordinal=3, generation=2)
    press(desk, new, "void", **why)
    new.refresh_from_db()
    assert new.state == "VOID"
    assert not is_offered(desk, new, "freeze")


def test_the_clerk_does_none_of_it() -> None:
    row = records.exchanged(records.insured_program().merchant)
    clerk = signed_in(person("clerk"))
    where = reverse("admin:points_coupon_void", args=[row.coupons.get(ordinal=3).pk])
    assert clerk.post(where, {"reason": "x"}).status_code == 403


def issued() -> Exchange:
    tea = world.product()
    world.ratio(tea)
    return world.issued(tea, 3)


def test_a_break_leads_to_its_exchange_and_is_repaired_from_its_page(desk: Client) -> None:
    row = issued()
    found = records.break_of_points(row)
    page = desk.get(reverse("admin:prepaid_break_change", args=[found.pk])).content.decode()
    assert reverse("admin:points_exchange_change", args=[row.pk]) in page
    assert "Nothing was done about it yet." in page
    assert "0 days" in page
    for verb, offered in (("freeze", True), ("resubmit", True), ("reverse", False), ("ask_again", False)):
        assert is_offered(desk, found, verb) is offered
    press(desk, found, "freeze", reason="they do not know it")
    assert set(row.coupons.values_list("state", flat=True)) == {"FROZEN"}
    assert not is_offered(desk, found, "freeze")
    assert is_offered(desk, found, "unfreeze")
    made = Repair.objects.get()
    page = desk.get(reverse("admin:points_exchange_change", args=[row.pk])).content.decode()
    assert reverse("admin:prepaid_break_change", args=[found.pk]) in page
    assert reverse("admin:points_repair_change", args=[made.pk]) in page
    press(desk, found, "unfreeze", reason="it was their slip")
    assert set(row.coupons.values_list("state", flat=True)) == {"ACTIVE"}
    press(desk, found, "resubmit", reason="agreed")
    assert Repair.objects.get(what="RESUBMIT").state == Repair.State.PENDING


def test_a_large_break_of_points_is_taken_by_one_and_repaired_by_another(approver: Client) -> None:
    tea = world.product()
    world.ratio(tea)
    found = records.break_of_points(world.issued(tea, 30))
    user = person("partner desk")
    desk = signed_in(user)
    page = desk.get(reverse("admin:prepaid_break_change", args=[found.pk])).content.decode()
    assert "takes two people" in page
    press(desk, found, "resubmit", reason="alone")
    assert not Repair.objects.exists()
    press(desk, found, "take")
    press(desk, found, "resubmit", reason="still alone")
    assert not Repair.objects.exists()
    press(approver, found, "resubmit", reason="checked")
    made = Repair.objects.get()
    assert (made.owner, made.what) == (user, "RESUBMIT")


def test_a_day_of_the_points_system_is_run_by_hand_and_a_missing_file_is_an_error(desk: Client, settings: Any) -> None:
    settings.POINTS_SYSTEM_URL = "http://127.0.0.1:1/points/"
    today = timezone.localdate()
    where = reverse("admin:prepaid_run_run_statement")
    assert "is not over yet" in desk.post(where, {"business_date": today.isoformat()}).content.decode()
    desk.post(where, {"business_date": (today - timedelta(days=2)).isoformat()})
    run = Run.objects.get()
    assert (run.partner, run.state) == (Run.Partner.POINTS, Run.State.FAILED)
    assert needs(desk)["reconciliations that failed"] == 1


def test_sending_is_held_by_staff_and_seen_on_the_first_page(desk: Client, approver: Client) -> None:
    press(desk, Hold, "hold", partner="POINTS", reason="the database was restored")
    held = Hold.objects.get()
    assert (held.partner, held.by.startswith("staff:")) == ("POINTS", True)
    assert needs(approver)["partners that nothing is sent to"] == 1
    assert "held already" in press(desk, Hold, "hold", partner="POINTS", reason="again")
    assert not is_offered(desk, held, "release")
    press(approver, held, "release", reason="compared by hand")
    held.refresh_from_db()
    assert held.release_reason == "compared by hand"
    assert "partners that nothing is sent to" not in needs(approver)
