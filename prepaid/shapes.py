"""What the merchant API answers: rows as JSON. Money in fen, times in the merchant's time zone, numbers masked."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Prefetch, QuerySet, Sum

from claims.compensation import Step
from claims.models import Claim, InsuredEvent
from claims.worksheet import worksheet
from config import api
from config.ids import public_id
from config.shapes import Amount, Currency, Day, Fen, Fraction, Last4, Moment, Ratio, identity, moment
from insurance.models import Endorsement, Policy
from issuing.models import BonusTier, CardProgram, Kind, Unit
from issuing.orders import local_date
from prepaid import valuation
from prepaid.consumption import Consumption
from prepaid.ledger import Part, Posted
from prepaid.models import Card, Entry, Load, SubCard, Transaction
from prepaid.processing import Quote

CURRENCY = "CNY"
_NOTHING_LIVES = (Policy.State.DECLINED, Policy.State.CANCELLED)

# What each shape reads, in a constant number of queries for any number of rows.
PROGRAMS = CardProgram.objects.prefetch_related(Prefetch("tiers", BonusTier.objects.order_by("from_amount")))
CARDS = Card.objects.select_related("network_account", "merchant").prefetch_related(
    Prefetch("loads", Load.objects.order_by("seq")), Prefetch("policies", Policy.objects.order_by("-pk"))
)
POLICIES = Policy.objects.select_related("product__insurer", "card__network_account").prefetch_related(
    Prefetch("endorsements", Endorsement.objects.order_by("pk"))
)
CLAIMS = Claim.objects.select_related("event")


# Declared -----------------------------------------------------------------------------------------------------------

ProgramId = Annotated[str, identity("prg", "program")]
CardId = Annotated[str, identity("crd", "card")]
AccountId = Annotated[str, identity("net", "network_account")]
LoadId = Annotated[str, identity("lod", "load")]
TransactionId = Annotated[str, identity("txn", "transaction")]
PolicyId = Annotated[str, identity("pol", "policy")]
ClaimId = Annotated[str, identity("clm", "claim")]
Units = Annotated[str, Unit]
PolicyState = Annotated[str, Policy.State]


class BonusTierShape(TypedDict):
    """From this amount on, this gift comes with it."""

    from_amount: Fen
    gift: Fen


class ProgramShape(TypedDict):
    """What a card can be bought as."""

    id: ProgramId
    code: str
    name: str
    kind: Annotated[str, Kind]
    state: Annotated[str, CardProgram.State]
    currency: Currency
    unit: Units
    named: bool
    card_limit: Fen
    limit_basis: Annotated[str, CardProgram.LimitBasis]
    max_sub_cards: int
    draw_order: Annotated[str, CardProgram.DrawOrder]
    bonus_tiers: list[BonusTierShape]
    rate: Annotated[Ratio | None, "What is charged per 1.00 of list price."]
    uses: int | None
    single_use_price: Fen | None
    price: Fen | None
    term_days: int
    spend_before_cover: Annotated[bool, "Before its policy is accepted."]
    created_at: Moment


class QuotedSubCardShape(TypedDict):
    seq: int
    paid: Fen
    face: Amount


class CardQuoteShape(TypedDict):
    """How an amount would be split, its bonus and premium."""

    program: ProgramId
    currency: Currency
    prepaid_amount: Fen
    bonus: Fen
    unit: Units
    face: Amount
    sub_cards: list[QuotedSubCardShape]
    sum_insured: Fen
    premium: Fen
    term_days: int


class BalanceShape(TypedDict):
    """What can be used, and the principal that would be owed back."""

    unit: Units
    usable: Amount
    refundable_principal: Fen


class HolderShape(TypedDict):
    """Who holds the card, masked."""

    name: str | None
    phone: str | None


class SubCardShape(TypedDict):
    seq: int
    paid: Fen
    face: Amount
    remaining: Amount


class LoadShape(TypedDict):
    """A purchase or a top-up. The days of an entitlement that were served are counted in the balance, not here."""

    id: LoadId
    paid: Fen
    face: Amount
    remaining: Amount
    sub_cards: list[SubCardShape]


class CoverShape(TypedDict):
    """The card's policy: the one that lives, otherwise the latest."""

    id: PolicyId
    state: PolicyState
    policy_no: str | None
    sum_insured: Fen
    premium: Fen


