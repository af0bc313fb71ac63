"""Cards for the tests of the ledger: a merchant, a program of each kind, and cards opened through the ledger."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

from config.ids import new_id
from issuing import numbering, split
from issuing.models import BonusTier, CardProgram, Kind, Merchant, PaymentMethod
from prepaid import ledger
from prepaid.models import Card, NetworkAccount

SHANGHAI = ZoneInfo("Asia/Shanghai")
OPENED = datetime(2026, 1, 1, 9, 0, tzinfo=SHANGHAI)
NOW = datetime(2026, 5, 15, 12, 0, tzinfo=SHANGHAI)

# A reference is used once for ever, so each test takes the next one.
_numbers = count(1)


def reference(word: str = "REF") -> str:
    return f"{word}-{next(_numbers)}"


def merchant(**facts: Any) -> Merchant:
    return Merchant.objects.create(**{"code": f"M{next(_numbers)}", "name": "Lotus", **facts})


def program(kind: Kind, *, tiers: Sequence[tuple[int, int]] = (), **facts: Any) -> CardProgram:
    """A program of the kind with the terms of the worked examples, unless ``facts`` say otherwise."""
    terms: dict[Kind, dict[str, Any]] = {
        Kind.BONUS: {},
        Kind.DISCOUNT: {"rate": Decimal("0.8")},
        Kind.TIMES: {"uses": 12, "price": 100_000, "single_use_price": 10_000},
        Kind.ENTITLEMENT: {"price": 99_900, "rate": Decimal("0.8")},
    }
    owner = facts.pop("merchant", None) or merchant()
    made = CardProgram.objects.create(
        **{
            "merchant": owner,
            "code": f"P{next(_numbers)}",
            "kind": kind,
            "card_limit": 500_000,
            "term_days": 365,
            **terms[kind],
            **facts,
        }
    )
    BonusTier.objects.bulk_create(BonusTier(program=made, from_amount=start, gift=gift) for start, gift in tiers)
    return made


def parts(program: CardProgram, paid: int, gift: int) -> list[split.SubCardPlan]:
    units = {Kind.TIMES: program.uses, Kind.ENTITLEMENT: program.term_days}.get(Kind(program.kind))
    return split.plan(
        amount=paid,
        limit=program.card_limit,
        gift=gift,
        units=units,
        limit_on_face=program.limit_basis == CardProgram.LimitBasis.FACE,
    )


def opening(program: CardProgram, paid: int, *, gift: int = 0, at: datetime = OPENED, **facts: Any) -> ledger.Opening:
    sub_cards = parts(program, paid, gift)
    account = NetworkAccount.objects.create(
        merchant=program.merchant, holder_key=new_id().hex, holder_name="王小明", recorded_at=at
    )
    number = numbering.new_number()
    return ledger.Opening(
        **{
            "card_id": new_id(),
            "program_id": program.pk,
            "account_id": account.pk,
            "number_hash": numbering.hash_number(number),
            "last4": number[-4:],
            "number_sealed": numbering.seal(number),
            "expires_on": None,
            "load_id": new_id(),
            "reference": reference("PUR"),
            "paid": paid,
            "bonus": gift,
            "face": sum(part.face for part in sub_cards),
            "payment_method": PaymentMethod.WECHAT,
            "starts_on": at.astimezone(SHANGHAI).date(),
            "occurred_at": at,
            "sub_cards": sub_cards,
            **facts,
        }
    )


def opened(program: CardProgram, paid: int = 100_000, *, gift: int = 0, at: datetime = OPENED, **facts: Any) -> Card:
    """A card with one load of ``paid`` fen."""
    order = opening(program, paid, gift=gift, at=at, **facts)
    ledger.open_cards([order], now=at)
    return Card.objects.get(pk=order.card_id)


def topped_up(card: Card, paid: int, *, gift: int = 0, at: datetime = NOW, **facts: Any) -> ledger.Posted:
    sub_cards = parts(card.program, paid, gift)
    return ledger.top_up(
        **{
            "merchant_id": card.merchant_id,
            "card_id": card.pk,
            "load_id": new_id(),
            "reference": reference("TOP"),
            "paid": paid,
            "bonus": gift,
            "face": sum(part.face for part in sub_cards),
            "payment_method": PaymentMethod.ALIPAY,
            "today": at.astimezone(SHANGHAI).date(),
            "sub_cards": sub_cards,
            "occurred_at": at,
            "now": at,
            **facts,
        }
    )


def paid(card: Card, list_amount: int | None = None, *, at: datetime = NOW, **facts: Any) -> ledger.Posted:
    return ledger.pay(
        **{
            "merchant_id": card.merchant_id,
            "card_id": card.pk,
            "list_amount": list_amount,
            "reference": reference("ORDER"),
            "occurred_at": at,
            "now": at,
            **facts,
        }
    )


def _returned(verb: Any, payment: ledger.Posted, at: datetime, facts: dict[str, Any]) -> ledger.Posted:
    merchant_id = facts.pop("merchant_id", None) or Card.objects.get(pk=payment.card_id).merchant_id
    return verb(
        **{
            "merchant_id": merchant_id,
            "transaction_id": payment.id,
            "reference": reference("BACK"),
            "occurred_at": at,
            "now": at,
            **facts,
        }
    )


def refunded(payment: ledger.Posted, *, at: datetime = NOW, **facts: Any) -> ledger.Posted:
    return _returned(ledger.refund, payment, at, facts)


def reversed_(payment: ledger.Posted, *, at: datetime = NOW, **facts: Any) -> ledger.Posted:
    return _returned(ledger.reverse, payment, at, facts)


def balances(card: Card) -> list[int]:
    """What each sub-card holds, in their order."""
    return list(card.sub_cards.order_by("seq").values_list("remaining", flat=True))


def day(days: int, *, after: datetime = OPENED) -> datetime:
    return after + timedelta(days=days)


def local_date(at: datetime) -> date:
    return at.astimezone(SHANGHAI).date()
