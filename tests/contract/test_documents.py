"""What developers read first works as it stands there: the quickstart line by line, and the client."""

import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

from issuing.models import Kind
from prepaid.models import Transaction
from tests import cards
from tests.api.asking import asker, insured
from tests.contract.holding import DOCS
from tests.web import served

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What ``./run`` leaves in var/demo.json, of a server that sells one program."""
    made = asker(insured())
    cards.program(Kind.BONUS, merchant=made.merchant, card_limit=100_000, tiers=[(200_000, 26_000)])
    with served(tmp_path / "log") as port:
        told = {
            "base_url": f"http://127.0.0.1:{port}",
            "merchants": [{"code": made.merchant.code, "api_key": made.key}],
        }
        (tmp_path / "var").mkdir()
        (tmp_path / "var" / "demo.json").write_text(json.dumps(told))
        yield told


def test_every_line_of_the_quickstart_works(running: dict[str, Any], tmp_path: Path) -> None:
    page = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL))
    walk = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
    )
    assert walk.returncode == 0, walk.stdout + walk.stderr
    done = Transaction.objects.order_by("pk").values_list("kind", "amount", "usable_after")
    assert list(done) == [
        ("PURCHASE", 276_000, 276_000), ("PAYMENT", -5_000, 271_000), ("REFUND", 1_000, 272_000),
    ]  # fmt: skip


def test_what_the_quickstart_links_to_is_there() -> None:
    for page in ("README.md", "quickstart.md"):
        for name in re.findall(r"\]\(([\w./]+)", (DOCS / page).read_text(encoding="utf-8")):
            if not name.startswith("/"):
                assert (DOCS / name).exists(), f"{page}: {name}"


class DeadLine:
    """A line to the server on which the first answers are lost: the request arrives, and nobody hears of it."""

    def __init__(self, address: str, *, lost: int) -> None:
        host, _colon, port = address.removeprefix("http://").partition(":")
        self.server, self.lost = (host, int(port)), lost
        self.door = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self._carry, daemon=True).start()

    def _carry(self) -> None:
        while True:
            try:
                asker, _from = self.door.accept()
            except OSError:
                return
            with asker, socket.create_connection(self.server) as server:
                server.sendall(_whole(asker))
                answer = _whole(server)
                if self.lost:
                    self.lost -= 1
                else:
                    asker.sendall(answer)


def _whole(line: socket.socket) -> bytes:
    """A request or an answer, with all of its body."""
    came = b""
    while b"\r\n\r\n" not in came:
        came += line.recv(65_536)
    head, _blank, body = came.partition(b"\r\n\r\n")
    length = int((re.search(rb"(?i)content-length: *(\d+)", head) or [b"", b"0"])[1])
    while len(body) < length:
        more = line.recv(65_536)
        came, body = came + more, body + more
    return came


def test_the_client_pays_once_whatever_is_lost_on_the_way(running: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    example = run_path(str(DOCS / "client.py"))
    line = DeadLine(running["base_url"], lost=0)
    client = example["Client"](f"{line.address}/api/v1", running["merchants"][0]["api_key"])
    [program] = client.every("/programs", kind="BONUS")
    card = client.post(
        "/cards",
        {
            "program": program["id"],
            "prepaid_amount": 100_000,
            "reference": "PUR-1",
            "payment_method": "WECHAT",
            "holder": {"name": "王小明", "phone": "13912342893"},
        },
    )
    line.lost = 2
    for number in range(3):
        body = {"list_amount": 1_000, "reference": f"ORDER-{number}"}
        client.post(f"/cards/{card['id']}/payments", body, key=f"order-{number}")
    line.lost = 1
    assert client.get(f"/cards/{card['id']}")["balance"]["usable"] == 97_000
    listed = list(client.every("/transactions", kind="PAYMENT", limit=1))
    assert [row["reference"] for row in listed] == ["ORDER-2", "ORDER-1", "ORDER-0"]
    with pytest.raises(example["Problem"]) as refused:
        client.post(f"/cards/{card['id']}/payments", {"list_amount": 1_000_000, "reference": "ORDER-9"})
    assert (refused.value.status, refused.value.code) == (409, "InsufficientBalance")
    line.door.close()


def test_the_client_is_short() -> None:
    assert len((DOCS / "client.py").read_text(encoding="utf-8").splitlines()) <= 60
