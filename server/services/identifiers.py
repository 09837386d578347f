"""Clock and ids, handed to the services so that tests can pin both."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
LENGTH = 20

Clock = Callable[[], datetime]
NewId = Callable[[str], str]


def utc_now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


def new_id(prefix: str) -> str:
    """A fresh id such as inst_ and 20 letters or digits (103 random bits)."""
    return f"{prefix}_{''.join(secrets.choice(ALPHABET) for _ in range(LENGTH))}"
