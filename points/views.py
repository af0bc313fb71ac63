"""The merchant API of points and coupons. Each view reads strictly, calls one verb and answers."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _

from config import api
from config.api import optional, required
from config.errors import NotFound
from config.ids import example_of, parse_id, public_id
from config.money import MOST_FEN, AmountTooLarge
from issuing import orders
from points import accounts, bank, coupons, exchange, guessing, parameters, shapes
from points.models import Coupon, CouponProduct, Exchange, WrongGuess
from prepaid import answers, endpoint, ledger
from prepaid.endpoint import REFERENCE, Endpoint, Filters

COUNT = api.integer(least=-MOST_FEN)
"""Any integer: how many may be bought is for the business to say, by name."""


class CouponProductNotFound(NotFound):
    text = _("No such coupon product.")
    remedy = _("Take an id from the list of coupon products.")


class ExchangeNotFound(NotFound):
    text = _("No such exchange.")
    remedy = _("Take the id from the answer that submitted it.")


QUOTING = (
    CouponProductNotFound, accounts.PointsAccountNotReadable, exchange.CountNotPositive, exchange.TooManyPerOrder,
    exchange.ProductWithdrawn, orders.MerchantFailed, parameters.NoRatioInForce, exchange.OutOfStock, AmountTooLarge,
    exchange.PointsSystemHeld,
)  # fmt: skip
EXCHANGING = (
    exchange.QuoteNotFound, exchange.QuoteExpired, exchange.QuoteUsed, exchange.RatioEnded, exchange.TooManyPerDay,
    exchange.TooManyPerAccount, exchange.OutOfStock, exchange.ProductWithdrawn, orders.MerchantFailed,
    exchange.TooManyPerOrder, parameters.NoRatioInForce, ledger.ReferenceUsed, exchange.InsufficientPoints,
    exchange.PointsAccountNotUsable, exchange.PointsLimitExceeded, exchange.PointsSystemRefused,
    exchange.NothingWasTaken, exchange.PointsSystemHeld,
)  # fmt: skip
REDEEMING = (coupons.CouponNotRedeemable, ledger.ReferenceUsed, guessing.TooManyGuesses)


class CouponProducts(Endpoint):
    FILTERS: ClassVar[Filters] = {
        "state": ("state", optional(api.choice(CouponProduct.State.values))),
        "code": ("code", optional(api.text(most=32))),
    }

    @api.answers(shapes.CouponProductShape)
    def get(self, request: HttpRequest) -> HttpResponse:
        """List what points buy"""
        return self.listed(
            request,
            CouponProduct.objects.all(),
            self.FILTERS,
            lambda rows: shapes.products(rows, self.now, self.zone),
        )


class ExchangeQuotes(Endpoint):
    scopes: ClassVar = {"post": "exchanges:write"}
    BODY: ClassVar = {
        "points_account": required(api.text(most=32)),
        "coupon_product": required(api.naming("cpr")),
        "count": required(COUNT),
    }
    EXAMPLE: ClassVar = {"points_account": "6225000026000000", "coupon_product": example_of("cpr"), "count": 3}

    @api.answers(shapes.ExchangeQuoteShape, status=201, refuses=QUOTING)
    def post(self, request: HttpRequest) -> HttpResponse:
        """Quote the points for coupons

        The ratio holds until the quote expires; a quote is good once.
        """
        body = api.read_body(request, self.BODY)

        def effect() -> shapes.ExchangeQuoteShape:
            product = self.one(CouponProduct.objects.all(), "cpr", body["coupon_product"], CouponProductNotFound)
            account = accounts.known(number=body["points_account"], now=self.now)
            quoted = exchange.quote(account=account, product=product, count=body["count"], now=self.now)
            return shapes.quote(quoted, self.zone)

        return self.once(request, body, effect, status=201)


class Exchanges(Endpoint):
    scopes: ClassVar = {"post": "exchanges:write"}
    referred: ClassVar = "exc"
    BODY: ClassVar = {"quote": required(api.naming("quo")), "reference": required(REFERENCE)}
    EXAMPLE: ClassVar = {"quote": example_of("quo"), "reference": "EX-1"}

    @api.answers(shapes.ExchangeShape, status=201, or_also={202: shapes.ExchangeShape}, refuses=EXCHANGING)
    def post(self, request: HttpRequest) -> HttpResponse:
        """Exchange points for coupons

        The points system is asked while you wait, at most about ten seconds. 201: the points are taken and the coupons
        made; this answer and its repetition are the only ones with their codes. 202: there is no believable answer yet;
        send the same request again to be told the outcome.
        """
        # Outside of every transaction. What is kept first is that the exchange is under way; its outcome takes that
        # place once it is known. The codes are kept nowhere in clear: the answer is completed with them each time.
        body = api.read_body(request, self.BODY)
        key = self.idempotency_key(request)
        kept = answers.once(
            merchant_id=self.merchant.pk,
            key=key,
            fingerprint=answers.fingerprint("POST", request.path, body),
            now=self.asked_at,
            effect=lambda: (202, api.dump(self._submitted(body))),
        )
        status, shape = kept.status, json.loads(kept.body)
        if status == 202:
            row = self._settled(shape["id"])
            refusal = exchange.why_not(row)
            if refusal is not None:
                raise refusal
            if row.state == Exchange.State.ISSUED:
                status, shape = 201, shapes.exchange(row, self.zone)
                answers.settle(merchant_id=self.merchant.pk, key=key, status=status, body=api.dump(shape))
        return endpoint.mark(self.answer(self._with_codes(shape), status=status), replayed=kept.replayed)

    def _submitted(self, body: Mapping[str, Any]) -> shapes.ExchangeShape:
        quote_id = parse_id("quo", body["quote"])
        if quote_id is None:
            raise exchange.QuoteNotFound()
        row = exchange.submit(
            quote_id=quote_id, account=None, merchant=self.merchant, reference=body["reference"], now=self.now
        )
        return shapes.exchange(row, self.zone)

    def _settled(self, exchange_id: str) -> Exchange:
        row: Exchange = self.one(_EXCHANGES, "exc", exchange_id, ExchangeNotFound)
        if row.state == Exchange.State.PENDING:
            bank.deduct(row=row, now=self.asked_at)
            row.refresh_from_db()
        return row

    def _with_codes(self, shape: dict[str, Any]) -> dict[str, Any]:
        """The same answer with each coupon's code; that they were read is written down."""
        if not shape["coupons"]:
            return shape
        held = Coupon.objects.filter(exchange=parse_id("exc", shape["id"])).only("code_sealed")
        by_id = {public_id("cpn", one.pk): one for one in held}
        read = [by_id[one["id"]] for one in shape["coupons"]]
        in_clear = coupons.read_codes(coupons=read, reason="", by=self.by, now=self.now)
        told = [{**one, "code": code} for one, code in zip(shape["coupons"], in_clear, strict=True)]
        return {**shape, "coupons": told}


