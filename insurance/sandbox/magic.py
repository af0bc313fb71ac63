"""Sums insured by which a test merchant has the insurer decide otherwise than it would (docs/api/sandbox.md).

Live merchants' items are judged as ever, whatever their sum: which are tests is seen by the merchant's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TEST_SUFFIX = "-TEST"

DECLINED = 100_911
"""The risk is declined."""
SILENT = 100_921
"""Nothing is said of it, and nothing judged, until a SIMULATION says how."""
LATE = 100_931
"""It is accepted, but in progress when it is first asked for: the next question is told."""


def is_for_tests(item: Mapping[str, Any]) -> bool:
    return str(item.get("merchant", "")).endswith(TEST_SUFFIX)


def is_meant(item: Mapping[str, Any], sum_insured: int) -> bool:
    return item.get("sum_insured") == sum_insured and is_for_tests(item)
