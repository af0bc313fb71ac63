"""E-coupons after they were generated: redeem, hold, void, let expire, extend, replace, return for points, read.

One text refuses every code that cannot be redeemed: unknown, used, expired or somebody else's. Whoever tries codes
learns nothing from it.
"""

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from config.ids import new_id
from config.states import IllegalMove
from issuing.models import Merchant
from points import codes
from points.calculation import share
from points.models import Coupon, CouponMove, Exchange, PointsReturn
from prepaid.ledger import ReferenceUsed


class CouponNotRedeemable(Refused):
    status = 422
    text = _("This coupon cannot be redeemed here.")
    remedy = _("Have the code read again; then refuse the coupon. No answer says why.")


class CouponsNotReturnable(Refused):
    text = _("Only unused coupons of one exchange that have not expired can be returned.")
    remedy = _("Ask for the exchange, and return only its coupons that are ACTIVE.")


class MustExpireLater(Refused):
    status = 422
    text = _("A coupon is only ever extended.")


def redeem(*, merchant: Merchant, code: str, reference: str, store: str = "", now: datetime) -> Coupon:
    """Use a coupon: once, by the merchant it is for, before it expires. One conditional UPDATE decides.

    One round trip (``sql/redeem.sql``).

    The same merchant with the same reference and code is answered the same again.

    :raises CouponNotRedeemable: in every other case, with one text.
    :raises ReferenceUsed: the merchant redeemed another coupon under this reference.
    """
    read = codes.read(code)
    hashes = codes.VAULT.hashes(read) if read else []
    found = Coupon.objects.raw(
        "SELECT * FROM points_redeem(%s, %s, %s, %s, %s)", [merchant.pk, hashes, reference, store, now]
    )
    used: Coupon | None = next(iter(found), None)
    if used is None:
        raise CouponNotRedeemable()
    if used.code_hash not in hashes:
        raise ReferenceUsed(pointer="/reference", detail=str(used.pk))
    return used


def freeze(*, coupon: Coupon, reason: str, by: str, now: datetime) -> None:
    """Let a coupon not be redeemed for now.

    :raises IllegalMove: it is not active, or no longer.
    """
    _move(coupon, Coupon.State.ACTIVE, Coupon.State.FROZEN, "FREEZE", reason, by, now)


def unfreeze(*, coupon: Coupon, reason: str, by: str, now: datetime) -> None:
    """Let a frozen coupon be redeemed again.

    :raises IllegalMove: it is not frozen, or no longer.
    """
    _move(coupon, Coupon.State.FROZEN, Coupon.State.ACTIVE, "UNFREEZE", reason, by, now)


def freeze_all(*, exchange: Exchange, reason: str, by: str, now: datetime) -> int:
    """Let no coupon of an exchange be redeemed for now that could be; returns how many. Call within a transaction."""
    return _move_all(Coupon.State.ACTIVE, Coupon.State.FROZEN, "FREEZE", exchange, reason, by, now, frozen_at=None)


def unfreeze_all(*, exchange: Exchange, frozen_at: datetime, reason: str, by: str, now: datetime) -> int:
    """Free the coupons that were frozen together at that moment and not touched since; returns how many."""
    return _move_all(
        Coupon.State.FROZEN, Coupon.State.ACTIVE, "UNFREEZE", exchange, reason, by, now, frozen_at=frozen_at
    )


def _move_all(
    expected: str,
    to: str,
    what: str,
    exchange: Exchange,
    reason: str,
    by: str,
    now: datetime,
    *,
    frozen_at: datetime | None,
) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            _MOVE_ALL,
            {"exchange": exchange.pk, "expected": expected, "to": to, "what": what, "reason": reason[:200], "by": by,
             "now": now, "frozen_at": frozen_at},
        )  # fmt: skip
        return cursor.rowcount


_MOVE_ALL = """
WITH moved AS (
    UPDATE points_coupon AS c SET state = %(to)s
    WHERE c.exchange_id = %(exchange)s AND c.state = %(expected)s
        AND (%(frozen_at)s::timestamptz IS NULL OR %(frozen_at)s = (
            SELECT m.recorded_at FROM points_couponmove AS m
            WHERE m.coupon_id = c.id AND m.what = 'FREEZE' ORDER BY m.id DESC LIMIT 1))
    RETURNING c.id
)
INSERT INTO points_couponmove (coupon_id, what, from_state, to_state, reason, by, recorded_at)
SELECT id, %(what)s, %(expected)s, %(to)s, %(reason)s, %(by)s, %(now)s FROM moved"""


