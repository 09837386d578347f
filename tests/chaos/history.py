"""What happened, as far as anybody outside could see: the only thing that the checker looks at.

All times are seconds of this process's monotonic clock.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Step:
    """One change of a grant: to `granted`, or away from it.

    It may take effect at any time from `began` to `done` (NEVER: it got no answer, and may happen whenever it likes),
    and it was promised to be in force everywhere from `certain` on (NEVER: nothing was promised).
    """

    granted: bool
    began: float
    done: float = NEVER
    certain: float = NEVER


@dataclass(slots=True)
class Grant:
    """One thing that requests need: that a key is good, a policy lets in, an instance runs."""

    steps: list[Step] = field(default_factory=list)

    def may_be(self, granted: bool, start: float, end: float) -> bool:
        """Whether any order of events that fits the answers has it (not) granted at some time from start to end.

        No: a step to the opposite was in force before, and no step back can have come after that one.
        """
        back = [step for step in self.steps if step.granted is granted and step.began <= end]
        return not any(
            step.granted is not granted and step.certain < start and not any(other.done >= step.began for other in back)
            for step in self.steps
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the tunnel or the gateway. `status` None: the connection broke; `needs` names the grants."""

    number: int
    entrance: str
    needs: tuple[str, ...]
    connected: float
    started: float
    ended: float
    status: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One call of the management API, and what it answered."""

    kind: str
    began: float
    answered: float
    status: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to a part, from its beginning until the part listens again or goes on."""

    part: str
    kind: str
    began: float
    ended: float

    @property
    def breaks_connections(self) -> bool:
        """A process that ends breaks its connections; one that is halted, or hears nothing, keeps them."""
        return self.kind.startswith(("kill", "term"))


@dataclass(slots=True)
class History:
    """Everything that happened in one run. `reached` holds the numbers of the requests that an engine saw."""

    grants: dict[str, Grant] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    reached: frozenset[int] = frozenset()

    def step(self, grant: str, step: Step) -> None:
        """Notes a step of a grant, which is new where it was never named before."""
        self.grants.setdefault(grant, Grant()).steps.append(step)

    def may_all_be_granted(self, request: Request) -> bool:
        """Whether the request may have been let in."""
        return all(grant.may_be(True, request.started, request.ended) for grant in self._needs(request))

    def may_one_be_missing(self, request: Request) -> bool:
        """Whether the request may have been refused."""
        return any(grant.may_be(False, request.started, request.ended) for grant in self._needs(request))

    def follows_a_promise(self, request: Request, seconds: float) -> bool:
        """Whether it began so shortly after something that it needs was gone for certain."""
        steps = (step for grant in self._needs(request) for step in grant.steps if not step.granted)
        return any(0 < request.started - step.certain < seconds for step in steps)

    def _needs(self, request: Request) -> Iterable[Grant]:
        return [self.grants[name] for name in request.needs]


class WallClock:
    """Turns times of day, as the product tells them, into this process's monotonic clock."""

    def __init__(self) -> None:
        # The closest of several looks: between the two clocks this process may have had to wait for its turn.
        looks = [(time.monotonic(), time.time(), time.monotonic()) for _ in range(100)]
        before, wall, after = min(looks, key=lambda look: look[2] - look[0])
        self._earliest, self._latest = wall - after, wall - before

    def no_earlier(self, moment: float) -> float:
        """The latest monotonic time that a time of day (Unix seconds) can be."""
        return moment - self._earliest

    def no_later(self, moment: float) -> float:
        """The earliest monotonic time that a time of day can be."""
        return moment - self._latest
