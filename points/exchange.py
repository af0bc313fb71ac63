"""Exchanging points for e-coupons: quote, submit, and what becomes of it.

Nothing here speaks to the points system; ``bank`` does, and hands the outcome to ``issue``, ``reject``, ``give_up`` and
``reversed_``. Each is one conditional UPDATE, so an outcome counts once however often and from wherever it is told; of
many exchanges as of one.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import structlog
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import F, Q, Sum
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from config import tiers
from config.errors import NotFound, NotTheMaker, Refused, SamePerson
from config.handshakes import new_request_no
from config.ids import new_id
from config.states import IllegalMove
from issuing import events
from issuing.models import Event, Merchant
from issuing.orders import MerchantFailed, local_date
from points import codes, parameters
from points.calculation import points_needed
from points.models import CouponProduct, Exchange, ExchangeQuote, ExchangeRatio, PointsAccount
from prepaid import holds
from prepaid.ledger import ReferenceUsed
from prepaid.models import Run

log = structlog.get_logger(__name__)

QUOTE_LASTS = timedelta(minutes=15)
WAITED_FOR_SECONDS = 30
"""How long an exchange is left to whoever submitted it and waits, before the clock looks after it."""

_LIVE = ~Q(state__in=[Exchange.State.REJECTED, Exchange.State.REVERSED])


class CountNotPositive(Refused):
    status = 422
    text = _("Choose at least one coupon.")
    remedy = _("Ask for one coupon or more.")


class TooManyPerOrder(Refused):
    status = 422
    text = _("At most %(most)s coupons at once.")
    remedy = _("Choose fewer, and exchange again for the rest.")


class TooManyPerDay(Refused):
    text = _("At most %(most)s of these coupons a day: %(left)s more today.")
    remedy = _("Choose no more than are left today.")


class TooManyPerAccount(Refused):
    text = _("At most %(most)s of these coupons for one account: %(left)s more.")
    remedy = _("Choose no more than are left.")


class OutOfStock(Refused):
    text = _("There are not so many left.")
    remedy = _("Choose fewer, or other coupons.")


class ProductWithdrawn(Refused):
    text = _("These coupons are no longer given for points.")
    remedy = _("Choose coupons that are active.")


class QuoteNotFound(NotFound):
    text = _("No such quote.")
    remedy = _("Ask for a quote with this key, and submit its id.")


class QuoteExpired(Refused):
    text = _("The quote has expired: ask for a new one.")
    remedy = _("Ask for a new quote.")


class QuoteUsed(Refused):
    text = _("The quote was used already.")
    remedy = _("Ask for the exchange it was used for, or for a new quote.")


class RatioEnded(Refused):
    text = _("The exchange ratio of this quote has ended: ask for a new quote.")
    remedy = _("Ask for a new quote.")


class InsufficientPoints(Refused):
    text = _("The account holds fewer points than this.")
    remedy = _("Choose fewer coupons and ask for a new quote.")


class PointsAccountNotUsable(Refused):
    status = 422
    text = _("The points system does not know this account, or has frozen it.")
    remedy = _("Have the customer check the account with the bank.")


class PointsLimitExceeded(Refused):
    text = _("This is more than the account may spend at once or in a day.")
    remedy = _("Choose fewer coupons, or ask for a new quote another day.")


class PointsSystemRefused(Refused):
    text = _("The points system refused: %(answer)s. Nothing was taken.")
    remedy = _("Tell us the request's id.")


class NothingWasTaken(Refused):
    text = _("The points system did not answer in time. Nothing was taken: ask for a new quote.")
    remedy = _("Ask for a new quote and submit that one.")


class PointsSystemHeld(Refused):
    status = 503
    text = _("No points are exchanged at the moment: the books of both sides are being compared. Try again later.")
    remedy = _("Wait as long as Retry-After says, then send the same request with the same Idempotency-Key.")
    can_be_sent_again = True


class SettlementNotPossible(Refused):
    text = _("Only an unresolved exchange is settled by hand, once one person has proposed how.")


class Deducted(NamedTuple):
    """What the points system verifiably took, in its own words."""

    bank_reference: str
    points: int
    accounting_date: str


class GivenBack(NamedTuple):
    """What its acknowledgement of a reversal says: no points, and no ``deducted_date``, where nothing was taken."""

    bank_reference: str
    points: int
    accounting_date: date
    deducted_date: date | None = None


# Asking ---------------------------------------------------------------------------------------------------------


def quote(*, account: PointsAccount, product: CouponProduct, count: int, now: datetime) -> ExchangeQuote:
    """Points needed for a number of coupons, rounded once on the total; good once, until it expires.

    :raises CountNotPositive, TooManyPerOrder, ProductWithdrawn, MerchantFailed, parameters.NoRatioInForce, OutOfStock:
    :raises PointsSystemHeld: what is agreed now could not be sent.
    """
    ratio = _check(product, count, now)
    expires_at = now + QUOTE_LASTS
    return ExchangeQuote.objects.create(
        account=account,
        product=product,
        ratio=ratio,
        count=count,
        points=points_needed(count, ratio.ratio, ratio.rounding),
        expires_at=min(expires_at, ratio.valid_until_at) if ratio.valid_until_at else expires_at,
        recorded_at=now,
    )


def _check(product: CouponProduct, count: int, now: datetime) -> ExchangeRatio:
    if count < 1:
        raise CountNotPositive(pointer="/count")
    if count > product.most_per_order:
        raise TooManyPerOrder(pointer="/count", most=product.most_per_order)
    if product.state != CouponProduct.State.ACTIVE:
        raise ProductWithdrawn()
    if product.merchant.state != Merchant.State.ACTIVE:
        raise MerchantFailed()
    if holds.is_held(Run.Partner.POINTS):
        raise PointsSystemHeld()
    if product.stock is not None and product.stock < count:
        raise OutOfStock()
    return parameters.in_force(product, now)


def submit(
    *, quote_id: UUID, account: PointsAccount | None, merchant: Merchant | None, reference: str, now: datetime
) -> Exchange:
    """Use a quote: reserve the stock and owe the points system the deduction, in one commit.

    The row carries its request number before anything is sent. It is left for half a minute to whoever waits for it
    (``bank.deduct``); after that the clock takes it. ``account`` or ``merchant`` say whose quote it must be.

    :raises QuoteNotFound: unknown, or somebody else's.
    :raises QuoteExpired, QuoteUsed, RatioEnded, TooManyPerDay, TooManyPerAccount, OutOfStock, ReferenceUsed: and what
        ``quote`` refuses.
    """
    with transaction.atomic():
        quotes = ExchangeQuote.objects.select_for_update(of=("self",)).select_related("product__merchant", "ratio")
        asked = quotes.filter(pk=quote_id).first()
        if (
            asked is None
            or (account is not None and asked.account_id != account.pk)
            or (merchant is not None and asked.product.merchant_id != merchant.pk)
        ):
            raise QuoteNotFound()
        product = asked.product
        if Exchange.objects.filter(quote=asked).exists():
            raise QuoteUsed()
        if asked.ratio.valid_until_at is not None and asked.ratio.valid_until_at <= now:
            raise RatioEnded()
        if asked.expires_at <= now:
            raise QuoteExpired()
        _check(product, asked.count, now)
        used = Exchange.objects.filter(merchant=product.merchant_id, reference=reference).first()
        if used is not None:
            raise ReferenceUsed(pointer="/reference", detail=str(used.pk))
        # One exchange of an account at a time, so that two at once cannot both be the last that is allowed.
        PointsAccount.objects.select_for_update().get(pk=asked.account_id)
        _check_limits(product, asked.account_id, asked.count, now)
        if product.stock is not None and not CouponProduct.objects.filter(pk=product.pk, stock__gte=asked.count).update(
            stock=F("stock") - asked.count
        ):
            raise OutOfStock()
        return Exchange.objects.create(
            quote=asked,
            account_id=asked.account_id,
            product=product,
            merchant=product.merchant,
            reference=reference,
            count=asked.count,
            points=asked.points,
            submitted_at=now,
            due_at=Now() + timedelta(seconds=WAITED_FOR_SECONDS),
        )


def _check_limits(product: CouponProduct, account_id: UUID, count: int, now: datetime) -> None:
    if product.most_per_day is None and product.most_per_account is None:
        return
    live = Exchange.objects.filter(_LIVE, account=account_id, product=product)
    midnight = now.astimezone(ZoneInfo(product.merchant.time_zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    sums = live.aggregate(
        ever=Sum("count", default=0), today=Sum("count", filter=Q(submitted_at__gte=midnight), default=0)
    )
    if product.most_per_account is not None and sums["ever"] + count > product.most_per_account:
        raise TooManyPerAccount(most=product.most_per_account, left=max(0, product.most_per_account - sums["ever"]))
    if product.most_per_day is not None and sums["today"] + count > product.most_per_day:
        raise TooManyPerDay(most=product.most_per_day, left=max(0, product.most_per_day - sums["today"]))


# Outcomes -------------------------------------------------------------------------------------------------------


def issue(*, exchange: Exchange, deducted: Deducted, now: datetime, settled_by: User | None = None) -> bool:
    """Record a verified deduction and make the coupons, in one commit: exactly as many as were bought.

    False, and an incident on the row, where the exchange was given up meanwhile: the reversal decides (rule: a success
    that arrives after a reversal was sent changes nothing).
    """
    return bool(issue_all(taken=[(exchange, deducted)], now=now, settled_by=settled_by))


def issue_all(*, taken: Sequence[tuple[Exchange, Deducted]], now: datetime, settled_by: User | None = None) -> int:
    """``issue`` for many, in one statement; each for itself, by whether it is still open. Returns how many were."""
    made = codes.new_codes(sum(row.count for row, _deducted in taken))
    buyers = [(row.pk, ordinal) for row, _deducted in taken for ordinal in range(1, row.count + 1)]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            _ISSUE,
            {
                "now": now,
                "came_from": Exchange.State.UNRESOLVED if settled_by else Exchange.State.UNKNOWN,
                "settled_by": settled_by.pk if settled_by else None,
                "ids": [row.pk for row, _deducted in taken],
                "bank_references": [deducted.bank_reference for _row, deducted in taken],
                "dates": [deducted.accounting_date for _row, deducted in taken],
                "buyers": [buyer for buyer, _ordinal in buyers],
                "ordinals": [ordinal for _buyer, ordinal in buyers],
                "coupons": [new_id() for _code in made],
                "hashes": [codes.VAULT.hash(code) for code in made],
                "sealed": codes.VAULT.seal_all(made),
                "last4": [code[-4:] for code in made],
            },
        )
        issued = {pk for (pk,) in cursor}
    for row, deducted in taken:
        if row.pk not in issued:
            _note_late_success(row, deducted)
    return len(issued)


# The exchange and its coupons, or neither; whoever was settled by somebody else meanwhile gets none.
_ISSUE = """
WITH issued AS (
    UPDATE points_exchange AS e
    SET state = 'ISSUED', bank_reference = taken.bank_reference, accounting_date = taken.accounting_date,
        issued_at = %(now)s, settled_by_id = %(settled_by)s, due_at = NULL, problem = ''
    FROM unnest(%(ids)b::uuid[], %(bank_references)b::text[], %(dates)b::text[]::date[])
        AS taken(id, bank_reference, accounting_date)
    WHERE e.id = taken.id AND e.state = %(came_from)s
    RETURNING e.id, e.product_id, e.merchant_id, e.account_id, e.points
), made AS (
    INSERT INTO points_coupon (id, ordinal, code_hash, code_sealed, last4, generation, state, redeemed_reference, store,
        exchange_id, product_id, merchant_id, account_id, face_value, issued_at, expires_at)
    SELECT made.id, made.ordinal, made.code_hash, made.sealed, made.last4, 1, 'ACTIVE', '', '',
        issued.id, issued.product_id, issued.merchant_id, issued.account_id, p.face_value,
        %(now)s, %(now)s::timestamptz + make_interval(days => p.valid_days)
    FROM unnest(%(buyers)b::uuid[], %(coupons)b::uuid[], %(ordinals)b::int[], %(hashes)b::text[], %(sealed)b::bytea[],
            %(last4)b::text[]) AS made(exchange_id, id, ordinal, code_hash, sealed, last4)
        JOIN issued ON issued.id = made.exchange_id
        JOIN points_couponproduct p ON p.id = issued.product_id
), told AS (
    INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, amount, recorded_at)
    SELECT merchant_id, 'exchange.issued', id, NULL, 'ISSUED', points, %(now)s FROM issued
)
SELECT id FROM issued"""


def _note_late_success(exchange: Exchange, deducted: Deducted) -> None:
    late = Exchange.objects.filter(
        pk=exchange.pk,
        state__in=[
            Exchange.State.REVERSING,
            Exchange.State.REVERSED,
            Exchange.State.UNRESOLVED,
            Exchange.State.REJECTED,
        ],
    )
    if late.update(incident=f"success {deducted.bank_reference} for {deducted.points} points came too late"[:300]):
        log.error("a success came too late", exchange=str(exchange.pk), bank_reference=deducted.bank_reference)


def reject(*, exchange: Exchange, code: str, now: datetime) -> bool:
    """Record a verified refusal and give the stock back."""
    return bool(reject_all(refused=[(exchange, code)], now=now))


def reject_all(*, refused: Sequence[tuple[Exchange, str]], now: datetime) -> int:
    """``reject`` for many, in one commit; each for itself, by whether it is still open. Returns how many were."""
    given_back: Counter[UUID] = Counter()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            """WITH rejected AS (
                UPDATE points_exchange AS e
                SET state = 'REJECTED', refusal_code = refused.code, due_at = NULL, problem = ''
                FROM unnest(%s::uuid[], %s::text[]) AS refused(id, code)
                WHERE e.id = refused.id AND e.state = 'UNKNOWN'
                RETURNING e.id, e.product_id, e.merchant_id, e.count, e.points
            ), told AS (
                INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, amount, recorded_at)
                SELECT merchant_id, 'exchange.rejected', id, NULL, 'REJECTED', points, %s FROM rejected
            )
            SELECT product_id, count FROM rejected""",
            [[row.pk for row, _code in refused], [code[:20] for _row, code in refused], now],
        )
        rejected = cursor.rowcount
        for product, count in cursor:
            given_back[product] += count
        # In one order, so that no two of us wait for each other.
        for product in sorted(given_back):
            _give_stock_back(product, given_back[product])
    return rejected


def give_up(*, exchange: Exchange) -> bool:
    """Stop waiting for an outcome: from now on only the reversal counts, under a request number of its own."""
    return bool(give_up_all(exchanges=[exchange]))


def give_up_all(*, exchanges: Sequence[Exchange]) -> int:
    """``give_up`` for many, in one statement. Returns how many were still open."""
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE points_exchange AS e
            SET state = 'REVERSING', reversal_request_no = up.number, attempts = 0, due_at = statement_timestamp()
            FROM unnest(%s::uuid[], %s::text[]) AS up(id, number) WHERE e.id = up.id AND e.state = 'UNKNOWN'""",
            [[row.pk for row in exchanges], [new_request_no() for _row in exchanges]],
        )
        return cursor.rowcount


