"""``./run`` as a person meets it, on servers of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from config import embedded

PATIENCE = 180.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(var: Path) -> dict[str, str]:
    """Ours, less what points to servers and secrets elsewhere."""
    ours = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    return ours | {"VAR_DIR": str(var), "DEMO_SECRETS": "", "NO_PROXY": "127.0.0.1"}


def run(var: Path, *options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "config.supervisor", *map(str, options)],
        cwd=embedded.PROJECT,
        env=environment(var),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ready(var: Path) -> dict[str, object]:
    """What demo.json tells once the addresses are in it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            told = json.loads((var / "demo.json").read_text())
            if "base_url" in told:
                return told
        time.sleep(0.1)
    raise AssertionError("it did not become ready")


@pytest.fixture
def running(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    process = run(tmp_path, "--port", free_port(), "--size", "small")
    yield process
    process.kill()
    process.communicate()


def children(process: "subprocess.Popen[str]", word: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.Error):  # it may end while we look
            if word in child.cmdline():
                found.append(child)
    return found


def test_it_serves_mends_what_dies_refuses_a_second_and_leaves_nothing_behind(running, tmp_path):
    told = ready(tmp_path)
    health = f"{told['base_url']}/healthz"
    assert httpx.get(health, trust_env=False).json() == {"status": "ok"}

    second = run(tmp_path, "--port", free_port())
    said, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 1
    assert f"Another ./run (process {running.pid}) is running in this folder" in said

    for part in ("config.wsgi:application", "worker", "beat"):
        (child,) = children(running, part)
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while True:
        with suppress(httpx.TransportError):
            whole = all(len(children(running, part)) == 1 for part in ("config.wsgi:application", "worker", "beat"))
            if httpx.get(health, trust_env=False).status_code == 200 and whole:
                break
        assert time.monotonic() < deadline, "it was not mended"
        time.sleep(0.1)

    family = psutil.Process(running.pid).children(recursive=True)
    assert family
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "web ended (SIGKILL); starting it again in 1 s" in said
    assert said.splitlines()[-1] == "stopped"
    _, left = psutil.wait_procs(family, timeout=60)
    assert left == []


def test_a_taken_port_is_said_and_another_is_proposed(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = run(tmp_path, "--port", port)
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert said == f"Port {port} is taken by another program. Choose another one: ./run --port {port + 10}\n"


def test_starting_from_scratch_never_empties_a_database_that_somebody_named(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "config.supervisor", "--reset"],
        cwd=embedded.PROJECT,
        env=environment(tmp_path) | {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/real"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert "--reset empties the embedded servers only" in process.stderr


BESIDE_US = """
import urllib.request
from config import embedded, supervisor
url = embedded.partners_url()
with supervisor.partners_beside_us(f"{url}/insurer/"):
    print(urllib.request.urlopen(f"{url}/admin/login/").status, url)
"""


def test_a_command_without_run_has_the_partner_systems_for_as_long_as_it_lasts(tmp_path):
    command = subprocess.run(
        [sys.executable, "-c", BESIDE_US],
        cwd=embedded.PROJECT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    status, url = command.stdout.split()
    assert status == "200", command.stderr
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
