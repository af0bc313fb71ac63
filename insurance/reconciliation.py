"""The insurer's bordereau against policies, endorsements and notices, one business date at a time.

The file is fetched whole, checked against its own trailer and signature, and compared as a set, by request_no. A
missing, short or altered file is an error of the run, never "no differences".

What was accepted shortly before our midnight may stand in the insurer's file of the next day, and the other way
round: such a row is a CUT_OFF, carried to the next day once, and LOCAL_ONLY if it is not found there either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import connection

from config import signed_files
from insurance.models import InsurerMessage
from prepaid import files, holds, reconciliation
from prepaid.models import Break, Run
from prepaid.reconciliation import Comparison, Finding

CUT_OFF_WINDOW = timedelta(minutes=30)
"""How far from midnight the two sides may disagree about the day."""

LAYOUT = signed_files.Layout(
    table="bordereau",
    columns=(
        "request_no text PRIMARY KEY, type text, amount bigint, premium bigint, state text, policy_no text,"
        " posted_at timestamptz"
    ),
    row=re.compile(
        rb"D,[A-Za-z0-9_-]{1,64},[A-Z_]{1,20},-?[0-9]{1,18},-?[0-9]{1,18},(?:ACCEPTED|REFUSED),[A-Za-z0-9-]{0,40},"
        rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n"
    ),
    figures=3,
)


def bordereau_days(*, now: datetime) -> list[Run]:
    """What the clock does: every business date since the first message, once each, in order."""
    # Ids go by time: the first message is found without reading them all.
    sent = InsurerMessage.objects.filter(direction=InsurerMessage.Direction.SENT).order_by("id")
    first_at = sent.values_list("recorded_at", flat=True).first()
    first_date = first_at and reconciliation.business_date(first_at)
    runs = reconciliation.catch_up(
        partner=Run.Partner.INSURER, first_date=first_date, compare=compare_bordereau, now=now
    )
    holds.release_reconciled(partner=Run.Partner.INSURER, first_date=first_date, now=now)
    return runs


def bordereau_day(*, business_date: date, now: datetime) -> Run:
    """One business date with the insurer, asked for by a person.

    :raises DayNotOver, RunInProgress:
    """
    return reconciliation.run_by_hand(
        partner=Run.Partner.INSURER, business_date=business_date, compare=compare_bordereau, now=now
    )


def bordereau_again(*, run: Run, now: datetime) -> Run:
    """One business date compared again from the file that was received last, without asking the insurer.

    :raises NoFileKept, RunInProgress:
    """
    files.last(run)
    return reconciliation.run_by_hand(
        partner=Run.Partner.INSURER, business_date=run.business_date, compare=compare_kept, now=now
    )


def compare_bordereau(run: Run) -> Comparison:
    """Fetch the day's file, keep it, check it, and compare it with what we hold.

    :raises signed_files.FileMissing, signed_files.FileDamaged:
    """
    contents = signed_files.read(
        url=f"{settings.INSURER_URL}bordereau/{run.business_date}",
        keys=settings.INSURER_KEYS,
        business_date=run.business_date,
        layout=LAYOUT,
        log=InsurerMessage,
        type="BORDEREAU",
        keep=partial(files.keep, run),
    )
    return _compare(run, contents)


def compare_kept(run: Run) -> Comparison:
    """Check the file that was received last once more, and compare it with what we hold now.

    :raises NoFileKept, FileLost, signed_files.FileDamaged:
    """
    kept = files.last(run)
    with files.opened(kept) as file:
        contents = signed_files.read_again(
            file,
            message_id=kept.message_id,
            keys=settings.INSURER_KEYS,
            business_date=run.business_date,
            layout=LAYOUT,
        )
    return _compare(run, contents)


def _compare(run: Run, contents: signed_files.Contents) -> Comparison:
    rows, trailer = contents
    start, end = reconciliation.span(run.business_date)
    facts = {
        "start": start,
        "end": end,
        "late": end - CUT_OFF_WINDOW,
        "partner": Run.Partner.INSURER,
        "before": run.business_date - timedelta(days=1),
        "now": run.started_at,
    }
    in_file = {type: figures for type, *figures in _rows(_THEIR_TOTALS)}
    with connection.cursor() as cursor:
        cursor.execute(_LEAVE_TESTS_OUT)
        tests = cursor.rowcount
    theirs = {type: figures for type, *figures in _rows(_THEIR_TOTALS)}
    ours = {type: figures for type, *figures in _rows(f"{_OURS} {_OUR_TOTALS}", facts)}
    totals = {
        "by_type": [
            {"type": type, "ours": _figures(ours.get(type)), "theirs": _figures(theirs.get(type))}
            for type in sorted({*ours, *theirs})
        ],
        "tests_left_out": tests,
    }
    return Comparison(rows - tests, totals, _findings(facts, in_file, trailer))


def _findings(facts: dict[str, Any], in_file: dict[str, list[int]], trailer: dict[str, list[int]]) -> Iterator[Finding]:
    for type in sorted({*in_file, *trailer}):
        if in_file.get(type) != trailer.get(type):
            yield Finding(
                Break.Type.TOTALS_DIFFER,
                type,
                ours=_figures(in_file.get(type)),
                theirs=_figures(trailer.get(type)),
            )
    with connection.chunked_cursor() as cursor:
        cursor.execute(f"{_OURS} {_DIFFERENCES}", facts)
        while found := cursor.fetchmany(1000):
            for type, subject, merchant_id, card_id, ours, their in found:
                yield Finding(Break.Type(type), subject, merchant_id, card_id, _plain(ours), _plain(their))
    with connection.cursor() as cursor:
        cursor.execute(_RESOLVE_CARRIED, facts)
        cursor.execute("DROP TABLE bordereau")


def _plain(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def _figures(figures: list[int] | None) -> dict[str, int]:
    count, amount, premium = figures or (0, 0, 0)
    return {"count": count, "amount": amount, "premium": premium}


# The comparison -----------------------------------------------------------------------------------------


def _rows(query: str, facts: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, facts or {})
        return cursor.fetchall()


# The insurer beside us serves test merchants as well, and then they stand in its file.
_LEAVE_TESTS_OUT = """
WITH tests AS (SELECT id, code FROM issuing_merchant WHERE test_of_id IS NOT NULL)
DELETE FROM bordereau AS b WHERE EXISTS (
    SELECT FROM insurance_policy AS p JOIN tests ON tests.id = p.merchant_id WHERE p.request_no = b.request_no
) OR EXISTS (
    SELECT FROM insurance_endorsement AS e JOIN insurance_policy AS p ON p.id = e.policy_id
    JOIN tests ON tests.id = p.merchant_id WHERE e.request_no = b.request_no
) OR EXISTS (
    SELECT FROM insurance_notice AS n LEFT JOIN insurance_policy AS p ON p.id = n.policy_id
    JOIN tests ON tests.id = p.merchant_id OR tests.code = n.body ->> 'merchant' WHERE n.request_no = b.request_no
)"""

_THEIR_TOTALS = """
SELECT type, count(*), sum(amount)::bigint, sum(premium)::bigint
FROM bordereau WHERE state = 'ACCEPTED' GROUP BY type"""

# What we hold that is in the file, was accepted on the day, or was carried from the day before. A policy's amount is
# the sum it was enrolled at: what increases added stands in their own rows.
_OURS = """
WITH carried AS (
    SELECT b.subject AS request_no FROM prepaid_break AS b JOIN prepaid_run AS r ON r.id = b.run_id
    WHERE r.partner = %(partner)s AND r.business_date = %(before)s AND b.type = 'CUT_OFF'
),
tests AS (SELECT id, code FROM issuing_merchant WHERE test_of_id IS NOT NULL),
wanted AS (SELECT request_no FROM bordereau UNION SELECT request_no FROM carried),
ours AS (
    SELECT p.request_no, 'ENROLMENT' AS type, p.merchant_id, p.card_id, p.state, p.policy_no, p.premium, p.accepted_at,
        p.sum_insured - coalesce((
            SELECT sum(e.amount)::bigint FROM insurance_endorsement AS e
            WHERE e.policy_id = p.id AND e.kind = 'INCREASE' AND e.state = 'ACCEPTED'
        ), 0) AS amount
    FROM insurance_policy AS p
    WHERE p.merchant_id NOT IN (SELECT id FROM tests)
        AND (p.accepted_at >= %(start)s AND p.accepted_at < %(end)s OR p.request_no IN (SELECT request_no FROM wanted))
    UNION ALL
    SELECT e.request_no, CASE e.kind WHEN 'INCREASE' THEN 'ENDORSEMENT' ELSE e.kind END, p.merchant_id, p.card_id,
        e.state, p.policy_no, e.premium, e.accepted_at, e.amount
    FROM insurance_endorsement AS e JOIN insurance_policy AS p ON p.id = e.policy_id
    WHERE p.merchant_id NOT IN (SELECT id FROM tests)
        AND (e.accepted_at >= %(start)s AND e.accepted_at < %(end)s OR e.request_no IN (SELECT request_no FROM wanted))
    UNION ALL
    SELECT n.request_no, n.kind, p.merchant_id, p.card_id, n.state, coalesce(p.policy_no, ''), 0, n.accepted_at,
        coalesce((n.body ->> 'amount')::bigint, 0)
    FROM insurance_notice AS n LEFT JOIN insurance_policy AS p ON p.id = n.policy_id
    WHERE NOT EXISTS (SELECT FROM tests WHERE tests.id = p.merchant_id OR tests.code = n.body ->> 'merchant')
        AND (n.accepted_at >= %(start)s AND n.accepted_at < %(end)s OR n.request_no IN (SELECT request_no FROM wanted))
)"""

_OUR_TOTALS = """
SELECT type, count(*), sum(amount)::bigint, sum(premium)::bigint
FROM ours WHERE accepted_at >= %(start)s AND accepted_at < %(end)s GROUP BY type"""

_DIFFERENCES = """
SELECT * FROM (
    SELECT CASE
            WHEN o.request_no IS NULL THEN 'PARTNER_ONLY'
            WHEN t.request_no IS NULL AND c.request_no IS NOT NULL THEN
                CASE WHEN o.accepted_at < %(start)s THEN 'LOCAL_ONLY' END
            WHEN t.request_no IS NULL THEN CASE WHEN o.accepted_at >= %(late)s THEN 'CUT_OFF' ELSE 'LOCAL_ONLY' END
            WHEN o.type <> t.type OR (o.accepted_at IS NOT NULL) <> (t.state = 'ACCEPTED')
                OR t.state = 'REFUSED' AND o.state <> 'DECLINED' OR o.policy_no <> t.policy_no AND t.state = 'ACCEPTED'
                THEN 'STATE_DIFFERS'
            WHEN t.state = 'ACCEPTED' AND (o.amount, o.premium) <> (t.amount, t.premium) THEN 'AMOUNT_DIFFERS'
            WHEN o.accepted_at >= %(end)s THEN 'CUT_OFF'
        END AS type,
        coalesce(o.request_no, t.request_no), o.merchant_id, o.card_id,
        CASE WHEN o.request_no IS NOT NULL THEN jsonb_build_object('type', o.type, 'state', o.state, 'amount', o.amount,
            'premium', o.premium, 'policy_no', o.policy_no, 'accepted_at', o.accepted_at) END,
        CASE WHEN t.request_no IS NOT NULL THEN jsonb_build_object('type', t.type, 'state', t.state, 'amount', t.amount,
            'premium', t.premium, 'policy_no', t.policy_no, 'posted_at', t.posted_at) END
    FROM ours AS o FULL JOIN bordereau AS t ON t.request_no = o.request_no
    LEFT JOIN carried AS c ON c.request_no = o.request_no
) AS compared
WHERE type IS NOT NULL"""

_RESOLVE_CARRIED = """
UPDATE prepaid_break AS b
SET state = 'RESOLVED', resolved_at = %(now)s, resolution = 'found on the other side of the cut-off'
FROM prepaid_run AS r
WHERE r.id = b.run_id AND r.partner = %(partner)s AND r.business_date = %(before)s AND b.type = 'CUT_OFF'
    AND b.state = 'OPEN' AND (b.theirs IS NOT NULL OR b.subject IN (SELECT request_no FROM bordereau))"""
