"""The statement (对账文件): every message that moved points, or was refused, on one accounting date.

``D,<request_no>,<type>,<points>,<state>,<bank_reference>,<original>,<posted_at>`` for every request, and as sums
``TYPE:count:points;…`` of the accepted ones. An accounting date ends at midnight in the points system's time zone. A
line never changes: a deduction that is reversed later stays accepted, and the reversal has a line of its own, with the
deduction it speaks of as ``original``. A reversal of what never came is accepted and moves no points; the deduction
that comes after it is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date

from config import signed_files
from points.system.models import Request
from points.system.posting import DONE, MOVING


def write(*, accounting_date: date, in_reply_to: str, keys: Sequence[str]) -> Iterator[bytes]:
    """The lines of the file, with at most a few thousand rows in memory."""
    totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])

    def lines() -> Iterator[str]:
        requests = Request.objects.filter(accounting_date=accounting_date, type__in=MOVING).order_by("pk")
        columns = requests.values_list(
            "request_no", "type", "points", "code", "bank_reference", "original", "posted_at"
        )
        for request_no, type, points, code, reference, original, posted_at in columns.iterator(
            chunk_size=signed_files.ROWS_A_TIME
        ):
            if code == DONE:
                total = totals[type]
                total[0] += 1
                total[1] += points
            state = "ACCEPTED" if code == DONE else "REFUSED"
            yield f"D,{request_no},{type},{points},{state},{reference},{original},{signed_files.moment(posted_at)}\n"

    def sums() -> str:
        return ";".join(f"{type}:{count}:{points}" for type, (count, points) in sorted(totals.items()))

    return signed_files.write(
        business_date=accounting_date, in_reply_to=in_reply_to, lines=lines(), sums=sums, keys=keys
    )
