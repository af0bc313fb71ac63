"""Credit-card points exchanged for e-coupons: the e-commerce system of CN104200375A (电子商务系统).

CouponProduct (券产品)         what points buy; whose coupons, what they are worth, how many there are
ExchangeRatio (兑换比例)       points per coupon, versioned, approved by a second person (参数管理模块)
ExchangeQuote (试算)          points needed = coupons × ratio, frozen until it expires (积分计算模块)
Exchange (积分兑换)            a quote submitted: the deduction request message and what became of it (积分兑换接口)
Coupon (电子券)               generated only with a verified success, exactly as many as were bought (电子券生成模块)
PointsReturn (积分退还)        points given back for unused coupons
Repair (差错处理)              what was done about a break with the points system, by whom or by the clock
Inquiry                      exchanges that a worker is asking about, whose they are until it is done
PointsMessage                what was sent to the points system and received, raw, before it is believed

Exchange, PointsReturn and Repair are handshakes: the row is the message.
"""

from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import Case, F, Q, Value, When
from django.utils.translation import gettext_lazy as _

from config.handshakes import Handshake, new_request_no
from config.ids import new_id
from config.sealing import SealedField
from config.states import Moving
from issuing.models import Merchant
from prepaid.models import Break
from prepaid.reconciliation import FOUR_EYES_FROM_POINTS


class CouponProduct(Moving):
    """What points buy. Figures in fen; ``stock`` is what may still be issued, empty for no end."""

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", _("active")
        WITHDRAWN = "WITHDRAWN", _("withdrawn")

    MOVES: ClassVar = {State.ACTIVE: {State.WITHDRAWN}, State.WITHDRAWN: {State.ACTIVE}}

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    merchant = models.ForeignKey(Merchant, models.PROTECT, related_name="coupon_products", verbose_name=_("merchant"))
    code = models.CharField(_("code"), max_length=37, unique=True)
    name = models.CharField(_("name"), max_length=100)
    name_zh = models.CharField(_("Chinese name"), max_length=100, blank=True)
    face_value = models.BigIntegerField(_("face value"))
    valid_days = models.PositiveIntegerField(_("valid for days"))
    stock = models.PositiveIntegerField(_("stock"), null=True, blank=True)
    most_per_order = models.PositiveIntegerField(_("at most per order"), default=1000)
    most_per_day = models.PositiveIntegerField(_("at most per account and day"), null=True, blank=True)
    most_per_account = models.PositiveIntegerField(_("at most per account"), null=True, blank=True)
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.ACTIVE, editable=False)
    recorded_at = models.DateTimeField(_("recorded at"), auto_now_add=True)

    class Meta:
        verbose_name = _("coupon product")
        verbose_name_plural = _("coupon products")
        constraints = [
            # Stock is taken by a conditional UPDATE; PositiveInteger's own CHECK is the net below it.
            models.CheckConstraint(
                name="a_coupon_is_worth_something_for_some_time",
                condition=Q(face_value__gt=0, valid_days__gt=0, most_per_order__gt=0),
            )
        ]

    def __str__(self) -> str:
        return self.code


