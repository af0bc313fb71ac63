"""The back office of insurance: products, policies and every message to and from the insurer."""

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from config.admin import (
    NOTHING,
    Facts,
    House,
    Panel,
    Sheet,
    Terms,
    Verb,
    by_state,
    column,
    figure,
    link,
    moment,
    number,
    state_of,
    yuan,
)
from config.money import format_yuan
from insurance import adjustment, exposure, insurer
from insurance.exposure import Exposure
from insurance.models import Endorsement, Insurer, InsurerMessage, Notice, Policy, Product
from issuing import orders
from prepaid.models import Card

MESSAGES = 40
"""How many messages of a conversation a page shows, the latest first."""


@admin.register(Insurer)
class InsurerAdmin(Terms):
    list_display = ("code", "name")
    empty = _("Add the insurer that covers the cards.")


@admin.register(Product)
class ProductAdmin(Terms):
    list_display = (
        "code", "merchant", "insurer", "annual_rate", "basis", "coverage_ratio", "deductible_rate",
        "deductible_amount", "valid_from_date",
    )  # fmt: skip
    money = yuan_or_zero = ("deductible_amount", "minimum_premium")
    list_filter = ("insurer", "merchant")
    links = ("merchant",)
    empty = _("Add on which terms an insurer covers a merchant's cards; without it the merchant issues none.")

    def locked(self, row: Product) -> object:
        if row.policy_set.exists():
            return _(
                "Policies were made on these terms, so they can no longer be changed. Add a product that is valid from "
                "a later date: it is used from that day on."
            )
        return ""


def _ask_again(request: HttpRequest, row: Any, data: dict[str, Any]) -> object:
    insurer.ask_again(type(row).objects.filter(pk=row.pk))
    return _("The insurer is asked again within seconds, under the same number; look here for its answer.")


ASK_AGAIN = Verb(
    "ask_again",
    _("ask the insurer again"),
    _ask_again,
    states=("UNRESOLVED",),
    bulk=True,
    tone="main",
    words=_(
        "The insurer is asked what became of it; only if it never had it, the same request is sent again under the "
        "same number. Nothing is done twice."
    ),
)


class HandshakeAdmin(House):
    """Something owed to the insurer, with its whole conversation."""

    verbs = (ASK_AGAIN,)
    empty = _("Cards are enrolled by themselves when they are opened.")

    def about(self, request: HttpRequest, row: Any) -> Facts:
        return [
            *super().about(request, row),
            (_("request no."), row.request_no),
            (_("attempts"), row.attempts),
            (_("next attempt"), moment(row.due_at)),
            (_("problem"), row.problem or NOTHING),
        ]

    def note(self, request: HttpRequest, row: Any) -> object:
        if row.state == "UNRESOLVED":
            return _(
                "The insurer has given no answer that can be believed. It is still asked now and then; the messages "
                "below show what was sent and what came back."
            )
        return ""

    def conversation(self, row: Any) -> Panel:
        about = InsurerMessage.objects.filter(request_nos__contains=[row.request_no]).defer("headers")
        named = list(about.order_by("-pk")[:MESSAGES])
        # An answer is kept under the id of what it answers.
        answers = InsurerMessage.objects.filter(
            direction=InsurerMessage.Direction.RECEIVED,
            message_id__in=[one.message_id for one in named if one.direction == InsurerMessage.Direction.SENT],
        ).defer("headers")
        messages = sorted({one.pk: one for one in [*named, *answers]}.values(), key=lambda one: one.pk, reverse=True)
        return Panel(
            _("conversation with the insurer"),
            (_("when"), _("direction"), _("type"), figure(_("HTTP status")), _("what it says of this"), _("problem")),
            [
                (
                    moment(message.recorded_at),
                    message.get_direction_display(),
                    link(message, message.type),
                    figure(message.status or ""),
                    format_html('<pre class="data">{}</pre>', _said_of(message, row.request_no)),
                    message.problem,
                )
                for message in messages
            ],
            _("Nothing was sent yet."),
        )

    def panels(self, request: HttpRequest, row: Any) -> Iterable[Panel]:
        yield self.conversation(row)


def _said_of(message: InsurerMessage, request_no: str) -> str:
    """The item about one request number out of a message of hundreds, or how the message begins."""
    raw = bytes(message.body)
    try:
        body = json.loads(raw).get("body") or {}
        items = body.get("items") if isinstance(body, dict) else None
        for item in items or ():
            if isinstance(item, dict) and item.get("request_no") == request_no:
                return json.dumps(item, ensure_ascii=False, indent=1)
    except (ValueError, AttributeError):
        # What the partner sent need not be readable: it is shown as it is.
        pass
    return raw[:400].decode(errors="replace")


