"""The back office of points: what they buy and for how many, each exchange with its conversation, coupons, returns."""

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from config.admin import (
    NOTHING,
    Facts,
    House,
    Panel,
    Reason,
    Tab,
    Terms,
    Verb,
    badge,
    by_staff,
    by_state,
    column,
    figure,
    link,
    listing,
    moment,
    number,
    shown_once,
    state_of,
    yuan,
)
from config.errors import SamePerson
from config.ids import parse_id
from issuing.models import Merchant
from points import coupons, exchange, parameters, repairs
from points.models import (
    Coupon,
    CouponMove,
    CouponProduct,
    Exchange,
    ExchangeQuote,
    ExchangeRatio,
    PointsAccount,
    PointsMessage,
    PointsReturn,
    Repair,
    WrongGuess,
)

SHOWN = 50
"""How many coupons, messages or returns a page shows; their lists have them all."""

LATELY = timedelta(days=7)


# Parameters ------------------------------------------------------------------------------------------------------


def _withdraw(request: HttpRequest, row: CouponProduct, data: dict[str, Any]) -> object:
    row.move(CouponProduct.State.WITHDRAWN)
    return _("Withdrawn: no points are taken for it any more. Coupons that are there stay good.")


def _offer_again(request: HttpRequest, row: CouponProduct, data: dict[str, Any]) -> object:
    row.move(CouponProduct.State.ACTIVE)
    return _("Offered again.")


class Restock(forms.Form):
    more = forms.IntegerField(label=_("so many more"), min_value=1, max_value=10**6)


def _restock(request: HttpRequest, row: CouponProduct, data: dict[str, Any]) -> object:
    return _("In stock now: %(stock)s.") % {"stock": parameters.restock(product=row, more=data["more"])}


@admin.register(CouponProduct)
class CouponProductAdmin(Terms):
    list_display = ("code", "merchant", "name", "face_value", "in_force", "stock", "valid_days", "state")
    list_filter = ("state", "merchant")
    money = ("face_value",)
    links = ("merchant",)
    search_help_text = _("code")
    empty = _("Add what points buy; then propose an exchange ratio for it.")
    verbs = (
        Verb("restock", _("restock"), _restock, form=Restock, shown=lambda row: row.stock is not None),
        Verb("withdraw", _("withdraw"), _withdraw, states=("ACTIVE",), tone="bad"),
        Verb("offer_again", _("offer again"), _offer_again, states=("WITHDRAWN",)),
    )

    @column(_("points per coupon"), figures=True)
    def in_force(self, row: CouponProduct) -> Any:
        ratio = parameters.all_in_force([row], timezone.now()).get(row.pk)
        return figure(f"{ratio.ratio.normalize():f}") if ratio else NOTHING

    def find(self, text: str) -> list[Any]:
        return list(CouponProduct.objects.filter(code__iexact=text).values_list("pk", flat=True))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Stock moves while the form is open, so it is only ever added to.
        fixed = ("stock",) if obj is not None and obj.stock is not None else ()
        # The points system knows the ratios by the product's code, and buyers what they bought.
        return (*fixed, "merchant", "code", "face_value") if obj is not None and obj.ratios.exists() else fixed

    def save_model(self, request: HttpRequest, obj: CouponProduct, form: Any, change: bool) -> None:
        obj.save(update_fields=form.changed_data if change else None)

    def panels(self, request: HttpRequest, row: CouponProduct) -> Iterable[Panel]:
        holds = parameters.all_in_force([row], timezone.now()).get(row.pk)
        yield Panel(
            _("exchange ratios"),
            (
                _("version"), figure(_("points per coupon")), _("rounding"), _("state"), _("valid from"),
                _("valid until"), _("in force now"),
            ),
            [
                (
                    link(ratio), figure(f"{ratio.ratio.normalize():f}"), ratio.get_rounding_display(),
                    state_of(ratio), moment(ratio.valid_from_at), moment(ratio.valid_until_at),
                    badge("ACTIVE", _("in force")) if holds is not None and ratio.pk == holds.pk else "",
                )
                for ratio in row.ratios.order_by("-version")[:SHOWN]
            ],
            _("None yet. Propose one under exchange ratios: a second person approves it."),
            more=(_("all"), listing(ExchangeRatio, product=row.pk)),
        )  # fmt: skip