def reversed_(
    *, exchange: Exchange, given_back: GivenBack | None = None, now: datetime, settled_by: User | None = None
) -> bool:
    """Record that nothing was taken, or all of it given back; the stock is free again.

    ``given_back`` is empty where no acknowledgement of our own reversal says it.
    """
    said = {} if given_back is None else _said(given_back)
    came_from = Exchange.State.UNRESOLVED if settled_by else Exchange.State.REVERSING
    with transaction.atomic():
        moved = Exchange.objects.filter(pk=exchange.pk, state=came_from).update(
            state=Exchange.State.REVERSED, reversed_at=now, settled_by=settled_by, due_at=None, problem="", **said
        )
        if moved:
            _give_stock_back(exchange.product_id, exchange.count)
            events.record(
                Event.Type.EXCHANGE_REVERSED,
                merchant_id=exchange.merchant_id,
                subject_id=exchange.pk,
                state=Exchange.State.REVERSED,
                amount=exchange.points,
                now=now,
            )
    return bool(moved)


def reversed_again(*, exchange: Exchange, given_back: GivenBack) -> None:
    """Keep what the points system answered to a reversal that it had not known."""
    Exchange.objects.filter(pk=exchange.pk, state=Exchange.State.REVERSED).update(**_said(given_back))


def deducted_again(*, exchange: Exchange, deducted: Deducted) -> None:
    """Keep under which reference and on which date the points were taken after all; the coupons stay the same."""
    Exchange.objects.filter(pk=exchange.pk, state=Exchange.State.ISSUED).update(
        bank_reference=deducted.bank_reference, accounting_date=deducted.accounting_date
    )


