"""Who may issue, what they issue, and the batches in which it is issued (the patent's issuing module, 发卡模块).

Merchant (商户)        the issuer, policyholder of its cards' insurance
Regulation (监管参数)   limits and thresholds of a region in force from a date on
CardProgram (卡产品)    what a merchant sells: one of four kinds of card
BonusTier (优惠档位)    from which amount on a BONUS purchase is given which gift
Batch, BatchRow (批次)  a file of purchases: staged, checked, approved by a second person, issued in slices
Event (事件)            something that happened to what is a merchant's, from any room
WebhookEndpoint, WebhookDelivery, WebhookAttempt    where the merchant is told of it, what he is told, each try
"""

from datetime import datetime, timedelta
from typing import Any, ClassVar, Self
from uuid import UUID

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.core.validators import RegexValidator
from django.db import connection, models
from django.db.models import F, Func, Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from config.ids import new_id, public_id
from config.limits import are_rate_limits
from config.states import Moving

TEST_SUFFIX = "-TEST"
"""What the code of a test twin, and of whatever is copied to it, ends in."""


class Kind(models.TextChoices):
    """The four kinds of card of CN111882316A."""

    BONUS = "BONUS", _("bonus card")
    DISCOUNT = "DISCOUNT", _("discount card")
    ENTITLEMENT = "ENTITLEMENT", _("entitlement card")
    TIMES = "TIMES", _("times card")


class Unit(models.TextChoices):
    """What a card's face is counted in."""

    MONEY = "MONEY", _("money")
    USES = "USES", _("uses")
    DAYS = "DAYS", _("days")


UNIT_OF_KIND = {
    Kind.BONUS: Unit.MONEY,
    Kind.DISCOUNT: Unit.MONEY,
    Kind.TIMES: Unit.USES,
    Kind.ENTITLEMENT: Unit.DAYS,
}


class PaymentMethod(models.TextChoices):
    CASH = "CASH", _("cash")
    CARD = "CARD", _("bank card")
    WECHAT = "WECHAT", _("WeChat Pay")
    ALIPAY = "ALIPAY", _("Alipay")
    BANK_TRANSFER = "BANK_TRANSFER", _("bank transfer")


class Merchants(models.QuerySet["Merchant"]):
    def live(self) -> Self:
        return self.filter(test_of=None)

    def for_tests(self) -> Self:
        return self.filter(test_of__isnull=False)


