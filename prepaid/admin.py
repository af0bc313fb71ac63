"""The back office of cards: the card's page, its ledger, reconciliation, and what needs somebody now."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.db.models import Count, Exists, Min, OuterRef, Q, QuerySet, Sum
from django.db.models.expressions import RawSQL
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from claims import adjudication
from claims.admin import late
from claims.models import Claim, InsuredEvent
from config.admin import (
    NOTHING,
    Facts,
    House,
    Panel,
    Reason,
    Tab,
    Verb,
    Yuan,
    address,
    badge,
    by_staff,
    by_state,
    column,
    figure,
    link,
    listing,
    moment,
    number,
    plain_data,
    shown_once,
    state_of,
    yuan,
)
from config.errors import SamePerson
from config.ids import parse_id, public_id
from config.money import format_yuan
from insurance.models import Endorsement, Notice, Policy
from insurance.reconciliation import bordereau_again, bordereau_day
from issuing import numbering
from issuing.admin import MerchantAdmin, quantity
from issuing.models import Batch, CardProgram, Merchant, PaymentMethod, Unit, WebhookDelivery, WebhookEndpoint
from issuing.orders import Holder, Order
from points import guessing, repairs
from points.admin import LATELY, panel_of_repairs
from points.models import Exchange, ExchangeRatio, PointsReturn, Repair, WrongGuess
from points.reconciliation import statement_again, statement_day
from prepaid import consumption, files, holds, ledger, processing, reconciliation
from prepaid.models import (
    Break,
    Card,
    CardMove,
    Entry,
    Hold,
    Load,
    NetworkAccount,
    PartnerFile,
    RefusedPayment,
    RetiredNumber,
    Run,
    SubCard,
    Transaction,
)

TIMELINE = 50
"""How many transactions a card's page shows; the list has them all."""

SUB_CARDS = 8
"""How many sub-cards of a load it shows, so that what happened stays in sight."""


def masked_name(account: NetworkAccount) -> str:
    name = account.holder_name
    return name[0] + "*" * (len(name) - 1) if name else str(_("unnamed"))


def masked_phone(phone: str) -> str:
    return f"{phone[:3]}****{phone[-4:]}" if len(phone) == 11 else NOTHING


def phone_for(request: HttpRequest, account: NetworkAccount) -> str:
    """A holder's phone, masked, for those who may see it."""
    return masked_phone(account.phone) if request.user.has_perm("prepaid.view_phone_networkaccount") else NOTHING


def loads_of_reference(text: str) -> QuerySet[Load]:
    """Loads bought under a merchant's reference, of whichever merchant.

    The index begins with the merchant, so all merchants are named: some hundred probes instead of a scan.
    """
    return Load.objects.filter(
        merchant__in=list(Merchant.objects.values_list("pk", flat=True)),
        kind__in=Load.Kind.values,
        reference=text,
    )


def cards_meant_by(text: str) -> list[UUID]:
    """Cards somebody means: a full number, the last four, a phone, a policy no., an id or a merchant's reference."""
    if numbering.is_valid(text):
        hashes = numbering.hashes(text)
        found = list(Card.objects.filter(number_hash__in=hashes).values_list("pk", flat=True))
        return found or list(RetiredNumber.objects.filter(number_hash__in=hashes).values_list("card", flat=True))
    if card_id := parse_id("crd", text):
        return [card_id]
    found = []
    if text.isascii() and text.isdigit() and len(text) == 4:
        found += Card.objects.filter(last4=text).values_list("pk", flat=True)[:500]
    if text.isascii() and text.isdigit() and len(text) == 11:
        accounts = list(NetworkAccount.objects.filter(phone=text).values_list("pk", flat=True)[:500])
        found += Card.objects.filter(network_account__in=accounts).values_list("pk", flat=True)[:500]
    found += Policy.objects.filter(policy_no=text).values_list("card", flat=True)
    found += loads_of_reference(text).values_list("card", flat=True)[:500]
    return found


# Verbs of a card -------------------------------------------------------------------------------------------------


def _new_reference() -> str:
    return f"STAFF-{secrets.token_hex(6).upper()}"


class Purchase(forms.Form):
    """A card sold over the counter."""

    program = forms.ModelChoiceField(
        label=_("card program"),
        queryset=CardProgram.objects.filter(state="ACTIVE", merchant__state="ACTIVE")
        .select_related("merchant")
        .order_by("code"),
    )
    amount = Yuan(label=_("amount paid"), help_text=_("in yuan"))
    holder_name = forms.CharField(label=_("holder"), max_length=60, required=False)
    phone = forms.CharField(label=_("phone"), max_length=20, required=False)
    id_number = forms.CharField(label=_("identity number"), max_length=18, required=False)
    is_organisation = forms.BooleanField(label=_("organisation"), required=False)
    payment_method = forms.ChoiceField(label=_("paid by"), choices=PaymentMethod)
    reference = forms.CharField(
        label=_("reference"), max_length=64, initial=_new_reference, help_text=_("used once, for ever")
    )


def _quoted(request: HttpRequest, row: None, data: dict[str, Any]) -> Facts:
    quote = processing.quote(program=data["program"], amount=data["amount"], now=timezone.now())
    parts: dict[tuple[int, int], int] = {}
    for part in quote.sub_cards:
        parts[part.paid, part.face] = parts.get((part.paid, part.face), 0) + 1
    return (
        (_("to pay"), yuan(quote.amount)),
        (_("bonus"), yuan(quote.bonus)),
        (_("what it buys"), quantity(quote.face, quote.unit)),
        (_("sub-cards"), ", ".join(f"{count} × {format_yuan(paid)}" for (paid, _face), count in parts.items())),
        (_("sum insured"), yuan(quote.sum_insured)),
        (_("premium"), format_html("{} <small>({} {})</small>", yuan(quote.premium), quote.term_days, _("days"))),
    )


def _open(request: HttpRequest, row: None, data: dict[str, Any]) -> Card:
    now = timezone.now()
    holder = Holder(data["holder_name"], data["phone"], data["id_number"], data["is_organisation"])
    order = Order(data["program"], data["amount"], holder, data["reference"], data["payment_method"], now)
    return processing.open_card(order=order, now=now)


class TopUp(forms.Form):
    amount = Yuan(label=_("amount paid"), help_text=_("in yuan"))
    payment_method = forms.ChoiceField(label=_("paid by"), choices=PaymentMethod)
    reference = forms.CharField(
        label=_("reference"), max_length=64, initial=_new_reference, help_text=_("used once, for ever")
    )


def _quoted_top_up(request: HttpRequest, card: Card, data: dict[str, Any]) -> Facts:
    return _quoted(request, None, {**data, "program": card.program})


def _top_up(request: HttpRequest, card: Card, data: dict[str, Any]) -> object:
    posted = processing.top_up(
        merchant=card.merchant,
        card_id=card.pk,
        amount=data["amount"],
        reference=data["reference"],
        payment_method=data["payment_method"],
        now=timezone.now(),
    )
    return _("Topped up: %(amount)s.") % {"amount": _in_words(posted.amount, posted.unit)}


