"""The back office of cards: the card's page, its ledger, reconciliation, and what needs somebody now."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin
from django.db.models import Count, Min, Model, Q, QuerySet, Sum
from django.db.models.expressions import RawSQL
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from claims import adjudication
from claims.models import Claim, InsuredEvent
from config import charts, inbox
from config.admin import (
    NOTHING,
    Counted,
    Facts,
    House,
    Leaf,
    Panel,
    Reason,
    Sheet,
    Verb,
    Yuan,
    address,
    badge,
    by_staff,
    column,
    figure,
    link,
    listing,
    moment,
    number,
    plain_data,
    shown_once,
    state_of,
    what,
    why,
    yuan,
)
from config.errors import SamePerson
from config.ids import parse_id, public_id
from config.models import Act
from config.money import format_yuan
from insurance.models import Endorsement, InsurerMessage, Notice, Policy
from insurance.reconciliation import bordereau_again, bordereau_day
from issuing import numbering
from issuing.admin import MerchantAdmin, quantity
from issuing.models import Batch, CardProgram, Merchant, PaymentMethod, Unit, WebhookDelivery, WebhookEndpoint
from issuing.orders import Holder, Order, local_date
from points import guessing, repairs
from points.admin import panel_of_repairs, unless_guessing
from points.models import Exchange, ExchangeRatio, PointsReturn, Repair, WrongGuess
from points.reconciliation import statement_again, statement_day
from prepaid import consumption, files, holds, ledger, notes, papers, processing, reconciliation, timeline, valuation
from prepaid.models import (
    Break,
    BreakStep,
    Card,
    CardMove,
    DayFigure,
    Entry,
    Hold,
    Load,
    NetworkAccount,
    Note,
    PartnerFile,
    RefusedPayment,
    RetiredNumber,
    Run,
    SubCard,
    Transaction,
)

SHOWN = 50
"""How many entries or sub-cards a page shows; an older or later link leads on."""

LOADS = 200
"""How many loads the page of the calculation shows; it counts with all of them."""

LATE = timedelta(minutes=10)
"""A transaction recorded so much later than it occurred says so."""


def masked_name(account: NetworkAccount) -> str:
    return papers.masked_name(account.holder_name)


def masked_phone(phone: str) -> str:
    return f"{phone[:3]}****{phone[-4:]}" if len(phone) == 11 else NOTHING


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
    """Cards somebody means: by the last four, a phone, an id or a merchant's reference."""
    if card_id := parse_id("crd", text):
        return [card_id]
    found: list[UUID] = []
    if text.isascii() and text.isdigit() and len(text) == 4:
        found += Card.objects.filter(last4=text).values_list("pk", flat=True)[:500]
    if text.isascii() and text.isdigit() and len(text) == 11:
        accounts = list(NetworkAccount.objects.filter(phone=text).values_list("pk", flat=True)[:500])
        found += Card.objects.filter(network_account__in=accounts).values_list("pk", flat=True)[:500]
    found += loads_of_reference(text).values_list("card", flat=True)[:500]
    return found


def cards_of_number(number: str) -> list[UUID]:
    """The card that has a full number, or had it before it was replaced."""
    hashes = numbering.hashes(number)
    found = list(Card.objects.filter(number_hash__in=hashes).values_list("pk", flat=True))
    return found or list(RetiredNumber.objects.filter(number_hash__in=hashes).values_list("card", flat=True))


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


class Noted(forms.Form):
    text = forms.CharField(
        label=_("note"), max_length=1000, widget=forms.Textarea(attrs={"rows": 4}),
        help_text=_("Who reads this card reads it. Of full numbers and codes only the end is kept."),
    )  # fmt: skip


def _note(request: HttpRequest, card: Card, data: dict[str, Any]) -> object:
    notes.note(card=card, text=data["text"], by=by_staff(request), now=timezone.now())
    return _("Written down.")


class _InLanguage(forms.Form):
    language = forms.ChoiceField(label=_("language"), choices=settings.LANGUAGES, initial=translation.get_language)


class OfPeriod(_InLanguage):
    """From the first day of last month to today, unless somebody says otherwise."""

    first = forms.DateField(
        label=_("from"), initial=lambda: (timezone.localdate().replace(day=1) - timedelta(days=1)).replace(day=1),
        widget=forms.DateInput(attrs={"type": "date"}),
    )  # fmt: skip
    last = forms.DateField(label=_("to"), initial=timezone.localdate, widget=forms.DateInput(attrs={"type": "date"}))
    field_order = ("first", "last", "language")


def _as_pdf(content: bytes, name: str) -> HttpResponse:
    return HttpResponse(
        content,
        content_type="application/pdf",
        headers={"Content-Disposition": f'attachment; filename="{name}.pdf"', "Cache-Control": "no-store"},
    )


def _statement(request: HttpRequest, card: Card, data: dict[str, Any]) -> HttpResponse:
    return _as_pdf(papers.statement(card=card, **data, now=timezone.now()), f"statement-{card.last4}")


def _certificate(request: HttpRequest, card: Card, data: dict[str, Any]) -> HttpResponse:
    return _as_pdf(papers.certificate(card=card, **data, now=timezone.now()), f"certificate-{card.last4}")


def _not_covered(request: HttpRequest, card: Card) -> object:
    return None if papers.policy_in_force(card) else papers.NotCovered.text


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


