"""What the merchant API answers about points and coupons. Face values in fen, ratios as decimal texts, codes masked."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated, NotRequired, Protocol, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

from config.ids import public_id
from config.shapes import Currency, Fen, Last4, Moment, Ratio, Term, identity, moment
from points import bank, parameters
from points.models import Coupon, CouponProduct, Exchange, ExchangeQuote, ExchangeRatio, PointsReturn

CURRENCY = "CNY"
_SETTLED = {Exchange.State.ISSUED, Exchange.State.REJECTED, Exchange.State.REVERSED}


ProductId = Annotated[str, identity("cpr", "coupon_product")]
QuoteId = Annotated[str, identity("quo", "quote")]
ExchangeId = Annotated[str, identity("exc", "exchange")]
CouponId = Annotated[str, identity("cpn", "coupon")]
ReturnId = Annotated[str, identity("ret", "return")]
ExchangeState = Annotated[
    str,
    Term(
        "ExchangeState",
        {
            "type": "string",
            "enum": [Exchange.State.PENDING.value, *sorted(_SETTLED)],
            "description": "Whatever is not settled is PENDING.",
        },
    ),
]
Rounding = Annotated[str, ExchangeRatio.Rounding]


class RatioInForceShape(TypedDict):
    """The ratio in force."""

    version: str
    points_per_coupon: Ratio
    rounding: Rounding
    valid_until: Moment | None


class CouponProductShape(TypedDict):
    """What points buy."""

    id: ProductId
    code: str
    name: str
    name_zh: str | None
    state: Annotated[str, CouponProduct.State]
    currency: Currency
    face_value: Fen
    valid_days: int
    stock: int | None
    most_per_order: int | None
    most_per_day: int | None
    most_per_account: int | None
    ratio: Annotated[RatioInForceShape | None, "null if there is none in force."]


class PointsAccountShape(TypedDict):
    """A points account, masked."""

    last4: Last4


class ExchangeQuoteShape(TypedDict):
    """The points for a number of coupons: count × ratio, rounded once on the total. Good once, until it expires."""

    id: QuoteId
    points_account: PointsAccountShape
    coupon_product: ProductId
    count: int
    points: int
    ratio: Ratio
    ratio_version: str
    rounding: Rounding
    expires_at: Moment


class CouponShape(TypedDict):
    """A coupon, its code masked."""

    id: CouponId
    ordinal: int
    last4: Last4
    face_value: Fen
    state: Annotated[str, Coupon.State]
    expires_at: Moment
    code: NotRequired[Annotated[str, "Only in the answer that issues it and in its repetition."]]


class RedeemedCouponShape(CouponShape):
    """A coupon that was redeemed."""

    coupon_product: ProductId
    currency: Currency
    reference: str | None
    store: str | None
    redeemed_at: Moment | None


class PointsReturnShape(TypedDict):
    """Points on their way back for unused coupons. REJECTED: the coupons are good again."""

    id: ReturnId
    exchange: ExchangeId
    count: int
    points: int
    state: Annotated[str, PointsReturn.State]
    refusal_code: str | None
    created_at: Moment
    returned_at: Moment | None


class AskedReturnShape(PointsReturnShape):
    """A return that was just asked for, with its coupons."""

    coupons: list[CouponId]


class ExchangeShape(TypedDict):
    """An exchange of points with its coupons and what was returned of them."""

    id: ExchangeId
    quote: QuoteId
    points_account: PointsAccountShape
    coupon_product: ProductId
    reference: str
    count: int
    points: int
    state: ExchangeState
    refusal_code: str | None
    coupons: list[CouponShape]
    returns: list[PointsReturnShape]
    created_at: Moment
    issued_at: Moment | None


def products(rows: Sequence[CouponProduct], now: datetime, zone: ZoneInfo) -> list[CouponProductShape]:
    """Coupon products with the ratio in force, in two queries for any number of them."""
    ratios = parameters.all_in_force(rows, now)
    return [
        {
            "id": public_id("cpr", row.pk),
            "code": row.code,
            "name": row.name,
            "name_zh": row.name_zh or None,
            "state": row.state,
            "currency": CURRENCY,
            "face_value": row.face_value,
            "valid_days": row.valid_days,
            "stock": row.stock,
            "most_per_order": row.most_per_order,
            "most_per_day": row.most_per_day,
            "most_per_account": row.most_per_account,
            "ratio": _ratio(ratios[row.pk], zone) if row.pk in ratios else None,
        }
        for row in rows
    ]


def _ratio(row: ExchangeRatio, zone: ZoneInfo) -> RatioInForceShape:
    return {
        "version": bank.ratio_version(row),
        "points_per_coupon": f"{row.ratio.normalize():f}",
        "rounding": row.rounding,
        "valid_until": moment(row.valid_until_at, zone),
    }


def quote(row: ExchangeQuote, zone: ZoneInfo) -> ExchangeQuoteShape:
    return {
        "id": public_id("quo", row.pk),
        "points_account": {"last4": row.account.last4},
        "coupon_product": public_id("cpr", row.product_id),
        "count": row.count,
        "points": row.points,
        "ratio": f"{row.ratio.ratio.normalize():f}",
        "ratio_version": bank.ratio_version(row.ratio),
        "rounding": row.ratio.rounding,
        "expires_at": moment(row.expires_at, zone),
    }


def exchange(row: Exchange, zone: ZoneInfo) -> ExchangeShape:
    """An exchange with its coupons and what was returned of them. Whatever is not settled is PENDING outside."""
    return {
        "id": public_id("exc", row.pk),
        "quote": public_id("quo", row.quote_id),
        "points_account": {"last4": row.account.last4},
        "coupon_product": public_id("cpr", row.product_id),
        "reference": row.reference,
        "count": row.count,
        "points": row.points,
        "state": row.state if row.state in _SETTLED else Exchange.State.PENDING.value,
        "refusal_code": row.refusal_code or None,
        "coupons": [coupon(one, zone) for one in _coupons(row)],
        "returns": [points_return(one, zone) for one in row.returns.order_by("pk")],
        "created_at": moment(row.submitted_at, zone),
        "issued_at": moment(row.issued_at, zone),
    }


class Seen(Protocol):
    """What is told of a coupon."""

    id: UUID
    ordinal: int
    last4: str
    face_value: int
    state: str
    expires_at: datetime


def _coupons(row: Exchange) -> Iterable[Seen]:
    # Up to ten thousand: no more of each than is told, and no model around it.
    held = row.coupons.exclude(state=Coupon.State.REISSUED).order_by("ordinal")
    told: Iterable[Seen] = held.values_list(*Seen.__annotations__, named=True)
    return told


def coupon(row: Seen, zone: ZoneInfo) -> CouponShape:
    return {
        "id": public_id("cpn", row.id),
        "ordinal": row.ordinal,
        "last4": row.last4,
        "face_value": row.face_value,
        "state": row.state,
        "expires_at": moment(row.expires_at, zone),
    }


def redeemed(row: Coupon, zone: ZoneInfo) -> RedeemedCouponShape:
    return {
        **coupon(row, zone),
        "coupon_product": public_id("cpr", row.product_id),
        "currency": CURRENCY,
        "reference": row.redeemed_reference,
        "store": row.store or None,
        "redeemed_at": moment(row.redeemed_at, zone),
    }


def points_return(row: PointsReturn, zone: ZoneInfo) -> PointsReturnShape:
    return {
        "id": public_id("ret", row.pk),
        "exchange": public_id("exc", row.exchange_id),
        "count": row.count,
        "points": row.points,
        "state": row.state,
        "refusal_code": row.refusal_code or None,
        "created_at": moment(row.recorded_at, zone),
        "returned_at": moment(row.returned_at, zone),
    }
