"""Assessing the claims of 100,000 cards beside one INSERT … SELECT that does no more than work out the figures."""

import os
from collections.abc import Callable
from datetime import date, datetime, timedelta
from statistics import median

import django

django.setup()

import psycopg  # noqa: E402  Django's settings come first
from django.contrib.auth.models import User  # noqa: E402

from claims import adjudication  # noqa: E402
from claims.models import Claim, InsuredEvent  # noqa: E402
from insurance.models import Product  # noqa: E402
from tests import cards  # noqa: E402
from tests.benchmarks import filling  # noqa: E402
from tests.benchmarks.issuing import insured_program  # noqa: E402
from tests.benchmarks.measuring import Figure, seconds  # noqa: E402

CARDS = 100_000
ROUNDS = 3
NOW = cards.NOW
LOSS_DATE = date(2026, 5, 10)

# One claim a card: balance at the loss from what is stored less what came after it, loss, cover, deductible.
_RAW = """
INSERT INTO claims_claim (id, event_id, merchant_id, card_id, policy_id, kind, reference, state, formula, sum_insured,
    refundable_at_loss, spent_after_loss, refunded_by_merchant, excluded, loss, interest, legal_entitlement, payable,
    filed_by, reason, papers, filed_at)
SELECT gen_random_uuid(), %(event)s, card.merchant_id, card.id, policy.id, 'ORIGINAL', '', 'FILED', '',
    policy.sum_insured, loss.at_loss, 0, 0, 0, loss.at_loss, 0, loss.at_loss,
    half_up(least(loss.at_loss, policy.sum_insured) * product.coverage_ratio * (1 - product.deductible_rate)),
    '', '', '', %(now)s
FROM (
    SELECT l.card_id, half_up(sum(l.paid::numeric * (l.remaining - coalesce(later.amount, 0)) / l.face)) AS at_loss
    FROM prepaid_load l
    LEFT JOIN (
        SELECT s.load_id, sum(e.amount) AS amount
        FROM prepaid_transaction t JOIN prepaid_entry e ON e.transaction_id = t.id
        JOIN prepaid_subcard s ON s.id = e.sub_card_id
        WHERE t.merchant_id = %(merchant)s AND t.occurred_at >= %(loss_at)s GROUP BY s.load_id
    ) later ON later.load_id = l.id
    WHERE l.merchant_id = %(merchant)s GROUP BY l.card_id
) loss
JOIN prepaid_card card ON card.id = loss.card_id
JOIN insurance_policy policy ON policy.card_id = card.id AND policy.state = 'ACCEPTED'
JOIN insurance_product product ON product.id = policy.product_id
"""


def measure(*, share: float) -> list[Figure]:
    size = int(CARDS * share)
    program = insured_program()
    product = Product.objects.get(merchant=program.merchant)
    first, second = (User.objects.create(username=name) for name in ("declarer", "confirmer"))
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as owner:
        filling.fill(owner, program, count=size, at=cards.OPENED, product=product.pk)
        filling.spend(owner, count=size, at=cards.OPENED + timedelta(days=30))
        filling.spend(owner, count=size // 10, at=NOW - timedelta(days=1))
        event = adjudication.declare(
            merchant=program.merchant, trigger=InsuredEvent.Trigger.BANKRUPT, loss_date=LOSS_DATE,
            evidence="court order", by=first, now=NOW,
        )  # fmt: skip
        adjudication.confirm(event=event, by=second, now=NOW)
        facts = {"event": event.pk, "merchant": program.merchant_id, "now": NOW, "loss_at": adjudication.loss_at(event)}
        raw, filing, assessing = [], [], []
        for _round in range(ROUNDS):
            raw.append(_timed(owner, lambda: owner.execute(_RAW, facts)))
            assert owner.execute("SELECT count(*) FROM claims_claim").fetchone() == (size,)
            owner.execute("TRUNCATE claims_claim CASCADE")
            adjudication.file_all(event=event, by=first, now=NOW)
            filing.append(_timed(owner, lambda: _carry_on(NOW)))
            adjudication.assess_all(event=event, by=first, now=NOW)
            assessing.append(_timed(owner, lambda: _carry_on(NOW)))
            assert Claim.objects.filter(state=Claim.State.ASSESSED).count() == size
            owner.execute("TRUNCATE claims_claim, insurance_notice, prepaid_cardmove CASCADE")
            owner.execute("UPDATE prepaid_card SET state = 'ACTIVE', loss_at = NULL")
            owner.execute("VACUUM FULL prepaid_card")
    reference = size / median(raw)
    return [
        Figure("claims", "assessing", size / median(assessing), "one INSERT … SELECT", reference, at_least=0.25,
               unit=" cards/s"),
        Figure("claims", "filing and freezing", size / median(filing), "one INSERT … SELECT", reference,
               unit=" cards/s"),
    ]  # fmt: skip


def _timed(owner: psycopg.Connection, call: Callable[[], object]) -> float:
    owner.execute("VACUUM ANALYZE")
    owner.execute("CHECKPOINT")
    return seconds(call)


def _carry_on(now: datetime) -> None:
    while adjudication.carry_on(now=now, seconds=60):
        pass
