"""The bordereau: everything the insurer posted on one business date, as a file the other side reconciles with.

``D,<request_no>,<type>,<amount>,<premium>,<state>,<policy_no>,<posted_at>`` for every item, and as sums
``TYPE:count:amount:premium;…`` of the accepted ones.

Amounts are fen; sum insured and premium of a cancellation are negative: they go back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date

from config import signed_files
from insurance.sandbox.models import Item
from insurance.sandbox.underwriting import ACCEPTED


def write(*, business_date: date, in_reply_to: str, keys: Sequence[str]) -> Iterator[bytes]:
    """The lines of the file, with at most a few thousand rows in memory."""
    totals: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    def lines() -> Iterator[str]:
        items = Item.objects.filter(business_date=business_date).order_by("pk")
        for item in items.iterator(chunk_size=signed_files.ROWS_A_TIME):
            accepted = item.code == ACCEPTED
            if accepted:
                total = totals[item.type]
                total[0] += 1
                total[1] += item.amount
                total[2] += item.premium
            yield (
                f"D,{item.request_no},{item.type},{item.amount},{item.premium},"
                f"{'ACCEPTED' if accepted else 'REFUSED'},{item.policy_no},{signed_files.moment(item.posted_at)}\n"
            )

    def sums() -> str:
        return ";".join(
            f"{type}:{count}:{amount}:{premium}" for type, (count, amount, premium) in sorted(totals.items())
        )

    return signed_files.write(business_date=business_date, in_reply_to=in_reply_to, lines=lines(), sums=sums, keys=keys)
