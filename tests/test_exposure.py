"""Exposure: what insurers would have to pay if the merchants failed now, and what nobody would."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.urls import reverse

from insurance.exposure import Exposure, exposures, together
from insurance.models import Policy
from issuing.models import Kind
from prepaid.models import Card
from tests import cards, failures
from tests.admin.conftest import person, signed_in

pytestmark = pytest.mark.django_db

NOW = failures.NOW


def test_it_is_what_would_have_to_be_paid_at_most_and_the_rest_is_uninsured():
    program = cards.program(Kind.BONUS)
    spent, raised, bare = (cards.opened(program, 1_234_567) for _n in range(3))
    for card in spent, raised:
        failures.covered(card)
    cards.paid(spent, 1_000_000)
    cards.topped_up(raised, 50_000)  # no endorsement of it is accepted
    code = program.merchant.code
    covered = Exposure(code, "ANPING", "PCPG-A", 2, 2 * 1_234_567, 234_567 + 1_284_567, 234_567 + 1_234_567)
    uncovered = Exposure(code, "", "", 1, 0, 1_234_567, 0)
    assert exposures(now=NOW) == [covered, uncovered]
    assert (covered.uninsured, uncovered.uninsured) == (50_000, 1_234_567)
    assert together([covered, uncovered]).uninsured == 1_284_567
    assert bare.policies.count() == 0


def test_what_was_compensated_already_is_no_longer_exposed():
    card = cards.opened(cards.program(Kind.BONUS), 100_000)
    failures.covered(card, terms=failures.product(card.merchant, deductible_rate="0.1"))
    cards.topped_up(card, 50_000, at=failures.AFTER)
    [found] = exposures(now=NOW)
    assert (found.refundable, found.exposed) == (150_000, 100_000)
    failures.filed(card)
    # Claimed: what was paid in after the loss is not insured.
    Policy.objects.update(sum_insured=150_000)
    [found] = exposures(now=NOW)
    assert (found.refundable, found.exposed, found.uninsured) == (150_000, 100_000, 50_000)
    failures.settled(card.claims.get())
    [found] = exposures(now=NOW)
    assert (found.sum_insured, found.refundable, found.exposed) == (60_000, 50_000, 0)


def test_a_term_is_exposed_by_the_days_that_are_left():
    card = cards.opened(cards.program(Kind.ENTITLEMENT), 99_900)
    failures.covered(card)
    [found] = exposures(now=cards.NOW)  # 15 May
    assert (found.refundable, found.exposed) == (63_224, 63_224)
    failures.filed(card)  # the loss was on 20 May; days after it are not served
    at_loss = 99_900 * (365 - 139) / 365
    [found] = exposures(now=NOW)
    assert found.exposed == round(at_loss)


def test_cover_that_has_not_begun_or_is_over_exposes_nobody():
    card = cards.opened(cards.program(Kind.TIMES), 100_000)
    policy = failures.covered(card)
    for at in (cards.OPENED - timedelta(days=1), cards.day(365)):
        [found] = exposures(now=at)
        assert (found.insurer, found.exposed, found.uninsured) == ("", 0, 100_000)
    assert exposures(now=cards.day(364))[0].exposed == 100_000
    Policy.objects.filter(pk=policy.pk).update(state="UNKNOWN", policy_no=None, accepted_at=None)
    assert exposures(now=NOW)[0].insurer == ""


def test_several_loads_are_rounded_once_for_the_card():
    card = cards.opened(cards.program(Kind.TIMES, uses=3, price=100), 100)
    for _n in range(2):
        cards.topped_up(card, 100)
    failures.covered(card)
    for _n in range(6):
        cards.paid(card, uses=1)
    cards.paid(card, uses=1)
    [found] = exposures(now=NOW)
    assert found.refundable == Decimal(200 / 3).__round__() == 67


def page(browser: Client) -> str:
    answer = browser.get(reverse("admin:insurance_policy_exposure"))
    assert answer.status_code == 200
    return answer.content.decode()


def test_staff_see_it_by_merchant_and_by_insurer_from_the_menu_and_the_list(django_assert_max_num_queries):
    program = cards.program(Kind.BONUS)
    failures.covered(cards.opened(program, 1_234_567))
    cards.opened(program, 100_000)
    browser = signed_in(person("auditor"))
    where = reverse("admin:insurance_policy_exposure")
    assert browser.get(reverse("admin:insurance_policy_changelist")).content.decode().count(f'href="{where}"') == 2
    text = page(browser)
    for words in (program.merchant.code, "ANPING", "PCPG-A", "no accepted cover"):
        assert words in text
    assert text.count('<span class="figure">¥12,345.67</span>') == 2 * (3 + 2)
    assert text.count('<span class="figure">¥1,000.00</span>') == 2 * (2 + 1)
    for n in range(3):
        failures.covered(cards.opened(cards.program(Kind.BONUS), 10_000 + n))
    with django_assert_max_num_queries(9):
        page(browser)


def test_who_may_not_see_it_does_not_find_it_either():
    browser = signed_in(person("clerk"))
    assert browser.get(reverse("admin:insurance_policy_exposure")).status_code == 403
    where = reverse("admin:insurance_policy_exposure")
    assert where not in browser.get(reverse("admin:insurance_policy_changelist")).content.decode()


def test_nothing_issued_is_nothing_exposed():
    assert exposures(now=NOW) == []
    assert "No card holds anything." in page(signed_in(person("approver")))
    assert not Card.objects.exists()
