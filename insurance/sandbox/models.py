"""What the reference insurer keeps: policies, every item it was sent, every message, and how it behaves today.

policy: cover for one prepaid card, in force or cancelled; its sum insured grows by endorsements, its premium is
    the first one, each endorsement has its own, and what was given back or adjusted stands beside it.
item: one request_no and the first answer to it, which is the answer for ever.
message: what came in and what went out, raw.
behaviour: how the insurer treats the next messages, so that silence and nonsense can be had on demand.
"""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from config import misbehaviour


class Policy(models.Model):
    class State(models.TextChoices):
        IN_FORCE = "IN_FORCE", _("in force")
        CANCELLED = "CANCELLED", _("cancelled")

    policy_no = models.CharField(_("policy number"), max_length=12, unique=True)
    card_ref = models.CharField(_("card"), max_length=64)
    enrolment = models.CharField(_("enrolment request"), max_length=64, unique=True)
    insurer = models.CharField(_("insurer"), max_length=40)
    product = models.CharField(_("product"), max_length=40)
    merchant = models.CharField(_("merchant"), max_length=40)
    currency = models.CharField(_("currency"), max_length=3)
    sum_insured = models.BigIntegerField(_("sum insured"))
    premium = models.BigIntegerField(_("premium"))
    annual_rate = models.CharField(_("annual rate"), max_length=20)
    minimum_premium = models.BigIntegerField(_("minimum premium"))
    returned = models.BigIntegerField(_("returned premium"), default=0, db_default=0)
    adjustment = models.BigIntegerField(_("premium adjustment"), null=True)
    cover_from_date = models.DateField(_("cover from"))
    cover_to_date = models.DateField(_("cover to"))
    state = models.CharField(_("state"), max_length=20, choices=State, default=State.IN_FORCE)
    accepted_at = models.DateTimeField(_("accepted at"))

    class Meta:
        verbose_name = _("policy")
        verbose_name_plural = _("policies")
        constraints = [
            # Two policies on one card would compensate the same loss twice.
            models.UniqueConstraint(
                fields=["card_ref"], condition=models.Q(state="IN_FORCE"), name="one_policy_in_force_per_card"
            ),
            models.CheckConstraint(condition=models.Q(sum_insured__gt=0), name="insured_for_something"),
            models.CheckConstraint(
                condition=models.Q(cover_to_date__gt=models.F("cover_from_date")), name="covered_for_a_day"
            ),
        ]

    def __str__(self) -> str:
        return self.policy_no


class Endorsement(models.Model):
    policy = models.ForeignKey(Policy, models.PROTECT, related_name="endorsements", verbose_name=_("policy"))
    request_no = models.CharField(_("request number"), max_length=64, unique=True)
    amount = models.BigIntegerField(_("added sum insured"))
    premium = models.BigIntegerField(_("premium"))
    effective_date = models.DateField(_("effective"))
    accepted_at = models.DateTimeField(_("accepted at"))

    class Meta:
        verbose_name = _("endorsement")
        verbose_name_plural = _("endorsements")
        constraints = [models.CheckConstraint(condition=models.Q(amount__gt=0), name="an_endorsement_adds_something")]

    def __str__(self) -> str:
        return self.request_no


class Item(models.Model):
    request_no = models.CharField(_("request number"), max_length=64, unique=True)
    type = models.CharField(_("type"), max_length=20)
    fingerprint = models.CharField(_("fingerprint"), max_length=64)
    code = models.CharField(_("code"), max_length=4)
    policy_no = models.CharField(_("policy number"), max_length=12, blank=True)
    endorsement_no = models.CharField(_("endorsement number"), max_length=12, blank=True)
    amount = models.BigIntegerField(_("amount"), default=0)
    premium = models.BigIntegerField(_("premium"), default=0)
    posted_at = models.DateTimeField(_("posted at"))
    business_date = models.DateField(_("business date"), db_index=True)

    class Meta:
        verbose_name = _("item")
        verbose_name_plural = _("items")

    def __str__(self) -> str:
        return self.request_no


class Tombstone(models.Model):
    """A cancellation that arrived before what it cancels; the late enrolment is refused."""

    original = models.CharField(_("enrolment request"), max_length=64, unique=True)
    request_no = models.CharField(_("cancelled by"), max_length=64)
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
    fingerprint = models.CharField(_("fingerprint"), max_length=64)
    request = models.BinaryField(_("what came in"))
    answer = models.BinaryField(_("what went out"), default=b"")
    result = models.CharField(_("result"), max_length=20, blank=True)
    code = models.CharField(_("code"), max_length=4, blank=True)
    misbehaviour = models.CharField(_("misbehaviour"), max_length=30, blank=True)
    received_at = models.DateTimeField(_("received at"))

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")

    def __str__(self) -> str:
        return self.message_id


class Behaviour(misbehaviour.Behaviour):
    """One row: what happens to the next messages."""

    class Own(models.TextChoices):
        CONTRADICTORY = "CONTRADICTORY", _("accepts, but says it refused")
        PARTIAL = "PARTIAL", _("leaves every second item out of its answer")
        REFUSE_SOME = "REFUSE_SOME", _("refuses every n-th item")

    kind = misbehaviour.kind_field(Own)
    every = models.PositiveIntegerField(_("every n-th item"), default=1)
    code = models.CharField(_("refusal code"), max_length=4, default="1009")

    FORM = (*misbehaviour.Behaviour.FORM, "every", "code")

    class Meta:
        verbose_name = _("behaviour")
        verbose_name_plural = _("behaviours")
        constraints = [
            # Two rows would be two opinions on how to behave.
            models.CheckConstraint(condition=models.Q(id=1), name="one_behaviour"),
            models.CheckConstraint(condition=models.Q(every__gte=1), name="every_first_at_least"),
        ]
