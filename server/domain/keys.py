"""The format of API keys: made, checked and digested without asking anybody.

A key is `orc8_live_` or `orc8_test_`, 43 base62 characters that carry 256 random bits, and 6 base62 characters of
checksum: the CRC-32 of everything before them. The checksum turns away typing errors and truncated copies; it is no
secret.

An ingest key, with which an engine reports its runs, looks alike and is none of them: `orc8_ingest_` and 43 characters.
So wherever else it is sent it is an API key that nobody knows.
"""

import hashlib
import re
import zlib

BEARER_PREFIX = "orc8_"
INGEST_PREFIX = f"{BEARER_PREFIX}ingest_"
ENVIRONMENTS = ("live", "test")
RANDOM_BYTES = 32

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LENGTH = 43
_CHECKSUM_LENGTH = 6
_PUBLIC_CHARACTERS = 8
_PREFIX = re.compile(rf"orc8_(?:live|test)_[0-9A-Za-z]{{{_PUBLIC_CHARACTERS}}}", re.ASCII)
_FORMAT = re.compile(r"orc8_(?:live|test)_[0-9A-Za-z]{49}", re.ASCII)


def new_key(environment: str, random: bytes) -> str:
    """Makes a key from 32 bytes of `secrets.token_bytes`. Raises ValueError for another environment or length."""
    if environment not in ENVIRONMENTS:
        raise ValueError(f"the environment of a key is one of {', '.join(ENVIRONMENTS)}")
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a key is made from {RANDOM_BYTES} random bytes")
    body = f"{BEARER_PREFIX}{environment}_{_base62(int.from_bytes(random), _RANDOM_LENGTH)}"
    return body + _checksum(body)


def new_ingest_key(random: bytes) -> str:
    """Makes an ingest key from 32 bytes of `secrets.token_bytes`."""
    return f"{INGEST_PREFIX}{_base62(int.from_bytes(random), _RANDOM_LENGTH)}"


def is_ingest_key(bearer: str) -> bool:
    """Whether a bearer is meant as an ingest key."""
    return bearer.startswith(INGEST_PREFIX)


def public_prefix(key: str) -> str:
    """The part of a key that may be shown and logged: `orc8_live_` and the 8 characters after it."""
    return key[: len(BEARER_PREFIX) + len("live_") + _PUBLIC_CHARACTERS]


def is_public_prefix(text: str) -> bool:
    """Whether a text could be what public_prefix gives."""
    return _PREFIX.fullmatch(text) is not None


def looks_like_key(bearer: str) -> bool:
    """Whether a bearer is meant as an API key, well formed or not (contract, "Which provider is tried")."""
    return bearer.startswith(BEARER_PREFIX)


def well_formed(key: str) -> bool:
    """Whether a key could be one of ours: its format and its checksum are right."""
    return _FORMAT.fullmatch(key) is not None and key[-_CHECKSUM_LENGTH:] == _checksum(key[:-_CHECKSUM_LENGTH])


def digest(key: str) -> bytes:
    """SHA-256 of a key, 32 bytes: all that is stored, and all that leaves the proxy."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    characters = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        characters.append(_ALPHABET[digit])
    return "".join(reversed(characters))