class Proposal(forms.Form):
    product = forms.ModelChoiceField(
        label=_("coupon product"),
        queryset=CouponProduct.objects.filter(state=CouponProduct.State.ACTIVE).order_by("code"),
    )
    ratio = forms.DecimalField(label=_("points per coupon"), max_digits=14, decimal_places=4)
    rounding = forms.ChoiceField(label=_("rounding"), choices=ExchangeRatio.Rounding)
    valid_from_at = forms.DateTimeField(
        label=_("valid from"),
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
        required=False,
        help_text=_("empty: as soon as it is approved and the points system knows it"),
    )
    valid_until_at = forms.DateTimeField(
        label=_("valid until"), widget=forms.DateTimeInput(attrs={"type": "datetime-local"}), required=False
    )


def _propose(request: HttpRequest, row: None, data: dict[str, Any]) -> ExchangeRatio:
    now = timezone.now()
    terms = {**data, "valid_from_at": data["valid_from_at"] or now}
    return parameters.propose(**terms, by=request.user, now=now)  # type: ignore[arg-type]


def _not_by_its_proposer(request: HttpRequest, row: ExchangeRatio) -> object:
    return SamePerson.text if row.made_by_id == request.user.pk else None


def _approve(request: HttpRequest, row: ExchangeRatio, data: dict[str, Any]) -> object:
    parameters.approve(ratio=row, by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("Approved. It holds as soon as the points system has been told of it.")


def _reject(request: HttpRequest, row: ExchangeRatio, data: dict[str, Any]) -> object:
    parameters.reject(ratio=row, reason=data["reason"], by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("Rejected.")


@admin.register(ExchangeRatio)
class ExchangeRatioAdmin(House):
    list_display = (
        "version", "product", "ratio", "rounding", "state", "in_force", "valid_from_at", "valid_until_at", "made_by",
        "approved_by",
    )  # fmt: skip
    list_filter = ("state",)
    links = ("product",)
    facts = (
        "product", "version", "ratio", "rounding", "state", "in_force", "valid_from_at", "valid_until_at", "made_by",
        "recorded_at", "approved_by", "decided_at", "reason", "advised_at", "problem",
    )  # fmt: skip
    empty = _("Propose how many points a coupon costs; a second person approves it.")
    list_verbs = (
        Verb("propose", _("propose a ratio"), _propose, form=Proposal, tone="main",
             words=_("It becomes the product's next version. What was quoted before stays as it was quoted.")),
    )  # fmt: skip
    verbs = (
        Verb("approve", _("approve"), _approve, states=("PROPOSED",), barred=_not_by_its_proposer, tone="main"),
        Verb("reject", _("reject"), _reject, form=Reason, states=("PROPOSED",), barred=_not_by_its_proposer,
             tone="bad"),
    )  # fmt: skip

    @column(_("in force now"))
    def in_force(self, row: ExchangeRatio) -> Any:
        holds = parameters.all_in_force([row.product], timezone.now()).get(row.product_id)
        return badge("ACTIVE", _("in force")) if holds is not None and holds.pk == row.pk else NOTHING

    def note(self, request: HttpRequest, row: ExchangeRatio) -> object:
        if row.state == ExchangeRatio.State.APPROVED and row.advised_at is None:
            return _("The points system does not know this ratio yet; until it does, nobody can be quoted by it.")
        return ""


# Exchanges -------------------------------------------------------------------------------------------------------


@admin.register(PointsAccount)
class PointsAccountAdmin(House):
    list_display = ("last4", "recorded_at")
    facts = ("last4", "recorded_at")
    empty = _("An account stands here once points of it were asked for.")

    def panels(self, request: HttpRequest, row: PointsAccount) -> Iterable[Panel]:
        yield Panel(
            _("exchanges"),
            (_("submitted at"), _("coupon product"), figure(_("coupons")), figure(_("points")), _("state")),
            [
                (moment(one.submitted_at), link(one, one.product.code), number(one.count), number(one.points),
                 state_of(one))
                for one in row.exchange_set.select_related("product").order_by("-pk")[:SHOWN]
            ],
            _("None yet."),
            more=(_("all"), listing(Exchange, account=row.pk)),
        )  # fmt: skip


@admin.register(ExchangeQuote)
class ExchangeQuoteAdmin(House):
    list_display = ("recorded_at", "account", "product", "count", "points", "ratio", "expires_at")
    facts = ("account", "product", "ratio", "count", "points", "recorded_at", "expires_at")
    links = ("account", "product")


class Settlement(forms.Form):
    outcome = forms.ChoiceField(
        label=_("how it ends"),
        choices=[
            (Exchange.State.ISSUED, _("issued: the bank has shown that the points were taken")),
            (Exchange.State.REVERSED, _("reversed: the bank has shown that nothing was taken, or all given back")),
        ],
    )
    reason = forms.CharField(label=_("reason"), max_length=300)


class BankReference(forms.Form):
    bank_reference = forms.CharField(
        label=_("the bank's reference"), max_length=40, required=False, help_text=_("needed where coupons are issued")
    )


def _ask_again(request: HttpRequest, row: Exchange, data: dict[str, Any]) -> object:
    exchange.ask_again(exchange=row)
    return _("The reversal is sent again within seconds, under the same number; look here for the answer.")


def _propose_settlement(request: HttpRequest, row: Exchange, data: dict[str, Any]) -> object:
    exchange.propose_settlement(
        exchange=row, outcome=Exchange.State(data["outcome"]), reason=data["reason"], by=request.user  # type: ignore[arg-type]
    )  # fmt: skip
    return _("Proposed. A second person settles it.")


def _settle(request: HttpRequest, row: Exchange, data: dict[str, Any]) -> object:
    exchange.settle_by_hand(
        exchange=row, bank_reference=data["bank_reference"], by=request.user, now=timezone.now()  # type: ignore[arg-type]
    )  # fmt: skip
    return _("Settled: %(state)s.") % {"state": row.get_state_display()}


def _not_by_who_proposed_it(request: HttpRequest, row: Exchange) -> object:
    return SamePerson.text if row.settlement_by_id == request.user.pk else None


def _what_was_proposed(request: HttpRequest, row: Exchange, data: dict[str, Any]) -> Facts:
    return (
        (_("how it ends"), Exchange.State(row.settlement).label),
        (_("reason"), row.settlement_reason),
        (_("settlement proposed by"), row.settlement_by),
        (_("coupons"), number(row.count)),
        (_("points"), number(row.points)),
    )


class Incidents(admin.SimpleListFilter):
    """Exchanges whose answers contradict each other."""

    title = _("incident")
    parameter_name = "incident"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("lately", _("in the last seven days")), ("ever", _("ever"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        if self.value() not in ("lately", "ever"):
            return None
        found = queryset.filter(~Q(incident=""))
        return found.filter(submitted_at__gt=timezone.now() - LATELY) if self.value() == "lately" else found


@admin.register(Exchange)
class ExchangeAdmin(House):
    list_display = ("submitted_at", "product", "account", "merchant", "count", "points", "state", "incident")
    list_filter = ("state", Incidents, "merchant")
    tabs = (
        *by_state(_("all exchanges"), Exchange.State.ISSUED, Exchange.State.REVERSED, Exchange.State.UNRESOLVED),
        Tab(_("incidents in the last seven days"), lambda request: {"incident": "lately"}),
    )
    ranges = ("id",)
    links = ("account", "product", "merchant")
    facts = (
        "product", "merchant", "account", "reference", "count", "points", "state", "submitted_at", "issued_at",
        "reversed_at", "bank_reference", "accounting_date", "reversal_reference", "reversed_points", "reversal_date",
        "refusal_code", "incident", "settlement",
        "settlement_reason", "settlement_by", "settled_by",
    )  # fmt: skip
    search_help_text = _("merchant's reference or request no.")
    empty = _("Exchanges come from the customers' page and the merchants' shops.")
    verbs = (
        Verb("ask_again", _("ask again"), _ask_again, states=("UNRESOLVED",), tone="main", bulk=True,
             words=_("The reversal is sent again; it is done once at most, however often it is sent.")),
        Verb("propose_settlement", _("propose a settlement"), _propose_settlement, form=Settlement,
             states=("UNRESOLVED",), words=_("For when the bank has shown by other ways what became of it.")),
        Verb("settle", _("settle by hand"), _settle, form=BankReference, states=("UNRESOLVED",),
             shown=lambda row: bool(row.settlement), barred=_not_by_who_proposed_it, preview=_what_was_proposed,
             warning=_("This cannot be taken back.")),
    )  # fmt: skip

    def find(self, text: str) -> list[Any]:
        if found := parse_id("exc", text):
            return [found]
        merchants = list(Merchant.objects.values_list("pk", flat=True))
        keys = list(Exchange.objects.filter(merchant__in=merchants, reference=text).values_list("pk", flat=True))
        keys += Exchange.objects.filter(Q(request_no=text) | Q(reversal_request_no=text)).values_list("pk", flat=True)
        return keys

    def about(self, request: HttpRequest, row: Exchange) -> Facts:
        return [
            *super().about(request, row),
            (_("request no."), row.request_no),
            (_("request no. of the reversal"), row.reversal_request_no or NOTHING),
            (_("attempts"), row.attempts),
            (_("next attempt"), moment(row.due_at)),
            (_("problem"), row.problem or NOTHING),
        ]

    def note(self, request: HttpRequest, row: Exchange) -> object:
        if row.state == Exchange.State.UNRESOLVED:
            return _(
                "The points system has given no answer that can be believed. Ask again, or have the bank show what "
                "became of it and settle it by hand."
            )
        return row.incident

    def is_moving(self, row: Exchange) -> bool:
        return row.state in (Exchange.State.PENDING, Exchange.State.UNKNOWN, Exchange.State.REVERSING)

    def panels(self, request: HttpRequest, row: Exchange) -> Iterable[Panel]:
        yield Panel(
            _("conversation with the points system"),
            (
                _("when"), _("direction"), _("type"), figure(_("HTTP status")), _("as it stood on the wire"),
                _("problem"),
            ),
            [
                (
                    moment(one.recorded_at), one.get_direction_display(), link(one, one.type),
                    figure(one.status or ""),
                    format_html('<pre class="data">{}</pre>', _on_the_wire(one, about=row.request_no)[:2_000]),
                    one.problem,
                )
                for one in PointsMessage.objects.about(row)[:SHOWN]
            ],
            _("Nothing was sent yet."),
            more=(_("all"), listing(PointsMessage, q=row.request_no)),
        )  # fmt: skip
        yield Panel(
            _("coupons"),
            (_("no."), _("last four"), _("state"), figure(_("face value")), _("expires at")),
            [
                (link(one, one.ordinal), one.last4, state_of(one), yuan(one.face_value), moment(one.expires_at))
                for one in row.coupons.order_by("ordinal", "generation")[:SHOWN]
            ],
            _("None: coupons are made only with a verified deduction."),
            more=(_("all"), listing(Coupon, exchange=row.pk)),
        )
        found = repairs.breaks_of(row)
        if found:
            yield Panel(
                _("breaks"),
                (_("type"), _("reconciliation"), _("state"), _("owner")),
                [(link(one, one.get_type_display()), one.run, state_of(one), one.owner or NOTHING) for one in found],
            )
            yield panel_of_repairs(row.repairs.all())
        yield Panel(
            _("returns of points"),
            (_("when"), figure(_("coupons")), figure(_("points")), _("state"), _("by")),
            [
                (link(one, moment(one.recorded_at)), number(one.count), number(one.points), state_of(one), one.by)
                for one in row.returns.order_by("pk")[:SHOWN]
            ],
            _("None."),
        )


def _on_the_wire(message: PointsMessage, *, about: str = "") -> str:
    """What was sent or received; of a message about many only what it says ``about`` one request number."""
    raw = bytes(message.body).decode(errors="replace")
    # Garbage is shown as it came.
    with suppress(ValueError):
        told = _without_accounts(json.loads(raw))
        if about and message.exchanges:
            told = _without_others(told, about)
        raw = json.dumps(told, ensure_ascii=False, indent=1)
    return raw


def _without_others(told: Any, about: str) -> Any:
    """The document with its lists of originals and items cut down to what is about one request number."""
    body = told.get("body") if isinstance(told, dict) else None
    if not isinstance(body, dict):
        return told
    cut = {
        name: [one for one in inner if about in (one, one.get("original") if isinstance(one, dict) else None)]
        for name, inner in body.items()
        if name in ("originals", "items") and isinstance(inner, list)
    }
    return told | {"body": body | cut}


def _without_accounts(value: Any) -> Any:
    """The document with the numbers of accounts masked, which staff have no use for."""
    if isinstance(value, dict):
        return {
            name: f"…{inner[-4:]}" if name == "account" and isinstance(inner, str) else _without_accounts(inner)
            for name, inner in value.items()
        }
    return [_without_accounts(one) for one in value] if isinstance(value, list) else value


@admin.register(PointsMessage)
class PointsMessageAdmin(House):
    list_display = ("recorded_at", "direction", "type", "status", "problem", "request_no")
    list_filter = ("direction", "type")
    links = ("exchange",)
    heavy = ("body", "headers")
    facts = (
        "recorded_at", "direction", "type", "exchange", "request_no", "message_id", "in_reply_to", "status", "problem",
    )  # fmt: skip
    search_help_text = _("message id or request no.")
    empty = _("Every message to and from the points system is kept here as it stood on the wire.")

    def find(self, text: str) -> list[Any]:
        by_id = PointsMessage.objects.filter(message_id=text, direction__in=PointsMessage.Direction.values)
        by_request = PointsMessage.objects.filter(request_no=text)
        found = [*by_id.values_list("pk", flat=True), *by_request.values_list("pk", flat=True)[:200]]
        spoken_of = Exchange.objects.filter(request_no=text).first()
        if spoken_of is not None:
            found += PointsMessage.objects.about(spoken_of).values_list("pk", flat=True)[:200]
        return found

    def panels(self, request: HttpRequest, row: PointsMessage) -> Iterable[Panel]:
        yield Panel(_("headers"), (), [(name, value) for name, value in sorted(dict(row.headers).items())])
        wire = format_html('<pre class="data">{}</pre>', _on_the_wire(row)[:65536])
        yield Panel(_("as it stood on the wire"), (), [(wire,)])


# Coupons ---------------------------------------------------------------------------------------------------------


def _read_code(request: HttpRequest, row: Coupon, data: dict[str, Any]) -> HttpResponse:
    code = coupons.read_code(coupon=row, reason=data["reason"], by=by_staff(request), now=timezone.now())
    return shown_once(
        request, row, title=_("coupon code"), secret=code, note=_("That you read it, and why, is written down.")
    )


def _freeze(request: HttpRequest, row: Coupon, data: dict[str, Any]) -> object:
    coupons.freeze(coupon=row, reason=data["reason"], by=by_staff(request), now=timezone.now())
    return _("Frozen: it cannot be redeemed for now.")


def _unfreeze(request: HttpRequest, row: Coupon, data: dict[str, Any]) -> object:
    coupons.unfreeze(coupon=row, reason=data["reason"], by=by_staff(request), now=timezone.now())
    return _("It can be redeemed again.")


def _void(request: HttpRequest, row: Coupon, data: dict[str, Any]) -> object:
    coupons.void(coupon=row, reason=data["reason"], by=by_staff(request), now=timezone.now())
    return _("Void. No points were given back for it.")


class LaterExpiry(Reason):
    expires_at = forms.DateTimeField(
        label=_("expires at"), widget=forms.DateTimeInput(attrs={"type": "datetime-local"})
    )


def _extend(request: HttpRequest, row: Coupon, data: dict[str, Any]) -> object:
    coupons.extend(coupon=row, **data, by=by_staff(request), now=timezone.now())
    return _("Good until %(moment)s.") % {"moment": f"{timezone.localtime(row.expires_at):%Y-%m-%d %H:%M}"}


def _reissue(request: HttpRequest, row: Coupon, data: dict[str, Any]) -> Coupon:
    return coupons.reissue(coupon=row, reason=data["reason"], by=by_staff(request), now=timezone.now())


@admin.register(Coupon)
class CouponAdmin(House):
    list_display = ("issued_at", "product", "last4", "merchant", "account", "face_value", "state", "expires_at")
    list_filter = ("state", "merchant")
    tabs = by_state(_("all coupons"), Coupon.State.ACTIVE, Coupon.State.REDEEMED, Coupon.State.FROZEN)
    ranges = ("id",)
    links = ("exchange", "product", "account", "merchant")
    money = ("face_value",)
    heavy = ("code_sealed",)
    facts = (
        "product", "merchant", "exchange", "ordinal", "generation", "last4", "account", "face_value", "state",
        "issued_at", "expires_at", "redeemed_at", "redeemed_reference", "store", "points_return",
    )  # fmt: skip
    search_help_text = _("merchant's reference of the redemption")
    empty = _("Coupons are made by exchanges.")
    verbs = (
        Verb("read_code", _("read the code"), _read_code, form=Reason,
             words=_("Only for its buyer. That you read it is written down.")),
        Verb("freeze", _("freeze"), _freeze, form=Reason, states=("ACTIVE",)),
        Verb("unfreeze", _("unfreeze"), _unfreeze, form=Reason, states=("FROZEN",)),
        Verb("extend", _("extend"), _extend, form=LaterExpiry, states=("ACTIVE", "EXPIRED")),
        Verb("reissue", _("replace the code"), _reissue, form=Reason, states=("ACTIVE",),
             words=_("The old code is dead at once; the coupon stays one.")),
        Verb("void", _("void"), _void, form=Reason, states=("ACTIVE", "FROZEN"), tone="bad",
             warning=_("No points are given back. This cannot be taken back.")),
    )  # fmt: skip

    def find(self, text: str) -> list[Any]:
        if found := parse_id("cpn", text):
            return [found]
        merchants = list(Merchant.objects.values_list("pk", flat=True))
        redeemed = Coupon.objects.filter(merchant__in=merchants, redeemed_reference=text)
        return list(redeemed.values_list("pk", flat=True))

    def panels(self, request: HttpRequest, row: Coupon) -> Iterable[Panel]:
        yield Panel(
            _("what happened"),
            (_("when"), _("what"), _("from"), _("to"), _("by"), _("reason")),
            [
                (moment(one.recorded_at), one.what, one.get_from_state_display(), one.get_to_state_display(), one.by,
                 one.reason)
                for one in row.moves.order_by("-pk")[:SHOWN]
            ],
            _("Nothing but what its facts say."),
        )  # fmt: skip


@admin.register(CouponMove)
class CouponMoveAdmin(House):
    list_display = ("recorded_at", "coupon", "what", "from_state", "to_state", "by", "reason")
    facts = ("coupon", "what", "from_state", "to_state", "by", "reason", "recorded_at")
    links = ("coupon",)


def _return_again(request: HttpRequest, row: PointsReturn, data: dict[str, Any]) -> object:
    coupons.ask_again(row=row)
    return _("The points system is asked again within seconds, under the same number.")


@admin.register(PointsReturn)
class PointsReturnAdmin(House):
    list_display = ("recorded_at", "exchange", "merchant", "count", "points", "state", "by")
    list_filter = ("state", "merchant")
    links = ("exchange", "merchant")
    facts = (
        "exchange", "merchant", "count", "points", "state", "bank_reference", "accounting_date", "refusal_code",
        "reason", "by", "recorded_at", "returned_at", "attempts", "due_at", "problem",
    )  # fmt: skip
    empty = _("Points that were given back for unused coupons stand here.")
    verbs = (
        Verb("ask_again", _("ask again"), _return_again, states=("UNRESOLVED",), tone="main", bulk=True),
    )  # fmt: skip


# Repairs ---------------------------------------------------------------------------------------------------------


def panel_of_repairs(rows: QuerySet[Repair]) -> Panel:
    """What was done about a break, by whom or by the clock."""
    return Panel(
        _("repairs"),
        (_("when"), _("what"), _("state"), figure(_("points")), _("by"), _("reason")),
        [
            (link(one, moment(one.recorded_at)), one.get_what_display(), state_of(one), number(one.points),
             one.by or _("the clock"), one.reason)
            for one in rows.select_related("by").order_by("pk")[:SHOWN]
        ],
        _("Nothing was done about it yet."),
    )  # fmt: skip


def _repair_again(request: HttpRequest, row: Repair, data: dict[str, Any]) -> object:
    repairs.ask_again(row=row)
    return _("The points system is asked again within seconds, under the same number.")


@admin.register(Repair)
class RepairAdmin(House):
    list_display = ("recorded_at", "what", "state", "found", "exchange", "points", "by", "done_at")
    list_filter = ("what", "state")
    links = ("exchange", "found")
    facts = (
        "what", "state", "found", "exchange", "points_return", "original", "points", "reason", "by", "owner",
        "recorded_at", "done_at", "bank_reference", "accounting_date", "refusal_code", "attempts", "due_at", "problem",
    )  # fmt: skip
    empty = _("What is done about breaks with the points system stands here.")
    verbs = (Verb("ask_again", _("ask again"), _repair_again, states=("UNRESOLVED",), tone="main"),)

    def is_moving(self, row: Repair) -> bool:
        return row.state in (Repair.State.PENDING, Repair.State.UNKNOWN)


@admin.register(WrongGuess)
class WrongGuessAdmin(House):
    list_display = ("recorded_at", "what", "subject")
    list_filter = ("what",)
    facts = ("what", "subject", "recorded_at")
    links = ("subject",)
    empty = _("Wrong coupon codes and passwords stand here; whoever guesses ten times in ten minutes has to wait.")