class WithoutCover(admin.SimpleListFilter):
    """Cards that can be spent while no insurer has accepted them."""

    title = _("cover")
    parameter_name = "cover"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("none", _("live cards without accepted cover"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        if self.value() != "none":
            return None
        return queryset.filter(state__in=["PENDING", "UNKNOWN", "UNRESOLVED", "DECLINED"]).exclude(
            card__state__in=[Card.State.CLOSED, Card.State.COMPENSATED]
        )


EXPOSURE_HEAD = (
    figure(_("cards")), figure(_("sum insured left")), figure(_("refundable principal")), figure(_("exposure")),
    figure(_("uninsured")),
)  # fmt: skip


def _exposures(request: HttpRequest) -> Iterable[Panel]:
    """What would have to be paid if the merchants failed at this moment, and what nobody would pay."""

    def figures(part: Exposure) -> tuple[object, ...]:
        amounts = (part.sum_insured, part.refundable, part.exposed, part.uninsured)
        return (number(part.cards), *map(yuan, amounts))

    parts = exposure.exposures(now=timezone.now())
    total = (_("total"), "", *figures(exposure.together(parts)))
    insurers = sorted({(part.insurer, part.product) for part in parts}, key=lambda pair: (not pair[0], pair))
    by_insurer = [
        exposure.together(
            [part for part in parts if (part.insurer, part.product) == pair], insurer=pair[0], product=pair[1]
        )
        for pair in insurers
    ]
    nothing = _("No card holds anything.")
    uncovered = _("no accepted cover")
    yield Panel(
        _("by insurer and product"),
        (_("insurer"), _("insurance product"), *EXPOSURE_HEAD),
        [*((part.insurer or uncovered, part.product or NOTHING, *figures(part)) for part in by_insurer), total]
        if parts
        else (),
        nothing,
    )
    merchants = [
        (part.merchant, f"{part.insurer} {part.product}" if part.insurer else uncovered, *figures(part))
        for part in parts
    ]
    yield Panel(
        _("by merchant"),
        (_("merchant"), _("cover"), *EXPOSURE_HEAD),
        [*merchants, total] if parts else (),
        nothing,
    )


@admin.register(Policy)
class PolicyAdmin(HandshakeAdmin):
    list_display = (
        "number", "state", "card", "merchant", "sum_insured", "premium", "cover_from_date", "cover_to_date",
        "accepted_at",
    )  # fmt: skip
    list_filter = ("state", WithoutCover, "merchant")
    tabs = by_state(_("all policies"), Policy.State.ACCEPTED, Policy.State.UNRESOLVED, Policy.State.DECLINED)
    ranges = ("id",)
    money = ("sum_insured", "premium", "compensated")
    links = ("card", "merchant")
    facts = (
        "number", "state", "card", "merchant", "product", "sum_insured", "premium", "compensated", "cover_from_date",
        "cover_to_date", "accepted_at", "refusal_code", "recorded_at",
    )  # fmt: skip
    search_help_text = _("policy no. or request no.")
    sheets = (
        Sheet("exposure", _("exposure"), "crisis_alert", _exposures,
              _("What insurers would have to pay if the merchants failed now: of each card its refundable principal, "
                "at most what is left of its sum insured. The rest is uninsured.")),
    )  # fmt: skip

    @column(_("policy no."))
    def number(self, row: Policy) -> str:
        return row.policy_no or NOTHING

    def find(self, text: str) -> list[Any]:
        found = Policy.objects.filter(policy_no=text) | Policy.objects.filter(request_no=text)
        return list(found.values_list("pk", flat=True))

    def panels(self, request: HttpRequest, row: Policy) -> Iterable[Panel]:
        changes = Endorsement.objects.filter(policy=row).order_by("-pk")[:50]
        yield Panel(
            _("endorsements"),
            (_("kind"), _("state"), _("endorsement no."), figure(_("amount")), figure(_("premium")), _("effective")),
            [
                (
                    link(change, change.get_kind_display()),
                    state_of(change),
                    change.endorsement_no or NOTHING,
                    yuan(change.amount),
                    yuan(change.premium),
                    change.effective_date.isoformat(),
                )
                for change in changes
            ],
            _("The policy stands as it was made."),
        )
        if row.product.basis == Product.Basis.DAILY_BALANCE and row.policy_no:
            yield self.daily_balances(row)
        yield self.conversation(row)

    def daily_balances(self, row: Policy) -> Panel:
        """How the premium by the daily balance comes about: every figure that its calculation uses."""
        now = row.merchant.moment(timezone.now())
        sheet = adjustment.statement(row, now=now, today=orders.local_date(row.merchant, now))
        runs = [
            (run.from_date.isoformat(), number(run.days), yuan(run.balance), yuan(run.balance_days))
            for run in sheet.runs
        ]
        rate = f"{row.product.annual_rate:f}"
        sums = [
            (_("premium: sum × %(rate)s / 365, at least %(minimum)s") % {
                "rate": rate, "minimum": format_yuan(row.product.minimum_premium)}, "", "", yuan(sheet.due)),
            (_("charged before"), "", "", yuan(sheet.charged)),
            (_("adjustment"), "", "", yuan(sheet.due - sheet.charged)),
        ]  # fmt: skip
        return Panel(
            _("premium by the daily balance"),
            (_("from"), figure(_("days")), figure(_("balance of each day")), figure(_("days × balance"))),
            [*runs, (_("until %(date)s") % {"date": sheet.until_date}, "", "", yuan(sheet.balance_days)), *sums],
            note=_("As it was adjusted.") if sheet.adjustment
            else _("As it would be if cover ended on that day; the premium charged so far is provisional."),
        )  # fmt: skip


@admin.register(Endorsement)
class EndorsementAdmin(HandshakeAdmin):
    list_display = ("number", "kind", "policy", "state", "amount", "premium", "effective_date", "accepted_at")
    list_filter = ("state", "kind")
    tabs = by_state(_("all endorsements"), Endorsement.State.UNRESOLVED, Endorsement.State.DECLINED)
    ranges = ("id",)
    money = ("amount", "premium", "balance_days")
    links = ("policy",)
    facts = (
        "number", "kind", "policy", "load", "state", "amount", "premium", "balance_days", "effective_date",
        "accepted_at", "refusal_code", "recorded_at",
    )  # fmt: skip
    search_help_text = _("endorsement no. or request no.")
    empty = _(
        "A top-up raises the sum insured by an endorsement; closing a card cancels its policy by one; a premium by the "
        "daily balance is adjusted by one when cover is over."
    )

    @column(_("endorsement no."))
    def number(self, row: Endorsement) -> str:
        return row.endorsement_no or NOTHING

    def find(self, text: str) -> list[Any]:
        found = Endorsement.objects.filter(endorsement_no=text) | Endorsement.objects.filter(request_no=text)
        return list(found.values_list("pk", flat=True))


@admin.register(Notice)
class NoticeAdmin(HandshakeAdmin):
    list_display = ("recorded_at", "kind", "insurer", "policy", "state", "accepted_at")
    list_filter = ("state", "kind")
    tabs = by_state(_("all notices"), Notice.State.UNRESOLVED)
    links = ("policy",)
    facts = ("kind", "insurer", "policy", "state", "subject", "body", "accepted_at", "refusal_code", "recorded_at")
    empty = _("The insurer is told of each insured event and each claim.")


@admin.register(InsurerMessage)
class InsurerMessageAdmin(House):
    list_display = ("recorded_at", "direction", "type", "status", "problem", "message_id")
    list_filter = ("direction", "type")
    heavy = ("body", "headers", "request_nos")
    facts = ("recorded_at", "direction", "type", "message_id", "in_reply_to", "status", "problem")
    search_help_text = _("message id or request no.")
    empty = _("Every message to and from the insurer is kept here as it stood on the wire.")

    def find(self, text: str) -> list[Any]:
        by_id = InsurerMessage.objects.filter(message_id=text, direction__in=InsurerMessage.Direction.values)
        by_request = InsurerMessage.objects.filter(request_nos__contains=[text])
        return list(by_id.values_list("pk", flat=True)) + list(by_request.values_list("pk", flat=True)[:200])

    def panels(self, request: HttpRequest, row: InsurerMessage) -> Iterable[Panel]:
        raw = bytes(row.body).decode(errors="replace")
        # Garbage is shown as it came.
        with suppress(ValueError):
            raw = json.dumps(json.loads(raw), ensure_ascii=False, indent=2)
        yield Panel(_("headers"), (), [(name, value) for name, value in sorted(dict(row.headers).items())])
        yield Panel(_("as it stood on the wire"), (), [(format_html('<pre class="data">{}</pre>', raw[:65536]),)])
