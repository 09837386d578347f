"""How an operation is asked for and answered, and which function does it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.fly.cloud import Fly


@dataclass(frozen=True)
class Asked:
    """A request, as far as an operation needs it."""

    path: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Reply:
    """An answer. A body that is text is sent as text."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Fly, Asked], Awaitable[Reply]]
HANDLERS: dict[str, Handler] = {}


def handles(operation: str) -> Callable[[Handler], Handler]:
    """Marks the function that does an operation."""

    def mark(function: Handler) -> Handler:
        HANDLERS[operation] = function
        return function

    return mark
