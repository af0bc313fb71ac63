"""Kill everything in the middle of everything, and see it finish by itself: ``python -m tests.drills [PURCHASES]``.

Starts the whole product as ``./run`` does, in a folder of its own and on its own servers; has a batch staged and
approved by two people; and while the clock issues and enrols it, kills workers and web processes with SIGKILL, empties
Redis and silences the insurer. Then it waits, and counts: every card once, every policy accepted once here and there,
nothing differs in either reconciliation. Takes a few minutes; ends with exit code 1 if anything is wrong.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PURCHASES = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
PATIENCE = 600.0
FOLDER = Path(tempfile.mkdtemp(prefix="prepaid-drill-"))
os.environ["VAR_DIR"] = str(FOLDER)
os.environ["DEMO_SECRETS"] = "1"
for _name in (
    "DATABASE_URL",
    "REDIS_URL",
    "INSURER_URL",
    "PARTNERS_DATABASE_URL",
    "POINTS_SYSTEM_URL",
    "POINTS_SYSTEM_DATABASE_URL",
):
    os.environ.pop(_name, None)


def main() -> int:
    with _product() as product:
        # Only now: the settings read the folder and join the servers that are up.
        from tests.drills import blows  # noqa: PLC0415

        wrongs = blows.deal(product, purchases=PURCHASES, processes=_processes, kill=_kill, patience=PATIENCE)
    for wrong in wrongs:
        print("WRONG", wrong)
    print("1 passed, 0 failed" if not wrongs else "0 passed, 1 failed")
    return 1 if wrongs else 0


@contextmanager
def _product() -> Iterator[dict[str, object]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    print(f"starting the product in {FOLDER} …", flush=True)
    run = subprocess.Popen(
        [sys.executable, "-m", "config.supervisor", "--port", str(port), "--size", "small"],
        cwd=PROJECT, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        demo = FOLDER / "demo.json"
        until = time.monotonic() + PATIENCE
        while not (demo.exists() and "base_url" in demo.read_text()):
            if run.poll() is not None or time.monotonic() > until:
                raise SystemExit("the product did not start")
            time.sleep(0.5)
        yield json.loads(demo.read_text())
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(timeout=60)
        shutil.rmtree(FOLDER)


def _processes(words: str) -> list[int]:
    """Our processes whose command line holds ``words``; ours are those that were given our folder."""
    mark = f"VAR_DIR={FOLDER}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                words.encode() in (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                and mark in (folder / "environ").read_bytes()
            ):
                found.append(int(folder.name))
        except OSError:
            continue  # it ended while we looked
    return [pid for pid in found if pid != os.getpid()]


def _kill(words: str) -> int:
    """SIGKILL to one of our processes that are called like this; how many there were."""
    pids = _processes(words)
    if pids:
        os.kill(random.choice(pids), signal.SIGKILL)
    return len(pids)


if __name__ == "__main__":
    sys.exit(main())
