"""How the points system bends its answers on demand, beside what can go wrong with any partner."""

from __future__ import annotations

from config import messages
from config.misbehaviour import Bend, Facts
from points.system import posting
from points.system.models import Behaviour


def _contradicted(facts: Facts) -> Facts:
    if facts["result"] != messages.SUCCESS:
        return facts
    return posting.facts(posting.INSUFFICIENT)


def _other_points(facts: Facts) -> Facts:
    body = facts["body"]
    if "items" in body:
        return _items(facts, [_one_more(item) if "points" in item else item for item in body["items"]])
    return facts | {"body": _one_more(body)} if "points" in body else facts


def _one_more(body: Facts) -> Facts:
    return body | {"points": body["points"] + 1}


def _items(facts: Facts, items: list[Facts]) -> Facts:
    return facts | {"body": facts["body"] | {"items": items}}


def _half_left_out(facts: Facts) -> Facts:
    return _items(facts, facts["body"]["items"][::2]) if "items" in facts["body"] else facts


def _half_of_others(facts: Facts) -> Facts:
    if "items" not in facts["body"]:
        return facts
    items = facts["body"]["items"]
    others = [item | {"original": messages.new_request_no()} for item in items[1::2]]
    return _items(facts, items[::2] + others)


def _half_twice(facts: Facts) -> Facts:
    if "items" not in facts["body"]:
        return facts
    return _items(facts, [*facts["body"]["items"], *facts["body"]["items"][1::2]])


BENDS: dict[str, Bend] = {
    Behaviour.Own.CONTRADICTORY: _contradicted,
    Behaviour.Own.WRONG_POINTS: _other_points,
    Behaviour.Own.ITEMS_LEFT_OUT: _half_left_out,
    Behaviour.Own.ITEMS_OF_OTHERS: _half_of_others,
    Behaviour.Own.ITEMS_TWICE: _half_twice,
}
