"""Secrets at rest: AES-256-GCM, bound to the row and column that they belong to (architecture, decision 5)."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
VERSION = b"\x01"


class SealBroken(Exception):
    """A sealed value does not open: another key, another place, or somebody changed it."""


class Sealer:
    """Seals and opens secrets. A sealed value opens only in the place that it was sealed for."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, secret: str, place: str) -> bytes:
        """A version byte, a nonce, and the ciphertext. `place` names table, row and column."""
        nonce = os.urandom(NONCE_BYTES)
        return VERSION + nonce + self._cipher.encrypt(nonce, secret.encode(), VERSION + place.encode())

    def open(self, sealed: bytes, place: str) -> str:
        """The secret. Raises SealBroken."""
        version, nonce, ciphertext = sealed[:1], sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, ciphertext, version + place.encode()).decode()
        except (InvalidTag, ValueError):
            raise SealBroken(f"{place} cannot be opened with this ORCH8_SECRET_KEY") from None
