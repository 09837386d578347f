"""The Machines API, as far as engines need it: one method for each call, with its errors and rates."""

import asyncio
import secrets
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeVar

import httpx
import structlog

from server.providers.runtime.fly_config import FlyConfig
from server.providers.runtime.fly_errors import FlyFailed, FlyGone, FlyUnavailable, error_of, said_by
from server.providers.runtime.fly_rates import LOOK, Rates

TIMEOUT = httpx.Timeout(10.0, connect=5.0)
NONCE = "fly-machine-lease-nonce"
REQUEST_ID = "fly-request-id"
HOLD_S = 1.0
# fly-go: two more attempts.
PAUSES_S = (0.1, 0.4)
# It did not come in time, or has another version by now.
UNAWAITED = (400, 408)
CONNECTIONS = 200
# fly-go: tokens of these kinds go by a scheme of their own.
MACAROONS = ("fm1r_", "fm1a_", "fm2_")

Row = TypeVar("Row", "Machine", "Volume")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A machine as Fly shows it. A summary has no metadata and no last event."""

    id: str
    name: str
    state: str
    version: str
    private_ip: str
    created_at: datetime | None
    metadata: Mapping[str, str]
    last_event: str

    @classmethod
    def read(cls, row: Any) -> Self:
        """Reads it. Raises ValueError, KeyError or TypeError where it is none."""
        config, events = row.get("config") or {}, row.get("events") or []
        return cls(
            id=str(row["id"]),
            name=str(row["name"]),
            state=str(row["state"]),
            version=str(row["instance_id"]),
            private_ip=str(row.get("private_ip") or ""),
            created_at=_time(row.get("created_at")),
            metadata=config.get("metadata") or {},
            last_event=f"{events[0].get('type')}: {events[0].get('status')}" if events else "",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """A volume as Fly shows it."""

    id: str
    name: str
    state: str
    attached_to: str
    created_at: datetime | None

    @classmethod
    def read(cls, row: Any) -> Self:
        """Reads it. Raises ValueError, KeyError or TypeError where it is none."""
        return cls(
            id=str(row["id"]),
            name=str(row["name"]),
            state=str(row["state"]),
            attached_to=str(row.get("attached_machine_id") or ""),
            created_at=_time(row.get("created_at")),
        )


class FlyApi:
    """Calls Fly for one app. Every method raises FlyFailed or FlyUnavailable, and RuntimeUnavailable of the rates.

    Nothing is tried again here: the caller looks first whether a call that was not answered has been done.
    """

    def __init__(self, config: FlyConfig, tls: ssl.SSLContext) -> None:
        self._app = config.app
        self._secrets = {config.token}
        self._holder = f"orch8-cloud {secrets.token_hex(8)}"
        self._rates = Rates(config.requests_per_second)
        scheme = "FlyV1" if config.token.startswith(MACAROONS) else "Bearer"
        self._http = httpx.AsyncClient(
            base_url=f"{config.api_url.rstrip('/')}/v1/apps/{config.app}",
            headers={"authorization": f"{scheme} {config.token}"},
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=CONNECTIONS),
            verify=tls,
            trust_env=False,
        )

    async def machines(self, *, summary: bool) -> list[Machine]:
        """The app's machines that are not destroyed."""
        query = {"summary": "true"} if summary else {}
        rows = await self._call("list_machines", "GET", "/machines", params=query)
        return [_read(Machine, row) for row in rows or ()]

    async def machine(self, machine_id: str) -> Machine | None:
        """One machine; None where Fly does not know it."""
        try:
            return _read(Machine, await self._call(LOOK, "GET", f"/machines/{machine_id}", machine_id))
        except FlyGone:
            return None

    async def create_machine(self, body: Mapping[str, Any]) -> Machine:
        """Makes a machine, which starts by itself. An error with `name_taken`: there is one of this name."""
        hidden = body["config"]["env"].values()
        return _read(Machine, await self._call("create_machine", "POST", "/machines", json=body, hidden=hidden))

    async def change(self, action: str, machine_id: str, nonce: str) -> None:
        """Starts, stops or suspends a machine; this is accepted, and takes its time."""
        await self._call(action, "POST", f"/machines/{machine_id}/{action}", machine_id, nonce=nonce)

    async def destroy(self, machine_id: str) -> None:
        """Destroys a machine, whatever its state. 409 while another holds its lease."""
        await self._call("destroy", "DELETE", f"/machines/{machine_id}", machine_id, params={"force": "true"})

    async def wait(self, machine: Machine, state: str, seconds: int) -> bool:
        """Waits for a state, for at most so many seconds, and says whether it came."""
        query = {"state": state, "timeout": str(seconds), "version": machine.version}
        timeout = httpx.Timeout(seconds + 5.0, connect=5.0)
        try:
            path = f"/machines/{machine.id}/wait"
            await self._call("wait", "GET", path, machine.id, params=query, timeout=timeout)
        except FlyGone:
            return state == "destroyed"
        except (FlyFailed, FlyUnavailable) as error:
            if error.status not in UNAWAITED:
                raise
            return False
        return True

    async def lease(self, machine_id: str, seconds: int) -> str:
        """Takes the machine's lease, which ends by itself; gives its nonce. 409 where another holds it.

        A lease of ours whose answer was lost is recognized by its description, and used.
        """
        path, body = f"/machines/{machine_id}/lease", {"ttl": seconds, "description": self._holder}
        try:
            return _lease(await self._call("lease", "POST", path, machine_id, json=body))["nonce"]
        except FlyUnavailable as error:
            if error.status != httpx.codes.CONFLICT:
                raise
            held = _lease(await self._call("show_lease", "GET", path, machine_id))
            if held["description"] != self._holder:
                raise
            return held["nonce"]

    async def release(self, machine_id: str, nonce: str) -> None:
        """Gives the lease back."""
        await self._call("release", "DELETE", f"/machines/{machine_id}/lease", machine_id, nonce=nonce)

    async def volumes(self) -> list[Volume]:
        """The app's volumes, those that are going too."""
        return [_read(Volume, row) for row in await self._call("list_volumes", "GET", "/volumes") or ()]

    async def create_volume(self, body: Mapping[str, Any]) -> Volume:
        """Makes a volume. Names are not unique at Fly."""
        return _read(Volume, await self._call("create_volume", "POST", "/volumes", json=body))

    async def delete_volume(self, volume_id: str) -> None:
        """Deletes a volume for good. 409 and 412 while a machine still holds it."""
        await self._call("delete_volume", "DELETE", f"/volumes/{volume_id}", volume_id)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _call(
        self,
        action: str,
        method: str,
        path: str,
        target: str = "",
        *,
        nonce: str = "",
        hidden: Collection[str] = (),
        **request: Any,
    ) -> Any:
        """One call, when it is its turn; what it answered."""
        target = target or self._app
        headers = {NONCE: nonce} if nonce else {}
        try:
            answer = await self._answer(action, target, method, path, headers=headers, **request)
        except httpx.HTTPError as error:
            log.warning("fly.unreachable", action=action, target=target, error=type(error).__name__)
            raise FlyUnavailable("Fly cannot be reached.", unreachable=True) from error
        if not answer.is_success:
            raise self._refused(action, target, answer, self._secrets.union(hidden))
        try:
            return answer.json() if answer.content else None
        except ValueError as error:
            raise FlyUnavailable("Fly's answer cannot be read.", answer.status_code) from error

    async def _answer(self, action: str, target: str, method: str, path: str, **request: Any) -> httpx.Response:
        """The answer. What only reads is asked again where the connection breaks, as Fly's own client does."""
        for pause in PAUSES_S if method == "GET" else ():
            await self._rates.turn(action, target)
            try:
                return await self._http.request(method, path, **request)
            except httpx.TimeoutException:
                raise
            except httpx.TransportError:
                await asyncio.sleep(pause)
        await self._rates.turn(action, target)
        return await self._http.request(method, path, **request)

    def _refused(
        self, action: str, target: str, answer: httpx.Response, hidden: Collection[str]
    ) -> FlyFailed | FlyUnavailable:
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            self._rates.hold(action, target, _retry_after(answer))
        log.warning(
            "fly.refused",
            action=action,
            target=target,
            status=answer.status_code,
            said=said_by(answer, hidden),
            fly_request_id=answer.headers.get(REQUEST_ID),
        )
        return error_of(answer, hidden, of_app=target == self._app)


def _read(kind: type[Row], row: Any) -> Row:
    try:
        return kind.read(row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlyUnavailable("Fly's answer cannot be read.") from error


def _lease(found: Any) -> dict[str, str]:
    """Documentation and Fly's own client show a lease wrapped, the description bare."""
    inner = found.get("data", found) if isinstance(found, dict) else None
    if not isinstance(inner, dict) or not inner.get("nonce"):
        raise FlyUnavailable("Fly's answer cannot be read.")
    return {"nonce": str(inner["nonce"]), "description": str(inner.get("description", ""))}


def _time(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _retry_after(answer: httpx.Response) -> float:
    """Seconds; a date, or nothing, is taken for the shortest wait that Fly's limits can mean."""
    text = answer.headers.get("retry-after", "")
    return max(HOLD_S, float(text)) if text.isascii() and text.isdigit() else HOLD_S