def _said(given_back: GivenBack) -> dict[str, Any]:
    return {
        "reversed_points": given_back.points,
        "reversal_reference": given_back.bank_reference,
        "reversal_date": given_back.accounting_date,
        "accounting_date": given_back.deducted_date,
    }


def _give_stock_back(product: UUID, count: int) -> None:
    CouponProduct.objects.filter(pk=product, stock__isnull=False).update(stock=F("stock") + count)


def why_not(exchange: Exchange) -> Refused | None:
    """Why an exchange came to nothing; None while it may still come to something, and if it did."""
    if exchange.state == Exchange.State.REVERSED:
        return NothingWasTaken()
    if exchange.state != Exchange.State.REJECTED:
        return None
    named = {"1001": InsufficientPoints, "1002": PointsAccountNotUsable, "1005": PointsLimitExceeded}
    refusal = named.get(exchange.refusal_code)
    return refusal() if refusal else PointsSystemRefused(answer=exchange.refusal_code)


_NO_PROPOSAL: dict[str, Any] = {
    "settlement": "", "settlement_reason": "", "settlement_by": None, "settlement_at": None,
}  # fmt: skip


# Staff ----------------------------------------------------------------------------------------------------------


def ask_again(*, exchange: Exchange) -> None:
    """Let an unresolved exchange be reversed again, with all its tries.

    :raises IllegalMove: it is not unresolved.
    """
    exchange.move(Exchange.State.REVERSING, attempts=0, due_at=Now(), **_NO_PROPOSAL)