class CardShape(TypedDict):
    """A card as it stands now."""

    id: CardId
    last4: Last4
    program: ProgramId
    kind: Annotated[str, Kind]
    state: Annotated[str, Card.State]
    currency: Currency
    network_account: AccountId
    holder: HolderShape
    balance: BalanceShape
    loads: list[LoadShape]
    policy: CoverShape | None
    created_at: Moment


class ClosedCardShape(CardShape):
    """A card that was closed."""

    refund_due: Annotated[Fen, "Principal to be paid back to an account of the holder's own name."]


class EntryShape(TypedDict):
    """What a transaction did to one sub-card, signed."""

    sub_card: int
    amount: Amount
    balance_after: Amount


class TransactionShape(TypedDict):
    """What happened on a card. It never changes, but for what was given back of it since."""

    id: TransactionId
    card: CardId
    kind: Annotated[str, Transaction.Kind]
    original: Annotated[TransactionId | None, "The payment that this gives back."]
    reference: str
    store: str | None
    unit: Units
    list_amount: Fen | None
    charged_amount: Annotated[Fen | None, "The list amount at the card's rate."]
    amount: Annotated[Amount, "Without a sign; 0 for the use of an entitlement."]
    refunded: Annotated[Amount, "What has been given back of it until now."]
    occurred_at: Moment
    recorded_at: Moment
    balance: Annotated[BalanceShape, "The balance after it."]
    entries: list[EntryShape]


class ConsumptionShape(TypedDict):
    """The dynamic consumption information: what occurred until a moment, and the balance then."""

    card: CardId
    at: Moment
    currency: Currency
    balance: BalanceShape
    transactions: list[TransactionShape]


class ValuedLoadShape(TypedDict):
    """paid × remaining / face, exact."""

    load: str
    paid: Fen
    face: Amount
    remaining: Amount
    spent: Annotated[Fen | None, "Used at its price before any discount: for the consumer's cause."]
    refundable: Fraction


class ValuationShape(TypedDict):
    """What is usable and what principal would be owed back, with the calculation; rounded once."""

    card: CardId
    at: Moment
    currency: Currency
    unit: Units
    formula: str
    cause: Annotated[str, valuation.Cause]
    date: Day
    loads: list[ValuedLoadShape]
    exact: Fraction
    usable: Amount
    paid: Fen
    used: Fen
    refundable_principal: Fen


class EndorsementShape(TypedDict):
    """A change of a policy."""

    kind: Annotated[str, Endorsement.Kind]
    state: Annotated[str, Endorsement.State]
    endorsement_no: str | None
    amount: Fen | None
    premium: Fen | None
    effective: Day
    accepted_at: Moment | None


class PolicyShape(TypedDict):
    """The cover of one card."""

    id: PolicyId
    card: CardId
    insurer: str
    product: str
    state: PolicyState
    policy_no: str | None
    currency: Currency
    sum_insured: Fen
    premium: Fen
    cover_from: Day
    cover_to: Day
    compensated: Fen
    refusal_code: str | None
    endorsements: list[EndorsementShape]
    certificate: Annotated[str | None, "Its address, once the insurer has accepted."]
    accepted_at: Moment | None
    created_at: Moment


class InsuredCardShape(TypedDict):
    id: CardId
    last4: Last4


class CertificateShape(TypedDict):
    """Who covers whom against what, for how much and how long."""

    policy: PolicyId
    policy_no: str | None
    state: PolicyState
    insurer: str
    product: str
    policyholder: str
    insured: HolderShape
    card: InsuredCardShape
    currency: Currency
    sum_insured: Fen
    premium: Fen
    cover_from: Day
    cover_to: Day
    coverage_ratio: Ratio | None
    deductible_rate: Ratio | None
    deductible_amount: Fen
    endorsements: list[EndorsementShape]
    accepted_at: Moment | None


class InsuredEventShape(TypedDict):
    """What the merchant failed by."""

    trigger: Annotated[str, InsuredEvent.Trigger]
    loss_date: Day


