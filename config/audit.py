"""What staff did: one append-only table whose rows are chained by their hashes.

A row is written as the last thing in the transaction of its deed. Only there does it wait for the others: the lock is
taken after everything else was done and ends with the commit, so verbs stand in line for a commit, never for a verb
(docs/decisions/the-audit-is-a-chain.md).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, models, transaction
from django.db.models import Model
from django.http import HttpRequest
from django.utils import timezone

from config.addresses import asker
from config.models import Act

FIRST = "0" * 64
"""What the first row follows."""

HIDDEN = "•••"
_SECRET = re.compile(r"password|secret|_hash$|_sealed$|_key$|token")
"""Fields of which only is kept that they changed."""
_NUMBER = re.compile(r"(?<![\w-])\d(?:[ -]?\d){10,18}[\dXx]?(?![\w-])")
_CODES = (
    re.compile(r"\bsk_(?:live|test)_\w+"),
    re.compile(r"\b[0-9A-Z]{4}(?:-[0-9A-Z]{4}){3}-?[0-9A-Z]\b"),
    re.compile(r"\b(?=\w*\d)(?=\w*[A-Z])[0-9A-Z]{17}\b"),
)
LONGEST = 500


def record(
    request: HttpRequest | None,
    verb: str,
    *,
    row: Model | None = None,
    kind: str = "",
    made: Model | None = None,
    asked: Mapping[str, object] | None = None,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
    reason: str = "",
    who: str | None = None,
    outcome: str = Act.Outcome.DONE,
) -> Act:
    """Write down what somebody did, as the last thing in the transaction that did it.

    Of ``before`` and ``after`` only what differs is kept, and of no number, code or secret more than its end.
    """
    if who is None:
        who = request.user.get_username() if request is not None and request.user.is_authenticated else ""
    changed = differences(before or {}, after or {})
    act = Act(
        recorded_at=timezone.now(),
        who=who,
        address=came_from(request) if request is not None else "",
        session=_session(request),
        verb=verb,
        outcome=outcome,
        kind=kind or (row._meta.label_lower if row is not None else ""),
        object_id=str(row.pk) if row is not None else "",
        label=masked(str(row))[:200] if row is not None else "",
        made=reference(made) if made is not None else "",
        asked={name: _shown(name, value) for name, value in (asked or {}).items()},
        before=changed[0],
        after=changed[1],
        reason=masked(reason),
    )
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT seq, hash FROM audit_head()")
            last, act.previous = cursor.fetchone() or (0, FIRST)
        act.seq = last + 1
        act.hash = digest(act.previous, content(act))
        act.save(force_insert=True)
    return act


def reference(row: Model) -> str:
    return f"{row._meta.label_lower}:{row.pk}"


def about(row: Model) -> models.QuerySet[Act]:
    """What staff did to a record, or when they made it; newest first."""
    of_it = models.Q(kind=row._meta.label_lower, object_id=str(row.pk)) | models.Q(made=reference(row))
    return Act.objects.filter(of_it).order_by("-seq")


def facts(row: Model) -> dict[str, object]:
    """All fields of a record as they stand in the database, for what a verb changed; {} if it is not there."""
    names = [field.attname for field in row._meta.concrete_fields]
    found = type(row)._base_manager.filter(pk=row.pk).values(*names).first() or {}
    return {name: bytes(value) if isinstance(value, memoryview) else value for name, value in found.items()}


def differences(
    before: Mapping[str, object], after: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """Of two states what differs, fit to be shown."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return (
        {name: _shown(name, before[name]) for name in names if name in before},
        {name: _shown(name, after[name]) for name in names if name in after},
    )


def masked(text: str) -> str:
    """Free text without the numbers of cards and people, codes and keys that somebody may have typed into it."""
    text = text.replace("\x00", "�").encode("utf-8", "replace").decode()
    text = _NUMBER.sub(lambda found: HIDDEN + found[0].replace(" ", "").replace("-", "")[-4:], text)
    for code in _CODES:
        text = code.sub(HIDDEN, text)
    return text


def _shown(name: str, value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, bytes | memoryview) or _SECRET.search(name):
        return HIDDEN if value else ""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Model):
        return f"{masked(str(value))} ({value.pk})"[:LONGEST]
    if isinstance(value, dict | list):
        return masked(json.dumps(value, ensure_ascii=False, sort_keys=True, default=str))
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return masked(str(value))[:LONGEST]


def came_from(request: HttpRequest) -> str:
    """The asker's address as the records have it; empty where nobody trusted says one."""
    return str(asker(request) or "")


def _session(request: HttpRequest | None) -> str:
    session = getattr(request, "session", None)
    if session is None or not session.session_key:
        return ""
    return hmac.digest(settings.SECRET_KEY.encode(), session.session_key.encode(), "sha256").hex()[:16]


# The chain -------------------------------------------------------------------------------------------------------

_CONTENT = (
    "seq", "recorded_at", "who", "address", "session", "verb", "outcome", "kind", "object_id", "label", "made", "asked",
    "before", "after", "reason",
)  # fmt: skip


def content(act: Act) -> str:
    """All of a row but its place in the chain, as one text that is the same wherever it is written."""
    return _as_text(getattr(act, name) for name in _CONTENT)


def _as_text(values: Iterable[object]) -> str:
    plain = [value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value for value in values]
    return json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def digest(previous: str, text: str) -> str:
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()


class Verdict(NamedTuple):
    """What walking the chain found: how many rows hold, the last of them, and what is wrong with the next, if so."""

    rows: int
    head: str
    problem: str


def verify(*, anchors: Mapping[int, str]) -> Verdict:
    """Walk the chain from its first row, in constant memory, up to the first row that is not what was written.

    ``anchors`` are hashes by row that were kept elsewhere: only they show that the end was cut off, or that somebody
    who owns the tables has written all of the chain anew.
    """
    seq, previous = 0, FIRST
    rows = Act.objects.order_by("seq").values_list(*_CONTENT, "previous", "hash")
    for *values, says_previous, says_hash in rows.iterator(chunk_size=2000):
        if values[0] != seq + 1:
            return Verdict(seq, previous, f"row {seq + 1} is missing")
        if says_previous != previous:
            return Verdict(seq, previous, f"row {seq + 1} does not follow row {seq}")
        if says_hash != digest(previous, _as_text(values)):
            return Verdict(seq, previous, f"row {seq + 1} is not what was written")
        if anchors.get(seq + 1, says_hash) != says_hash:
            return Verdict(seq, previous, f"row {seq + 1} is another than the one whose hash was kept elsewhere")
        seq, previous = seq + 1, says_hash
    if anchors and max(anchors) > seq:
        return Verdict(seq, previous, f"row {max(anchors)}, whose hash was kept elsewhere, is missing")
    return Verdict(seq, previous, "")


def head() -> tuple[int, str]:
    """The last row and its hash: whoever keeps them elsewhere can show later that nothing before was changed."""
    return Act.objects.order_by("-seq").values_list("seq", "hash").first() or (0, FIRST)