def _in_words(amount: int, unit: str) -> str:
    return format_yuan(amount) if unit == Unit.MONEY else f"{amount} {Unit(unit).label}"


def _freeze(request: HttpRequest, card: Card, data: dict[str, Any]) -> object:
    processing.freeze(card=card, reason=data["reason"], by=by_staff(request), now=timezone.now())
    return _("Frozen: nothing can be spent from this card.")


def _unfreeze(request: HttpRequest, card: Card, data: dict[str, Any]) -> object:
    processing.unfreeze(card=card, reason=data["reason"], by=by_staff(request), now=timezone.now())
    return _("The card can be spent from again.")


def _report_lost(request: HttpRequest, card: Card, data: dict[str, Any]) -> object:
    processing.report_lost(card=card, reason=data["reason"], by=by_staff(request), now=timezone.now())
    return _("Reported lost: nothing can be spent until it has a new number.")


def _replace(request: HttpRequest, card: Card, data: dict[str, Any]) -> object:
    new = processing.replace(card=card, reason=data["reason"], by=by_staff(request), now=timezone.now())
    return shown_once(
        request,
        card,
        title=_("new card number"),
        secret=new,
        note=_("This number is shown once, now. Hand it to the holder; the old one is dead for ever."),
    )


def _what_closing_pays(request: HttpRequest, card: Card, data: dict[str, Any]) -> Facts:
    value = consumption.valuation_at(card, timezone.now())
    return (
        (_("taken off the card"), quantity(value.usable, card.unit)),
        (_("principal to pay back"), yuan(value.refundable)),
        (_("policy"), _("is cancelled; the insurer returns the premium not used up")),
    )


def _what_is_claimed(request: HttpRequest, card: Card, data: dict[str, Any]) -> Facts:
    value = consumption.valuation_at(card, timezone.now())
    return ((_("refundable principal"), yuan(value.refundable)), (_("cover"), _cover(_policy_of(card))))


def _close(request: HttpRequest, card: Card, data: dict[str, Any]) -> object:
    closure = processing.close(card=card, reason=data["reason"], by=by_staff(request), now=timezone.now())
    return _("Closed. Pay %(amount)s back, to an account of the holder's own name.") % {
        "amount": format_yuan(abs(closure.principal))
    }


def _file_claim(request: HttpRequest, card: Card, data: dict[str, Any]) -> Claim:
    return adjudication.file_claim(card=card, by=by_staff(request), now=timezone.now())


def _has_failed(card: Card) -> bool:
    return card.merchant.state == Merchant.State.FAILED


# Cards -----------------------------------------------------------------------------------------------------------


