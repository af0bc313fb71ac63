"""The back office of issuing: merchants and their terms, batches of purchases."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.http import HttpRequest, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from config.addresses import read_networks
from config.admin import (
    NOTHING,
    Facts,
    House,
    Lines,
    Panel,
    Reason,
    Terms,
    Verb,
    badge,
    by_state,
    column,
    figure,
    link,
    listing,
    moment,
    number,
    shown_once,
    yuan,
)
from config.ids import public_id
from config.spreadsheets import without_formula
from issuing import batches, events, keys, webhooks
from issuing.models import (
    Batch,
    BatchRow,
    BonusTier,
    CardProgram,
    Event,
    Merchant,
    MerchantKey,
    Regulation,
    Unit,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)


def quantity(amount: int, unit: str) -> Any:
    """An amount in a card's own unit: ¥ for money, otherwise so many uses or days."""
    if unit == Unit.MONEY:
        return yuan(amount)
    if unit == Unit.USES:
        return figure(ngettext("%(n)s use", "%(n)s uses", amount) % {"n": amount})
    return figure(ngettext("%(n)s day", "%(n)s days", amount) % {"n": amount})


# Merchants -------------------------------------------------------------------------------------------------------


class NewKey(forms.Form):
    name = forms.CharField(label=_("name"), max_length=60, help_text=_("where it is used, for example: shop 12"))
    scopes = forms.MultipleChoiceField(
        label=_("scopes"), choices=[(scope, scope) for scope in keys.SCOPES], initial=keys.SCOPES,
        widget=forms.CheckboxSelectMultiple,
    )  # fmt: skip
    expires_at = forms.DateTimeField(
        label=_("expires at"), required=False, widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
    )  # fmt: skip
    allowed_from = forms.CharField(
        label=_("allowed from"), required=False, max_length=1000,
        help_text=_("networks like 192.0.2.0/24, 2001:db8::/32; empty: from anywhere"),
    )  # fmt: skip

    def clean_allowed_from(self) -> list[str]:
        return read_networks(self.cleaned_data["allowed_from"])


def _make_key(request: HttpRequest, merchant: Merchant, data: dict[str, Any]) -> TemplateResponse:
    _key, text = keys.make(merchant=merchant, **data, made_by=request.user, now=timezone.now())
    return _told_once(request, merchant, text)


def _told_once(request: HttpRequest, row: Merchant | MerchantKey, text: str) -> TemplateResponse:
    return shown_once(
        request,
        row,
        title=_("new API key"),
        secret=text,
        note=_("This key is shown once, now. Copy it: it is stored as a hash and cannot be shown again."),
    )


class LiveOrTest(admin.SimpleListFilter):
    title = _("live or test")
    parameter_name = "side"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("live", _("live")), ("test", _("test"))]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        if self.value() is None:
            return queryset
        return queryset.live() if self.value() == "live" else queryset.for_tests()


