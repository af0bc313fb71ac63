"""What must be true of every ledger at every moment, asked of the database itself and not of our own code."""

from django.db import connection

# Each selects what is wrong; nothing may be selected.
WRONGS = {
    "a card holds what its loads hold": """
        SELECT c.id, c.remaining, sum(l.remaining) FROM prepaid_card c JOIN prepaid_load l ON l.card_id = c.id
        GROUP BY c.id HAVING c.remaining <> sum(l.remaining)""",
    "a load is the sum of its sub-cards": """
        SELECT l.id, l.paid, l.face, l.remaining, sum(s.paid), sum(s.face), sum(s.remaining)
        FROM prepaid_load l JOIN prepaid_subcard s ON s.load_id = l.id
        GROUP BY l.id HAVING (l.paid, l.face, l.remaining) <> (sum(s.paid), sum(s.face), sum(s.remaining))""",
    "every card has a load and every load a sub-card": """
        SELECT c.id FROM prepaid_card c WHERE NOT EXISTS (SELECT FROM prepaid_load l WHERE l.card_id = c.id)
        UNION
        SELECT l.id FROM prepaid_load l WHERE NOT EXISTS (SELECT FROM prepaid_subcard s WHERE s.load_id = l.id)""",
    "entries replay to the balance of their sub-card": """
        SELECT s.id, s.remaining, sum(e.amount) FROM prepaid_subcard s LEFT JOIN prepaid_entry e ON e.sub_card_id = s.id
        GROUP BY s.id HAVING s.remaining <> coalesce(sum(e.amount), 0)""",
    "each entry says the balance it left": """
        SELECT * FROM (
            SELECT id, balance_after, sum(amount) OVER (PARTITION BY sub_card_id ORDER BY id) AS replayed
            FROM prepaid_entry) e WHERE balance_after <> replayed""",
    "a transaction is the sum of its entries": """
        SELECT t.id, t.kind, t.amount, sum(e.amount)
        FROM prepaid_transaction t LEFT JOIN prepaid_entry e ON e.transaction_id = t.id
        GROUP BY t.id HAVING t.amount <> coalesce(sum(e.amount), 0)""",
    "an entry is of its transaction's card": """
        SELECT e.id FROM prepaid_entry e JOIN prepaid_transaction t ON t.id = e.transaction_id
        JOIN prepaid_subcard s ON s.id = e.sub_card_id WHERE e.card_id <> t.card_id OR s.card_id <> t.card_id""",
    "nothing is negative and nothing above its face": """
        SELECT id::text FROM prepaid_card WHERE remaining < 0
        UNION ALL SELECT id::text FROM prepaid_load WHERE remaining < 0 OR remaining > face
        UNION ALL SELECT id::text FROM prepaid_subcard WHERE remaining < 0 OR remaining > face
        UNION ALL SELECT id::text FROM prepaid_entry WHERE balance_after < 0""",
    "a compensated card holds only what was paid in after its loss": """
        SELECT c.id, l.seq, l.remaining FROM prepaid_card c JOIN prepaid_load l ON l.card_id = c.id
        WHERE c.state = 'COMPENSATED' AND l.remaining > 0 AND l.occurred_at < c.loss_at""",
    "never more comes back than was paid": """
        SELECT p.id, p.amount, sum(r.amount) FROM prepaid_transaction p
        JOIN prepaid_transaction r ON r.original_id = p.id
        GROUP BY p.id HAVING sum(r.amount) > -p.amount OR sum(r.list_amount) > p.list_amount
            OR sum(r.charged_amount) > p.charged_amount""",
    "a payment divides into principal and gift": """
        SELECT id FROM prepaid_transaction WHERE kind = 'PAYMENT' AND unit = 'MONEY' AND principal + gift <> -amount""",
}

TABLES = (
    "prepaid_card", "prepaid_load", "prepaid_subcard", "prepaid_transaction", "prepaid_entry", "prepaid_cardmove",
    "prepaid_retirednumber", "prepaid_networkaccount", "insurance_policy", "insurance_endorsement", "insurance_notice",
    "claims_insuredevent", "claims_claim", "claims_recovery", "issuing_event", "issuing_webhookendpoint",
    "issuing_webhookdelivery",
)  # fmt: skip


_WRONGS = " UNION ALL ".join(
    f"SELECT {number}, (SELECT array_agg(wrong::text) FROM ({query}) wrong)"
    for number, query in enumerate(WRONGS.values())
)
_PICTURE = " UNION ALL ".join(
    f"SELECT '{table}', (SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM {table} t)" for table in TABLES
)


def wrongs() -> dict[str, list[str]]:
    """Which invariants are broken, and by which rows."""
    with connection.cursor() as cursor:
        cursor.execute(_WRONGS)
        return {list(WRONGS)[number]: rows for number, rows in cursor.fetchall() if rows}


def hold() -> None:
    """Every invariant holds for every card in the database."""
    assert wrongs() == {}


def picture() -> dict[str, str | None]:
    """A fingerprint of every row of the ledger and what hangs on it: equal only if every byte is."""
    with connection.cursor() as cursor:
        cursor.execute(_PICTURE)
        return dict(cursor.fetchall())
