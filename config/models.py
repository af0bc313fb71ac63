"""What everybody shares of rows: the audit of what staff did, what besides a password shows who they are, and what
staff ordered to be done in the background."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django_otp.models import Device, ThrottlingMixin
from django_otp.oath import TOTP

from config.ids import new_id
from config.sealing import Vault
from config.states import Moving


class Act(models.Model):
    """One thing that staff did: written in the transaction of the deed, chained to the row before, never changed.

    Made by ``audit.record`` only. The name of a person, not their row: what was done outlives every table.
    """

    class Outcome(models.TextChoices):
        DONE = "DONE", _("done")
        REFUSED = "REFUSED", _("refused")

    # Without a gap: the database refuses a row that does not follow the last one.
    seq = models.BigIntegerField(_("no."), primary_key=True)
    recorded_at = models.DateTimeField(_("when"))
    who = models.CharField(_("who"), max_length=150, blank=True)
    address = models.CharField(_("from which address"), max_length=39, blank=True)
    # A hash: whoever reads the audit must not be able to take a session over.
    session = models.CharField(_("session"), max_length=16, blank=True)
    verb = models.CharField(_("what"), max_length=40)
    outcome = models.CharField(_("outcome"), max_length=8, choices=Outcome)
    kind = models.CharField(_("record"), max_length=60, blank=True)
    object_id = models.CharField(max_length=64, blank=True)
    label = models.CharField(_("its name"), max_length=200, blank=True)
    made = models.CharField(_("made"), max_length=130, blank=True)
    asked = models.JSONField(_("what stood on the form"), default=dict)
    before = models.JSONField(_("before"), default=dict)
    after = models.JSONField(_("after"), default=dict)
    reason = models.TextField(_("reason"), blank=True)
    previous = models.CharField(_("hash of the row before"), max_length=64)
    hash = models.CharField(_("hash"), max_length=64)

    class Meta:
        verbose_name = _("act of staff")
        verbose_name_plural = _("acts of staff")
        indexes = [
            models.Index("kind", "object_id", "seq", name="act_by_object"),
            models.Index("who", "seq", name="act_by_who"),
            models.Index("verb", "seq", name="act_by_verb"),
            models.Index("recorded_at", name="act_by_moment"),
            models.Index("made", name="act_by_made", condition=~models.Q(made="")),
        ]

    def __str__(self) -> str:
        return f"{self.seq}"


SECOND_FACTORS = Vault("SECOND_FACTOR_KEYS", "second factor")


class Authenticator(ThrottlingMixin, Device):
    """An app that shows six digits, anew every thirty seconds (RFC 6238), as one person's second factor.

    Its secret is sealed: a copy of the database alone signs nobody in. After n wrong codes in a row the next one is
    not even looked at for 2ⁿ⁻¹ seconds.
    """

    STEP = 30
    TOLERANCE = 1
    """So many steps a telephone's clock may be off."""

    secret_sealed = models.BinaryField()
    last_step = models.BigIntegerField(default=-1)
    recorded_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            # One that counts, and beside it at most one that is being set up.
            models.UniqueConstraint("user", "confirmed", name="one_authenticator_per_person"),
        ]

    def get_throttle_factor(self) -> float:
        return 1.0

    def secret(self) -> str:
        return SECOND_FACTORS.unseal(self.secret_sealed)

    def verify_token(self, token: str) -> bool:
        """Whether it is the code of this moment. A code counts once: an earlier step than the last is refused.

        The caller holds the row's lock, so two that send the same code at once are not both let in.
        """
        if not self.verify_is_allowed()[0]:
            return False
        totp = TOTP(bytes.fromhex(self.secret()), self.STEP)
        totp.time = timezone.now().timestamp()
        if token.isascii() and token.isdigit() and totp.verify(int(token), self.TOLERANCE, self.last_step + 1):
            self.last_step = totp.t()
            self.throttle_reset(commit=False)
            self.save()
            return True
        self.throttle_increment()
        return False

    def address(self, secret_in_base32: str) -> str:
        """What stands in the QR code (the key URI format that all such apps read)."""
        issuer = str(settings.SECOND_FACTOR_ISSUER)
        label = quote(f"{issuer}:{self.user.get_username()}")
        facts: dict[str, Any] = {"secret": secret_in_base32, "issuer": issuer, "digits": 6, "period": self.STEP}
        return f"otpauth://totp/{label}?{urlencode(facts, quote_via=quote)}"


class RecoveryCode(models.Model):
    """What signs in once for an authenticator that is not at hand; only its hash is kept."""

    user = models.ForeignKey(User, models.CASCADE, related_name="+")
    code_hash = models.CharField(max_length=32, unique=True)
    used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.pk}"


# What staff order and the clock does -----------------------------------------------------------------------------


