"""The refundable principal that the database computes is the one that Python computes, to the fen."""

from datetime import date, timedelta
from fractions import Fraction

from django.db import connection
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from config import money
from issuing.models import Kind
from prepaid import valuation
from prepaid.models import Card
from tests import cards


def by_python(card: Card, on_date: date) -> valuation.Valuation:
    days = card.unit == "DAYS"
    return valuation.value(
        [
            valuation.LoadPosition(
                str(load.pk), load.paid, load.face, load.remaining, load.starts_on_date if days else None
            )
            for load in card.loads.order_by("seq")
        ],
        on_date=on_date,
    )


def by_database(card: Card, on_date: date) -> tuple[int, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT ledger_usable(c, %s::date), ledger_refundable(c.id, c.unit, %s::date)"
            " FROM prepaid_card c WHERE c.id = %s",
            [on_date, on_date, card.pk],
        )
        return cursor.fetchone()


fen = st.integers(1, 10**9)


class TheTwoValuations(TestCase):
    def agree(self, card: Card, on_date: date) -> None:
        expected = by_python(card, on_date)
        assert by_database(card, on_date) == (expected.usable, expected.refundable)

    @given(st.lists(st.tuples(fen, fen), min_size=1, max_size=4), st.fractions(0, 1), st.booleans())
    def test_money(self, loads, share, without_gift):
        loads = [(paid, 0 if without_gift else gift) for paid, gift in loads]
        program = cards.program(Kind.BONUS, card_limit=2 * 10**8)
        card = cards.opened(program, loads[0][0], gift=loads[0][1])
        for paid, gift in loads[1:]:
            cards.topped_up(card, paid, gift=gift)
        card.refresh_from_db()
        spent = int(card.remaining * share)
        if spent:
            posted = cards.paid(card, spent)
            assert posted.refundable_after == by_python(card, cards.local_date(cards.NOW)).refundable
        self.agree(card, cards.local_date(cards.NOW))

    @given(st.integers(1, 10**6), st.integers(1, 500), st.integers(1, 4), st.fractions(0, 1))
    def test_uses(self, price, uses, loads, share):
        program = cards.program(Kind.TIMES, price=price, uses=uses)
        card = cards.opened(program, price)
        for _load in range(loads - 1):
            cards.topped_up(card, price)
        used = int(uses * loads * share)
        if used:
            cards.paid(card, uses=used)
        self.agree(card, cards.local_date(cards.NOW))

    @given(st.integers(1, 10**6), st.integers(1, 1000), st.integers(1, 3), st.integers(-10, 4000))
    def test_days(self, price, term, loads, on_day):
        program = cards.program(Kind.ENTITLEMENT, price=price, term_days=term)
        card = cards.opened(program, price)
        for _load in range(loads - 1):
            cards.topped_up(card, price)
        self.agree(card, cards.local_date(cards.OPENED) + timedelta(days=on_day))

    @given(st.integers(0, 10**14), st.integers(1, 10**6))
    def test_half_up_is_the_same_in_both(self, numerator, denominator):
        scaled = Fraction(numerator, 10**6)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT half_up(%s::numeric / 1000000), half_up_sum(%s::numeric, %s)",
                [numerator, numerator, denominator],
            )
            once, summed = cursor.fetchone()
        assert once == money.half_up(scaled)
        assert summed == money.half_up(numerator, denominator)
