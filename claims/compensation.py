"""What the insurer compensates for one card (the patent's claims module, 赔付模块).

Pure: figures in fen and ratios as Decimals in, a worksheet out. Every line of it is rounded half-up where
it is shown and the next starts from the rounded figure, so that anybody can check the sheet with a pocket
calculator. Interest and penalties are not insured and do not appear here.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any, NamedTuple

from config.money import half_up

FORMULA = "compensation-1"


class Step(StrEnum):
    """The lines of a worksheet, in their order."""

    REFUNDABLE_AT_LOSS = "refundable_at_loss"
    REFUNDABLE_NOW = "refundable_now"
    STILL_THERE = "still_there"
    REFUNDS_RECEIVED = "refunds_received"
    EXCLUDED = "excluded"
    LOSS = "loss"
    SUM_INSURED_LEFT = "sum_insured_left"
    INSURED_LOSS = "insured_loss"
    COVERED = "covered"
    AFTER_DEDUCTIBLE_RATE = "after_deductible_rate"
    PAYABLE = "payable"


class Line(NamedTuple):
    """One step and the figure it gives in fen; ``by`` is the ratio or the amount that it applies."""

    step: Step
    amount: int
    by: Decimal | int | None = None


class Worksheet(NamedTuple):
    """``loss`` and ``payable`` in fen, and every line that leads to them."""

    loss: int
    payable: int
    lines: list[Line]

    def sheet(self) -> dict[str, Any]:
        """The worksheet as plain data, as it is kept with the claim."""
        return {
            "formula": FORMULA,
            "lines": [
                {
                    "step": str(line.step),
                    "amount": line.amount,
                    "by": str(line.by) if isinstance(line.by, Decimal) else line.by,
                }
                for line in self.lines
            ],
            "loss": self.loss,
            "payable": self.payable,
        }


def compensation(
    *,
    refundable_at_loss: int,
    refundable_now: int,
    refunds_received: int = 0,
    excluded: int = 0,
    sum_insured_left: int,
    coverage_ratio: Decimal = Decimal(1),
    deductible_rate: Decimal = Decimal(0),
    deductible_amount: int = 0,
) -> Worksheet:
    """Loss and payable amount of one card.

        loss    = max(0, min(refundable at the loss date, refundable now) − refunds received − excluded)
        payable = max(0, min(loss, sum insured left) × coverage × (1 − deductible rate) − deductible amount)

    Both refundable figures are principal owed for the operator's cause: at the midnight that begins the loss
    date, and at assessment for what is still on the card. What was spent between the two has been consumed
    and is not compensated as well; an entitlement's "now" is valued on the loss date too, because a failed
    merchant no longer serves the days that pass. ``refunds_received`` is money the holder got outside the
    ledger (what went through it is gone from ``refundable_now`` already); ``excluded`` is the part over the
    legal limit or of a card lost or unlawfully obtained. An amount deducted is never below zero.

    :raises ValueError: for a negative figure or a ratio outside 0 to 1.
    """
    amounts = (
        refundable_at_loss, refundable_now, refunds_received, excluded, sum_insured_left, deductible_amount
    )  # fmt: skip
    if min(amounts) < 0 or not (0 <= coverage_ratio <= 1 and 0 <= deductible_rate <= 1):
        raise ValueError("figures are not negative and ratios lie between 0 and 1")
    still_there = min(refundable_at_loss, refundable_now)
    loss = max(0, still_there - refunds_received - excluded)
    insured_loss = min(loss, sum_insured_left)
    covered = half_up(insured_loss * Fraction(coverage_ratio))
    after_rate = half_up(covered * (1 - Fraction(deductible_rate)))
    payable = max(0, after_rate - deductible_amount)
    lines = [
        Line(Step.REFUNDABLE_AT_LOSS, refundable_at_loss),
        Line(Step.REFUNDABLE_NOW, refundable_now),
        Line(Step.STILL_THERE, still_there),
        Line(Step.REFUNDS_RECEIVED, max(0, still_there - refunds_received), refunds_received),
        Line(Step.EXCLUDED, loss, excluded),
        Line(Step.LOSS, loss),
        Line(Step.SUM_INSURED_LEFT, sum_insured_left),
        Line(Step.INSURED_LOSS, insured_loss),
        Line(Step.COVERED, covered, coverage_ratio),
        Line(Step.AFTER_DEDUCTIBLE_RATE, after_rate, deductible_rate),
        Line(Step.PAYABLE, payable, deductible_amount),
    ]
    return Worksheet(loss, payable, lines)
