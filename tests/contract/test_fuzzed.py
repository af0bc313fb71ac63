"""Whatever the contract allows, forbids or leads on to, asked by schemathesis over real HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from config import limits
from prepaid import processing
from tests import invariants
from tests.api.asking import asker
from tests.contract import world
from tests.partners import PROJECT, PointsSystem, partner_process, points_system
from tests.web import served

__all__ = ["partner_process", "points_system"]

HERE = Path(__file__).parent
EXAMPLES = os.environ.get("CONTRACT_EXAMPLES", "3")
"""For each operation and phase. ``python -m tests.contract`` asks for many more."""


@pytest.mark.django_db(transaction=True)
def test_the_contract_is_kept(points_system: PointsSystem, settings: Any, tmp_path: Path) -> None:
    made = world.build()
    world.open_bank(points_system, settings)
    twin = asker(processing.make_test_twin(merchant=made.asker.merchant, now=timezone.now()))
    # Nobody asks as often as this, and with so many wrong keys.
    unlimited = {f"RATE_LIMIT_{kind.upper()}": "1000000" for kind in limits.KINDS}
    with served(tmp_path / "log", **unlimited) as port:
        asked = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run",
             f"http://127.0.0.1:{port}/api/v1/openapi.json", "--max-examples", EXAMPLES,
             "--seed", os.environ.get("CONTRACT_SEED", "20261121"),
             "--warnings", "off", "--continue-on-failure", "--suppress-health-check", "all",
             *os.environ.get("CONTRACT_MORE", "").split()],
            cwd=PROJECT,
            env={
                **os.environ,
                "KNOWN": json.dumps(made.known),
                "API_KEY": made.asker.key,
                "TEST_API_KEY": twin.key,
                "SCHEMATHESIS_HOOKS": "tests.contract.hooks",
                "NO_PROXY": "127.0.0.1",
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        log = (tmp_path / "log").read_text()
    assert asked.returncode == 0, f"{asked.stdout}\n{log}"
    invariants.hold()