class Merchant(Moving):
    """The issuer. FAILED from the moment an insured event is declared: it may issue nothing more.

    A merchant tries things out as its *test twin* (``test_of``), a merchant of its own whose cards are nobody's money.
    Every table carries its merchant, so test and live never meet; whatever adds up over merchants takes the ``live``.
    """

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", _("active")
        FAILED = "FAILED", pgettext_lazy("merchant", "failed")

    # Only a test merchant comes back, after a drill: a trigger sees to it (migration 0007).
    MOVES: ClassVar = {State.ACTIVE: {State.FAILED}, State.FAILED: {State.ACTIVE}}

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # A twin's is longer: it ends in -TEST, which nobody can type.
    code = models.CharField(_("code"), max_length=21, unique=True, validators=[RegexValidator(r"^[A-Z0-9]{2,16}\Z")])
    test_of = models.OneToOneField(
        "self", models.PROTECT, null=True, blank=True, editable=False, related_name="test_twin",
        verbose_name=_("test twin of"),
    )  # fmt: skip
    rate_limits = models.JSONField(
        _("rate limits"), default=dict, blank=True, validators=[are_rate_limits],
        help_text=_("requests of one key in a minute where they differ from the usual, like {\"payment\": 120000}"),
    )  # fmt: skip
    name = models.CharField(_("name"), max_length=100)
    sector = models.CharField(_("sector"), max_length=60, blank=True)
    city = models.CharField(_("city"), max_length=60, blank=True)
    time_zone = models.CharField(_("time zone"), max_length=40, default="Asia/Shanghai")
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.ACTIVE, editable=False)
    failed_at = models.DateTimeField(_("failed at"), null=True, blank=True, editable=False)
    recorded_at = models.DateTimeField(_("recorded at"), auto_now_add=True)
    test_clock_ahead = models.PositiveIntegerField(
        _("test clock ahead"), default=0, editable=False,
        help_text=_("seconds by which a test merchant's clock is ahead of ours"),
    )  # fmt: skip

    objects = Merchants.as_manager()

    class Meta:
        verbose_name = _("merchant")
        verbose_name_plural = _("merchants")
        # That a twin has no twin, and that live stays live and test stays test, stands in a trigger (migration 0006).
        constraints = [
            # Read off a statement, a list or a message to the insurer, a test merchant is known by its code.
            models.CheckConstraint(
                name="a_test_merchants_code_says_so",
                condition=Q(test_of__isnull=True) & ~Q(code__endswith=TEST_SUFFIX)
                | Q(test_of__isnull=False, code__endswith=TEST_SUFFIX),
            ),
            models.CheckConstraint(
                name="a_failed_merchant_has_a_moment_of_failure",
                condition=Q(state="FAILED", failed_at__isnull=False) | Q(state="ACTIVE", failed_at__isnull=True),
            ),
            # Were a live merchant's clock moved, cards would expire and cover would end that somebody paid for.
            models.CheckConstraint(
                name="only_a_test_merchant_has_a_clock_of_its_own",
                condition=Q(test_clock_ahead=0) | Q(test_of__isnull=False, test_clock_ahead__gt=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.code} {self.name}"

    @property
    def is_test(self) -> bool:
        return self.test_of_id is not None

    def moment(self, now: datetime) -> datetime:
        """What time it is for this merchant: ``now``, but where a test merchant has moved its clock ahead."""
        return now + timedelta(seconds=self.test_clock_ahead) if self.test_clock_ahead else now


class MerchantManager(models.Model):
    """Whose rows a member of staff sees whose role is bound to merchants (``config.roles.BOUND``)."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="managed", verbose_name=_("member of staff"),
    )  # fmt: skip
    merchant = models.ForeignKey(Merchant, models.PROTECT, related_name="managers", verbose_name=_("merchant"))
    recorded_at = models.DateTimeField(_("recorded at"), auto_now_add=True)

    class Meta:
        verbose_name = _("merchant manager")
        verbose_name_plural = _("merchant managers")
        constraints = [models.UniqueConstraint("user", "merchant", name="one_manager_once_per_merchant")]

    def __str__(self) -> str:
        return f"{self.user} {self.merchant}"


class MerchantKey(models.Model):
    """A key of the merchant API. Only its keyed hash is kept; the key itself is shown once.

    Whether it is a test or a live key is its merchant's affair and nothing of its own, so that it cannot be otherwise.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    merchant = models.ForeignKey(Merchant, models.PROTECT, related_name="keys", verbose_name=_("merchant"))
    name = models.CharField(_("name"), max_length=60)
    key_hash = models.CharField(max_length=64, unique=True, editable=False)
    last4 = models.CharField(_("last four"), max_length=4, editable=False)
    scopes = models.JSONField(_("scopes"), default=list)
    allowed_from = models.JSONField(_("allowed from"), default=list, blank=True)
    # One to one: a key is replaced once, so that rotating it twice at the same moment makes one new key.
    replaces = models.OneToOneField(
        "self", models.PROTECT, null=True, blank=True, editable=False, related_name="replaced_by",
        verbose_name=_("replaces"),
    )  # fmt: skip
    made_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        verbose_name=_("made by"),
    )
    recorded_at = models.DateTimeField(_("recorded at"), auto_now_add=True)
    expires_at = models.DateTimeField(_("expires at"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked at"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used at"), null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")

    def __str__(self) -> str:
        return f"{self.name} …{self.last4}"

    @property
    def is_test(self) -> bool:
        return self.merchant.is_test


class Regulation(models.Model):
    """Limits and thresholds in force in a region from a date until the next row's date, in fen.

    Defaults are those of the national measures (单用途商业预付卡管理办法, arts. 15–18): they are data, since
    cities set their own and change them. An empty region is the whole country.
    """

    region = models.CharField(_("region"), max_length=60, blank=True)
    valid_from_date = models.DateField(_("valid from"))
    named_card_limit = models.BigIntegerField(_("limit of one named card"), default=500_000)
    unnamed_card_limit = models.BigIntegerField(_("limit of one unnamed card"), default=100_000)
    unnamed_identity_from = models.BigIntegerField(_("identity needed for unnamed cards from"), default=1_000_000)
    cash_refused_from_individual = models.BigIntegerField(_("no cash from individuals from"), default=5_000_000)
    cash_refused_from_organisation = models.BigIntegerField(_("no cash from organisations from"), default=500_000)
    unnamed_term_years = models.PositiveSmallIntegerField(_("least validity of unnamed cards in years"), default=3)
    withdrawal_days = models.PositiveSmallIntegerField(_("days of withdrawal"), default=7)
    withdrawal_needs_unredeemed = models.BooleanField(_("withdrawal only if unused"), default=False)

    class Meta:
        verbose_name = _("regulation")
        verbose_name_plural = _("regulations")
        constraints = [
            # One answer to "what was the limit on that day": two rows from the same day would make it arbitrary.
            models.UniqueConstraint("region", "valid_from_date", name="one_regulation_per_region_and_day"),
            models.CheckConstraint(
                name="regulated_limits_are_positive",
                condition=Q(named_card_limit__gt=0) & Q(unnamed_card_limit__gt=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.region or '*'} {self.valid_from_date}"


class CardProgram(Moving):
    """What a merchant sells. Figures in fen; ``rate`` is what is charged per 1.00 of list price."""

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", _("active")
        WITHDRAWN = "WITHDRAWN", _("withdrawn")

    class LimitBasis(models.TextChoices):
        PRINCIPAL = "PRINCIPAL", _("principal")
        FACE = "FACE", _("face value")

    class DrawOrder(models.TextChoices):
        OLDEST = "OLDEST", _("oldest load first")
        SMALLEST = "SMALLEST", _("smallest remaining first")

    MOVES: ClassVar = {State.ACTIVE: {State.WITHDRAWN}, State.WITHDRAWN: {State.ACTIVE}}

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    merchant = models.ForeignKey(Merchant, models.PROTECT, related_name="programs", verbose_name=_("merchant"))
    code = models.CharField(_("code"), max_length=37, unique=True)
    name = models.CharField(_("name"), max_length=100, blank=True)
    kind = models.CharField(_("kind"), max_length=12, choices=Kind)
    named = models.BooleanField(_("named card"), default=True)
    card_limit = models.BigIntegerField(_("limit of one card"))
    limit_basis = models.CharField(
        _("limit tested on"), max_length=10, choices=LimitBasis, default=LimitBasis.PRINCIPAL
    )
    max_sub_cards = models.PositiveIntegerField(_("at most so many sub-cards"), default=1000)
    draw_order = models.CharField(_("draw order"), max_length=10, choices=DrawOrder, default=DrawOrder.OLDEST)
    rate = models.DecimalField(_("charged per 1.00"), max_digits=5, decimal_places=4, null=True, blank=True)
    uses = models.PositiveIntegerField(_("uses"), null=True, blank=True)
    single_use_price = models.BigIntegerField(_("price of a single use"), null=True, blank=True)
    price = models.BigIntegerField(_("price"), null=True, blank=True)
    term_days = models.PositiveIntegerField(_("term in days"))
    spend_before_cover = models.BooleanField(_("may be spent before cover is accepted"), default=True)
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.ACTIVE, editable=False)
    recorded_at = models.DateTimeField(_("recorded at"), auto_now_add=True)

    class Meta:
        verbose_name = _("card program")
        verbose_name_plural = _("card programs")
        constraints = [
            models.CheckConstraint(name="a_card_limit_is_positive", condition=Q(card_limit__gt=0)),
            models.CheckConstraint(name="a_term_is_positive", condition=Q(term_days__gt=0)),
            # 0 would give goods away, above 1 would be a surcharge.
            models.CheckConstraint(
                name="a_rate_is_above_0_up_to_1", condition=Q(rate__isnull=True) | Q(rate__gt=0, rate__lte=1)
            ),
            models.CheckConstraint(
                name="a_program_has_what_its_kind_needs",
                # A comparison with NULL is not false, and a CHECK lets it pass: so NULL is excluded by itself.
                condition=Q(kind="BONUS", uses__isnull=True, price__isnull=True)
                | Q(kind="DISCOUNT", rate__isnull=False, uses__isnull=True, price__isnull=True)
                | Q(kind="TIMES", uses__gt=0, price__gt=0, single_use_price__gt=0, rate__isnull=True)
                & Q(uses__isnull=False, price__isnull=False, single_use_price__isnull=False)
                | Q(kind="ENTITLEMENT", price__gt=0, price__isnull=False, rate__isnull=False, uses__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return self.code

    @property
    def unit(self) -> Unit:
        return UNIT_OF_KIND[Kind(self.kind)]


class BonusTier(models.Model):
    """From ``from_amount`` on, a BONUS purchase is given ``gift``; the highest tier reached applies."""

    program = models.ForeignKey(CardProgram, models.CASCADE, related_name="tiers", verbose_name=_("card program"))
    from_amount = models.BigIntegerField(_("from amount"))
    gift = models.BigIntegerField(_("gift"))

    class Meta:
        verbose_name = _("bonus tier")
        verbose_name_plural = _("bonus tiers")
        constraints = [
            models.UniqueConstraint("program", "from_amount", name="one_gift_per_tier"),
            models.CheckConstraint(name="a_tier_gives_something", condition=Q(from_amount__gt=0, gift__gt=0)),
        ]

    def __str__(self) -> str:
        return f"{self.from_amount}:{self.gift}"


class Batch(Moving):
    """A file of purchases on its way to becoming cards; it is also the row that staff watch."""

    class State(models.TextChoices):
        STAGING = "STAGING", _("being checked")
        STAGED = "STAGED", _("checked")
        APPROVED = "APPROVED", _("approved, being issued")
        ISSUED = "ISSUED", _("issued")
        REJECTED = "REJECTED", _("rejected")

    MOVES: ClassVar = {
        State.STAGING: {State.STAGED, State.REJECTED},
        State.STAGED: {State.APPROVED, State.REJECTED},
        State.APPROVED: {State.ISSUED},
    }

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    name = models.CharField(_("name"), max_length=200)
    sha256 = models.CharField(_("SHA-256 of the file"), max_length=64)
    header = models.TextField(_("header"), blank=True)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.STAGING, editable=False)
    rows = models.PositiveIntegerField(_("rows"), default=0)
    bad_rows = models.PositiveIntegerField(_("rows refused"), default=0)
    issued_rows = models.PositiveIntegerField(_("rows issued"), default=0)
    # Lines are settled in their order, so one number says of each whether it was: half a million marks would be
    # written for nothing.
    settled_line = models.PositiveIntegerField(_("settled up to line"), default=0)
    good_amount = models.BigIntegerField(_("amount of the good rows"), default=0)
    problem = models.TextField(_("problem"), blank=True)
    made_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", verbose_name=_("prepared by")
    )
    approved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("approved by"),
    )
    recorded_at = models.DateTimeField(_("recorded at"), auto_now_add=True)
    # Whose purchases it holds, if they are all one merchant's.
    merchant = models.ForeignKey(Merchant, models.PROTECT, null=True, blank=True, verbose_name=_("merchant"))
    approved_at = models.DateTimeField(_("approved at"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    due_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("batch")
        verbose_name_plural = _("batches")
        constraints = [
            # Four eyes: money is created here, so the one who prepared it can never be the one who lets it through.
            models.CheckConstraint(
                name="who_prepares_a_batch_never_approves_it",
                condition=Q(approved_by__isnull=True) | ~Q(approved_by=F("made_by")),
            ),
            models.CheckConstraint(
                name="only_an_approved_batch_is_issued",
                condition=~Q(state__in=["APPROVED", "ISSUED"])
                | Q(approved_by__isnull=False, approved_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index("due_at", name="batches_due", condition=Q(due_at__isnull=False)),
            models.Index("id", name="batches_waiting", condition=Q(state="STAGED")),
        ]

    def __str__(self) -> str:
        return self.name


class BatchRow(models.Model):
    """One line of the file, whole, with what was read from it or why it was refused."""

    id = models.BigAutoField(primary_key=True)
    # Half a million rows arrive at once: no index that another one covers or that nobody asks.
    batch = models.ForeignKey(Batch, models.CASCADE, db_index=False, related_name="lines", verbose_name=_("batch"))
    line = models.PositiveIntegerField(_("line"))
    raw = models.TextField(_("as it stands in the file"))
    reference = models.CharField(_("reference"), max_length=64, blank=True)
    program = models.ForeignKey(CardProgram, models.PROTECT, db_index=False, null=True, verbose_name=_("card program"))
    holder_name = models.CharField(_("holder"), max_length=60, blank=True)
    phone = models.CharField(_("phone"), max_length=20, blank=True)
    amount = models.BigIntegerField(_("amount"), null=True)
    paid_at = models.DateTimeField(_("paid at"), null=True)
    payment_method = models.CharField(_("payment method"), max_length=16, blank=True)
    refusal = models.CharField(_("refused as"), max_length=40, blank=True)
    reason = models.CharField(_("reason"), max_length=300, blank=True)

    class Meta:
        verbose_name = _("batch row")
        verbose_name_plural = _("batch rows")
        constraints = [
            models.UniqueConstraint("batch", "line", name="one_row_per_line"),
            models.CheckConstraint(
                name="a_row_is_either_whole_or_refused",
                condition=~Q(refusal="")
                | Q(program__isnull=False, amount__isnull=False, amount__gt=0, paid_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index("batch", "line", name="rows_refused", condition=~Q(refusal="")),
        ]

    def __str__(self) -> str:
        return f"{self.line}"

    def is_issued(self) -> bool:
        """Whether this line has become a card."""
        return not self.refusal and self.line <= self.batch.settled_line


# What is told to merchants ----------------------------------------------------------------------------------------


class TransactionNumber(models.Field):
    """PostgreSQL's number of a transaction (``xid8``): it never wraps, and is given out before the commit."""

    def db_type(self, connection: Any) -> str:
        return "xid8"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> int | None:
        return None if value is None else int(value)

    def get_prep_value(self, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value


class SettledBefore(Func):
    """The oldest transaction that may still be running: whatever has a smaller number is over, and then is seen."""

    function = "events_settled_before"
    output_field = TransactionNumber()


class EventRows(models.QuerySet):
    def settled(self) -> "EventRows":
        """Those that nothing can still slip in between, by transaction and identity.

        Transactions commit in another order than they begin, so a newer event may be there before an older one is
        seen. Below the oldest running transaction nothing is missing, and nothing is added any more. Which one that
        is must be known before what is below it is read, so it is asked for at once.
        """
        return self.filter(xid__lt=settled_before())


def settled_before() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT events_settled_before()")
        return int(cursor.fetchone()[0])


class Event(models.Model):
    """Something that happened to an object of a merchant's: written in the transaction of the verb, never changed.

    Lean, since every payment writes one: what more there is to know is asked for by ``subject_id``.
    """

    class Type(models.TextChoices):
        CARD_OPENED = "card.opened", _("card opened")
        CARD_TOPPED_UP = "card.topped_up", _("card topped up")
        CARD_FROZEN = "card.frozen", _("card frozen")
        CARD_UNFROZEN = "card.unfrozen", _("card unfrozen")
        CARD_CLOSED = "card.closed", _("card closed")
        PAYMENT_RECORDED = "payment.recorded", _("payment recorded")
        REFUND_RECORDED = "refund.recorded", _("refund recorded")
        POLICY_ACCEPTED = "policy.accepted", _("policy accepted")
        POLICY_DECLINED = "policy.declined", _("policy declined")
        CLAIM_FILED = "claim.filed", _("claim filed")
        CLAIM_APPROVED = "claim.approved", _("claim approved")
        CLAIM_REJECTED = "claim.rejected", _("claim rejected")
        CLAIM_PAID = "claim.paid", _("claim paid")
        EXCHANGE_ISSUED = "exchange.issued", _("exchange issued")
        EXCHANGE_REJECTED = "exchange.rejected", _("exchange rejected")
        EXCHANGE_REVERSED = "exchange.reversed", _("exchange reversed")
        COUPON_REDEEMED = "coupon.redeemed", _("coupon redeemed")
        PING = "webhook.ping", _("test of a webhook")

    id = models.UUIDField(primary_key=True, db_default=Func(function="new_id"), editable=False)
    # No foreign key: the merchant is the one of the row that is told of, whose own foreign key was looked at.
    merchant = models.ForeignKey(
        Merchant, models.PROTECT, db_constraint=False, db_index=False, related_name="+", verbose_name=_("merchant")
    )
    type = models.CharField(_("type"), max_length=20, choices=Type)
    subject_id = models.UUIDField(_("subject"))
    card_id = models.UUIDField(_("card"), null=True)
    state = models.CharField(_("state"), max_length=20, blank=True, default="")
    amount = models.BigIntegerField(_("amount"), null=True)
    recorded_at = models.DateTimeField(_("recorded at"))
    xid = TransactionNumber(db_default=Func(function="pg_current_xact_id"), editable=False)

    objects = EventRows.as_manager()

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        indexes = [
            models.Index("merchant", "xid", "id", name="events_of_a_merchant_in_order"),
            # Next to nothing to write, and enough to find a day by.
            BrinIndex("recorded_at", name="events_by_moment"),
        ]

    def __str__(self) -> str:
        return self.type


class WebhookEndpoint(Moving):
    """Where a merchant wants to be told. ``cursor_xid`` and ``cursor_id`` are of the last event that was looked at."""

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", _("active")
        PAUSED = "PAUSED", _("paused")
        DISABLED = "DISABLED", _("removed")

    class Because(models.TextChoices):
        ASKED = "ASKED", _("asked for")
        FAILING = "FAILING", _("nothing was accepted for days")
        GONE = "GONE", _("it said that it is gone (410)")

    MOVES: ClassVar = {
        State.ACTIVE: {State.PAUSED, State.DISABLED},
        State.PAUSED: {State.ACTIVE, State.DISABLED},
    }

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    merchant = models.ForeignKey(Merchant, models.PROTECT, verbose_name=_("merchant"))
    url = models.CharField(_("URL"), max_length=500)
    description = models.CharField(_("description"), max_length=100, blank=True)
    # Empty: all of them.
    types = ArrayField(models.CharField(max_length=20, choices=Event.Type), verbose_name=_("events"), default=list)
    is_live = models.BooleanField(_("live"), default=False)
    secret_sealed = models.BinaryField()
    old_secret_sealed = models.BinaryField(null=True)
    old_secret_until_at = models.DateTimeField(_("old secret until"), null=True)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.ACTIVE, editable=False)
    paused_because = models.CharField(_("paused because"), max_length=8, choices=Because, blank=True)
    paused_at = models.DateTimeField(_("paused at"), null=True)
    made_by = models.CharField(_("made by"), max_length=60)
    recorded_at = models.DateTimeField(_("recorded at"))
    cursor_xid = TransactionNumber(db_default=SettledBefore(), editable=False)
    cursor_id = models.UUIDField(default=UUID(int=0), editable=False)
    failures = models.PositiveIntegerField(_("failures in a row"), default=0)
    failing_since_at = models.DateTimeField(_("failing since"), null=True)
    resting_until_at = models.DateTimeField(_("left alone until"), null=True)
    attempted_at = models.DateTimeField(_("last attempt"), null=True)

    class Meta:
        verbose_name = _("webhook endpoint")
        verbose_name_plural = _("webhook endpoints")
        constraints = [
            # The second secret lives during a rotation only.
            models.CheckConstraint(
                name="an_old_secret_has_an_end",
                condition=Q(old_secret_sealed__isnull=True, old_secret_until_at__isnull=True)
                | Q(old_secret_sealed__isnull=False, old_secret_until_at__isnull=False),
            ),
            models.CheckConstraint(
                name="a_pause_has_a_reason_and_a_moment",
                condition=~Q(state="PAUSED") | Q(paused_at__isnull=False) & ~Q(paused_because=""),
            ),
        ]

    def __str__(self) -> str:
        return self.url


class WebhookDelivery(Moving):
    """One event for one endpoint, however often it is sent: the row is the queue, and its identity the message's."""

    class State(models.TextChoices):
        PENDING = "PENDING", _("to be delivered")
        DELIVERED = "DELIVERED", _("delivered")
        FAILED = "FAILED", pgettext_lazy("delivery", "failed")

    MOVES: ClassVar = {
        State.PENDING: {State.DELIVERED, State.FAILED},
        State.DELIVERED: {State.PENDING},
        State.FAILED: {State.PENDING},
    }

    id = models.UUIDField(primary_key=True, db_default=Func(function="new_id"), editable=False)
    endpoint = models.ForeignKey(
        WebhookEndpoint, models.PROTECT, db_index=False, related_name="deliveries", verbose_name=_("webhook endpoint")
    )
    event = models.ForeignKey(Event, models.PROTECT, related_name="deliveries", verbose_name=_("event"))
    merchant = models.ForeignKey(Merchant, models.PROTECT, related_name="+", verbose_name=_("merchant"))
    # The event's, so that what was told about a card is found by an index that no payment has to write.
    card_id = models.UUIDField(_("card"), null=True, editable=False)
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    due_at = models.DateTimeField(_("due at"), null=True)
    problem = models.CharField(_("problem"), max_length=200, blank=True, default="")
    recorded_at = models.DateTimeField(_("recorded at"))
    delivered_at = models.DateTimeField(_("delivered at"), null=True)

    class Meta:
        verbose_name = _("webhook delivery")
        verbose_name_plural = _("webhook deliveries")
        constraints = [
            # An event is told to an endpoint under one id, however often it is come across.
            models.UniqueConstraint("endpoint", "event", name="one_delivery_per_endpoint_and_event"),
            models.CheckConstraint(
                name="a_pending_delivery_is_due",
                condition=Q(state="PENDING", due_at__isnull=False) | ~Q(state="PENDING") & Q(due_at__isnull=True),
            ),
            models.CheckConstraint(
                name="a_delivered_one_has_its_moment", condition=~Q(state="DELIVERED") | Q(delivered_at__isnull=False)
            ),
        ]
        indexes = [
            models.Index("endpoint", "due_at", name="deliveries_due", condition=Q(due_at__isnull=False)),
            models.Index("card_id", "recorded_at", name="deliveries_of_card", condition=Q(card_id__isnull=False)),
        ]

    def __str__(self) -> str:
        return public_id("whd", self.pk)


class WebhookAttempt(models.Model):
    """One sending of a delivery and what came back: the first KiB of the answer, as text."""

    id = models.BigAutoField(primary_key=True)
    delivery = models.ForeignKey(
        WebhookDelivery, models.PROTECT, related_name="tries", verbose_name=_("webhook delivery")
    )
    url = models.CharField(_("URL"), max_length=500)
    status = models.PositiveSmallIntegerField(_("HTTP status"), null=True)
    failure = models.CharField(_("failure"), max_length=20, blank=True)
    detail = models.CharField(_("detail"), max_length=200, blank=True)
    answer = models.TextField(_("answer"), blank=True)
    duration_ms = models.PositiveIntegerField(_("milliseconds"))
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("webhook attempt")
        verbose_name_plural = _("webhook attempts")

    def __str__(self) -> str:
        return str(self.status or self.failure)
