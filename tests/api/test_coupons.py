"""Redeeming coupons over the API, and guessing at their codes."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from config.ids import public_id
from points import codes, guessing
from points.models import Coupon, WrongGuess
from tests import points_world as world
from tests.api.asking import Asker, asker, without_id

pytestmark = pytest.mark.django_db


@pytest.fixture
def coupons(lotus: Asker) -> list[Coupon]:
    tea = world.product(merchant=lotus.merchant)
    world.ratio(tea)
    made = list(world.issued(tea, 3).coupons.order_by("ordinal"))
    Coupon.objects.update(expires_at=timezone.now() + timedelta(days=1))
    return made


def code(coupon: Coupon) -> str:
    return codes.written(codes.VAULT.unseal(coupon.code_sealed))


def redeem(by: Asker, text: str, reference: str = "TILL-1", **headers: str) -> Any:
    return by.post("coupons/redeem", {"code": text, "reference": reference, "store": "S-01"}, **headers)


def test_a_coupon_is_redeemed_once_and_a_repetition_is_answered_again(lotus: Asker, coupons: list[Coupon]) -> None:
    first = redeem(lotus, code(coupons[0]), Idempotency_Key="r-1")
    assert first.status_code == 200, first.content
    body = first.json()
    assert (body["id"], body["state"]) == (public_id("cpn", coupons[0].pk), "REDEEMED")
    assert (body["reference"], body["store"], body["face_value"]) == ("TILL-1", "S-01", 5_000)
    assert code(coupons[0]) not in first.content.decode()
    again = redeem(lotus, code(coupons[0]), Idempotency_Key="r-1")
    assert (again.content, again.headers["Idempotency-Replayed"]) == (first.content, "true")
    taken = redeem(lotus, code(coupons[1]))
    assert (taken.status_code, taken.json()["code"], taken.json()["first"]) == (409, "ReferenceUsed", body["id"])
    assert not WrongGuess.objects.exists()


def test_unknown_used_expired_foreign_and_misread_are_one_answer(
    lotus: Asker, stranger: Asker, coupons: list[Coupon]
) -> None:
    redeem(lotus, code(coupons[0]))
    Coupon.objects.filter(pk=coupons[1].pk).update(expires_at=timezone.now())
    [unknown] = codes.new_codes(1)
    answers = [
        redeem(lotus, unknown, "A"),
        redeem(lotus, "no code", "B"),
        redeem(lotus, code(coupons[0]), "C"),
        redeem(lotus, code(coupons[1]), "D"),
        redeem(stranger, code(coupons[2]), "E"),
    ]
    assert {answer.status_code for answer in answers} == {422}
    assert len({without_id(answer) for answer in answers}) == 1
    assert WrongGuess.objects.count() == 5
    assert Coupon.objects.get(pk=coupons[2].pk).state == "ACTIVE"


def test_whoever_guesses_is_stopped_and_nobody_else(lotus: Asker, stranger: Asker, coupons: list[Coupon]) -> None:
    for turn, unknown in enumerate(codes.new_codes(guessing.MOST)):
        assert redeem(lotus, unknown, f"G-{turn}").status_code == 422
    stopped = redeem(lotus, code(coupons[0]))
    assert (stopped.status_code, stopped.json()["code"]) == (429, "TooManyGuesses")
    assert 590 <= int(stopped.headers["Retry-After"]) <= 600
    assert Coupon.objects.get(pk=coupons[0].pk).state == "ACTIVE"
    assert [one["count"] for one in guessing.guessers(now=timezone.now())] == [guessing.MOST]
    # Another key of the merchant works on, and this one again when its time is over.
    assert redeem(asker(lotus.merchant), code(coupons[1])).status_code == 200
    WrongGuess.objects.update(recorded_at=timezone.now() - guessing.WITHIN)
    assert redeem(lotus, code(coupons[0]), "TILL-2").status_code == 200
