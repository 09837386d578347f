"""Two servers on one Postgres, two proxies, two Envoys, with engines on a Fly of the tests; all real processes."""

import asyncio
import re
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx

from tests.support import sessions
from tests.support.calls import eventually
from tests.support.fly.cloud import Fly
from tests.support.fly.server import running_fly
from tests.support.parts import Parts
from tests.support.postgres import Postgres
from tests.support.stack import free_port

KINDS = ("serve", "proxy", "edge")
REPLICAS = {kind: (f"{kind}-1", f"{kind}-2") for kind in KINDS}
# An edge that has no other beside it, which runs only where a test starts it.
ALONE = "edge-alone"
# What Envoy calls the replicas of a kind.
CLUSTERS = {"serve": ("server",), "proxy": ("proxy", "streams"), "edge": ()}
MEMBER = {"Authorization": f"Bearer {sessions.token()}"}
# Longer than any test: a part that is told to stop is told again once nobody sends anything to it.
DRAIN_S = 300
# Longer than any caller takes from an answer to its next request, on a slow machine too.
GRACE_S = 5
PATIENCE_S = 60
_HEALTHY = re.compile(r'^envoy_cluster_membership_healthy\{envoy_cluster_name="(\w+)"\} (\d+)$', re.MULTILINE)


class World:
    """The replicas, an instance with a running engine, and an API key for it."""

    def __init__(self, folder: Path, fly: Fly, postgres: Postgres) -> None:
        self.folder, self.postgres, self.fly = folder, postgres, fly
        self.database = postgres.create()
        self.ports = {name: free_port() for name in (*REPLICAS["edge"], ALONE)}
        self.parts = Parts(folder, settings=self._shared(fly), own=self._own())
        self.instance_id, self.key = "", ""
        self._http = {
            name: httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=f"{folder}/{name}.ops"), base_url="http://part", timeout=10
            )
            for names in (*REPLICAS.values(), (ALONE,))
            for name in names
        }
        self._admin = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=f"{folder}/{ALONE}.admin"), base_url="http://envoy", timeout=10
        )

    def _shared(self, fly: Fly) -> dict[str, str]:
        def both(kind: str, socket: str) -> str:
            return ",".join(f"unix:{self.folder}/{name}.{socket}" for name in REPLICAS[kind])

        return {
            "ORCH8_DATABASE_URL": self.postgres.url(self.database),
            "ORCH8_SERVER_ADDR": both("serve", "sock"),
            "ORCH8_PROXY_ADDR": both("proxy", "sock"),
            "ORCH8_STREAMS_ADDR": both("proxy", "streams"),
            "ORCH8_RUNTIME": "fly",
            "ORCH8_FLY_API_URL": fly.api_url,
            "ORCH8_FLY_API_TOKEN": fly.token,
            "ORCH8_FLY_APP": fly.app,
            "ORCH8_FLY_IMAGE": "ghcr.io/orch8-io/engine:0.7.1",
            "ORCH8_FLY_ROUTING": "private",
            "ORCH8_FLY_ENGINE_PORT": str(free_port()),
            "ORCH8_FLY_RATE": "20",
            "ORCH8_DEFAULT_PLAN": "enterprise",
            "ORCH8_STALE_LIMIT": "600",
            "ORCH8_DRAIN_DELAY": str(DRAIN_S),
            "ORCH8_ACCESS_LOG": "false",
        }

    def _own(self) -> dict[str, dict[str, str]]:
        at = {name: f"unix:{self.folder}/{name}" for names in (*REPLICAS.values(), (ALONE,)) for name in names}
        own: dict[str, dict[str, str]] = {}
        for name in REPLICAS["serve"]:
            own[name] = {"ORCH8_SERVER_LISTEN": f"{at[name]}.sock", "ORCH8_SERVER_METRICS_LISTEN": f"{at[name]}.ops"}
        for name in REPLICAS["proxy"]:
            own[name] = {
                "ORCH8_PROXY_ID": name,
                "ORCH8_PROXY_LISTEN": f"{at[name]}.sock",
                "ORCH8_STREAMS_LISTEN": f"{at[name]}.streams",
                "ORCH8_PROXY_METRICS_LISTEN": f"{at[name]}.ops",
            }
        # One of the Envoys repeats decisions from the first request on, the other asks about each.
        for name, busy_from in zip((*REPLICAS["edge"], ALONE), ("0", "1000000", "0"), strict=True):
            own[name] = {
                "ORCH8_LISTEN": f"127.0.0.1:{self.ports[name]}",
                "ORCH8_EDGE_ADMIN_ADDR": f"{at[name]}.admin",
                "ORCH8_EDGE_METRICS_LISTEN": f"{at[name]}.ops",
                "ORCH8_BUSY_FROM": busy_from,
                "ORCH8_ENVOY_CONCURRENCY": "1",
            }
        own[ALONE]["ORCH8_DRAIN_DELAY"] = str(GRACE_S)
        return own

    def url(self, edge: str) -> str:
        return f"http://127.0.0.1:{self.ports[edge]}"

    async def begin(self) -> None:
        """Starts everything, and makes an instance and a key."""
        await self.parts.start(*(name for kind in KINDS for name in REPLICAS[kind]))
        await self.until_whole()
        async with httpx.AsyncClient(base_url=self.url("edge-1"), headers=MEMBER, timeout=70) as http:
            made = await http.post("/api/instances", json={"name": "prod", "region": "fra"})
            assert made.status_code == 201, made.text
            self.instance_id = made.json()["id"]
            settled = (await http.get(f"/api/instances/{self.instance_id}?wait=60s")).json()
            assert settled["status"] == "running", settled
            created = await http.post("/api/api-keys", json={"name": "k", "environment": "live"})
            self.key = created.json()["key"]

    async def is_ready(self, name: str) -> bool:
        """What a replica says of itself."""
        with suppress(httpx.TransportError):
            return (await self._http[name].get("/readyz")).status_code == 200
        return False

    async def sees(self, edge: str) -> dict[str, int]:
        """How many replicas an Envoy takes for healthy, in each of its clusters."""
        with suppress(httpx.TransportError):
            return {name: int(count) for name, count in _HEALTHY.findall((await self._http[edge].get("/metrics")).text)}
        return {}

    async def epoch_of_alone(self) -> int:
        """How often the Envoy of the edge that is alone was started again; -1 while nobody says."""
        with suppress(httpx.TransportError):
            return int((await self._admin.get("/server_info")).json()["command_line_options"]["restart_epoch"])
        return -1

    def works_on(self, instance_id: str) -> str | None:
        """The server that has the lease of an instance."""
        owner = self.postgres.run(f"SELECT lease_owner FROM instances WHERE id = '{instance_id}'", self.database)
        return next((name for name in REPLICAS["serve"] if f"-{self.parts.pid(name)}-r" in owner), None)

    async def until_seen(self, kind: str, count: int) -> None:
        """Waits until both Envoys take so many replicas of this kind for healthy."""

        async def seen() -> bool:
            found = [await self.sees(edge) for edge in REPLICAS["edge"]]
            return all(one.get(cluster) == count for one in found for cluster in CLUSTERS[kind])

        await eventually(seen, PATIENCE_S)

    async def mend(self) -> None:
        """Starts whatever a test that failed has left ended."""
        self.postgres.start()
        names = [name for kind in KINDS for name in REPLICAS[kind]]
        await self.parts.start(*(name for name in names if not self.parts.is_running(name)))
        await self.until_whole()

    async def until_whole(self) -> None:
        """Waits until everything runs, is ready, and is known to be."""

        async def ready() -> bool:
            names = [name for kind in KINDS for name in REPLICAS[kind]]
            for name in names:
                assert self.parts.is_running(name), f"{name} ended by itself:\n{self.parts.log(name)[-4000:]}"
            return all(await asyncio.gather(*map(self.is_ready, names)))

        await eventually(ready, PATIENCE_S)
        for kind in KINDS:
            await self.until_seen(kind, 2)

    async def close(self) -> None:
        for http in (*self._http.values(), self._admin):
            await http.aclose()
        for names in (*REPLICAS.values(), (ALONE,)):
            for name in names:
                if self.parts.is_running(name):
                    await self.parts.end(name, signal.SIGKILL)


@asynccontextmanager
async def running_world() -> AsyncIterator[World]:
    """All of it ready; gone at the end."""
    async with AsyncExitStack() as stack:
        # pytest's own folders are too deep for the path of a Unix socket.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orch8-test-")))
        postgres = Postgres()
        stack.callback(postgres.close)
        await asyncio.to_thread(postgres.start)
        fly = await stack.enter_async_context(running_fly(folder / "fly"))
        world = World(folder, fly, postgres)
        stack.push_async_callback(world.close)
        await world.begin()
        yield world
