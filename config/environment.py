"""The virtual environment under ``.venv``: made and kept up to date by the standard library alone."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / ".venv"
PYTHON = FOLDER / "bin" / "python"
LOCK = PROJECT / "requirements.lock"
STAMP = FOLDER / "requirements.sha256"


def enter(module: str, arguments: list[str], *, to_prove: bool = False) -> NoReturn:
    """Become ``module``, run by the environment's Python from the project's folder.

    What stands under "Proof" in ``requirements.lock`` is installed only ``to_prove`` the product: whoever wants to see
    it run does not wait for a type checker.
    """
    try:
        make(to_prove=to_prove)
    except KeyboardInterrupt:
        sys.exit(130)
    os.chdir(PROJECT)
    os.execv(PYTHON, [str(PYTHON), "-m", module, *arguments])


def make(*, to_prove: bool = False) -> None:
    """See to it that the environment holds what the lock names. Ends the program with advice where it cannot."""
    if _is_current(to_prove):
        return
    try:
        (PROJECT / "var").mkdir(exist_ok=True)
        lock = (PROJECT / "var" / "environment.lock").open("ab")
    except PermissionError:
        sys.exit(f"{PROJECT} is not yours to write to. Make a copy of your own, or run this as its owner.")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_current(to_prove):
            _make(_packages(to_prove))


def _is_current(to_prove: bool) -> bool:
    enough = {_digest(_packages(True)), _digest(_packages(to_prove))}
    return STAMP.exists() and STAMP.read_text() in enough and _works()


def _packages(to_prove: bool) -> list[str]:
    """The lock's pins; those below "Proof" with what they bring along are only for proving."""
    to_run, _proof, more = LOCK.read_text().partition("# Proof\n")
    return (to_run + more if to_prove else to_run).split()


def _digest(packages: list[str]) -> str:
    return hashlib.sha256("\n".join(packages).encode()).hexdigest()


def _works() -> bool:
    """The Python that it was made from may have been removed, or be too old by now."""
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    return PYTHON.exists() and subprocess.run([PYTHON, "-c", check], capture_output=True).returncode == 0


def _make(packages: list[str]) -> None:
    started = time.monotonic()
    if not _works():
        print(f"making a virtual environment in {FOLDER.relative_to(PROJECT)} …", flush=True)
        if FOLDER.exists():
            shutil.rmtree(FOLDER)
        made = subprocess.run([sys.executable, "-m", "venv", FOLDER], capture_output=True, text=True)
        if made.returncode != 0:
            sys.exit(
                f"{(made.stdout + made.stderr).strip()}\n\nThis Python cannot make a virtual environment. On Debian "
                "and Ubuntu the package python3-venv is missing: sudo apt install python3-venv"
            )
    print(f"installing {len(packages)} packages …", flush=True)
    # The lock is complete, so nothing has to be resolved; a module is compiled when it is first used.
    installed = subprocess.run(
        [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        + ["--no-deps", "--no-compile", *packages],
        capture_output=True,
        text=True,
    )
    if installed.returncode != 0:
        sys.exit(
            f"{installed.stderr.strip()[-2000:]}\n\nThe packages could not be installed. pip needs to reach a package "
            "index: check the network, or name a mirror in PIP_INDEX_URL, and run this again."
        )
    STAMP.write_text(_digest(packages))
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)