class Order(Moving):
    """Work on a list that staff ordered: the row is the queue, ``due_at`` its lease (``config.handshakes``).

    It is done with the rights that its maker has when it is done, in their language and time zone.
    """

    class State(models.TextChoices):
        RUNNING = "RUNNING", _("running")
        DONE = "DONE", _("done")
        FAILED = "FAILED", _("failed")
        CANCELLED = "CANCELLED", _("cancelled")
        EXPIRED = "EXPIRED", _("expired")

    MOVES: ClassVar[dict[str, set[str]]] = {"RUNNING": {"DONE", "FAILED", "CANCELLED"}, "DONE": {"EXPIRED"}}

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    made_by = models.ForeignKey(User, models.PROTECT, verbose_name=_("by"), related_name="+")
    kind = models.CharField(_("list"), max_length=60)
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.RUNNING)
    language = models.CharField(max_length=10)
    time_zone = models.CharField(max_length=40)
    address = models.CharField(_("from which address"), max_length=39, blank=True)
    recorded_at = models.DateTimeField(_("ordered at"), default=timezone.now)
    due_at = models.DateTimeField(null=True, default=timezone.now)
    finished_at = models.DateTimeField(_("finished at"), null=True)
    problem = models.CharField(_("problem"), max_length=200, blank=True)
    total = models.PositiveIntegerField(_("rows"), null=True)

    class Meta:
        abstract = True


class Export(Order):
    """A list as a file. ``rows`` and ``size`` are what of it is written and safe, ``last`` the key it ends with."""

    class Format(models.TextChoices):
        CSV = "CSV", "CSV"
        XLSX = "XLSX", "XLSX"

    format = models.CharField(_("format"), max_length=4, choices=Format)
    query = models.TextField(_("filters"), blank=True)
    # What a search found: what was searched for may be a whole card number, and is not kept.
    keys = models.JSONField(null=True)
    rows = models.PositiveIntegerField(_("rows written"), default=0)
    size = models.BigIntegerField(_("size in bytes"), default=0)
    last = models.CharField(max_length=64, blank=True)
    expires_at = models.DateTimeField(_("kept until"), null=True)

    class Meta:
        verbose_name = _("export")
        verbose_name_plural = _("exports")
        constraints = [
            # Otherwise a file of holders' data would lie there for ever.
            models.CheckConstraint(
                name="an_export_that_is_done_expires", condition=~Q(state="DONE") | Q(expires_at__isnull=False)
            )
        ]
        indexes = [
            models.Index("made_by", "id", name="exports_of_maker"),
            models.Index("due_at", name="exports_due", condition=Q(due_at__isnull=False)),
            models.Index("expires_at", name="exports_kept", condition=Q(state="DONE")),
        ]

    def __str__(self) -> str:
        return f"{self.format} {self.recorded_at:%Y-%m-%d %H:%M}"


class Bulk(Order):
    """One verb for many records, each in a transaction of its own."""

    verb = models.CharField(_("what"), max_length=40)
    data = models.JSONField(_("what stood on the form"), default=dict)
    done = models.PositiveIntegerField(_("done"), default=0)
    failed = models.PositiveIntegerField(_("failed"), default=0)
    again_of = models.ForeignKey("self", models.PROTECT, verbose_name=_("again of"), null=True, related_name="+")

    class Meta:
        verbose_name = _("bulk work")
        verbose_name_plural = _("bulk works")
        constraints = [
            # A record that was counted twice was worked on twice.
            models.CheckConstraint(
                name="no_record_is_done_twice", condition=Q(total__isnull=False, total__gte=F("done") + F("failed"))
            ),
            models.CheckConstraint(
                name="bulk_work_that_is_done_left_nothing",
                condition=~Q(state="DONE") | Q(total=F("done") + F("failed")),
            ),
        ]
        indexes = [
            models.Index("made_by", "id", name="bulks_of_maker"),
            models.Index("due_at", name="bulks_due", condition=Q(due_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.verb} × {self.total} {self.recorded_at:%Y-%m-%d %H:%M}"


class BulkItem(models.Model):
    """A record that is to be worked on, and what became of it."""

    class State(models.TextChoices):
        WAITING = "WAITING", _("waiting")
        DONE = "DONE", _("done")
        FAILED = "FAILED", _("failed")

    bulk = models.ForeignKey(Bulk, models.CASCADE, related_name="items")
    key = models.CharField(max_length=64)
    state = models.CharField(max_length=8, choices=State, default=State.WAITING)
    label = models.CharField(max_length=200, blank=True)
    refusal = models.CharField(max_length=60, blank=True)
    reason = models.CharField(max_length=300, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint("bulk", "key", name="a_record_stands_once_in_bulk_work")]
        indexes = [models.Index("bulk", "state", "id", name="items_of_bulk")]

    def __str__(self) -> str:
        return self.label or self.key
