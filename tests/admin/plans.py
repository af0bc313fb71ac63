"""How PostgreSQL would answer a question, where any index that there is gets used."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.db import connection


class Scan(NamedTuple):
    table: str
    is_by_index: bool


def scans(sql: str) -> list[Scan]:
    """Which tables a question reads, and whether it finds their rows by a condition on an index.

    Among the few rows of a test a scan would be as good, so scans are made costly first.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}")
        found = cursor.fetchone()[0]
    [plan] = json.loads(found) if isinstance(found, str) else found
    # A bitmap's own index scans stand below it.
    return [
        Scan(node["Relation Name"], "Index Cond" in node or node["Node Type"] == "Bitmap Heap Scan")
        for node in _nodes(plan["Plan"])
        if "Relation Name" in node
    ]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)
