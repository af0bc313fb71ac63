"""What the insurer's own staff can look at. Nothing here is edited: policies change by messages only."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from insurance.sandbox.models import Endorsement, Item, Message, Policy, Tombstone


class ReadOnly(admin.ModelAdmin):
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Policy)
class PolicyAdmin(ReadOnly):
    list_display = (
        "policy_no",
        "merchant",
        "product",
        "sum_insured",
        "premium",
        "cover_to_date",
        "state",
        "accepted_at",
    )
    list_filter = ("state", "merchant", "product")
    search_fields = ("=policy_no", "=card_ref", "=enrolment")
    ordering = ("-pk",)


@admin.register(Endorsement)
class EndorsementAdmin(ReadOnly):
    list_display = ("request_no", "policy", "amount", "premium", "effective_date", "accepted_at")
    list_select_related = ("policy",)
    search_fields = ("=request_no", "=policy__policy_no")
    ordering = ("-pk",)


@admin.register(Item)
class ItemAdmin(ReadOnly):
    list_display = ("request_no", "type", "code", "policy_no", "amount", "premium", "posted_at")
    list_filter = ("type", "code", "business_date")
    search_fields = ("=request_no", "=policy_no")
    ordering = ("-pk",)


@admin.register(Tombstone)
class TombstoneAdmin(ReadOnly):
    list_display = ("original", "request_no", "at")
    search_fields = ("=original",)
    ordering = ("-pk",)


@admin.register(Message)
class MessageAdmin(ReadOnly):
    list_display = ("message_id", "type", "request_no", "result", "code", "misbehaviour", "received_at")
    list_filter = ("type", "result", "misbehaviour")
    search_fields = ("=message_id", "=request_no")
    fields = (
        "message_id", "type", "request_no", "result", "code", "misbehaviour", "received_at",
        "request_text", "answer_text",
    )  # fmt: skip
    ordering = ("-pk",)

    @admin.display(description="request")
    def request_text(self, row: Message) -> str:
        return bytes(row.request).decode(errors="replace")

    @admin.display(description="answer")
    def answer_text(self, row: Message) -> str:
        return bytes(row.answer).decode(errors="replace")
