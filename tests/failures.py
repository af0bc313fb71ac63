"""A merchant that fails, its cards' cover, and claims for them."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.contrib.auth.models import User

from claims import adjudication
from claims.models import Claim, InsuredEvent, InterestRate
from insurance.models import Insurer, Policy, Product
from issuing.models import Merchant
from prepaid import ledger
from prepaid.models import Card
from tests.cards import SHANGHAI, reference
from tests.cards import paid as paid_with

LOSS_DATE = date(2026, 5, 20)
LOSS_AT = datetime(2026, 5, 20, tzinfo=SHANGHAI)
BEFORE = datetime(2026, 5, 19, 23, 59, tzinfo=SHANGHAI)
AFTER = datetime(2026, 5, 25, 10, 0, tzinfo=SHANGHAI)
NOW = datetime(2026, 6, 1, 9, 0, tzinfo=SHANGHAI)


def staff(name: str) -> User:
    return User.objects.get_or_create(username=name)[0]


def product(merchant: Merchant, **terms: Any) -> Product:
    insurer, _made = Insurer.objects.get_or_create(code="ANPING", defaults={"name": "Anping"})
    return Product.objects.create(
        **{
            "merchant": merchant,
            "insurer": insurer,
            "code": "PCPG-A",
            "annual_rate": Decimal("0.012"),
            "valid_from_date": date(2025, 1, 1),
            **terms,
        }
    )


def covered(card: Card, *, terms: Product | None = None, **facts: Any) -> Policy:
    """An accepted policy of the card over the money paid, unless ``facts`` say otherwise."""
    terms = terms or Product.objects.filter(merchant=card.merchant).first() or product(card.merchant)
    return Policy.objects.create(
        **{
            "card": card,
            "merchant": card.merchant,
            "product": terms,
            "state": Policy.State.ACCEPTED,
            "sum_insured": sum(card.loads.values_list("paid", flat=True)),
            "premium": 100,
            "cover_from_date": card.loads.earliest("seq").starts_on_date,
            "cover_to_date": card.loads.earliest("seq").starts_on_date + timedelta(days=365),
            "policy_no": reference("P"),
            "accepted_at": card.opened_at,
            "recorded_at": card.opened_at,
            **facts,
        }
    )


def arrived_late(card: Card, list_amount: int) -> ledger.Posted:
    """A payment from before the loss whose record arrives when the card is claimed already."""
    return paid_with(card, list_amount, at=BEFORE, now=NOW)


def rate(annual: str = "0.03", since: date = date(2025, 5, 20)) -> None:
    InterestRate.objects.get_or_create(
        kind=InterestRate.Kind.LPR_1Y, valid_from_date=since, defaults={"annual_rate": Decimal(annual)}
    )


def declared(merchant: Merchant, *, loss_date: date = LOSS_DATE) -> InsuredEvent:
    return adjudication.declare(
        merchant=merchant,
        trigger=InsuredEvent.Trigger.CLOSED_DOWN,
        loss_date=loss_date,
        evidence="doors shut since Monday, notice of the market office",
        by=staff("clerk"),
        now=NOW,
    )


def failed(merchant: Merchant, *, loss_date: date = LOSS_DATE) -> InsuredEvent:
    """The merchant's failure, confirmed."""
    event = declared(merchant, loss_date=loss_date)
    adjudication.confirm(event=event, by=staff("chief"), now=NOW)
    return event


def filed(card: Card) -> Claim:
    if not InsuredEvent.objects.filter(merchant=card.merchant).exists():
        failed(card.merchant)
    return adjudication.file_claim(card=card, by="staff:clerk", now=NOW)


def assessed(card: Card, **facts: Any) -> Claim:
    return adjudication.assess(claim=filed(card), by=staff("adjuster"), now=NOW, **facts)


def approved(card: Card, **facts: Any) -> Claim:
    claim = assessed(card, **facts)
    adjudication.approve(claim=claim, by=staff("chief"), now=NOW)
    return claim


def paid(card: Card, **facts: Any) -> Claim:
    claim = approved(card, **facts)
    adjudication.pay(claim=claim, by=staff("cashier"), now=NOW)
    return claim


def settled(claim: Claim) -> Claim:
    """A filed claim through to its payment."""
    adjudication.assess(claim=claim, by=staff("adjuster"), now=NOW)
    adjudication.approve(claim=claim, by=staff("chief"), now=NOW)
    adjudication.pay(claim=claim, by=staff("cashier"), now=NOW)
    return claim
