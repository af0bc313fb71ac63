"""The ledger's typed face: it calls the functions of ``sql/ledger.sql`` and turns their refusals into names.

Balances change nowhere else. Every call is one round trip; amounts are in fen, or in the card's unit where said.
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import IntegrityError, connection
from django.utils.translation import gettext_lazy as _
from psycopg.errors import UniqueViolation

from config import prepared
from config.errors import NotFound, Refused
from config.ids import new_id
from config.money import AmountNotPositive
from issuing.split import SubCardPlan
from prepaid.models import Transaction


class CardNotFound(NotFound):
    text = _("No such card.")
    remedy = _("Check the id or number, and that the key is of the merchant and side it belongs to.")


class TransactionNotFound(NotFound):
    text = _("No such transaction.")
    remedy = _("Take the id from the answer that made it.")


class CardNotActive(Refused):
    text = _("The card is not active: its state is %(detail)s.")
    remedy = _("Ask for the card and see its state: a frozen one can be unfrozen, a lost one replaced.")


class CoverNotAccepted(Refused):
    text = _("The card can be spent from once its insurance cover is accepted.")
    remedy = _("Wait until the card's policy is ACCEPTED.")
    can_be_sent_again = True


class CardExpired(Refused):
    text = _("The card expired on %(detail)s. Its balance stays owed: have it replaced.")
    remedy = _("Have the staff replace the card.")


class CardFull(Refused):
    text = _("The card has too many sub-cards to be topped up once more: open another card.")
    remedy = _("Open another card for the amount.")


class TermNotRunning(Refused):
    text = _("The term of this entitlement is not running on that day.")
    remedy = _("Check the day of use against the card's term.")


class InsufficientBalance(Refused):
    text = _("The card holds less than this: %(detail)s is left.")
    remedy = _("Charge at most what is left, or have the card topped up.")


class WrongUnit(Refused):
    status = 422
    text = _("A card counted in %(detail)s is charged by uses if it counts USES, by list amount otherwise.")
    remedy = _("Send uses for a card that counts uses, list_amount for any other.")


class OccursInFuture(Refused):
    status = 422
    text = _("That moment has not come yet.")
    remedy = _("Set the till's clock, or leave occurred_at out.")


class BeforeOpening(Refused):
    status = 422
    text = _("That moment is before the card was opened.")
    remedy = _("Send the moment at which it occurred.")


class BeforePayment(Refused):
    status = 422
    text = _("That moment is before the payment it gives back.")
    remedy = _("Send the moment at which it occurred.")


class NotAPayment(Refused):
    status = 422
    text = _("Only a payment can be given back.")
    remedy = _("Give the id of the payment.")


class RefundExceedsPayment(Refused):
    text = _("This is more than is left of the payment: %(detail)s.")
    remedy = _("Refund at most what is left of the payment.")


class NothingLeftToRefund(Refused):
    text = _("The payment was given back in full already.")
    remedy = _("Nothing: it was all given back.")


class AlreadyRefunded(Refused):
    text = _("A payment that was refunded in part can only be refunded further, not reversed.")
    remedy = _("Refund what is left of the payment.")


class ReferenceUsed(Refused):
    text = _("This reference was used before, for %(detail)s.")
    remedy = _("Look at what first names: it is this one, or your numbers repeat.")


class IdempotencyKeyReused(Refused):
    status = 422
    text = _("This Idempotency-Key was used before for another request.")
    remedy = _("Use a new key for a new request.")


REFUSALS: dict[str, type[Refused]] = {
    refusal.__name__: refusal
    for refusal in (
        CardNotFound, TransactionNotFound, CardNotActive, CoverNotAccepted, CardExpired, CardFull, TermNotRunning,
        InsufficientBalance, WrongUnit, AmountNotPositive, BeforeOpening, BeforePayment, NotAPayment,
        RefundExceedsPayment, NothingLeftToRefund, AlreadyRefunded, ReferenceUsed, IdempotencyKeyReused,
    )
}  # fmt: skip


class Part(NamedTuple):
    """What a transaction did to one sub-card, by the sub-card's number."""

    sub_card: int
    amount: int
    balance_after: int


