"""Clocks and ids, handed to the services so that tests can pin them."""

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
LENGTH = 20

Clock = Callable[[], datetime]
Monotonic = Callable[[], float]
NewId = Callable[[str], str]


def utc_now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)


def growing_time() -> float:
    """Seconds that only grow and, where the system can tell, go on while the machine sleeps."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def new_id(prefix: str) -> str:
    """A fresh id such as inst_ and 20 letters or digits (103 random bits)."""
    return f"{prefix}_{''.join(secrets.choice(ALPHABET) for _ in range(LENGTH))}"
