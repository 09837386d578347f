"""Streams of the real engine end when the key that opened them is revoked, and no others do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.e2e.test_tunnel import sequence
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")
# Much longer than a cut takes, and shorter than the run: without a cut the stream is still open then.
PATIENCE = 60


async def test_streams_of_a_revoked_key_are_cut(http: httpx.AsyncClient, stack: Stack, tunnel: str) -> None:
    member = {"Authorization": f"Bearer {stack.ready['access_token']}"}
    made = [
        (await http.post("/api/api-keys", json={"name": name, "environment": "test"}, headers=member)).json()
        for name in ("watcher", "bystander")
    ]
    watcher, bystander = ({"Authorization": f"Bearer {one['key']}"} for one in made)
    waiting: dict[str, object] = {"type": "step", "id": "wait", "handler": "sleep", "params": {"duration_ms": 120_000}}
    definition = sequence("waiting", waiting)
    assert (await http.post(f"{tunnel}/sequences", json=definition, headers=watcher)).status_code == 201
    run = {"sequence_id": definition["id"], "tenant_id": "acme", "namespace": "default"}
    started = (await http.post(f"{tunnel}/instances", json=run, headers=watcher)).json()
    path = f"{tunnel}/instances/{started['id']}/stream"

    async with AsyncExitStack() as open_streams:
        streams = [
            await open_streams.enter_async_context(http.stream("GET", path, headers=headers, timeout=2 * PATIENCE))
            for headers in (watcher, bystander)
        ]
        cut, kept = (stream.aiter_lines() for stream in streams)
        assert [stream.status_code for stream in streams] == [200, 200]
        assert await anext(cut) == await anext(kept) == "event: state"
        revoked = await http.delete(f"/api/api-keys/{made[0]['id']}", headers=member)
        assert revoked.status_code == 204
        with pytest.raises(httpx.RemoteProtocolError):
            await asyncio.wait_for(_to_the_end(cut), PATIENCE)
        assert (await anext(kept)).startswith("data: ")
        again = await http.get(path, headers=watcher)
        assert again.status_code == 401
    await http.delete(f"/api/api-keys/{made[1]['id']}", headers=member)


async def _to_the_end(lines: AsyncIterator[str]) -> None:
    async for _ in lines:
        pass
