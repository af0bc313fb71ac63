"""The back office of claims: a merchant's failure, each card's compensation, what the insurer recovers."""

from collections.abc import Iterable
from datetime import datetime
from fractions import Fraction
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Count, QuerySet, Sum
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from claims import adjudication, deadlines, recovery
from claims.compensation import Step
from claims.models import Claim, InsuredEvent, InterestRate, Receipt, Recovery
from claims.worksheet import worksheet
from config.admin import (
    NOTHING,
    Facts,
    House,
    Panel,
    Reason,
    Tab,
    Terms,
    Verb,
    Yuan,
    badge,
    by_state,
    column,
    figure,
    link,
    listing,
    moment,
    number,
    yuan,
)
from config.errors import SamePerson
from config.money import format_yuan
from insurance.models import Notice, Policy
from issuing.admin import quantity
from issuing.models import Merchant
from prepaid.models import Card, Entry, Transaction

ENTRIES = 200
"""How many of the entries used a worksheet's page shows."""


@admin.register(InterestRate)
class InterestRateAdmin(Terms):
    list_display = ("kind", "valid_from_date", "annual_rate")
    list_filter = ("kind",)
    empty = _("Add the central bank's published rates: the legal entitlement bears interest by them.")


# Insured events --------------------------------------------------------------------------------------------------


class Declaration(forms.Form):
    merchant = forms.ModelChoiceField(
        label=_("merchant"), queryset=Merchant.objects.filter(state=Merchant.State.ACTIVE).order_by("code")
    )
    trigger = forms.ChoiceField(label=_("trigger"), choices=InsuredEvent.Trigger)
    loss_date = forms.DateField(
        label=_("loss date"),
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text=_("what occurred before midnight of this day, where the merchant is, counts"),
    )
    evidence = forms.CharField(
        label=_("evidence"),
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text=_("court decision, revoked licence, refund order, report of a visit"),
    )


def _declare(request: HttpRequest, row: None, data: dict[str, Any]) -> InsuredEvent:
    return adjudication.declare(**data, by=request.user, now=timezone.now())  # type: ignore[arg-type]


def _what_is_at_stake(request: HttpRequest, event: InsuredEvent, data: dict[str, Any]) -> Facts:
    cards = Card.objects.filter(merchant=event.merchant_id, remaining__gt=0)
    covered = Policy.objects.filter(merchant=event.merchant_id, state=Policy.State.ACCEPTED)
    return (
        (_("merchant"), event.merchant),
        (_("loss date"), event.loss_date.isoformat()),
        (_("cards with something left"), number(cards.count())),
        (_("sum insured on its cards"), yuan(covered.aggregate(sum=Sum("sum_insured"))["sum"] or 0)),
    )