@admin.register(Merchant)
class MerchantAdmin(Terms):
    list_display = ("code", "name", "sector", "city", "state", "recorded_at")
    list_filter = ("state", LiveOrTest)
    fields = ("code", "name", "sector", "city", "time_zone", "rate_limits")
    facts = (
        "code",
        "name",
        "sector",
        "city",
        "time_zone",
        "state",
        "failed_at",
        "test_of",
        "rate_limits",
        "recorded_at",
    )
    links = ("test_of",)
    search_help_text = _("code or name")
    empty = _("Add the first merchant: the one that issues the cards and pays for their insurance.")
    verbs: ClassVar[Sequence[Verb]] = (
        Verb(
            "make_key",
            _("make an API key"),
            _make_key,
            form=NewKey,
            words=_("The merchant's systems use it: a live merchant's for live cards, a test twin's for test cards."),
        ),
    )

    def find(self, text: str) -> list[Any]:
        # Merchants are few: a search through their names reads hundreds of rows, not millions.
        by_name = Merchant.objects.filter(name__icontains=text)
        return list((Merchant.objects.filter(code__iexact=text) | by_name).values_list("pk", flat=True)[:100])

    def get_readonly_fields(self, request: HttpRequest, obj: Merchant | None = None) -> Sequence[str]:
        # The code is part of what has been printed and signed; the zone decides on which day things happened.
        return ("code", "time_zone") if obj else ()

    def note(self, request: HttpRequest, row: Merchant) -> object:
        return _("A test merchant: nothing of it is money, and no figure counts it.") if row.is_test else ""

    def panels(self, request: HttpRequest, row: Merchant) -> Iterable[Panel]:
        programs = CardProgram.objects.filter(merchant=row).order_by("code")[:50]
        yield Panel(
            _("card programs"),
            (_("code"), _("kind"), figure(_("limit of one card")), _("state")),
            [(link(one), one.get_kind_display(), yuan(one.card_limit), _state(one)) for one in programs],
            _("No card program yet: add one before cards can be issued."),
        )
        shown = MerchantKey.objects.filter(merchant=row).order_by("-pk")[:20]
        yield Panel(
            _("API keys"),
            (_("name"), _("last four"), _("expires at"), _("last used at"), _("revoked at")),
            [
                (link(key, key.name), key.last4, moment(key.expires_at), moment(key.last_used_at),
                 moment(key.revoked_at))
                for key in shown
            ],
            _("No API key yet: make one so that the merchant's systems can open cards and take payments."),
        )  # fmt: skip
        hooks = WebhookEndpoint.objects.filter(merchant=row).exclude(state=WebhookEndpoint.State.DISABLED)
        yield Panel(
            _("webhook endpoints"),
            (_("URL"), _("state"), _("last attempt")),
            [(link(hook), _state(hook), moment(hook.attempted_at)) for hook in hooks.order_by("-pk")[:20]],
            _("None: the merchant's program adds one over the API to be told what happens."),
            more=(_("events"), listing(Event, merchant=row.pk)),
        )
        yield Panel(_("look at"), (), [(one,) for one in self._elsewhere(request, row)])

    def _elsewhere(self, request: HttpRequest, row: Merchant) -> Iterator[Any]:
        lists = [
            ("prepaid_card_changelist", _("its cards")),
            ("prepaid_transaction_changelist", _("its transactions")),
            ("insurance_policy_changelist", _("its policies")),
            ("claims_claim_changelist", _("its claims")),
        ]
        if row.state == Merchant.State.ACTIVE and request.user.has_perm("claims.declare_insuredevent"):
            lists.append(("claims_insuredevent_declare", _("declare an insured event")))
        for name, words in lists:
            where = f"{reverse(f'admin:{name}')}?merchant={row.pk}"
            yield format_html('<a class="to" href="{}">{}</a>', where, words)


def _state(row: Any) -> Any:
    return badge(row.state, row.get_state_display())


def _revoke(request: HttpRequest, key: MerchantKey, data: dict[str, Any]) -> object:
    keys.revoke(key=key, now=timezone.now())
    return _("The key opens nothing any more.")


class Overlap(forms.Form):
    days = forms.IntegerField(
        label=_("days that the old key goes on"), min_value=0, max_value=90, initial=keys.OVERLAP.days
    )


def _rotate(request: HttpRequest, key: MerchantKey, data: dict[str, Any]) -> TemplateResponse:
    overlap = timedelta(days=data["days"])
    made, text = keys.rotate(key=key, overlap=overlap, made_by=request.user, now=timezone.now())
    return _told_once(request, made, text)


