"""What the points system's own staff can do and look at. Balances are never edited: what changes them is a new row."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from config.errors import Refused
from points.system import accounts
from points.system.models import Account, Deduction, Lot, Message, Movement, Ratio, Request, Return, Tombstone


class ReadOnly(admin.ModelAdmin):
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class AddedByVerb(ReadOnly):
    """Rows that staff add through a verb, which may still refuse what the form let through."""

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        try:
            return super().add_view(request, form_url, extra_context)
        except Refused as refusal:
            messages.error(request, str(refusal))
            return redirect(request.path)


@admin.register(Account)
class AccountAdmin(admin.ModelAdmin):
    list_display = ("number", "customer", "state", "available", "most_per_deduction", "most_per_day")
    list_filter = ("state",)
    search_fields = ("=number", "customer")
    ordering = ("number",)
    actions = ("freeze", "unfreeze")
    show_full_result_count = False

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("state", "opened_at") if obj is None else ("number", "customer", "state", "available", "opened_at")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Account]:
        spendable = Q(lots__expires_date__gte=timezone.localdate())
        return super().get_queryset(request).annotate(points=Sum("lots__remaining", filter=spendable, default=0))

    @admin.display(description=_("available"))
    def available(self, account: Any) -> str:
        return f"{account.points:,}"

    @admin.action(description=_("Freeze"), permissions=["change"])
    def freeze(self, request: HttpRequest, chosen: QuerySet[Account]) -> None:
        self._each(request, chosen, accounts.freeze)

    @admin.action(description=_("Unfreeze"), permissions=["change"])
    def unfreeze(self, request: HttpRequest, chosen: QuerySet[Account]) -> None:
        self._each(request, chosen, accounts.unfreeze)

    def _each(self, request: HttpRequest, chosen: QuerySet[Account], verb: Any) -> None:
        done = 0
        for account in chosen:
            try:
                verb(account=account)
            except Refused as refusal:
                messages.error(request, f"{account}: {refusal}")
            else:
                done += 1
                self.log_change(request, account, verb.__name__)
        if done:
            messages.success(request, ngettext("%(count)d account.", "%(count)d accounts.", done) % {"count": done})


class LotForm(forms.ModelForm):
    reason = forms.CharField(label=_("reason"), max_length=120)

    class Meta:
        model = Lot
        fields = ("account", "points", "expires_date")

    def clean_points(self) -> int:
        points = int(self.cleaned_data["points"])
        if not 0 < points <= accounts.MOST_POINTS:
            raise forms.ValidationError(accounts.PointsNotPositive.text)
        return points

    def clean_expires_date(self) -> Any:
        if self.cleaned_data["expires_date"] < timezone.localdate():
            raise forms.ValidationError(accounts.AlreadyExpired.text)
        return self.cleaned_data["expires_date"]


@admin.register(Lot)
class LotAdmin(AddedByVerb):
    form = LotForm
    list_display = ("id", "account", "points", "remaining", "expires_date", "origin", "added_at")
    list_select_related = ("account",)
    list_filter = ("expires_date",)
    search_fields = ("=account__number",)
    autocomplete_fields = ("account",)
    ordering = ("-pk",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("points_system.add_lot")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ("account", "points", "expires_date", "reason")
        return ("account", "points", "remaining", "expires_date", "origin", "added_at")

    def save_model(self, request: HttpRequest, obj: Lot, form: Any, change: bool) -> None:
        given = form.cleaned_data
        made = accounts.add(
            account=given["account"],
            points=given["points"],
            expires_date=given["expires_date"],
            reason=given["reason"],
            by=request.user.get_username(),
            today=timezone.localdate(),
            now=timezone.now(),
        )
        obj.pk = made.pk


class MovementForm(forms.ModelForm):
    points = forms.IntegerField(label=_("points to take off"), min_value=1)
    reason = forms.CharField(label=_("reason"), max_length=120)

    class Meta:
        model = Movement
        fields = ("lot",)

    def clean(self) -> dict[str, Any] | None:
        given = super().clean() or self.cleaned_data
        lot = given.get("lot")
        # A good message; the verb looks again under the lock.
        if lot is not None and given.get("points", 0) > lot.remaining:
            raise forms.ValidationError(str(accounts.NotThatMany(remaining=lot.remaining)))
        return given


@admin.register(Movement)
class MovementAdmin(AddedByVerb):
    form = MovementForm
    list_display = ("id", "lot", "points", "remaining_after", "deduction", "request", "reason", "moved_at")
    list_select_related = ("lot", "deduction", "request")
    search_fields = ("=lot__account__number", "=request__request_no", "=deduction__bank_reference")
    raw_id_fields = ("lot",)
    ordering = ("-pk",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("points_system.add_movement")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return ("lot", "points", "reason")
        return ("lot", "points", "remaining_after", "deduction", "request", "reason", "moved_at")

    def save_model(self, request: HttpRequest, obj: Movement, form: Any, change: bool) -> None:
        given = form.cleaned_data
        made = accounts.take_off(
            lot=given["lot"],
            points=given["points"],
            reason=given["reason"],
            by=request.user.get_username(),
            now=timezone.now(),
        )
        obj.pk = made.pk


@admin.register(Deduction)
class DeductionAdmin(ReadOnly):
    list_display = (
        "bank_reference", "account", "points", "coupon_count", "ratio_version", "state", "returned", "accounting_date",
    )  # fmt: skip
    list_select_related = ("account",)
    list_filter = ("state", "accounting_date")
    search_fields = ("=bank_reference", "=account__number", "=request__request_no")
    ordering = ("-pk",)


@admin.register(Return)
class ReturnAdmin(ReadOnly):
    list_display = ("return_no", "deduction", "points", "request")
    list_select_related = ("deduction", "request")
    search_fields = ("=return_no", "=deduction__bank_reference", "=request__request_no")
    ordering = ("-pk",)


@admin.register(Request)
class RequestAdmin(ReadOnly):
    list_display = ("request_no", "type", "code", "points", "bank_reference", "posted_at")
    list_filter = ("type", "code", "accounting_date")
    search_fields = ("=request_no", "=bank_reference")
    ordering = ("-pk",)


@admin.register(Ratio)
class RatioAdmin(ReadOnly):
    list_display = ("version", "product", "exchange_ratio", "rounding", "advised_at")
    search_fields = ("=version", "=product")
    ordering = ("-pk",)


@admin.register(Tombstone)
class TombstoneAdmin(ReadOnly):
    list_display = ("original", "request_no", "at")
    search_fields = ("=original", "=request_no")
    ordering = ("-pk",)


@admin.register(Message)
class MessageAdmin(ReadOnly):
    list_display = ("message_id", "type", "request_no", "code", "misbehaviour", "received_at")
    list_filter = ("type", "code", "misbehaviour")
    search_fields = ("=message_id", "=request_no")
    fields = (
        "message_id", "type", "request_no", "code", "answer", "misbehaviour", "received_at", "content_text",
        "sent_text",
    )  # fmt: skip
    ordering = ("-pk",)

    @admin.display(description=_("what came in"))
    def content_text(self, row: Message) -> str:
        return bytes(row.content).decode(errors="replace")

    @admin.display(description=_("what went out instead"))
    def sent_text(self, row: Message) -> str:
        return bytes(row.sent or b"").decode(errors="replace")
