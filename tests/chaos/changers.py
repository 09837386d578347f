"""Those who change things under load: keys, policies and instances come and go, and each change is a step of a grant.

Where a change got no answer, it may still happen at any time. What it is about is then left alone, and made anew.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.chaos.history import Step
from tests.chaos.http import Answer
from tests.chaos.load import Call, Load
from tests.chaos.management import Management, bearer, is_certain, is_done, tunnel

NOBODY = {"provider": "api-key", "allow": [{"sub": "nobody"}]}
PAUSE_S = (0.05, 0.5)
RETRY_S = (0.1, 0.6)


class Changer(ABC):
    """Works until it is stopped. `restrictions` counts what it took away for certain."""

    def __init__(self, api: Management, load: Load, rng: random.Random, main: str) -> None:
        self.api, self.load, self.rng, self.main = api, load, rng, main
        self.restrictions = 0
        self.stopping = False

    async def run(self) -> None:
        """Changes one thing after the other."""
        while not self.stopping:
            await self.one()

    @abstractmethod
    async def one(self) -> None:
        """Makes something, changes it, and takes it away."""

    async def pause(self) -> None:
        """Gives the callers time to use what there is now."""
        await asyncio.sleep(self.rng.uniform(*PAUSE_S))

    async def retry(self) -> None:
        """Waits before another attempt."""
        await asyncio.sleep(self.rng.uniform(*RETRY_S))

    def restricted(self, call: Call) -> None:
        """Notes that something was taken away for certain, and has it tried everywhere at once."""
        self.restrictions += 1
        self.load.urge(call)


class KeyChanger(Changer):
    """A key is made, used and revoked; some expire instead."""

    async def one(self) -> None:
        """One key."""
        expires_at = self._expiry()
        body = {"name": "chaos", "environment": "live", "expires_at": expires_at and expires_at.isoformat()}
        made = await self.api.call("key.create", "POST", "/api/api-keys", body)
        if not is_done(made):
            return await self.retry()
        key_id = str(made.json()["id"])
        self.api.step(key_id, True, made)
        call = tunnel(self.main, made.json()["key"], key_id)
        self.load.bring(key_id, call)
        await self.pause()
        if expires_at is None:
            await self._revoke(key_id, call)
        else:
            await self._expire(key_id, call, expires_at)
        return None

    def _expiry(self) -> datetime | None:
        return None if self.rng.random() < 0.85 else datetime.now(UTC) + timedelta(seconds=self.rng.uniform(1, 2))

    async def _expire(self, key_id: str, call: Call, at: datetime) -> None:
        early, late = self.api.wall.no_later(at.timestamp()), self.api.wall.no_earlier(at.timestamp())
        self.api.history.step(key_id, Step(False, early, late, late))
        await asyncio.sleep(max(0.0, late - asyncio.get_running_loop().time()))
        self.load.take(key_id)
        self.restricted(call)

    async def _revoke(self, key_id: str, call: Call) -> None:
        """Until it is certain, and half of those that were unconfirmed until they are confirmed."""
        while True:
            answer = await self.api.call("key.revoke", "DELETE", f"/api/api-keys/{key_id}")
            step = self.api.step(key_id, False, answer)
            self.load.take(key_id)
            if is_certain(step) and (is_done(answer) or self.rng.random() < 0.5):
                return self.restricted(call)
            await self.retry()


class PolicyChanger(Changer):
    """A slug with one policy, which is disabled, moved, narrowed, deleted, and put back."""

    AWAY: Sequence[tuple[dict[str, Any], dict[str, Any]]] = (
        ({"enabled": False}, {"enabled": True}),
        ({"allow": [{"sub": "nobody"}]}, {"allow": []}),
        ({"slug": "elsewhere"}, {}),
    )

    def __init__(self, *arguments: Any, policy: dict[str, Any], credential: str | None) -> None:
        super().__init__(*arguments)
        self._policy = policy
        self._headers = {} if credential is None else bearer(credential)
        self._path = f"/api/instances/{self.main}/policies"

    async def one(self) -> None:
        """One slug, until it is not known any more what holds for it."""
        slug = f"s-{self.rng.randbytes(6).hex()}"
        call = Call(f"/api/gateway/{self.main}/{slug}", (self.main, slug), self._headers)
        known = await self._create(slug, call)
        while known is not None and not self.stopping:
            await self.pause()
            known = await self._there_and_back(known, slug, call)
        if known is None:
            self.load.take(slug)

    async def _create(self, slug: str, call: Call) -> str | None:
        answer = await self.api.call("policy.create", "POST", self._path, {**self._policy, "slug": slug})
        self.api.step(slug, True, answer)
        if not is_done(answer):
            await self.retry()
            return None
        self.load.bring(slug, call)
        return str(answer.json()["id"])

    async def _there_and_back(self, policy_id: str, slug: str, call: Call) -> str | None:
        """The policy's id where it is back, and everything about it is certain."""
        if self.rng.random() < 0.25:
            certain = await self._restrict("policy.delete", "DELETE", policy_id, slug, call, None)
            return await self._create(slug, call) if certain else None
        away, back = self.rng.choice(self.AWAY)
        if not await self._restrict("policy.update", "PATCH", policy_id, slug, call, away):
            return None
        await self.pause()
        path = f"{self._path}/{policy_id}"
        answer = await self.api.call("policy.update", "PATCH", path, back or {"slug": slug})
        if not is_certain(self.api.step(slug, True, answer)):
            return None
        self.load.bring(slug, call)
        return policy_id

    async def _restrict(self, kind: str, method: str, policy_id: str, slug: str, call: Call, body: Any) -> bool:
        """Until it is certain. False where an attempt before got no answer, or it was gone already."""
        sure = True
        while True:
            answer = await self.api.call(kind, method, f"{self._path}/{policy_id}", body)
            if answer.status == 404:
                return False
            step = self.api.step(slug, False, answer)
            self.load.take(slug)
            if is_certain(step):
                self.restricted(call)
                return sure
            sure = False
            await self.retry()


