"""What the ledger, partners and staff have done is changed by nobody: not by a superuser, not by a permission."""

import pytest
from django.apps import apps
from django.test import Client
from django.urls import reverse

from issuing.models import CardProgram
from tests.admin import records
from tests.admin.test_every_page import NO_PAGE

pytestmark = pytest.mark.django_db(databases=["default", "owner"])

TERMS = {"merchant", "regulation", "cardprogram", "insurer", "product", "interestrate", "couponproduct"}
KEPT = [
    model
    for app in ("issuing", "prepaid", "insurance", "claims", "points")
    for model in apps.get_app_config(app).get_models()
    if model._meta.model_name not in TERMS | NO_PAGE
]


def test_no_record_is_added_changed_or_deleted_by_a_superuser(root: Client) -> None:
    records.one_of_each()
    for model in KEPT:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        row = model.objects.order_by("pk").first()
        before = model.objects.filter(pk=row.pk).values().get()
        assert root.get(reverse(f"{name}_add")).status_code == 403, model
        assert root.post(reverse(f"{name}_add"), {}).status_code == 403, model
        assert root.post(reverse(f"{name}_change", args=[row.pk]), {"state": "CLOSED"}).status_code == 403, model
        assert root.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403, model
        action = {"action": "delete_selected", "_selected_action": [str(row.pk)], "post": "yes"}
        root.post(reverse(f"{name}_changelist"), action)
        assert model.objects.filter(pk=row.pk).values().get() == before, model


def test_terms_are_never_deleted(root: Client) -> None:
    merchant = records.one_of_each()
    assert root.post(reverse("admin:issuing_merchant_delete", args=[merchant.pk]), {"post": "yes"}).status_code == 403


def test_a_program_is_changed_until_its_first_card(root: Client) -> None:
    program = records.insured_program()
    address = reverse("admin:issuing_cardprogram_change", args=[program.pk])
    form = {
        "merchant": program.merchant_id, "code": program.code, "name": "New name", "kind": "BONUS", "named": "on",
        "card_limit": "4,000.00", "limit_basis": "PRINCIPAL", "max_sub_cards": "1000", "draw_order": "OLDEST",
        "term_days": "365", "tiers-TOTAL_FORMS": "1", "tiers-INITIAL_FORMS": "0", "tiers-0-from_amount": "1000",
        "tiers-0-gift": "50.5",
    }  # fmt: skip
    assert root.post(address, form).status_code == 302
    program.refresh_from_db()
    assert (program.card_limit, program.name) == (400_000, "New name")
    assert list(program.tiers.values_list("from_amount", "gift")) == [(100_000, 5_050)]

    records.card(program)
    assert root.post(address, {**form, "card_limit": "1"}).status_code == 403
    assert CardProgram.objects.get().card_limit == 400_000
    assert "Withdraw this program and add a new one instead." in root.get(address).content.decode()


@pytest.mark.parametrize("amount", ["NaN", "1e400", "-1", "0", "0.001", "１２", "9" * 30, ""])
def test_a_limit_that_is_no_amount_is_refused_on_the_form(root: Client, amount: str) -> None:
    address = reverse("admin:issuing_regulation_add")
    page = root.post(
        address,
        {
            "region": "上海", "valid_from_date": "2026-01-01", "named_card_limit": amount,
            "unnamed_card_limit": "1000", "unnamed_identity_from": "10000", "cash_refused_from_individual": "50000",
            "cash_refused_from_organisation": "5000", "unnamed_term_years": "3", "withdrawal_days": "7",
        },
    )  # fmt: skip
    assert page.status_code == 200
    assert page.context["adminform"].form.errors.keys() == {"named_card_limit"}
