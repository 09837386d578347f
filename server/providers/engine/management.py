"""Puts the parts of a deployment into an engine, and takes them out again (providers' facts, 5.4 and 5.5).

Every call may be made again: what our own earlier attempt made is found and left as it is, and what is not there is
gone. All ids are the caller's but those of schedules, which the engine gives: they are known by their sequence.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from server.errors import EngineError, EngineUnreachable
from server.providers.runtime.base import Upstream

TIMEOUT_S = 5.0
# An engine runs what its owner posts, and may answer anything.
MAX_ANSWER = 1024 * 1024
MAX_WORDS = 500
BASE = "/api/v1"


class EngineBusy(EngineError):
    """The engine cannot do it now, or ended while it was at it: another try may help."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnginePlace:
    """An engine, how to reach it, and as which tenant. The key is a secret."""

    instance_id: str
    upstream: Upstream
    engine_key: str
    tenant_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def words(self) -> str:
        """What the engine says is wrong: its `error`, or plain text (5.3)."""
        found = self.json()
        said = found.get("error") if isinstance(found, dict) else None
        text = said if isinstance(said, str) else self.body[: 4 * MAX_WORDS].decode("utf-8", "replace")
        return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:MAX_WORDS]


class EngineManagement:
    """Calls with an engine's own key. Each raises EngineUnreachable, EngineBusy or EngineError."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def put_credential(self, place: EnginePlace, credential_id: str, name: str, value: str) -> None:
        """Stores a secret for steps to use. It can never be read back."""
        body = {"id": credential_id, "name": name, "kind": "api_key", "value": value, "tenant_id": place.tenant_id}
        path = f"/credentials/{credential_id}"
        await self._put(place, "/credentials", body, path, {"id": credential_id}, hidden=value)

    async def put_sequence(self, place: EnginePlace, sequence: Mapping[str, Any]) -> None:
        """Posts a sequence that is stamped with its id, version, tenant and time."""
        path = f"/sequences/{sequence['id']}"
        await self._put(place, "/sequences", sequence, path, {"id": sequence["id"], "name": sequence["name"]})

    async def put_trigger(self, place: EnginePlace, sequence: Mapping[str, Any], slug: str, secret: str) -> None:
        """Creates the webhook that starts the sequence."""
        names = {"namespace": sequence["namespace"], "tenant_id": place.tenant_id, "version": sequence["version"]}
        body = {**names, "slug": slug, "sequence_name": sequence["name"], "trigger_type": "webhook", "secret": secret}
        expected = {"slug": slug, "sequence_name": sequence["name"]}
        await self._put(place, "/triggers", body, f"/triggers/{quote(slug, safe='')}", expected, hidden=secret)

    async def put_schedule(self, place: EnginePlace, sequence: Mapping[str, Any], cron: str, timezone: str) -> None:
        """Has the sequence started at the times of a cron expression."""
        if await self._schedules(place, sequence["id"]):
            return
        names = {"tenant_id": place.tenant_id, "namespace": sequence["namespace"], "sequence_id": sequence["id"]}
        answer = await self._call(place, "POST", "/cron", {**names, "cron_expr": cron, "timezone": timezone})
        if answer.status not in (200, 201):
            raise _refused(answer)

    async def remove_credential(self, place: EnginePlace, credential_id: str) -> None:
        """Forgets a secret."""
        await self._remove(place, f"/credentials/{credential_id}")

    async def remove_sequence(self, place: EnginePlace, sequence_id: str) -> None:
        """Removes a sequence."""
        await self._remove(place, f"/sequences/{sequence_id}")

    async def remove_trigger(self, place: EnginePlace, slug: str) -> None:
        """Removes a webhook."""
        await self._remove(place, f"/triggers/{quote(slug, safe='')}")

    async def remove_schedule(self, place: EnginePlace, sequence_id: str) -> None:
        """Removes whatever starts the sequence by the clock."""
        for schedule_id in await self._schedules(place, sequence_id):
            await self._remove(place, f"/cron/{quote(schedule_id, safe='')}")

    async def _schedules(self, place: EnginePlace, sequence_id: str) -> list[str]:
        answer = await self._call(place, "GET", f"/cron?tenant_id={quote(place.tenant_id, safe='')}")
        found = answer.json()
        if answer.status != 200 or not isinstance(found, list):
            raise _refused(answer)
        ours = [one for one in found if isinstance(one, dict) and one.get("sequence_id") == sequence_id]
        return [str(one["id"]) for one in ours if "id" in one]

    async def _put(
        self,
        place: EnginePlace,
        path: str,
        body: Mapping[str, Any],
        own: str,
        expected: Mapping[str, Any],
        hidden: str = "",
    ) -> None:
        """Creates something. What is there already must be ours: what is `expected` of it is so."""
        answer = await self._call(place, "POST", path, body)
        if answer.status in (200, 201):
            return
        if answer.status == 409:
            there = (await self._call(place, "GET", own)).json()
            if isinstance(there, dict) and all(there.get(name) == value for name, value in expected.items()):
                return
        raise _refused(answer, hidden)

    async def _remove(self, place: EnginePlace, path: str) -> None:
        answer = await self._call(place, "DELETE", path)
        if answer.status not in (200, 204, 404):
            raise _refused(answer)

    async def _call(self, place: EnginePlace, method: str, path: str, body: Mapping[str, Any] | None = None) -> _Answer:
        upstream = place.upstream
        url = f"{'https' if upstream.tls else 'http'}://{upstream.host}:{upstream.port}{BASE}{path}"
        own = {"x-api-key": place.engine_key, "x-tenant-id": place.tenant_id, "accept-encoding": "identity"}
        headers = {**upstream.headers, **own}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            headers["content-type"] = "application/json"
        try:
            async with self._http.stream(method, url, headers=headers, content=content, timeout=TIMEOUT_S) as response:
                return _Answer(status=response.status_code, body=await _bounded(response))
        except httpx.HTTPError as error:
            raise EngineUnreachable(place.instance_id) from error
        finally:
            # Local engines have one host: none may set a cookie for the next.
            self._http.cookies.clear()


async def _bounded(response: httpx.Response) -> bytes:
    found = bytearray()
    async for chunk in response.aiter_bytes():
        found += chunk
        if len(found) > MAX_ANSWER:
            raise EngineError("The engine answered with more than an engine answers.", _status(response.status_code))
    return bytes(found)


def _refused(answer: _Answer, hidden: str = "") -> EngineError:
    """The engine's refusal, in its words; a secret that it repeats is taken out."""
    words = answer.words.replace(hidden, "[REDACTED]") if hidden else answer.words
    said = f": {words}" if words else "."
    kind = EngineBusy if (answer.status >= 500 and answer.status != 501) or answer.status == 429 else EngineError
    return kind(f"The engine answered with status {answer.status}{said}", _status(answer.status))


def _status(status: int) -> dict[str, str]:
    return {"engine_status": str(status)}