@admin.register(MerchantKey)
class MerchantKeyAdmin(House):
    list_display = ("name", "merchant", "last4", "recorded_at", "expires_at", "last_used_at", "revoked_at")
    list_filter = ("merchant",)
    facts = (
        "merchant", "name", "last4", "scopes", "allowed_from", "made_by", "recorded_at", "replaces", "expires_at",
        "last_used_at", "revoked_at",
    )  # fmt: skip
    links = ("merchant",)
    empty = _("Make a key on the page of a merchant.")
    verbs = (
        Verb(
            "rotate",
            _("rotate"),
            _rotate,
            form=Overlap,
            shown=lambda key: key.revoked_at is None and not hasattr(key, "replaced_by"),
            words=_("Makes the key that takes its place, and lets this one go on until every till has the new one."),
        ),
        Verb(
            "revoke",
            _("revoke"),
            _revoke,
            shown=lambda key: key.revoked_at is None,
            tone="bad",
            warning=_("Whatever still uses this key is refused from this moment on. A revoked key never comes back."),
        ),
    )


@admin.register(Regulation)
class RegulationAdmin(Terms):
    list_display = ("region", "valid_from_date", "named_card_limit", "unnamed_card_limit", "unnamed_term_years")
    money = (
        "named_card_limit", "unnamed_card_limit", "unnamed_identity_from", "cash_refused_from_individual",
        "cash_refused_from_organisation",
    )  # fmt: skip
    empty = _("Add what is in force: without it no card can be issued.")


# Programs --------------------------------------------------------------------------------------------------------


class BonusTierLines(Lines):
    model = BonusTier
    money = ("from_amount", "gift")


def _withdraw(request: HttpRequest, program: CardProgram, data: dict[str, Any]) -> object:
    program.move(CardProgram.State.WITHDRAWN)
    return _("Nothing more is issued on this program. Its cards stay as they are.")


def _offer_again(request: HttpRequest, program: CardProgram, data: dict[str, Any]) -> object:
    program.move(CardProgram.State.ACTIVE)
    return _("Cards can be issued on this program again.")


@admin.register(CardProgram)
class CardProgramAdmin(Terms):
    list_display = ("code", "merchant", "name", "kind", "card_limit", "price", "term_days", "state")
    list_filter = ("kind", "state", "merchant")
    money = ("card_limit", "price", "single_use_price")
    facts = (
        "code", "merchant", "name", "kind", "named", "card_limit", "limit_basis", "max_sub_cards", "draw_order", "rate",
        "uses", "single_use_price", "price", "term_days", "spend_before_cover", "state", "recorded_at",
    )  # fmt: skip
    inlines = (BonusTierLines,)
    search_help_text = _("code")
    empty = _("Add a card program: what a merchant sells, as one of four kinds of card.")
    links = ("merchant",)
    verbs = (
        Verb("withdraw", _("withdraw"), _withdraw, states=("ACTIVE",), tone="bad",
             words=_("No new cards are issued and none topped up; cards that are there keep their terms.")),
        Verb("offer_again", _("offer again"), _offer_again, states=("WITHDRAWN",)),
    )  # fmt: skip

    def find(self, text: str) -> list[Any]:
        return list(CardProgram.objects.filter(code__iexact=text).values_list("pk", flat=True))

    def locked(self, row: CardProgram) -> object:
        # The terms are what the holder was promised: they are part of every card there is.
        if row.card_set.exists():
            return _(
                "Cards were issued on these terms, so they can no longer be changed: what holders were promised stays. "
                "Withdraw this program and add a new one instead."
            )
        return ""

    def panels(self, request: HttpRequest, row: CardProgram) -> Iterable[Panel]:
        if self.locked(row):
            tiers = row.tiers.order_by("from_amount")
            yield Panel(
                _("bonus tiers"),
                (figure(_("from amount")), figure(_("gift"))),
                [(yuan(tier.from_amount), yuan(tier.gift)) for tier in tiers],
                _("No gift on this program."),
            )


# Batches ---------------------------------------------------------------------------------------------------------


class Upload(forms.Form):
    file = forms.FileField(
        label=_("CSV file"),
        help_text=_("UTF-8, with the header: ") + ",".join(batches.COLUMNS),
        widget=forms.ClearableFileInput(attrs={"accept": ".csv,text/csv"}),
    )


