"""Random lives of insured cards whose merchant fails: claims, late facts, supplements.

However they come about, in the end every holder is compensated for what Python works out from the ledger's
transactions alone, never for more than was there and never for more than was insured.
"""

from datetime import datetime, time, timedelta
from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F, Sum
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from claims import adjudication, compensation
from claims.models import Claim, InsuredEvent
from config.errors import Refused, SamePerson
from config.handshakes import new_request_no
from config.ids import new_id
from insurance.models import Insurer, Policy, Product
from issuing.models import Kind
from prepaid import ledger, valuation
from prepaid.models import Card, Entry, Transaction
from tests import cards, invariants

OF_COMPENSATION = [Transaction.Kind.COMPENSATION, Transaction.Kind.COMPENSATION_CORRECTION]
ratios = st.sampled_from([Decimal(0), Decimal("0.1"), Decimal("0.333")])
which = st.integers(0, 4)


class Claims(RuleBasedStateMachine):
    @initialize(
        paid=st.integers(100, 2000),
        coverage=st.sampled_from([Decimal(1), Decimal("0.8"), Decimal("0.777")]),
        rate=ratios,
        amount=st.sampled_from([0, 0, 50]),
        spent=st.lists(st.tuples(which, st.integers(1, 300)), max_size=8),
        topped_up=st.sets(which, max_size=3),
        days_ago=st.integers(0, 20),
        progress=st.tuples(*[st.integers(0, 4)] * 5),
    )
    def begin(self, paid, coverage, rate, amount, spent, topped_up, days_ago, progress):
        """Cards of every kind, all but one insured, some spent from, some topped up; then the merchant fails."""
        self.rollback = transaction.atomic()
        self.rollback.__enter__()
        self.now = cards.OPENED
        self.staff = [User.objects.create(username=cards.reference("staff")) for _person in range(3)]
        self.merchant = cards.merchant()
        self.product = Product.objects.create(
            merchant=self.merchant, insurer=Insurer.objects.create(code=cards.reference("INS"), name="Pacific"),
            code="GUARANTEE", annual_rate="0.012", coverage_ratio=coverage, deductible_rate=rate,
            deductible_amount=amount, valid_from_date="2020-01-01",
        )  # fmt: skip
        terms = {"merchant": self.merchant, "card_limit": 700}
        self.cards = [
            self.insured(cards.opened(cards.program(Kind.BONUS, **terms), paid, gift=paid // 3)),
            self.insured(cards.opened(cards.program(Kind.DISCOUNT, rate=Decimal("0.85"), **terms), paid)),
            self.insured(cards.opened(cards.program(Kind.TIMES, price=700, uses=12, **terms), 700)),
            self.insured(cards.opened(cards.program(Kind.ENTITLEMENT, price=999, term_days=90, **terms), 999)),
            cards.opened(cards.program(Kind.BONUS, **terms), paid),
        ]
        self.now += timedelta(days=10)
        for index, price in spent:
            self.now += timedelta(days=2)
            self.spend(index, price, self.now)
        for index in topped_up:
            # Before the loss or, where that is only found out later, after it.
            price = {Kind.TIMES: 700, Kind.ENTITLEMENT: 999}.get(self.cards[index].kind, paid)
            self.attempt(cards.topped_up, self.cards[index], price, at=self.now)
        self.now += timedelta(hours=1)
        first, second, _third = self.staff
        self.event = adjudication.declare(
            merchant=self.merchant, trigger=InsuredEvent.Trigger.BANKRUPT, evidence="court order",
            loss_date=cards.local_date(self.now - timedelta(days=days_ago)), by=first, now=self.now,
        )  # fmt: skip
        adjudication.confirm(event=self.event, by=second, now=self.now)
        for index, steps in enumerate(progress):
            self.carry_on(index, steps)

    def insured(self, card):
        principal = card.loads.get().paid
        Policy.objects.create(
            card=card, merchant=self.merchant, product=self.product, state=Policy.State.ACCEPTED, sum_insured=principal,
            premium=1, cover_from_date=cards.OPENED.date(), cover_to_date=cards.day(365).date(),
            policy_no=new_id().hex, accepted_at=cards.OPENED, request_no=new_request_no(), recorded_at=cards.OPENED,
        )  # fmt: skip
        return card

    def teardown(self):
        if hasattr(self, "rollback"):
            try:
                self.settle()
            finally:
                transaction.set_rollback(True)
                self.rollback.__exit__(None, None, None)

    def attempt(self, verb, *arguments, **facts):
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

    def claim_of(self, index) -> Claim | None:
        return Claim.objects.filter(card=self.cards[index]).select_related("event__merchant").order_by("-id").first()

    # What happens

    @rule(
        index=which,
        verb=st.sampled_from(["spend", "spend", "refund"]),
        price=st.integers(1, 300),
        before_the_loss=st.sampled_from([True, True, False]),
        later=st.integers(0, 50),
    )
    def the_card_is_used(self, index, verb, price, before_the_loss, later):
        """Before the loss, recorded only now, or after it."""
        self.now += timedelta(hours=later)
        occurred_at = adjudication.loss_at(self.event) - timedelta(minutes=1) if before_the_loss else self.now
        if verb == "spend":
            self.spend(index, price, occurred_at)
        else:
            self.refund(index, price, occurred_at)

    def spend(self, index, price, occurred_at):
        card = self.cards[index]
        asked = {"uses": price % 5 + 1} if card.kind == Kind.TIMES else {"list_amount": price}
        self.attempt(cards.paid, card, at=self.now, occurred_at=occurred_at, **asked)

    def refund(self, index, price, occurred_at):
        payment = (
            Transaction.objects.filter(card=self.cards[index], kind=Transaction.Kind.PAYMENT).order_by("id").last()
        )
        if payment is not None:
            self.attempt(
                ledger.refund, merchant_id=self.merchant.pk, transaction_id=payment.pk, reference=cards.reference(),
                amount=None if price % 3 else 1, occurred_at=occurred_at, now=self.now,
            )  # fmt: skip

    @rule(index=which, steps=st.integers(1, 5))
    def carry_on(self, index, steps):
        """The next steps of a card's claim, each by another person."""
        for _step in range(steps):
            claim = self.claim_of(index)
            if claim is None:
                card = Card.objects.get(pk=self.cards[index].pk)
                self.attempt(adjudication.file_claim, card=card, by="staff:filer", now=self.now)
            elif claim.state == Claim.State.FILED:
                self.attempt(adjudication.assess, claim=claim, by=self.staff[0], now=self.now)
            elif claim.state == Claim.State.ASSESSED:
                self.decide(adjudication.approve, claim, self.staff[1])
            elif claim.state == Claim.State.APPROVED:
                self.decide(adjudication.pay, claim, self.staff[2])
            else:
                event(f"looked again: {adjudication.look_again(now=self.now)}")

    @rule(
        index=which,
        thought=st.sampled_from(["assess", "assess", "approve", "reject"]),
        refunded=st.sampled_from([None, 0, 70]),
        excluded=st.sampled_from([None, 0, 33]),
    )
    def somebody_has_second_thoughts(self, index, thought, refunded, excluded):
        claim = self.claim_of(index)
        if claim is None:
            return
        if thought == "assess":
            self.attempt(
                adjudication.assess, claim=claim, by=self.staff[0], now=self.now, refunded_by_merchant=refunded,
                excluded=excluded,
            )  # fmt: skip
        elif thought == "reject":
            self.attempt(adjudication.reject, claim=claim, reason="papers missing", by=self.staff[1], now=self.now)
        elif claim.state == Claim.State.ASSESSED:
            assert isinstance(
                self.attempt(adjudication.approve, claim=claim, by=self.staff[0], now=self.now), SamePerson
            )

    def decide(self, verb, claim, by):
        """An outdated assessment goes back to be assessed again: the one refusal that changes something."""
        try:
            verb(claim=claim, by=by, now=self.now)
        except adjudication.AssessmentOutdated:
            claim.refresh_from_db()
            assert claim.state == Claim.State.FILED
            event(f"{verb.__name__}: outdated")
        else:
            event(f"{verb.__name__}: done")

    # What must be true

    @invariant()
    def every_invariant_of_the_ledger_holds(self):
        invariants.hold()

    @invariant()
    def never_more_is_compensated_than_was_insured(self):
        assert not Policy.objects.filter(compensated__gt=F("sum_insured")).exists()
        for policy in Policy.objects.all():
            paid = policy.claims.filter(state=Claim.State.PAID).aggregate(sum=Sum("payable"))["sum"] or 0
            assert policy.compensated == paid >= 0

    @invariant()
    def what_is_compensated_is_off_the_card(self):
        for claim in Claim.objects.filter(state=Claim.State.PAID, kind=Claim.Kind.ORIGINAL).select_related("card"):
            assert claim.card.state in (Card.State.COMPENSATED, Card.State.CLAIMED)

    # The end

    def settle(self):
        """Carry every claim to its end; then each card's compensation is what Python makes of its transactions."""
        for _time in range(3):
            adjudication.look_again(now=self.now)
            for index in range(len(self.cards)):
                claim = self.claim_of(index)
                if claim is not None and claim.state in (Claim.State.FILED, Claim.State.ASSESSED):
                    adjudication.assess(claim=claim, by=self.staff[0], now=self.now)
                    adjudication.approve(claim=claim, by=self.staff[1], now=self.now)
                if claim is not None and claim.state == Claim.State.APPROVED:
                    adjudication.pay(claim=claim, by=self.staff[2], now=self.now)
        assert adjudication.look_again(now=self.now) == (0, 0)
        invariants.hold()
        self.never_more_is_compensated_than_was_insured()
        for card in self.cards:
            made = Claim.objects.filter(card=card)
            if made and not made.filter(state=Claim.State.REJECTED).exists():
                assert {claim.state for claim in made} == {Claim.State.PAID}
                expected = self.by_python(card, made)
                event(f"settled with {made.count()} claims")
                assert sum(claim.loss for claim in made) == expected.loss
                assert sum(claim.payable for claim in made) == expected.payable

    def by_python(self, card, made):
        loss_at = datetime.combine(self.event.loss_date, time.min, cards.SHANGHAI)
        policy = Policy.objects.filter(card=card).first()
        return compensation.compensation(
            refundable_at_loss=self.refundable(card, loss_at, transaction__occurred_at__lt=loss_at),
            refundable_now=self.refundable(card, loss_at),
            refunds_received=sum(claim.refunded_by_merchant for claim in made),
            excluded=sum(claim.excluded for claim in made),
            sum_insured_left=policy.sum_insured if policy else 0,
            coverage_ratio=self.product.coverage_ratio if policy else Decimal(1),
            deductible_rate=self.product.deductible_rate if policy else Decimal(0),
            deductible_amount=self.product.deductible_amount if policy else 0,
        )

    def refundable(self, card, loss_at, **until):
        """Out of the entries alone: what was bought before the loss less what was used of it, nothing of it stored."""
        positions = []
        for load in card.loads.filter(occurred_at__lt=loss_at).order_by("seq"):
            entries = Entry.objects.filter(sub_card__load=load, **until)
            left = entries.exclude(transaction__kind__in=OF_COMPENSATION).aggregate(sum=Sum("amount"))["sum"]
            days = card.unit == "DAYS"
            positions.append(
                valuation.LoadPosition(
                    str(load.pk), load.paid, load.face, left or 0, load.starts_on_date if days else None
                )
            )
        return valuation.value(positions, on_date=self.event.loss_date).refundable


@pytest.mark.django_db
class TestClaims(Claims.TestCase):
    settings = settings(max_examples=25, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))
