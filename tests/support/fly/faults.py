"""What goes wrong on demand: for the next calls, by chance, or altogether."""

import random
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

CAPACITY = {"error": "insufficient resources to create machine", "status": "insufficient_capacity"}


class Kind(StrEnum):
    """How a call goes wrong."""

    FAIL = "fail"  # an error, and nothing was done
    REFUSE = "refuse"  # the connection is closed, and nothing was done
    DROP = "drop"  # the work is done, and the connection is closed instead of an answer
    DELAY = "delay"  # the answer takes its time


@dataclass
class Fault:
    """One way in which calls of an operation (None: of any) go wrong, the next `times` of them (None: for good)."""

    kind: Kind
    operation: str | None
    times: int | None = 1
    probability: float = 1.0
    status: int = 500
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class Faults:
    """The faults that are set, in the order in which they were. `down`: nothing answers at all."""

    def __init__(self, seed: int = 0) -> None:
        self.down = False
        self._random = random.Random(seed)
        self._set: list[Fault] = []

    def fail(
        self,
        operation: str | None,
        status: int,
        body: Any = None,
        *,
        times: int | None = 1,
        probability: float = 1.0,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answers with an error; a body that is text is sent as text."""
        made = {"error": f"it failed with {status}"} if body is None else body
        self._add(Kind.FAIL, operation, times, probability, status=status, body=made, headers=headers or {})

    def refuse(self, operation: str | None, *, times: int | None = 1, probability: float = 1.0) -> None:
        """Closes the connection before anything is done."""
        self._add(Kind.REFUSE, operation, times, probability)

    def drop(self, operation: str | None, *, times: int | None = 1, probability: float = 1.0) -> None:
        """Does the work, and closes the connection instead of an answer."""
        self._add(Kind.DROP, operation, times, probability)

    def delay(self, operation: str | None, seconds: float, *, times: int | None = 1, probability: float = 1.0) -> None:
        """Does the work at once, and answers later."""
        self._add(Kind.DELAY, operation, times, probability, seconds=seconds)

    @property
    def are_over(self) -> bool:
        """Whether nothing that was set is still to come."""
        return not self.down and not self._set

    def clear(self) -> None:
        """All is well again."""
        self.down = False
        self._set.clear()

    def take(self, operation: str) -> Fault | None:
        """What goes wrong with this call."""
        for fault in self._set:
            if fault.operation in (None, operation) and self._random.random() < fault.probability:
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._set.remove(fault)
                return fault
        return None

    def _add(self, kind: Kind, operation: str | None, times: int | None, probability: float, **more: Any) -> None:
        self._set.append(Fault(kind, operation, times, probability, **more))