def void(*, coupon: Coupon, reason: str, by: str, now: datetime) -> None:
    """End a coupon without giving points back.

    :raises IllegalMove: it is neither active nor frozen.
    """
    if coupon.state not in (Coupon.State.ACTIVE, Coupon.State.FROZEN):
        raise IllegalMove(state=coupon.state)
    _move(coupon, coupon.state, Coupon.State.VOID, "VOID", reason, by, now)


def extend(*, coupon: Coupon, expires_at: datetime, reason: str, by: str, now: datetime) -> None:
    """Let a coupon be good for longer; an expired one is good again.

    :raises MustExpireLater: the new moment is not later, or has passed.
    :raises IllegalMove: it is used, returned, void or replaced.
    """
    if expires_at <= max(now, coupon.expires_at):
        raise MustExpireLater()
    if coupon.state not in (Coupon.State.ACTIVE, Coupon.State.EXPIRED):
        raise IllegalMove(state=coupon.state)
    with transaction.atomic():
        before = coupon.state
        if not Coupon.objects.filter(pk=coupon.pk, state=before).update(
            state=Coupon.State.ACTIVE, expires_at=expires_at
        ):
            raise IllegalMove(state=Coupon.objects.values_list("state", flat=True).get(pk=coupon.pk))
        _note(coupon, "EXTEND", before, Coupon.State.ACTIVE, reason, by, now)
    coupon.refresh_from_db()


def expire(*, now: datetime, limit: int = 10_000) -> int:
    """End what has run out, oldest first; returns how many. The clock calls this until there are none."""
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE points_coupon SET state = 'EXPIRED' WHERE id IN (
                SELECT id FROM points_coupon WHERE state = 'ACTIVE' AND expires_at <= %s
                ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED)""",
            [now, limit],
        )
        return cursor.rowcount


def expire_by_test_clock(*, merchant: Merchant, now: datetime) -> int:
    """End a test merchant's coupons that have run out by its own clock, which is ahead; returns how many."""
    ours = Coupon.objects.filter(merchant=merchant, state=Coupon.State.ACTIVE, expires_at__lte=merchant.moment(now))
    return ours.update(state=Coupon.State.EXPIRED)


def reissue(*, coupon: Coupon, reason: str, by: str, now: datetime) -> Coupon:
    """Replace a coupon's code, because somebody else may know it: the old one is dead, the coupon the same.

    :raises IllegalMove: it is not active, or no longer.
    """
    [code] = codes.new_codes(1)
    [sealed] = codes.VAULT.seal_all([code])
    with transaction.atomic():
        _move(coupon, Coupon.State.ACTIVE, Coupon.State.REISSUED, "REISSUE", reason, by, now)
        return Coupon.objects.create(
            id=new_id(),
            exchange_id=coupon.exchange_id,
            ordinal=coupon.ordinal,
            generation=coupon.generation + 1,
            product_id=coupon.product_id,
            merchant_id=coupon.merchant_id,
            account_id=coupon.account_id,
            code_hash=codes.VAULT.hash(code),
            code_sealed=sealed,
            last4=code[-4:],
            face_value=coupon.face_value,
            issued_at=now,
            expires_at=coupon.expires_at,
        )


def read_code(*, coupon: Coupon, reason: str, by: str, now: datetime) -> str:
    """A coupon's code in clear, for its buyer or for staff with a reason; that it was read is written down."""
    _note(coupon, "READ", coupon.state, coupon.state, reason, by, now)
    return codes.written(codes.VAULT.unseal(coupon.code_sealed))


def read_codes(*, coupons: Sequence[Coupon], reason: str, by: str, now: datetime) -> list[str]:
    """The codes of many coupons in clear, in their order, for their buyer; that they were read is written down."""
    with connection.cursor() as cursor:
        cursor.execute(
            """INSERT INTO points_couponmove (coupon_id, what, from_state, to_state, reason, by, recorded_at)
            SELECT id, 'READ', state, state, %s, %s, %s FROM points_coupon WHERE id = ANY(%s)""",
            [reason, by, now, [coupon.pk for coupon in coupons]],
        )
    return [codes.written(codes.VAULT.unseal(coupon.code_sealed)) for coupon in coupons]