class ClaimShape(TypedDict):
    """A claim for one card; its figures come with the assessment."""

    id: ClaimId
    card: CardId
    policy: PolicyId | None
    kind: Annotated[str, Claim.Kind]
    supplements: ClaimId | None
    state: Annotated[str, Claim.State]
    reference: str | None
    event: InsuredEventShape
    currency: Currency
    loss: Fen | None
    legal_entitlement: Annotated[Fen | None, "With the interest that is owed by law and not insured."]
    compensation: Fen | None
    reason: str | None
    created_at: Moment
    assessed_at: Moment | None
    decided_at: Moment | None
    paid_at: Moment | None


class WorksheetLineShape(TypedDict):
    step: Annotated[str, Step]
    amount: Fen
    by: Annotated[int | Ratio | None, "The amount in fen or the ratio that the step applies."]


class WorksheetEntriesShape(TypedDict):
    """The ledger entries it was made of."""

    through: int | None
    number: int | None
    sum: Amount | None


class WorksheetLoadShape(TypedDict):
    load: int | str
    paid: Fen
    face: Amount
    at_loss: Amount
    now: Amount


class InterestShape(TypedDict):
    contract_date: Day | None
    annual_rate: Ratio | None
    days: int | None
    amount: Fen | None


class WorksheetShape(TypedDict):
    """The calculation sheet of a claim: every line rounded where it is shown."""

    formula: str
    lines: list[WorksheetLineShape]
    loss: Fen
    payable: Fen
    loss_date: Day
    entries: WorksheetEntriesShape
    loads: list[WorksheetLoadShape]
    paid_before: Fen
    paid_in_after_loss: Annotated[Fen, "Owed by the merchant, and not insured."]
    interest: InterestShape
    legal_entitlement: Fen | None


class OneClaimShape(ClaimShape):
    """A claim with its calculation sheet, once it is assessed."""

    worksheet: WorksheetShape | None


# Rendered -----------------------------------------------------------------------------------------------------------


def _share(share: Decimal | None) -> str | None:
    return None if share is None else f"{share.normalize():f}"


def _name(name: str) -> str | None:
    return f"{name[0]}*" if name else None


def _phone(phone: str) -> str | None:
    return f"{phone[:3]}****{phone[-4:]}" if phone else None


def program(row: CardProgram, zone: ZoneInfo) -> ProgramShape:
    return {
        "id": public_id("prg", row.pk),
        "code": row.code,
        "name": row.name,
        "kind": row.kind,
        "state": row.state,
        "currency": CURRENCY,
        "unit": row.unit,
        "named": row.named,
        "card_limit": row.card_limit,
        "limit_basis": row.limit_basis,
        "max_sub_cards": row.max_sub_cards,
        "draw_order": row.draw_order,
        "bonus_tiers": [{"from_amount": tier.from_amount, "gift": tier.gift} for tier in row.tiers.all()],
        "rate": _share(row.rate),
        "uses": row.uses,
        "single_use_price": row.single_use_price,
        "price": row.price,
        "term_days": row.term_days,
        "spend_before_cover": row.spend_before_cover,
        "created_at": moment(row.recorded_at, zone),
    }


def quote(row: CardProgram, quoted: Quote) -> CardQuoteShape:
    return {
        "program": public_id("prg", row.pk),
        "currency": CURRENCY,
        "prepaid_amount": quoted.amount,
        "bonus": quoted.bonus,
        "unit": quoted.unit,
        "face": quoted.face,
        "sub_cards": [
            {"seq": seq, "paid": part.paid, "face": part.face} for seq, part in enumerate(quoted.sub_cards, 1)
        ],
        "sum_insured": quoted.sum_insured,
        "premium": quoted.premium,
        "term_days": quoted.term_days,
    }


def _balance(unit: str, usable: int, refundable: int) -> BalanceShape:
    return {"unit": unit, "usable": usable, "refundable_principal": refundable}


def cards(rows: Sequence[Card], now: datetime) -> list[CardShape]:
    """Rows of ``CARDS``, valued on the merchant's date of ``now``.

    A card may have a thousand sub-cards, so they are read as plain values, for all rows at once.
    """
    sub_cards: dict[UUID, list[SubCardShape]] = defaultdict(list)
    for load_id, seq, paid, face, remaining in (
        SubCard.objects.filter(card__in=[row.pk for row in rows])
        .order_by("card", "seq")
        .values_list("load", "seq", "paid", "face", "remaining")
    ):
        sub_cards[load_id].append({"seq": seq, "paid": paid, "face": face, "remaining": remaining})
    return [_card(row, sub_cards, now) for row in rows]