_EXCHANGES = Exchange.objects.select_related("account", "product__merchant", "quote__ratio__product")


class OneExchange(Endpoint):
    @api.answers(shapes.ExchangeShape, refuses=[ExchangeNotFound])
    def get(self, request: HttpRequest, exchange_id: str) -> HttpResponse:
        """Get an exchange"""
        api.read_query(request, {})
        return self.answer(shapes.exchange(self.one(_EXCHANGES, "exc", exchange_id, ExchangeNotFound), self.zone))


class Returns(Endpoint):
    scopes: ClassVar = {"post": "exchanges:write"}
    BODY: ClassVar = {"coupons": required(api.array(api.naming("cpn"), most=1000))}
    EXAMPLE: ClassVar = {"coupons": [example_of("cpn")]}

    @api.answers(shapes.AskedReturnShape, status=201, refuses=[ExchangeNotFound, coupons.CouponsNotReturnable])
    def post(self, request: HttpRequest, exchange_id: str) -> HttpResponse:
        """Return unused coupons for points

        They can no longer be redeemed; the points go back once the points system has confirmed it.
        """
        body = api.read_body(request, self.BODY)

        def effect() -> shapes.AskedReturnShape:
            row = self.one(_EXCHANGES, "exc", exchange_id, ExchangeNotFound)
            found: list[UUID] = [one for text in body["coupons"] if (one := parse_id("cpn", text))]
            if len(found) < len(body["coupons"]):
                raise coupons.CouponsNotReturnable(pointer="/coupons")
            made = coupons.give_back(exchange=row, coupon_ids=found, reason="", by=self.by, now=self.now)
            return {
                **shapes.points_return(made, self.zone),
                "coupons": [public_id("cpn", one) for one in dict.fromkeys(found)],
            }

        return self.once(request, body, effect, status=201)


class Redemptions(Endpoint):
    scopes: ClassVar = {"post": "coupons:write"}
    counted: ClassVar = {"post": "payment"}
    referred: ClassVar = "cpn"
    BODY: ClassVar = {
        "code": required(api.text(most=64)),
        "reference": required(REFERENCE),
        "store": optional(api.text(most=32)),
    }
    EXAMPLE: ClassVar = {"code": "8H4K-PQ2M-XW9R-TB77-K", "reference": "TILL-1", "store": "S-01"}

    @api.answers(shapes.RedeemedCouponShape, refuses=REDEEMING)
    def post(self, request: HttpRequest) -> HttpResponse:
        """Redeem a coupon

        Capitals, blanks and hyphens of the code do not matter. Unknown, used, expired and another merchant's coupon are
        one refusal; after ten wrong codes of one key within ten minutes there is a pause.
        """
        body = api.read_body(request, self.BODY)
        guesser = f"{self.merchant.code} {self.key.pk} …{self.key.last4}"[:80]
        guessing.check(WrongGuess.What.COUPON, guesser, now=self.asked_at)

        def effect() -> shapes.RedeemedCouponShape:
            return shapes.redeemed(coupons.redeem(merchant=self.merchant, now=self.now, **body), self.zone)

        try:
            return self.once(request, body, effect, status=200)
        except coupons.CouponNotRedeemable:
            guessing.note(WrongGuess.What.COUPON, guesser, now=self.asked_at)
            raise
