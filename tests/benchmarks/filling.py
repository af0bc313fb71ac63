"""A house full of cards in a minute: rows written by one statement a table, as the tables' owner, around all rules.

What the ledger would have written for a purchase of 1,000.00 with 200.00 gift on two sub-cards, ``count`` times.
Card n has the n-th identity, so that whoever pays knows whom to ask for.
"""

from uuid import UUID

import psycopg

from issuing.models import CardProgram

PAID, GIFT = 100_000, 20_000


def card_id(number: int) -> UUID:
    return UUID(f"00000000-0000-7000-8000-{number:012x}")


_CARD = "('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid"
_LOAD = "('00000000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid"
_ACCOUNT = "('00000000-0000-7000-a000-' || lpad(to_hex(n), 12, '0'))::uuid"
_NUMBERS = "FROM generate_series(%(first)s::bigint, %(last)s) n"

_FILL = (
    f"""INSERT INTO prepaid_networkaccount (id, merchant_id, holder_key, holder_name, phone, is_organisation,
        recorded_at)
    SELECT {_ACCOUNT}, %(merchant)s, md5(n::text), '王小明', '13912345678', false, %(at)s {_NUMBERS}""",
    f"""INSERT INTO prepaid_card (id, merchant_id, program_id, network_account_id, kind, unit, number_hash, last4,
        number_sealed, state, remaining, awaits_cover, opened_at, recorded_at)
    SELECT {_CARD}, %(merchant)s, %(program)s, {_ACCOUNT}, 'BONUS', 'MONEY', md5('number' || n), '0000',
        decode(md5(n::text) || md5('sealed' || n), 'hex'), 'ACTIVE', {PAID + GIFT}, false, %(at)s, %(at)s {_NUMBERS}""",
    f"""INSERT INTO prepaid_load (id, card_id, merchant_id, seq, kind, reference, paid, bonus, face, remaining,
        payment_method, starts_on_date, occurred_at, recorded_at)
    SELECT {_LOAD}, {_CARD}, %(merchant)s, 1, 'PURCHASE', 'PUR-' || n, {PAID}, {GIFT}, {PAID + GIFT}, {PAID + GIFT},
        'WECHAT', %(at)s::date, %(at)s, %(at)s {_NUMBERS}""",
    f"""INSERT INTO prepaid_subcard (card_id, load_id, seq, paid, face, remaining)
    SELECT {_CARD}, {_LOAD}, seq, {PAID // 2}, {(PAID + GIFT) // 2}, {(PAID + GIFT) // 2}
    {_NUMBERS}, generate_series(1, 2) seq ORDER BY n, seq""",
    f"""INSERT INTO prepaid_transaction (id, card_id, merchant_id, kind, unit, amount, principal, gift, usable_after,
        refundable_after, reference, store, fingerprint, occurred_at, recorded_at)
    SELECT {_LOAD}, {_CARD}, %(merchant)s, 'PURCHASE', 'MONEY', {PAID + GIFT}, {PAID}, {GIFT}, {PAID + GIFT}, {PAID},
        'PUR-' || n, '', '', %(at)s, %(at)s {_NUMBERS}""",
    """INSERT INTO prepaid_entry (transaction_id, card_id, sub_card_id, amount, balance_after)
    SELECT s.load_id, s.card_id, s.id, s.face, s.face FROM prepaid_subcard s
    WHERE s.card_id BETWEEN %(first_card)s AND %(last_card)s ORDER BY s.id""",
)

_INSURE = f"""INSERT INTO insurance_policy (id, card_id, merchant_id, product_id, state, sum_insured, premium,
        cover_from_date, cover_to_date, policy_no, accepted_at, refusal_code, compensated, request_no, attempts,
        problem, due_at, recorded_at)
    SELECT {_CARD}, {_CARD}, %(merchant)s, %(product)s, 'ACCEPTED', {PAID}, 1200, %(at)s::date, %(at)s::date + 365,
        'POL-' || n, %(at)s, '', 0, left(md5('request' || n), 22), 1, '', NULL, %(at)s {_NUMBERS}"""


def fill(
    owner: psycopg.Connection,
    program: CardProgram,
    *,
    count: int,
    at: object,
    product: int | None = None,
    first: int = 1,
) -> None:
    """Cards ``first`` to ``count``, bought ``at``; with a ``product``, each under accepted cover."""
    facts = {
        "first": first,
        "last": count,
        "first_card": card_id(first),
        "last_card": card_id(count),
        "merchant": program.merchant_id,
        "program": program.pk,
        "product": product,
        "at": at,
    }
    with owner.transaction():
        # Foreign keys are not looked up one by one; every row is right by its making.
        owner.execute("SET LOCAL session_replication_role = replica")
        for statement in (*_FILL, *([_INSURE] if product else [])):
            owner.execute(statement, facts)
    owner.execute("VACUUM ANALYZE")


_SPEND = (
    f"""INSERT INTO prepaid_transaction (id, card_id, merchant_id, kind, unit, list_amount, charged_amount, amount,
        principal, gift, usable_after, refundable_after, reference, store, fingerprint, occurred_at, recorded_at)
    SELECT md5('spent' || n || %(at)s)::uuid, c.id, c.merchant_id, 'PAYMENT', 'MONEY', 1200, 1200, -1200, 1000, 200,
        c.remaining - 1200, 0, 'ORDER-' || n || %(at)s, '', '', %(at)s, %(at)s
    {_NUMBERS} JOIN prepaid_card c ON c.id = {_CARD}""",
    f"""INSERT INTO prepaid_entry (transaction_id, card_id, sub_card_id, amount, balance_after)
    SELECT md5('spent' || n || %(at)s)::uuid, s.card_id, s.id, -1200, s.remaining - 1200
    {_NUMBERS} JOIN prepaid_subcard s ON s.card_id = {_CARD} AND s.seq = 1""",
    f"UPDATE prepaid_subcard SET remaining = remaining - 1200 WHERE seq = 1 AND card_id IN (SELECT {_CARD} {_NUMBERS})",
    f"UPDATE prepaid_load SET remaining = remaining - 1200 WHERE card_id IN (SELECT {_CARD} {_NUMBERS})",
    f"UPDATE prepaid_card SET remaining = remaining - 1200 WHERE id IN (SELECT {_CARD} {_NUMBERS})",
)


def spend(owner: psycopg.Connection, *, count: int, at: object) -> None:
    """A payment of 12.00 from each of the first ``count`` cards."""
    with owner.transaction():
        owner.execute("SET LOCAL session_replication_role = replica")
        for statement in _SPEND:
            owner.execute(statement, {"first": 1, "last": count, "at": at})
    owner.execute("VACUUM ANALYZE")
