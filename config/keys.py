"""The project's secrets: from the environment, or made once for a demonstration.

A name that ends in S holds a list, newest first, separated by commas: what is written uses the first, what is
read tries all, so that a key can be replaced while the old one is still about.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


def read(name: str, *, environment: Mapping[str, str], folder: Path) -> list[str]:
    """The values of the secret ``name``, newest first: each 32 random bytes in base64 where we made it.

    Unset, it is made once and kept in ``folder/secrets.json``, readable by its owner only. A database that
    somebody named in DATABASE_URL may hold real cards, and keys that lie in a folder beside the program would
    one day be lost with it, so there this happens only where DEMO_SECRETS=1 allows it.

    :raises ImproperlyConfigured: it is unset and may not be made.
    """
    given = [value.strip() for value in environment.get(name, "").split(",") if value.strip()]
    if given:
        return given
    if environment.get("DATABASE_URL") and environment.get("DEMO_SECRETS") != "1":
        raise ImproperlyConfigured(
            f"{name} is not set. With DATABASE_URL set the secrets must come from the environment: 32 random bytes "
            f"in base64, for example from `openssl rand -base64 32`. Only for a demonstration or a test, "
            f"DEMO_SECRETS=1 lets the program make its own in {folder}/secrets.json."
        )
    return [_kept(name, folder=folder)]


def _kept(name: str, *, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "secrets.json"
    with open(os.open(folder / "secrets.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+b") as lock:
        # Web, worker and clock start at once on a new machine: without the lock each would make its own keys.
        fcntl.flock(lock, fcntl.LOCK_EX)
        values: dict[str, str] = json.loads(kept.read_text()) if kept.exists() else {}
        if name not in values:
            values[name] = base64.b64encode(secrets.token_bytes(32)).decode()
            new = folder / "secrets.json.new"
            new.unlink(missing_ok=True)
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(values, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(kept)
        return values[name]
