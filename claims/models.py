"""Compensation of holders when a merchant fails (the patent's claims module, 赔付模块).

InsuredEvent (保险事故)  a merchant's failure: trigger, loss date, evidence
Claim (索赔)            one card's compensation, with its worksheet; a SUPPLEMENT is what later facts change
Recovery (追偿)         the insurer's right against the merchant for what it paid; Receipt what came of it
InterestRate (利率)     dated rates of the central bank, for the legal entitlement
"""

from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from config.ids import new_id
from config.states import Moving
from insurance.models import Insurer, Policy
from issuing.models import Merchant
from prepaid.models import Card


class InterestRate(models.Model):
    """A yearly rate in force from a date until the next row's date (法释〔2025〕4号, art. 16)."""

    class Kind(models.TextChoices):
        LPR_1Y = "LPR_1Y", _("1-year loan prime rate")
        DEPOSIT_1Y = "DEPOSIT_1Y", _("1-year deposit benchmark")

    kind = models.CharField(_("kind"), max_length=10, choices=Kind)
    valid_from_date = models.DateField(_("valid from"))
    annual_rate = models.DecimalField(_("annual rate"), max_digits=7, decimal_places=6)

    class Meta:
        verbose_name = _("interest rate")
        verbose_name_plural = _("interest rates")
        constraints = [models.UniqueConstraint("kind", "valid_from_date", name="one_rate_per_kind_and_day")]

    def __str__(self) -> str:
        return f"{self.kind} {self.annual_rate}"


