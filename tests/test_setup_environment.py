"""./run on the machine of a stranger: what is missing there is said with what to do about it, and nothing is left."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from config import environment

PATIENCE = 120.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what is needed before anything is installed, with an entry that only says where it runs."""
    folder = tmp_path / "project"
    (folder / "config").mkdir(parents=True)
    for name in ("run", "requirements.txt", "requirements.lock", "config/__init__.py", "config/environment.py"):
        shutil.copy(environment.PROJECT / name, folder / name)
    (folder / "config" / "supervisor.py").write_text("import sys; print('entered', sys.executable, *sys.argv[1:])\n")
    return folder


def command(project: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(project / "run"), *arguments]


def surroundings(**more: str) -> dict[str, str]:
    """As a shell would give them, without what the tests' own environment has set."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | more


def run(project: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(project), env=surroundings(**more), capture_output=True, text=True, timeout=PATIENCE)


def pretending(tmp_path: Path, **modules: str) -> str:
    """A folder of modules that Python finds before its own."""
    folder = tmp_path / "pretending"
    folder.mkdir()
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return str(folder)


# What a machine may lack


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_which_package_is_missing(project, tmp_path, module):
    # Debian leaves out ensurepip and keeps venv, which then says so itself; others leave out both.
    says = {
        "venv": {"venv": "raise ModuleNotFoundError(\"No module named 'venv'\")"},
        "ensurepip": {"sitecustomize": WITHOUT_ENSUREPIP},
    }[module]
    said = run(project, PYTHONPATH=pretending(tmp_path, **says))
    assert said.returncode == 1
    assert f"{module}" in said.stderr
    assert said.stderr.endswith(
        "This Python cannot make a virtual environment. On Debian and Ubuntu the package python3-venv is missing: "
        "sudo apt install python3-venv\n"
    )
    assert not (project / ".venv" / "requirements.sha256").exists()


WITHOUT_ENSUREPIP = """
import sys, venv
def without(self, context):
    print("The virtual environment was not created successfully because ensurepip is not available.")
    sys.exit(1)
venv.EnvBuilder._setup_pip = without
"""


def test_after_the_advice_was_followed_it_makes_the_environment_anew(project, tmp_path):
    run(project, PYTHONPATH=pretending(tmp_path, sitecustomize=WITHOUT_ENSUREPIP))
    assert (project / ".venv").exists(), "venv leaves half of it behind"
    said = run(project, PIP_INDEX_URL="http://127.0.0.1:1/", PIP_RETRIES="0")
    assert "making a virtual environment in .venv" in said.stdout
    # And without a package index it says that, and how to name another.
    assert said.returncode == 1
    assert "name a mirror in PIP_INDEX_URL, and run this again." in said.stderr
    assert not (project / ".venv" / "requirements.sha256").exists()
    again = run(project, PIP_INDEX_URL="http://127.0.0.1:1/", PIP_RETRIES="0")
    assert "making a virtual environment" not in again.stdout
    assert "installing" in again.stdout


def test_an_old_python_is_told_the_version_it_lacks(project, tmp_path):
    old = "import sys; sys.version_info = (3, 10, 4, 'final', 0)"
    said = run(project, PYTHONPATH=pretending(tmp_path, sitecustomize=old))
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == "Prepaid needs Python 3.11 or newer; this is 3.10. Try: python3.12 ./run\n"


# Root may write everywhere, so it becomes nobody as soon as what nobody may not read is imported.
AS_NOBODY = """
import __future__, os, fcntl, hashlib, shutil, subprocess, time, typing, pathlib
if os.geteuid() == 0:
    os.seteuid(65534)
"""


def test_a_folder_of_somebody_else_is_not_touched(project, tmp_path):
    with TemporaryDirectory() as room:
        Path(room).chmod(0o755)
        theirs = Path(shutil.copytree(project, f"{room}/project"))
        theirs.chmod(0o555)
        said = run(theirs, PYTHONPATH=pretending(tmp_path, sitecustomize=AS_NOBODY), PYTHONDONTWRITEBYTECODE="1")
        left = sorted(path.name for path in theirs.iterdir())
        theirs.chmod(0o755)
    assert said.returncode == 1
    assert said.stderr == f"{theirs} is not yours to write to. Make a copy of your own, or run this as its owner.\n"
    assert left == ["config", "requirements.lock", "requirements.txt", "run"]


# What is there already


def stamped(project: Path, text: str) -> None:
    """An environment that works, with what its stamp says was installed."""
    folder = project / ".venv" / "bin"
    folder.mkdir(parents=True)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (project / ".venv" / "requirements.sha256").write_text(text)


def digest(*, to_prove: bool) -> str:
    return environment._digest(environment._packages(to_prove))


@pytest.mark.parametrize("to_prove", [True, False])
def test_what_is_installed_is_entered_at_once(project, to_prove):
    stamped(project, digest(to_prove=to_prove))
    said = subprocess.run(
        command(project, "--port", "8123"), env=surroundings(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout == f"entered {sys.executable} --port 8123\n"
    assert not (project / "var").exists()


def test_a_lock_that_changed_is_installed_before_anything_runs(project):
    stamped(project, digest(to_prove=False))
    lock = project / "requirements.lock"
    lock.write_text("no-such-package==1.0\n" + lock.read_text())
    said = run(project, PIP_INDEX_URL="http://127.0.0.1:1/", PIP_RETRIES="0", PIP_TARGET=str(project / "elsewhere"))
    assert said.returncode == 1
    assert "entered" not in said.stdout
    assert "The packages could not be installed." in said.stderr


def test_two_at_once_wait_for_each_other(project):
    (project / "var").mkdir()
    with (project / "var" / "environment.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen(command(project), env=surroundings(), stdout=subprocess.PIPE, text=True)
        waits_for(second, "flock")
        # While it waits the first one finishes.
        stamped(project, digest(to_prove=False))
    said, _nothing = second.communicate(timeout=PATIENCE)
    assert (second.returncode, said) == (0, f"entered {sys.executable}\n")


def test_ctrl_c_while_it_installs_ends_quietly(project):
    (project / "var").mkdir()
    with (project / "var" / "environment.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Whatever runs in the background of a shell is started deaf to Ctrl-C, and hands that on.
        waiting = subprocess.Popen(
            command(project), env=surroundings(), stderr=subprocess.PIPE, text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        waits_for(waiting, "flock")
        waiting.send_signal(signal.SIGINT)
        _nothing, said = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, said) == (130, "")


def waits_for(process: "subprocess.Popen[str]", what: str) -> None:
    """Until the kernel says that the process waits for a lock on a file."""
    until = time.monotonic() + PATIENCE
    while f" {process.pid} " not in Path("/proc/locks").read_text().replace("->", " "):
        assert process.poll() is None, f"it did not wait for its {what}"
        assert time.monotonic() < until
        time.sleep(0.01)
