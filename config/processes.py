"""Processes that we start: they never outlive us, whichever way we go."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_LOG_BYTES = 20_000_000


def start(
    command: Sequence[object],
    *,
    log: Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    user: pwd.struct_passwd | None = None,
    parting: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own, so that a Ctrl-C reaches us alone, with its output in ``log``.

    If we are killed, the kernel sends it ``parting`` (on Linux; elsewhere it is left behind).
    """
    us = os.getpid()

    def part_with_us() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(parting))
            if os.getppid() != us:
                os._exit(1)  # we were gone before it was said

    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".old.log"))
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            user=None if user is None else user.pw_uid,
            group=None if user is None else user.pw_gid,
            extra_groups=None if user is None else [],
            preexec_fn=part_with_us,
        )


def stop(processes: Sequence[subprocess.Popen[bytes]], *, grace: float, word: signal.Signals = signal.SIGTERM) -> None:
    """Ask all of them to end, wait ``grace`` seconds in all, then kill what is left of their sessions."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(word)
    with suppress(subprocess.TimeoutExpired):
        for process in processes:
            process.wait(timeout=grace)
    for process in processes:
        sweep(process)


def sweep(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of a process's session: itself, or children that it left behind."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_lines(log: Path, *, count: int = 15) -> str:
    """The end of a log, for somebody who has to be told what went wrong."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
