"""How the insurer bends its answers on demand, beside what can go wrong with any partner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from config.misbehaviour import Bend, Facts
from insurance.sandbox.models import Behaviour
from insurance.sandbox.underwriting import ACCEPTED, DECLINED


def _items_bent(bend: Callable[[list[Any]], list[Any]]) -> Bend:
    def bent(facts: Facts) -> Facts:
        return facts | {"body": facts["body"] | {"items": bend(facts["body"].get("items", []))}}

    return bent


BENDS: dict[str, Bend] = {
    Behaviour.Own.CONTRADICTORY: _items_bent(
        lambda items: [
            {"request_no": item["request_no"], "code": DECLINED} if item["code"] == ACCEPTED else item for item in items
        ]
    ),
    Behaviour.Own.PARTIAL: _items_bent(lambda items: items[::2]),
}
