"""Coupon products, ratios and accounts for the tests of points."""

from datetime import timedelta
from decimal import Decimal
from itertools import count
from time import monotonic
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from points import bank, exchange, parameters
from points.models import (
    Coupon,
    CouponProduct,
    Exchange,
    ExchangeQuote,
    ExchangeRatio,
    Inquiry,
    PointsAccount,
    PointsReturn,
)  # fmt: skip
from tests import cards
from tests.cards import NOW
from tests.partners import PATIENCE, PointsSystem

_numbers = count(1)


def person(name: str) -> User:
    return User.objects.get_or_create(username=name)[0]


def account(number: str = "6225000026000000") -> PointsAccount:
    return PointsAccount.objects.get_or_create(
        number_hash=bank.ACCOUNTS.hash(number),
        defaults={"number_sealed": bank.ACCOUNTS.seal_all([number])[0], "last4": number[-4:], "recorded_at": NOW},
    )[0]


def product(**facts: Any) -> CouponProduct:
    return CouponProduct.objects.create(
        **{
            "merchant": facts.pop("merchant", None) or cards.merchant(),
            "code": f"TEA{next(_numbers)}",
            "name": "Tea",
            "face_value": 5_000,
            "valid_days": 90,
            **facts,
        }
    )


def ratio(of: CouponProduct, points: str = "333.33", rounding: str = "CEIL", **facts: Any) -> ExchangeRatio:
    """A ratio in force: proposed by one, approved by another, known to the points system."""
    made = parameters.propose(
        product=of,
        ratio=Decimal(points),
        rounding=ExchangeRatio.Rounding(rounding),
        valid_from_at=facts.get("valid_from_at", NOW - timedelta(hours=1)),
        valid_until_at=facts.get("valid_until_at"),
        by=person("maker"),
        now=NOW - timedelta(hours=2),
    )
    parameters.approve(ratio=made, by=person("checker"), now=NOW - timedelta(hours=2))
    ExchangeRatio.objects.filter(pk=made.pk).update(advised_at=NOW, due_at=None)
    return made


def quote(of: CouponProduct, coupons: int = 3, *, by: PointsAccount | None = None) -> ExchangeQuote:
    return exchange.quote(account=by or account(), product=of, count=coupons, now=NOW)


def submitted(asked: ExchangeQuote, reference: str | None = None) -> Exchange:
    return exchange.submit(
        quote_id=asked.pk, account=asked.account, merchant=None, reference=reference or cards.reference("EX"), now=NOW
    )


def sent(row: Exchange) -> Exchange:
    """As if the deduction request had just been sent."""
    row.move(Exchange.State.UNKNOWN, sent_at=NOW)
    return row


def issued(of: CouponProduct, coupons: int = 3) -> Exchange:
    row = sent(submitted(quote(of, coupons)))
    taken = exchange.Deducted(f"B{next(_numbers)}", row.points, NOW.date().isoformat())
    assert exchange.issue(exchange=row, deducted=taken, now=NOW)
    row.refresh_from_db()
    return row


# Both books ------------------------------------------------------------------------------------------------------


def due() -> None:
    """What waits for its next moment, or for a dead process, has waited."""
    for model in (Exchange, PointsReturn):
        model._default_manager.filter(due_at__isnull=False).update(due_at=cards.OPENED)
    Inquiry.objects.update(until_at=cards.OPENED)


def the_clock_finishes() -> None:
    """Let the clock go on until nothing is owed, unknown or being reversed."""
    patience = monotonic() + PATIENCE
    while any(model._default_manager.filter(due_at__isnull=False).exists() for model in (Exchange, PointsReturn)):
        assert monotonic() < patience, list(Exchange.objects.values_list("state", "attempts", "problem"))
        due()
        bank.sweep(now=timezone.now(), seconds=5)


def both_books_agree(partner: PointsSystem, of: CouponProduct, *, points: int, stock: int) -> None:
    """Points deducted net = coupons issued and not returned × points, exchange by exchange; nothing is left open.

    ``points`` are those that all accounts held, ``stock`` what there was of the product, before anything happened.
    """
    rows = list(Exchange.objects.all())
    issued = [row for row in rows if row.state == Exchange.State.ISSUED]
    assert {row.state for row in rows} <= {Exchange.State.ISSUED, Exchange.State.REVERSED, Exchange.State.REJECTED}
    assert set(PointsReturn.objects.values_list("state", flat=True)) <= {PointsReturn.State.RETURNED}
    net = {
        row.request_no: (row.bank_reference, row.points - sum(row.returns.values_list("points", flat=True)))
        for row in issued
    }
    deducted = partner.holds(
        "SELECT r.request_no, d.bank_reference, d.points - d.returned AS net FROM points_system_deduction d"
        " JOIN points_system_request r ON r.id = d.request_id WHERE d.state = 'DEDUCTED'"
    )
    assert {row["request_no"]: (row["bank_reference"], row["net"]) for row in deducted} == net
    [left] = partner.holds("SELECT sum(remaining) AS points FROM points_system_lot")
    assert points - left["points"] == sum(taken for _reference, taken in net.values())
    for row in rows:
        coupons = row.coupons.exclude(state=Coupon.State.REISSUED)
        assert coupons.count() == (row.count if row in issued else 0)
        returned = coupons.filter(state=Coupon.State.RETURNED).count()
        assert returned == sum(row.returns.values_list("count", flat=True))
    of.refresh_from_db()
    assert of.stock == stock - sum(row.count for row in issued)
