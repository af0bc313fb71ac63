"""What a folder of files must come to, worked out from the files alone: plain Python, exact fractions, no database.

Written from the rules and not from the program, so that the two can disagree.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

SHANGHAI = ZoneInfo("Asia/Shanghai")
UNITS = {"BONUS": "MONEY", "DISCOUNT": "MONEY", "TIMES": "USES", "ENTITLEMENT": "DAYS"}


def half_up(number: Fraction) -> int:
    return (2 * number.numerator + number.denominator) // (2 * number.denominator)


def fen(yuan: str) -> int:
    return int(Decimal(yuan) * 100)


@dataclass
class Bought:
    """A card as its one purchase made it."""

    merchant: str
    unit: str
    rate: Fraction
    paid: int
    face: int
    sub_cards: int
    premium: int
    paid_at: datetime
    spent: list[tuple[datetime, int]] = field(default_factory=list)

    def left(self, at: datetime) -> int:
        if self.unit == "DAYS":
            return max(0, self.face - max(0, (local(at) - local(self.paid_at)).days))
        return self.face - sum(drawn for moment, drawn in self.spent if moment <= at)


def local(moment: datetime) -> date:
    return moment.astimezone(SHANGHAI).date()


def rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def figures(folder: Path, as_of: datetime) -> dict[str, Any]:
    """``{"merchants": {CODE: {…}}, "total": {…}}`` as at a moment, every policy accepted."""
    cards, refused = _play(folder)
    codes = sorted(row["code"] for row in rows(folder / "merchants.csv"))
    merchants = {
        code: _figures(
            [card for card in cards if card.merchant == code],
            sum(merchant == code and moment <= as_of for merchant, moment in refused),
            as_of,
        )
        for code in codes
    }
    return {"merchants": merchants, "total": _figures(cards, sum(m <= as_of for _, m in refused), as_of)}


def _figures(cards: list[Bought], refused: int, as_of: datetime) -> dict[str, Any]:
    there = [card for card in cards if card.paid_at <= as_of]

    def by_unit(amount: Any) -> dict[str, int]:
        return {unit: sum(amount(card) for card in there if card.unit == unit) for unit in ("MONEY", "USES", "DAYS")}

    return {
        "cards": len(there),
        "sub_cards": sum(card.sub_cards for card in there),
        "principal": sum(card.paid for card in there),
        "face": by_unit(lambda card: card.face),
        "usable": by_unit(lambda card: card.left(as_of)),
        "refundable_principal": sum(half_up(Fraction(card.paid * card.left(as_of), card.face)) for card in there),
        "policies_accepted": len(there),
        "premium": sum(card.premium for card in there),
        "payments_posted": sum(moment <= as_of for card in there for moment, _drawn in card.spent),
        "payments_refused": refused,
    }


def _play(folder: Path) -> tuple[list[Bought], list[tuple[str, datetime]]]:
    programs = {row["code"]: row for row in rows(folder / "programs.csv")}
    insurance = {row["merchant"]: row for row in rows(folder / "insurance.csv")}
    cards: dict[str, Bought] = {}
    for row in rows(folder / "purchases.csv"):
        cards[row["reference"]] = _bought(row, programs[row["program"]], insurance)
    refused = []
    for row in rows(folder / "payments.csv"):
        card, moment = cards[row["purchase_reference"]], datetime.fromisoformat(row["occurred_at"])
        if card.unit == "DAYS":
            drawn, is_right = 0, 0 <= (local(moment) - local(card.paid_at)).days < card.face
        else:
            drawn = int(row["uses"]) if card.unit == "USES" else half_up(fen(row["list_amount"]) * card.rate)
            is_right = drawn <= card.face - sum(earlier for _, earlier in card.spent)
        if is_right:
            card.spent.append((moment, drawn))
        else:
            refused.append((card.merchant, moment))
    return list(cards.values()), refused


def _bought(row: dict[str, str], program: dict[str, str], insurance: dict[str, dict[str, str]]) -> Bought:
    paid, limit, days = fen(row["prepaid_amount"]), fen(program["card_limit"]), int(program["term_days"])
    reached = [
        (fen(start), fen(gift))
        for start, gift in (tier.split(":") for tier in program["bonus_tiers"].split(";") if tier)
        if fen(start) <= paid
    ]
    face = {"BONUS": paid + max(reached, default=(0, 0))[1], "DISCOUNT": paid, "ENTITLEMENT": days}
    terms = insurance[program["merchant"]]
    premium = half_up(paid * Fraction(terms["annual_rate"]) * days / 365)
    return Bought(
        merchant=program["merchant"],
        unit=UNITS[program["kind"]],
        rate=Fraction(program["rate"] or "1"),
        paid=paid,
        face=face[program["kind"]] if program["kind"] in face else int(program["uses"]),
        sub_cards=-(-paid // limit),
        premium=max(premium, fen(terms["minimum_premium"])),
        paid_at=datetime.fromisoformat(row["paid_at"]),
    )
