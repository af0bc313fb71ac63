"""Papers for the holder, as PDF: the statement of a period and the certificate of cover, in Chinese or English.

A paper is drawn in the reader's chosen language, of one card, within limits it states itself: the same facts at the
same moment give the same bytes. Numbers of cards and names of people are masked as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pylopdf_fonts_zh_cn
from django.db.models import Count, Sum
from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from fpdf import FPDF
from fpdf.enums import XPos, YPos

from config.errors import Refused
from config.ids import public_id
from config.money import format_yuan
from insurance.models import Policy
from issuing.models import Unit
from prepaid import consumption
from prepaid.models import Card, SubCard, Transaction

LONGEST = timedelta(days=366)
MOST_ROWS = 2_000
MOST_SUB_CARDS = 500

_FONT = "Noto Sans SC"
_MARGIN, _LINE = 15, 6
_INK, _GREY, _RULE = (17, 24, 39), (107, 114, 128), (209, 213, 219)


class PeriodNotStatable(Refused):
    status = 400
    text = gettext_lazy("A statement is of at most %(days)s days, from its first day to its last.")


class NotCovered(Refused):
    text = gettext_lazy("No insurer has accepted this card: there is no cover to certify.")


def quantity(amount: int, unit: str) -> str:
    """An amount in a card's unit, as text."""
    if unit == Unit.MONEY:
        return format_yuan(amount)
    if unit == Unit.USES:
        return ngettext("%(n)s use", "%(n)s uses", amount) % {"n": amount}
    return ngettext("%(n)s day", "%(n)s days", amount) % {"n": amount}


def masked_name(name: str) -> str:
    """A holder's name by its first character."""
    return name[0] + "*" * (len(name) - 1) if name else _("unnamed")


def statement(*, card: Card, first: date, last: date, language: str, now: datetime) -> bytes:
    """What happened to a card from the merchant's day ``first`` to its day ``last``, as PDF.

    Opening balance, every transaction by when it occurred, totals by kind, closing balance. Past ``MOST_ROWS``
    transactions the paper says how many it leaves out; the totals count them all.

    :raises PeriodNotStatable: the period is turned round or longer than ``LONGEST``.
    """
    if not timedelta(0) <= last - first <= LONGEST:
        raise PeriodNotStatable(days=LONGEST.days)
    zone = ZoneInfo(card.merchant.time_zone)
    start = datetime.combine(first, time.min, zone)
    end = datetime.combine(last + timedelta(days=1), time.min, zone)
    moment = timedelta(microseconds=1)
    opening = consumption.valuation_at(card, start - moment)
    closing = consumption.valuation_at(card, end - moment)
    within = Transaction.objects.filter(card=card, occurred_at__gte=start, occurred_at__lt=end)
    totals = {
        row["kind"]: (row["count"], row["sum"])
        for row in within.order_by().values("kind").annotate(count=Count("pk"), sum=Sum("amount"))
    }
    rows = list(within.order_by("occurred_at", "pk")[:MOST_ROWS])
    with translation.override(language):
        paper = _Paper(_("Statement of a prepaid card"), now=now.astimezone(zone))
        paper.facts(
            [
                *_card_facts(card),
                (_("period"), f"{first.isoformat()} – {last.isoformat()}"),
                (_("opening balance"), quantity(opening.usable, card.unit)),
                (_("closing balance"), quantity(closing.usable, card.unit)),
                (_("refundable principal at the end"), format_yuan(closing.refundable)),
            ]
        )
        paper.columns(
            [(_("occurred at"), 42, "L"), (_("kind"), 34, "L"), (_("reference"), 54, "L"), (_("amount"), 25, "R"),
             (_("balance after"), 25, "R")],
            (
                (
                    f"{row.occurred_at.astimezone(zone):%Y-%m-%d %H:%M:%S}", _capital(str(row.get_kind_display())),
                    row.reference, quantity(row.amount, row.unit), quantity(left, row.unit),
                )
                for row, left in zip(rows, _balances(opening.usable, rows), strict=True)
            ),
        )  # fmt: skip
        everything = sum(count for count, _sum in totals.values())
        if not everything:
            paper.say(_("Nothing happened in this period."))
        if everything > len(rows):
            paper.say(
                _("%(left_out)s further transactions of the period are not printed; the totals count them all.")
                % {"left_out": everything - len(rows)}
            )
        paper.columns(
            [(_("totals"), 88, "L"), (_("transactions"), 42, "R"), (_("amount"), 50, "R")],
            (
                (_capital(str(kind.label)), f"{totals[kind][0]:,}", quantity(totals[kind][1], card.unit))
                for kind in Transaction.Kind
                if kind in totals
            ),
        )
        return paper.finished()


def _balances(opening: int, rows: Sequence[Transaction]) -> Iterable[int]:
    """The balance after each, in the order in which they occurred: what was recorded late stands where it belongs.

    Days also go by between them, so of a card counted in days it is what the ledger wrote.
    """
    for row in rows:
        opening += row.amount
        yield row.usable_after if row.unit == Unit.DAYS else opening


