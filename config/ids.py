"""Identities: a time-ordered UUID in the database, an opaque prefixed text outside.

UUIDv7 (RFC 9562) keeps index inserts at the right-hand edge and lets a list be ordered by its primary key,
so neither a second unique column nor a sequence round trip is needed.
"""

import re
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["example_of", "new_id", "parse_id", "public_id", "schema_of"]

_HEX = re.compile(r"[0-9a-f]{32}\Z")
_EXAMPLE = UUID("019350a8-5b00-7c3d-9e2f-1a0b5c6d7e8f")


def new_id() -> UUID:
    """A new time-ordered identity."""
    return uuid7()


def public_id(prefix: str, identity: UUID) -> str:
    """``crd_0190…``: how an identity is written outside the database."""
    return f"{prefix}_{identity.hex}"


def parse_id(prefix: str, text: object) -> UUID | None:
    """The identity behind ``crd_0190…``; None for anything else, so that unknown and malformed look alike."""
    if not isinstance(text, str) or not text.startswith(prefix + "_"):
        return None
    digits = text[len(prefix) + 1 :]
    return UUID(hex=digits) if _HEX.match(digits) else None


def schema_of(prefix: str) -> dict[str, Any]:
    """``crd_…`` as the contract tells it (JSON Schema)."""
    return {"type": "string", "pattern": f"^{prefix}_[0-9a-f]{{32}}$", "examples": [example_of(prefix)]}


def example_of(prefix: str) -> str:
    """The id that stands in the contract's examples."""
    return public_id(prefix, _EXAMPLE)
