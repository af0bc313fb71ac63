"""Compensation from the live balance: the loss, what of it is payable, and the worksheet that shows it."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claims import compensation
from claims.compensation import Step

TEN_PERCENT = Decimal("0.10")


def assess(refundable: int = 62_500, *, now: int | None = None, sum_insured_left: int = 100_000, **terms):
    return compensation.compensation(
        refundable_at_loss=refundable,
        refundable_now=refundable if now is None else now,
        sum_insured_left=sum_insured_left,
        **terms,
    )


def test_without_deductible_the_whole_loss_is_payable():
    assert assess()[:2] == (62_500, 62_500)


def test_ten_percent_deductible():
    assert assess(deductible_rate=TEN_PERCENT).payable == 56_250


def test_an_absolute_deductible_of_100():
    assert assess(deductible_amount=10_000).payable == 52_500


def test_coverage_of_80_percent():
    assert assess(coverage_ratio=Decimal("0.80")).payable == 50_000


def test_what_the_merchant_refunded_comes_off_before_the_deductible():
    sheet = assess(refunds_received=20_000, deductible_rate=TEN_PERCENT)
    assert (sheet.loss, sheet.payable) == (42_500, 38_250)


def test_what_is_excluded_is_no_loss():
    assert assess(excluded=12_500).loss == 50_000


def test_no_more_than_the_sum_insured_left_is_compensated():
    sheet = assess(sum_insured_left=40_000, deductible_rate=TEN_PERCENT)
    assert (sheet.loss, sheet.payable) == (62_500, 36_000)
    assert assess(sum_insured_left=0).payable == 0


def test_what_was_spent_after_the_loss_date_is_not_compensated_as_well():
    assert assess(62_500, now=50_000).loss == 50_000
    assert assess(62_500, now=0)[:2] == (0, 0)


def test_what_came_onto_the_card_after_the_loss_date_is_not_a_loss():
    assert assess(62_500, now=162_500).loss == 62_500


def test_a_deduction_larger_than_the_loss_leaves_nothing_and_no_debt():
    assert assess(refunds_received=70_000)[:2] == (0, 0)
    assert assess(deductible_amount=70_000)[:2] == (62_500, 0)


def test_every_line_is_rounded_half_up_and_the_next_starts_from_it():
    sheet = assess(101, coverage_ratio=Decimal("0.5"), deductible_rate=Decimal("0.5"))
    figures = {line.step: line.amount for line in sheet.lines}
    assert figures[Step.COVERED] == 51
    assert figures[Step.AFTER_DEDUCTIBLE_RATE] == 26
    assert sheet.payable == 26


def test_the_worksheet_shows_every_figure_and_can_be_kept():
    sheet = assess(62_500, now=60_000, refunds_received=5_000, deductible_rate=TEN_PERCENT).sheet()
    assert json.loads(json.dumps(sheet)) == sheet
    assert sheet["formula"] == "compensation-1"
    assert [(line["step"], line["amount"], line["by"]) for line in sheet["lines"]] == [
        ("refundable_at_loss", 62_500, None),
        ("refundable_now", 60_000, None),
        ("still_there", 60_000, None),
        ("refunds_received", 55_000, 5_000),
        ("excluded", 55_000, 0),
        ("loss", 55_000, None),
        ("sum_insured_left", 100_000, None),
        ("insured_loss", 55_000, None),
        ("covered", 55_000, "1"),
        ("after_deductible_rate", 49_500, "0.10"),
        ("payable", 49_500, 0),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"refunds_received": -1}, {"excluded": -1}, {"deductible_amount": -1},
        {"sum_insured_left": -1}, {"now": -1},
        {"coverage_ratio": Decimal("1.01")}, {"deductible_rate": Decimal("-0.1")},
        {"deductible_rate": Decimal(10)},
    ],
)  # fmt: skip
def test_figures_that_make_no_sense_are_not_calculated_with(wrong):
    with pytest.raises(ValueError):
        assess(**wrong)


fen = st.integers(0, 10**10)
ratios = st.decimals(0, 1, places=4)


@given(fen, fen, fen, fen, fen, ratios, ratios, fen)
def test_compensation_never_exceeds_loss_cover_or_what_is_there(
    at_loss, now, refunds, excluded, left, coverage, rate, amount
):
    sheet = assess(
        at_loss, now=now, refunds_received=refunds, excluded=excluded, sum_insured_left=left,
        coverage_ratio=coverage, deductible_rate=rate, deductible_amount=amount,
    )  # fmt: skip
    assert 0 <= sheet.payable <= min(sheet.loss, left)
    assert 0 <= sheet.loss <= min(at_loss, now)
    assert sheet.loss <= max(0, at_loss - refunds)
    assert sheet.lines[-1].amount == sheet.payable


@given(fen, st.integers(0, 10**8), ratios, ratios, fen)
def test_a_larger_loss_is_never_compensated_less(loss, more, coverage, rate, amount):
    terms = {
        "sum_insured_left": 10**11,
        "coverage_ratio": coverage,
        "deductible_rate": rate,
        "deductible_amount": amount,
    }
    assert assess(loss + more, **terms).payable >= assess(loss, **terms).payable
