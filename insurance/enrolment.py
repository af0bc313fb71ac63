"""Insurance of each prepaid card by itself (the patent's enrolment module, 投保模块).

The policyholder is the merchant, the insured the holder, the sum insured the money paid: a bonus is never insured as
money. What is owed to the insurer here is sent by ``insurer``; what it answers is settled here.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from config.errors import Refused
from config.handshakes import new_request_no
from config.ids import new_id
from insurance.models import Endorsement, Notice, Policy, Product
from insurance.premium import premium, unearned
from issuing.merchants import copied
from issuing.models import Merchant
from prepaid.models import Load


class NoInsuranceProduct(Refused):
    status = 422
    text = _("The merchant has no insurance product in force on %(date)s: record one before issuing cards.")
    remedy = _("Ask us to record the insurance product of this merchant.")


class Cover(NamedTuple):
    """Cover wanted for one card: ``sum_insured`` in fen from ``from_date`` on, for ``days`` days."""

    card_id: UUID
    merchant_id: UUID
    sum_insured: int
    from_date: date
    days: int


def copy_products(*, merchant: Merchant, twin: Merchant) -> None:
    """Have a test twin's cards covered on the merchant's own terms; what was copied before stays."""
    there = set(twin.insurance.values_list("valid_from_date", flat=True))
    for product in merchant.insurance.exclude(valid_from_date__in=there):
        copied(product, merchant=twin)


def product_for(products: Sequence[Product], on_date: date) -> Product:
    """The product in force on that day out of a merchant's.

    :raises NoInsuranceProduct:
    """
    in_force = [product for product in products if product.valid_from_date <= on_date]
    if not in_force:
        raise NoInsuranceProduct(date=on_date.isoformat())
    return max(in_force, key=lambda product: product.valid_from_date)


def products_of(merchant_ids: set[UUID]) -> dict[UUID, list[Product]]:
    """Every insurance product of these merchants, by merchant."""
    products: dict[UUID, list[Product]] = {merchant_id: [] for merchant_id in merchant_ids}
    for product in Product.objects.filter(merchant__in=merchant_ids):
        products[product.merchant_id].append(product)
    return products


def owe(covers: Sequence[Cover], *, now: datetime, products: Mapping[UUID, list[Product]] | None = None) -> None:
    """Owe the insurer an enrolment of each card: one policy per card, one statement for all of them.

    ``products`` are those of the merchants, where they are at hand.

    :raises NoInsuranceProduct: a merchant has none in force on a cover's first day.
    """
    if products is None:
        products = products_of({cover.merchant_id for cover in covers})
    rows = []
    for cover in covers:
        product = product_for(products[cover.merchant_id], cover.from_date)
        rows.append(
            (new_id(), new_request_no(), cover.card_id, cover.merchant_id, product.pk, cover.sum_insured,
             quote(product, cover.sum_insured, cover.days), cover.from_date, cover.from_date + timedelta(cover.days))
        )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_OWE, [now, *map(list, zip(*rows, strict=True))])


_OWE = """
INSERT INTO insurance_policy (id, request_no, card_id, merchant_id, product_id, sum_insured, premium,
    cover_from_date, cover_to_date, state, attempts, problem, refusal_code, compensated, due_at, recorded_at)
SELECT owed.*, 'PENDING', 0, '', '', 0, now(), %s
FROM unnest(%b::uuid[], %b::text[], %b::uuid[], %b::uuid[], %b::bigint[], %b::bigint[], %b::bigint[], %b::date[],
    %b::date[]) AS owed"""


def quote(product: Product, sum_insured: int, days: int) -> int:
    """The premium in fen of a card, as it is shown before it is bought; by the daily balance it is provisional."""
    return premium(sum_insured, annual_rate=product.annual_rate, days=days, minimum=product.minimum_premium)


def owe_increase(*, card_id: UUID, load: Load, today: date, now: datetime) -> Endorsement | None:
    """Owe the insurer an endorsement that adds a top-up to the card's sum insured, for the days of cover left.

    None for a card that has no live policy: there is nothing to endorse.
    """
    policy = live_policy(card_id)
    if policy is None:
        return None
    days = max(0, (policy.cover_to_date - max(today, policy.cover_from_date)).days)
    return Endorsement.objects.create(
        policy=policy,
        kind=Endorsement.Kind.INCREASE,
        load=load,
        amount=load.paid,
        premium=premium(load.paid, annual_rate=policy.product.annual_rate, days=days),
        effective_date=today,
        due_at=Now(),
        recorded_at=now,
    )


def owe_cancellation(*, card_id: UUID, today: date, now: datetime) -> Endorsement | None:
    """Owe the insurer the cancellation of a closed card's policy; ``premium`` is what it returns, so below zero."""
    policy = live_policy(card_id)
    if policy is None:
        return None
    increases = policy.endorsements.filter(kind=Endorsement.Kind.INCREASE).exclude(state=Endorsement.State.DECLINED)
    return Endorsement.objects.create(
        policy=policy,
        kind=Endorsement.Kind.CANCELLATION,
        amount=-policy.sum_insured,
        premium=-unearned_premium(policy, increases, on_date=today),
        effective_date=today,
        due_at=Now(),
        recorded_at=now,
    )


