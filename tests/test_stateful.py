"""Random sequences of everything that can happen to cards; after each step every invariant is checked.

A refused call must leave every row of the ledger byte-identical. Beside the database runs a model of a few lines that
says what each card holds.
"""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from config.errors import Refused
from config.money import half_up
from issuing.models import CardProgram, Kind
from prepaid import ledger, processing, valuation
from prepaid.models import Card, RetiredNumber, Transaction
from tests import cards, invariants

RATES = {Kind.BONUS: Decimal(1), Kind.DISCOUNT: Decimal("0.85"), Kind.ENTITLEMENT: Decimal("0.8")}
STAFF = {"reason": "asked for", "by": "staff"}

# Of uses and of fen; what no card holds and what no amount is are among them.
amounts = st.integers(1, 9) | st.integers(1, 300) | st.sampled_from([-1, 0, 10**6, 10**15])
STAFF_VERBS = [processing.freeze, processing.unfreeze, processing.unfreeze, processing.report_lost, processing.replace]


class Cards(RuleBasedStateMachine):
    opened = Bundle("opened")
    payments = Bundle("payments")

    @initialize(
        target=opened,
        limit=st.integers(50, 300),
        draw_order=st.sampled_from(CardProgram.DrawOrder),
        awaits_cover=st.sampled_from([False, False, True]),
        amounts=st.tuples(*[st.integers(100, 1000)] * 4),
    )
    def begin(self, limit, draw_order, awaits_cover, amounts):
        """One card of each kind to begin with."""
        self.rollback = transaction.atomic()
        self.rollback.__enter__()
        self.now = cards.OPENED
        self.holds: dict[Any, int] = {}
        merchant = cards.merchant()
        terms = {"merchant": merchant, "card_limit": limit, "draw_order": draw_order}
        self.programs = {
            Kind.BONUS: cards.program(Kind.BONUS, spend_before_cover=not awaits_cover, **terms),
            Kind.DISCOUNT: cards.program(Kind.DISCOUNT, rate=RATES[Kind.DISCOUNT], **terms),
            Kind.TIMES: cards.program(Kind.TIMES, price=700, uses=10, **terms),
            Kind.ENTITLEMENT: cards.program(Kind.ENTITLEMENT, price=365, term_days=40, **terms),
        }
        first = [self.open_one(kind, amount, 30) for kind, amount in zip(Kind, amounts, strict=True)]
        self.now += timedelta(days=5)
        return multiple(*first)

    def teardown(self):
        if hasattr(self, "rollback"):
            transaction.set_rollback(True)
            self.rollback.__exit__(None, None, None)

    def attempt(self, verb, *arguments, **facts):
        """The verb's answer, or its refusal, which has changed nothing."""
        before = invariants.picture()
        try:
            with transaction.atomic():
                answer = verb(*arguments, **facts)
        except Refused as refusal:
            answer = refusal
        if isinstance(answer, Refused):
            assert invariants.picture() == before
        event(f"{verb.__name__}: {answer.code if isinstance(answer, Refused) else 'done'}")
        return answer

    def price(self, kind, amount):
        return {Kind.TIMES: 700, Kind.ENTITLEMENT: 365}.get(kind, amount)

    # What happens

    @rule(hours=st.integers(1, 100))
    def time_passes(self, hours):
        self.now += timedelta(hours=hours)

    def open_one(self, kind, amount, gift):
        card = cards.opened(
            self.programs[kind], self.price(kind, amount), gift=gift if kind == Kind.BONUS else 0, at=self.now
        )
        self.holds[card.pk] = card.remaining
        return card.pk

    @rule(target=opened, kind=st.sampled_from(Kind), amount=st.integers(1, 1000), gift=st.integers(0, 300))
    def open(self, kind, amount, gift):
        return self.open_one(kind, amount, gift)

    @rule(card_id=opened, amount=st.integers(1, 500), gift=st.integers(0, 100))
    def top_up(self, card_id, amount, gift):
        card = Card.objects.get(pk=card_id)
        kind = Kind(card.kind)
        answer = self.attempt(
            cards.topped_up, card, self.price(kind, amount), gift=gift if kind == Kind.BONUS else 0, at=self.now
        )
        if isinstance(answer, Refused):
            assert isinstance(answer, ledger.CardNotActive), answer
            assert card.state != Card.State.ACTIVE
        else:
            self.holds[card_id] += answer.amount

    @rule(card_id=opened)
    def accept_cover(self, card_id):
        Card.objects.filter(pk=card_id).update(awaits_cover=False)

    @rule(target=payments, card_id=opened, amount=amounts, hours_ago=st.sampled_from([0, 0, 0, 5, 50, 200]))
    def pay(self, card_id, amount, hours_ago):
        return self.ask_for(card_id, amount, hours_ago)

    @rule(target=payments, card_id=opened, amount=st.integers(1, 9))
    def pay_a_little(self, card_id, amount):
        return self.ask_for(card_id, amount, hours_ago=0)

    @rule(target=payments, card_id=opened)
    def pay_the_last_money(self, card_id):
        return self.ask_for(card_id, self.holds[card_id], hours_ago=0)

    def ask_for(self, card_id, amount, hours_ago):
        card = Card.objects.get(pk=card_id)
        asked = {"uses" if card.kind == Kind.TIMES else "list_amount": amount}
        occurred_at = self.now - timedelta(hours=hours_ago)
        key = cards.reference("KEY")
        request = {**asked, "key": key, "fingerprint": key, "reference": key, "occurred_at": occurred_at}
        answer = self.attempt(cards.paid, card, at=self.now, **request)
        draw = amount if card.kind == Kind.TIMES else half_up(amount * RATES.get(card.kind, Decimal(1)))
        draw = 0 if card.kind == Kind.ENTITLEMENT else draw
        is_late = card.loss_at is not None and occurred_at < card.loss_at
        if isinstance(answer, Refused):
            expected = {
                ledger.AmountNotPositive: amount <= 0,
                ledger.BeforeOpening: occurred_at < card.opened_at,
                ledger.CardNotActive: card.state != Card.State.ACTIVE and not is_late,
                ledger.CoverNotAccepted: card.awaits_cover,
                ledger.TermNotRunning: card.kind == Kind.ENTITLEMENT,
                ledger.InsufficientBalance: draw > self.holds[card_id],
            }
            assert expected.get(type(answer)), (answer, card.state, draw, self.holds[card_id])
            return multiple()
        assert amount > 0
        assert (answer.amount, answer.replayed) == (-draw, False)
        if card.state == Card.State.COMPENSATED:
            assert is_late
        else:
            assert draw <= self.holds[card_id]
            self.holds[card_id] -= draw
        return (answer, request)

    @rule(made=payments)
    def ask_again(self, made):
        answer, request = made
        card = Card.objects.get(pk=answer.card_id)
        before = invariants.picture()
        assert cards.paid(card, at=self.now, **request) == answer._replace(replayed=True)
        assert invariants.picture() == before
        with pytest.raises(ledger.IdempotencyKeyReused):
            cards.paid(card, at=self.now, **{**request, "fingerprint": "another"})

    @rule(made=payments, amount=st.none() | amounts)
    def refund(self, made, amount):
        payment, _request = made
        self.give_back(cards.refunded, payment, amount=amount)

    @rule(made=payments)
    def reverse(self, made):
        payment, _request = made
        self.give_back(cards.reversed_, payment)

    def give_back(self, verb, payment, **asked):
        answer = self.attempt(verb, payment, at=self.now, **asked)
        if not isinstance(answer, Refused):
            self.holds[payment.card_id] += answer.amount
            assert answer.amount <= -payment.amount

    @rule(card_id=opened, verb=st.sampled_from([*STAFF_VERBS, *STAFF_VERBS, processing.close]))
    def staff_act(self, card_id, verb):
        card = Card.objects.get(pk=card_id)
        answer = self.attempt(verb, card=card, now=self.now, **STAFF)
        if verb is processing.close and not isinstance(answer, Refused):
            assert -answer.amount == self.holds[card_id]
            self.holds[card_id] = 0
        if verb is processing.replace and not isinstance(answer, Refused):
            assert RetiredNumber.objects.filter(card=card).exists()

    @rule(card_id=opened, hours_ago=st.integers(0, 100))
    def claim(self, card_id, hours_ago):
        card = Card.objects.get(pk=card_id)
        self.attempt(card.move, Card.State.CLAIMED, loss_at=self.now - timedelta(hours=hours_ago))

    @rule(card_id=opened)
    def compensate(self, card_id):
        card = Card.objects.get(pk=card_id)
        # What was paid in at or after the loss is no loss and stays.
        later = [load.remaining for load in card.loads.all() if card.loss_at and load.occurred_at >= card.loss_at]
        taken = ledger.take_off(
            kind=Transaction.Kind.COMPENSATION,
            cards=[(card_id, cards.reference("CLAIM"), cards.local_date(card.loss_at or self.now))],
            occurred_at=self.now,
            now=self.now,
        )
        assert taken == (card.state == Card.State.CLAIMED)
        if taken:
            self.holds[card_id] = sum(later)

    # What must be true after each of them

    @invariant()
    def every_invariant_of_the_ledger_holds(self):
        invariants.hold()

    @invariant()
    def every_card_holds_what_the_model_says(self):
        assert dict(Card.objects.values_list("pk", "remaining")) == getattr(self, "holds", {})

    @invariant()
    def the_database_values_every_card_as_python_does(self):
        if not hasattr(self, "now"):
            return
        today = cards.local_date(self.now)
        for card in Card.objects.prefetch_related("loads"):
            days = card.unit == "DAYS"
            expected = valuation.value(
                [
                    valuation.LoadPosition(
                        str(load.pk), load.paid, load.face, load.remaining, load.starts_on_date if days else None
                    )
                    for load in card.loads.all()
                ],
                on_date=today,
            )
            with connection.cursor() as cursor:
                cursor.execute("SELECT ledger_refundable(%s, %s, %s)", [card.pk, card.unit, today])
                assert cursor.fetchone()[0] == expected.refundable <= expected.paid

    @invariant()
    def nothing_is_both_spent_and_compensated(self):
        with connection.cursor() as cursor:
            cursor.execute(
                """SELECT card_id FROM prepaid_transaction GROUP BY card_id
                HAVING sum(amount) FILTER (WHERE kind IN ('PURCHASE', 'TOP_UP'))
                     < -coalesce(sum(amount) FILTER (WHERE kind NOT IN ('PURCHASE', 'TOP_UP')), 0)"""
            )
            assert cursor.fetchall() == []


@pytest.mark.django_db
class TestCards(Cards.TestCase):
    settings = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
