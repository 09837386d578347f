"""How often an engine that ended by itself is started again, and when."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartPolicy:
    """At most `most` starts within `window`, each after twice the pause of the last one; beyond them one every `slow`.

    An engine that cannot live takes the machine's time from those that can. One that ended by chance is back at once.
    """

    most: int = 5
    window: timedelta = timedelta(minutes=10)
    first_pause: timedelta = timedelta(seconds=1)
    slow: timedelta = timedelta(minutes=1)

    def pause(self, count: int) -> timedelta:
        """How long after the start of this number the next one may come."""
        return self.slow if count >= self.most else self.first_pause * 2 ** max(0, count - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Restarts:
    """What is remembered of an engine's ends: `count` starts since `since`, down since when, when to start it next."""

    count: int = 0
    since: datetime | None = None
    down_since: datetime | None = None
    next_at: datetime | None = None

    def ended(self, policy: RestartPolicy, now: datetime) -> "Restarts":
        """After the engine was found ended. The first end after a quiet window begins a new one."""
        if self.since is None or now - self.since > policy.window:
            return Restarts(since=now, down_since=now, next_at=now)
        return replace(self, down_since=now, next_at=max(now, self.next_at or now))

    def started(self, policy: RestartPolicy, now: datetime) -> "Restarts":
        """After it was started again."""
        count = self.count + 1
        return replace(self, count=count, next_at=now + policy.pause(count))

    def recovered(self) -> "Restarts":
        """After it was found ready again. What it did within the window stays counted."""
        return replace(self, down_since=None)

    def is_failing(self, policy: RestartPolicy) -> bool:
        """Whether it is started slowly only."""
        return self.count >= policy.most
