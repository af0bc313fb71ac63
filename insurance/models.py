"""Insurance of each prepaid card by itself (the patent's enrolment module, 投保模块).

Insurer (保险公司)              who covers
Product (保险产品)              on which terms a merchant's cards are covered
Policy (保单)                  the cover of ONE prepaid card
Endorsement (批单)             an increase of its sum insured after a top-up, its cancellation on closing, or the
                              adjustment of a provisional premium when cover is over
Notice (通知)                  a loss or a claim told to the insurer
InsurerMessage                what was sent and received, raw, before it is believed

Policy, Endorsement and Notice are handshakes: the row is the message.
"""

from typing import ClassVar

from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from config.handshakes import Handshake
from config.ids import new_id
from config.states import Moving
from issuing.models import Merchant
from prepaid.models import Card, Load


class Insurer(models.Model):
    code = models.CharField(_("code"), max_length=16, unique=True)
    name = models.CharField(_("name"), max_length=100)

    class Meta:
        verbose_name = _("insurer")
        verbose_name_plural = _("insurers")

    def __str__(self) -> str:
        return self.code


class Product(models.Model):
    """On which terms an insurer covers a merchant's cards, from a date until the next row's date."""

    class Basis(models.TextChoices):
        INITIAL = "INITIAL", _("sum insured at the start")
        DAILY_BALANCE = "DAILY_BALANCE", _("daily refundable principal")

    merchant = models.ForeignKey(Merchant, models.PROTECT, related_name="insurance", verbose_name=_("merchant"))
    insurer = models.ForeignKey(Insurer, models.PROTECT, verbose_name=_("insurer"))
    code = models.CharField(_("code"), max_length=32)
    annual_rate = models.DecimalField(_("annual rate"), max_digits=7, decimal_places=6)
    basis = models.CharField(_("basis"), max_length=13, choices=Basis, default=Basis.INITIAL)
    coverage_ratio = models.DecimalField(_("coverage ratio"), max_digits=5, decimal_places=4, default=1)
    deductible_rate = models.DecimalField(_("deductible rate"), max_digits=5, decimal_places=4, default=0)
    deductible_amount = models.BigIntegerField(_("deductible amount"), default=0)
    minimum_premium = models.BigIntegerField(_("minimum premium"), default=0)
    waiting_days = models.PositiveSmallIntegerField(_("waiting time in days"), default=0)
    valid_from_date = models.DateField(_("valid from"))

    class Meta:
        verbose_name = _("insurance product")
        verbose_name_plural = _("insurance products")
        constraints = [
            models.UniqueConstraint("merchant", "valid_from_date", name="one_product_per_merchant_and_day"),
            models.CheckConstraint(
                name="terms_of_a_product_are_shares",
                condition=Q(annual_rate__gte=0, annual_rate__lte=1)
                & Q(coverage_ratio__gt=0, coverage_ratio__lte=1)
                & Q(deductible_rate__gte=0, deductible_rate__lt=1)
                & Q(deductible_amount__gte=0, minimum_premium__gte=0),
            ),
        ]

    def __str__(self) -> str:
        return self.code


