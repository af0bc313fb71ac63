"""Cards, their ledger and what is found when it is reconciled (the patent's processing module, 处理模块).

NetworkAccount (网络账户)  links the sub-cards of a holder into prepaid cards
Card (预付卡)              one prepaid card: what the holder has in hand
Load (充值)               one amount paid: PURCHASE opens a card, TOP_UP adds to it; has paid, face and remaining
SubCard (子卡)            a part of a load, none above the limit of one card
Transaction (交易)        what happened, with the balance after it: the dynamic consumption information (动态消费信息)
Entry (明细)              what it did to one sub-card
RefusedPayment            a line of a file of payments that did not become a transaction
Run, Break (对账, 差异)    a reconciliation of one business date and what did not agree
PartnerFile               the partner's file that was compared, whole
Hold (暂停发送)            nothing is sent to a partner until it is known what it already did

Balances (``remaining``) are written only by the functions of ``prepaid/sql/ledger.sql``: the role the application
runs under has neither UPDATE on them nor INSERT on loads, sub-cards, transactions and entries.
"""

from typing import Any, ClassVar

from django.conf import settings
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from config.ids import new_id
from config.states import Moving
from issuing.models import Batch, CardProgram, Kind, Merchant, PaymentMethod, Unit


def _copied(to: type[models.Model], **options: Any) -> "models.ForeignKey[Any, Any]":
    """A key that the ledger copies from the row above, whose own key is checked.

    Only the ledger's functions write these tables, so a check here would check their own copying, once per row; and
    each check of a merchant locks the one row that all its payments share. An index that begins with it stands in
    the model's Meta.
    """
    return models.ForeignKey(to, models.PROTECT, db_constraint=False, db_index=False, **options)