def ask_now(*, exchange: Exchange, now: datetime) -> None:
    """Ask about an open exchange at once, with all its tries: the points system is known to have an answer.

    One that was never sent, as far as we know, is asked about as well: after a restore it may have been.

    :raises IllegalMove: it is settled, or somebody has proposed how.
    """
    rows = Exchange.objects.filter(pk=exchange.pk, settlement="")
    if (
        rows.filter(state=Exchange.State.UNRESOLVED).update(state=Exchange.State.REVERSING, attempts=0, due_at=Now())
        or rows.filter(state__in=[Exchange.State.UNKNOWN, Exchange.State.REVERSING]).update(attempts=0, due_at=Now())
        or rows.filter(state=Exchange.State.PENDING).update(
            state=Exchange.State.UNKNOWN, sent_at=now, attempts=0, due_at=Now()
        )
    ):
        exchange.refresh_from_db()
        return
    raise IllegalMove(state=Exchange.objects.values_list("state", flat=True).get(pk=exchange.pk))


def propose_settlement(*, exchange: Exchange, outcome: Exchange.State, reason: str, by: User, now: datetime) -> None:
    """Say how an unresolved exchange should end, for a second person to do: ISSUED or REVERSED.

    ISSUED says that the bank has shown by other ways that the points were taken and will stay taken.

    :raises SettlementNotPossible, parameters.ReasonNeeded:
    """
    if not reason.strip():
        raise parameters.ReasonNeeded()
    if outcome not in (Exchange.State.ISSUED, Exchange.State.REVERSED):
        raise SettlementNotPossible()
    if not Exchange.objects.filter(pk=exchange.pk, state=Exchange.State.UNRESOLVED).update(
        settlement=outcome, settlement_reason=reason.strip(), settlement_by=by, settlement_at=now
    ):
        raise SettlementNotPossible()
    exchange.refresh_from_db()


