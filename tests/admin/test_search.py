"""The search of the whole house: one hit is gone to, secrets stand in no address, guessing ends, nothing is scanned."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from claims.models import Claim
from config.ids import public_id
from insurance.models import Policy
from issuing import numbering
from points import codes, guessing
from points.models import Coupon, Exchange, WrongGuess
from prepaid import processing
from prepaid.models import Card, Load, Transaction
from tests import cards
from tests.admin import plans, records
from tests.admin.conftest import person, signed_in

pytestmark = pytest.mark.django_db(databases=["default", "owner"])


def searched(browser: Client, text: str) -> Any:
    return browser.post(reverse("admin:search"), {"text": text})


def went_to(answer: HttpResponse, row: Any) -> bool:
    name = f"admin:{row._meta.app_label}_{row._meta.model_name}_change"
    return answer.status_code == 302 and answer.headers["Location"] == reverse(name, args=[row.pk])


def known_by() -> list[tuple[str, Any]]:
    """What may be typed, and the record that it names."""
    card = records.card()
    policy = records.accepted(card)
    payment = cards.paid(card, 100, at=timezone.now())
    claim = records.claim(card)
    Claim.objects.filter(pk=claim.pk).update(reference="CLAIM-7")
    exchange = records.exchanged(cards.merchant())
    coupon = exchange.coupons.order_by("ordinal")[2]
    code = codes.VAULT.unseal(coupon.code_sealed)
    return [
        (numbering.unseal(card.number_sealed), card),
        (card.last4, card),
        ("13800000001", card),
        (public_id("crd", card.pk), card),
        (Load.objects.get(card=card).reference, card),
        (str(policy.policy_no), policy),
        (policy.request_no, policy),
        ("CLAIM-7", claim),
        (public_id("clm", claim.pk), claim),
        (payment.reference, Transaction.objects.get(pk=payment.id)),
        (public_id("exc", exchange.pk), exchange),
        (exchange.request_no, exchange),
        (exchange.reference, exchange),
        (codes.written(code), coupon),
        (code.lower(), coupon),
    ]


def test_an_exact_hit_is_gone_to_at_once(root: Client) -> None:
    for text, row in known_by():
        assert went_to(searched(root, f" {text} "), row), (text, row)


def test_a_number_may_be_typed_in_groups_and_a_replaced_one_still_leads_to_its_card(root: Client) -> None:
    card = records.card()
    old = numbering.unseal(card.number_sealed)
    processing.report_lost(card=card, reason="lost", by="staff:x", now=timezone.now())
    processing.replace(card=Card.objects.get(pk=card.pk), reason="lost", by="staff:x", now=timezone.now())
    assert went_to(searched(root, " ".join(old[at : at + 4] for at in range(0, 19, 4))), card)


def test_several_hits_are_listed_and_no_more_than_fit(root: Client) -> None:
    program = records.insured_program()
    now = timezone.now()
    orders = [records.purchase(program) for _n in range(25)]
    processing.open_cards(orders=orders, now=now)
    page = searched(root, "13800000001")
    [panel] = page.context["panels"]
    assert len(panel.rows) == 20
    assert "There are more" in page.content.decode()
    assert "no-store" in page.headers["Cache-Control"]


def test_nothing_found_says_what_can_be_searched_for(root: Client) -> None:
    for text in ("nothing-like-it", "", " ", "\x00", "9" * 500, "%", "'"):
        page = searched(root, text)
        assert page.status_code == 200
        assert "coupon code" in page.content.decode()
    assert root.get(reverse("admin:search"), {"text": "13800000001", "s": "x"}).context["panels"] == []


def test_what_is_searched_for_is_sent_in_a_form_from_every_page(root: Client) -> None:
    for name in ("index", "prepaid_card_changelist", "search"):
        text = root.get(reverse(f"admin:{name}")).content.decode()
        assert '<form class="everywhere" role="search" method="post"' in text
        assert "config/search" in text
        assert "searchCommand" not in text


def test_a_form_of_another_site_searches_for_nothing() -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(person("clerk"))
    assert searched(browser, "1").status_code == 403


def test_a_stranger_is_shown_the_door(client: Client) -> None:
    answer = searched(client, "1")
    assert (answer.status_code, answer.headers["Location"].split("?")[0]) == (302, reverse("admin:login"))


def test_what_somebody_may_not_see_is_not_found(at_desk: Callable[[str], Client]) -> None:
    card = records.card()
    user = person("clerk")
    user.groups.get().permissions.remove(*user.groups.get().permissions.filter(codename="view_card"))
    assert searched(signed_in(user), numbering.unseal(card.number_sealed)).status_code == 200


@pytest.mark.parametrize("secret", [numbering.new_number, lambda: codes.new_codes(1)[0]])
def test_who_guesses_numbers_or_codes_is_stopped_and_seen(secret: Callable[[], str], root: Client) -> None:
    card = records.card()
    guesser = signed_in(person("clerk"))
    for _turn in range(guessing.MOST):
        assert searched(guesser, secret()).status_code == 200
    answer = searched(guesser, secret())
    assert answer.status_code == 429
    assert "Too many wrong guesses" in answer.content.decode()
    # Only who guessed is stopped, and only from guessing.
    assert went_to(searched(root, numbering.unseal(card.number_sealed)), card)
    assert went_to(searched(guesser, public_id("crd", card.pk)), card)
    assert set(WrongGuess.objects.values_list("subject", flat=True)) == {"staff:clerk"}
    assert any(need.detail == "staff:clerk" for need in root.get(reverse("admin:index")).context["needs"])


GROWS = {model._meta.db_table for model in (Card, Load, Transaction, Policy, Claim, Exchange, Coupon)} | {
    "prepaid_networkaccount",
    "prepaid_retirednumber",
    "points_wrongguess",
}


def test_nothing_is_scanned(root: Client) -> None:
    asked = []
    for text, _row in [*known_by(), (numbering.new_number(), None), ("nothing", None)]:
        with CaptureQueriesContext(connection) as queries:
            searched(root, text)
        asked += [str(one["sql"]) for one in queries if str(one["sql"]).startswith("SELECT")]
    looked_at = [scan for sql in asked for scan in plans.scans(sql) if scan.table in GROWS]
    assert [scan for scan in looked_at if not scan.is_by_index] == []
    assert {scan.table for scan in looked_at} == GROWS