def _confirm(request: HttpRequest, event: InsuredEvent, data: dict[str, Any]) -> object:
    adjudication.confirm(event=event, by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("Confirmed. The merchant issues nothing more and its insurers are told. Next: file the claims.")


def _not_by_its_declarer(request: HttpRequest, event: InsuredEvent) -> object:
    return (
        _("You declared this event: a second person confirms it.") if event.declared_by_id == request.user.pk else None
    )


def _withdraw(request: HttpRequest, event: InsuredEvent, data: dict[str, Any]) -> object:
    adjudication.withdraw(event=event)
    return _("Withdrawn. Nothing follows from it.")


def _file_all(request: HttpRequest, event: InsuredEvent, data: dict[str, Any]) -> object:
    adjudication.file_all(event=event, by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("Claims are being filed for all its cards; this page shows how far it is.")


def _assess_all(request: HttpRequest, event: InsuredEvent, data: dict[str, Any]) -> object:
    adjudication.assess_all(event=event, by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("All filed claims are being assessed; this page shows how far it is.")


def _approve_all(request: HttpRequest, event: InsuredEvent, data: dict[str, Any]) -> object:
    adjudication.approve_all(event=event, by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("All assessed claims are being approved; this page shows how far it is.")


def _pay_all(request: HttpRequest, event: InsuredEvent, data: dict[str, Any]) -> object:
    adjudication.pay_all(event=event, by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("All approved claims are being paid; this page shows how far it is.")


def _claims_in(state: str) -> Any:
    def preview(request: HttpRequest, event: InsuredEvent, data: dict[str, Any]) -> Facts:
        sums = Claim.objects.filter(event=event, state=state).aggregate(
            count=Count("pk"), entitlement=Sum("legal_entitlement"), payable=Sum("payable")
        )
        return (
            (_("claims"), number(sums["count"])),
            (_("legal entitlement"), yuan(sums["entitlement"])),
            (_("insured compensation"), yuan(sums["payable"])),
        )

    return preview


def _busy(event: InsuredEvent) -> bool:
    return event.due_at is not None


def _not_while_busy(request: HttpRequest, event: InsuredEvent) -> object:
    return adjudication.JobInProgress.text if _busy(event) else None


def _not_what_one_assessed(request: HttpRequest, event: InsuredEvent) -> object:
    if _busy(event):
        return adjudication.JobInProgress.text
    mine = Claim.objects.filter(event=event, state=Claim.State.ASSESSED, assessed_by=request.user.pk)
    return _("You assessed some of these claims: a second person approves them.") if mine.exists() else None


@admin.register(InsuredEvent)
class InsuredEventAdmin(House):
    list_display = ("loss_date", "merchant", "trigger", "state", "job", "progress", "declared_by", "recorded_at")
    list_filter = ("state", "trigger")
    links = ("merchant",)
    facts = (
        "merchant", "state", "trigger", "loss_date", "evidence", "declared_by", "recorded_at", "confirmed_by",
        "confirmed_at",
    )  # fmt: skip
    empty = _("Declare one when a merchant is bankrupt, has lost its licence, ignores a refund order or closed down.")
    list_verbs = (
        Verb("declare", _("declare an insured event"), _declare, form=Declaration,
             words=_("Nothing follows from it until a second person confirms it.")),
    )  # fmt: skip
    verbs = (
        Verb("confirm", _("confirm"), _confirm, states=("DECLARED",), barred=_not_by_its_declarer,
             preview=_what_is_at_stake, tone="main",
             warning=_("The merchant fails: it issues and tops up nothing more, for good.")),
        Verb("withdraw", _("withdraw"), _withdraw, states=("DECLARED",), tone="bad"),
        Verb("file_all", _("file all claims"), _file_all, states=("CONFIRMED",), barred=_not_while_busy,
             preview=_what_is_at_stake, warning=_("Every card of the merchant that holds something is frozen.")),
        Verb("assess_all", _("assess all"), _assess_all, states=("CONFIRMED",), barred=_not_while_busy,
             preview=_claims_in("FILED")),
        Verb("approve_all", _("approve all"), _approve_all, states=("CONFIRMED",), barred=_not_what_one_assessed,
             preview=_claims_in("ASSESSED")),
        Verb("pay_all", _("pay all"), _pay_all, states=("CONFIRMED",), barred=_not_while_busy,
             preview=_claims_in("APPROVED"),
             warning=_("What is compensated comes off the cards. This cannot be taken back.")),
    )  # fmt: skip

    @column(_("done"), figures=True)
    def progress(self, row: InsuredEvent) -> Any:
        return figure(f"{row.job_done:,} / {row.job_total:,}") if row.job else NOTHING

    def is_moving(self, row: InsuredEvent) -> bool:
        return _busy(row)

    def panels(self, request: HttpRequest, row: InsuredEvent) -> Iterable[Panel]:
        if row.job:
            yield Panel(row.get_job_display(), bar=(row.job_done, max(row.job_total, row.job_done, 1)))
        sums = (
            Claim.objects.filter(event=row)
            .values("state")
            .annotate(count=Count("pk"), loss=Sum("loss"), entitlement=Sum("legal_entitlement"), payable=Sum("payable"))
        )
        by_state = {one["state"]: one for one in sums}
        yield Panel(
            _("claims"),
            (
                _("state"), figure(_("claims")), figure(_("loss")), figure(_("legal entitlement")),
                figure(_("insured compensation")),
            ),
            [
                (
                    format_html(
                        '<a href="{}">{}</a>',
                        listing(Claim, event=row.pk, state__exact=state),
                        badge(state, Claim.State(state).label),
                    ),
                    number(by_state[state]["count"]),
                    yuan(by_state[state]["loss"]),
                    yuan(by_state[state]["entitlement"]),
                    yuan(by_state[state]["payable"]),
                )
                for state in Claim.State.values
                if state in by_state
            ],
            _("No claim is filed yet. Once the event is confirmed, file the claims of all its cards."),
        )  # fmt: skip
        notices = Notice.objects.filter(subject=row.pk, kind=Notice.Kind.LOSS).select_related("insurer")[:20]
        yield Panel(
            _("insurers told"),
            (_("insurer"), _("state"), _("acknowledged at")),
            [(link(notice, notice.insurer), badge(notice.state, notice.get_state_display()), moment(notice.accepted_at))
             for notice in notices],
            _("Nobody yet: insurers are told when the event is confirmed."),
        )  # fmt: skip


# Claims ----------------------------------------------------------------------------------------------------------

STEPS = {
    Step.REFUNDABLE_AT_LOSS: _("refundable principal at the loss date"),
    Step.REFUNDABLE_NOW: _("refundable principal of what is still on the card"),
    Step.STILL_THERE: _("the smaller of the two"),
    Step.REFUNDS_RECEIVED: _("less refunds received from the merchant"),
    Step.EXCLUDED: _("less what is excluded"),
    Step.LOSS: _("loss"),
    Step.SUM_INSURED_LEFT: _("sum insured left"),
    Step.INSURED_LOSS: _("the smaller of loss and sum insured left"),
    Step.COVERED: _("× coverage ratio"),
    Step.AFTER_DEDUCTIBLE_RATE: _("× (1 − deductible rate)"),
    Step.PAYABLE: _("less deductible amount: insured compensation"),
}


class Assessment(forms.Form):
    refunded_by_merchant = Yuan(
        label=_("refunded by the merchant"), zero=True, required=False, help_text=_("in yuan, outside the ledger")
    )
    excluded = Yuan(
        label=_("excluded"),
        zero=True,
        required=False,
        help_text=_("in yuan: over the legal limit, of a lost or unlawfully obtained card"),
    )


def _assess(request: HttpRequest, claim: Claim, data: dict[str, Any]) -> object:
    adjudication.assess(claim=claim, by=request.user, now=timezone.now(), **data)  # type: ignore[arg-type]
    return _("Assessed: %(payable)s insured of a legal entitlement of %(entitlement)s.") % {
        "payable": format_yuan(claim.payable or 0),
        "entitlement": NOTHING if claim.legal_entitlement is None else format_yuan(claim.legal_entitlement),
    }


def _figures(request: HttpRequest, claim: Claim, data: dict[str, Any]) -> Facts:
    return (
        (_("card"), claim.card),
        (_("loss"), yuan(claim.loss)),
        (_("legal entitlement"), yuan(claim.legal_entitlement)),
        (_("insured compensation"), yuan(claim.payable)),
        (_("assessed by"), claim.assessed_by or NOTHING),
    )


def _not_by_its_assessor(request: HttpRequest, claim: Claim) -> object:
    if claim.state == Claim.State.ASSESSED and claim.assessed_by_id == request.user.pk:
        return _("You assessed this claim: a second person decides it.")
    return None


def _approve(request: HttpRequest, claim: Claim, data: dict[str, Any]) -> object:
    adjudication.approve(claim=claim, by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("Approved. It is to be paid within 10 days.")


def _reject(request: HttpRequest, claim: Claim, data: dict[str, Any]) -> object:
    adjudication.reject(claim=claim, reason=data["reason"], by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("Rejected. Tell the holder the reasons within 3 days.")


def _pay(request: HttpRequest, claim: Claim, data: dict[str, Any]) -> object:
    adjudication.pay(claim=claim, by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("Paid: %(amount)s. The value is off the card; the insurer may recover it from the merchant.") % {
        "amount": format_yuan(claim.payable or 0)
    }


class Papers(forms.Form):
    papers = forms.CharField(
        label=_("papers that are missing"),
        max_length=300,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("everything at once: the law allows one request"),
    )


def _ask_for_papers(request: HttpRequest, claim: Claim, data: dict[str, Any]) -> object:
    deadlines.ask_for_papers(claim=claim, papers=data["papers"], now=timezone.now())
    return _("Asked for. The time to decide runs again once the papers have come.")


def _receive_papers(request: HttpRequest, claim: Claim, data: dict[str, Any]) -> object:
    deadlines.receive_papers(claim=claim, now=timezone.now())
    return _("The papers have come: decide within 30 days.")


def _awaits_papers(claim: Claim) -> bool:
    return claim.papers_asked_at is not None and claim.papers_received_at is None


def late(now: datetime, most: int) -> set[Any]:
    """Claims for which one of the law's clocks has run out, each clock looked at no further than ``most`` claims."""
    clocks = (deadlines.to_decide, deadlines.to_refuse, deadlines.to_pay, deadlines.to_advance)
    live = (clock(now).filter(merchant__test_of=None).order_by() for clock in clocks)
    return {key for claims in live for key in claims.values_list("pk", flat=True)[:most]}


class PastItsTerm(admin.SimpleListFilter):
    title = _("to be done by")
    parameter_name = "term"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("over", _("past its term"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        return queryset.filter(pk__in=late(timezone.now(), 5_000)) if self.value() == "over" else None


@admin.register(Claim)
class ClaimAdmin(House):
    list_display = (
        "filed_at", "card", "merchant", "kind", "state", "loss", "legal_entitlement", "payable", "term",
    )  # fmt: skip
    list_filter = ("state", PastItsTerm, "merchant")
    tabs = (
        *by_state(_("all claims"), Claim.State.FILED, Claim.State.ASSESSED, Claim.State.APPROVED, Claim.State.PAID),
        Tab(_("past its term"), lambda request: {"term": "over"}),
    )
    ranges = ("id", "payable")
    money = (
        "refundable_at_loss", "spent_after_loss", "refunded_by_merchant", "excluded", "loss", "interest",
        "legal_entitlement", "payable", "sum_insured",
    )  # fmt: skip
    links = ("card", "event", "merchant")
    heavy = ("loads",)
    search_help_text = _("merchant's reference of the claim")
    empty = _("Claims are filed on the page of a confirmed insured event, for all its cards.")
    verbs = (
        Verb("assess", _("assess"), _assess, form=Assessment, states=("FILED", "ASSESSED"), tone="main",
             words=_("Worked out from the balance at the loss date, with a worksheet. Empty: as it was.")),
        Verb("approve", _("approve"), _approve, states=("ASSESSED",), barred=_not_by_its_assessor, preview=_figures,
             tone="main"),
        Verb("reject", _("reject"), _reject, form=Reason, states=("FILED", "ASSESSED"), barred=_not_by_its_assessor,
             tone="bad", preview=_figures, words=_("The card goes back to where it was before the claim.")),
        Verb("ask_for_papers", _("ask for papers"), _ask_for_papers, form=Papers, states=("FILED", "ASSESSED"),
             shown=lambda claim: claim.papers_asked_at is None),
        Verb("receive_papers", _("papers have come"), _receive_papers, states=("FILED", "ASSESSED"),
             shown=_awaits_papers),
        Verb("pay", _("pay"), _pay, states=("APPROVED",), preview=_figures, tone="main",
             warning=_("The value comes off the card. This cannot be taken back.")),
    )  # fmt: skip

    @column(_("to be done by"))
    def term(self, claim: Claim) -> Any:
        due = deadlines.due_at(claim)
        if due is None:
            return NOTHING
        day = timezone.localdate(due).isoformat()
        return badge("FAILED", day) if due < timezone.now() else day

    def find(self, text: str) -> list[Any]:
        merchants = list(Merchant.objects.values_list("pk", flat=True))
        return list(
            Claim.objects.filter(merchant__in=merchants, reference=text)
            .exclude(reference="")
            .values_list("pk", flat=True)
        )

    def record_queryset(self, request: HttpRequest) -> QuerySet[Claim]:
        return self.get_queryset(request).select_related(
            "event__merchant", "merchant", "card", "policy", "supplements", "assessed_by", "approved_by"
        )

    def about(self, request: HttpRequest, row: Claim) -> Facts:
        facts: list[tuple[object, object]] = [
            (_("insured compensation"), format_html('<span class="big">{}</span>', yuan(row.payable))),
            (_("legal entitlement"), format_html('<span class="big">{}</span>', yuan(row.legal_entitlement))),
            (_("state"), badge(row.state, row.get_state_display())),
            (_("to be done by"), self.term(row)),
            (_("card"), link(row.card)),
            (_("merchant"), link(row.merchant)),
            (_("insured event"), link(row.event, row.event.loss_date.isoformat())),
            (_("policy"), link(row.policy) if row.policy else _("not insured")),
            (_("kind"), row.get_kind_display()),
            (_("filed by"), row.filed_by),
            (_("filed at"), moment(row.filed_at)),
            (_("assessed by"), row.assessed_by or NOTHING),
            (_("decided by"), row.approved_by or NOTHING),
            (_("paid at"), moment(row.paid_at)),
        ]
        if row.papers_asked_at:
            facts.append((_("papers asked for"), row.papers))
            facts.append((_("papers received at"), moment(row.papers_received_at)))
        if row.reference:
            facts.append((_("reference"), row.reference))
        if row.supplements_id:
            facts.append((_("supplements"), link(row.supplements)))
        if row.reason:
            facts.append((_("reason"), row.reason))
        return facts

    def note(self, request: HttpRequest, row: Claim) -> object:
        if row.legal_entitlement is not None and row.payable is not None and row.payable < row.legal_entitlement:
            return _("The holder keeps %(difference)s against the merchant: it is owed by law, but not insured.") % {
                "difference": format_yuan(row.legal_entitlement - row.payable)
            }
        return ""

    def panels(self, request: HttpRequest, row: Claim) -> Iterable[Panel]:
        if sheet := worksheet(row):
            yield from _worksheet(row, sheet)
            yield _entries_used(row, sheet["entries"])
        else:
            yield Panel(_("worksheet"), empty=_("Assess the claim: the worksheet stands here with every line."))
        notices = Notice.objects.filter(subject=row.pk, kind=Notice.Kind.CLAIM)[:5]
        yield Panel(
            _("insurer told"),
            (_("notice"), _("state"), _("acknowledged at")),
            [(link(notice, notice.get_kind_display()), badge(notice.state, notice.get_state_display()),
              moment(notice.accepted_at)) for notice in notices],
            _("Not insured: no insurer is told."),
        )  # fmt: skip


def _worksheet(claim: Claim, kept: dict[str, Any]) -> Iterable[Panel]:
    """The calculation line by line: whoever doubts it can do it again by hand."""
    unit = claim.card.unit
    rows: list[tuple[object, ...]] = [
        (STEPS[Step(line["step"])], figure(_by(line["by"])), yuan(line["amount"])) for line in kept["lines"]
    ]
    if claim.kind == Claim.Kind.SUPPLEMENT:
        rows.append((_("less what was paid before: difference"), yuan(kept["paid_before"]), yuan(claim.payable)))
    interest = kept["interest"]
    rows += [
        (
            _("interest: loss × %(rate)s × %(days)s days ÷ 365, at the rate of %(date)s")
            % {"rate": interest["annual_rate"] or "?", "days": interest["days"], "date": interest["contract_date"]},
            "",
            yuan(interest["amount"]),
        ),
        (_("legal entitlement: loss and interest"), "", yuan(kept["legal_entitlement"])),
    ]
    if kept["paid_in_after_loss"]:
        rows.append(
            (_("paid in after the loss: not a loss, owed by the merchant"), "", yuan(kept["paid_in_after_loss"]))
        )
    yield Panel(
        _("worksheet"),
        (_("step"), figure(_("ratio or deduction")), figure(_("amount"))),
        rows,
        note=_("Formula %(formula)s, loss date %(date)s, policy %(policy)s. Each line is rounded where it stands.")
        % {"formula": kept["formula"], "date": kept["loss_date"], "policy": claim.policy or NOTHING},
    )
    yield Panel(
        _("refundable principal by load"),
        (
            _("load"), figure(_("paid")), figure(_("face")), figure(_("left at the loss")),
            figure(_("paid × left ÷ face")), figure(_("left now")),
        ),
        [
            (
                load["load"],
                yuan(load["paid"]),
                quantity(load["face"], unit),
                quantity(load["at_loss"], unit),
                figure(_exact(Fraction(load["paid"] * load["at_loss"], load["face"]))),
                quantity(load["now"], unit),
            )
            for load in kept["loads"]
        ],
    )  # fmt: skip


def _by(value: object) -> str:
    if value is None:
        return ""
    return format_yuan(value) if isinstance(value, int) else f"{value}"


def _exact(amount: Fraction) -> str:
    whole = format_yuan(int(amount))
    return whole if amount.denominator == 1 else f"{whole}…"


def _entries_used(claim: Claim, used: dict[str, Any]) -> Panel:
    unit = claim.card.unit
    entries = (
        Entry.objects.filter(
            card=claim.card_id, pk__lte=used["through"], transaction__occurred_at__lt=adjudication.loss_at(claim.event)
        )
        .select_related("transaction", "sub_card")
        .order_by("pk")[:ENTRIES]
    )
    return Panel(
        _("ledger entries used"),
        (
            _("no."), _("occurred at"), _("transaction"), _("reference"), _("sub-card"), figure(_("amount")),
            figure(_("balance after")),
        ),
        [
            (
                entry.pk,
                moment(entry.transaction.occurred_at),
                link(entry.transaction, Transaction.Kind(entry.transaction.kind).label),
                entry.transaction.reference,
                entry.sub_card.seq,
                quantity(entry.amount, unit),
                quantity(entry.balance_after, unit),
            )
            for entry in entries
        ],
        note=format_html(
            gettext("{} entries up to no. {}, together {}."),
            used["number"],
            used["through"],
            quantity(used["sum"], unit),
        ),
    )  # fmt: skip


# Recovery --------------------------------------------------------------------------------------------------------


class Received(forms.Form):
    amount = Yuan(label=_("amount received"), help_text=_("in yuan"))
    reference = forms.CharField(label=_("reference of the transfer"), max_length=64)


class Note(forms.Form):
    note = forms.CharField(
        label=_("reason"), max_length=300, widget=forms.Textarea(attrs={"rows": 3}), help_text=_("why it is given up")
    )


def _record(request: HttpRequest, row: Recovery, data: dict[str, Any]) -> object:
    sign = -1 if row.amount < 0 else 1
    recovery.record(
        recovery=row, amount=sign * data["amount"], reference=data["reference"], by=request.user, now=timezone.now()  # type: ignore[arg-type]
    )  # fmt: skip
    return _("Recorded. Still open: %(amount)s.") % {"amount": format_yuan(row.amount - row.recovered)}


def _propose_write_off(request: HttpRequest, row: Recovery, data: dict[str, Any]) -> object:
    recovery.propose_write_off(recovery=row, note=data["note"], by=request.user)  # type: ignore[arg-type]
    return _("Proposed. A second person grants it.")


def _write_off(request: HttpRequest, row: Recovery, data: dict[str, Any]) -> object:
    recovery.write_off(recovery=row, by=request.user, now=timezone.now())  # type: ignore[arg-type]
    return _("Written off.")


def _not_by_its_proposer(request: HttpRequest, row: Recovery) -> object:
    return SamePerson.text if row.proposed_by_id == request.user.pk else None


def _still_open(request: HttpRequest, row: Recovery, data: dict[str, Any]) -> Facts:
    return (
        (_("merchant"), row.merchant),
        (_("amount"), yuan(row.amount)),
        (_("recovered"), yuan(row.recovered)),
        (_("still open"), yuan(row.amount - row.recovered)),
    )


@admin.register(Recovery)
class RecoveryAdmin(House):
    list_display = ("recorded_at", "merchant", "insurer", "amount", "recovered", "state")
    list_filter = ("state", "merchant")
    tabs = by_state(_("all recoveries"), Recovery.State.OPEN, Recovery.State.RECOVERED, Recovery.State.WRITTEN_OFF)
    ranges = ("recorded_at", "amount")
    money = ("amount", "recovered")
    links = ("merchant",)
    facts = (
        "merchant", "insurer", "claim", "amount", "recovered", "state", "recorded_at", "closed_at", "note",
        "proposed_by", "written_off_by",
    )  # fmt: skip
    empty = _("When a claim is paid, what the insurer may recover from the merchant stands here.")
    verbs = (
        Verb("record", _("record a receipt"), _record, form=Received, states=("OPEN",), preview=_still_open),
        Verb("propose_write_off", _("propose to write off"), _propose_write_off, form=Note, states=("OPEN",),
             preview=_still_open),
        Verb("write_off", _("write off"), _write_off, states=("OPEN",),
             shown=lambda row: row.proposed_by_id is not None, barred=_not_by_its_proposer, preview=_still_open,
             tone="bad", warning=_("What is written off is given up for good.")),
    )  # fmt: skip

    def panels(self, request: HttpRequest, row: Recovery) -> Iterable[Panel]:
        receipts = Receipt.objects.filter(recovery=row).select_related("recorded_by").order_by("pk")[:100]
        yield Panel(
            _("receipts"),
            (_("recorded at"), _("reference"), _("recorded by"), figure(_("amount"))),
            [(moment(one.recorded_at), one.reference, one.recorded_by, yuan(one.amount)) for one in receipts],
            _("Nothing has come in yet."),
        )


@admin.register(Receipt)
class ReceiptAdmin(House):
    list_display = ("reference", "recovery", "amount", "recorded_by", "recorded_at")
    money = ("amount",)
    links = ("recovery",)
    empty = _("Record a receipt on the page of a recovery.")