def settle_by_hand(*, exchange: Exchange, bank_reference: str, by: User, now: datetime) -> None:
    """Do what another person proposed for an unresolved exchange. ISSUED needs the bank's reference.

    :raises SamePerson: whoever proposed it.
    :raises AboveTier: what its coupons are worth takes a senior approver.
    :raises SettlementNotPossible: nothing is proposed.
    :raises IllegalMove: it was settled meanwhile.
    """
    with transaction.atomic():
        exchange.hold()
        _settle(exchange, bank_reference, by, now)


def worth(exchange: Exchange) -> int:
    """What the coupons of an exchange are worth, in fen; a test merchant's are worth nothing.

    Points have no price of their own: what they are worth is what they buy, at the coupons' face value, which is
    what the merchant gives for them and what the customer has lost if nothing comes of it.
    """
    return 0 if exchange.merchant.is_test else exchange.product.face_value * exchange.count


def reject_settlement(*, exchange: Exchange, by: User) -> None:
    """Refuse what another person proposed for an unresolved exchange; it waits as it did before.

    :raises SamePerson: whoever proposed it; they withdraw it.
    :raises SettlementNotPossible: nothing is proposed.
    """
    _drop_proposal(exchange, by, is_own=False)


def withdraw_settlement(*, exchange: Exchange, by: User) -> None:
    """Take back one's own proposal for an unresolved exchange.

    :raises NotTheMaker: somebody else proposed it.
    :raises SettlementNotPossible: nothing is proposed.
    """
    _drop_proposal(exchange, by, is_own=True)


