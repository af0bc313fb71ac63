"""Accounts come in from a file, once; and a points system whose database went away is there again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from config import messages
from tests.partners import PROJECT, PointsSystem, Server, database_url, free_port
from tests.points_system.asking import deduct

FILE = """account,customer,lot_points,lot_expires
6225000026000001,王涛,12227,2028-12-31
6225000026000001,罗芳,33041,2027-12-31
6225000026000002,黄强,41265,2026-12-31
"""


def bring_in(bank: PointsSystem, file: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.partner_settings",
        "PARTNERS_DATABASE_URL": database_url("nowhere"),
        "POINTS_SYSTEM_DATABASE_URL": database_url(bank.database.info.dbname),
    }
    return subprocess.run(
        [sys.executable, "-m", "django", "bring_in", file, "--skip-checks"],
        cwd=PROJECT, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_a_file_is_brought_in_once_and_other_names_are_reported(points_system, tmp_path):
    file = tmp_path / "accounts.csv"
    file.write_text(FILE)
    first = bring_in(points_system, file)
    assert first.stdout.splitlines() == [
        "2 accounts, 3 lots of points",
        "accounts.csv:3: 6225000026000001 罗芳; 王涛 counts",
    ]
    assert points_system.remaining("6225000026000001") == [33041, 12227]
    assert points_system.holds("SELECT customer FROM points_system_account ORDER BY number") == [
        {"customer": "王涛"},
        {"customer": "黄强"},
    ]
    file.write_text(FILE + "6225000026000003,张娟,31215,2026-12-31\n")
    assert bring_in(points_system, file).stdout.splitlines() == ["1 accounts, 1 lots of points"]
    assert points_system.count("lot") == 4


@pytest.mark.parametrize(
    "row", ["6225000026000009,张娟,x,2026-12-31", "6225000026000009,张娟,0,2026-12-31", "6225000026000009,张娟,5,never"]
)
def test_a_row_that_cannot_be_read_brings_nothing_in(points_system, tmp_path, row):
    file = tmp_path / "accounts.csv"
    file.write_text(FILE + row + "\n")
    assert bring_in(points_system, file).returncode != 0
    assert points_system.count("account") == points_system.count("lot") == 0


@pytest.fixture
def in_earnest(points_system, tmp_path):
    """The points system with the settings that it is run with: it keeps its connections."""
    server = Server(
        port=free_port(),
        environment={**points_system.server.environment, "DJANGO_SETTINGS_MODULE": "config.partner_settings"},
        log=tmp_path / "log",
        threads=2,
    )
    try:
        server.start()
        yield replace(points_system, url=f"http://127.0.0.1:{server.port}", server=server)
    finally:
        server.stop()


def test_a_database_that_went_away_costs_answers_but_no_points(in_earnest):
    in_earnest.has_account((5000, "2027-12-31"))
    in_earnest.advise()
    in_earnest.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    request_no = messages.new_request_no()
    codes = []
    while codes[-1:] != ["0000"] and len(codes) < 50:
        try:
            codes.append(deduct(in_earnest, request_no=request_no).code)
        except messages.Unknown as unknown:
            codes.append(unknown.reason)
    assert set(codes) == {"HTTP_STATUS", "0000"}
    assert in_earnest.remaining() == [4000]
