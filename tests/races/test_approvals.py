"""What is decided about changes at the very moment at which somebody decides."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.db import transaction
from django.test import Client
from django.utils import timezone

from claims import adjudication
from claims.models import Claim, Recovery
from config.admin import ChangedSinceShown
from config.tiers import AboveTier
from issuing.models import Batch
from tests.admin import records
from tests.admin.test_verbs import address, seen
from tests.races import meanwhile

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "owner"])


def test_an_approval_that_meets_a_change_waits_for_it_and_is_asked_again() -> None:
    batch = records.batch(records.insured_program(), made_by=records.staff("maker"))
    browser = Client()
    browser.force_login(User.objects.create_superuser("chief", password="secret"))
    form = seen(browser.get(address(batch, "approve")).content.decode())
    answer: Any
    transaction.set_autocommit(False)
    try:
        Batch.objects.filter(pk=batch.pk).update(good_amount=1)
        with meanwhile(lambda: browser.post(address(batch, "approve"), form)) as answer:
            transaction.commit()
            told = " ".join(map(str, get_messages(answer().wsgi_request)))
    finally:
        transaction.set_autocommit(True)
    assert str(ChangedSinceShown.text) in told
    batch.refresh_from_db()
    assert batch.state == Batch.State.STAGED


def test_an_approval_that_meets_a_larger_assessment_is_a_senior_approvers(settings: Any) -> None:
    settings.SENIOR_APPROVAL_FROM = 100_000
    card = records.card()
    records.accepted(card)
    claim = records.claim(card)
    adjuster, approver = records.staff("first-adjuster"), records.staff("first-approver")
    adjudication.assess(claim=claim, by=adjuster, now=timezone.now(), excluded=1)
    shown: Any = Claim.objects.get(pk=claim.pk)
    assert shown.payable == 99_999
    transaction.set_autocommit(False)
    try:
        adjudication.assess(claim=claim, by=adjuster, now=timezone.now(), excluded=0)
        with meanwhile(lambda: adjudication.approve(claim=shown, by=approver, now=timezone.now())) as answer:
            transaction.commit()
            assert isinstance(answer(), AboveTier)
    finally:
        transaction.set_autocommit(True)
    assert Claim.objects.get().state == Claim.State.ASSESSED
    assert not Recovery.objects.exists()