def certificate(*, card: Card, language: str, now: datetime) -> bytes:
    """That a card is insured, by whom, for how much and how long, with its sub-cards, as PDF.

    :raises NotCovered:
    """
    policy = policy_in_force(card)
    if policy is None:
        raise NotCovered
    zone = ZoneInfo(card.merchant.time_zone)
    parts = SubCard.objects.filter(card=card)
    count = parts.count()
    with translation.override(language):
        paper = _Paper(_("Certificate of cover"), now=now.astimezone(zone))
        paper.facts(
            [
                (_("policy no."), policy.policy_no or ""),
                (_("insurer"), policy.product.insurer.name),
                (_("sum insured"), format_yuan(policy.sum_insured)),
                (_("compensated already"), format_yuan(policy.compensated)),
                (_("period of cover"), f"{policy.cover_from_date.isoformat()} – {policy.cover_to_date.isoformat()}"),
                *_card_facts(card),
            ]
        )
        paper.columns(
            [(_("sub-card"), 60, "L"), (_("face"), 60, "R"), (_("remaining"), 60, "R")],
            (
                (str(part.seq), quantity(part.face, card.unit), quantity(part.remaining, card.unit))
                for part in parts.order_by("seq")[:MOST_SUB_CARDS]
            ),
        )
        if count > MOST_SUB_CARDS:
            paper.say(_("%(left_out)s further sub-cards are not printed.") % {"left_out": count - MOST_SUB_CARDS})
        paper.say(_("Cover begins and ends at midnight where the merchant is; on the last day named it has ended."))
        return paper.finished()


def policy_in_force(card: Card) -> Policy | None:
    return Policy.objects.filter(card=card, state="ACCEPTED").select_related("product__insurer").first()


def _card_facts(card: Card) -> list[tuple[str, str]]:
    return [
        (_("card"), f"**** {card.last4} · {card.get_kind_display()}"),
        (_("public id"), public_id("crd", card.pk)),
        (_("holder"), masked_name(card.network_account.holder_name)),
        (_("merchant"), card.merchant.name),
    ]


class _Paper(FPDF):
    """A4, one font that has both languages and of which only what is used is kept."""

    def __init__(self, title: str, *, now: datetime) -> None:
        super().__init__(format="A4")
        self.drawn = f"{now:%Y-%m-%d %H:%M}"
        self.set_creation_date(now)
        self.set_title(title)
        self.set_margins(_MARGIN, _MARGIN)
        self.set_auto_page_break(True, margin=_MARGIN + 5)
        self.add_font(_FONT, fname=str(pylopdf_fonts_zh_cn.sans_path()))
        self.set_font(_FONT)
        self.add_page()
        self._write(title, size=17)
        self.ln(3)

    def footer(self) -> None:
        self.set_y(-_MARGIN)
        words = _("Prepaid · drawn %(at)s · page %(page)s of %(pages)s") % {
            "at": self.drawn, "page": self.page_no(), "pages": "{nb}",
        }  # fmt: skip
        self._write(words, size=8, colour=_GREY)

    def facts(self, facts: Iterable[tuple[str, str]]) -> None:
        for label, value in facts:
            self.set_font_size(9)
            self.set_text_color(*_GREY)
            self.cell(55, _LINE, _capital(label))
            self.set_text_color(*_INK)
            self.cell(0, _LINE, self._fitting(value, 125), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(4)

    def columns(self, head: Sequence[tuple[str, float, str]], rows: Iterable[Sequence[str]]) -> None:
        self._row([(_capital(label), width, align) for label, width, align in head], colour=_GREY)
        for row in rows:
            self._row([(text, width, align) for text, (_label, width, align) in zip(row, head, strict=True)])
        self.ln(4)

    def say(self, words: str) -> None:
        self.set_font_size(9)
        self.set_text_color(*_GREY)
        self.multi_cell(0, 5, words, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(2)

    def finished(self) -> bytes:
        return bytes(self.output())

    def _row(self, cells: Sequence[tuple[str, float, str]], colour: tuple[int, int, int] = _INK) -> None:
        self.set_font_size(9)
        self.set_text_color(*colour)
        self.set_draw_color(*_RULE)
        for text, width, align in cells:
            self.cell(width, _LINE, self._fitting(text, width - 2), border="B", align=align)
        self.ln(_LINE)

    def _write(self, text: str, *, size: int, colour: tuple[int, int, int] = _INK) -> None:
        self.set_font_size(size)
        self.set_text_color(*colour)
        self.cell(0, size / 2 + 2, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def _fitting(self, text: str, width: float) -> str:
        """As much of a text as there is room for, with a sign where it is cut."""
        if self.get_string_width(text) <= width:
            return text
        while text and self.get_string_width(f"{text}…") > width:
            text = text[:-1]
        return f"{text}…"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