class Policy(Handshake, Moving):
    """The cover of one prepaid card. PENDING: owed, not sent. UNKNOWN: sent, no answer that can be believed yet."""

    class State(models.TextChoices):
        PENDING = "PENDING", _("owed")
        UNKNOWN = "UNKNOWN", _("sent, outcome unknown")
        ACCEPTED = "ACCEPTED", _("accepted")
        DECLINED = "DECLINED", _("declined")
        UNRESOLVED = "UNRESOLVED", _("unresolved")
        CANCELLED = "CANCELLED", _("cancelled")

    MOVES: ClassVar = {
        State.PENDING: {State.UNKNOWN},
        State.UNKNOWN: {State.ACCEPTED, State.DECLINED, State.UNRESOLVED},
        State.UNRESOLVED: {State.UNKNOWN, State.ACCEPTED, State.DECLINED},
        State.ACCEPTED: {State.CANCELLED},
        State.DECLINED: set(),
        State.CANCELLED: set(),
    }

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    card = models.ForeignKey(Card, models.PROTECT, related_name="policies", verbose_name=_("card"))
    merchant = models.ForeignKey(Merchant, models.PROTECT, db_index=False, verbose_name=_("merchant"))
    product = models.ForeignKey(Product, models.PROTECT, verbose_name=_("insurance product"))
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.PENDING)
    sum_insured = models.BigIntegerField(_("sum insured"))
    premium = models.BigIntegerField(_("premium"))
    cover_from_date = models.DateField(_("cover from"))
    cover_to_date = models.DateField(_("cover to"))
    policy_no = models.CharField(_("policy no."), max_length=40, null=True, unique=True)
    accepted_at = models.DateTimeField(_("accepted at"), null=True)
    refusal_code = models.CharField(_("refusal code"), max_length=20, blank=True)
    compensated = models.BigIntegerField(_("compensated"), default=0)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("policy")
        verbose_name_plural = _("policies")
        constraints = [
            # Insured twice, a card would be compensated twice.
            models.UniqueConstraint(
                "card", name="one_live_policy_per_card", condition=~Q(state__in=["DECLINED", "CANCELLED"])
            ),
            # An accepted policy without the insurer's number could never be claimed on.
            models.CheckConstraint(
                name="an_accepted_policy_has_a_number",
                condition=Q(state__in=["ACCEPTED", "CANCELLED"], policy_no__isnull=False, accepted_at__isnull=False)
                | ~Q(state__in=["ACCEPTED", "CANCELLED"]) & Q(policy_no__isnull=True, accepted_at__isnull=True),
            ),
            models.CheckConstraint(
                name="compensated_never_exceeds_the_sum_insured",
                condition=Q(sum_insured__gt=0, premium__gte=0, compensated__gte=0, compensated__lte=F("sum_insured")),
            ),
            models.CheckConstraint(
                name="cover_ends_after_it_begins", condition=Q(cover_to_date__gt=F("cover_from_date"))
            ),
        ]
        indexes = [
            models.Index("due_at", name="policies_due", condition=Q(due_at__isnull=False)),
            models.Index("merchant", "id", name="policies_of_merchant"),
            # Staff look for the few that are not in order among the many that are.
            models.Index("state", "id", name="policies_not_accepted", condition=~Q(state="ACCEPTED")),
        ]

    def __str__(self) -> str:
        return self.policy_no or f"({self.get_state_display()})"


class Endorsement(Handshake, Moving):
    """A change of a policy. ``amount`` is added to the sum insured; ``premium`` is due, or returned if negative.

    An ADJUSTMENT settles the provisional premium of a policy charged by the daily balance: ``balance_days`` is the sum
    of those balances, in fen × days.
    """

    class Kind(models.TextChoices):
        INCREASE = "INCREASE", _("increase")
        CANCELLATION = "CANCELLATION", _("cancellation")
        ADJUSTMENT = "ADJUSTMENT", _("premium adjustment")

    class State(models.TextChoices):
        PENDING = "PENDING", _("owed")
        UNKNOWN = "UNKNOWN", _("sent, outcome unknown")
        ACCEPTED = "ACCEPTED", _("accepted")
        DECLINED = "DECLINED", _("declined")
        UNRESOLVED = "UNRESOLVED", _("unresolved")

    MOVES: ClassVar = {
        State.PENDING: {State.UNKNOWN},
        State.UNKNOWN: {State.ACCEPTED, State.DECLINED, State.UNRESOLVED},
        State.UNRESOLVED: {State.UNKNOWN, State.ACCEPTED, State.DECLINED},
    }

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    policy = models.ForeignKey(
        Policy, models.PROTECT, db_index=False, related_name="endorsements", verbose_name=_("policy")
    )
    kind = models.CharField(_("kind"), max_length=12, choices=Kind)
    load = models.OneToOneField(Load, models.PROTECT, null=True, verbose_name=_("load"))
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.PENDING)
    amount = models.BigIntegerField(_("amount"))
    premium = models.BigIntegerField(_("premium"))
    balance_days = models.BigIntegerField(_("sum of the daily balances"), null=True)
    effective_date = models.DateField(_("effective"))
    endorsement_no = models.CharField(_("endorsement no."), max_length=40, null=True, unique=True)
    accepted_at = models.DateTimeField(_("accepted at"), null=True)
    refusal_code = models.CharField(_("refusal code"), max_length=20, blank=True)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("endorsement")
        verbose_name_plural = _("endorsements")
        constraints = [
            models.UniqueConstraint(
                "policy",
                name="a_policy_is_cancelled_once",
                condition=Q(kind="CANCELLATION") & ~Q(state="DECLINED"),
            ),
            # Also a declined one counts: adjusted again and again it would be sent for ever.
            models.UniqueConstraint("policy", name="a_policy_is_adjusted_once", condition=Q(kind="ADJUSTMENT")),
            models.CheckConstraint(
                name="an_increase_belongs_to_a_load",
                condition=Q(kind="INCREASE", load__isnull=False, amount__gt=0, premium__gte=0)
                | Q(kind="CANCELLATION", load__isnull=True, amount__lte=0, premium__lte=0)
                | Q(kind="ADJUSTMENT", load__isnull=True, amount=0),
            ),
            models.CheckConstraint(
                name="an_adjustment_says_from_which_balances",
                condition=Q(kind="ADJUSTMENT", balance_days__gte=0)
                | ~Q(kind="ADJUSTMENT") & Q(balance_days__isnull=True),
            ),
            models.CheckConstraint(
                name="an_accepted_endorsement_has_a_number",
                condition=Q(state="ACCEPTED", endorsement_no__isnull=False, accepted_at__isnull=False)
                | ~Q(state="ACCEPTED") & Q(endorsement_no__isnull=True, accepted_at__isnull=True),
            ),
        ]
        indexes = [
            models.Index("policy", "recorded_at", name="endorsements_of_policy"),
            models.Index("due_at", name="endorsements_due", condition=Q(due_at__isnull=False)),
            models.Index("id", name="endorsements_unresolved", condition=Q(state="UNRESOLVED")),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount}"


