"""``./test``: every proof there is, one closing line for each, on the embedded servers or those of the two URLs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from config import embedded, translations

WORKERS = str(min(4, (os.cpu_count() or 1) + 1))
"""One more than there are cores: half of the time is waiting for silent partners. Each has its own database and
partner systems."""

NOWHERE = "postgres://nobody@127.0.0.1:1/nothing"


def parts(arguments: Sequence[str]) -> list[tuple[str, list[str], Mapping[str, str]]]:
    """Name, command line after ``python``, and additions to the environment."""
    return [
        ("tests", ["-m", "pytest", "-n", WORKERS, "--dist", "loadgroup", *arguments], {}),
        ("lint", ["-m", "ruff", "check", "."], {}),
        ("format", ["-m", "ruff", "format", "--check", "."], {}),
        ("types", ["-m", "mypy"], {}),
        ("imports", ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"], {}),
        # Whether the models say more than the migrations; no database has a part in that question.
        (
            "migrations",
            ["-W", "ignore::RuntimeWarning", "manage.py", "makemigrations", "--check", "--dry-run"],
            {"DATABASE_URL": NOWHERE, "REDIS_URL": "redis://127.0.0.1:1/0", "DEMO_SECRETS": "1"},
        ),
    ]


def main(arguments: Sequence[str]) -> int:
    """Run all parts, also after one has failed; 0 when all are well."""
    if not (os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL")):
        embedded.join()  # once for all parts
    translations.compile_all()
    lines = []
    for name, command, additions in parts(arguments):
        print(f"== {name}", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, *command], env={**os.environ, **additions}).returncode
        lines.append((name, code, time.monotonic() - began))
    print()
    for name, code, seconds in lines:
        print(f"{name:<12} {'ok' if code == 0 else f'FAILED with exit code {code}':<30} {seconds:6.1f} s")
    return 1 if any(code for _, code, _ in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
