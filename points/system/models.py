"""What the credit-card points system keeps.

account: a customer's points; frozen, nothing is taken from it.
lot: points that came at once and expire together; never edited, what remains of it changes by movements.
movement: points taken from a lot or given back to it, with what remained afterwards; append-only.
deduction: points taken by one request, from the lots that expire first; reversed whole, or returned in parts.
request: one request_no and the first answer to it, which is the answer for ever.
message: what came in, raw, and what was answered.
ratio: an exchange ratio and how it is rounded, as the e-commerce system advised it under a version.
tombstone: a reversal that came before what it reverses.

Balances change in ``sql/`` only, under a lock on the account.
"""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from config import misbehaviour
from config.states import Moving


class Account(Moving):
    class State(models.TextChoices):
        ACTIVE = "ACTIVE", _("active")
        FROZEN = "FROZEN", _("frozen")

    MOVES: ClassVar = {State.ACTIVE: {State.FROZEN}, State.FROZEN: {State.ACTIVE}}

    number = models.CharField(_("account"), max_length=32, unique=True)
    customer = models.CharField(_("customer"), max_length=100)
    state = models.CharField(_("state"), max_length=20, choices=State, default=State.ACTIVE)
    most_per_deduction = models.BigIntegerField(_("most per deduction"), default=500_000)
    most_per_day = models.BigIntegerField(_("most per day"), default=1_000_000)
    opened_at = models.DateTimeField(_("opened at"), default=timezone.now)

    class Meta:
        verbose_name = _("account")
        verbose_name_plural = _("accounts")
        constraints = [
            models.CheckConstraint(
                condition=Q(most_per_deduction__gte=0, most_per_day__gte=0), name="limits_not_below_zero"
            ),
        ]

    def __str__(self) -> str:
        return self.number


class Lot(models.Model):
    account = models.ForeignKey(Account, models.PROTECT, related_name="lots", verbose_name=_("account"))
    points = models.BigIntegerField(_("points"))
    remaining = models.BigIntegerField(_("remaining"))
    expires_date = models.DateField(_("expires"), help_text=_("the last day on which they can be used"))
    origin = models.CharField(_("origin"), max_length=200)
    added_at = models.DateTimeField(_("added at"), default=timezone.now)

    class Meta:
        verbose_name = _("lot")
        verbose_name_plural = _("lots")
        indexes = [models.Index("account", "expires_date", "id", condition=Q(remaining__gt=0), name="lots_in_turn")]
        constraints = [
            models.CheckConstraint(condition=Q(points__gt=0), name="a_lot_has_points"),
            # Whatever else goes wrong: nobody spends points twice, and no lot gets back more than it gave.
            models.CheckConstraint(condition=Q(remaining__gte=0), name="never_below_zero"),
            models.CheckConstraint(condition=Q(remaining__lte=F("points")), name="never_more_than_there_were"),
        ]

    def __str__(self) -> str:
        return f"{self.pk}"


class Ratio(models.Model):
    class Rounding(models.TextChoices):
        CEIL = "CEIL", _("up")
        HALF_UP = "HALF_UP", _("half up")
        FLOOR = "FLOOR", _("down")

    version = models.CharField(_("version"), max_length=64, unique=True)
    product = models.CharField(_("product"), max_length=64)
    exchange_ratio = models.DecimalField(_("points per coupon"), max_digits=15, decimal_places=6)
    rounding = models.CharField(_("rounding"), max_length=20, choices=Rounding)
    advised_at = models.DateTimeField(_("advised at"))

    class Meta:
        verbose_name = _("exchange ratio")
        verbose_name_plural = _("exchange ratios")
        constraints = [models.CheckConstraint(condition=Q(exchange_ratio__gt=0), name="a_coupon_costs_something")]

    def __str__(self) -> str:
        return self.version


class Request(models.Model):
    request_no = models.CharField(_("request number"), max_length=64, unique=True)
    type = models.CharField(_("type"), max_length=20)
    fingerprint = models.CharField(_("fingerprint"), max_length=64)
    code = models.CharField(_("code"), max_length=4)
    answer = models.JSONField(_("answer"))
    points = models.BigIntegerField(_("points"), default=0)
    bank_reference = models.CharField(_("bank reference"), max_length=12, blank=True)
    posted_at = models.DateTimeField(_("posted at"))
    accounting_date = models.DateField(_("accounting date"))
    told_from_at = models.DateTimeField(_("told from"), null=True, blank=True)
    original = models.CharField(_("speaks of"), max_length=64, blank=True)

    class Meta:
        verbose_name = _("request")
        verbose_name_plural = _("requests")
        indexes = [models.Index("accounting_date", "id", name="requests_of_a_day")]

    def __str__(self) -> str:
        return self.request_no


