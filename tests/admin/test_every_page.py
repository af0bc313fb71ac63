"""Every page that there is, for somebody who may see all of them."""

import re

import pytest
from django.apps import apps
from django.contrib import admin
from django.template.loader import render_to_string
from django.test import Client
from django.urls import reverse

from config.admin import House
from tests.admin import records

pytestmark = pytest.mark.django_db(databases=["default", "owner"])

OURS = ("issuing", "prepaid", "insurance", "claims", "points")
# Answers to idempotency keys are the API's own memory, tiers and managers are lines on their program's and merchant's
# page, and parts of a file are downloaded as one. An inquiry lasts as long as a message to the points system, which has
# a page.
NO_PAGE = {"storedanswer", "bonustier", "merchantmanager", "partnerfilepart", "inquiry"}
MODELS = [
    model for app in OURS for model in apps.get_app_config(app).get_models() if model._meta.model_name not in NO_PAGE
]


def test_every_model_has_a_page_made_by_the_one_base_class() -> None:
    for model in MODELS:
        assert isinstance(admin.site._registry[model], House), model


def test_every_list_and_record_is_shown_and_fetches_nothing_from_outside(root: Client) -> None:
    records.one_of_each()
    for model in MODELS:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        row = model.objects.order_by("pk").first()
        assert row is not None, f"nothing in {model}"
        for address in (reverse(f"{name}_changelist"), reverse(f"{name}_change", args=[row.pk])):
            page = root.get(address)
            assert page.status_code == 200, address
            text = page.content.decode()
            assert not re.search(r"""(?:src|href|action)=["'](?:https?:)?//""", text), address
            policy = page.headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy
            assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]


def test_elsewhere_the_policy_is_strict(client: Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert reverse("admin:index") in page.content.decode()


def test_an_empty_list_says_what_to_do_next(root: Client) -> None:
    page = root.get(reverse("admin:prepaid_card_changelist")).content.decode()
    assert "Open a card here, or upload a file of purchases under batches." in page


@pytest.mark.parametrize("address", ["prepaid_card", "issuing_merchant", "insurance_policy", "claims_claim"])
@pytest.mark.parametrize(
    "query", ["q=%00", "state__exact=%00", "p=-1", "p=x", "p=99999999999999999999", "q=" + "9" * 5000]
)
def test_a_nonsense_question_is_no_error(root: Client, address: str, query: str) -> None:
    page = root.get(f"{reverse(f'admin:{address}_changelist')}?{query}", follow=True)
    assert page.status_code == 200


@pytest.mark.parametrize("key", ["%00", "x", "../../etc", "-1", "9" * 400])
def test_a_nonsense_record_leads_home(root: Client, key: str) -> None:
    for model in MODELS:
        page = root.get(f"/admin/{model._meta.app_label}/{model._meta.model_name}/{key}/change/")
        assert page.status_code in (302, 404), model


@pytest.mark.parametrize(
    "guess",
    [
        "number_hash__startswith=a",
        "number_sealed__gt=a",
        "network_account__phone__startswith=1",
        "last4__gt=1",
        "merchant__keys__key_hash__startswith=a",
        "merchant__name__startswith=L",
        "state__gt=A",
    ],
)
def test_a_hidden_column_cannot_be_guessed_at(root: Client, guess: str) -> None:
    assert root.get(f"{reverse('admin:prepaid_card_changelist')}?{guess}").status_code == 400


def test_what_goes_wrong_says_what_to_do(root: Client, client: Client) -> None:
    assert "Check the address" in client.get("/nowhere").content.decode()
    assert "An administrator assigns roles." in root.get(reverse("admin:prepaid_entry_add")).content.decode()
    guess = root.get(f"{reverse('admin:prepaid_card_changelist')}?number_hash__gt=1")
    assert "Use the filters" in guess.content.decode()
    failure = render_to_string("500.html")
    assert "it may have been done" in failure