def card(row: Card, now: datetime) -> CardShape:
    """One of them."""
    [shape] = cards([row], now)
    return shape


def _card(row: Card, sub_cards: Mapping[UUID, list[SubCardShape]], now: datetime) -> CardShape:
    zone = ZoneInfo(row.merchant.time_zone)
    loads = list(row.loads.all())
    policies = list(row.policies.all())
    valued = valuation.value(
        (
            valuation.LoadPosition(
                load=str(load.seq),
                paid=load.paid,
                face=load.face,
                remaining=load.remaining,
                starts_on=load.starts_on_date if row.unit == Unit.DAYS else None,
            )
            for load in loads
        ),
        on_date=local_date(row.merchant, now),
    )
    return {
        "id": public_id("crd", row.pk),
        "last4": row.last4,
        "program": public_id("prg", row.program_id),
        "kind": row.kind,
        "state": row.state,
        "currency": CURRENCY,
        "network_account": public_id("net", row.network_account_id),
        "holder": {"name": _name(row.network_account.holder_name), "phone": _phone(row.network_account.phone)},
        "balance": _balance(row.unit, valued.usable, valued.refundable),
        "loads": [
            {
                "id": public_id("lod", load.pk),
                "paid": load.paid,
                "face": load.face,
                "remaining": load.remaining,
                "sub_cards": sub_cards[load.pk],
            }
            for load in loads
        ],
        "policy": _policy_of(policies),
        "created_at": moment(row.recorded_at, zone),
    }


def _policy_of(policies: Sequence[Policy]) -> CoverShape | None:
    """The policy that lives, otherwise the latest; the policies come latest first."""
    found = next((row for row in policies if row.state not in _NOTHING_LIVES), None)
    found = found or next(iter(policies), None)
    if found is None:
        return None
    return {
        "id": public_id("pol", found.pk),
        "state": found.state,
        "policy_no": found.policy_no,
        "sum_insured": found.sum_insured,
        "premium": found.premium,
    }


def transaction(
    row: Transaction | Posted, entries: Iterable[Part], *, refunded: int, zone: ZoneInfo
) -> TransactionShape:
    """A transaction; its amount without the sign that its entries have."""
    return {
        "id": public_id("txn", row.id),
        "card": public_id("crd", row.card_id),
        "kind": row.kind,
        "original": None if row.original_id is None else public_id("txn", row.original_id),
        "reference": row.reference,
        "store": row.store or None,
        "unit": row.unit,
        "list_amount": row.list_amount,
        "charged_amount": row.charged_amount,
        "amount": abs(row.amount),
        "refunded": refunded,
        "occurred_at": moment(row.occurred_at, zone),
        "recorded_at": moment(row.recorded_at, zone),
        "balance": _balance(row.unit, row.usable_after, row.refundable_after),
        "entries": [
            {"sub_card": part.sub_card, "amount": part.amount, "balance_after": part.balance_after} for part in entries
        ],
    }


def transactions(rows: Sequence[Transaction], zone: ZoneInfo) -> list[TransactionShape]:
    """Transactions with their entries, and with what was given back of each until now."""
    parts: dict[UUID, list[Part]] = defaultdict(list)
    for transaction_id, *figures in (
        Entry.objects.filter(transaction__in=[row.pk for row in rows])
        .order_by("pk")
        .values_list("transaction", "sub_card__seq", "amount", "balance_after")
    ):
        parts[transaction_id].append(Part(*figures))
    returned: QuerySet[Any, Any] = (
        Transaction.objects.filter(original__in=[row.pk for row in rows])
        .values_list("original")
        .annotate(amount=Sum("amount"))
        .order_by()
    )
    refunded: dict[UUID, int] = dict(returned)
    return [transaction(row, parts[row.pk], refunded=refunded.get(row.pk, 0), zone=zone) for row in rows]


def consumption(found: Consumption, zone: ZoneInfo) -> ConsumptionShape:
    """The dynamic consumption information; what was given back is as at its moment, too."""
    refunded: dict[UUID, int] = {}
    for row in found.transactions:
        if row.original_id is not None:
            refunded[row.original_id] = refunded.get(row.original_id, 0) + row.amount
    return {
        "card": public_id("crd", found.card.pk),
        "at": moment(found.at, zone),
        "currency": CURRENCY,
        "balance": _balance(found.card.unit, found.valuation.usable, found.valuation.refundable),
        "transactions": [
            transaction(
                row,
                [Part(entry.sub_card.seq, entry.amount, entry.balance_after) for entry in row.entries.all()],
                refunded=refunded.get(row.pk, 0),
                zone=zone,
            )
            for row in found.transactions
        ],
    }