class LockChanger(Changer):
    """The tunnel of an instance of its own: a first catch-all policy takes it away, and its deletion gives it back."""

    async def run(self) -> None:
        """Opens what it has locked before it stops."""
        self._instance = await self.api.new_instance(self.rng)
        self._path = f"/api/instances/{self._instance}/policies"
        self._grant = f"lock of {self._instance}"
        now = asyncio.get_running_loop().time()
        self.api.history.step(self._grant, Step(True, now, now, now))
        self._call = tunnel(self._instance, await self.api.new_key(), self._grant)
        await super().run()

    async def one(self) -> None:
        """Locks it and opens it again."""
        self.load.bring(self._grant, self._call)
        await self.pause()
        await self._lock()
        await self.pause()
        await self._open()

    async def _lock(self) -> None:
        while True:
            answer = await self.api.call("policy.create", "POST", self._path, NOBODY)
            step = self.api.step(self._grant, False, answer)
            self.load.take(self._grant)
            if is_certain(step):
                return self.restricted(self._call)
            await self.retry()

    async def _open(self) -> None:
        """Deletes every lock; one step from the first attempt to the last answer."""
        answers: list[Answer] = []
        while locks := (await self.api.get(self._path))["items"]:
            paths = [f"{self._path}/{lock['id']}" for lock in locks]
            answers += [await self.api.call("policy.delete", "DELETE", path) for path in paths]
            await self.retry()
        began, ended = answers[0].times.started, answers[-1].times.ended
        certain = all(is_done(answer) for answer in answers)
        self.api.history.step(self._grant, Step(True, began, ended, *([ended] if certain else [])))


class InstanceChanger(Changer):
    """An instance is made, suspended, resumed and deleted."""

    async def one(self) -> None:
        """One instance."""
        instance_id = await self.api.new_instance(self.rng)
        call = tunnel(instance_id, await self.api.new_key())
        self.load.bring(instance_id, call)
        rounds = self.rng.randint(1, 6)
        while rounds > 0 and not self.stopping and await self._there_and_back(instance_id, call):
            rounds -= 1
        if not self.stopping or instance_id not in self.load.live:
            await self._away("instance.delete", "DELETE", instance_id, call, None)

    async def _there_and_back(self, instance_id: str, call: Call) -> bool:
        """False where an attempt got no answer: what is then wanted of the instance nobody knows."""
        await self.pause()
        if not await self._away("instance.suspend", "PATCH", instance_id, call, {"action": "suspend"}):
            return False
        await self.pause()
        path = f"/api/instances/{instance_id}"
        answer = await self.api.call("instance.resume", "PATCH", path, {"action": "resume"})
        if not is_certain(self.api.step(instance_id, True, answer)):
            return False
        self.load.bring(instance_id, call)
        return True

    async def _away(self, kind: str, method: str, instance_id: str, call: Call, body: Any) -> bool:
        """Until it is certain. False where an attempt before got no answer, or it was so already."""
        sure = True
        while True:
            answer = await self.api.call(kind, method, f"/api/instances/{instance_id}", body)
            if answer.status in (404, 409):
                return False
            step = self.api.step(instance_id, False, answer)
            self.load.take(instance_id)
            if is_certain(step):
                self.restricted(call)
                return sure
            sure = False
            await self.retry()
