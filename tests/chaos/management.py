"""The management API as the changers call it: every call is recorded, and says what it promised."""

import asyncio
import random
from datetime import datetime
from typing import Any

from tests.chaos.history import NEVER, Change, History, Step, WallClock
from tests.chaos.http import Answer, Caller
from tests.chaos.load import Call
from tests.support import sessions

RETRY_S = 0.1
REGION = "iad"


class Management:
    """One caller with a connection of its own, an owner of the organization."""

    def __init__(self, port: int, history: History, wall: WallClock) -> None:
        self.history = history
        self.wall = wall
        self.caller = Caller(port)
        self._headers = {"authorization": f"Bearer {sessions.token(org_id='org_chaos')}"}

    async def call(self, kind: str, method: str, path: str, body: Any = None) -> Answer:
        """One call. The edge is never harmed, so there always is an answer."""
        answer = await self.caller.call(method, path, self._headers, body)
        assert answer.status is not None, f"the edge broke the connection of {method} {path}"
        times = answer.times
        self.history.changes.append(Change(kind, times.started, times.ended, answer.status, answer.reason))
        return answer

    def step(self, grant: str, granted: bool, answer: Answer) -> Step:
        """Notes what an answer means for a grant: done, done but not yet everywhere, or nobody knows."""
        done = certain = NEVER
        if is_done(answer):
            done = certain = answer.times.ended
        elif answer.reason == "CHANGE_UNCONFIRMED":
            done, certain = answer.times.ended, self._certain(answer)
        step = Step(granted, answer.times.started, done, certain)
        self.history.step(grant, step)
        return step

    def _certain(self, answer: Answer) -> float:
        moment = datetime.fromisoformat(answer.info["metadata"]["certain_at"]).timestamp()
        return max(self.wall.no_earlier(moment), answer.times.ended)

    async def get(self, path: str) -> Any:
        """Reads until it answers."""
        while not is_done(answer := await self.call("get", "GET", path)):
            await asyncio.sleep(RETRY_S)
        return answer.json()

    async def new_key(self) -> str:
        """A key that no grant is about: it is never revoked."""
        body = {"name": "standing", "environment": "live"}
        while not is_done(answer := await self.call("key.create", "POST", "/api/api-keys", body)):
            await asyncio.sleep(RETRY_S)
        return str(answer.json()["key"])

    async def new_instance(self, rng: random.Random) -> str:
        """A running instance, which is a grant of its own name."""
        while True:
            body = {"name": f"i-{rng.randbytes(8).hex()}", "region": REGION}
            made = await self.call("instance.create", "POST", "/api/instances", body)
            if is_done(made):
                break
            await asyncio.sleep(RETRY_S)
        instance_id = str(made.json()["id"])
        while (await self.get(f"/api/instances/{instance_id}"))["status"] != "running":
            await asyncio.sleep(RETRY_S)
        ready = asyncio.get_running_loop().time()
        self.history.step(instance_id, Step(True, made.times.started, ready, ready))
        return instance_id


def is_done(answer: Answer) -> bool:
    """Whether it succeeded, and is in force."""
    return answer.status is not None and 200 <= answer.status < 300


def is_certain(step: Step) -> bool:
    """Whether it is known from when on it is in force."""
    return step.certain < NEVER


def bearer(credential: str) -> dict[str, str]:
    """The header of a key or a token."""
    return {"authorization": f"Bearer {credential}"}


def tunnel(instance_id: str, key: str, *needs: str) -> Call:
    """A call through the tunnel."""
    return Call(f"/api/tunnel/{instance_id}/x", (instance_id, *needs), bearer(key))