def _upload(request: HttpRequest, row: None, data: dict[str, Any]) -> Batch:
    file = data["file"]
    return batches.stage(name=file.name, source=file, made_by=request.user, now=timezone.now())  # type: ignore[arg-type]


def _approve(request: HttpRequest, batch: Batch, data: dict[str, Any]) -> object:
    batches.approve(batch=batch, by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("Approved. The cards are being issued; this page shows how far it is.")


def _reject(request: HttpRequest, batch: Batch, data: dict[str, Any]) -> object:
    batches.reject(batch=batch, by=request.user, reason=data["reason"], now=timezone.now())  # type: ignore[arg-type]
    return _("Rejected. Nothing of this batch is issued.")


def _not_by_its_maker(request: HttpRequest, batch: Batch) -> object:
    if batch.made_by_id == request.user.pk:
        return _("You prepared this batch: a second person approves it.")
    if batch.bad_rows >= batch.rows:
        return batches.NothingToIssue.text
    return None


def _what_is_issued(request: HttpRequest, batch: Batch, data: dict[str, Any]) -> Facts:
    return (
        (_("cards to issue"), number(batch.rows - batch.bad_rows)),
        (_("for together"), yuan(batch.good_amount)),
        (_("rows refused"), number(batch.bad_rows)),
        (_("prepared by"), batch.made_by),
    )


def _refused_rows(request: HttpRequest, batch: Batch, data: dict[str, Any]) -> StreamingHttpResponse:
    return StreamingHttpResponse(
        _as_csv(batch),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="refused-{batch.pk.hex}.csv"'},
    )


def _as_csv(batch: Batch) -> Iterator[str]:
    """The refused rows as a file, one at a time; a cell that a spreadsheet would run is made harmless."""
    page = io.StringIO()
    writer = csv.writer(page)
    yield "\ufeffline,refused_as,reason,row\r\n"
    rows = BatchRow.objects.filter(batch=batch).exclude(refusal="").order_by("line")
    for row in rows.values_list("line", "refusal", "reason", "raw").iterator(chunk_size=2000):
        writer.writerow(without_formula(str(cell)) for cell in row)
        yield page.getvalue()
        page.seek(0)
        page.truncate()


@admin.register(Batch)
class BatchAdmin(House):
    list_display = ("name", "state", "rows", "bad_rows", "issued_rows", "good_amount", "made_by", "recorded_at")
    list_filter = ("state",)
    tabs = by_state(
        _("all batches"), Batch.State.STAGED, Batch.State.APPROVED, Batch.State.ISSUED, Batch.State.REJECTED
    )
    ranges = ("id", "good_amount")
    money = ("good_amount",)
    facts = (
        "name", "state", "rows", "bad_rows", "issued_rows", "good_amount", "made_by", "recorded_at", "approved_by",
        "approved_at", "finished_at", "problem", "sha256",
    )  # fmt: skip
    empty = _("Upload a file of purchases: it is checked row by row and waits for a second person's approval.")
    list_verbs = (
        Verb("upload", _("upload purchases"), _upload, form=Upload,
             words=_("Every row is checked at once. Nothing is issued before a second person approves.")),
    )  # fmt: skip
    verbs = (
        Verb("approve", _("approve"), _approve, states=("STAGED",), barred=_not_by_its_maker, preview=_what_is_issued,
             tone="main", warning=_("The cards are issued and insured at once. This cannot be taken back.")),
        Verb("reject", _("reject"), _reject, form=Reason, states=("STAGED",), tone="bad", preview=_what_is_issued),
        Verb("download", _("download refused rows"), _refused_rows, shown=lambda batch: batch.bad_rows > 0,
             words=_("A CSV file with line, reason and the row as it stood.")),
    )  # fmt: skip

    def note(self, request: HttpRequest, row: Batch) -> object:
        return row.problem if row.state == Batch.State.REJECTED else ""

    def is_moving(self, row: Batch) -> bool:
        return row.state == Batch.State.APPROVED

    def panels(self, request: HttpRequest, row: Batch) -> Iterable[Panel]:
        good = row.rows - row.bad_rows
        if row.state in (Batch.State.APPROVED, Batch.State.ISSUED):
            yield Panel(
                _("progress"),
                bar=(row.issued_rows, good),
                more=(_("its cards"), reverse("admin:prepaid_card_changelist") + f"?batch={row.pk}"),
            )
        refused = BatchRow.objects.filter(batch=row).exclude(refusal="").order_by("line")[:50]
        yield Panel(
            _("rows refused"),
            (figure(_("line")), _("refused as"), _("reason"), _("as it stands in the file")),
            [(number(line.line), line.refusal, line.reason, line.raw[:200]) for line in refused],
            _("No row was refused."),
            note=_("The first 50; download the file for all.") if row.bad_rows > 50 else "",
            more=(_("all rows"), listing(BatchRow, batch=row.pk)),
        )


@admin.register(BatchRow)
class BatchRowAdmin(House):
    list_display = ("line", "batch", "reference", "program", "holder", "amount", "refusal", "reason", "issued")
    money = ("amount",)
    links = ("batch",)
    ordering = ("batch", "line")
    facts = (
        "batch", "line", "raw", "reference", "program", "holder", "amount", "paid_at", "payment_method", "refusal",
        "reason", "issued",
    )  # fmt: skip
    empty = _("Upload a file of purchases on the list of batches.")

    @column(_("issued"))
    def issued(self, row: BatchRow) -> str:
        return str(_("yes")) if row.is_issued() else ""

    @column(_("holder"))
    def holder(self, row: BatchRow) -> str:
        return row.holder_name[:1] + "*" * (len(row.holder_name) > 1)


# Events and webhooks ---------------------------------------------------------------------------------------------

SHOWN = 50


@admin.register(Event)
class EventAdmin(House):
    list_display = ("recorded_at", "type", "merchant", "subject", "came_to", "amount")
    list_filter = ("type", "merchant")
    links = ("merchant",)
    facts = ("type", "merchant", "subject", "card", "came_to", "amount", "recorded_at")
    empty = _("Whatever happens to a merchant's cards, policies, claims, exchanges and coupons is written down here.")

    @column(_("subject"))
    def subject(self, row: Event) -> str:
        return public_id(events.PREFIXES[row.type.partition(".")[0]], row.subject_id)

    @column(_("card"))
    def card(self, row: Event) -> str:
        return public_id("crd", row.card_id) if row.card_id else NOTHING

    @column(_("state"))
    def came_to(self, row: Event) -> str:
        return row.state or NOTHING

    def panels(self, request: HttpRequest, row: Event) -> Iterable[Panel]:
        told = row.deliveries.select_related("endpoint").order_by("-pk")[:SHOWN]
        yield Panel(
            _("told to"),
            (_("webhook delivery"), _("webhook endpoint"), _("state"), figure(_("attempts"))),
            [(link(one), link(one.endpoint), _state(one), number(one.attempts)) for one in told],
            _("Nobody: no webhook endpoint of the merchant asked for it."),
        )


def _pause(request: HttpRequest, row: WebhookEndpoint, data: dict[str, Any]) -> object:
    webhooks.pause(endpoint=row, now=timezone.now())
    return _("Nothing is sent any more. What happens meanwhile is kept and sent once it is resumed.")


def _resume(request: HttpRequest, row: WebhookEndpoint, data: dict[str, Any]) -> object:
    webhooks.resume(endpoint=row)
    return _("Resumed: what was held back is sent now.")


def _ping(request: HttpRequest, row: WebhookEndpoint, data: dict[str, Any]) -> WebhookDelivery:
    return webhooks.ping(endpoint=row, now=timezone.now())


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(House):
    list_display = ("url", "merchant", "state", "paused_because", "failures", "attempted_at", "is_live")
    list_filter = ("state", "paused_because", "merchant")
    links = ("merchant",)
    facts = (
        "merchant", "url", "description", "told_of", "is_live", "state", "paused_because", "paused_at", "failures",
        "failing_since_at", "resting_until_at", "attempted_at", "old_secret_until_at", "made_by", "recorded_at",
    )  # fmt: skip
    empty = _("The merchant's program adds one over the API to be told what happens.")
    verbs = (
        Verb("ping", _("send a test message"), _ping, states=("ACTIVE",),
             words=_("Only this endpoint is sent it; the page of the delivery shows what came back.")),
        Verb("pause", _("pause"), _pause, states=("ACTIVE",), tone="bad"),
        Verb("resume", _("resume"), _resume, states=("PAUSED",), tone="main"),
    )  # fmt: skip

    @column(_("told of"))
    def told_of(self, row: WebhookEndpoint) -> object:
        return ", ".join(row.types) or _("every event")

    def note(self, request: HttpRequest, row: WebhookEndpoint) -> object:
        if row.state == WebhookEndpoint.State.PAUSED and row.paused_because != WebhookEndpoint.Because.ASKED:
            return _("Paused by itself: tell the merchant, who has it put right, and then resume it.")
        if row.state == WebhookEndpoint.State.ACTIVE and row.failures:
            return _("It does not take what it is sent. After three days of this it is paused by itself.")
        return ""

    def panels(self, request: HttpRequest, row: WebhookEndpoint) -> Iterable[Panel]:
        last = row.deliveries.select_related("event").order_by("-pk")[:SHOWN]
        yield Panel(
            _("last deliveries"),
            (_("webhook delivery"), _("event"), _("state"), figure(_("attempts")), _("problem")),
            [
                (link(one), link(one.event, one.event.get_type_display()), _state(one), number(one.attempts),
                 one.problem or NOTHING)
                for one in last
            ],
            _("None yet."),
            more=(_("all"), listing(WebhookDelivery, endpoint=row.pk)),
        )  # fmt: skip


def _resend(request: HttpRequest, row: WebhookDelivery, data: dict[str, Any]) -> object:
    webhooks.resend(delivery=row)
    return _("It is sent again, under the id it has.")


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(House):
    list_display = ("recorded_at", "merchant", "endpoint", "event", "state", "attempts", "problem", "due_at")
    list_filter = ("state", "merchant")
    tabs = by_state(
        _("all deliveries"),
        WebhookDelivery.State.PENDING, WebhookDelivery.State.FAILED, WebhookDelivery.State.DELIVERED,
    )  # fmt: skip
    ranges = ("id",)
    links = ("endpoint", "event", "merchant")
    facts = (
        "merchant", "endpoint", "event", "state", "attempts", "problem", "due_at", "delivered_at", "recorded_at",
    )  # fmt: skip
    empty = _("Every event that a webhook endpoint is told of stands here, with every attempt.")
    verbs = (Verb("resend", _("send again"), _resend, states=("DELIVERED", "FAILED"), bulk=True),)

    def is_moving(self, row: WebhookDelivery) -> bool:
        return row.state == WebhookDelivery.State.PENDING and row.attempts == 0

    def panels(self, request: HttpRequest, row: WebhookDelivery) -> Iterable[Panel]:
        yield Panel(
            _("attempts"),
            (_("recorded at"), _("HTTP status"), _("failure"), figure(_("milliseconds")), _("answer")),
            [
                (link(one, moment(one.recorded_at)), one.status or NOTHING, one.failure or NOTHING,
                 number(one.duration_ms), one.answer[:200])
                for one in row.tries.order_by("-pk")[:SHOWN]
            ],
            _("None yet."),
        )  # fmt: skip


@admin.register(WebhookAttempt)
class WebhookAttemptAdmin(House):
    list_display = ("recorded_at", "delivery", "status", "failure", "duration_ms")
    links = ("delivery",)
    heavy = ("answer",)
    facts = ("delivery", "url", "status", "failure", "detail", "duration_ms", "answer", "recorded_at")
    empty = _("Every sending of a webhook stands here, with what came back.")
