"""Parameter management (参数管理模块): exchange ratios, versioned and approved by a second person, never edited.

A ratio is in force from its moment on until it ends or a later one begins, once the points system has been told of it:
that system works the points out again and refuses a ratio it does not know.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F, Max, Q
from django.utils.translation import gettext_lazy as _

from config.errors import NotTheMaker, Refused, SamePerson
from config.handshakes import new_request_no
from config.states import IllegalMove
from issuing.merchants import copied
from issuing.models import TEST_SUFFIX, Merchant
from points.models import CouponProduct, ExchangeRatio

MOST_RATIO = Decimal("99999999.9999")


class RatioNotPositive(Refused):
    status = 422
    text = _("A coupon costs more than nothing, and less than a hundred million points.")


class RatioTooFine(Refused):
    status = 422
    text = _("A ratio has at most four decimals.")


class EndsBeforeItBegins(Refused):
    status = 422
    text = _("It would end before it begins.")


class BeginsInThePast(Refused):
    status = 422
    text = _("A ratio begins in the future: what was quoted before stays as it was quoted.")


class ReasonNeeded(Refused):
    status = 422
    text = _("Say why.")


class NoRatioInForce(Refused):
    text = _("There is no exchange ratio in force for these coupons.")
    remedy = _("Choose other coupons, or come back once there is a ratio.")
    can_be_sent_again = True


def propose(
    *,
    product: CouponProduct,
    ratio: Decimal,
    rounding: ExchangeRatio.Rounding,
    valid_from_at: datetime,
    valid_until_at: datetime | None,
    by: User,
    now: datetime,
) -> ExchangeRatio:
    """Propose the next version of a product's ratio, in points per coupon.

    :raises RatioNotPositive, RatioTooFine, BeginsInThePast, EndsBeforeItBegins:
    """
    if not ratio.is_finite() or not 0 < ratio <= MOST_RATIO:
        raise RatioNotPositive()
    if ratio != round(ratio, 4):
        raise RatioTooFine()
    if valid_from_at < now:
        raise BeginsInThePast()
    if valid_until_at is not None and valid_until_at <= valid_from_at:
        raise EndsBeforeItBegins()
    with transaction.atomic():
        # Two proposals at once would both be the same version.
        CouponProduct.objects.select_for_update().get(pk=product.pk)
        last = product.ratios.aggregate(last=Max("version"))["last"] or 0
        return ExchangeRatio.objects.create(
            product=product,
            version=last + 1,
            ratio=ratio,
            rounding=rounding,
            valid_from_at=valid_from_at,
            valid_until_at=valid_until_at,
            made_by=by,
            recorded_at=now,
        )


def copy_products(*, merchant: Merchant, twin: Merchant, now: datetime) -> None:
    """Give a test twin the merchant's coupon products, each with the ratio in force; what was copied before stays."""
    there = set(twin.coupon_products.values_list("code", flat=True))
    offered = list(merchant.coupon_products.filter(state=CouponProduct.State.ACTIVE))
    ratios = {
        ratio.product_id: ratio
        for ratio in ExchangeRatio.objects.filter(
            Q(valid_until_at=None) | Q(valid_until_at__gt=now),
            product__in=offered,
            state=ExchangeRatio.State.APPROVED,
            valid_from_at__lte=now,
        ).order_by("valid_from_at")
    }
    for product in offered:
        if product.code + TEST_SUFFIX in there:
            continue
        copy = copied(product, merchant=twin, code=product.code + TEST_SUFFIX)
        if ratio := ratios.get(product.pk):
            # Approved as it was, and told to the points system's test side, which does not know it.
            copied(ratio, product=copy, version=1, request_no=new_request_no(), advised_at=None, due_at=now, attempts=0)


def approve(*, ratio: ExchangeRatio, by: User, now: datetime) -> None:
    """Let a proposed ratio count; the points system is told of it at once.

    :raises SamePerson: whoever proposed it.
    :raises IllegalMove: it was decided already.
    """
    if ratio.made_by_id == by.pk:
        raise SamePerson()
    ratio.move(ExchangeRatio.State.APPROVED, approved_by=by, decided_at=now, due_at=now)


def reject(*, ratio: ExchangeRatio, reason: str, by: User, now: datetime) -> None:
    """Refuse a proposed ratio.

    :raises ReasonNeeded:
    :raises SamePerson: whoever proposed it; they withdraw it.
    :raises IllegalMove: it was decided already.
    """
    if not reason.strip():
        raise ReasonNeeded()
    if ratio.made_by_id == by.pk:
        raise SamePerson()
    ratio.move(ExchangeRatio.State.REJECTED, approved_by=by, decided_at=now, reason=reason.strip())


def withdraw(*, ratio: ExchangeRatio, by: User, now: datetime) -> None:
    """Take back a ratio that nobody has decided about.

    :raises NotTheMaker: somebody else proposed it.
    :raises IllegalMove: it was decided already.
    """
    if ratio.made_by_id != by.pk:
        raise NotTheMaker()
    ratio.move(ExchangeRatio.State.WITHDRAWN, decided_at=now)


def restock(*, product: CouponProduct, more: int) -> int:
    """Add coupons to what may still be issued, beside what is taken at the same moment; returns what is there then.

    :raises IllegalMove: the product has no end of stock.
    """
    if not CouponProduct.objects.filter(pk=product.pk, stock__isnull=False).update(stock=F("stock") + more):
        raise IllegalMove(state=product.state)
    product.refresh_from_db(fields=["stock"])
    return product.stock or 0


def in_force(product: CouponProduct, at: datetime) -> ExchangeRatio:
    """The version that holds at a moment: the latest begun one, unless it has ended.

    :raises NoRatioInForce:
    """
    ratio = all_in_force([product], at).get(product.pk)
    if ratio is None:
        raise NoRatioInForce()
    return ratio


def all_in_force(products: Sequence[CouponProduct], at: datetime) -> dict[UUID, ExchangeRatio]:
    """Of each product that has one, the version that holds at a moment; one query."""
    begun = ExchangeRatio.objects.filter(
        product__in=products, state=ExchangeRatio.State.APPROVED, advised_at__isnull=False, valid_from_at__lte=at
    ).select_related("product")
    latest = begun.order_by("product_id", "-valid_from_at").distinct("product_id")
    return {row.product_id: row for row in latest if row.valid_until_at is None or row.valid_until_at > at}


def upcoming(product: CouponProduct, at: datetime) -> list[ExchangeRatio]:
    """What will hold later, soonest first."""
    rows = product.ratios.filter(
        valid_from_at__gt=at, state__in=[ExchangeRatio.State.PROPOSED, ExchangeRatio.State.APPROVED]
    )
    return list(rows.order_by("valid_from_at"))