def unearned_premium(policy: Policy, increases: Iterable[Endorsement], *, on_date: date) -> int:
    """What is returned, in fen, when cover ends on a day: of the policy's premium and of each increase's the share of
    its own days not run, each half-up."""
    parts = [(policy.premium, policy.cover_from_date)]
    parts += [(row.premium, max(row.effective_date, policy.cover_from_date)) for row in increases]
    return sum(
        unearned(charged, days=days, days_run=(on_date - from_date).days)
        for charged, from_date in parts
        if (days := (policy.cover_to_date - from_date).days) > 0
    )


def figure_cancellations(endorsement_ids: Sequence[UUID]) -> None:
    """Work out anew what cancellations return, before they are sent for the first time.

    When they were owed, enrolment and increases may still have been open; now it is known what was accepted.
    """
    rows = list(
        Endorsement.objects.filter(pk__in=endorsement_ids, kind=Endorsement.Kind.CANCELLATION).select_related("policy")
    )
    increases: dict[UUID, list[Endorsement]] = {row.policy_id: [] for row in rows}
    for increase in Endorsement.objects.filter(
        policy__in=increases, kind=Endorsement.Kind.INCREASE, state=Endorsement.State.ACCEPTED
    ):
        increases[increase.policy_id].append(increase)
    for row in rows:
        row.amount = -row.policy.sum_insured
        row.premium = -unearned_premium(row.policy, increases[row.policy_id], on_date=row.effective_date)
    Endorsement.objects.bulk_update(rows, ["amount", "premium"])


def live_policy(card_id: UUID) -> Policy | None:
    """The card's policy that is neither declined nor cancelled."""
    return (
        Policy.objects.filter(card=card_id)
        .exclude(state__in=[Policy.State.DECLINED, Policy.State.CANCELLED])
        .select_related("product")
        .first()
    )


# Settling -----------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """What the insurer said, believably, about one request. ``number`` is that of the policy or endorsement."""

    request_no: str
    accepted: bool
    code: str
    number: str | None
    accepted_at: datetime | None


def settle_policies(verdicts: Sequence[Verdict]) -> int:
    """Accept or decline the policies whose outcome is open; a card that waited for its cover may now be spent from.

    Returns how many were settled. What was settled before stays as it is: a contradiction is found by the
    reconciliation. A policy number that another policy has settles nothing either.
    """
    return _settle(verdicts, _LOCK_POLICIES, _SETTLE_POLICIES, _open(Policy.MOVES))


def settle_endorsements(verdicts: Sequence[Verdict]) -> int:
    """Accept or decline endorsements whose outcome is open, and with an accepted one change its policy.

    An increase raises the sum insured, a cancellation ends the policy, an adjustment changes only what it has cost.
    Returns how many were settled.
    """
    return _settle(verdicts, _LOCK_ENDORSEMENTS, _SETTLE_ENDORSEMENTS, _open(Endorsement.MOVES))


def settle_notices(verdicts: Sequence[Verdict]) -> int:
    """Note that the insurer acknowledged notices, or declined them. Returns how many were settled."""
    return _settle(verdicts, _LOCK_NOTICES, _SETTLE_NOTICES, _open(Notice.MOVES))


def _open(moves: Mapping[str, set[str]]) -> list[str]:
    return [str(state) for state, to in moves.items() if Policy.State.DECLINED in to]


def _settle(verdicts: Sequence[Verdict], lock: str, statement: str, states: Sequence[str]) -> int:
    if not verdicts:
        return 0
    request_nos, accepted, codes, numbers, moments = map(list, zip(*verdicts, strict=True))
    with transaction.atomic(), connection.cursor() as cursor:
        # Always in the same order, so that two answers about the same rows never wait for each other.
        cursor.execute(lock, [request_nos])
        cursor.execute(statement, [request_nos, accepted, codes, numbers, moments, list(states)])
        return int(cursor.fetchone()[0])


