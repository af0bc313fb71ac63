"""The customer's page: points seen, coupons chosen, points spent, coupons held. It works without JavaScript.

Signing in with an account and a password is for the demonstration; a bank's own customers come signed in from the bank.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

import segno
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from config.errors import Refused
from config.ids import parse_id, public_id
from config.money import format_yuan
from issuing.models import Merchant
from points import accounts, bank, calculation, coupons, exchange, parameters
from points.models import Coupon, CouponProduct, Exchange, ExchangeQuote, PointsAccount

SIGNED_IN = "points_account"
SHOWN = 50
"""How many coupons or exchanges stand on one page."""


class CountNotReadable(Refused):
    status = 422
    text = _("Give the number of coupons in digits.")


View = Callable[..., HttpResponse]


def _customers(view: Callable[..., HttpResponse]) -> View:
    """A page for a customer who has signed in; others are led to the door. Nothing of it is kept by a browser."""

    @never_cache
    @wraps(view)
    def page(request: HttpRequest, **place: Any) -> HttpResponse:
        kept = request.session.get(SIGNED_IN)
        account = PointsAccount.objects.filter(pk=kept).first() if kept else None
        if account is None:
            return HttpResponseRedirect(reverse("points-sign-in"))
        return view(request, account, **place)

    return page


def _refused(request: HttpRequest, account: PointsAccount, refusal: Refused) -> HttpResponse:
    context = _home(account, refusal=str(refusal), here=reverse("points-home"))
    return render(request, "points/home.html", context, status=refusal.status)


# The door -------------------------------------------------------------------------------------------------------


@never_cache
def sign_in(request: HttpRequest) -> HttpResponse:
    """Ask for account and password, with one answer to all that do not belong together."""
    if request.method != "POST":
        return render(request, "points/sign_in.html")
    number = request.POST.get("account", "")[:32]
    try:
        account = accounts.sign_in(number=number, password=request.POST.get("password", "")[:128], now=timezone.now())
    except Refused as refusal:
        return render(request, "points/sign_in.html", {"refusal": str(refusal)}, status=refusal.status)
    # A session that somebody else may have set up is not the one that is signed in.
    request.session.cycle_key()
    request.session[SIGNED_IN] = account.pk.hex
    return HttpResponseRedirect(reverse("points-home"))


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    request.session.pop(SIGNED_IN, None)
    request.session.cycle_key()
    return HttpResponseRedirect(reverse("points-sign-in"))


# Choosing -------------------------------------------------------------------------------------------------------


@require_safe
@_customers
def home(request: HttpRequest, account: PointsAccount) -> HttpResponse:
    """What points buy, and what this customer exchanged before."""
    return render(request, "points/home.html", _home(account))


def _home(account: PointsAccount, **more: object) -> dict[str, object]:
    now = timezone.now()
    offered = list(_offered())
    ratios = parameters.all_in_force(offered, now)
    mine = _exchanges(account).select_related("product").order_by("-pk")
    return {
        "account": account,
        "products": [_shown(row) | {"ratio": ratios[row.pk].ratio.normalize()} for row in offered if row.pk in ratios],
        "exchanges": [_outcome(row) for row in mine[:SHOWN]],
        **more,
    }


def _offered() -> QuerySet[CouponProduct]:
    return (
        CouponProduct.objects.filter(
            state=CouponProduct.State.ACTIVE, merchant__state=Merchant.State.ACTIVE, merchant__test_of=None
        )
        .select_related("merchant")
        .order_by("merchant__code", "face_value", "code")
    )


def _shown(row: CouponProduct) -> dict[str, Any]:
    is_chinese = (get_language() or "").startswith("zh")
    return {
        "product": row,
        "name": row.name_zh if is_chinese and row.name_zh else row.name,
        "face_value": format_yuan(row.face_value),
        "is_sold_out": row.stock == 0,
        "most": row.most_per_order if row.stock is None else min(row.most_per_order, row.stock),
    }


def _exchanges(account: PointsAccount) -> QuerySet[Exchange]:
    """What the customer exchanged. A merchant that tries things out may name the same account: that is not shown."""
    return Exchange.objects.filter(account=account, merchant__test_of=None)


def _outcome(row: Exchange) -> dict[str, Any]:
    settled = {
        Exchange.State.ISSUED: _("coupons issued"),
        Exchange.State.REJECTED: _("refused"),
        Exchange.State.REVERSED: _("came to nothing"),
    }
    return {
        "row": row,
        **_shown(row.product),
        "outcome": settled.get(Exchange.State(row.state), _("in progress")),
        "is_open": row.state not in settled,
    }


@require_safe
@_customers
def balance(request: HttpRequest, account: PointsAccount) -> HttpResponse:
    """How many points the points system says there are now."""
    return render(
        request,
        "points/balance.html",
        {"account": account, "points": bank.balance(account=account, now=timezone.now())},
    )


@require_safe
@_customers
def price(request: HttpRequest, account: PointsAccount) -> HttpResponse:
    """The points for a count that is still being typed, as a bare text; empty where there is nothing to say."""
    now = timezone.now()
    product_id = parse_id("cpr", request.GET.get("product"))
    product = _offered().filter(pk=product_id).first() if product_id else None
    try:
        count = _count(request.GET.get("count", ""))
        ratio = None if product is None else parameters.in_force(product, now)
    except Refused:
        ratio = None
    points = calculation.points_needed(count, ratio.ratio, ratio.rounding) if ratio and count else None
    return HttpResponse("" if points is None else f"{points:,}", content_type="text/plain; charset=utf-8")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise CountNotReadable()
    return int(text)


@require_POST
@_customers
def quote(request: HttpRequest, account: PointsAccount) -> HttpResponse:
    """Have the points worked out for a product and a count; the answer is a page of its own."""
    product_id = parse_id("cpr", request.POST.get("product"))
    product = _offered().filter(pk=product_id).first() if product_id else None
    if product is None:
        raise Http404
    try:
        made = exchange.quote(
            account=account, product=product, count=_count(request.POST.get("count", "").strip()), now=timezone.now()
        )
    except Refused as refusal:
        return _refused(request, account, refusal)
    return HttpResponseRedirect(reverse("points-quote", args=[made.pk]))


def _mine(account: PointsAccount, quote_id: UUID) -> ExchangeQuote:
    quotes = ExchangeQuote.objects.filter(product__merchant__test_of=None).select_related("product__merchant", "ratio")
    found = quotes.filter(pk=quote_id, account=account).first()
    if found is None:
        raise Http404
    return found


@require_safe
@_customers
def quoted(request: HttpRequest, account: PointsAccount, quote_id: UUID) -> HttpResponse:
    """What it would cost; nothing has happened yet."""
    row = _mine(account, quote_id)
    used = Exchange.objects.filter(quote=row).first()
    if used is not None:
        return HttpResponseRedirect(reverse("points-exchange", args=[used.pk]))
    context = {
        "account": account, "quote": row, "ratio": row.ratio.ratio.normalize(), **_shown(row.product),
        "is_over": row.expires_at <= timezone.now(),
    }  # fmt: skip
    return render(request, "points/quote.html", context)


# Exchanging -----------------------------------------------------------------------------------------------------


@require_POST
@_customers
def submit(request: HttpRequest, account: PointsAccount, quote_id: UUID) -> HttpResponse:
    """Spend the points. Pressed twice it is still one exchange: the quote is good once, and leads to it."""
    row = _mine(account, quote_id)
    now = timezone.now()
    try:
        made = exchange.submit(quote_id=row.pk, account=account, merchant=None, reference=f"WEB-{row.pk.hex}", now=now)
    except exchange.QuoteUsed:
        made = Exchange.objects.get(quote=row)
    except Refused as refusal:
        return _refused(request, account, refusal)
    bank.deduct(row=made, now=now)
    return HttpResponseRedirect(reverse("points-exchange", args=[made.pk]))


def _my_exchange(account: PointsAccount, exchange_id: UUID) -> Exchange:
    mine = _exchanges(account).select_related("product__merchant")
    found = mine.filter(pk=exchange_id).first()
    if found is None:
        raise Http404
    return found


@require_safe
@_customers
def exchanged(request: HttpRequest, account: PointsAccount, exchange_id: UUID) -> HttpResponse:
    """The coupons, or why there are none, or that it is in progress; then the page looks again by itself."""
    return _exchange_page(request, account, _my_exchange(account, exchange_id))


def _exchange_page(
    request: HttpRequest, account: PointsAccount, row: Exchange, refusal: Refused | None = None
) -> HttpResponse:
    now = timezone.now()
    held = row.coupons.exclude(state=Coupon.State.REISSUED).order_by("ordinal")
    number = request.GET.get("page", "1")
    at = int(number) if number.isascii() and number.isdigit() and len(number) < 5 else 1
    start = max(0, at - 1) * SHOWN
    part = list(held[start : start + SHOWN])
    why_not = exchange.why_not(row)
    context = {
        "account": account,
        **_outcome(row),
        "coupons": _with_codes(part, now),
        "can_return": any(one.state == Coupon.State.ACTIVE and one.expires_at > now for one in part),
        "earlier": at - 1 if start else None,
        "later": at + 1 if start + SHOWN < row.count and part else None,
        "returns": row.returns.order_by("pk"),
        "refusal": str(refusal) if refusal else "",
        "why_not": str(why_not) if why_not else "",
        "look_again": _look_again(row, now),
        "here": reverse("points-exchange", args=[row.pk]),
    }
    return render(request, "points/exchange.html", context, status=refusal.status if refusal else 200)


def _look_again(row: Exchange, now: Any) -> int | None:
    """Seconds until the page looks again: soon at first, later less often; not at all once it is settled."""
    is_open = row.state in (
        Exchange.State.PENDING,
        Exchange.State.UNKNOWN,
        Exchange.State.REVERSING,
        Exchange.State.UNRESOLVED,
    )
    is_returning = row.returns.filter(state__in=["PENDING", "UNKNOWN"]).exists()
    if not (is_open or is_returning):
        return None
    return 3 if (now - row.submitted_at).total_seconds() < 60 else 15


def _with_codes(part: list[Coupon], now: Any) -> list[dict[str, Any]]:
    """Coupons with their codes, of those that can still be used; that they were shown is written down."""
    good = [one for one in part if one.state == Coupon.State.ACTIVE and one.expires_at > now]
    read = coupons.read_codes(coupons=good, reason="", by="buyer", now=now) if good else []
    in_clear = dict(zip([one.pk for one in good], read, strict=True))
    shown = []
    for one in part:
        code = in_clear.get(one.pk)
        picture = segno.make(code.replace("-", ""), error="m", micro=False) if code else None
        shown.append(
            {
                "row": one,
                "id": public_id("cpn", one.pk),
                "code": code,
                "picture": picture.svg_data_uri(scale=4, border=4) if picture else None,
            }
        )
    return shown


@require_POST
@_customers
def give_back(request: HttpRequest, account: PointsAccount, exchange_id: UUID) -> HttpResponse:
    """Return unused coupons for their points."""
    row = _my_exchange(account, exchange_id)
    ids = [parse_id("cpn", text) for text in request.POST.getlist("coupon")[:SHOWN]]
    try:
        if None in ids:
            raise coupons.CouponsNotReturnable()
        coupons.give_back(
            exchange=row, coupon_ids=[one for one in ids if one], reason="", by="buyer", now=timezone.now()
        )
    except Refused as refusal:
        return _exchange_page(request, account, row, refusal)
    return HttpResponseRedirect(reverse("points-exchange", args=[row.pk]))