class NetworkAccount(models.Model):
    """A holder at a merchant. ``holder_key`` is a hash of name and phone, random for an unnamed holder."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    merchant = models.ForeignKey(Merchant, models.PROTECT, verbose_name=_("merchant"))
    holder_key = models.CharField(max_length=32, editable=False)
    holder_name = models.CharField(_("holder"), max_length=60, blank=True)
    phone = models.CharField(_("phone"), max_length=20, blank=True)
    is_organisation = models.BooleanField(_("organisation"), default=False)
    id_number_sealed = models.BinaryField(null=True, editable=False)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("network account")
        verbose_name_plural = _("network accounts")
        constraints = [models.UniqueConstraint("merchant", "holder_key", name="one_network_account_per_holder")]
        indexes = [models.Index("phone", name="accounts_by_phone", condition=~Q(phone=""))]

    def __str__(self) -> str:
        return self.holder_name[:1] + "*" if self.holder_name else "–"


class Card(Moving):
    """One prepaid card. ``remaining`` is in ``unit``: fen, uses, or days bought and not taken off.

    The number itself is not stored in the clear: ``number_hash`` finds it, ``number_sealed`` gives it back to
    those who may read it, ``last4`` is shown.
    """

    class State(models.TextChoices):
        ACTIVE = "ACTIVE", _("active")
        FROZEN = "FROZEN", _("frozen")
        LOST = "LOST", _("reported lost")
        CLAIMED = "CLAIMED", _("frozen by a claim")
        COMPENSATED = "COMPENSATED", _("compensated")
        CLOSED = "CLOSED", _("closed")

    MOVES: ClassVar = {
        State.ACTIVE: {State.FROZEN, State.LOST, State.CLAIMED, State.CLOSED},
        State.FROZEN: {State.ACTIVE, State.LOST, State.CLAIMED, State.CLOSED},
        State.LOST: {State.ACTIVE, State.FROZEN, State.CLAIMED},
        # A rejected claim leaves the card as it found it.
        State.CLAIMED: {State.ACTIVE, State.FROZEN, State.LOST, State.COMPENSATED},
        # A refund that comes late, from before the loss, puts value back: it is claimed by a supplement.
        State.COMPENSATED: {State.CLAIMED},
        State.CLOSED: set(),
    }

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    merchant = models.ForeignKey(Merchant, models.PROTECT, db_index=False, verbose_name=_("merchant"))
    program = models.ForeignKey(CardProgram, models.PROTECT, verbose_name=_("card program"))
    network_account = models.ForeignKey(NetworkAccount, models.PROTECT, verbose_name=_("network account"))
    batch = models.ForeignKey(Batch, models.PROTECT, null=True, verbose_name=_("batch"))
    kind = models.CharField(_("kind"), max_length=12, choices=Kind)
    unit = models.CharField(_("unit"), max_length=5, choices=Unit)
    number_hash = models.CharField(max_length=32, editable=False)
    last4 = models.CharField(_("last four"), max_length=4)
    number_sealed = models.BinaryField(editable=False)
    state = models.CharField(_("state"), max_length=11, choices=State, default=State.ACTIVE)
    remaining = models.BigIntegerField(_("remaining"))
    awaits_cover = models.BooleanField(_("waits for cover"), default=False)
    expires_on_date = models.DateField(_("expires on"), null=True)
    loss_at = models.DateTimeField(_("loss at"), null=True)
    opened_at = models.DateTimeField(_("opened at"))
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("card")
        verbose_name_plural = _("cards")
        constraints = [
            # As a constraint, not as ``unique=True``: that would add a second index for prefixes, and nobody looks for
            # the beginning of a hash.
            models.UniqueConstraint("number_hash", name="a_number_is_one_card_s"),
            # The ledger draws under the card's lock; this is the net below it.
            models.CheckConstraint(name="a_card_never_goes_below_zero", condition=Q(remaining__gte=0)),
            # A compensated one may: what was paid in after the loss is no loss and stays owed by the merchant.
            models.CheckConstraint(name="a_closed_card_holds_nothing", condition=~Q(state="CLOSED") | Q(remaining=0)),
            models.CheckConstraint(
                name="a_claimed_card_has_a_moment_of_loss",
                condition=~Q(state__in=["CLAIMED", "COMPENSATED"]) | Q(loss_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index("merchant", "id", name="cards_of_merchant"),
            models.Index("last4", name="cards_by_last4"),
            # For “expiring in 30 days”: few of a million.
            models.Index("expires_on_date", name="cards_by_expiry"),
            # Staff look for the few that are not active among the many that are.
            models.Index("state", "id", name="cards_not_active", condition=~Q(state="ACTIVE")),
        ]

    def __str__(self) -> str:
        return f"…{self.last4}"


class RetiredNumber(models.Model):
    """The number of a lost card that was replaced: dead for ever, and never given out again."""

    number_hash = models.CharField(primary_key=True, max_length=32, editable=False)
    card = models.ForeignKey(Card, models.PROTECT, related_name="retired_numbers", verbose_name=_("card"))
    last4 = models.CharField(_("last four"), max_length=4)
    reason = models.CharField(_("reason"), max_length=200)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("retired number")
        verbose_name_plural = _("retired numbers")

    def __str__(self) -> str:
        return f"…{self.last4}"


class CardMove(models.Model):
    """A change of a card's state: by whom, when and why. Append-only."""

    card = models.ForeignKey(Card, models.PROTECT, related_name="moves", verbose_name=_("card"))
    from_state = models.CharField(_("from"), max_length=11, choices=Card.State)
    to_state = models.CharField(_("to"), max_length=11, choices=Card.State)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    by = models.CharField(_("by"), max_length=60)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("card move")
        verbose_name_plural = _("card moves")

    def __str__(self) -> str:
        return f"{self.from_state} → {self.to_state}"