class Notice(Handshake, Moving):
    """A loss or a claim of which the insurer is told; ``subject`` is the insured event's or the claim's id."""

    class Kind(models.TextChoices):
        LOSS = "LOSS_NOTICE", _("notice of loss")
        CLAIM = "CLAIM_NOTICE", _("notice of claim")

    class State(models.TextChoices):
        PENDING = "PENDING", _("owed")
        UNKNOWN = "UNKNOWN", _("sent, outcome unknown")
        ACCEPTED = "ACCEPTED", _("acknowledged")
        DECLINED = "DECLINED", _("declined")
        UNRESOLVED = "UNRESOLVED", _("unresolved")

    MOVES: ClassVar = Endorsement.MOVES

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    kind = models.CharField(_("kind"), max_length=12, choices=Kind)
    insurer = models.ForeignKey(Insurer, models.PROTECT, verbose_name=_("insurer"))
    policy = models.ForeignKey(Policy, models.PROTECT, null=True, related_name="notices", verbose_name=_("policy"))
    subject = models.UUIDField(_("subject"))
    body = models.JSONField(_("body"))
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.PENDING)
    accepted_at = models.DateTimeField(_("acknowledged at"), null=True)
    refusal_code = models.CharField(_("refusal code"), max_length=20, blank=True)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("notice")
        verbose_name_plural = _("notices")
        constraints = [models.UniqueConstraint("kind", "insurer", "subject", name="the_insurer_is_told_once")]
        indexes = [
            models.Index("due_at", name="notices_due", condition=Q(due_at__isnull=False)),
            models.Index("id", name="notices_unresolved", condition=Q(state="UNRESOLVED")),
        ]

    def __str__(self) -> str:
        return f"{self.kind}"


class InsurerMessage(models.Model):
    """A message to or from the insurer, as it stood on the wire. A message of theirs acts once."""

    class Direction(models.TextChoices):
        SENT = "SENT", _("sent")
        RECEIVED = "RECEIVED", _("received")

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    direction = models.CharField(_("direction"), max_length=8, choices=Direction)
    message_id = models.CharField(_("message id"), max_length=64)
    type = models.CharField(_("type"), max_length=20)
    in_reply_to = models.CharField(_("in reply to"), max_length=64, blank=True)
    # The business keys it carries, so that one policy's whole conversation is found by an index.
    request_nos = models.JSONField(_("request nos."), default=list)
    headers = models.JSONField(_("headers"), default=dict)
    body = models.BinaryField(_("body"))
    status = models.PositiveSmallIntegerField(_("HTTP status"), null=True)
    problem = models.CharField(_("problem"), max_length=200, blank=True)
    is_test = models.BooleanField(_("test"), default=False)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("message of the insurer")
        verbose_name_plural = _("messages of the insurer")
        constraints = [
            models.UniqueConstraint("direction", "message_id", name="one_message_acts_once"),
        ]
        indexes = [GinIndex(fields=["request_nos"], name="messages_by_request_no", opclasses=["jsonb_path_ops"])]

    def __str__(self) -> str:
        return f"{self.type} {self.message_id}"
