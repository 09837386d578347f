"""Uses the product from outside, through its public port, until there is something to use: a key and an instance."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import httpx

from server.domain.keys import public_prefix
from server.up.credentials import SignedIn

KEY_NAME = "orch8-cloud up"
INSTANCE_NAME = "dev"
REGION = "iad"
PATIENCE_S = 60.0
_POLL_S = 0.05


class UpFailed(Exception):
    """The product runs, but cannot be used. The message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """An instance, as far as it matters here."""

    id: str
    name: str
    status: str
    error: str | None

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Self:
        """Reads an element of GET /api/instances."""
        return cls(id=found["id"], name=found["name"], status=found["status"], error=found["error"])


class Account:
    """The development user, calling the product. Nothing here waits longer than the deadline."""

    def __init__(self, http: httpx.AsyncClient, session: SignedIn, *, patience: float = PATIENCE_S) -> None:
        self._http = http
        self._session = session
        self._bearer = {"Authorization": f"Bearer {session.access_token}"}
        self._patience = patience
        self._deadline = time.monotonic() + patience

    async def wait_ready(self) -> None:
        """Returns once every part says that it is ready."""
        await self._until_ok("/readyz", {}, "The service is not ready")

    async def organization(self) -> str:
        """The organization's id, asked for with the cookie that will be shown."""
        cookie = {"Cookie": self._session.cookie}
        answer = await self._until_ok("/api/organization", cookie, "The session is not accepted")
        return str(answer.json()["id"])

    async def api_key(self, kept: str) -> str:
        """The key that was kept if it is still good, else a new one."""
        answer = await self._until_ok("/api/api-keys", self._bearer, "The API keys cannot be listed")
        good = [key["prefix"] for key in answer.json() if key["revoked_at"] is None and key["expires_at"] is None]
        if kept and public_prefix(kept) in good:
            return kept
        made = await self._post("/api/api-keys", {"name": KEY_NAME, "environment": "live"})
        if made.is_error:
            raise UpFailed(f"The API key cannot be created: {_said(made)}")
        return str(made.json()["key"])

    async def instance(self) -> Instance:
        """The newest instance that runs, else one that is about to, else a new one."""
        found = await self._instances()
        for status in ("running", "provisioning"):
            for instance in found:
                if instance.status == status:
                    return instance
        return await self._create([instance.name for instance in found])

    async def _create(self, taken: Sequence[str]) -> Instance:
        number, name = 1, INSTANCE_NAME
        while True:
            if name not in taken:
                made = await self._post("/api/instances", {"name": name, "region": REGION})
                if made.is_success:
                    return Instance(id=made.json()["id"], name=name, status="provisioning", error=None)
                if made.status_code != httpx.codes.CONFLICT:
                    raise UpFailed(f"The instance cannot be created: {_said(made)}")
            number += 1
            name = f"{INSTANCE_NAME}-{number}"

    async def wait_running(self, instance_id: str) -> None:
        """Returns once the instance runs."""
        while True:
            for instance in await self._instances():
                if instance.id == instance_id and instance.status == "running":
                    return
                if instance.id == instance_id and instance.status == "failed":
                    raise UpFailed(f"The instance {instance.name} ({instance_id}) has failed: {instance.error}")
            await self._pause(f"The instance {instance_id} does not run")

    async def engine_version(self, instance_id: str, api_key: str) -> str:
        """The engine's own answer, through the tunnel, with the key that will be shown."""
        path, bearer = f"/api/tunnel/{instance_id}/info", {"Authorization": f"Bearer {api_key}"}
        answer = await self._until_ok(path, bearer, "The engine does not answer through the tunnel")
        return str(answer.json()["version"])

    async def _instances(self) -> list[Instance]:
        answer = await self._until_ok("/api/instances", self._bearer, "The instances cannot be listed")
        return [Instance.read(found) for found in answer.json()]

    async def _post(self, path: str, body: Mapping[str, str]) -> httpx.Response:
        try:
            return await self._http.post(path, json=body, headers=self._bearer)
        except httpx.TransportError as error:
            raise UpFailed(f"POST {path} was not answered: {_reason(error)}") from error

    async def _until_ok(self, path: str, headers: Mapping[str, str], problem: str) -> httpx.Response:
        """Asks until the answer is 200. What will not change by waiting, such as a 401, is an error at once."""
        while True:
            try:
                answer = await self._http.get(path, headers=headers)
                if answer.status_code == httpx.codes.OK:
                    return answer
                last = _said(answer)
                if not answer.is_server_error:
                    raise UpFailed(f"{problem}: {last}")
            except httpx.TransportError as error:
                last = _reason(error)
            await self._pause(f"{problem}: {last}")

    async def _pause(self, problem: str) -> None:
        if time.monotonic() > self._deadline:
            raise UpFailed(f"{problem} (after {self._patience:g} s)")
        await asyncio.sleep(_POLL_S)


def _said(answer: httpx.Response) -> str:
    """An answer in short: its status, and its message where it is one of ours."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    message = body.get("message") if isinstance(body, dict) else None
    return f"{answer.status_code} {message or answer.text[:200]}".strip()


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__
