"""Secrets at rest: AES-GCM under the engine's encryption key, bound to what they belong to."""

import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


class SealBroken(Exception):
    """The bytes were sealed with another key, or for something else."""


class Sealer:
    """Seals and opens secrets. `owner` says what a secret is of, so that rows cannot be swapped."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, secret: str, owner: str) -> bytes:
        """The secret as it may be written down."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), owner.encode())

    def open(self, sealed: bytes, owner: str) -> str:
        """The secret again. Raises SealBroken."""
        try:
            plain = self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], owner.encode())
        except InvalidTag as error:
            raise SealBroken(f"the secret of {owner} does not open with this ORCH8_ENCRYPTION_KEY") from error
        return plain.decode()


def own_key(folder: Path) -> bytes:
    """The key of an engine that was given none: made once, kept in the data folder, readable by its owner only."""
    path = folder / "encryption.key"
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    return bytes.fromhex(path.read_text().strip())