class Posted(NamedTuple):
    """A transaction as the ledger wrote it. ``amount`` is signed, in ``unit``; ``replayed`` if it was there before."""

    replayed: bool
    id: UUID
    card_id: UUID
    kind: str
    original_id: UUID | None
    unit: str
    list_amount: int | None
    charged_amount: int | None
    amount: int
    principal: int
    gift: int
    usable_after: int
    refundable_after: int
    reference: str
    store: str
    occurred_at: datetime
    recorded_at: datetime
    entries: list[Part]


class Opening(NamedTuple):
    """A card to open with its first load. ``starts_on`` is the local day of purchase; amounts in fen or units."""

    card_id: UUID
    program_id: UUID
    account_id: UUID
    number_hash: str
    last4: str
    number_sealed: bytes
    expires_on: date | None
    load_id: UUID
    reference: str
    paid: int
    bonus: int
    face: int
    payment_method: str
    starts_on: date
    occurred_at: datetime
    sub_cards: Sequence[SubCardPlan]


def open_cards(
    openings: Sequence[Opening],
    *,
    now: datetime,
    batch_id: UUID | None = None,
    key: str | None = None,
    fingerprint: str | None = None,
) -> None:
    """Open cards with their loads, sub-cards, opening transactions and entries, set by set.

    One statement for one card or for thousands; all are opened or none. The opening transaction has the load's id.

    :raises ReferenceUsed: a merchant's reference, an idempotency key or a card number is in use.
    """
    subs = [
        (position, seq, sub.paid, sub.face)
        for position, opening in enumerate(openings, 1)
        for seq, sub in enumerate(opening.sub_cards, 1)
    ]
    columns = list(zip(*(opening[:-1] for opening in openings), strict=True))
    (card, program, account, number_hash, last4, sealed, expires, load, reference, paid, bonus, face, method, starts,
     occurred) = map(list, columns)  # fmt: skip
    arguments = [
        batch_id, now, card, program, account, number_hash, last4, sealed, expires, load, reference, paid, bonus,
        face, method, starts, occurred, key, fingerprint, *map(list, zip(*subs, strict=True)),
    ]  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_OPEN, arguments)


# The types are spelled out: an empty or all-NULL array has none of its own. %b: arrays in binary, which spares both
# sides the quoting of every element.
_OPEN = """SELECT ledger_open(%s, %s, %b::uuid[], %b::uuid[], %b::uuid[], %b::text[], %b::text[], %b::bytea[],
    %b::date[], %b::uuid[], %b::text[], %b::bigint[], %b::bigint[], %b::bigint[], %b::text[], %b::date[],
    %b::timestamptz[], %s, %s, %b::int[], %b::int[], %b::bigint[], %b::bigint[])"""


def top_up(
    *,
    merchant_id: UUID,
    card_id: UUID,
    load_id: UUID,
    reference: str,
    paid: int,
    bonus: int,
    face: int,
    payment_method: str,
    today: date,
    sub_cards: Sequence[SubCardPlan],
    occurred_at: datetime,
    now: datetime,
    key: str | None = None,
    fingerprint: str = "",
) -> Posted:
    """Add a load with sub-cards of its own to a card; nothing is ever added to a sub-card that is there.

    The load of a card counted in days starts when the last one ends.

    :raises CardNotFound, CardNotActive, CardExpired, CardFull, BeforeOpening, ReferenceUsed, IdempotencyKeyReused:
    """
    return _post(
        "SELECT * FROM ledger_top_up(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::bigint[], %s::bigint[])",
        [
            merchant_id, card_id, load_id, reference, paid, bonus, face, payment_method, today, occurred_at, now, key,
            fingerprint, [sub.paid for sub in sub_cards], [sub.face for sub in sub_cards],
        ],
    )  # fmt: skip