_SAID = """
WITH said AS (
    SELECT * FROM unnest(%s::text[], %s::bool[], %s::text[], %s::text[], %s::timestamptz[])
        AS said (request_no, accepted, code, number, accepted_at)
)"""

_LOCK_POLICIES = "SELECT id FROM insurance_policy WHERE request_no = ANY(%s) ORDER BY id FOR UPDATE"

# The arrays keep the planner on the indexes: joined, it would read every policy for each message.
_SETTLE_POLICIES = f"""{_SAID},
taken AS (
    SELECT policy_no FROM insurance_policy WHERE policy_no = ANY (ARRAY(SELECT number FROM said))
),
settled AS (
    UPDATE insurance_policy AS p
    SET state = CASE WHEN accepted THEN 'ACCEPTED' ELSE 'DECLINED' END,
        policy_no = CASE WHEN accepted THEN number END,
        accepted_at = CASE WHEN accepted THEN said.accepted_at END,
        refusal_code = CASE WHEN accepted THEN '' ELSE code END,
        due_at = NULL, problem = ''
    FROM said
    WHERE p.request_no = said.request_no AND p.state = ANY(%s)
        AND p.request_no = ANY (ARRAY(SELECT request_no FROM said))
        AND NOT (accepted AND number IN (SELECT policy_no FROM taken))
    RETURNING p.id, p.merchant_id, p.card_id, p.state, p.sum_insured
),
told AS (
    INSERT INTO issuing_event (merchant_id, type, subject_id, card_id, state, amount, recorded_at)
    SELECT merchant_id, 'policy.' || lower(state), id, card_id, state, sum_insured, now() FROM settled
),
covered AS (
    UPDATE prepaid_card AS c SET awaits_cover = false
    FROM settled WHERE c.id = settled.card_id AND settled.state = 'ACCEPTED' AND c.awaits_cover
)
SELECT count(*) FROM settled"""  # noqa: S608  no value is written into it

_LOCK_ENDORSEMENTS = """
SELECT e.id FROM insurance_endorsement AS e JOIN insurance_policy AS p ON p.id = e.policy_id
WHERE e.request_no = ANY(%s) ORDER BY p.id, e.id FOR UPDATE"""

_SETTLE_ENDORSEMENTS = f"""{_SAID},
taken AS (
    SELECT endorsement_no FROM insurance_endorsement WHERE endorsement_no = ANY (ARRAY(SELECT number FROM said))
),
settled AS (
    UPDATE insurance_endorsement AS e
    SET state = CASE WHEN accepted THEN 'ACCEPTED' ELSE 'DECLINED' END,
        endorsement_no = CASE WHEN accepted THEN number END,
        accepted_at = CASE WHEN accepted THEN said.accepted_at END,
        refusal_code = CASE WHEN accepted THEN '' ELSE code END,
        due_at = NULL, problem = ''
    FROM said
    WHERE e.request_no = said.request_no AND e.state = ANY(%s)
        AND e.request_no = ANY (ARRAY(SELECT request_no FROM said))
        AND NOT (accepted AND number IN (SELECT endorsement_no FROM taken))
    RETURNING e.policy_id, e.kind, e.amount, e.state
),
changes AS (
    SELECT policy_id, bool_or(kind = 'CANCELLATION') AS ends,
        coalesce(sum(amount) FILTER (WHERE kind = 'INCREASE'), 0) AS added
    FROM settled WHERE state = 'ACCEPTED' AND kind <> 'ADJUSTMENT' GROUP BY policy_id
),
changed AS (
    UPDATE insurance_policy AS p
    SET sum_insured = p.sum_insured + added, state = CASE WHEN ends THEN 'CANCELLED' ELSE p.state END
    FROM changes WHERE p.id = changes.policy_id AND p.state = 'ACCEPTED'
)
SELECT count(*) FROM settled"""  # noqa: S608  no value is written into it

_LOCK_NOTICES = "SELECT id FROM insurance_notice WHERE request_no = ANY(%s) ORDER BY id FOR UPDATE"

_SETTLE_NOTICES = f"""{_SAID},
settled AS (
    UPDATE insurance_notice AS n
    SET state = CASE WHEN accepted THEN 'ACCEPTED' ELSE 'DECLINED' END,
        accepted_at = CASE WHEN accepted THEN said.accepted_at END,
        refusal_code = CASE WHEN accepted THEN '' ELSE code END,
        due_at = NULL, problem = ''
    FROM said
    WHERE n.request_no = said.request_no AND n.state = ANY(%s)
        AND n.request_no = ANY (ARRAY(SELECT request_no FROM said))
    RETURNING n.id
)
SELECT count(*) FROM settled"""  # noqa: S608  no value is written into it
