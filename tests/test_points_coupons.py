"""What happens to a coupon: redeemed once, held, extended, replaced, returned for points."""

from datetime import timedelta

import pytest

from config.states import IllegalMove
from points import codes, coupons
from points.models import Coupon, CouponMove, Exchange, PointsReturn
from prepaid.ledger import ReferenceUsed
from tests import cards
from tests import points_world as world
from tests.cards import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture
def row() -> Exchange:
    tea = world.product()
    world.ratio(tea)
    return world.issued(tea, 3)


def _first(row: Exchange) -> Coupon:
    return row.coupons.get(ordinal=1)


def _code(coupon: Coupon) -> str:
    return codes.written(codes.VAULT.unseal(coupon.code_sealed))


def test_a_coupon_is_redeemed_once_by_its_merchant(row: Exchange) -> None:
    code = _code(_first(row))
    used = coupons.redeem(merchant=row.merchant, code=code, reference="R1", store="S01", now=NOW)
    assert (used.state, used.store) == (Coupon.State.REDEEMED, "S01")
    assert coupons.redeem(merchant=row.merchant, code=code, reference="R1", now=NOW).pk == used.pk
    with pytest.raises(coupons.CouponNotRedeemable):
        coupons.redeem(merchant=row.merchant, code=code, reference="R2", now=NOW)
    with pytest.raises(ReferenceUsed):
        coupons.redeem(merchant=row.merchant, code=_code(row.coupons.get(ordinal=2)), reference="R1", now=NOW)


def test_one_text_for_unknown_used_expired_and_foreign(row: Exchange) -> None:
    first, second, third = row.coupons.order_by("ordinal")
    coupons.redeem(merchant=row.merchant, code=_code(first), reference="R1", now=NOW)
    coupons.freeze(coupon=third, reason="theft", by="staff:li", now=NOW)
    [unknown] = codes.new_codes(1)
    tries = [
        (row.merchant, unknown, NOW),
        (row.merchant, "no code at all", NOW),
        (row.merchant, _code(first), NOW),
        (row.merchant, _code(second), NOW + timedelta(days=90)),
        (row.merchant, _code(third), NOW),
        (cards.merchant(), _code(second), NOW),
    ]
    said = set()
    for merchant, code, now in tries:
        with pytest.raises(coupons.CouponNotRedeemable) as refusal:
            coupons.redeem(merchant=merchant, code=code, reference=cards.reference(), now=now)
        said.add((str(refusal.value), refusal.value.status, refusal.value.code))
    assert len(said) == 1


def test_a_frozen_coupon_is_freed_and_a_void_one_is_not(row: Exchange) -> None:
    coupon = _first(row)
    coupons.freeze(coupon=coupon, reason="dispute", by="staff:li", now=NOW)
    coupons.unfreeze(coupon=coupon, reason="settled", by="staff:li", now=NOW)
    coupons.void(coupon=coupon, reason="fraud", by="staff:li", now=NOW)
    with pytest.raises(IllegalMove):
        coupons.unfreeze(coupon=coupon, reason="again", by="staff:li", now=NOW)
    assert list(CouponMove.objects.order_by("id").values_list("what", flat=True)) == ["FREEZE", "UNFREEZE", "VOID"]


def test_coupons_expire_and_are_extended(row: Exchange) -> None:
    end = NOW + timedelta(days=90)
    assert coupons.expire(now=end - timedelta(seconds=1)) == 0
    assert coupons.expire(now=end) == 3
    coupon = _first(row)
    with pytest.raises(coupons.MustExpireLater):
        coupons.extend(coupon=coupon, expires_at=end, reason="late", by="staff:li", now=end)
    coupons.extend(coupon=coupon, expires_at=end + timedelta(days=1), reason="late", by="staff:li", now=end)
    assert coupons.redeem(merchant=row.merchant, code=_code(coupon), reference="R1", now=end).state == "REDEEMED"


def test_a_replaced_code_is_dead_and_the_coupon_stays_one(row: Exchange) -> None:
    old = _first(row)
    new = coupons.reissue(coupon=old, reason="seen by others", by="staff:li", now=NOW)
    with pytest.raises(coupons.CouponNotRedeemable):
        coupons.redeem(merchant=row.merchant, code=_code(old), reference="R1", now=NOW)
    coupons.redeem(merchant=row.merchant, code=_code(new), reference="R2", now=NOW)
    assert row.coupons.exclude(state=Coupon.State.REISSUED).count() == row.count


def test_reading_a_code_is_written_down(row: Exchange) -> None:
    coupon = _first(row)
    code = coupons.read_code(coupon=coupon, reason="the buyer asks", by="buyer", now=NOW)
    assert codes.read(code) is not None
    assert CouponMove.objects.get().what == "READ"


def test_only_unused_coupons_go_back_and_all_of_them_carry_all_points(row: Exchange) -> None:
    first, second, third = row.coupons.order_by("ordinal")
    coupons.redeem(merchant=row.merchant, code=_code(first), reference="R1", now=NOW)
    with pytest.raises(coupons.CouponsNotReturnable):
        coupons.give_back(exchange=row, coupon_ids=[first.pk, second.pk], reason="", by="buyer", now=NOW)
    with pytest.raises(coupons.CouponsNotReturnable):
        coupons.give_back(exchange=row, coupon_ids=[], reason="", by="buyer", now=NOW)
    assert not PointsReturn.objects.exists()
    back = coupons.give_back(exchange=row, coupon_ids=[second.pk, third.pk], reason="", by="buyer", now=NOW)
    assert (row.points, back.points) == (1_000, 667)
    with pytest.raises(coupons.CouponNotRedeemable):
        coupons.redeem(merchant=row.merchant, code=_code(second), reference="R2", now=NOW)
    with pytest.raises(coupons.CouponsNotReturnable):
        coupons.give_back(exchange=row, coupon_ids=[second.pk], reason="", by="buyer", now=NOW)


def test_a_return_ends_the_coupons_or_frees_them(row: Exchange) -> None:
    first, second, _third = row.coupons.order_by("ordinal")
    done = coupons.give_back(exchange=row, coupon_ids=[first.pk], reason="", by="buyer", now=NOW)
    refused = coupons.give_back(exchange=row, coupon_ids=[second.pk], reason="", by="buyer", now=NOW)
    PointsReturn.objects.update(state=PointsReturn.State.UNKNOWN)
    assert coupons.returned(row=done, now=NOW)
    assert not coupons.returned(row=done, now=NOW)
    assert coupons.return_refused(row=refused, code="2003", now=NOW)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, second.state) == (Coupon.State.RETURNED, Coupon.State.ACTIVE)