class ExchangeRatio(Handshake, Moving):
    """Points per coupon in one version, never edited: what changes is a new version, approved by a second person.

    Approved, it is owed to the points system, which is to know it before it deducts by it (``advised_at``).
    """

    class Rounding(models.TextChoices):
        CEIL = "CEIL", _("up")
        HALF_UP = "HALF_UP", _("half up")
        FLOOR = "FLOOR", _("down")

    class State(models.TextChoices):
        PROPOSED = "PROPOSED", _("proposed")
        APPROVED = "APPROVED", _("approved")
        REJECTED = "REJECTED", _("rejected")
        WITHDRAWN = "WITHDRAWN", _("withdrawn")

    MOVES: ClassVar = {State.PROPOSED: {State.APPROVED, State.REJECTED, State.WITHDRAWN}}

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    product = models.ForeignKey(
        CouponProduct, models.PROTECT, related_name="ratios", verbose_name=_("coupon product"), db_index=False
    )
    version = models.PositiveIntegerField(_("version"))
    ratio = models.DecimalField(_("points per coupon"), max_digits=14, decimal_places=4)
    rounding = models.CharField(_("rounding"), max_length=7, choices=Rounding, default=Rounding.CEIL)
    valid_from_at = models.DateTimeField(_("valid from"))
    valid_until_at = models.DateTimeField(_("valid until"), null=True, blank=True)
    state = models.CharField(_("state"), max_length=9, choices=State, default=State.PROPOSED, editable=False)
    made_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", verbose_name=_("proposed by")
    )
    approved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("decided by")
    )
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    recorded_at = models.DateTimeField(_("recorded at"))
    decided_at = models.DateTimeField(_("decided at"), null=True)
    advised_at = models.DateTimeField(_("known to the points system since"), null=True)

    class Meta:
        verbose_name = _("exchange ratio")
        verbose_name_plural = _("exchange ratios")
        constraints = [
            models.UniqueConstraint("product", "version", name="versions_of_a_ratio_are_numbered"),
            # Of two versions in force from the same moment nobody could say which holds.
            models.UniqueConstraint(
                "product",
                "valid_from_at",
                name="one_approved_ratio_per_product_and_moment",
                condition=Q(state="APPROVED"),
            ),
            models.CheckConstraint(name="a_ratio_is_positive", condition=Q(ratio__gt=0)),
            models.CheckConstraint(
                name="a_ratio_ends_after_it_begins",
                condition=Q(valid_until_at__isnull=True) | Q(valid_until_at__gt=F("valid_from_at")),
            ),
            models.CheckConstraint(
                name="who_proposes_a_ratio_never_approves_it",
                condition=Q(approved_by__isnull=True) | ~Q(approved_by=F("made_by")),
            ),
            models.CheckConstraint(
                name="an_approved_ratio_says_by_whom",
                condition=~Q(state="APPROVED") | Q(approved_by__isnull=False, decided_at__isnull=False),
            ),
        ]
        indexes = [models.Index("id", name="ratios_waiting", condition=Q(state="PROPOSED"))]

    def __str__(self) -> str:
        return f"v{self.version}"


class PointsAccount(models.Model):
    """A credit-card points account as we know it: its number sealed, found by a keyed hash, four digits shown."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    number_hash = models.CharField(max_length=32, unique=True, editable=False)
    number_sealed = models.BinaryField(editable=False)
    last4 = models.CharField(_("last four"), max_length=4)
    # A customer of the demonstration signs in with this; a bank's own customers come signed in from the bank.
    password = models.CharField(max_length=128, blank=True, editable=False)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("points account")
        verbose_name_plural = _("points accounts")

    def __str__(self) -> str:
        return f"…{self.last4}"


class ExchangeQuote(models.Model):
    """Points needed for a number of coupons, rounded once on the total; good once, until it expires."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    account = models.ForeignKey(PointsAccount, models.PROTECT, verbose_name=_("points account"))
    product = models.ForeignKey(CouponProduct, models.PROTECT, verbose_name=_("coupon product"))
    ratio = models.ForeignKey(ExchangeRatio, models.PROTECT, verbose_name=_("exchange ratio"))
    count = models.PositiveIntegerField(_("coupons"))
    points = models.BigIntegerField(_("points"))
    expires_at = models.DateTimeField(_("expires at"))
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("exchange quote")
        verbose_name_plural = _("exchange quotes")
        constraints = [
            models.CheckConstraint(name="a_quote_is_for_something", condition=Q(count__gt=0, points__gt=0)),
        ]

    def __str__(self) -> str:
        return f"{self.count} → {self.points}"