class Load(models.Model):
    """One amount paid. Refundable principal of a load = paid × remaining / face.

    For a card counted in DAYS the load runs from ``starts_on_date`` for ``face`` days; its ``remaining`` stays at
    ``face`` until value is taken off by closing or compensation, and what was served follows from the date.
    """

    class Kind(models.TextChoices):
        PURCHASE = "PURCHASE", _("purchase")
        TOP_UP = "TOP_UP", _("top-up")

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    card = models.ForeignKey(Card, models.PROTECT, db_index=False, related_name="loads", verbose_name=_("card"))
    merchant = _copied(Merchant, verbose_name=_("merchant"))
    seq = models.SmallIntegerField(_("no."))
    kind = models.CharField(_("kind"), max_length=8, choices=Kind)
    reference = models.CharField(_("reference"), max_length=64)
    paid = models.BigIntegerField(_("paid"))
    bonus = models.BigIntegerField(_("bonus"))
    face = models.BigIntegerField(_("face"))
    remaining = models.BigIntegerField(_("remaining"))
    payment_method = models.CharField(_("payment method"), max_length=16, choices=PaymentMethod)
    starts_on_date = models.DateField(_("starts on"))
    occurred_at = models.DateTimeField(_("occurred at"))
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("load")
        verbose_name_plural = _("loads")
        constraints = [
            models.UniqueConstraint("card", "seq", name="loads_of_a_card_are_numbered"),
            # The merchant's own reference is used once, for ever: a second card for one purchase would be free money.
            models.UniqueConstraint("merchant", "kind", "reference", name="one_load_per_reference"),
            models.CheckConstraint(
                name="a_load_holds_between_nothing_and_its_face",
                condition=Q(paid__gt=0, face__gt=0, bonus__gte=0, remaining__gte=0, remaining__lte=F("face")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.seq}"


class SubCard(models.Model):
    """A part of a load, numbered through the card. Nothing is ever added above its face.

    Sub-cards are found by their card, never by their load alone, and entries by their card or their transaction: an
    index for more would be paid for by every card and every payment.
    """

    id = models.BigAutoField(primary_key=True)
    card = _copied(Card, related_name="sub_cards", verbose_name=_("card"))
    load = models.ForeignKey(Load, models.PROTECT, db_index=False, related_name="sub_cards", verbose_name=_("load"))
    seq = models.SmallIntegerField(_("no."))
    paid = models.BigIntegerField(_("paid"))
    face = models.BigIntegerField(_("face"))
    remaining = models.BigIntegerField(_("remaining"))

    class Meta:
        verbose_name = _("sub-card")
        verbose_name_plural = _("sub-cards")
        constraints = [
            models.UniqueConstraint("card", "seq", name="sub_cards_of_a_card_are_numbered"),
            models.CheckConstraint(
                name="a_sub_card_holds_between_nothing_and_its_face",
                condition=Q(paid__gte=0, face__gte=0, remaining__gte=0, remaining__lte=F("face")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.seq}"


class Transaction(models.Model):
    """What happened to a card, with the balance after it. Append-only, by trigger and by privilege.

    ``amount`` is what it did to the card's balance, signed, in ``unit``; ``list_amount`` the price before any
    discount, in fen; ``principal`` and ``gift`` how the amount divides (``principal`` in fen for every unit).
    """

    class Kind(models.TextChoices):
        PURCHASE = "PURCHASE", _("purchase")
        TOP_UP = "TOP_UP", _("top-up")
        PAYMENT = "PAYMENT", _("payment")
        REFUND = "REFUND", _("refund")
        REVERSAL = "REVERSAL", _("reversal")
        CLOSURE = "CLOSURE", _("closure")
        COMPENSATION = "COMPENSATION", _("compensation")
        COMPENSATION_CORRECTION = "COMPENSATION_CORRECTION", _("correction of a compensation")

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    card = models.ForeignKey(Card, models.PROTECT, db_index=False, related_name="transactions", verbose_name=_("card"))
    merchant = _copied(Merchant, verbose_name=_("merchant"))
    kind = models.CharField(_("kind"), max_length=23, choices=Kind)
    original = models.ForeignKey(
        "self",
        models.PROTECT,
        null=True,
        db_index=False,
        related_name="returns",
        verbose_name=_("original transaction"),
    )
    unit = models.CharField(_("unit"), max_length=5, choices=Unit)
    list_amount = models.BigIntegerField(_("list amount"), null=True)
    charged_amount = models.BigIntegerField(_("charged amount"), null=True)
    amount = models.BigIntegerField(_("amount"))
    principal = models.BigIntegerField(_("principal part"))
    gift = models.BigIntegerField(_("gift part"))
    usable_after = models.BigIntegerField(_("usable after"))
    refundable_after = models.BigIntegerField(_("refundable principal after"))
    reference = models.CharField(_("reference"), max_length=64)
    store = models.CharField(_("store"), max_length=32, blank=True)
    idempotency_key = models.CharField(max_length=255, null=True, editable=False)
    fingerprint = models.CharField(max_length=64, blank=True, editable=False)
    occurred_at = models.DateTimeField(_("occurred at"))
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("transaction")
        verbose_name_plural = _("transactions")
        constraints = [
            models.UniqueConstraint("merchant", "kind", "reference", name="one_transaction_per_reference"),
            models.UniqueConstraint(
                "merchant",
                "idempotency_key",
                name="one_transaction_per_idempotency_key",
                condition=Q(idempotency_key__isnull=False),
            ),
            models.CheckConstraint(
                name="a_return_names_what_it_returns",
                condition=Q(kind__in=["REFUND", "REVERSAL", "COMPENSATION_CORRECTION"], original__isnull=False)
                | ~Q(kind__in=["REFUND", "REVERSAL", "COMPENSATION_CORRECTION"]) & Q(original__isnull=True),
            ),
        ]
        indexes = [
            models.Index("card", "occurred_at", name="transactions_of_card"),
            models.Index("merchant", "id", name="transactions_of_merchant"),
            # Rows come in the order they are recorded, so a summary of each stretch of pages finds a day.
            BrinIndex("recorded_at", name="transactions_by_recording"),
            models.Index("original", name="returns_of_transaction", condition=Q(original__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.reference}"


class Entry(models.Model):
    """What a transaction did to one sub-card, with the sub-card's balance after it. Append-only."""

    id = models.BigAutoField(primary_key=True)
    transaction = models.ForeignKey(Transaction, models.PROTECT, related_name="entries", verbose_name=_("transaction"))
    card = _copied(Card, verbose_name=_("card"))
    sub_card = models.ForeignKey(
        SubCard, models.PROTECT, db_index=False, related_name="entries", verbose_name=_("sub-card")
    )
    amount = models.BigIntegerField(_("amount"))
    balance_after = models.BigIntegerField(_("balance after"))

    class Meta:
        verbose_name = _("entry")
        verbose_name_plural = _("entries")
        constraints = [models.CheckConstraint(name="an_entry_leaves_no_debt", condition=Q(balance_after__gte=0))]
        indexes = [models.Index("card", "id", name="entries_of_card")]

    def __str__(self) -> str:
        return f"{self.amount}"


class RefusedPayment(models.Model):
    """A line of a file of payments that was refused, once however often the file is read.

    It is the same line if its content is, or if it stands in the same place under the same reference: then it was
    corrected. ``posted_at`` says that a later reading posted it.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    merchant = models.ForeignKey(Merchant, models.PROTECT, null=True, verbose_name=_("merchant"))
    card = models.ForeignKey(Card, models.PROTECT, null=True, related_name="refused_payments", verbose_name=_("card"))
    file = models.CharField(_("file"), max_length=100)
    line = models.PositiveIntegerField(_("line"))
    # As they were given, which may be the reason for the refusal.
    reference = models.CharField(_("reference"), max_length=200)
    purchase_reference = models.CharField(_("reference of the purchase"), max_length=200)
    raw = models.TextField(_("as it stands in the file"))
    fingerprint = models.CharField(max_length=64, editable=False)
    occurred_at = models.DateTimeField(_("occurred at"), null=True)
    refusal = models.CharField(_("refused as"), max_length=40)
    reason = models.CharField(_("reason"), max_length=300)
    recorded_at = models.DateTimeField(_("recorded at"))
    refused_at = models.DateTimeField(_("last refused at"))
    posted_at = models.DateTimeField(_("posted since at"), null=True)

    class Meta:
        verbose_name = _("refused payment")
        verbose_name_plural = _("refused payments")
        constraints = [
            models.UniqueConstraint("file", "fingerprint", name="a_line_is_refused_once_per_file"),
        ]
        indexes = [models.Index("file", "reference", name="refused_payments_by_reference")]

    def __str__(self) -> str:
        return f"{self.reference}"


class StoredAnswer(models.Model):
    """The first answer to an idempotency key, for resources that move on after they are made.

    It is written in the transaction of the effect, so a crash leaves both or neither.
    """

    merchant = models.ForeignKey(Merchant, models.PROTECT)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    # The text that was sent: jsonb would order its members anew.
    body = models.TextField(null=True)
    recorded_at = models.DateTimeField()

    class Meta:
        verbose_name = _("stored answer")
        verbose_name_plural = _("stored answers")
        constraints = [models.UniqueConstraint("merchant", "key", name="one_answer_per_idempotency_key")]
        indexes = [models.Index("recorded_at", name="answers_by_age")]

    def __str__(self) -> str:
        return self.key


class Run(Moving):
    """A reconciliation of one business date with one partner; LEDGER is the ledger against itself."""

    class Partner(models.TextChoices):
        LEDGER = "LEDGER", _("the ledger against itself")
        INSURER = "INSURER", _("the insurer's bordereau")
        POINTS = "POINTS", _("the points system's statement")

    class State(models.TextChoices):
        RUNNING = "RUNNING", _("running")
        DONE = "DONE", _("done")
        FAILED = "FAILED", _("failed")

    MOVES: ClassVar = {
        State.RUNNING: {State.DONE, State.FAILED},
        State.DONE: {State.RUNNING},
        State.FAILED: {State.RUNNING},
    }

    partner = models.CharField(_("with"), max_length=8, choices=Partner)
    business_date = models.DateField(_("business date"))
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.RUNNING)
    due_at = models.DateTimeField(null=True, blank=True, editable=False)
    compared = models.BigIntegerField(_("compared"), default=0)
    totals = models.JSONField(_("totals"), default=dict)
    problem = models.TextField(_("problem"), blank=True)
    started_at = models.DateTimeField(_("started at"))
    finished_at = models.DateTimeField(_("finished at"), null=True)

    class Meta:
        verbose_name = _("reconciliation")
        verbose_name_plural = _("reconciliations")
        constraints = [
            # Once per business date however many clocks run: the second INSERT finds this.
            models.UniqueConstraint("partner", "business_date", name="one_run_per_partner_and_business_date")
        ]

    def __str__(self) -> str:
        return f"{self.partner} {self.business_date}"


class PartnerFile(models.Model):
    """A partner's file of a run's business date, whole and as it was received, also where it was damaged."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    run = models.ForeignKey(Run, models.PROTECT, related_name="files", verbose_name=_("reconciliation"))
    message_id = models.CharField(_("message id"), max_length=64)
    size = models.BigIntegerField(_("size in bytes"), default=0)
    sha256 = models.CharField("SHA-256", max_length=64)
    parts = models.PositiveIntegerField(_("parts"), default=0)
    recorded_at = models.DateTimeField(_("recorded at"))

    class Meta:
        verbose_name = _("partner's file")
        verbose_name_plural = _("partners' files")

    def __str__(self) -> str:
        return f"{self.run} {self.recorded_at:%H:%M:%S}"


class PartnerFilePart(models.Model):
    """A piece of a partner's file, compressed."""

    file = models.ForeignKey(PartnerFile, models.PROTECT, db_index=False)
    seq = models.PositiveIntegerField()
    content = models.BinaryField()

    class Meta:
        verbose_name = _("part of a partner's file")
        verbose_name_plural = _("parts of partners' files")
        constraints = [models.UniqueConstraint("file", "seq", name="parts_of_a_file_are_numbered")]

    def __str__(self) -> str:
        return f"{self.seq}"


class Break(Moving):
    """Something that did not agree. A re-run finds the same break again and leaves it as staff left it."""

    class Type(models.TextChoices):
        AMOUNT_DIFFERS = "AMOUNT_DIFFERS", _("amount differs")
        STATE_DIFFERS = "STATE_DIFFERS", _("state differs")
        LOCAL_ONLY = "LOCAL_ONLY", _("only here")
        PARTNER_ONLY = "PARTNER_ONLY", _("only at the partner")
        CUT_OFF = "CUT_OFF", _("carried over the cut-off")
        TOTALS_DIFFER = "TOTALS_DIFFER", _("totals differ")
        BALANCE_DIFFERS = "BALANCE_DIFFERS", _("balance differs from entries")

    class State(models.TextChoices):
        OPEN = "OPEN", _("open")
        RESOLVED = "RESOLVED", _("resolved")

    MOVES: ClassVar = {State.OPEN: {State.RESOLVED}, State.RESOLVED: {State.OPEN}}

    run = models.ForeignKey(Run, models.PROTECT, related_name="breaks", verbose_name=_("reconciliation"))
    type = models.CharField(_("type"), max_length=15, choices=Type)
    subject = models.CharField(_("subject"), max_length=80)
    merchant = models.ForeignKey(Merchant, models.PROTECT, null=True, verbose_name=_("merchant"))
    card = models.ForeignKey(Card, models.PROTECT, null=True, verbose_name=_("card"))
    ours = models.JSONField(_("ours"), null=True)
    theirs = models.JSONField(_("theirs"), null=True)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.OPEN)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("owner"),
    )
    resolution = models.CharField(_("resolution"), max_length=300, blank=True)
    resolved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("resolved by")
    )
    recorded_at = models.DateTimeField(_("recorded at"))
    resolved_at = models.DateTimeField(_("resolved at"), null=True)

    class Meta:
        verbose_name = _("break")
        verbose_name_plural = _("breaks")
        constraints = [
            models.UniqueConstraint("run", "type", "subject", name="a_break_is_found_once_per_run"),
            models.CheckConstraint(
                name="a_resolved_break_says_by_whom_and_how",
                # What was carried over the cut-off is resolved by the next day's file, not by a person.
                condition=Q(state="OPEN")
                | (Q(resolved_by__isnull=False) | Q(type="CUT_OFF")) & Q(resolved_at__isnull=False) & ~Q(resolution=""),
            ),
        ]
        indexes = [
            models.Index("id", name="breaks_open", condition=Q(state="OPEN")),
            models.Index("subject", name="breaks_of_a_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.subject}"


class Hold(models.Model):
    """Nothing new is sent to a partner: after a restore of the database it knows more than we do. It is asked still."""

    partner = models.CharField(
        _("partner"), max_length=8, choices=[c for c in Run.Partner.choices if c[0] != Run.Partner.LEDGER]
    )
    reason = models.CharField(_("reason"), max_length=300)
    by = models.CharField(_("by"), max_length=60)
    began_at = models.DateTimeField(_("began at"))
    released_at = models.DateTimeField(_("released at"), null=True)
    released_by = models.CharField(_("released by"), max_length=60, blank=True)
    release_reason = models.CharField(_("reason of the release"), max_length=300, blank=True)

    class Meta:
        verbose_name = _("hold of sending")
        verbose_name_plural = _("holds of sending")
        constraints = [
            models.UniqueConstraint("partner", name="one_hold_per_partner", condition=Q(released_at__isnull=True)),
            models.CheckConstraint(
                name="a_released_hold_says_by_whom_and_why",
                condition=Q(released_at__isnull=True) | ~Q(released_by="") & ~Q(release_reason=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.partner} {self.began_at:%Y-%m-%d}"
