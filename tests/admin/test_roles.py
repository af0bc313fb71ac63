"""The committed table of roles against the running site."""

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse

from config import roles
from config.admin import House, OrderAdmin
from tests.admin import records
from tests.admin.conftest import person, signed_in

pytestmark = pytest.mark.django_db(databases=["default", "owner"])

HOUSES = [house for house in admin.site._registry.values() if isinstance(house, House)]
DJANGOS = {"view", "add", "change", "delete"}


def verbs() -> set[str]:
    """Every button that the site has, by the name of its permission."""
    return {
        f"{house.opts.app_label}.{verb.name}_{house.opts.model_name}"
        for house in HOUSES
        for verb in (*house.verbs, *house.list_verbs)
    }


def sheets() -> set[str]:
    return {
        f"{house.opts.app_label}.view_{sheet.name}_{house.opts.model_name}"
        for house in HOUSES
        for sheet in house.sheets
    }


def test_the_table_and_the_site_have_the_same_verbs() -> None:
    told = {name for names in roles.table().values() for name in names}
    assert {name for name in told if name.startswith("insurance.view_") and name.count("_") > 1} == sheets()
    ours = {name for name in told if name.split(".")[1].split("_")[0] not in DJANGOS}
    assert ours == verbs()


def test_applying_the_table_takes_away_what_it_does_not_say() -> None:
    roles.apply()
    clerk = Group.objects.get(name="clerk")
    clerk.permissions.add(Group.objects.get(name="approver").permissions.get(codename="approve_batch"))
    roles.apply()
    assert not clerk.permissions.filter(codename="approve_batch").exists()


@pytest.mark.parametrize("role", roles.ROLES)
def test_each_role_sees_its_pages_and_presses_its_buttons_and_no_others(role: str) -> None:
    records.one_of_each()
    user = person(role)
    browser = signed_in(user)
    allowed = roles.table()[role]
    for house in HOUSES:
        app, model = house.opts.app_label, house.opts.model_name
        if isinstance(house, OrderAdmin):
            house.model.objects.update(made_by=user)  # everybody's own
        row = house.model.objects.order_by("pk").first()
        sees = browser.get(reverse(f"admin:{app}_{model}_changelist")).status_code
        assert sees == (200 if f"{app}.view_{model}" in allowed else 403), (role, model)
        adds = browser.get(reverse(f"admin:{app}_{model}_add")).status_code
        assert adds == (200 if f"{app}.add_{model}" in allowed else 403), (role, model)
        assert row is not None
        page = reverse(f"admin:{app}_{model}_change", args=[row.pk])
        assert browser.get(page).status_code == sees, (role, model)
        changed = browser.post(page, {}).status_code
        # A form without its fields is shown again; a record that is locked is changed by nobody.
        may_change = f"{app}.change_{model}" in allowed and house.has_change_permission(
            browser.get(page).wsgi_request, row
        )
        assert changed == (200 if may_change else 403), (role, model)
        for sheet in house.sheets:
            answer = browser.get(house.sheet_url(sheet)).status_code
            assert answer == (200 if f"{app}.view_{sheet.name}_{model}" in allowed else 403), (role, model, sheet.name)
        for verb in house.list_verbs:
            answer = browser.get(reverse(f"admin:{app}_{model}_{verb.name}")).status_code
            assert answer == (200 if f"{app}.{verb.name}_{model}" in allowed else 403), (role, model, verb.name)
        for verb in house.verbs:
            where = reverse(f"admin:{app}_{model}_{verb.name}", args=[row.pk])
            answer = browser.get(where).status_code
            # 302: allowed to, but the record is in another state.
            expected = (200, 302) if f"{app}.{verb.name}_{model}" in allowed else (403,)
            assert answer in expected, (role, model, verb.name)


def test_an_auditor_changes_nothing() -> None:
    assert {name.split(".")[1].split("_")[0] for name in roles.table()["auditor"] - roles.OWN} == {"view"}


def test_nobody_both_prepares_and_approves() -> None:
    for role, names in roles.table().items():
        assert not {"issuing.upload_batch", "issuing.approve_batch"} <= names, role
        assert not {"points.propose_exchangeratio", "points.approve_exchangeratio"} <= names, role
        assert not {"claims.assess_claim", "claims.approve_claim"} <= names, role
        assert not {"claims.declare_insuredevent", "claims.confirm_insuredevent"} <= names, role


def test_a_stranger_sees_nothing(client: Client) -> None:
    merchant = records.one_of_each()
    for address in (reverse("admin:index"), reverse("admin:issuing_merchant_change", args=[merchant.pk])):
        answer = client.get(address)
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith(reverse("admin:login"))


def test_an_administrator_cannot_make_a_superuser() -> None:
    chief = User.objects.create_superuser("chief", password="secret")
    user = person("administrator")
    browser = signed_in(user)
    form = {"username": user.username, "is_active": "on", "is_staff": "on", "is_superuser": "on"}
    browser.post(reverse("admin:auth_user_change", args=[user.pk]), form)
    user.refresh_from_db()
    assert not user.is_superuser
    assert browser.post(reverse("admin:auth_user_password_change", args=[chief.pk]), {}).status_code == 403
    assert browser.post(reverse("admin:auth_user_delete", args=[chief.pk]), {"post": "yes"}).status_code == 403


def test_a_role_is_changed_in_the_table_only(root: Client) -> None:
    person("clerk")
    role = Group.objects.get(name="clerk")
    page = root.get(reverse("admin:auth_group_change", args=[role.pk]))
    assert "freeze, open" in page.content.decode()
    assert root.post(reverse("admin:auth_group_change", args=[role.pk]), {"name": "x"}).status_code == 403