class Exchange(Handshake, Moving):
    """A quote submitted: stock is reserved, the deduction is asked for once, the outcome is settled or asked about.

    PENDING    owed: committed, not sent
    UNKNOWN    sent, no answer that can be believed yet
    ISSUED     deducted, and the coupons made, in one commit
    REJECTED   the points system said no
    REVERSING  given up: the reversal is sent until it is acknowledged; a success that arrives now changes nothing
    REVERSED   nothing was deducted, or it was given back
    UNRESOLVED after the last try; waits for staff
    """

    class State(models.TextChoices):
        PENDING = "PENDING", _("owed")
        UNKNOWN = "UNKNOWN", _("sent, outcome unknown")
        ISSUED = "ISSUED", _("issued")
        REJECTED = "REJECTED", _("rejected")
        REVERSING = "REVERSING", _("being reversed")
        REVERSED = "REVERSED", _("reversed")
        UNRESOLVED = "UNRESOLVED", _("unresolved")

    MOVES: ClassVar = {
        State.PENDING: {State.UNKNOWN},
        State.UNKNOWN: {State.ISSUED, State.REJECTED, State.REVERSING},
        State.REVERSING: {State.REVERSED, State.UNRESOLVED},
        State.UNRESOLVED: {State.REVERSING, State.REVERSED, State.ISSUED},
        State.ISSUED: set(),
        State.REJECTED: set(),
        State.REVERSED: set(),
    }

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Not ``unique=True``, which would add a second index for prefixes: every index is written again with every move.
    request_no = models.CharField(max_length=22, default=new_request_no, editable=False)
    quote = models.OneToOneField(ExchangeQuote, models.PROTECT, related_name="exchange", verbose_name=_("quote"))
    account = models.ForeignKey(PointsAccount, models.PROTECT, verbose_name=_("points account"), db_index=False)
    product = models.ForeignKey(CouponProduct, models.PROTECT, verbose_name=_("coupon product"), db_index=False)
    merchant = models.ForeignKey(Merchant, models.PROTECT, verbose_name=_("merchant"), db_index=False)
    reference = models.CharField(_("reference"), max_length=64)
    count = models.PositiveIntegerField(_("coupons"))
    points = models.BigIntegerField(_("points"))
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.PENDING)
    reversal_request_no = models.CharField(max_length=22, null=True, editable=False)
    bank_reference = models.CharField(_("the bank's reference"), max_length=40, blank=True)
    refusal_code = models.CharField(_("refusal code"), max_length=20, blank=True)
    incident = models.CharField(_("incident"), max_length=300, blank=True)
    # When the points system booked the deduction: the business date on which both books must have it.
    accounting_date = models.DateField(_("accounting date"), null=True)
    # What its answer to the reversal said; no points where nothing had been taken.
    reversed_points = models.BigIntegerField(_("points given back"), null=True)
    reversal_reference = models.CharField(_("the bank's reference of the reversal"), max_length=40, blank=True)
    reversal_date = models.DateField(_("accounting date of the reversal"), null=True)
    submitted_at = models.DateTimeField(_("submitted at"))
    issued_at = models.DateTimeField(_("issued at"), null=True)
    reversed_at = models.DateTimeField(_("reversed at"), null=True)
    # Settled by hand: proposed by one, done by another.
    settlement = models.CharField(_("settlement proposed"), max_length=10, blank=True)
    settlement_reason = models.CharField(_("reason of the settlement"), max_length=300, blank=True)
    settlement_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        related_name="+",
        db_index=False,
        verbose_name=_("settlement proposed by"),
    )
    settlement_at = models.DateTimeField(_("settlement proposed at"), null=True)
    settled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        related_name="+",
        db_index=False,
        verbose_name=_("settled by"),
    )

    class Meta:
        verbose_name = _("exchange")
        verbose_name_plural = _("exchanges")
        constraints = [
            models.UniqueConstraint("request_no", name="one_exchange_per_request"),
            models.UniqueConstraint("merchant", "reference", name="one_exchange_per_reference"),
            # Only where there is one: every index is written again with every move, and few are ever reversed.
            models.UniqueConstraint(
                fields=["reversal_request_no"],
                name="one_exchange_per_reversal",
                condition=Q(reversal_request_no__isnull=False),
            ),
            # The pair that Coupon's key points at: coupons exist only while their exchange is ISSUED.
            models.UniqueConstraint("id", "state", name="an_exchange_is_known_by_its_state"),
            # A point is either spent or given back.
            models.CheckConstraint(
                name="issued_and_reversed_exclude_each_other",
                condition=Q(issued_at__isnull=True)
                | Q(reversed_at__isnull=True, reversal_request_no__isnull=True)
                | Q(settled_by__isnull=False, reversed_at__isnull=True),
            ),
            models.CheckConstraint(
                name="an_issued_exchange_has_a_moment_and_the_banks_reference",
                condition=Q(state="ISSUED", issued_at__isnull=False) & ~Q(bank_reference="")
                | ~Q(state="ISSUED") & Q(issued_at__isnull=True),
            ),
            models.CheckConstraint(
                name="a_reversal_has_a_number",
                condition=~Q(state__in=["REVERSING", "REVERSED"]) | Q(reversal_request_no__isnull=False),
            ),
            models.CheckConstraint(
                name="a_reversed_exchange_has_a_moment",
                condition=Q(state="REVERSED", reversed_at__isnull=False)
                | ~Q(state="REVERSED") & Q(reversed_at__isnull=True),
            ),
            models.CheckConstraint(
                name="who_proposes_a_settlement_never_does_it",
                # Nor does anybody settle what nobody proposed.
                condition=Q(settled_by__isnull=True)
                | Q(settlement_by__isnull=False) & ~Q(settled_by=F("settlement_by")),
            ),
        ]
        indexes = [
            # By state, so that a heap in one state is not waded through for what is due in another.
            models.Index("state", "due_at", name="exchanges_due", condition=Q(due_at__isnull=False)),
            # Whoever was asked for just now may be waiting still.
            models.Index("sent_at", name="exchanges_sent_lately", condition=Q(state="UNKNOWN")),
            models.Index("merchant", "id", name="exchanges_of_merchant"),
            models.Index("account", "product", "submitted_at", name="exchanges_of_account"),
            models.Index("id", name="exchanges_unresolved", condition=Q(state="UNRESOLVED")),
            models.Index("id", name="settlements_waiting", condition=Q(state="UNRESOLVED") & ~Q(settlement="")),
            models.Index("id", name="exchanges_with_incidents", condition=~Q(incident="")),
            models.Index("accounting_date", name="deductions_of_a_date", condition=Q(accounting_date__isnull=False)),
            models.Index("reversal_date", name="reversals_of_a_date", condition=Q(reversal_date__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.count} {self.state}"


class Coupon(Moving):
    """One e-coupon. The code is found by a keyed hash and sealed for its buyer; four characters are shown."""

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", _("active")
        REDEEMED = "REDEEMED", _("redeemed")
        RETURNING = "RETURNING", _("being returned")
        RETURNED = "RETURNED", _("returned for points")
        FROZEN = "FROZEN", _("frozen")
        VOID = "VOID", _("void")
        EXPIRED = "EXPIRED", _("expired")
        REISSUED = "REISSUED", _("replaced by a new code")

    MOVES: ClassVar = {
        State.ACTIVE: {
            State.REDEEMED, State.RETURNING, State.FROZEN, State.VOID, State.EXPIRED, State.REISSUED,
        },
        State.RETURNING: {State.RETURNED, State.ACTIVE},
        State.FROZEN: {State.ACTIVE, State.VOID},
        State.EXPIRED: {State.ACTIVE},
        State.REDEEMED: set(),
        State.RETURNED: set(),
        State.VOID: set(),
        State.REISSUED: set(),
    }  # fmt: skip

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # The key "coupons_only_of_issued_exchanges" points there already, and every coupon made would be checked twice.
    exchange = models.ForeignKey(
        Exchange,
        models.PROTECT,
        related_name="coupons",
        verbose_name=_("exchange"),
        db_index=False,
        db_constraint=False,
    )
    ordinal = models.PositiveIntegerField(_("no."))
    generation = models.PositiveSmallIntegerField(_("generation"), default=1)
    # The generation of a code that was replaced; 0 of the one that counts.
    replaced = models.GeneratedField(
        expression=Case(When(state="REISSUED", then=F("generation")), default=Value(0)),
        output_field=models.PositiveSmallIntegerField(),
        db_persist=True,
    )
    product = models.ForeignKey(CouponProduct, models.PROTECT, verbose_name=_("coupon product"), db_index=False)
    merchant = models.ForeignKey(Merchant, models.PROTECT, verbose_name=_("merchant"), db_index=False)
    account = models.ForeignKey(
        PointsAccount, models.PROTECT, related_name="coupons", verbose_name=_("points account"), db_index=False
    )
    code_hash = models.CharField(max_length=32, editable=False)
    code_sealed = models.BinaryField(editable=False)
    last4 = models.CharField(_("last four"), max_length=4)
    face_value = models.BigIntegerField(_("face value"))
    state = models.CharField(_("state"), max_length=9, choices=State, default=State.ACTIVE)
    issued_at = models.DateTimeField(_("issued at"))
    expires_at = models.DateTimeField(_("expires at"))
    redeemed_at = models.DateTimeField(_("redeemed at"), null=True)
    redeemed_reference = models.CharField(_("merchant's reference"), max_length=64, blank=True)
    store = models.CharField(_("store"), max_length=32, blank=True)
    points_return = models.ForeignKey(
        "PointsReturn",
        models.PROTECT,
        null=True,
        related_name="coupons",
        verbose_name=_("return"),
        db_index=False,
    )

    class Meta:
        verbose_name = _("coupon")
        verbose_name_plural = _("coupons")
        constraints = [
            # Not ``unique=True``, which would add a second index for prefixes of hashes.
            models.UniqueConstraint("code_hash", name="a_code_is_one_coupon_s"),
            # Exactly the number bought: a second making of the same coupon finds it there. A replaced code is the same
            # coupon in an earlier generation.
            models.UniqueConstraint("exchange", "ordinal", "replaced", name="one_live_coupon_per_ordinal"),
            models.UniqueConstraint(
                "merchant",
                "redeemed_reference",
                name="one_redemption_per_reference",
                condition=~Q(redeemed_reference=""),
            ),
            models.CheckConstraint(
                name="a_redeemed_coupon_has_a_moment",
                condition=Q(state="REDEEMED", redeemed_at__isnull=False)
                | ~Q(state="REDEEMED") & Q(redeemed_at__isnull=True),
            ),
            models.CheckConstraint(
                name="a_returned_coupon_names_its_return",
                condition=Q(state__in=["RETURNING", "RETURNED"], points_return__isnull=False)
                | ~Q(state__in=["RETURNING", "RETURNED"]),
            ),
        ]
        indexes = [
            models.Index("expires_at", name="coupons_expiring", condition=Q(state="ACTIVE")),
            models.Index("merchant", "id", name="coupons_of_merchant"),
            models.Index("points_return", name="coupons_of_a_return", condition=Q(points_return__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"…{self.last4}"


class CouponMove(models.Model):
    """What happened to a coupon besides its making: by whom, when, why; so is reading its code. Append-only."""

    coupon = models.ForeignKey(Coupon, models.PROTECT, related_name="moves", verbose_name=_("coupon"))
    what = models.CharField(_("what"), max_length=12)
    from_state = models.CharField(_("from"), max_length=9, choices=Coupon.State)
    to_state = models.CharField(_("to"), max_length=9, choices=Coupon.State)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    by = models.CharField(_("by"), max_length=60)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("coupon move")
        verbose_name_plural = _("coupon moves")

    def __str__(self) -> str:
        return self.what


class PointsReturn(Handshake, Moving):
    """Points given back for unused coupons: the coupons are held, the points come back, then the coupons end."""

    class State(models.TextChoices):
        PENDING = "PENDING", _("owed")
        UNKNOWN = "UNKNOWN", _("sent, outcome unknown")
        RETURNED = "RETURNED", _("returned")
        REJECTED = "REJECTED", _("rejected")
        UNRESOLVED = "UNRESOLVED", _("unresolved")

    MOVES: ClassVar = {
        State.PENDING: {State.UNKNOWN},
        State.UNKNOWN: {State.RETURNED, State.REJECTED, State.UNRESOLVED},
        State.UNRESOLVED: {State.UNKNOWN, State.RETURNED, State.REJECTED},
    }

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    exchange = models.ForeignKey(Exchange, models.PROTECT, related_name="returns", verbose_name=_("exchange"))
    merchant = models.ForeignKey(Merchant, models.PROTECT, verbose_name=_("merchant"))
    count = models.PositiveIntegerField(_("coupons"))
    points = models.BigIntegerField(_("points"))
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.PENDING)
    bank_reference = models.CharField(_("the bank's reference"), max_length=40, blank=True)
    accounting_date = models.DateField(_("accounting date"), null=True)
    refusal_code = models.CharField(_("refusal code"), max_length=20, blank=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    by = models.CharField(_("by"), max_length=60)
    recorded_at = models.DateTimeField(_("recorded at"))
    returned_at = models.DateTimeField(_("returned at"), null=True)

    class Meta:
        verbose_name = _("return of points")
        verbose_name_plural = _("returns of points")
        constraints = [
            models.CheckConstraint(name="a_return_gives_something_back", condition=Q(count__gt=0, points__gte=0)),
            models.CheckConstraint(
                name="a_done_return_has_a_moment",
                condition=Q(state="RETURNED", returned_at__isnull=False)
                | ~Q(state="RETURNED") & Q(returned_at__isnull=True),
            ),
        ]
        indexes = [
            models.Index("due_at", name="returns_due", condition=Q(due_at__isnull=False)),
            models.Index("accounting_date", name="returns_of_a_date", condition=Q(accounting_date__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.points} {self.state}"


class Repair(Handshake, Moving):
    """What was done about a break with the points system: once of each kind, however often it is asked for.

    ASK_AGAIN  what is open is asked about, or sent again, now
    REVERSE    points were taken for which there are no coupons: they are given back, under this row's request number
    RESUBMIT   the points system does not know a message that we hold as answered: the very same is sent again
    FREEZE     the coupons of the exchange are not redeemed until it is understood
    UNFREEZE   it is: the coupons that were frozen are good again

    REVERSE and RESUBMIT are messages; the others are DONE when they are recorded. ``by`` is empty for the clock.
    """

    class What(models.TextChoices):
        ASK_AGAIN = "ASK_AGAIN", _("ask again")
        REVERSE = "REVERSE", _("reverse the deduction")
        RESUBMIT = "RESUBMIT", _("send again")
        FREEZE = "FREEZE", _("freeze the coupons")
        UNFREEZE = "UNFREEZE", _("free the coupons")

    class State(models.TextChoices):
        PENDING = "PENDING", _("owed")
        UNKNOWN = "UNKNOWN", _("sent, outcome unknown")
        DONE = "DONE", _("done")
        REJECTED = "REJECTED", _("rejected")
        UNRESOLVED = "UNRESOLVED", _("unresolved")

    MOVES: ClassVar = {
        State.PENDING: {State.UNKNOWN},
        State.UNKNOWN: {State.DONE, State.REJECTED, State.UNRESOLVED},
        State.UNRESOLVED: {State.UNKNOWN},
    }

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    found = models.ForeignKey(Break, models.PROTECT, related_name="repairs", verbose_name=_("break"))
    what = models.CharField(_("what"), max_length=9, choices=What)
    state = models.CharField(_("state"), max_length=10, choices=State)
    exchange = models.ForeignKey(
        Exchange, models.PROTECT, null=True, related_name="repairs", verbose_name=_("exchange")
    )
    points_return = models.ForeignKey(
        PointsReturn, models.PROTECT, null=True, related_name="repairs", verbose_name=_("return")
    )
    original = models.CharField(_("request no."), max_length=64)
    points = models.BigIntegerField(_("points"))
    reason = models.CharField(_("reason"), max_length=200)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("by"))
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("owner of the break")
    )
    bank_reference = models.CharField(_("the bank's reference"), max_length=40, blank=True)
    accounting_date = models.DateField(_("accounting date"), null=True)
    refusal_code = models.CharField(_("refusal code"), max_length=20, blank=True)
    recorded_at = models.DateTimeField(_("recorded at"))
    done_at = models.DateTimeField(_("done at"), null=True)

    class Meta:
        verbose_name = _("repair")
        verbose_name_plural = _("repairs")
        constraints = [
            models.UniqueConstraint("found", "what", name="a_break_is_repaired_once_in_each_way"),
            # Two breaks may speak of one deduction; its points go back once.
            models.UniqueConstraint(
                "original", name="a_deduction_is_reversed_by_one_repair", condition=Q(what="REVERSE")
            ),
            models.CheckConstraint(
                name="who_took_a_large_break_never_moves_its_points",
                condition=~Q(what__in=["REVERSE", "RESUBMIT", "UNFREEZE"])
                | Q(points__lt=FOUR_EYES_FROM_POINTS)
                | Q(owner__isnull=False, by__isnull=False) & ~Q(owner=F("by")),
            ),
            models.CheckConstraint(
                name="a_done_repair_has_a_moment",
                condition=Q(state="DONE", done_at__isnull=False) | ~Q(state="DONE") & Q(done_at__isnull=True),
            ),
        ]
        indexes = [models.Index("due_at", name="repairs_due", condition=Q(due_at__isnull=False))]

    def __str__(self) -> str:
        return f"{self.what} {self.state}"


class Inquiry(models.Model):
    """Exchanges that somebody is asking about now: nobody else does, until he is done or that moment has passed.

    One row for all of them. Had each its own mark, the heap that an outage leaves would be written once more.
    """

    exchanges = ArrayField(models.UUIDField())
    until_at = models.DateTimeField()

    class Meta:
        verbose_name = _("inquiry")
        verbose_name_plural = _("inquiries")

    def __str__(self) -> str:
        return f"{len(self.exchanges)}"


class _PointsMessages(models.QuerySet["PointsMessage"]):
    def about(self, exchange: Exchange) -> "_PointsMessages":
        """Those that speak of an exchange, in turn: of it alone, or of many others too."""
        return self.filter(Q(exchange=exchange) | Q(exchanges__contains=[exchange.pk])).order_by("pk")


class PointsMessage(models.Model):
    """A message to or from the points system, as it stood on the wire. A message of theirs acts once."""

    class Direction(models.TextChoices):
        SENT = "SENT", _("sent")
        RECEIVED = "RECEIVED", _("received")

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    direction = models.CharField(_("direction"), max_length=8, choices=Direction)
    message_id = models.CharField(_("message id"), max_length=64)
    type = models.CharField(_("type"), max_length=20)
    request_no = models.CharField(_("request no."), max_length=64)
    in_reply_to = models.CharField(_("in reply to"), max_length=64, blank=True)
    exchange = models.ForeignKey(
        Exchange, models.PROTECT, null=True, related_name="messages", verbose_name=_("exchange")
    )
    # A question about many is kept once; whose it is besides is found by an index.
    exchanges = ArrayField(models.UUIDField(), default=list, editable=False)
    headers = models.JSONField(_("headers"), default=dict)
    # As it stood on the wire, with the account's number in it, so the database alone must not tell it.
    body = SealedField(_("body"), setting="COUPON_CODE_KEYS", purpose="points message")
    status = models.PositiveSmallIntegerField(_("HTTP status"), null=True)
    problem = models.CharField(_("problem"), max_length=200, blank=True)
    is_test = models.BooleanField(_("test"), default=False)
    recorded_at = models.DateTimeField(_("recorded at"))

    objects = _PointsMessages.as_manager()

    class Meta:
        verbose_name = _("message of the points system")
        verbose_name_plural = _("messages of the points system")
        constraints = [
            models.UniqueConstraint("direction", "message_id", name="one_points_message_acts_once"),
        ]
        indexes = [
            models.Index("request_no", name="points_messages_by_request"),
            GinIndex("exchanges", name="points_messages_about_many"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.message_id}"


class WrongGuess(models.Model):
    """A coupon code, card number or password that was wrong, and whose guess it was."""

    class What(models.TextChoices):
        COUPON = "COUPON", _("coupon code")
        PASSWORD = "PASSWORD", _("password")
        CARD = "CARD", _("card number")

    what = models.CharField(_("what"), max_length=8, choices=What)
    subject = models.CharField(_("guessed by"), max_length=80)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("wrong guess")
        verbose_name_plural = _("wrong guesses")
        indexes = [
            models.Index("what", "subject", "recorded_at", name="guesses_of_somebody"),
            models.Index("recorded_at", name="guesses_by_age"),
        ]

    def __str__(self) -> str:
        return self.subject
