"""What one person chose for themselves: language and time zone, wherever they sign in."""

from datetime import UTC, datetime

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from config.models import OwnSettings
from issuing.models import Kind
from prepaid.models import Card
from tests import cards
from tests.admin.conftest import person, signed_in

pytestmark = pytest.mark.django_db(databases=["default", "owner"])

ADDRESS = "admin:own_settings"


def card() -> Card:
    return cards.opened(cards.program(Kind.BONUS), at=datetime(2026, 1, 1, 18, 0, tzinfo=UTC))


def shown(browser: Client, row: Card) -> str:
    return browser.get(reverse("admin:prepaid_card_change", args=[row.pk])).content.decode()


def test_times_are_shown_in_ones_own_zone_and_only_in_ones_own() -> None:
    row = card()
    far, house = signed_in(person("clerk")), signed_in(person("auditor"))
    far.post(reverse(ADDRESS), {"language": "", "time_zone": "America/New_York"})
    assert "2026-01-01 13:00:00" in shown(far, row)
    assert "2026-01-02 02:00:00" in shown(house, row)
    assert timezone.get_current_timezone_name() == "Asia/Shanghai"  # nothing is left behind


def test_what_was_chosen_holds_at_the_next_sign_in_too(client: Client) -> None:
    row = card()
    user = person("clerk")
    OwnSettings.objects.create(user=user, language="zh-hans", time_zone="Europe/Berlin")
    client.post(reverse("admin:login"), {"username": "clerk", "password": "secret"})
    text = shown(client, row)
    assert "2026-01-01 19:00:00" in text
    assert "应退本金" in text


def test_the_language_of_the_menu_is_kept_and_leads_nowhere_else() -> None:
    row = card()
    browser = signed_in(person("clerk"))
    answer = browser.post(reverse("admin:own_language"), {"language": "zh-hans", "next": "https://example.com/"})
    assert answer.headers["Location"] == reverse("admin:index")
    assert "应退本金" in shown(browser, row)
    assert OwnSettings.objects.get().language == "zh-hans"
    browser.post(reverse("admin:own_language"), {"language": "en", "next": "/admin/"})
    assert "应退本金" not in shown(browser, row)
    browser.post(reverse("admin:own_language"), {"language": "xx"})
    assert OwnSettings.objects.get().language == "en"


@pytest.mark.parametrize("chosen", [{"time_zone": "Mars/Olympus"}, {"language": "xx"}, {"time_zone": "../etc/passwd"}])
def test_a_zone_or_language_that_there_is_not_is_refused(chosen: dict[str, str]) -> None:
    browser = signed_in(person("clerk"))
    assert browser.post(reverse(ADDRESS), chosen).status_code == 200
    assert not OwnSettings.objects.exists()


def test_a_stranger_has_no_settings(client: Client) -> None:
    assert client.get(reverse(ADDRESS)).status_code == 302
    assert client.post(reverse("admin:own_language"), {"language": "en"}).status_code == 302
    assert not OwnSettings.objects.exists()
