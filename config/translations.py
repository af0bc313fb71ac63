"""Compiled translations, made from the texts by Babel: a bare machine has no gettext."""

import os
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

LOCALES = Path(__file__).resolve().parent / "locale"


def compile_all(folder: Path = LOCALES) -> None:
    """Make each ``.mo`` that is missing or older than its ``.po``; what is marked fuzzy is left out."""
    for source in sorted(folder.glob("*/LC_MESSAGES/*.po")):
        target = source.with_suffix(".mo")
        if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
            continue
        with source.open("rb") as file:
            catalog = read_po(file, locale=source.parts[-3])
        # Several processes may do this at once: each writes its own and puts it in place whole.
        new = target.with_suffix(f".mo.{os.getpid()}")
        with new.open("wb") as file:
            write_mo(file, catalog)
        new.replace(target)
