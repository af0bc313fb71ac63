"""Random lives of the cards of a failed merchant: whatever arrives in whatever order, in the end every holder was
compensated what one calculation that knew everything gives."""

from decimal import Decimal

import pytest
from django.db import transaction
from django.db.models import Sum
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from claims import adjudication, compensation
from claims.models import Claim
from config.errors import Refused
from insurance.models import Policy
from issuing.models import Kind
from prepaid import valuation
from prepaid.models import Card, Entry, Transaction
from tests import cards, failures, invariants

NOW = failures.NOW
KINDS = (Kind.BONUS, Kind.DISCOUNT, Kind.TIMES)
COMPENSATING = (Transaction.Kind.COMPENSATION, Transaction.Kind.COMPENSATION_CORRECTION)

which = st.integers(0, len(KINDS) - 1)
amounts = st.integers(1, 600)


def staff(name: str) -> dict:
    return {"by": failures.staff(name), "now": NOW}


class Claims(RuleBasedStateMachine):
    @initialize(gift=st.integers(0, 300), deducted=st.integers(0, 100), rate=st.sampled_from(["0", "0.1", "0.3333"]))
    def begin(self, gift, deducted, rate):
        """A card of each kind, the last of them not insured, and a merchant that failed."""
        self.rollback = transaction.atomic()
        self.rollback.__enter__()
        merchant = cards.merchant()
        self.terms = failures.product(merchant, deductible_amount=deducted, deductible_rate=Decimal(rate))
        self.cards = [
            cards.opened(cards.program(Kind.BONUS, merchant=merchant, card_limit=300), 1000, gift=gift),
            cards.opened(cards.program(Kind.DISCOUNT, merchant=merchant, card_limit=300), 1000),
            cards.opened(cards.program(Kind.TIMES, merchant=merchant, price=1000, card_limit=300), 1000),
        ]
        for card in self.cards[:2]:
            failures.covered(card, terms=self.terms, sum_insured=900)
        self.payments = []
        failures.failed(merchant)

    def teardown(self):
        if not hasattr(self, "rollback"):
            return
        try:
            self.everything_is_settled()
            for card in self.cards:
                self.one_calculation_gives_the_same(card)
        finally:
            transaction.set_rollback(True)
            self.rollback.__exit__(None, None, None)

    def attempt(self, verb, **facts):
        try:
            with transaction.atomic():
                answer = verb(**facts)
            event(f"{verb.__name__}: done")
        except Refused as refusal:
            event(f"{verb.__name__}: {refusal.code}")
            return None
        return answer

    # What happens

    @rule(number=which, amount=amounts, late=st.booleans())
    def a_payment_arrives(self, number, amount, late):
        card = self.cards[number]
        asked = {"uses": amount % 5 + 1} if card.kind == Kind.TIMES else {"list_amount": amount}
        at = failures.BEFORE if late else failures.AFTER
        payment = self.attempt(lambda **facts: cards.paid(card, **facts), at=at, now=NOW, **asked)
        if payment is not None and late:
            self.payments.append(payment)

    @rule(number=st.integers(0, 9), part=st.integers(1, 600))
    def a_refund_from_before_the_loss_arrives(self, number, part):
        if self.payments:
            payment = self.payments[number % len(self.payments)]
            amount = min(part, -payment.amount)
            self.attempt(cards.refunded, payment=payment, at=failures.BEFORE, now=NOW, amount=amount)

    @rule(number=which)
    def cover_is_accepted(self, number):
        card = self.cards[number]
        if not card.policies.exists():
            failures.covered(card, terms=self.terms, sum_insured=500)
        elif Policy.objects.get(card=card).sum_insured < 1000:
            Policy.objects.filter(card=card).update(sum_insured=1000)

    @rule(number=which, steps=st.integers(1, 4))
    def staff_go_on(self, number, steps):
        """File, assess, approve, pay: so many steps on from where the card's last claim stands."""
        card = self.cards[number]
        for _step in range(steps):
            claim = Claim.objects.filter(card=card).order_by("id").last()
            match claim and claim.state:
                case None | Claim.State.REJECTED:
                    self.attempt(adjudication.file_claim, card=card, by="staff:clerk", now=NOW)
                case Claim.State.FILED:
                    self.attempt(adjudication.assess, claim=claim, **staff("adjuster"))
                case Claim.State.ASSESSED:
                    self.attempt(adjudication.approve, claim=claim, **staff("chief"))
                case Claim.State.APPROVED:
                    self.attempt(adjudication.pay, claim=claim, **staff("cashier"))

    @rule(number=which)
    def reject(self, number):
        claim = Claim.objects.filter(card=self.cards[number], kind=Claim.Kind.ORIGINAL).order_by("id").last()
        if claim and claim.state in (Claim.State.FILED, Claim.State.ASSESSED):
            self.attempt(adjudication.reject, claim=claim, reason="forged", **staff("chief"))

    @rule()
    def the_clock_looks_again(self):
        adjudication.look_again(now=NOW)

    # What must be true

    @invariant()
    def every_invariant_of_the_ledger_holds(self):
        invariants.hold()

    @invariant()
    def a_policy_compensated_what_the_claims_on_it_were_paid(self):
        for policy in Policy.objects.all():
            paid = Claim.objects.filter(policy=policy, state=Claim.State.PAID).aggregate(sum=Sum("payable"))["sum"]
            assert policy.compensated == (paid or 0) <= policy.sum_insured

    @invariant()
    def what_is_compensated_is_off_the_card(self):
        for card in Card.objects.filter(state=Card.State.COMPENSATED):
            assert not card.loads.filter(remaining__gt=0, occurred_at__lt=card.loss_at).exists()

    def everything_is_settled(self):
        for card in self.cards:
            self.attempt(adjudication.file_claim, card=card, by="staff:clerk", now=NOW)
        for _round in range(10):
            adjudication.look_again(now=NOW)
            for claim in Claim.objects.exclude(state__in=[Claim.State.PAID, Claim.State.REJECTED]):
                if claim.state in (Claim.State.FILED, Claim.State.ASSESSED):
                    adjudication.assess(claim=claim, **staff("adjuster"))
                    adjudication.approve(claim=claim, **staff("chief"))
                adjudication.pay(claim=claim, **staff("cashier"))
            if adjudication.look_again(now=NOW) == (0, 0):
                return
        raise AssertionError("claims are supplemented for ever")

    def one_calculation_gives_the_same(self, card):
        claims = Claim.objects.filter(card=card, state=Claim.State.PAID)
        if not claims:
            return

        def refundable(entries) -> int:
            return valuation.value(
                [
                    valuation.LoadPosition(
                        str(load.seq), load.paid, load.face,
                        entries.filter(sub_card__load=load).aggregate(sum=Sum("amount"))["sum"] or 0,
                    )
                    for load in card.loads.all()
                ],
                on_date=failures.LOSS_DATE,
            ).refundable  # fmt: skip

        policy = card.policies.first()
        whole = compensation.compensation(
            refundable_at_loss=refundable(Entry.objects.filter(transaction__occurred_at__lt=failures.LOSS_AT)),
            refundable_now=refundable(Entry.objects.exclude(transaction__kind__in=COMPENSATING)),
            sum_insured_left=policy.sum_insured if policy else 0,
            deductible_rate=self.terms.deductible_rate if policy else Decimal(0),
            deductible_amount=self.terms.deductible_amount if policy else 0,
        )
        assert (sum(claim.loss for claim in claims), sum(claim.payable for claim in claims)) == whole[:2]
        event(f"settled with {len(claims)} claims")


@pytest.mark.django_db
class TestClaims(Claims.TestCase):
    settings = settings(
        max_examples=40,
        stateful_step_count=25,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