class AwaitingCover(admin.SimpleListFilter):
    """Cards that can be spent from while no insurer has accepted them."""

    title = _("cover")
    parameter_name = "cover"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("none", _("awaiting cover"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        if self.value() != "none":
            return None
        # From the policies that are not accepted, which are few, to their cards.
        owed = Policy.objects.filter(state__in=["PENDING", "UNKNOWN", "UNRESOLVED", "DECLINED"])
        live = Policy.objects.filter(card=OuterRef("pk"), state="ACCEPTED")
        over = [Card.State.CLOSED, Card.State.COMPENSATED]
        return queryset.filter(~Exists(live), pk__in=owed.values("card")).exclude(state__in=over)


EXPIRING = timedelta(days=30)


def _expiring(request: HttpRequest) -> dict[str, object]:
    today = timezone.localdate()
    return {"state__exact": "ACTIVE", "expires_on_date_from": today, "expires_on_date_to": today + EXPIRING}


@admin.register(Card)
class CardAdmin(House):
    list_display = ("number", "merchant", "program", "holder", "state", "balance", "opened_at")
    list_filter = ("state", AwaitingCover, "merchant")
    tabs = (
        *by_state(_("all cards"), Card.State.FROZEN),
        Tab(_("awaiting cover"), lambda request: {"cover": "none"}),
        Tab(_("expiring in 30 days"), _expiring),
    )
    ranges = ("id", "expires_on_date")
    summed = {"balance": Sum("usable", filter=Q(unit=Unit.MONEY))}
    joined = ("network_account",)
    links = ("merchant", "batch", "network_account", "program")
    search_help_text = _("full number, last four, phone, policy no. or purchase reference")
    empty = _("Open a card here, or upload a file of purchases under batches.")
    list_verbs = (
        Verb("open", _("open a card"), _open, form=Purchase, preview=_quoted, quotes=True,
             words=_("The purchase is tested as a whole, split into sub-cards, and its insurance is owed at once.")),
    )  # fmt: skip
    verbs = (
        Verb("top_up", _("top up"), _top_up, form=TopUp, states=("ACTIVE",), preview=_quoted_top_up, quotes=True,
             words=_("A top-up is a new load with sub-cards of its own; its insurance is endorsed.")),
        Verb("freeze", _("freeze"), _freeze, form=Reason, states=("ACTIVE",), bulk=True),
        Verb("unfreeze", _("unfreeze"), _unfreeze, form=Reason, states=("FROZEN",), bulk=True),
        Verb("report_lost", _("report lost"), _report_lost, form=Reason, states=("ACTIVE", "FROZEN")),
        Verb("replace", _("replace"), _replace, form=Reason, states=("LOST",),
             warning=_("The old number is dead for ever. Everything on the card moves to the new one.")),
        Verb("file_claim", _("file a claim"), _file_claim, states=("ACTIVE", "FROZEN", "LOST"), shown=_has_failed,
             preview=_what_is_claimed, tone="main", warning=_("The card is frozen at the moment of loss.")),
        Verb("close", _("close"), _close, form=Reason, states=("ACTIVE", "FROZEN"), tone="bad",
             preview=_what_closing_pays, warning=_("A closed card is never opened again.")),
    )  # fmt: skip

    @column(_("card"))
    def number(self, card: Card) -> str:
        return f"•••• {card.last4}"

    @column(_("holder"))
    def holder(self, card: Card) -> str:
        return masked_name(card.network_account)

    @column(_("usable"), figures=True)
    def balance(self, card: Any) -> Any:
        return quantity(card.usable, card.unit)

    def find(self, text: str) -> list[Any]:
        return cards_meant_by(text)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Card]:
        # What is left of a card counted in days follows from the date.
        today = RawSQL("ledger_usable(prepaid_card, %s::date)", [timezone.localdate()])
        return super().get_queryset(request).annotate(usable=today)

    def record_queryset(self, request: HttpRequest) -> QuerySet[Card]:
        return self.get_queryset(request).select_related("merchant", "program", "network_account", "batch")

    def note(self, request: HttpRequest, row: Card) -> object:
        if row.state == Card.State.CLAIMED:
            return _("Frozen by a claim: its value is being compensated. Only rejecting the claim frees it.")
        if row.state == Card.State.LOST:
            return _("Reported lost. Give it a new number with “replace”; the holder keeps everything.")
        if row.state == Card.State.COMPENSATED and row.remaining:
            return _("Compensated. What it still holds was paid in after the loss: the merchant owes it to the holder.")
        return ""

    def about(self, request: HttpRequest, row: Card) -> Facts:
        now = timezone.now()
        value = consumption.valuation_at(row, now)
        policy = _policy_of(row)
        account = row.network_account
        retired = row.retired_numbers.count()
        facts: list[tuple[object, object]] = [
            (_("usable"), format_html('<span class="big">{}</span>', quantity(value.usable, row.unit))),
            (_("refundable principal"), format_html('<span class="big">{}</span>', yuan(value.refundable))),
            (_("state"), state_of(row)),
            (_("cover"), _cover(policy)),
            (_("holder"), format_html("{} · {}", link(account, masked_name(account)), phone_for(request, account))),
            (_("card"), format_html("•••• {} <small class='muted'>{}</small>", row.last4, row.get_kind_display())),
            (_("merchant"), link(row.merchant)),
            (_("card program"), link(row.program)),
            (_("opened at"), moment(row.opened_at)),
            (_("expires on"), row.expires_on_date.isoformat() if row.expires_on_date else _("never")),
            (_("public id"), public_id("crd", row.pk)),
        ]
        if row.batch_id:
            facts.append((_("batch"), link(row.batch)))
        if row.loss_at:
            facts.append((_("loss at"), moment(row.loss_at)))
        if retired:
            facts.append((_("earlier numbers"), number(retired)))
        return facts

    def panels(self, request: HttpRequest, row: Card) -> Iterable[Panel]:
        now = timezone.now()
        yield self._calculation(row, now)
        yield self._loads(row)
        yield self._timeline(row)
        yield self._insurance(row)
        yield self._claims(row)
        moves = CardMove.objects.filter(card=row).order_by("-pk")[:TIMELINE]
        yield Panel(
            _("states"),
            (_("when"), _("from"), _("to"), _("by"), _("reason")),
            [
                (
                    moment(move.recorded_at),
                    badge(move.from_state, move.get_from_state_display()),
                    badge(move.to_state, move.get_to_state_display()),
                    move.by,
                    move.reason,
                )
                for move in moves
            ],
            _("Active since it was opened."),
        )

    def _calculation(self, card: Card, now: Any) -> Panel:
        value = consumption.valuation_at(card, now)
        exact = sum((line.refundable for line in value.lines), Fraction())
        rows: list[tuple[object, ...]] = [
            (
                line.load,
                yuan(line.paid),
                quantity(line.remaining, card.unit),
                quantity(line.face, card.unit),
                figure(_fen(line.refundable)),
            )
            for line in value.lines
        ]
        rows.append((_("together, rounded once"), yuan(value.paid), "", "", yuan(value.refundable)))
        return Panel(
            _("refundable principal on %(date)s") % {"date": value.on_date.isoformat()},
            (
                _("load"),
                figure(_("paid")),
                figure(_("remaining")),
                figure(_("face")),
                figure(_("paid × remaining ÷ face")),
            ),
            rows,
            note="" if exact == value.refundable else _("Exact: %(fen)s fen.") % {"fen": exact},
        )

    def _loads(self, card: Card) -> Panel:
        parts: dict[UUID, list[SubCard]] = {}
        for part in SubCard.objects.filter(card=card).order_by("seq")[:1000]:
            parts.setdefault(part.load_id, []).append(part)
        rows: list[tuple[object, ...]] = []
        for load in Load.objects.filter(card=card).order_by("seq"):
            mine = parts.get(load.pk, [])
            rows.append(
                (
                    load.seq,
                    load.get_kind_display(),
                    moment(load.occurred_at),
                    load.reference,
                    load.get_payment_method_display(),
                    yuan(load.paid),
                    yuan(load.bonus),
                    quantity(load.face, card.unit),
                    quantity(load.remaining, card.unit),
                )
            )
            for part in mine[:SUB_CARDS]:
                rows.append(
                    (
                        "",
                        format_html('<span class="muted">{} {}</span>', _("sub-card"), part.seq),
                        "", "", "",
                        yuan(part.paid),
                        "",
                        quantity(part.face, card.unit),
                        quantity(part.remaining, card.unit),
                    )
                )  # fmt: skip
            if len(mine) > SUB_CARDS:
                more = format_html('<a class="to" href="{}">{}</a>', listing(SubCard, card=card.pk), _("all sub-cards"))
                rows.append(("", more, "", "", "", "", "", "", ""))
        return Panel(
            _("loads and sub-cards"),
            (
                _("no."), _("kind"), _("occurred at"), _("reference"), _("paid by"), figure(_("paid")),
                figure(_("bonus")), figure(_("face")), figure(_("remaining")),
            ),
            rows,
        )  # fmt: skip

    def _timeline(self, card: Card) -> Panel:
        rows = Transaction.objects.filter(card=card).order_by("-occurred_at", "-pk")[:TIMELINE]
        return Panel(
            _("transactions"),
            (
                _("occurred at"), _("kind"), _("reference"), _("store"), figure(_("list amount")), figure(_("amount")),
                figure(_("usable after")), figure(_("refundable principal after")),
            ),
            [
                (
                    moment(row.occurred_at),
                    link(row, row.get_kind_display()),
                    row.reference,
                    row.store,
                    yuan(row.list_amount) if row.list_amount is not None else "",
                    quantity(row.amount, row.unit),
                    quantity(row.usable_after, row.unit),
                    yuan(row.refundable_after),
                )
                for row in rows
            ],
            more=(_("all transactions"), listing(Transaction, card=card.pk)),
        )  # fmt: skip

    def _insurance(self, card: Card) -> Panel:
        policies = list(Policy.objects.filter(card=card).select_related("product").order_by("-pk")[:10])
        changes = Endorsement.objects.filter(policy__in=[policy.pk for policy in policies]).order_by("-pk")[:TIMELINE]
        rows = [
            (
                link(policy, _("policy")), policy.policy_no or NOTHING, state_of(policy), yuan(policy.sum_insured),
                yuan(policy.premium), policy.cover_from_date.isoformat(), policy.cover_to_date.isoformat(),
            )
            for policy in policies
        ] + [
            (
                link(change, change.get_kind_display()), change.endorsement_no or NOTHING, state_of(change),
                yuan(change.amount), yuan(change.premium), change.effective_date.isoformat(), "",
            )
            for change in changes
        ]  # fmt: skip
        return Panel(
            _("policy and endorsements"),
            (
                "", _("number"), _("state"), figure(_("sum insured")), figure(_("premium")), _("cover from"),
                _("cover to"),
            ),
            rows,
            _("This card was never insured."),
        )  # fmt: skip

    def _claims(self, card: Card) -> Panel:
        rows = Claim.objects.filter(card=card).order_by("-pk")[:20]
        return Panel(
            _("claims"),
            (_("claim"), _("state"), _("filed at"), figure(_("legal entitlement")), figure(_("insured compensation"))),
            [
                (
                    link(claim, claim.get_kind_display()),
                    state_of(claim),
                    moment(claim.filed_at),
                    yuan(claim.legal_entitlement),
                    yuan(claim.payable),
                )
                for claim in rows
            ],
            _("No claim."),
        )


def _fen(amount: Fraction) -> str:
    """An exact amount for the reader: to the fen, with a sign that it goes on where it does."""
    whole = format_yuan(int(amount))
    return whole if amount.denominator == 1 else f"{whole}…"


def _policy_of(card: Card) -> Policy | None:
    return Policy.objects.filter(card=card).order_by("-pk").first()


def _cover(policy: Policy | None) -> Any:
    if policy is None:
        return badge("DECLINED", _("not insured"))
    return format_html(
        '{} <a class="to" href="{}">{}</a>',
        state_of(policy),
        reverse("admin:insurance_policy_change", args=[policy.pk]),
        policy.policy_no or "",
    )


@admin.register(NetworkAccount)
class NetworkAccountAdmin(House):
    list_display = ("holder", "merchant", "telephone", "is_organisation", "recorded_at")
    list_filter = ("merchant",)
    links = ("merchant",)
    facts = ("holder", "telephone", "merchant", "is_organisation", "recorded_at")
    guarded = {"telephone": "phone"}
    search_help_text = _("phone")
    empty = _("An account is made for each holder when the first card is opened.")

    @column(_("holder"))
    def holder(self, row: NetworkAccount) -> str:
        return masked_name(row)

    @column(_("phone"))
    def telephone(self, row: NetworkAccount) -> str:
        return masked_phone(row.phone)

    def find(self, text: str) -> list[Any]:
        return list(NetworkAccount.objects.filter(phone=text).exclude(phone="").values_list("pk", flat=True)[:500])

    def panels(self, request: HttpRequest, row: NetworkAccount) -> Iterable[Panel]:
        cards = Card.objects.filter(network_account=row).select_related("program").order_by("-pk")[:50]
        yield Panel(
            _("cards"),
            (_("card"), _("card program"), _("state"), figure(_("remaining")), _("opened at")),
            [
                (link(card, f"•••• {card.last4}"), card.program, state_of(card), quantity(card.remaining, card.unit),
                 moment(card.opened_at))
                for card in cards
            ],
            _("No card."),
            more=(_("all its cards"), listing(Card, network_account=row.pk)),
        )  # fmt: skip


class LedgerAdmin(House):
    """What the ledger wrote: to be read by those who may, changed by nobody."""

    empty = _("The ledger writes this by itself when cards are opened and used.")

    def _in_unit(self, row: Any, name: str) -> Any:
        return quantity(getattr(row, name), row.card.unit)


@admin.register(Load)
class LoadAdmin(LedgerAdmin):
    list_display = ("reference", "kind", "card", "merchant", "paid", "bonus", "in_face", "in_remaining", "occurred_at")
    money = ("paid", "bonus")
    list_filter = ("merchant",)
    links = ("card", "merchant")
    facts = (
        "reference", "kind", "seq", "card", "merchant", "paid", "bonus", "in_face", "in_remaining", "payment_method",
        "starts_on_date", "occurred_at", "recorded_at",
    )  # fmt: skip
    search_help_text = _("reference")

    @column(_("face"), figures=True)
    def in_face(self, row: Load) -> Any:
        return self._in_unit(row, "face")

    @column(_("remaining"), figures=True)
    def in_remaining(self, row: Load) -> Any:
        return self._in_unit(row, "remaining")

    def find(self, text: str) -> list[Any]:
        return list(loads_of_reference(text).values_list("pk", flat=True)[:500])


@admin.register(SubCard)
class SubCardAdmin(LedgerAdmin):
    list_display = ("seq", "card", "load", "paid", "in_face", "in_remaining")
    money = ("paid",)
    links = ("card", "load")
    facts = ("seq", "card", "load", "paid", "in_face", "in_remaining")

    @column(_("face"), figures=True)
    def in_face(self, row: SubCard) -> Any:
        return self._in_unit(row, "face")

    @column(_("remaining"), figures=True)
    def in_remaining(self, row: SubCard) -> Any:
        return self._in_unit(row, "remaining")

    def panels(self, request: HttpRequest, row: SubCard) -> Iterable[Panel]:
        entries = Entry.objects.filter(sub_card=row).select_related("transaction").order_by("-pk")[:TIMELINE]
        yield Panel(
            _("entries"),
            (_("occurred at"), _("transaction"), figure(_("amount")), figure(_("balance after"))),
            [
                (
                    moment(entry.transaction.occurred_at),
                    link(entry.transaction, entry.transaction.get_kind_display()),
                    quantity(entry.amount, row.card.unit),
                    quantity(entry.balance_after, row.card.unit),
                )
                for entry in entries
            ],
        )


class Refund(Reason):
    amount = forms.CharField(
        label=_("amount"),
        required=False,
        help_text=_("in yuan, or so many uses; empty: all that is left of the payment"),
    )
    reference = forms.CharField(
        label=_("reference"), max_length=64, initial=_new_reference, help_text=_("used once, for ever")
    )
    takes_row = True
    field_order = ("amount", "reference", "reason")

    def __init__(self, *arguments: Any, row: Transaction, **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        if row.unit == Unit.MONEY:
            self.fields["amount"] = Yuan(
                label=_("amount"), required=False, help_text=_("in yuan; empty: all that is left of the payment")
            )
        elif row.unit == Unit.USES:
            self.fields["amount"] = forms.IntegerField(
                label=_("uses"), min_value=1, required=False, help_text=_("empty: all that is left of the payment")
            )
        else:
            del self.fields["amount"]
        self.order_fields(self.field_order)


def _returned(transaction: Transaction) -> int:
    return transaction.returns.aggregate(sum=Sum("amount"))["sum"] or 0


def _what_is_left(request: HttpRequest, row: Transaction, data: dict[str, Any]) -> Facts:
    returned = _returned(row)
    return (
        (_("paid"), quantity(-row.amount, row.unit)),
        (_("given back already"), quantity(returned, row.unit)),
        (_("left to give back"), quantity(-row.amount - returned, row.unit)),
        (_("card"), link(row.card)),
    )


def _refund(request: HttpRequest, row: Transaction, data: dict[str, Any]) -> Transaction:
    now = timezone.now()
    posted = ledger.refund(
        merchant_id=row.merchant_id,
        transaction_id=row.pk,
        amount=data.get("amount"),
        reference=data["reference"],
        occurred_at=now,
        now=now,
    )
    return Transaction.objects.get(pk=posted.id)


class Reversal(Reason):
    reference = forms.CharField(
        label=_("reference"), max_length=64, initial=_new_reference, help_text=_("used once, for ever")
    )


def _reverse(request: HttpRequest, row: Transaction, data: dict[str, Any]) -> Transaction:
    now = timezone.now()
    posted = ledger.reverse(
        merchant_id=row.merchant_id, transaction_id=row.pk, reference=data["reference"], occurred_at=now, now=now
    )
    return Transaction.objects.get(pk=posted.id)


def _is_payment(row: Transaction) -> bool:
    return row.kind == Transaction.Kind.PAYMENT


@admin.register(Transaction)
class TransactionAdmin(LedgerAdmin):
    list_display = (
        "reference", "kind", "card", "merchant", "store", "list_amount", "in_amount", "in_usable_after",
        "refundable_after", "occurred_at",
    )  # fmt: skip
    money = ("list_amount", "charged_amount", "principal", "gift", "refundable_after")
    list_filter = ("merchant",)
    ranges = ("id",)
    summed = {"in_amount": Sum("amount", filter=Q(unit=Unit.MONEY))}
    links = ("card", "merchant")
    facts = (
        "reference", "kind", "card", "merchant", "in_amount", "list_amount", "charged_amount", "principal", "gift",
        "in_usable_after", "refundable_after", "store", "occurred_at", "recorded_at",
    )  # fmt: skip
    search_help_text = _("reference")
    verbs = (
        Verb("refund", _("refund"), _refund, form=Refund, shown=_is_payment, preview=_what_is_left,
             words=_("Value goes back to the sub-cards it came from, in reverse order.")),
        Verb("reverse", _("reverse"), _reverse, form=Reversal, shown=_is_payment, preview=_what_is_left, tone="bad",
             words=_("For a payment that should not have been made: all of it, and only if nothing was refunded.")),
    )  # fmt: skip

    @column(_("amount"), figures=True)
    def in_amount(self, row: Transaction) -> Any:
        return quantity(row.amount, row.unit)

    @column(_("usable after"), figures=True)
    def in_usable_after(self, row: Transaction) -> Any:
        return quantity(row.usable_after, row.unit)

    def find(self, text: str) -> list[Any]:
        if transaction_id := parse_id("txn", text):
            return [transaction_id]
        return list(
            Transaction.objects.filter(
                merchant__in=list(Merchant.objects.values_list("pk", flat=True)),
                kind__in=Transaction.Kind.values,
                reference=text,
            ).values_list("pk", flat=True)[:500]
        )

    def about(self, request: HttpRequest, row: Transaction) -> Facts:
        facts = list(super().about(request, row))
        if row.original_id:
            facts.append((_("original transaction"), link(row.original)))
        return facts

    def panels(self, request: HttpRequest, row: Transaction) -> Iterable[Panel]:
        entries = Entry.objects.filter(transaction=row).select_related("sub_card").order_by("pk")[:1000]
        yield Panel(
            _("entries"),
            (_("sub-card"), figure(_("amount")), figure(_("balance after"))),
            [
                (
                    link(entry.sub_card),
                    quantity(entry.amount, row.unit),
                    quantity(entry.balance_after, row.unit),
                )
                for entry in entries
            ],
            _("No value moved: the use was recorded."),
        )
        if row.kind == Transaction.Kind.PAYMENT:
            returns = row.returns.order_by("pk")[:50]
            yield Panel(
                _("refunds and reversals"),
                (_("occurred at"), _("kind"), _("reference"), figure(_("amount"))),
                [
                    (moment(one.occurred_at), link(one, one.get_kind_display()), one.reference,
                     quantity(one.amount, one.unit))
                    for one in returns
                ],
                _("Nothing was given back."),
            )  # fmt: skip


class Posted(admin.SimpleListFilter):
    """Refused payments that were posted by a later reading of their file, and those that were not."""

    title = _("what became of it")
    parameter_name = "posted"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("no", _("still refused")), ("yes", _("posted since"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        if self.value() not in ("yes", "no"):
            return None
        return queryset.filter(posted_at__isnull=self.value() == "no")


@admin.register(RefusedPayment)
class RefusedPaymentAdmin(House):
    list_display = (
        "refused_at", "merchant", "reference", "refusal", "reason", "occurred_at", "file", "line", "posted_at",
    )  # fmt: skip
    list_filter = (Posted, "merchant", "refusal")
    links = ("merchant", "card")
    heavy = ("raw",)
    facts = (
        "merchant", "card", "reference", "purchase_reference", "refusal", "reason", "occurred_at", "file", "line",
        "raw", "recorded_at", "refused_at", "posted_at",
    )  # fmt: skip
    search_help_text = _("reference of the payment or of the purchase")
    empty = _("Lines of a file of payments that “manage.py ingest” refused stand here, each once.")

    def find(self, text: str) -> list[Any]:
        found = RefusedPayment.objects.filter(reference=text) | RefusedPayment.objects.filter(purchase_reference=text)
        return list(found.values_list("pk", flat=True)[:500])


@admin.register(Entry)
class EntryAdmin(LedgerAdmin):
    list_display = ("id", "transaction", "card", "sub_card", "in_amount", "in_balance_after")
    links = ("card", "transaction", "sub_card")
    facts = ("transaction", "card", "sub_card", "in_amount", "in_balance_after")

    @column(_("amount"), figures=True)
    def in_amount(self, row: Entry) -> Any:
        return self._in_unit(row, "amount")

    @column(_("balance after"), figures=True)
    def in_balance_after(self, row: Entry) -> Any:
        return self._in_unit(row, "balance_after")


@admin.register(CardMove)
class CardMoveAdmin(LedgerAdmin):
    list_display = ("recorded_at", "card", "from_state", "to_state", "by", "reason")
    links = ("card",)
    facts = ("card", "from_state", "to_state", "by", "reason", "recorded_at")


@admin.register(RetiredNumber)
class RetiredNumberAdmin(LedgerAdmin):
    list_display = ("last4", "card", "reason", "recorded_at")
    facts = ("last4", "card", "reason", "recorded_at")
    links = ("card",)
    empty = _("Numbers of lost cards that were replaced stand here.")


# Reconciliation --------------------------------------------------------------------------------------------------


class BusinessDate(forms.Form):
    business_date = forms.DateField(
        label=_("business date"), widget=forms.DateInput(attrs={"type": "date"}), help_text=_("a day that is over")
    )


def _run_ledger(request: HttpRequest, row: None, data: dict[str, Any]) -> Run:
    return reconciliation.ledger_day(business_date=data["business_date"], now=timezone.now())


def _run_bordereau(request: HttpRequest, row: None, data: dict[str, Any]) -> Run:
    return bordereau_day(business_date=data["business_date"], now=timezone.now())


def _run_statement(request: HttpRequest, row: None, data: dict[str, Any]) -> Run:
    return statement_day(business_date=data["business_date"], now=timezone.now())


COMPARE_AGAIN = {Run.Partner.INSURER: bordereau_again, Run.Partner.POINTS: statement_again}
"""Whose files can be compared once more."""


def _compare_kept(request: HttpRequest, row: Run, data: dict[str, Any]) -> Run:
    return COMPARE_AGAIN[Run.Partner(row.partner)](run=row, now=timezone.now())


@admin.register(Run)
class RunAdmin(House):
    list_display = ("business_date", "partner", "state", "compared", "breaks_open", "started_at", "finished_at")
    list_filter = ("partner", "state")
    facts = ("partner", "business_date", "state", "compared", "started_at", "finished_at", "problem", "totals")
    empty = _("Every business date is reconciled by the clock after midnight; a day can also be run by hand.")
    list_verbs = (
        Verb("run_day", _("run a day of the ledger"), _run_ledger, form=BusinessDate, apart=True,
             words=_("Replays every card that moved that day. What is found again stays as staff left it.")),
        Verb("run_bordereau", _("run a day of the insurer"), _run_bordereau, form=BusinessDate, apart=True,
             words=_("Fetches the insurer's bordereau of that day and compares it with policies and endorsements.")),
        Verb("run_statement", _("run a day of the points system"), _run_statement, form=BusinessDate, apart=True,
             words=_("Fetches the points system's statement of that day and compares it with exchanges and returns.")),
    )  # fmt: skip

    verbs = (
        Verb("compare_kept", _("compare the kept file again"), _compare_kept, states=("DONE", "FAILED"),
             shown=lambda run: run.partner in COMPARE_AGAIN and run.files.exists(), apart=True,
             words=_("The partner's file as it was received last is compared once more with what stands here now; the "
                     "partner is not asked.")),
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        return super().get_queryset(request).annotate(open=Count("breaks", filter=_open_break("breaks__")))

    @column(_("open breaks"), figures=True)
    def breaks_open(self, row: Any) -> Any:
        return number(row.open)

    def note(self, request: HttpRequest, row: Run) -> object:
        return row.problem if row.state == Run.State.FAILED else ""

    def is_moving(self, row: Run) -> bool:
        return row.state == Run.State.RUNNING

    def panels(self, request: HttpRequest, row: Run) -> Iterable[Panel]:
        found = Break.objects.filter(run=row).select_related("owner").order_by("-state", "pk")[:50]
        yield Panel(
            _("breaks"),
            (_("type"), _("subject"), _("state"), _("owner"), figure(_("difference"))),
            [
                (link(one, one.get_type_display()), one.subject, state_of(one), one.owner or NOTHING,
                 _by_how_much(one))
                for one in found
            ],
            _("Everything agreed."),
            more=(_("all breaks"), listing(Break, run=row.pk)),
        )  # fmt: skip
        kept = PartnerFile.objects.filter(run=row).order_by("-pk")
        if row.partner != Run.Partner.LEDGER:
            yield Panel(
                _("files received"),
                (_("recorded at"), _("message id"), figure(_("size in bytes")), "SHA-256"),
                [(link(one, moment(one.recorded_at)), one.message_id, number(one.size), one.sha256) for one in kept],
                _("No file was received."),
            )


def _download(request: HttpRequest, row: PartnerFile, data: dict[str, Any]) -> StreamingHttpResponse:
    name = f"{row.run.partner.lower()}-{row.run.business_date}-{row.recorded_at:%H%M%S}.csv"
    return StreamingHttpResponse(
        files.pieces(row),
        content_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Content-Length": str(row.size)},
    )


@admin.register(PartnerFile)
class PartnerFileAdmin(House):
    list_display = ("recorded_at", "run", "size", "message_id")
    links = ("run",)
    facts = ("run", "recorded_at", "message_id", "size", "sha256")
    empty = _("Every file that a partner gives for a business date is kept here whole, as it was received.")
    verbs = (
        Verb("download", _("download"), _download,
             words=_("The file as it was received, byte by byte; its last lines carry its hash and the signature.")),
    )  # fmt: skip


def _open_break(prefix: str = "") -> Q:
    return Q(**{f"{prefix}state": Break.State.OPEN})


def _take(request: HttpRequest, found: Break, data: dict[str, Any]) -> object:
    reconciliation.take(found=found, owner=request.user)  # type: ignore[arg-type]
    return _("It is yours now.")


class Resolution(forms.Form):
    resolution = forms.CharField(
        label=_("resolution"), max_length=300, widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("how the difference came about and what was done"),
    )  # fmt: skip


def _resolve(request: HttpRequest, found: Break, data: dict[str, Any]) -> object:
    reconciliation.resolve(found=found, resolution=data["resolution"], by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("Resolved.")


def _needs_second_person(request: HttpRequest, found: Break) -> object:
    return _why_not_alone(request, found) if reconciliation.is_large(found) else None


def _why_not_alone(request: HttpRequest, found: Break) -> object:
    if found.owner_id is None:
        return reconciliation.OwnerNeeded.text
    return SamePerson.text if found.owner_id == request.user.pk else None


def _by_how_much(found: Break) -> Any:
    apart = reconciliation.difference(found)
    return number(apart) if reconciliation.is_in_points(found) else yuan(apart)


def _possible(found: Any) -> set[str]:
    # Every button asks, of one record on one page.
    if not hasattr(found, "repairs_possible"):
        found.repairs_possible = repairs.possible(found)
    kinds: set[str] = found.repairs_possible
    return kinds


def _repair(what: Repair.What, words: object, *, tone: str = "") -> Verb:
    def run(request: HttpRequest, found: Break, data: dict[str, Any]) -> Repair:
        by: Any = request.user
        return repairs.repair(found=found, what=what, reason=data["reason"], by=by, now=timezone.now())

    def barred(request: HttpRequest, found: Break) -> object:
        points = repairs.points_at_stake(found=found, what=what, about=repairs.subject_of(found))
        return _why_not_alone(request, found) if repairs.takes_two(what=what, points=points) else None

    return Verb(
        what.value.lower(), what.label, run, form=Reason, shown=lambda found: what in _possible(found), barred=barred,
        words=words, tone=tone,
    )  # fmt: skip


def _reopen(request: HttpRequest, found: Break, data: dict[str, Any]) -> object:
    reconciliation.reopen(found=found)
    return _("Open again.")


@admin.register(Break)
class BreakAdmin(House):
    list_display = ("subject", "type", "run", "state", "merchant", "by_how_much", "owner", "age", "recorded_at")
    list_filter = ("state", "type")
    tabs = (
        Tab(_("all breaks")),
        Tab(_("open breaks"), lambda request: {"state__exact": "OPEN"}),
        Tab(_("my breaks"), lambda request: {"owner__id__exact": request.user.pk, "state__exact": "OPEN"}),
        Tab(_("resolved"), lambda request: {"state__exact": "RESOLVED"}),
    )
    ranges = ("recorded_at",)
    links = ("run", "card", "owner")
    search_help_text = _("request no.")
    facts = (
        "type", "subject", "run", "state", "by_how_much", "merchant", "card", "owner", "age", "recorded_at",
        "resolution", "resolved_by", "resolved_at",
    )  # fmt: skip
    empty = _("No break: whatever was reconciled agreed.")
    verbs = (
        Verb("take", _("take"), _take, states=("OPEN",), bulk=True,
             words=_("You will see to it. It can be handed on.")),
        Verb("resolve", _("resolve"), _resolve, form=Resolution, states=("OPEN",), barred=_needs_second_person),
        Verb("reopen", _("open again"), _reopen, states=("RESOLVED",)),
        _repair(Repair.What.ASK_AGAIN, _("What is open with us is asked about, or sent again, at once."), tone="main"),
        _repair(Repair.What.REVERSE, _("The points went for no coupons of ours: the points system gives them back.")),
        _repair(Repair.What.RESUBMIT, _("The very same message is sent again under its number. If it was lost, the "
                                        "points system books it now; if it was not, nothing happens twice.")),
        _repair(Repair.What.FREEZE, _("No coupon of the exchange is redeemed until this is understood.")),
        _repair(Repair.What.UNFREEZE, _("The coupons that were frozen here are good again.")),
    )  # fmt: skip

    @column(_("difference"), figures=True)
    def by_how_much(self, row: Break) -> Any:
        return _by_how_much(row)

    @column(_("age"), figures=True)
    def age(self, row: Break) -> Any:
        if row.state != Break.State.OPEN:
            return NOTHING
        days = (timezone.now() - row.recorded_at).days
        return figure(ngettext("%(n)s day", "%(n)s days", days) % {"n": days})

    def find(self, text: str) -> list[Any]:
        return list(Break.objects.filter(subject=text).values_list("pk", flat=True))

    def panels(self, request: HttpRequest, row: Break) -> Iterable[Panel]:
        yield Panel(_("side by side"), (_("ours"), _("theirs")), [(plain_data(row.ours), plain_data(row.theirs))])
        if row.run.partner != Run.Partner.POINTS:
            return
        about = repairs.subject_of(row)
        if about.exchange is not None:
            one = about.exchange
            yield Panel(
                _("exchange"),
                (_("submitted at"), _("coupon product"), figure(_("coupons")), figure(_("points")), _("state")),
                [(moment(one.submitted_at), link(one, one.product.code), number(one.count), number(one.points),
                  state_of(one))],
                note=_("An unresolved exchange is asked about again or settled by hand on its own page."),
            )  # fmt: skip
        if about.points_return is not None:
            back = about.points_return
            yield Panel(
                _("return of points"),
                (_("when"), figure(_("coupons")), figure(_("points")), _("state")),
                [(link(back, moment(back.recorded_at)), number(back.count), number(back.points), state_of(back))],
            )
        yield panel_of_repairs(row.repairs.all())


# Holds -----------------------------------------------------------------------------------------------------------


class Holding(Reason):
    partner = forms.ChoiceField(label=_("partner"), choices=[(one.value, one.label) for one in holds.PARTNERS])
    field_order = ("partner", "reason")


def _hold(request: HttpRequest, row: None, data: dict[str, Any]) -> Hold:
    return holds.hold(
        partner=Run.Partner(data["partner"]), reason=data["reason"], by=by_staff(request), now=timezone.now()
    )


def _release(request: HttpRequest, row: Hold, data: dict[str, Any]) -> object:
    holds.release(held=row, reason=data["reason"], by=by_staff(request), now=timezone.now())
    return _("What is owed is sent again from now on.")


@admin.register(Hold)
class HoldAdmin(House):
    list_display = ("partner", "began_at", "reason", "by", "released_at", "released_by", "release_reason")
    facts = ("partner", "began_at", "reason", "by", "released_at", "released_by", "release_reason")
    empty = _("Nothing is held. After a restore of the database, sending is held until every day is reconciled.")
    list_verbs = (
        Verb("hold", _("hold sending"), _hold, form=Holding, tone="bad",
             words=_("What is owed stays owed, what was sent is asked about, and nothing is sent. It ends by itself "
                     "once every business date is reconciled, today included.")),
    )  # fmt: skip
    verbs = (
        Verb("release", _("release the hold"), _release, form=Reason, shown=lambda row: row.released_at is None,
             tone="bad", warning=_("Only if you know what the partner did that is not in this database.")),
    )  # fmt: skip


# Test twins ------------------------------------------------------------------------------------------------------


def _make_test_twin(request: HttpRequest, merchant: Merchant, data: dict[str, Any]) -> object:
    return processing.make_test_twin(merchant=merchant, now=timezone.now())


# The page of a merchant stands in issuing, which knows nothing of insurance and coupons; they are copied too.
MerchantAdmin.verbs = (
    *MerchantAdmin.verbs,
    Verb(
        "make_test_twin",
        _("make or renew the test twin"),
        _make_test_twin,
        shown=lambda merchant: not merchant.is_test,
        words=_("A merchant to try things out as, with keys of its own. What is new here is copied to it."),
    ),
)


# The first page --------------------------------------------------------------------------------------------------


# What a merchant tries out waits for nobody of the staff.
_LIVE = Q(merchant__test_of=None)
_LIVE_POLICY = Q(policy__merchant__test_of=None)

MOST_NEEDS = 2_000
"""Further than this nothing is counted: the first page stays quick when much is owed at once."""


@dataclass(frozen=True)
class Need:
    """Something that waits for somebody: a count that leads to the list that makes it.

    Who holds one of the permissions ``for_whom`` can do something about it.
    """

    label: object
    count: int
    address: str
    for_whom: Sequence[str]
    detail: object = ""
    is_pressing: bool = False

    @property
    def shown(self) -> str:
        return f"{MOST_NEEDS:,}+" if self.count > MOST_NEEDS else f"{self.count:,}"


def _count(rows: QuerySet[Any]) -> int:
    return rows.order_by()[: MOST_NEEDS + 1].count()


def _age(first: Any, now: Any) -> str:
    if first is None:
        return ""
    days = (now - first).days
    return ngettext("oldest: %(n)s day", "oldest: %(n)s days", days) % {"n": days}


def first_page(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What needs somebody now; the theme asks for it when the first page is shown."""
    now = timezone.now()
    may = request.user.has_perm
    needs = [
        need
        for permission, ask in (
            ("issuing.view_batch", _batches),
            ("claims.view_claim", _claims_waiting),
            ("insurance.view_policy", _handshakes),
            ("insurance.view_policy", _uninsured),
            ("prepaid.view_break", _breaks),
            ("prepaid.view_run", _failed_runs),
            ("prepaid.view_hold", _holds),
            ("issuing.view_webhookendpoint", _webhooks),
            ("points.view_exchange", _exchanges),
            ("points.view_exchangeratio", _ratios),
            ("points.view_wrongguess", _guessers),
        )
        if may(permission)
        for need in ask(now)
    ]
    mine = [need for need in needs if any(map(may, need.for_whom))]
    others = [need for need in needs if need.count and need not in mine]
    return {**context, "title": _("Needs me now"), "needs": mine, "others": others}


def _batches(now: Any) -> Iterable[Need]:
    waiting = Batch.objects.filter(state=Batch.State.STAGED)
    facts = waiting.aggregate(count=Count("pk"), first=Min("recorded_at"), amount=Sum("good_amount"))
    yield Need(
        _("batches to approve"),
        facts["count"],
        listing(Batch, state__exact=Batch.State.STAGED),
        ["issuing.approve_batch"],
        f"{format_yuan(facts['amount'] or 0)} · {_age(facts['first'], now)}" if facts["count"] else "",
    )


def _claims_waiting(now: Any) -> Iterable[Need]:
    steps = (
        (Claim.State.FILED, _("claims to assess"), "claims.assess_claim"),
        (Claim.State.ASSESSED, _("claims to approve"), "claims.approve_claim"),
        (Claim.State.APPROVED, _("claims to pay"), "claims.pay_claim"),
    )
    for state, label, verb in steps:
        yield Need(label, _count(Claim.objects.filter(_LIVE, state=state)), listing(Claim, state__exact=state), [verb])
    overdue = len(late(now, MOST_NEEDS + 1))
    everybody = [verb for _state, _label, verb in steps]
    yield Need(_("claims past their term"), overdue, listing(Claim, term="over"), everybody, is_pressing=bool(overdue))
    declared = InsuredEvent.objects.filter(_LIVE, state=InsuredEvent.State.DECLARED)
    yield Need(
        _("insured events to confirm"),
        _count(declared),
        listing(InsuredEvent, state__exact="DECLARED"),
        ["claims.confirm_insuredevent"],
    )


def _handshakes(now: Any) -> Iterable[Need]:
    for model, label, whose in (
        (Policy, _("unresolved policies"), _LIVE),
        (Endorsement, _("unresolved endorsements"), _LIVE_POLICY),
        (Notice, _("unresolved notices"), _LIVE_POLICY),
    ):
        count = _count(model.objects.filter(whose, state="UNRESOLVED"))
        verb = f"insurance.ask_again_{model._meta.model_name}"
        yield Need(label, count, listing(model, state__exact="UNRESOLVED"), [verb], is_pressing=bool(count))


def _webhooks(now: Any) -> Iterable[Need]:
    paused = _count(WebhookEndpoint.objects.filter(state="PAUSED").exclude(paused_because="ASKED"))
    yield Need(
        _("webhook endpoints paused by themselves"),
        paused,
        listing(WebhookEndpoint, state__exact="PAUSED"),
        ["issuing.resume_webhookendpoint"],
        is_pressing=bool(paused),
    )
    yield Need(
        _("webhook deliveries that failed"),
        _count(WebhookDelivery.objects.filter(state="FAILED").exclude(problem="REMOVED")),
        listing(WebhookDelivery, state__exact="FAILED"),
        ["issuing.resend_webhookdelivery"],
    )


def _uninsured(now: Any) -> Iterable[Need]:
    # A card whose enrolment was declined, or not answered yet, is spent from without cover.
    without = (
        Policy.objects.filter(_LIVE, state__in=["PENDING", "UNKNOWN", "UNRESOLVED", "DECLINED"])
        .exclude(card__state__in=[Card.State.CLOSED, Card.State.COMPENSATED])
        .order_by()
    )
    facts = without[: MOST_NEEDS + 1].aggregate(count=Count("pk"), sum=Sum("sum_insured"))
    cut = facts["count"] > MOST_NEEDS
    yield Need(
        _("cards without accepted cover"),
        facts["count"],
        listing(Policy, cover="none"),
        ["insurance.ask_again_policy"],
        f"{'≥ ' if cut else ''}{format_yuan(facts['sum'] or 0)}" if facts["count"] else "",
    )


def _breaks(now: Any) -> Iterable[Need]:
    facts = Break.objects.filter(_LIVE, _open_break()).aggregate(count=Count("pk"), first=Min("recorded_at"))
    yield Need(
        _("open breaks"),
        facts["count"],
        listing(Break, state__exact=Break.State.OPEN),
        ["prepaid.take_break", "prepaid.resolve_break"],
        _age(facts["first"], now),
        bool(facts["first"] and now - facts["first"] > timedelta(days=3)),
    )


def _failed_runs(now: Any) -> Iterable[Need]:
    count = _count(Run.objects.filter(state=Run.State.FAILED))
    yield Need(
        _("reconciliations that failed"),
        count,
        listing(Run, state__exact=Run.State.FAILED),
        ["prepaid.run_day_run", "prepaid.run_bordereau_run", "prepaid.run_statement_run"],
        is_pressing=bool(count),
    )


def _holds(now: Any) -> Iterable[Need]:
    for held in Hold.objects.filter(released_at=None).order_by("pk"):
        yield Need(
            _("partners that nothing is sent to"),
            1,
            address(held) or listing(Hold),
            ["prepaid.release_hold", "prepaid.hold_hold"],
            f"{held.get_partner_display()} · {_age(held.began_at, now)}",
            is_pressing=True,
        )


def _exchanges(now: Any) -> Iterable[Need]:
    bank = ["points.ask_again_exchange", "points.settle_exchange"]
    for model, label, whose in (
        (Exchange, _("unresolved exchanges"), _LIVE),
        (PointsReturn, _("unresolved returns of points"), _LIVE),
        (Repair, _("unresolved repairs"), Q()),
    ):
        count = _count(model.objects.filter(whose, state="UNRESOLVED"))
        yield Need(label, count, listing(model, state__exact="UNRESOLVED"), bank, is_pressing=bool(count))
    lately = _count(Exchange.objects.filter(_LIVE, ~Q(incident=""), submitted_at__gt=now - LATELY))
    yield Need(
        _("incidents with the points system"),
        lately,
        listing(Exchange, incident="lately"),
        bank,
        is_pressing=bool(lately),
    )


def _ratios(now: Any) -> Iterable[Need]:
    proposed = ExchangeRatio.objects.filter(product__merchant__test_of=None, state=ExchangeRatio.State.PROPOSED)
    yield Need(
        _("exchange ratios to approve"),
        _count(proposed),
        listing(ExchangeRatio, state__exact="PROPOSED"),
        ["points.approve_exchangeratio"],
    )


def _guessers(now: Any) -> Iterable[Need]:
    for one in guessing.guessers(now=now)[:5]:
        # Whose key or account it is stands in the list.
        where = listing(WrongGuess, subject=one["subject"])
        yield Need(_("wrong guesses"), one["count"], where, ["points.freeze_coupon"], one["subject"], True)
