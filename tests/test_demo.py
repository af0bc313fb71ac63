"""The demonstration: sample data, people of every role and keys, told in one file."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import RequestFactory
from django.utils import timezone

from config import supervisor
from issuing import keys
from issuing.models import Merchant, MerchantKey
from points import accounts
from points.models import ExchangeRatio
from prepaid.management.commands import demo
from prepaid.models import Card
from tests.partners import Insurer as Partner
from tests.partners import insurer as partner
from tests.partners import partner_process

__all__ = ["partner", "partner_process"]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def told(partner: Partner, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this demonstration tells what it made; ten purchases are enough of it."""
    settings.INSURER_URL = f"{partner.url}/insurer/"
    settings.INSURER_KEYS = partner.keys
    settings.VAR_DIR = tmp_path
    monkeypatch.setattr(supervisor, "DEMO", tmp_path / "demo.json")
    monkeypatch.setattr(demo, "SMALL", 10)
    return tmp_path / "demo.json"


def demonstrated(told: Path) -> dict[str, Any]:
    call_command("demo", "--size", "small")
    document: dict[str, Any] = json.loads(told.read_text())
    return document


def test_everybody_told_of_can_sign_in_and_every_key_opens_its_merchant(told):
    document = demonstrated(told)
    assert [person["role"] for person in document["staff"]] == list(demo.PEOPLE.values())
    for person in document["staff"]:
        user = authenticate(RequestFactory().post("/"), username=person["username"], password=person["password"])
        assert user is not None
        assert user.is_staff
        assert user.is_superuser == (person["role"] == "administrator")
        assert [group.name for group in user.groups.all()] == [person["role"]]
    live = Merchant.objects.live().order_by("code")
    assert [one["code"] for one in document["merchants"]] == list(live.values_list("code", flat=True))
    for one in document["merchants"]:
        assert keys.find(one["api_key"], now=timezone.now()).merchant.code == one["code"]
        assert keys.find(one["test_api_key"], now=timezone.now()).merchant.code == f"{one['code']}-TEST"
    assert not Card.objects.filter(merchant__in=Merchant.objects.for_tests()).exists()
    assert Card.objects.count() == 10
    assert stat.S_IMODE(told.stat().st_mode) == 0o600


def test_a_second_demonstration_keeps_what_still_opens_the_door(told):
    first = demonstrated(told)
    clerk = User.objects.get(username="clerk")
    clerk.set_password("changed since")
    clerk.save()
    # As after a start that was broken off: what was loaded is not told, so all of it is gone through again.
    told.write_text(json.dumps({**first, "size": None}))
    second = demonstrated(told)
    assert second["merchants"] == first["merchants"]
    changed = [new["username"] for old, new in zip(first["staff"], second["staff"], strict=True) if old != new]
    assert changed == ["clerk"]
    password = second["staff"][0]["password"]
    assert authenticate(RequestFactory().post("/"), username="clerk", password=password) == clerk
    assert Card.objects.count() == 10


def test_customers_can_sign_in_and_points_buy_coupons_by_approved_ratios(told):
    document = demonstrated(told)
    assert len(document["customers"]) == demo.CUSTOMERS
    for one in document["customers"]:
        account = accounts.sign_in(number=one["account"], password=one["password"], now=timezone.now())
        assert one["account"].endswith(account.last4)
    ratios = ExchangeRatio.objects.select_related("product__merchant", "made_by", "approved_by")
    offered = {offer.code for offer in demo.OFFERS}
    assert {row.product.code for row in ratios} == offered | {f"{code}-TEST" for code in offered}
    assert {row.product.merchant.code for row in ratios} == {"BAKE01", "BOOK01", "BAKE01-TEST", "BOOK01-TEST"}
    assert {(row.made_by.username, row.approved_by.username, row.state) for row in ratios} == {
        ("partners", "approver", "APPROVED")
    }
    # As after a start that was broken off: nobody's password changes, and no ratio is proposed again.
    told.write_text(json.dumps({**document, "size": None}))
    assert demonstrated(told)["customers"] == document["customers"]
    assert ExchangeRatio.objects.count() == 2 * len(demo.OFFERS)


def test_the_keys_of_an_earlier_demonstration_may_do_what_is_there_to_do_now(told):
    first = demonstrated(told)
    MerchantKey.objects.update(scopes=["cards:read"])
    told.write_text(json.dumps({**first, "customers": []}))
    for one in demonstrated(told)["merchants"]:
        assert keys.find(one["api_key"], now=timezone.now()).scopes == list(keys.SCOPES)


def test_a_demonstration_that_is_all_there_is_not_gone_through_again(told):
    first = demonstrated(told)
    (told.parent / "ingest-report.csv").unlink()
    assert demonstrated(told) == first
    assert not (told.parent / "ingest-report.csv").exists()


def test_what_others_have_told_there_stays(told):
    told.write_text(json.dumps({"base_url": "http://127.0.0.1:8000"}))
    assert demonstrated(told)["base_url"] == "http://127.0.0.1:8000"


def test_no_two_installations_share_a_password(told):
    first = demonstrated(told)
    told.unlink()
    second = demonstrated(told)
    assert not {p["password"] for p in first["staff"]} & {p["password"] for p in second["staff"]}
