"""The pulse: a new connection each time, on whatever the edge listens, whoever answers."""

import asyncio
from pathlib import Path

import pytest

from rest_bridge.envoy import pulse
from server.domain.addresses import Address
from tests.support.stack import free_port


class Listener:
    """Answers nothing and hangs up, as a worker that is just ending would."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.twice = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(await reader.readuntil(b"\r\n"))
        writer.close()
        if len(self.heard) == 2:
            self.twice.set()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "INTERVAL_S", 0.01)


@pytest.mark.parametrize("where", ["port", "everywhere", "socket"])
async def test_it_goes_on_whatever_it_is_answered(tmp_path: Path, where: str) -> None:
    listener, path = Listener(), str(tmp_path / "edge.sock")
    if where == "socket":
        server = await asyncio.start_unix_server(listener, path)
        address = Address(path=path)
    else:
        address = Address(host="127.0.0.1" if where == "port" else "0.0.0.0", port=free_port())
        server = await asyncio.start_server(listener, address.host, address.port)
    beating = asyncio.create_task(pulse.beat(address, tls=False))
    async with asyncio.timeout(20):
        await listener.twice.wait()
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    server.close()
    assert set(listener.heard) == {b"GET /healthz HTTP/1.1\r\n"}