def pay(
    *,
    merchant_id: UUID,
    card_id: UUID,
    reference: str,
    occurred_at: datetime,
    now: datetime,
    list_amount: int | None = None,
    uses: int | None = None,
    store: str = "",
    key: str | None = None,
    fingerprint: str = "",
) -> Posted:
    """Draw a payment from the card's sub-cards, in the program's draw order.

    MONEY cards are charged ``list_amount`` × rate, half-up; USES cards ``uses``; for an ENTITLEMENT the use is
    recorded with list and charged price and no value moves. Once a card is claimed, a payment that occurred before
    the loss may still be recorded: it changes what is compensated.

    :raises CardNotFound, CardNotActive, CoverNotAccepted, CardExpired, TermNotRunning, InsufficientBalance,
        WrongUnit, AmountNotPositive, OccursInFuture, BeforeOpening, ReferenceUsed, IdempotencyKeyReused:
    """
    if occurred_at > now:
        raise OccursInFuture()
    return _post(
        "SELECT * FROM ledger_pay(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            new_id(),
            merchant_id,
            card_id,
            list_amount,
            uses,
            reference,
            store,
            key,
            fingerprint,
            occurred_at,
            now,
        ],
    )


def refund(
    *,
    merchant_id: UUID,
    transaction_id: UUID,
    reference: str,
    occurred_at: datetime,
    now: datetime,
    amount: int | None = None,
    key: str | None = None,
    fingerprint: str = "",
) -> Posted:
    """Give a payment back, in part or (no ``amount``) whatever is left of it; ``amount`` is in the card's unit.

    Value returns to the sub-cards it came from, in reverse order, never more than was paid less what was returned.

    :raises TransactionNotFound, NotAPayment, CardNotActive, RefundExceedsPayment, NothingLeftToRefund,
        AmountNotPositive, OccursInFuture, BeforePayment, ReferenceUsed, IdempotencyKeyReused:
    """
    if occurred_at > now:
        raise OccursInFuture()
    return _return(
        Transaction.Kind.REFUND,
        merchant_id,
        transaction_id,
        amount,
        reference,
        key,
        fingerprint,
        occurred_at,
        now,
    )


def reverse(
    *,
    merchant_id: UUID,
    transaction_id: UUID,
    reference: str,
    occurred_at: datetime,
    now: datetime,
    key: str | None = None,
    fingerprint: str = "",
) -> Posted:
    """Undo a payment that should not have been made: whole, and only if nothing of it was refunded.

    :raises AlreadyRefunded: and what ``refund`` raises.
    """
    if occurred_at > now:
        raise OccursInFuture()
    return _return(
        Transaction.Kind.REVERSAL,
        merchant_id,
        transaction_id,
        None,
        reference,
        key,
        fingerprint,
        occurred_at,
        now,
    )


def take_off(
    *,
    kind: Transaction.Kind,
    cards: Sequence[tuple[UUID, str, date]],
    occurred_at: datetime,
    now: datetime,
) -> int:
    """Take the value off cards: everything by CLOSURE of ACTIVE and FROZEN ones; by COMPENSATION of CLAIMED ones what
    was paid in before their loss. What was paid in since stays on them and is owed by the merchant.

    ``cards`` are (card, reference, local date on which the principal is valued). Returns how many were taken from;
    those in another state are passed over, so fewer than asked for means that someone was first.
    """
    if not cards:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT ledger_take_off(%s, %s::uuid[], %s::uuid[], %s::text[], %s::date[], %s, %s)",
            [kind, [new_id() for _card in cards], *map(list, zip(*cards, strict=True)), occurred_at, now],
        )
        return cursor.fetchone()[0]


def _return(kind: str, *arguments: Any) -> Posted:
    merchant_id, transaction_id, amount, reference, key, fingerprint, occurred_at, now = arguments
    return _post(
        "SELECT * FROM ledger_return(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [new_id(), kind, merchant_id, transaction_id, amount, reference, key, fingerprint, occurred_at, now],
    )


def _post(call: str, arguments: list[Any]) -> Posted:
    try:
        row = prepared.row(call, arguments)
    except IntegrityError as error:
        # Two cards were asked for with one reference or one key at the same moment. The other call has committed,
        # so the second look finds what it wrote. Inside a transaction there is no second look.
        if not isinstance(error.__cause__, UniqueViolation) or connection.in_atomic_block:
            raise
        row = prepared.row(call, arguments)
    refusal, detail, *facts, seqs, amounts, balances = row
    if refusal is not None:
        raise REFUSALS[refusal](detail=detail)
    entries = [Part(*part) for part in zip(seqs or (), amounts or (), balances or (), strict=True)]
    return Posted._make([*facts, entries])
