"""What everybody shares of rows: the audit of what staff did, and what besides a password shows who they are."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from django.conf import settings
from django.contrib.auth.models import User
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django_otp.models import Device, ThrottlingMixin
from django_otp.oath import TOTP

from config.sealing import Vault


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
            # A card's page takes its acts in order of the moment, among all else that happened to it.
            models.Index("kind", "object_id", "recorded_at", name="act_by_object_and_moment"),
            models.Index("who", "seq", name="act_by_who"),
            models.Index("verb", "seq", name="act_by_verb"),
            models.Index("recorded_at", name="act_by_moment"),
            models.Index("made", name="act_by_made", condition=~models.Q(made="")),
        ]

    def __str__(self) -> str:
        return f"{self.seq}"


class OwnSettings(models.Model):
    """How one person wants to read the back office. An empty text: as their browser or the house has it."""

    user = models.OneToOneField(User, models.CASCADE, primary_key=True, related_name="own_settings")
    language = models.CharField(max_length=10, blank=True)
    time_zone = models.CharField(max_length=40, blank=True)

    def __str__(self) -> str:
        return f"{self.language} {self.time_zone}"


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
