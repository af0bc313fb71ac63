"""One Idempotency-Key, one effect: sent again, changed, refused."""

from functools import partial
from typing import Any

import pytest

from config.ids import public_id
from issuing.models import Kind
from prepaid.models import Card, CardMove, Load, StoredAnswer, Transaction
from tests import cards, invariants

pytestmark = pytest.mark.django_db


@pytest.fixture
def card(lotus) -> str:
    return public_id("crd", cards.opened(cards.program(Kind.BONUS, merchant=lotus.merchant)).pk)


def order(lotus, reference: str = "PUR-1") -> dict[str, Any]:
    return {
        "program": public_id("prg", cards.program(Kind.BONUS, merchant=lotus.merchant).pk),
        "prepaid_amount": 100_000,
        "holder": {"name": "王小明", "phone": "13912342893"},
        "reference": reference,
        "payment_method": "WECHAT",
    }


def test_a_payment_sent_again_is_answered_again_and_made_once(lotus, card):
    ask = partial(lotus.post, f"cards/{card}/payments", {"list_amount": 100, "reference": "ORDER-1"})
    first = ask(Idempotency_Key="k-1")
    again = ask(Idempotency_Key="k-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert Transaction.objects.filter(kind="PAYMENT").count() == 1


def test_a_payment_that_was_refunded_meanwhile_is_still_answered_as_it_was(lotus, card):
    ask = partial(lotus.post, f"cards/{card}/payments", {"list_amount": 100, "reference": "ORDER-1"})
    first = ask(Idempotency_Key="k-1")
    back = partial(lotus.post, f"transactions/{first.json()['id']}/refunds", {"reference": "BACK-1"})
    refund = back(Idempotency_Key="k-2")
    assert ask(Idempotency_Key="k-1").content == first.content
    assert back(Idempotency_Key="k-2").content == refund.content


def test_what_moved_on_is_still_answered_as_it_was(lotus):
    ask = partial(lotus.post, "cards", order(lotus))
    first = ask(Idempotency_Key="k-1")
    path = f"cards/{first.json()['id']}"
    top_up = partial(lotus.post, f"{path}/top-ups", {"prepaid_amount": 5, "reference": "TOP-1"})
    topped_up = top_up(Idempotency_Key="k-2")
    freeze = partial(lotus.post, f"{path}/freeze", {"reason": "asked for"})
    frozen = freeze(Idempotency_Key="k-3")
    assert lotus.post(f"{path}/unfreeze", {"reason": "found"}).status_code == 200
    for repeat, key, expected in ((ask, "k-1", first), (top_up, "k-2", topped_up), (freeze, "k-3", frozen)):
        again = repeat(Idempotency_Key=key)
        assert (again.status_code, again.content) == (expected.status_code, expected.content)
        assert again.headers["Idempotency-Replayed"] == "true"
    assert (Card.objects.count(), Load.objects.count(), CardMove.objects.count()) == (1, 2, 2)
    assert Card.objects.get().state == "ACTIVE"
    invariants.hold()


def test_members_in_another_order_are_the_same_request(lotus, card):
    lotus.post(f"cards/{card}/payments", {"list_amount": 100, "reference": "ORDER-1"}, Idempotency_Key="k-1")
    again = lotus.post(f"cards/{card}/payments", {"reference": "ORDER-1", "list_amount": 100}, Idempotency_Key="k-1")
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_key_belongs_to_one_request(lotus, card):
    other = public_id("crd", cards.opened(cards.program(Kind.BONUS, merchant=lotus.merchant)).pk)
    payment = {"list_amount": 100, "reference": "ORDER-1"}
    lotus.post(f"cards/{card}/payments", payment, Idempotency_Key="k-1")
    lotus.post(f"cards/{card}/freeze", {"reason": "asked for"}, Idempotency_Key="k-2")
    before = invariants.picture()
    for key, path, body in (
        ("k-1", f"cards/{card}/payments", {**payment, "list_amount": 101}),
        ("k-1", f"cards/{other}/payments", payment),
        ("k-1", f"cards/{card}/unfreeze", {"reason": "asked for"}),
        ("k-1", "cards", order(lotus)),
        ("k-2", f"cards/{other}/payments", payment),
        ("k-2", f"cards/{card}/freeze", {"reason": "asked for again"}),
        ("k-2", f"cards/{other}/freeze", {"reason": "asked for"}),
        ("k-2", f"cards/{card}/unfreeze", {"reason": "asked for"}),
    ):
        answer = lotus.post(path, body, Idempotency_Key=key)
        assert (answer.status_code, answer.json()["code"]) == (422, "IdempotencyKeyReused"), (key, path)
    assert invariants.picture() == before


def test_another_merchants_keys_are_his_own(lotus, stranger, card):
    theirs = public_id("crd", cards.opened(cards.program(Kind.BONUS, merchant=stranger.merchant)).pk)
    lotus.post(f"cards/{card}/payments", {"list_amount": 100, "reference": "ORDER-1"}, Idempotency_Key="k-1")
    lotus.post(f"cards/{card}/freeze", {"reason": "asked for"}, Idempotency_Key="k-2")
    payment = {"list_amount": 5, "reference": "ORDER-1"}
    assert stranger.post(f"cards/{theirs}/payments", payment, Idempotency_Key="k-1").status_code == 201
    assert stranger.post(f"cards/{theirs}/freeze", {"reason": "x"}, Idempotency_Key="k-2").status_code == 200


def test_a_refused_request_does_not_burn_its_key(lotus, card):
    path = f"cards/{card}"
    refused = lotus.post(f"{path}/payments", {"list_amount": 10**9, "reference": "ORDER-1"}, Idempotency_Key="k-1")
    assert refused.status_code == 409
    paid = lotus.post(f"{path}/payments", {"list_amount": 1, "reference": "ORDER-1"}, Idempotency_Key="k-1")
    assert paid.status_code == 201
    assert lotus.post(f"{path}/unfreeze", {"reason": "x"}, Idempotency_Key="k-2").status_code == 409
    assert not StoredAnswer.objects.exists()
    assert lotus.post(f"{path}/freeze", {"reason": "x"}, Idempotency_Key="k-2").status_code == 200


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "IdempotencyKeyMissing"),
        ("", "IdempotencyKeyNotValid"),
        ("a b", "IdempotencyKeyNotValid"),
        ("é", "IdempotencyKeyNotValid"),
        ("a" * 256, "IdempotencyKeyNotValid"),
    ],
)
def test_every_request_that_changes_something_brings_a_key(lotus, card, key, code):
    payment = lotus.post(f"cards/{card}/payments", {"list_amount": 1, "reference": "ORDER-1"}).json()
    before = invariants.picture()
    for path, body in (
        ("cards", order(lotus)),
        (f"cards/{card}/payments", {"list_amount": 1, "reference": "ORDER-2"}),
        (f"cards/{card}/top-ups", {"prepaid_amount": 1, "reference": "TOP-1"}),
        (f"cards/{card}/close", {"reason": "x"}),
        (f"transactions/{payment['id']}/refunds", {"reference": "BACK-1"}),
        ("claims", {"card": card, "reference": "CLAIM-1"}),
    ):
        answer = lotus.post(path, body, Idempotency_Key=key)
        assert (answer.status_code, answer.json()["code"]) == (400, code), path
    assert invariants.picture() == before