def valued(row: Card, at: datetime, found: valuation.Valuation, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "card": public_id("crd", row.pk),
        "at": moment(at, zone),
        "currency": CURRENCY,
        "unit": row.unit,
        **found.sheet(),
    }


def policy(row: Policy, zone: ZoneInfo) -> PolicyShape:
    return {
        "id": public_id("pol", row.pk),
        "card": public_id("crd", row.card_id),
        "insurer": row.product.insurer.name,
        "product": row.product.code,
        "state": row.state,
        "policy_no": row.policy_no,
        "currency": CURRENCY,
        "sum_insured": row.sum_insured,
        "premium": row.premium,
        "cover_from": row.cover_from_date.isoformat(),
        "cover_to": row.cover_to_date.isoformat(),
        "compensated": row.compensated,
        "refusal_code": row.refusal_code or None,
        "endorsements": [_endorsement(change, zone) for change in row.endorsements.all()],
        "certificate": f"{api.PREFIX}policies/{public_id('pol', row.pk)}/certificate" if row.policy_no else None,
        "accepted_at": moment(row.accepted_at, zone),
        "created_at": moment(row.recorded_at, zone),
    }


def _endorsement(row: Endorsement, zone: ZoneInfo) -> EndorsementShape:
    return {
        "kind": row.kind,
        "state": row.state,
        "endorsement_no": row.endorsement_no,
        "amount": row.amount,
        "premium": row.premium,
        "effective": row.effective_date.isoformat(),
        "accepted_at": moment(row.accepted_at, zone),
    }


def certificate(row: Policy, zone: ZoneInfo) -> CertificateShape:
    """Who covers whom against what: an accepted policy, with the endorsements that were accepted."""
    account = row.card.network_account
    return {
        "policy": public_id("pol", row.pk),
        "policy_no": row.policy_no,
        "state": row.state,
        "insurer": row.product.insurer.name,
        "product": row.product.code,
        "policyholder": row.merchant.name,
        "insured": {"name": _name(account.holder_name), "phone": _phone(account.phone)},
        "card": {"id": public_id("crd", row.card_id), "last4": row.card.last4},
        "currency": CURRENCY,
        "sum_insured": row.sum_insured,
        "premium": row.premium,
        "cover_from": row.cover_from_date.isoformat(),
        "cover_to": row.cover_to_date.isoformat(),
        "coverage_ratio": _share(row.product.coverage_ratio),
        "deductible_rate": _share(row.product.deductible_rate),
        "deductible_amount": row.product.deductible_amount,
        "endorsements": [_endorsement(change, zone) for change in row.endorsements.all() if change.endorsement_no],
        "accepted_at": moment(row.accepted_at, zone),
    }


def claim(row: Claim, zone: ZoneInfo) -> ClaimShape:
    """A claim as it stands in a list, without its calculation sheet."""
    return {
        "id": public_id("clm", row.pk),
        "card": public_id("crd", row.card_id),
        "policy": None if row.policy_id is None else public_id("pol", row.policy_id),
        "kind": row.kind,
        "supplements": None if row.supplements_id is None else public_id("clm", row.supplements_id),
        "state": row.state,
        "reference": row.reference or None,
        "event": {"trigger": row.event.trigger, "loss_date": row.event.loss_date.isoformat()},
        "currency": CURRENCY,
        "loss": row.loss,
        "legal_entitlement": row.legal_entitlement,
        "compensation": row.payable,
        "reason": row.reason or None,
        "created_at": moment(row.filed_at, zone),
        "assessed_at": moment(row.assessed_at, zone),
        "decided_at": moment(row.decided_at, zone),
        "paid_at": moment(row.paid_at, zone),
    }


def one_claim(row: Claim, zone: ZoneInfo) -> dict[str, Any]:
    """A claim with its calculation sheet, once it is assessed."""
    return {**claim(row, zone), "worksheet": worksheet(row)}