@admin.register(Card)
class CardAdmin(House):
    merchant = "merchant"
    list_display = ("number", "merchant", "program", "holder", "state", "balance", "opened_at")
    list_filter = ("state", "merchant")
    joined = ("network_account",)
    links = ("merchant", "batch", "network_account", "program")
    search_help_text = _("last four, phone, policy no. or purchase reference; a full number only with Ctrl K")
    empty = _("Open a card here, or upload a file of purchases under batches.")
    list_verbs = (
        Verb("open", _("open a card"), _open, form=Purchase, preview=_quoted, quotes=True,
             words=_("The purchase is tested as a whole, split into sub-cards, and its insurance is owed at once.")),
    )  # fmt: skip
    verbs = (
        Verb("top_up", _("top up"), _top_up, form=TopUp, states=("ACTIVE",), preview=_quoted_top_up, quotes=True,
             words=_("A top-up is a new load with sub-cards of its own; its insurance is endorsed.")),
        Verb("freeze", _("freeze"), _freeze, form=Reason, states=("ACTIVE",)),
        Verb("unfreeze", _("unfreeze"), _unfreeze, form=Reason, states=("FROZEN",)),
        Verb("report_lost", _("report lost"), _report_lost, form=Reason, states=("ACTIVE", "FROZEN")),
        Verb("replace", _("replace"), _replace, form=Reason, states=("LOST",),
             warning=_("The old number is dead for ever. Everything on the card moves to the new one.")),
        Verb("file_claim", _("file a claim"), _file_claim, states=("ACTIVE", "FROZEN", "LOST"), shown=_has_failed,
             preview=_what_is_claimed, tone="main", warning=_("The card is frozen at the moment of loss.")),
        Verb("note", _("add a note"), _note, form=Noted),
        Verb("statement", _("draw a statement"), _statement, form=OfPeriod,
             words=_("A PDF for the holder. That you drew it is written down.")),
        Verb("certificate", _("draw a certificate"), _certificate, form=_InLanguage, barred=_not_covered,
             words=_("A PDF for the holder: that the card is insured. That you drew it is written down.")),
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
        return cards_meant_by(text) or list(Policy.objects.filter(policy_no=text).values_list("card", flat=True))

    def meant_by(self, request: HttpRequest, text: str) -> list[Any]:
        number = text.replace(" ", "").replace("-", "")
        if numbering.is_valid(number):
            mine = self.get_queryset(request)
            return unless_guessing(request, WrongGuess.What.CARD, mine, cards_of_number(number))
        return cards_meant_by(text)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Card]:
        # What is left of a card counted in days follows from the date, which is the house's whoever looks.
        day = timezone.localdate(timezone=timezone.get_default_timezone())
        today = RawSQL("ledger_usable(prepaid_card, %s::date)", [day])
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
        value = consumption.present(row, now)
        policy = _policy_of(row)
        account = row.network_account
        retired = row.retired_numbers.count()
        facts: list[tuple[object, object]] = [
            (_("usable"), format_html('<span class="big">{}</span>', quantity(value.usable, row.unit))),
            (_("refundable principal"), format_html('<span class="big">{}</span>', yuan(value.refundable))),
            (_("state"), state_of(row)),
            (_("cover"), _cover(policy)),
            (_("holder"), format_html("{} · {}", link(account, masked_name(account)), masked_phone(account.phone))),
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
        before = timeline.read(request.GET.get("before", ""))
        lines, older = timeline.timeline(
            row, before=before, may_see=lambda model: model is Act or _may_see(request, model)
        )
        here = request.path
        yield Panel(
            _("what happened"),
            (_("when"), _("what"), _("details"), _("by"), figure(_("amount")), figure(_("usable after"))),
            [(moment(line.place.at), *HAPPENED[line.kind](line)) for line in lines],
            _("Nothing that is older."),
            note=format_html('<a class="to" href="{}">{}</a>', here, _("back to the newest")) if before else "",
            more=(_("older"), f"{here}?{urlencode({'before': timeline.written(older)})}") if older else None,
        )


# Why the balance is this: from the card to its loads, to their sub-cards, to the entries ---------------------------


def _why_this_balance(request: HttpRequest, card: Card) -> Iterable[Panel]:
    """Each step down says what its parts add up to, beside what stood one step up."""
    asked = {name: _whole(request.GET.get(name, "")) for name in ("load", "sub", "after", "before")}
    loads = list(Load.objects.filter(card=card).order_by("seq"))
    parts = SubCard.objects.filter(card=card)
    entries = Entry.objects.filter(card=card)
    yield _sums(
        card.unit,
        [
            (_("the card"), card.remaining),
            (_("its loads together"), sum(load.remaining for load in loads)),
            (_("its sub-cards together"), _total(parts, "remaining")),
            (_("its entries together"), _total(entries, "amount")),
        ],
    )
    yield _calculation(card, loads)
    load = next((one for one in loads if one.seq == asked["load"]), loads[0] if len(loads) == 1 else None)
    if load is None:
        return
    of_load = parts.filter(load=load)
    yield _sums(
        card.unit,
        [
            (_("load %(no)s") % {"no": load.seq}, load.remaining),
            (_("its sub-cards together"), _total(of_load, "remaining")),
            (_("their entries together"), _total(entries.filter(sub_card__in=of_load), "amount")),
        ],
    )
    found = list(of_load.filter(seq__gt=asked["after"] or 0).order_by("seq")[: SHOWN + 1])
    yield Panel(
        _("sub-cards of load %(no)s") % {"no": load.seq},
        (_("sub-card"), figure(_("paid")), figure(_("face")), figure(_("remaining"))),
        [
            (
                _step(card, part.seq, load=load.seq, sub=part.seq), yuan(part.paid), quantity(part.face, card.unit),
                quantity(part.remaining, card.unit),
            )
            for part in found[:SHOWN]
        ],
        more=(_("further"), _why_url(card, load=load.seq, after=found[SHOWN - 1].seq)) if len(found) > SHOWN else None,
    )  # fmt: skip
    only = found[0].seq if len(found) == 1 and not asked["after"] else 0
    part = of_load.filter(seq=asked["sub"] or only).first()
    if part is None:
        return
    of_part = entries.filter(sub_card=part)
    yield _sums(
        card.unit,
        [
            (_("sub-card %(no)s") % {"no": part.seq}, part.remaining),
            (_("its entries together"), _total(of_part, "amount")),
        ],
    )
    older = of_part.filter(pk__lt=asked["before"]) if asked["before"] else of_part
    rows = list(older.select_related("transaction").order_by("-pk")[: SHOWN + 1])
    onward = _why_url(card, load=load.seq, sub=part.seq, before=rows[SHOWN - 1].pk) if len(rows) > SHOWN else ""
    yield Panel(
        _("entries of sub-card %(no)s") % {"no": part.seq},
        (_("occurred at"), _("transaction"), _("reference"), figure(_("amount")), figure(_("balance after"))),
        [
            (
                moment(row.transaction.occurred_at),
                link(row.transaction, row.transaction.get_kind_display()),
                row.transaction.reference,
                quantity(row.amount, card.unit),
                quantity(row.balance_after, card.unit),
            )
            for row in rows[:SHOWN]
        ],
        _("Nothing that is older."),
        more=(_("older"), onward) if onward else None,
    )


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _total(rows: QuerySet[Any], name: str) -> int:
    return rows.aggregate(sum=Sum(name))["sum"] or 0


def _why_url(card: Card, **places: int) -> str:
    return f"{reverse('admin:prepaid_card_why', args=[card.pk])}?{urlencode(places)}"


def _step(card: Card, text: object, **places: int) -> SafeString:
    return format_html('<a class="to" href="{}">{}</a>', _why_url(card, **places), text)


def _sums(unit: str, sums: Sequence[tuple[object, int]]) -> Panel:
    """Sums that must agree, each beside the first."""
    first = sums[0][1]
    return Panel(
        _("must agree"),
        [figure(name) for name, _sum in sums],
        [
            [quantity(amount, unit) for _name, amount in sums],
            [
                "",
                *(
                    figure(badge("ACTIVE", _("agrees")) if amount == first else badge("FAILED", _("differs")))
                    for _name, amount in sums[1:]
                ),
            ],
        ],
    )


def _calculation(card: Card, loads: Sequence[Load]) -> Panel:
    today = local_date(card.merchant, timezone.now())
    of_days = card.unit == Unit.DAYS
    value = valuation.value(
        [
            valuation.LoadPosition(
                str(load.seq), load.paid, load.face, load.remaining, load.starts_on_date if of_days else None
            )
            for load in loads
        ],
        on_date=today,
    )
    exact = sum((line.refundable for line in value.lines), Fraction())
    rows: list[tuple[object, ...]] = [
        (
            _step(card, load.seq, load=load.seq), load.get_kind_display(), moment(load.occurred_at),
            link(load, load.reference), yuan(load.paid), yuan(load.bonus),
            quantity(line.remaining, card.unit), quantity(load.face, card.unit), figure(_fen(line.refundable)),
        )
        for load, line in list(zip(loads, value.lines, strict=True))[-LOADS:]
    ]  # fmt: skip
    rows.append(
        (
            _("together, rounded once"), "", "", "", yuan(value.paid), "", quantity(value.usable, card.unit), "",
            yuan(value.refundable),
        )
    )  # fmt: skip
    return Panel(
        _("refundable principal on %(date)s") % {"date": value.on_date.isoformat()},
        (
            _("load"), _("kind"), _("occurred at"), _("reference"), figure(_("paid")),
            figure(_("bonus")), figure(_("remaining")), figure(_("face")), figure(_("paid × remaining ÷ face")),
        ),
        rows,
        note="" if exact == value.refundable else _("Exact: %(fen)s fen.") % {"fen": exact},
        more=(_("all loads"), listing(Load, card=card.pk)) if len(loads) > LOADS else None,
    )  # fmt: skip


CardAdmin.leaves = (
    Leaf("why", _("why is the balance this"), _why_this_balance,
         words=_("From the card down to single entries: choose a load, then a sub-card.")),
)  # fmt: skip


def _fen(amount: Fraction) -> str:
    """An exact amount for the reader: to the fen, with a sign that it goes on where it does."""
    whole = format_yuan(int(amount))
    return whole if amount.denominator == 1 else f"{whole}…"


# What happened, line by line: what, details, by, amount, usable after ---------------------------------------------

_Cells = tuple[object, object, object, object, object]


def _may_see(request: HttpRequest, model: type[Model]) -> bool:
    """By right, and not shut for somebody who is bound to merchants."""
    return admin.site._registry[model].has_view_permission(request)


def _joined(*parts: object) -> SafeString:
    return format_html_join(" · ", "{}", ((part,) for part in parts if part not in (None, "")))


def _transaction_line(line: timeline.Line) -> _Cells:
    row: Transaction = line.row
    is_late = row.recorded_at - row.occurred_at > LATE
    return (
        link(row, row.get_kind_display()),
        _joined(
            row.reference,
            row.store,
            format_html("{} {}", _("list amount"), format_yuan(row.list_amount)) if row.list_amount else "",
            format_html("{} {}", _("recorded at"), moment(row.recorded_at)) if is_late else "",
        ),
        "",
        quantity(row.amount, row.unit),
        quantity(row.usable_after, row.unit),
    )


def _move_line(line: timeline.Line) -> _Cells:
    row: CardMove = line.row
    moved = format_html(
        '<span class="moved">{} → {}</span>',
        badge(row.from_state, row.get_from_state_display()),
        badge(row.to_state, row.get_to_state_display()),
    )
    return moved, row.reason, row.by, "", ""


def _policy_line(line: timeline.Line) -> _Cells:
    row: Policy = line.row
    if line.moment == "accepted_at":
        return link(row, _("policy accepted")), _joined(row.policy_no), "", yuan(row.sum_insured), ""
    cover = f"{row.cover_from_date.isoformat()} – {row.cover_to_date.isoformat()}"
    premium = format_html("{} {}", _("premium"), format_yuan(row.premium))
    return link(row, _("insurance owed")), _joined(state_of(row), cover, premium), "", yuan(row.sum_insured), ""


def _endorsement_line(line: timeline.Line) -> _Cells:
    row: Endorsement = line.row
    name = f"{_('endorsement')}: {row.get_kind_display()}"
    premium = format_html("{} {}", _("premium"), format_yuan(row.premium))
    if line.moment == "accepted_at":
        name = f"{_('endorsement accepted')}: {row.get_kind_display()}"
        return link(row, name), _joined(row.endorsement_no), "", yuan(row.amount), ""
    return link(row, name), _joined(state_of(row), row.effective_date.isoformat(), premium), "", yuan(row.amount), ""


def _claim_line(line: timeline.Line) -> _Cells:
    row: Claim = line.row
    labels = {
        "filed_at": _("claim filed"),
        "papers_asked_at": _("papers asked for"),
        "papers_received_at": _("papers received"),
        "assessed_at": _("claim assessed"),
        "decided_at": _("claim rejected") if row.state == Claim.State.REJECTED else _("claim approved"),
        "paid_at": _("claim paid"),
    }
    by = {"filed_at": row.filed_by, "assessed_at": row.assessed_by, "decided_at": row.approved_by}
    details = {
        "filed_at": _joined(state_of(row), row.reference),
        "papers_asked_at": row.papers,
        "decided_at": row.reason,
    }
    amount = yuan(row.payable) if line.moment in ("assessed_at", "decided_at", "paid_at") else ""
    return link(row, labels[line.moment]), details.get(line.moment, ""), by.get(line.moment) or "", amount, ""


def _notice_line(line: timeline.Line) -> _Cells:
    row: Notice = line.row
    if line.moment == "accepted_at":
        return link(row, f"{row.get_kind_display()}: {_('acknowledged')}"), "", "", "", ""
    return link(row, row.get_kind_display()), state_of(row), "", "", ""


def _message_line(line: timeline.Line) -> _Cells:
    row: InsurerMessage = line.row
    status = f"HTTP {row.status}" if row.status else ""
    name = _("message of the insurer") if row.direction == "RECEIVED" else _("message to the insurer")
    return link(row, name), _joined(row.type, status, row.problem), "", "", ""


def _delivery_line(line: timeline.Line) -> _Cells:
    row: WebhookDelivery = line.row
    told = link(row, format_html("{}: {}", _("merchant told"), row.event.get_type_display()))
    tries = format_html("{} {}", _("attempts"), row.attempts) if row.attempts > 1 else ""
    return told, _joined(state_of(row), row.endpoint.url, tries, row.problem), "", "", ""


def _note_line(line: timeline.Line) -> _Cells:
    row: Note = line.row
    return _("note"), row.text, row.by, "", ""


def _act_line(line: timeline.Line) -> _Cells:
    row: Act = line.row
    return format_html("{}: {}", _("act of staff"), what(row)), why(row), row.who, "", ""


HAPPENED = {
    "transaction": _transaction_line,
    "move": _move_line,
    "policy": _policy_line,
    "endorsement": _endorsement_line,
    "claim": _claim_line,
    "notice": _notice_line,
    "message": _message_line,
    "delivery": _delivery_line,
    "note": _note_line,
    "act": _act_line,
}


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
    merchant = "merchant"
    list_display = ("holder", "merchant", "telephone", "is_organisation", "recorded_at")
    list_filter = ("merchant",)
    links = ("merchant",)
    facts = ("holder", "telephone", "merchant", "is_organisation", "recorded_at")
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
    merchant = "merchant"
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
    merchant = "card__merchant"
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
        # By the card as well, which is what entries are found by.
        mine = Entry.objects.filter(card=row.card_id, sub_card=row)
        entries = mine.select_related("transaction").order_by("-pk")[:SHOWN]
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
    merchant = "merchant"
    list_display = (
        "reference", "kind", "card", "merchant", "store", "list_amount", "in_amount", "in_usable_after",
        "refundable_after", "occurred_at",
    )  # fmt: skip
    money = ("list_amount", "charged_amount", "principal", "gift", "refundable_after")
    list_filter = ("merchant",)
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

    def meant_by(self, request: HttpRequest, text: str) -> list[Any]:
        # What opened a load bears its reference, and that leads to the card.
        opening = () if parse_id("txn", text) else (Transaction.Kind.PURCHASE, Transaction.Kind.TOP_UP)
        found = Transaction.objects.filter(pk__in=self.find(text))
        return [key for key, kind in found.values_list("pk", "kind") if kind not in opening]

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
    merchant = "merchant"
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
    merchant = "card__merchant"
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
    merchant = "card__merchant"
    list_display = ("recorded_at", "card", "from_state", "to_state", "by", "reason")
    links = ("card",)
    facts = ("card", "from_state", "to_state", "by", "reason", "recorded_at")


@admin.register(Note)
class NoteAdmin(LedgerAdmin):
    merchant = "card__merchant"
    list_display = ("recorded_at", "card", "text", "by")
    links = ("card",)
    facts = ("card", "text", "by", "recorded_at")
    empty = _("Notes are written on a card's page.")


@admin.register(RetiredNumber)
class RetiredNumberAdmin(LedgerAdmin):
    merchant = "card__merchant"
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
    merchant = None
    list_display = ("business_date", "partner", "state", "compared", "breaks_open", "started_at", "finished_at")
    counted = (Counted("failed", _("reconciliations that failed"), lambda now: Q(state=Run.State.FAILED)),)
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
        return super().get_queryset(request).annotate(open=Count("breaks", filter=Q(breaks__state=Break.State.OPEN)))

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
    merchant = None
    list_display = ("recorded_at", "run", "size", "message_id")
    links = ("run",)
    facts = ("run", "recorded_at", "message_id", "size", "sha256")
    empty = _("Every file that a partner gives for a business date is kept here whole, as it was received.")
    verbs = (
        Verb("download", _("download"), _download,
             words=_("The file as it was received, byte by byte; its last lines carry its hash and the signature.")),
    )  # fmt: skip


OLD_DAYS = 3
"""A break that is open for so many days is pressing."""


def _open_since(now: datetime, least: int | None, most: int | None) -> Q:
    """Open for at least so many days and for less than so many; those of test merchants wait for nobody."""
    found = Q(merchant__test_of=None, state=Break.State.OPEN)
    if least is not None:
        found &= Q(recorded_at__lte=now - timedelta(days=least))
    return found if most is None else found & Q(recorded_at__gt=now - timedelta(days=most))


def _take(request: HttpRequest, found: Break, data: dict[str, Any]) -> object:
    reconciliation.take(found=found, owner=_person(request), now=timezone.now())
    return _("It is yours now.")


def _person(request: HttpRequest) -> Any:
    return request.user


class Resolution(forms.Form):
    resolution = forms.CharField(
        label=_("resolution"), max_length=300, widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("how the difference came about and what was done"),
    )  # fmt: skip


def _resolve(request: HttpRequest, found: Break, data: dict[str, Any]) -> object:
    reconciliation.resolve(found=found, resolution=data["resolution"], by=_person(request), now=timezone.now())
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


class Match(Reason):
    takes_row = True
    other = forms.TypedChoiceField(label=_("other side"), coerce=int)
    field_order = ("other", "reason")

    def __init__(self, *given: Any, row: Break, **named: Any) -> None:
        super().__init__(*given, **named)
        choice: Any = self.fields["other"]
        choice.choices = [(one.pk, f"{one.run}  {one.subject}") for one in _fitting(row)]


def _fitting(found: Break) -> list[Break]:
    # The button, the panel and the form ask, of one record on one page.
    if not hasattr(found, "fitting"):
        found.fitting = reconciliation.counterparts(found)  # type: ignore[attr-defined]
    return found.fitting  # type: ignore[attr-defined]


def _match(request: HttpRequest, found: Break, data: dict[str, Any]) -> object:
    [other] = [one for one in _fitting(found) if one.pk == data["other"]]
    reconciliation.match(found=found, other=other, reason=data["reason"], by=_person(request), now=timezone.now())
    return _("Both are resolved.")


class CarryOver(Reason):
    until = forms.DateField(label=_("until"), widget=forms.DateInput(attrs={"type": "date"}))
    field_order = ("until", "reason")


def _carry_over(request: HttpRequest, found: Break, data: dict[str, Any]) -> object:
    reconciliation.carry_over(
        found=found, until=data["until"], reason=data["reason"], by=_person(request), now=timezone.now()
    )
    return _("It waits until %(date)s.") % {"date": date_format(data["until"])}


def _reopen(request: HttpRequest, found: Break, data: dict[str, Any]) -> object:
    reconciliation.reopen(found=found, reason=data["reason"], by=_person(request), now=timezone.now())
    return _("Open again.")


def _side_by_side(found: Break) -> Panel:
    """Member by member what each side says, those first that do not agree."""
    ours, theirs = found.ours or {}, found.theirs or {}
    names = sorted(ours | theirs, key=lambda name: (ours.get(name) == theirs.get(name), name))
    return Panel(
        _("side by side"),
        (_("what"), _("ours"), _("theirs"), ""),
        [
            (name, _told(ours, name), _told(theirs, name),
             "" if ours.get(name) == theirs.get(name) else badge("FAILED", _("differs")))
            for name in names
        ],
    )  # fmt: skip


def _told(side: dict[str, Any], name: str) -> object:
    if name not in side:
        return NOTHING
    value = side[name]
    if name == "amount" and isinstance(value, int):
        return yuan(value)
    return plain_data(value) if isinstance(value, dict | list) else str(value)


# The workbench ---------------------------------------------------------------------------------------------------

AGES = ((0, 1), (2, 3), (4, 7), (8, 30), (31, None))
"""In whole days, as breaks grow old: today's, over a weekend, a week, a month, older."""


def _workbench(request: HttpRequest) -> Iterable[Panel]:
    """Where reconciliation stands: the days, what is open by type and age, and the oldest of it. Three queries."""
    first = timezone.localdate() - timedelta(days=13)
    runs = Run.objects.filter(business_date__gte=first).annotate(
        open=Count("breaks", filter=Q(breaks__state=Break.State.OPEN))
    )
    by_day: dict[date, dict[str, Any]] = {}
    for run in runs:
        by_day.setdefault(run.business_date, {})[run.partner] = run
    yield Panel(
        _("the last fourteen days"),
        (_("business date"), *Run.Partner.labels),
        [
            (date_format(day), *(_day_with(found[one]) if one in found else NOTHING for one in Run.Partner.values))
            for day, found in sorted(by_day.items(), reverse=True)
        ],
        _("No day is reconciled yet: the clock begins after midnight, and a day can be run by hand."),
    )
    counted: Any = (
        Break.objects.filter(state=Break.State.OPEN)
        .values("type")
        .order_by("type")
        .annotate(**{f"age_{n}": Count("pk", filter=_of_age(*age)) for n, age in enumerate(AGES)})
    )
    yield Panel(
        _("open breaks by type and age"),
        (_("type"), *(figure(_age_label(*age)) for age in AGES)),
        [
            (
                _to(listing(Break, state="OPEN", type=row["type"]), Break.Type(row["type"]).label),
                *(
                    _to(listing(Break, state="OPEN", type=row["type"], **_days(*age)), number(many))
                    if (many := row[f"age_{n}"])
                    else number(0)
                    for n, age in enumerate(AGES)
                ),
            )
            for row in counted
        ],
        _("Nothing is open."),
    )
    oldest = Break.objects.filter(state=Break.State.OPEN).select_related("run", "owner").order_by("pk")[:20]
    yield Panel(
        _("the oldest"),
        (_("subject"), _("type"), _("reconciliation"), figure(_("difference")), _("owner"), _("carried over until")),
        [
            (link(one, one.subject), one.get_type_display(), link(one.run), _by_how_much(one), one.owner or NOTHING,
             date_format(one.waits_until_date) if one.waits_until_date else NOTHING)
            for one in oldest
        ],
        _("Nothing is open."),
        more=(_("all open breaks"), listing(Break, state="OPEN")),
    )  # fmt: skip


def _to(where: str, text: object) -> SafeString:
    return format_html('<a class="to" href="{}">{}</a>', where, text)


def _day_with(run: Any) -> SafeString:
    if run.open:
        return format_html("{} {}", state_of(run), _to(listing(Break, run=run.pk, state="OPEN"), number(run.open)))
    return link(run, state_of(run))


def _days(least: int, most: int | None) -> dict[str, date]:
    """What is between so many days old, as the list filters it."""
    today = timezone.localdate()
    days = {"recorded_at__lt": today - timedelta(days=least - 1)}
    return days if most is None else {**days, "recorded_at__gte": today - timedelta(days=most)}


def _of_age(least: int, most: int | None) -> Q:
    midnights = {name: datetime.combine(day, time.min) for name, day in _days(least, most).items()}
    return Q(**{name: timezone.make_aware(midnight) for name, midnight in midnights.items()})


def _age_label(least: int, most: int | None) -> object:
    if most is None:
        return _("%(n)s days and more") % {"n": least}
    return _("%(least)s to %(most)s days") % {"least": least, "most": most}


@admin.register(Break)
class BreakAdmin(House):
    merchant = None
    list_display = (
        "subject", "type", "run", "state", "merchant", "by_how_much", "owner", "waits_until_date", "age", "recorded_at",
    )  # fmt: skip
    counted = (
        Counted("today", _("open breaks of today"), lambda now: _open_since(now, None, 1)),
        Counted("days", _("breaks open for days"), lambda now: _open_since(now, 1, OLD_DAYS)),
        Counted("old", _("breaks open for too long"), lambda now: _open_since(now, OLD_DAYS, None)),
    )
    list_filter = ("state", "type", "recorded_at")
    links = ("run", "card")
    search_help_text = _("request no.")
    facts = (
        "type", "subject", "run", "state", "by_how_much", "merchant", "card", "owner", "waits_until_date", "age",
        "recorded_at", "resolution", "resolved_by", "resolved_at",
    )  # fmt: skip
    empty = _("No break: whatever was reconciled agreed.")
    verbs = (
        Verb("take", _("take"), _take, states=("OPEN",), words=_("You will see to it. It can be handed on.")),
        Verb("resolve", _("resolve"), _resolve, form=Resolution, states=("OPEN",), barred=_needs_second_person),
        Verb("match", _("match"), _match, form=Match, states=("OPEN",), shown=lambda found: bool(_fitting(found)),
             barred=_needs_second_person, words=_("This and the other side are one thing: both are resolved.")),
        Verb("carry_over", _("carry over"), _carry_over, form=CarryOver, states=("OPEN",),
             words=_("It waits for a later day's file. It stays open, and its age goes on.")),
        Verb("reopen", _("open again"), _reopen, form=Reason, states=("RESOLVED",)),
        _repair(Repair.What.ASK_AGAIN, _("What is open with us is asked about, or sent again, at once."), tone="main"),
        _repair(Repair.What.REVERSE, _("The points went for no coupons of ours: the points system gives them back.")),
        _repair(Repair.What.RESUBMIT, _("The very same message is sent again under its number. If it was lost, the "
                                        "points system books it now; if it was not, nothing happens twice.")),
        _repair(Repair.What.FREEZE, _("No coupon of the exchange is redeemed until this is understood.")),
        _repair(Repair.What.UNFREEZE, _("The coupons that were frozen here are good again.")),
    )  # fmt: skip

    sheets = (
        Sheet("workbench", _("reconciliation workbench"), "rule", _workbench,
              words=_("Every day with every partner, what does not agree, and what has waited longest.")),
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
        yield _side_by_side(row)
        if _fitting(row):
            yield Panel(
                _("could be the same thing"),
                (_("subject"), _("type"), _("reconciliation"), figure(_("difference")), _("owner")),
                [
                    (link(one, one.subject), one.get_type_display(), link(one.run), _by_how_much(one),
                     one.owner or NOTHING)
                    for one in _fitting(row)
                ],
                note=_("Open breaks of the other side with equal figures within a week, the nearest day first."),
            )  # fmt: skip
        steps = row.steps.select_related("by", "counterpart").order_by("-pk")[:50]
        yield Panel(
            _("what was done"),
            (_("when"), _("what"), _("by"), _("reason"), _("other side")),
            [
                (moment(one.recorded_at), one.get_what_display(), one.by, one.reason or NOTHING,
                 link(one.counterpart) if one.counterpart else NOTHING)
                for one in steps
            ],
            _("Nobody has done anything about it yet."),
        )  # fmt: skip
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


@admin.register(BreakStep)
class BreakStepAdmin(House):
    merchant = None
    list_display = ("recorded_at", "found", "what", "by", "reason", "counterpart", "until_date")
    list_filter = ("what", "recorded_at")
    links = ("found", "counterpart")
    facts = ("recorded_at", "found", "what", "by", "reason", "counterpart", "until_date")
    empty = _("What is done about breaks is written down here, and never changed.")


@admin.register(DayFigure)
class DayFigureAdmin(House):
    merchant = None
    list_display = ("business_date", "issued", "spent", "refundable", "exposed", "recorded_at")
    money = ("issued", "spent", "refundable", "exposed")
    facts = list_display
    empty = _("The clock writes the figures of a business date when it is over.")


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
    merchant = None
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


MOST_NEEDS = 2_000
"""Further than this nothing is counted: the first page stays quick when much is owed at once."""

CHARTED = 90
"""Days that the charts show."""


@dataclass(frozen=True)
class Need:
    """Something that waits for somebody: a count that leads to the list that makes it.

    Who holds one of the permissions ``for_whom``, or if there are none whoever sees it, can do something about it.
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


_ASK = "insurance.ask_again_"
_BANK = ("points.ask_again_exchange", "points.settle_exchange")
_CLAIMS = ("claims.assess_claim", "claims.approve_claim", "claims.pay_claim")
_RUNS = ("prepaid.run_day_run", "prepaid.run_bordereau_run", "prepaid.run_statement_run")
_EVENTS = tuple(f"claims.{job}_insuredevent" for job in ("file_all", "assess_all", "approve_all", "pay_all"))
_BREAKS = ("prepaid.take_break", "prepaid.resolve_break")

# In the order of the page: what of whose list, whose it is to do, and whether it is pressing as soon as there is one.
_NEEDS: Sequence[tuple[type[Model], str, Sequence[str], bool]] = (
    (Batch, "approve", ["issuing.approve_batch"], False),
    (Batch, "still", ["issuing.approve_batch"], True),
    (Claim, "assess", ["claims.assess_claim"], False),
    (Claim, "approve", ["claims.approve_claim"], False),
    (Claim, "pay", ["claims.pay_claim"], False),
    (Claim, "refuse_late", _CLAIMS, True),
    (Claim, "pay_late", _CLAIMS, True),
    (Claim, "decide_late", _CLAIMS, True),
    (Claim, "advance_late", _CLAIMS, True),
    (InsuredEvent, "confirm", ["claims.confirm_insuredevent"], False),
    (InsuredEvent, "still", _EVENTS, True),
    (Policy, "unresolved", [f"{_ASK}policy"], True),
    (Endorsement, "unresolved", [f"{_ASK}endorsement"], True),
    (Notice, "unresolved", [f"{_ASK}notice"], True),
    (Policy, "uncovered", [f"{_ASK}policy"], False),
    (Break, "today", _BREAKS, False),
    (Break, "days", _BREAKS, False),
    (Break, "old", _BREAKS, True),
    (Run, "failed", _RUNS, True),
    (WebhookEndpoint, "paused", ["issuing.resume_webhookendpoint"], True),
    (WebhookDelivery, "failed", ["issuing.resend_webhookdelivery"], False),
    (Exchange, "unresolved", _BANK, True),
    (PointsReturn, "unresolved", _BANK, True),
    (Repair, "unresolved", _BANK, True),
    (Exchange, "incident", _BANK, True),
    (ExchangeRatio, "approve", ["points.approve_exchangeratio"], False),
)


def first_page(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """What needs somebody now, and how the business goes; the theme asks for it when the first page is shown."""
    now = timezone.now()
    may = request.user.has_perm
    needs = [*_approvals(request)]
    needs += [_need(request, *one, now) for one in _NEEDS if _may_see(request, one[0])]
    needs += [*_holds()] if _may_see(request, Hold) else []
    needs += [*_guessers(now)] if _may_see(request, WrongGuess) else []
    mine = [need for need in needs if not need.for_whom or any(map(may, need.for_whom))]
    others = [need for need in needs if need.count and need not in mine]
    charts = _charts() if _may_see(request, DayFigure) else []
    return {**context, "title": _("Needs me now"), "needs": mine, "others": others, "charts": charts}


def _need(
    request: HttpRequest, model: type[Model], name: str, for_whom: Sequence[str], presses: bool, now: datetime
) -> Need:
    house: Any = admin.site._registry[model]
    [wait] = [one for one in house.counted if one.name == name]
    rows = house.rows_counted(request, wait, now).order_by()
    count = rows.values("pk")[: MOST_NEEDS + 1].count()
    detail = _DETAILS[model, name](rows, now) if count and (model, name) in _DETAILS else ""
    return Need(wait.label, count, listing(model, waits=name), for_whom, detail, presses and bool(count))


def _age(first: Any, now: Any) -> str:
    days = (now - first).days
    return ngettext("oldest: %(n)s day", "oldest: %(n)s days", days) % {"n": days}


def _approvals(request: HttpRequest) -> Iterable[Need]:
    count = inbox.to_decide(request)
    if count is not None:
        yield Need(_("approvals that wait for you"), count, f"{reverse('inbox')}?kind={inbox.MINE}", ())


def _together_and_age(rows: QuerySet[Any], now: datetime) -> str:
    facts = rows.aggregate(first=Min("recorded_at"), amount=Sum("good_amount"))
    return f"{format_yuan(facts['amount'])} · {_age(facts['first'], now)}"


def _uninsured_yuan(rows: QuerySet[Any], now: datetime) -> str:
    most = rows[: MOST_NEEDS + 1].aggregate(count=Count("pk"), sum=Sum("sum_insured"))
    return f"{'≥ ' if most['count'] > MOST_NEEDS else ''}{format_yuan(most['sum'])}"


def _oldest(rows: QuerySet[Any], now: datetime) -> str:
    return _age(rows.aggregate(first=Min("recorded_at"))["first"], now)


_DETAILS: dict[tuple[type[Model], str], Callable[[QuerySet[Any], datetime], str]] = {
    (Batch, "approve"): _together_and_age,
    (Policy, "uncovered"): _uninsured_yuan,
    (Break, "old"): _oldest,
}


def _holds() -> Iterable[Need]:
    now = timezone.now()
    for held in Hold.objects.filter(released_at=None).order_by("pk"):
        yield Need(
            _("partners that nothing is sent to"),
            1,
            address(held) or listing(Hold),
            ["prepaid.release_hold", "prepaid.hold_hold"],
            f"{held.get_partner_display()} · {_age(held.began_at, now)}",
            is_pressing=True,
        )


def _guessers(now: Any) -> Iterable[Need]:
    for one in guessing.guessers(now=now)[:5]:
        # Whose key or account it is stands in the list.
        where = listing(WrongGuess, subject=one["subject"], what=one["what"])
        yield Need(_("wrong guesses"), one["count"], where, ["points.freeze_coupon"], one["subject"], True)


# How the business goes -------------------------------------------------------------------------------------------


def _charts() -> list[charts.Chart]:
    figures = list(DayFigure.objects.order_by("-business_date")[:CHARTED])
    if not figures:
        return []
    return [*_holdings(figures[::-1]), _flows(figures[::-1])]


def _holdings(figures: Sequence[DayFigure]) -> Iterable[charts.Chart]:
    known = [one for one in figures if one.refundable is not None]
    if not known:
        return
    last, days = known[-1], [one.business_date for one in figures]
    owed, exposed = last.refundable or 0, last.exposed or 0
    facts = {
        "owed": format_yuan(owed), "bare": format_yuan(owed - exposed),
        "share": f"{Decimal(100 * (owed - exposed)) / owed:.1f}" if owed else "0.0",
    }  # fmt: skip
    finding = (
        _("Holders are owed %(owed)s; no insurer stands behind %(bare)s of it (%(share)s %%)") % facts
        if owed > exposed
        else _("Holders are owed %(owed)s, and insurers stand behind all of it") % facts
    )
    drawing = charts.lines(
        days,
        [
            charts.Series(_("refundable principal"), [one.refundable for one in figures], "one"),
            charts.Series(_("exposure"), [one.exposed for one in figures], "two"),
        ],
    )
    yield charts.Chart(
        finding,
        drawing,
        (_("business date"), figure(_("refundable principal")), figure(_("exposure")), figure(_("uninsured"))),
        [
            (one.business_date.isoformat(), yuan(one.refundable), yuan(one.exposed),
             yuan((one.refundable or 0) - (one.exposed or 0)))
            for one in reversed(known)
        ],
    )  # fmt: skip


def _flows(figures: Sequence[DayFigure]) -> charts.Chart:
    issued, spent = sum(one.issued for one in figures), sum(one.spent for one in figures)
    facts = {"n": len(figures), "issued": format_yuan(issued), "spent": format_yuan(spent)}
    finding = (
        _("More comes in than is consumed: %(issued)s issued, %(spent)s consumed in %(n)s days") % facts
        if issued > spent
        else _("What is held is being consumed: %(spent)s consumed, %(issued)s issued in %(n)s days") % facts
    )
    drawing = charts.bars(
        [one.business_date for one in figures],
        [
            charts.Series(_("issued"), [one.issued for one in figures], "one"),
            charts.Series(_("consumed"), [one.spent for one in figures], "two"),
        ],
    )
    return charts.Chart(
        finding,
        drawing,
        (_("business date"), figure(_("issued")), figure(_("consumed"))),
        [(one.business_date.isoformat(), yuan(one.issued), yuan(one.spent)) for one in reversed(figures)],
    )