class Deduction(models.Model):
    class State(models.TextChoices):
        DEDUCTED = "DEDUCTED", _("deducted")
        REVERSED = "REVERSED", _("reversed")

    request = models.OneToOneField(
        Request, models.PROTECT, primary_key=True, related_name="deduction", verbose_name=_("request")
    )
    account = models.ForeignKey(
        Account, models.PROTECT, related_name="deductions", db_index=False, verbose_name=_("account")
    )
    points = models.BigIntegerField(_("points"))
    coupon_count = models.BigIntegerField(_("coupons"))
    ratio_version = models.CharField(_("ratio version"), max_length=64)
    bank_reference = models.CharField(_("bank reference"), max_length=12, unique=True)
    accounting_date = models.DateField(_("accounting date"))
    state = models.CharField(_("state"), max_length=20, choices=State, default=State.DEDUCTED)
    returned = models.BigIntegerField(_("returned"), default=0)
    reversed_by = models.OneToOneField(
        Request, models.PROTECT, null=True, blank=True, related_name="+", verbose_name=_("reversed by")
    )

    class Meta:
        verbose_name = _("deduction")
        verbose_name_plural = _("deductions")
        indexes = [models.Index("account", "accounting_date", name="deductions_of_a_day")]
        constraints = [
            models.CheckConstraint(condition=Q(points__gt=0), name="a_deduction_takes_points"),
            models.CheckConstraint(
                condition=Q(returned__gte=0, returned__lte=F("points")), name="no_more_returned_than_deducted"
            ),
            # Reversed means all of it by one advice: nothing of it can have been returned besides.
            models.CheckConstraint(
                condition=Q(state="DEDUCTED", reversed_by=None)
                | Q(state="REVERSED", reversed_by__isnull=False, returned=0),
                name="reversed_whole_or_returned_in_parts",
            ),
        ]

    def __str__(self) -> str:
        return self.bank_reference


class Return(models.Model):
    request = models.OneToOneField(
        Request, models.PROTECT, primary_key=True, related_name="+", verbose_name=_("request")
    )
    return_no = models.CharField(_("return number"), max_length=64, unique=True)
    deduction = models.ForeignKey(Deduction, models.PROTECT, related_name="returns", verbose_name=_("deduction"))
    points = models.BigIntegerField(_("points"))
    coupons = ArrayField(models.CharField(max_length=64), verbose_name=_("coupons"))

    class Meta:
        verbose_name = _("return")
        verbose_name_plural = _("returns")
        constraints = [models.CheckConstraint(condition=Q(points__gt=0), name="a_return_gives_points")]

    def __str__(self) -> str:
        return self.return_no


class Movement(models.Model):
    lot = models.ForeignKey(Lot, models.PROTECT, related_name="movements", verbose_name=_("lot"))
    points = models.BigIntegerField(_("points"), help_text=_("below zero: taken"))
    remaining_after = models.BigIntegerField(_("remaining after"))
    deduction = models.ForeignKey(
        Deduction, models.PROTECT, null=True, blank=True, related_name="movements", verbose_name=_("deduction")
    )
    request = models.ForeignKey(
        Request, models.PROTECT, null=True, blank=True, db_index=False, related_name="+", verbose_name=_("request")
    )
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    moved_at = models.DateTimeField(_("moved at"))

    class Meta:
        verbose_name = _("movement")
        verbose_name_plural = _("movements")
        constraints = [
            models.CheckConstraint(condition=~Q(points=0), name="a_movement_moves"),
            models.CheckConstraint(
                condition=Q(deduction__isnull=False, request__isnull=False)
                | Q(deduction=None, request=None) & ~Q(reason=""),
                name="moved_by_a_request_or_for_a_reason",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.points:+d}"


class Tombstone(models.Model):
    """A reversal that arrived before what it reverses; the late deduction is refused."""

    original = models.CharField(_("deduction request"), max_length=64, unique=True)
    request_no = models.CharField(_("reversed by"), max_length=64)
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("tombstone")
        verbose_name_plural = _("tombstones")

    def __str__(self) -> str:
        return self.original


class Message(models.Model):
    # One message acts once: a replayed envelope finds its id taken.
    message_id = models.CharField(_("message id"), max_length=64, unique=True)
    type = models.CharField(_("type"), max_length=20)
    request_no = models.CharField(_("request number"), max_length=64, db_index=True)
    content = models.BinaryField(_("what came in"))
    code = models.CharField(_("code"), max_length=4)
    answer = models.JSONField(_("answer"))
    misbehaviour = models.CharField(_("misbehaviour"), max_length=30, blank=True)
    sent = models.BinaryField(_("what went out instead"), null=True, blank=True)
    received_at = models.DateTimeField(_("received at"))

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")

    def __str__(self) -> str:
        return self.message_id


class Behaviour(misbehaviour.Behaviour):
    """One row: what happens to the next messages."""

    class Own(models.TextChoices):
        CONTRADICTORY = "CONTRADICTORY", _("acts, but says it refused")
        PRETENDS = "PRETENDS", _("says it acted, and did nothing")
        WRONG_POINTS = "WRONG_POINTS", _("acts, but tells other points")
        ACTS_LATE = "ACTS_LATE", _("hangs up at once, and acts after some seconds")
        DUPLICATE = "DUPLICATE", _("answers, and after some seconds again by callback, twice")
        ITEMS_LEFT_OUT = "ITEMS_LEFT_OUT", _("asked about many, leaves every second out")
        ITEMS_OF_OTHERS = "ITEMS_OF_OTHERS", _("asked about many, names others for every second")
        ITEMS_TWICE = "ITEMS_TWICE", _("asked about many, answers about every second twice")

    kind = misbehaviour.kind_field(Own)

    class Meta:
        verbose_name = _("behaviour")
        verbose_name_plural = _("behaviours")
        constraints = [
            # Two rows would be two opinions on how to behave.
            models.CheckConstraint(condition=Q(id=1), name="points_system_one_behaviour"),
        ]