class InsuredEvent(Moving):
    """A merchant's failure. What occurred before midnight of ``loss_date``, in its time zone, counts."""

    class Trigger(models.TextChoices):
        BANKRUPT = "BANKRUPT", _("bankrupt")
        LICENCE_REVOKED = "LICENCE_REVOKED", _("licence revoked")
        REFUND_ORDER_IGNORED = "REFUND_ORDER_IGNORED", _("ordered to refund and not complying")
        CLOSED_DOWN = "CLOSED_DOWN", _("closed down")

    class State(models.TextChoices):
        DECLARED = "DECLARED", _("declared")
        CONFIRMED = "CONFIRMED", _("confirmed")
        WITHDRAWN = "WITHDRAWN", _("withdrawn")
        ENDED = "ENDED", _("drill ended")

    class Job(models.TextChoices):
        FILE = "FILE", _("filing claims for all cards")
        ASSESS = "ASSESS", _("assessing all filed claims")
        APPROVE = "APPROVE", _("approving all assessed claims")
        PAY = "PAY", _("paying all approved claims")

    # Only a test merchant's event ends, since only that was a drill: a trigger sees to it (migration 0003).
    MOVES: ClassVar = {State.DECLARED: {State.CONFIRMED, State.WITHDRAWN}, State.CONFIRMED: {State.ENDED}}

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    merchant = models.ForeignKey(Merchant, models.PROTECT, related_name="events", verbose_name=_("merchant"))
    trigger = models.CharField(_("trigger"), max_length=20, choices=Trigger)
    loss_date = models.DateField(_("loss date"))
    evidence = models.TextField(_("evidence"))
    state = models.CharField(_("state"), max_length=9, choices=State, default=State.DECLARED)
    declared_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", verbose_name=_("declared by")
    )
    confirmed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("confirmed by")
    )
    # Claims for all the merchant's cards are filed, assessed and paid by the clock; this is where it stands. The
    # last job stays to be read; while there is a due time it is going on.
    job = models.CharField(_("job"), max_length=8, choices=Job, blank=True)
    job_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("asked for by")
    )
    job_total = models.PositiveIntegerField(_("to do"), default=0)
    job_done = models.PositiveIntegerField(_("done"), default=0)
    due_at = models.DateTimeField(null=True, editable=False)
    recorded_at = models.DateTimeField(_("recorded at"))
    confirmed_at = models.DateTimeField(_("confirmed at"), null=True)

    class Meta:
        verbose_name = _("insured event")
        verbose_name_plural = _("insured events")
        constraints = [
            # A merchant fails once; a second loss date would value the same cards twice.
            models.UniqueConstraint(
                "merchant", name="one_live_event_per_merchant", condition=~Q(state__in=["WITHDRAWN", "ENDED"])
            ),
            models.CheckConstraint(
                name="who_declares_an_event_never_confirms_it",
                condition=Q(confirmed_by__isnull=True) | ~Q(confirmed_by=F("declared_by")),
            ),
            models.CheckConstraint(
                name="a_confirmed_event_says_by_whom",
                condition=~Q(state="CONFIRMED") | Q(confirmed_by__isnull=False, confirmed_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index("due_at", name="events_due", condition=Q(due_at__isnull=False)),
            models.Index("id", name="events_waiting", condition=Q(state="DECLARED")),
        ]

    def __str__(self) -> str:
        return f"{self.get_trigger_display()} {self.loss_date}"


class Claim(Moving):
    """One card's compensation. Figures in fen; a SUPPLEMENT holds differences to what it supplements.

    The ledger entries used are those of the card that occurred before the loss, up to ``entries_through``: the
    ledger is append-only, so the pair names them for ever. ``sum_insured`` is the cover counted with, 0 for none.
    A claim that either no longer describes is outdated: it is assessed again, or supplemented once it is paid.
    """

    class Kind(models.TextChoices):
        ORIGINAL = "ORIGINAL", _("claim")
        SUPPLEMENT = "SUPPLEMENT", _("supplementary claim")

    class State(models.TextChoices):
        FILED = "FILED", _("filed")
        ASSESSED = "ASSESSED", _("assessed")
        APPROVED = "APPROVED", _("approved")
        PAID = "PAID", pgettext_lazy("claim", "paid")
        REJECTED = "REJECTED", _("rejected")

    MOVES: ClassVar = {
        State.FILED: {State.ASSESSED, State.REJECTED},
        State.ASSESSED: {State.FILED, State.APPROVED, State.REJECTED},
        # What was approved is what is paid: a figure that late facts changed goes back to the beginning.
        State.APPROVED: {State.FILED, State.PAID},
        State.PAID: set(),
        State.REJECTED: set(),
    }

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Hundreds of thousands are moved at once and every index is written again at each move: only those that are
    # asked by are kept.
    event = models.ForeignKey(
        InsuredEvent, models.PROTECT, related_name="claims", db_index=False, verbose_name=_("insured event")
    )
    merchant = models.ForeignKey(Merchant, models.PROTECT, db_index=False, verbose_name=_("merchant"))
    card = models.ForeignKey(Card, models.PROTECT, db_index=False, related_name="claims", verbose_name=_("card"))
    policy = models.ForeignKey(
        Policy, models.PROTECT, null=True, related_name="claims", db_index=False, verbose_name=_("policy")
    )
    kind = models.CharField(_("kind"), max_length=10, choices=Kind, default=Kind.ORIGINAL)
    supplements = models.ForeignKey(
        "self",
        models.PROTECT,
        null=True,
        related_name="supplements_made",
        db_index=False,
        verbose_name=_("supplements"),
    )
    reference = models.CharField(_("reference"), max_length=64, blank=True)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.FILED)
    # The calculation: what it was made of and what it gave. Terms, formulas and rates change, so every one that was
    # used is kept. In columns and not as a document: hundreds of thousands are written at once, and making JSON
    # costs more than all the figures; ``claims.worksheet`` lays them out when somebody reads them.
    formula = models.CharField(_("formula"), max_length=40, blank=True)
    entries_through = models.BigIntegerField(_("entries used up to"), null=True)
    entries_number = models.IntegerField(_("entries used"), null=True)
    entries_sum = models.BigIntegerField(_("sum of the entries used"), null=True)
    # For each load: no., paid, face, left at the loss, left now.
    loads = ArrayField(ArrayField(models.BigIntegerField()), verbose_name=_("loads"), null=True)
    refundable_at_loss = models.BigIntegerField(_("refundable principal at the loss date"), null=True)
    refundable_now = models.BigIntegerField(_("refundable principal now"), null=True)
    spent_after_loss = models.BigIntegerField(_("spent after the loss"), null=True)
    refunded_by_merchant = models.BigIntegerField(_("refunded by the merchant"), default=0)
    excluded = models.BigIntegerField(_("excluded"), default=0)
    loss = models.BigIntegerField(_("loss"), null=True)
    sum_insured = models.BigIntegerField(_("sum insured"), null=True)
    sum_insured_left = models.BigIntegerField(_("sum insured left"), null=True)
    coverage_ratio = models.DecimalField(_("coverage ratio"), max_digits=5, decimal_places=4, null=True)
    deductible_rate = models.DecimalField(_("deductible rate"), max_digits=5, decimal_places=4, null=True)
    deductible_amount = models.BigIntegerField(_("deductible amount"), null=True)
    payable = models.BigIntegerField(_("insured compensation"), null=True)
    contract_date = models.DateField(_("date of the contract"), null=True)
    annual_rate = models.DecimalField(_("annual rate of interest"), max_digits=7, decimal_places=6, null=True)
    interest_days = models.IntegerField(_("days of interest"), null=True)
    interest = models.BigIntegerField(_("interest"), null=True)
    legal_entitlement = models.BigIntegerField(_("legal entitlement"), null=True)
    filed_by = models.CharField(_("filed by"), max_length=60)
    # Without a foreign key in the database, which would look the same person up for every claim of a job: staff are
    # never deleted, and ``job_by`` of the event has one.
    assessed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        related_name="+",
        db_index=False,
        db_constraint=False,
        verbose_name=_("assessed by"),
    )
    approved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        related_name="+",
        db_index=False,
        db_constraint=False,
        verbose_name=_("decided by"),
    )
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    # Insurance Law, art. 22: what is missing is asked for once.
    papers = models.CharField(_("papers asked for"), max_length=300, blank=True)
    papers_asked_at = models.DateTimeField(_("papers asked for at"), null=True)
    papers_received_at = models.DateTimeField(_("papers received at"), null=True)
    filed_at = models.DateTimeField(_("filed at"))
    assessed_at = models.DateTimeField(_("assessed at"), null=True)
    decided_at = models.DateTimeField(_("decided at"), null=True)
    paid_at = models.DateTimeField(_("paid at"), null=True)

    class Meta:
        verbose_name = _("claim")
        verbose_name_plural = _("claims")
        constraints = [
            models.UniqueConstraint(
                "card", name="one_claim_per_card", condition=Q(kind="ORIGINAL") & ~Q(state="REJECTED")
            ),
            # The next supplement is computed from the one before; two open at once would pay a difference twice.
            models.UniqueConstraint(
                "card",
                name="one_open_supplement_per_card",
                condition=Q(kind="SUPPLEMENT", state__in=["FILED", "ASSESSED", "APPROVED"]),
            ),
            models.UniqueConstraint(
                "merchant", "reference", name="one_claim_per_reference", condition=~Q(reference="")
            ),
            models.CheckConstraint(
                name="who_assesses_a_claim_never_approves_it",
                condition=Q(approved_by__isnull=True) | Q(assessed_by__isnull=True) | ~Q(approved_by=F("assessed_by")),
            ),
            models.CheckConstraint(
                name="an_approved_claim_was_assessed_and_approved",
                condition=~Q(state__in=["APPROVED", "PAID"])
                | Q(
                    assessed_by__isnull=False,
                    approved_by__isnull=False,
                    payable__isnull=False,
                    decided_at__isnull=False,
                ),
            ),
            models.CheckConstraint(
                name="a_paid_claim_has_a_moment",
                condition=Q(state="PAID", paid_at__isnull=False) | ~Q(state="PAID") & Q(paid_at__isnull=True),
            ),
            models.CheckConstraint(
                name="a_rejected_claim_gives_its_reason", condition=~Q(state="REJECTED") | ~Q(reason="")
            ),
            models.CheckConstraint(
                name="a_supplement_names_what_it_supplements",
                condition=Q(kind="SUPPLEMENT", supplements__isnull=False)
                | Q(kind="ORIGINAL", supplements__isnull=True),
            ),
            models.CheckConstraint(
                name="only_a_supplement_may_be_below_zero",
                condition=Q(payable__isnull=True) | Q(kind="SUPPLEMENT") | Q(payable__gte=0),
            ),
        ]
        indexes = [
            models.Index("event", "state", "id", name="claims_of_event"),
            models.Index("card", "filed_at", name="claims_of_card"),
            models.Index("merchant", "id", name="claims_of_merchant"),
            # What waits for somebody, and since when, without a look at the rows.
            models.Index(
                "state",
                "id",
                name="claims_waiting",
                include=["filed_at", "decided_at"],
                condition=Q(state__in=["FILED", "ASSESSED", "APPROVED"]),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.filed_at:%Y-%m-%d}"


class Recovery(Moving):
    """What the insurer may claim back from the merchant for one paid claim (追偿), in fen.

    Below zero for a supplement that lowered what was paid: that much less is to be had from the merchant.
    """

    class State(models.TextChoices):
        OPEN = "OPEN", _("open")
        RECOVERED = "RECOVERED", _("recovered")
        WRITTEN_OFF = "WRITTEN_OFF", _("written off")

    MOVES: ClassVar = {State.OPEN: {State.RECOVERED, State.WRITTEN_OFF}}

    claim = models.OneToOneField(Claim, models.PROTECT, related_name="recovery", verbose_name=_("claim"))
    merchant = models.ForeignKey(Merchant, models.PROTECT, verbose_name=_("merchant"))
    insurer = models.ForeignKey(Insurer, models.PROTECT, db_index=False, verbose_name=_("insurer"))
    amount = models.BigIntegerField(_("amount"))
    recovered = models.BigIntegerField(_("recovered"), default=0)
    state = models.CharField(_("state"), max_length=11, choices=State, default=State.OPEN)
    note = models.CharField(_("note"), max_length=300, blank=True)
    proposed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        related_name="+",
        db_index=False,
        verbose_name=_("write-off proposed by"),
    )
    proposed_at = models.DateTimeField(_("write-off proposed at"), null=True)
    written_off_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        related_name="+",
        db_index=False,
        verbose_name=_("written off by"),
    )
    recorded_at = models.DateTimeField(_("recorded at"))
    closed_at = models.DateTimeField(_("closed at"), null=True)

    class Meta:
        verbose_name = _("recovery")
        verbose_name_plural = _("recoveries")
        constraints = [
            models.CheckConstraint(
                name="never_recovers_more_than_was_paid",
                condition=Q(recovered__gte=0, recovered__lte=F("amount"))
                | Q(amount__lt=0, recovered__lte=0, recovered__gte=F("amount")),
            ),
            # Giving up a claim gives away the insurer's money.
            models.CheckConstraint(
                name="who_proposes_a_write_off_never_grants_it",
                condition=Q(written_off_by__isnull=True)
                | Q(proposed_by__isnull=False) & ~Q(written_off_by=F("proposed_by")),
            ),
            models.CheckConstraint(
                name="a_recovery_written_off_says_by_whom_and_why",
                condition=~Q(state="WRITTEN_OFF") | Q(written_off_by__isnull=False) & ~Q(note=""),
            ),
        ]
        indexes = [
            models.Index("id", name="write_offs_waiting", condition=Q(state="OPEN", proposed_by__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.amount}"


class Receipt(models.Model):
    """Money that came from the merchant or its estate for one recovery, in fen."""

    recovery = models.ForeignKey(Recovery, models.PROTECT, related_name="receipts", verbose_name=_("recovery"))
    amount = models.BigIntegerField(_("amount"))
    reference = models.CharField(_("reference"), max_length=64)
    recorded_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", verbose_name=_("recorded by")
    )
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("receipt")
        verbose_name_plural = _("receipts")
        constraints = [
            # The same bank transfer entered twice would close a recovery that is half open.
            models.UniqueConstraint("recovery", "reference", name="one_receipt_per_reference")
        ]

    def __str__(self) -> str:
        return self.reference
