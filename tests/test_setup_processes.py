"""Processes that we start: mended when they die, never left behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from config import embedded, processes, supervisor

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT_OF_ONE = """
import sys, time
from pathlib import Path
from config import processes
child = processes.start([sys.executable, "-c", "import time; time.sleep(60)"], log=Path(sys.argv[1]))
print(child.pid, flush=True)
time.sleep(60)
"""


def eventually_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_child_does_not_outlive_a_parent_that_is_killed(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT_OF_ONE, tmp_path / "child.log"],
        cwd=embedded.PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    parent.kill()
    parent.communicate()
    assert eventually_gone(child)


def test_what_does_not_end_when_asked_is_killed(tmp_path):
    log = tmp_path / "stubborn.log"
    process = processes.start([sys.executable, "-c", STUBBORN], log=log)
    while "up" not in processes.last_lines(log):
        time.sleep(0.02)
    processes.stop([process], grace=0.3)
    assert process.returncode == -signal.SIGKILL


def test_a_part_that_keeps_dying_is_started_again_after_ever_longer_pauses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(supervisor, "LOGS", tmp_path)
    part = supervisor.Part("clock", ["-c", "raise SystemExit(3)"], {})
    pauses = []
    for _ in range(2):
        part.process.wait()
        noticed = time.monotonic()
        part.mend()
        assert part.again_at is not None
        pauses.append(round(part.again_at - noticed))
        part.again_at = noticed  # the pause is over
        part.mend()
        assert part.again_at is None
    assert pauses == [1, 2]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "clock ended (exit code 3); starting it again in 1 s"
    processes.stop([part.process], grace=1)


def test_the_end_of_a_log_is_what_one_is_told(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert processes.last_lines(log, count=2) == "line 9998\nline 9999"
    assert processes.last_lines(tmp_path / "none") == ""