def _drop_proposal(exchange: Exchange, by: User, *, is_own: bool) -> None:
    with transaction.atomic():
        exchange.hold()
        if exchange.state != Exchange.State.UNRESOLVED or exchange.settlement_by_id is None:
            raise SettlementNotPossible()
        if (exchange.settlement_by_id == by.pk) != is_own:
            raise NotTheMaker() if is_own else SamePerson()
        Exchange.objects.filter(pk=exchange.pk).update(**_NO_PROPOSAL)
        exchange.refresh_from_db()


def _settle(exchange: Exchange, bank_reference: str, by: User, now: datetime) -> None:
    if not exchange.settlement or exchange.settlement_by_id is None:
        raise SettlementNotPossible()
    if exchange.settlement_by_id == by.pk:
        raise SamePerson()
    tiers.check(amount=worth(exchange), by=by)
    if exchange.settlement == Exchange.State.ISSUED:
        if not bank_reference.strip():
            raise SettlementNotPossible()
        today = local_date(exchange.merchant, now).isoformat()
        done = issue(
            exchange=exchange,
            deducted=Deducted(bank_reference.strip()[:40], exchange.points, today),
            now=now,
            settled_by=by,
        )
    else:
        done = reversed_(exchange=exchange, now=now, settled_by=by)
    if not done:
        raise IllegalMove(state=Exchange.objects.values_list("state", flat=True).get(pk=exchange.pk))
    exchange.refresh_from_db()
