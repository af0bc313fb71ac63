"""The calculation sheet of a claim, laid out from the figures that are kept with it."""

from typing import Any

from claims.compensation import compensation
from claims.models import Claim
from issuing.models import Unit
from prepaid import valuation
from prepaid.models import Load

# A new formula gets a new name and stands here beside the old one: a sheet is read as it was calculated.
FORMULAS = {"compensation-1 valuation-1": compensation}

_TOTALS = (
    "refundable_at_loss", "refundable_now", "refunded_by_merchant", "excluded", "payable", "interest", "loss"
)  # fmt: skip


def worksheet(claim: Claim) -> dict[str, Any] | None:
    """Every line of the calculation and what it was made of, as plain data; None before it is assessed.

    Money in fen. The sheet of a supplement is the whole calculation anew; ``paid_before`` is what the claims before
    it paid, and the difference is the supplement. ``entries`` names the ledger entries used: those of the card that
    occurred before the loss, up to number ``through``. ``paid_in_after_loss`` is no part of the calculation.
    """
    if claim.assessed_at is None or claim.coverage_ratio is None or claim.deductible_rate is None:
        return None
    # Of a claim that follows others the columns hold differences; all of them together are the whole.
    chain = [claim]
    if claim.kind == Claim.Kind.SUPPLEMENT:
        chain += Claim.objects.filter(card=claim.card_id, state=Claim.State.PAID, id__lt=claim.pk)
    total = {name: sum(getattr(one, name) or 0 for one in chain) for name in _TOTALS}
    sheet = FORMULAS[claim.formula](
        refundable_at_loss=total["refundable_at_loss"],
        refundable_now=total["refundable_now"],
        refunds_received=total["refunded_by_merchant"],
        excluded=total["excluded"],
        sum_insured_left=claim.sum_insured_left or 0,
        coverage_ratio=claim.coverage_ratio,
        deductible_rate=claim.deductible_rate,
        deductible_amount=claim.deductible_amount or 0,
    ).sheet()
    return {
        **sheet,
        "formula": claim.formula,
        "loss_date": claim.event.loss_date.isoformat(),
        "entries": {"through": claim.entries_through, "number": claim.entries_number, "sum": claim.entries_sum},
        "loads": [
            {"load": load, "paid": paid, "face": face, "at_loss": at_loss, "now": now}
            for load, paid, face, at_loss, now in claim.loads or ()
        ],
        "paid_in_after_loss": paid_in_after_loss(claim),
        "paid_before": total["payable"] - (claim.payable or 0),
        "interest": {
            "contract_date": claim.contract_date and claim.contract_date.isoformat(),
            "annual_rate": claim.annual_rate and str(claim.annual_rate),
            "days": claim.interest_days,
            "amount": None if claim.interest is None else total["interest"],
        },
        "legal_entitlement": None if claim.interest is None else total["loss"] + total["interest"],
    }


def paid_in_after_loss(claim: Claim) -> int:
    """Refundable principal of the loads bought at or after the loss, in fen.

    It is no loss and not compensated: it stays on the card, and the holder has it against the merchant.
    """
    card = claim.card
    later = Load.objects.filter(card=card, occurred_at__gte=card.loss_at) if card.loss_at else Load.objects.none()
    positions = [
        valuation.LoadPosition(
            load=str(load.seq),
            paid=load.paid,
            face=load.face,
            remaining=load.remaining,
            starts_on=load.starts_on_date if card.unit == Unit.DAYS else None,
        )
        for load in later.order_by("seq")
    ]
    return valuation.value(positions, on_date=claim.event.loss_date).refundable
