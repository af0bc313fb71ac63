"""Texts that the database alone must not tell: found by a keyed hash, given back by a key.

A vault has its keys from a list in the settings, newest first: the first one writes, all of them read, so a new key is
put in front and the old one stays. From each key two are derived, one to hash and one to seal (AES-256-GCM).
"""

from __future__ import annotations

import base64
import hmac
import os
from functools import lru_cache
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models

_NONCE = 12


class _Key(NamedTuple):
    id: bytes
    hash: bytes
    seal: AESGCM


class Vault(NamedTuple):
    """What is kept under the keys of one setting; ``purpose`` sets its derived keys apart from all others."""

    setting: str
    purpose: str

    def hash(self, text: str) -> str:
        """The 32 hex digits under which a text is stored: HMAC-SHA256 with the first key, cut to 128 bits."""
        return _hash(self._keys()[0], text)

    def hashes(self, text: str) -> list[str]:
        """Every hash the text may be stored under, one for each key, newest first."""
        return [_hash(key, text) for key in self._keys()]

    def seal_all(self, texts: list[str]) -> list[bytes]:
        """Each text encrypted: key id (1 byte), nonce (12), ciphertext and tag. A batch's nonces come from one draw."""
        return self._seal_all([text.encode() for text in texts])

    def seal_bytes(self, raw: bytes) -> bytes:
        """Bytes encrypted in the same way, whether or not they are a text."""
        return self._seal_all([raw])[0]

    def _seal_all(self, plain: list[bytes]) -> list[bytes]:
        key = self._keys()[0]
        nonces = os.urandom(_NONCE * len(plain))
        sealed = []
        for index, raw in enumerate(plain):
            nonce = nonces[_NONCE * index : _NONCE * (index + 1)]
            sealed.append(key.id + nonce + key.seal.encrypt(nonce, raw, key.id))
        return sealed

    def unseal(self, sealed: bytes | memoryview) -> str:
        """The text again. Takes what the database gives.

        :raises ImproperlyConfigured: the key it was sealed with is no longer in the setting.
        :raises cryptography.exceptions.InvalidTag: it is not what was sealed.
        """
        return self.unseal_bytes(sealed).decode()

    def unseal_bytes(self, sealed: bytes | memoryview) -> bytes:
        """The bytes again; raises what ``unseal`` does."""
        sealed = bytes(sealed)
        for key in self._keys():
            if key.id == sealed[:1]:
                return key.seal.decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :], key.id)
        raise ImproperlyConfigured(f"A {self.purpose} was sealed with a key that {self.setting} no longer holds.")

    def _keys(self) -> list[_Key]:
        return _derive(self.setting, self.purpose, tuple(getattr(settings, self.setting)))


class SealedField(models.BinaryField):
    """Bytes that the program reads and writes as they are, and the database holds sealed.

    Nothing can be found by them. They are unsealed when they are read from the row, so lists defer them.
    """

    def __init__(self, *args: Any, setting: str, purpose: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.vault = Vault(setting, purpose)

    def deconstruct(self) -> Any:
        name, path, args, options = super().deconstruct()
        return name, path, args, options | self.vault._asdict()

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        sealed = None if value is None else self.vault.seal_bytes(bytes(value))
        return super().get_db_prep_value(sealed, connection, prepared)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> bytes | None:
        return None if value is None else self.vault.unseal_bytes(value)


@lru_cache(maxsize=16)
def _derive(setting: str, purpose: str, texts: tuple[str, ...]) -> list[_Key]:
    keys = []
    for text in texts:
        secret = base64.b64decode(text, validate=True)
        if len(secret) != 32:
            raise ImproperlyConfigured(f"Each of {setting} is 32 bytes in base64.")
        keys.append(
            _Key(
                id=hmac.digest(secret, f"prepaid {purpose}: key id".encode(), "sha256")[:1],
                hash=hmac.digest(secret, f"prepaid {purpose}: hash".encode(), "sha256"),
                seal=AESGCM(hmac.digest(secret, f"prepaid {purpose}: seal".encode(), "sha256")),
            )
        )
    if not keys or len({key.id for key in keys}) < len(keys):
        raise ImproperlyConfigured(f"{setting} needs a key, and no two with the same one-byte id.")
    return keys


def _hash(key: _Key, text: str) -> str:
    return hmac.digest(key.hash, text.encode(), "sha256")[:16].hex()