# Returning for points -------------------------------------------------------------------------------------------


def give_back(*, exchange: Exchange, coupon_ids: Sequence[UUID], reason: str, by: str, now: datetime) -> PointsReturn:
    """Hold unused coupons and owe the points system their return, in one commit; used ones never come back.

    The points are the coupons' own share of what was taken: all coupons of an exchange carry exactly that.

    :raises CouponsNotReturnable: one of them is used, expired, frozen, unknown or of another exchange.
    """
    with transaction.atomic():
        wanted = Coupon.objects.filter(
            exchange=exchange, pk__in=coupon_ids, state=Coupon.State.ACTIVE, expires_at__gt=now
        )
        held = list(wanted.order_by("pk").select_for_update())
        if not held or len(held) != len(set(coupon_ids)):
            raise CouponsNotReturnable()
        row = PointsReturn.objects.create(
            exchange=exchange,
            merchant_id=exchange.merchant_id,
            count=len(held),
            points=share(exchange.points, exchange.count, [coupon.ordinal for coupon in held]),
            reason=reason,
            by=by,
            recorded_at=now,
            due_at=Now(),
        )
        Coupon.objects.filter(pk__in=[coupon.pk for coupon in held]).update(
            state=Coupon.State.RETURNING, points_return=row
        )
    return row


def ask_again(*, row: PointsReturn) -> None:
    """Let an unresolved return be asked for again, with all its tries, under the number it has.

    :raises IllegalMove: it is not unresolved.
    """
    row.move(PointsReturn.State.UNKNOWN, attempts=0, due_at=Now())


def ask_now(*, row: PointsReturn) -> None:
    """Ask for an open return at once, with all its tries: the points system is known to have an answer.

    :raises IllegalMove: it is settled.
    """
    rows = PointsReturn.objects.filter(pk=row.pk)
    if not (
        rows.filter(state=PointsReturn.State.UNRESOLVED).update(
            state=PointsReturn.State.UNKNOWN, attempts=0, due_at=Now()
        )
        or rows.filter(state__in=[PointsReturn.State.PENDING, PointsReturn.State.UNKNOWN]).update(
            attempts=0, due_at=Now()
        )
    ):
        raise IllegalMove(state=PointsReturn.objects.values_list("state", flat=True).get(pk=row.pk))
    row.refresh_from_db()


def returned(
    *, row: PointsReturn, bank_reference: str = "", accounting_date: date | None = None, now: datetime
) -> bool:
    """End the coupons of a return whose points verifiably went back: under which reference, booked on which date."""
    return _end_return(
        row,
        PointsReturn.State.RETURNED,
        Coupon.State.RETURNED,
        bank_reference=bank_reference,
        accounting_date=accounting_date,
        returned_at=now,
        problem="",
    )


def returned_again(*, row: PointsReturn, bank_reference: str, accounting_date: date) -> None:
    """Keep under which reference and on which date the points went back after all."""
    PointsReturn.objects.filter(pk=row.pk, state=PointsReturn.State.RETURNED).update(
        bank_reference=bank_reference, accounting_date=accounting_date
    )


def return_refused(*, row: PointsReturn, code: str, now: datetime) -> bool:
    """Free the coupons of a return that the points system refused."""
    return _end_return(row, PointsReturn.State.REJECTED, Coupon.State.ACTIVE, refusal_code=code[:20])


def _end_return(row: PointsReturn, to: str, coupons_to: str, **facts: object) -> bool:
    with transaction.atomic():
        moved = PointsReturn.objects.filter(
            pk=row.pk, state__in=[PointsReturn.State.UNKNOWN, PointsReturn.State.UNRESOLVED]
        ).update(state=to, due_at=None, **facts)
        if moved:
            Coupon.objects.filter(points_return=row, state=Coupon.State.RETURNING).update(state=coupons_to)
    return bool(moved)


def _move(coupon: Coupon, expected: str, to: str, what: str, reason: str, by: str, now: datetime) -> None:
    if coupon.state != expected:
        raise IllegalMove(state=coupon.state)
    with transaction.atomic():
        coupon.move(to)
        _note(coupon, what, expected, to, reason, by, now)


def _note(coupon: Coupon, what: str, before: str, after: str, reason: str, by: str, now: datetime) -> None:
    CouponMove.objects.create(
        coupon=coupon, what=what, from_state=before, to_state=after, reason=reason, by=by, recorded_at=now
    )
