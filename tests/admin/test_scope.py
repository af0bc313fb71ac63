"""Whoever is bound to merchants sees their rows and no others, by whatever way they ask; and what anybody may try."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.template.response import SimpleTemplateResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from claims.models import InsuredEvent
from config import roles
from config.admin import House
from config.models import Act
from insurance.models import Policy
from issuing.models import Batch, CardProgram, Merchant, MerchantManager
from prepaid.models import Card
from tests import cards
from tests.admin import records
from tests.admin.conftest import person, signed_in
from tests.admin.test_verbs import address

pytestmark = pytest.mark.django_db(databases=["default", "owner"])

HOUSES = [house for house in admin.site._registry.values() if isinstance(house, House)]


def page_of(house: House, name: str, *arguments: object) -> str:
    return reverse(f"admin:{house.opts.app_label}_{house.opts.model_name}_{name}", args=arguments)


@pytest.fixture
def bound() -> User:
    """Somebody who holds every role there is, one of them bound to merchants; none is assigned yet."""
    user = person("merchant manager")
    user.groups.set(Group.objects.filter(name__in=roles.ROLES))
    return user


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: house.opts.label_lower)
def test_every_page_says_whose_its_rows_are(house: House) -> None:
    """Either by a path to the merchant, or by saying that managers see none of it."""
    assert "merchant" in vars(type(house)), f"{house}: merchant = a path to the merchant, or None: not for managers"
    if house.merchant is not None:
        field: Any = None
        model: Any = house.model
        for name in house.merchant.split("__"):
            field = model._meta.pk if name == "pk" else model._meta.get_field(name)
            model = field.related_model or model
        assert model is Merchant


def test_a_foreign_row_is_answered_as_one_that_is_not_there(bound: User) -> None:
    foreign = records.one_of_each()
    others = list(Merchant.objects.all())
    mine = cards.merchant(code="MINE01", name="Mine")
    bound.managed.create(merchant=mine)
    browser = signed_in(bound)
    for house in HOUSES:
        row = house.model.objects.order_by("pk").first() if house.model is not Merchant else foreign
        assert row is not None
        page = browser.get(page_of(house, "changelist"))
        assert page.status_code == (403 if house.merchant is None else 200), house
        if house.merchant is not None:
            shown = list(page.context["cl"].queryset)
            assert shown == ([mine] if house.model is Merchant else []), house
            text = page.content.decode()
            assert not [one.code for one in others if f"{one.code} " in text], house
        missing = "00000000-0000-0000-0000-000000000000" if isinstance(house.opts.pk, models.UUIDField) else "999999999"
        asked = [("change", "GET"), ("history", "GET"), *((verb.name, "POST") for verb in house.verbs)]
        for name, method in asked:
            ask = browser.get if method == "GET" else browser.post
            theirs, nobodys = ask(page_of(house, name, row.pk)), ask(page_of(house, name, missing))
            assert theirs.status_code == nobodys.status_code, (house, name)
            assert theirs.status_code in (302, 403), (house, name)
            assert theirs.headers.get("Location") == nobodys.headers.get("Location"), (house, name)
        for sheet in house.sheets:
            assert browser.get(house.sheet_url(sheet)).status_code == 403
    assert not Act.objects.filter(who=bound.username).exists()
    assert browser.get(reverse("inbox")).context["items"] == []
    first_page = browser.get(reverse("admin:index")).context
    assert [need for need in (*first_page["needs"], *first_page["others"]) if need.count] == []
    assert first_page["charts"] == []


def test_ones_own_rows_are_there_and_the_verbs_on_them(bound: User) -> None:
    program = records.insured_program()
    card = records.card(program)
    own = records.event(program.merchant, declared_by=records.staff("maker"))
    records.event(records.insured_program().merchant, declared_by=records.staff("maker"))
    bound.managed.create(merchant=program.merchant)
    browser = signed_in(bound)
    assert list(browser.get(reverse("admin:prepaid_card_changelist")).context["cl"].queryset) == [card]
    assert browser.get(reverse("admin:prepaid_card_change", args=[card.pk])).status_code == 200
    browser.post(address(card, "freeze"), {"reason": "asked by the shop"})
    assert Card.objects.get(pk=card.pk).state == Card.State.FROZEN
    assert [one.row for one in browser.get(reverse("inbox")).context["items"]] == [own]
    # As soon as the assignment ends.
    bound.managed.all().delete()
    assert list(browser.get(reverse("admin:prepaid_card_changelist")).context["cl"].queryset) == []


def test_what_holds_many_merchants_lines_is_shown_on_no_page_of_one(bound: User) -> None:
    """Messages to and from partners are about many cards at once."""
    card = records.card()
    exchanged = records.exchanged(card.merchant)
    policy = Policy.objects.get(card=card)
    where = [reverse("admin:insurance_policy_change", args=[policy.pk])]
    where.append(reverse("admin:points_exchange_change", args=[exchanged.pk]))
    bound.managed.create(merchant=card.merchant)
    for browser, expected in ((signed_in(person("auditor")), True), (signed_in(bound), False)):
        for page in where:
            assert ("onversation with the" in browser.get(page).content.decode()) == expected


def test_nothing_foreign_is_offered_searched_filtered_or_completed(bound: User) -> None:
    foreign, own = records.card(), records.card()
    bound.managed.create(merchant=own.merchant)
    browser = signed_in(bound)
    cards_list = reverse("admin:prepaid_card_changelist")
    for query in (f"q={foreign.last4}", f"merchant__id__exact={foreign.merchant_id}", f"program={foreign.program_id}"):
        found = browser.get(f"{cards_list}?{query}").context["cl"].queryset
        assert foreign not in list(found), query

    # Forms of verbs, of terms, and what they take.
    form = browser.get(address(Card, "open")).context["form"]
    assert set(form.fields["program"].queryset) == {own.program}
    sent = {"program": foreign.program_id, "amount": "100", "payment_method": "CASH", "reference": "R", "sure": "1"}
    assert "program" in browser.post(address(Card, "open"), sent).context["form"].errors
    event = {
        "merchant": foreign.merchant_id, "trigger": "BANKRUPT", "evidence": "x",
        "loss_date": timezone.localdate().isoformat(),
    }  # fmt: skip
    assert "merchant" in browser.post(address(InsuredEvent, "declare"), event).context["form"].errors
    terms = browser.get(reverse("admin:issuing_cardprogram_add")).context["adminform"].form
    assert set(terms.fields["merchant"].queryset) == {own.merchant}

    where = reverse("admin:autocomplete") + "?app_label=issuing&model_name=cardprogram&field_name=merchant&term="
    for one, expected in ((foreign.merchant, []), (own.merchant, [str(own.merchant_id)])):
        assert [found["id"] for found in browser.get(where + one.code).json()["results"]] == expected


def test_an_administrator_assigns_merchants_and_it_is_written_down(bound: User) -> None:
    merchant = cards.merchant()
    browser = signed_in(person("administrator"))
    form = {
        "name": "Lotus", "rate_limits": "{}", "managers-TOTAL_FORMS": "1", "managers-INITIAL_FORMS": "0",
        "managers-0-user": bound.pk,
    }  # fmt: skip
    where = reverse("admin:issuing_merchant_change", args=[merchant.pk])
    line = browser.get(where).context["inline_admin_formsets"][0].formset.empty_form
    assert set(line.fields["user"].queryset) == {bound}
    assert browser.post(where, form).status_code == 302
    assert MerchantManager.objects.get().merchant == merchant
    act = Act.objects.get(verb="change", object_id=str(merchant.pk))
    assert act.who == "administrator"
    assert "merchantmanager" in act.after


# What anybody may try --------------------------------------------------------------------------------------------


@pytest.fixture
def auditor() -> Client:
    """Somebody who sees every page and may do nothing."""
    return signed_in(person("auditor"))


def test_no_hidden_column_can_be_guessed_at(auditor: Client) -> None:
    for house in HOUSES:
        for field in house.opts.concrete_fields:
            if isinstance(field, models.CharField | models.TextField | models.BinaryField):
                guess = f"{page_of(house, 'changelist')}?{field.name}__startswith=a"
                assert auditor.get(guess).status_code == 400, guess


def test_a_nul_anywhere_is_no_error(auditor: Client, root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimpleTemplateResponse, "rendered_content", "")
    for house in HOUSES:
        filters = [one if isinstance(one, str) else getattr(one, "parameter_name", "x") for one in house.list_filter]
        queries = ["q=%00", "p=%00", "e=%00", "%00=1", *(f"{name}=%00" for name in (*filters, *house.links))]
        for query in queries:
            assert auditor.get(f"{page_of(house, 'changelist')}?{query}").status_code in (200, 302, 400), query
        for name in ("change", "history", *(verb.name for verb in house.verbs)):
            where = page_of(house, name, "PLACE").replace("PLACE", "%00")
            for ask in (root.get, root.post):
                assert ask(where).status_code in (302, 403, 404), where
        kind = ContentType.objects.get_for_model(house.model).pk
        assert root.get(f"/admin/r/{kind}/%00/").status_code == 404, house


def test_ones_own_batch_is_approved_by_no_way(root: Client) -> None:
    maker = User.objects.get(username="root")
    batch = records.batch(records.insured_program(), made_by=maker)
    root.post(address(batch, "approve"), {"seen": "x", "sure": "x", "approved_by": "2", "made_by": "2"})
    root.post(reverse("admin:issuing_batch_change", args=[batch.pk]), {"state": "APPROVED", "made_by": "2"})
    batch.refresh_from_db()
    assert (batch.state, batch.approved_by) == (Batch.State.STAGED, None)
    assert Act.objects.get(kind="issuing.batch", object_id=str(batch.pk)).after == {"refused": "Barred"}


def test_programs_are_still_everybodys_who_is_not_bound(auditor: Client) -> None:
    for _n in range(2):
        records.insured_program()
    assert auditor.get(reverse("admin:issuing_cardprogram_changelist")).context["cl"].queryset.count() == 2
    assert CardProgram.objects.count() == 2
