"""A configuration that is fit to go live, but for what a test changes, and the outside world that it names."""

import base64
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.issuer import EC, public_row
from tests.support.stack import free_port

PORTS = (
    *("ORCH8_SERVER_LISTEN", "ORCH8_PROXY_LISTEN", "ORCH8_STREAMS_LISTEN", "ORCH8_LISTEN", "ORCH8_EDGE_ADMIN_ADDR"),
    *("ORCH8_SERVER_ADDR", "ORCH8_PROXY_ADDR", "ORCH8_STREAMS_ADDR"),
)


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    return {
        **{name: f"127.0.0.1:{free_port()}" for name in PORTS},
        "ORCH8_DATA_DIR": str(tmp_path / "data"),
        "ORCH8_DATAPLANE_TOKEN": secrets.token_hex(32),
        "ORCH8_SECRET_KEY": base64.b64encode(bytes(range(32))).decode(),
        "ORCH8_SUPABASE_JWT_SECRET": secrets.token_hex(32),
        "ORCH8_PUBLIC_URL": "https://cloud.example.com",
    }


@pytest.fixture
def environment(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the configuration, with changes; None leaves a variable out."""

    def put(**changes: str | None) -> None:
        wanted: dict[str, str | None] = {**variables, **{f"ORCH8_{name}": value for name, value in changes.items()}}
        for name, value in wanted.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return put


class Outside:
    """Supabase and Fly, as far as the doctor asks them."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[Any] = [public_row(EC, "ec", "ES256")]
        self.status = 200
        self.late = timedelta()
        self.fly_status = 200
        self.asked: list[tuple[str, str | None]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, request.headers.get("authorization")))
        headers = {"date": format_datetime(datetime.now(UTC) - self.late, usegmt=True), "fly-request-id": "fly-1"}
        if request.path == "/auth/v1/.well-known/jwks.json":
            return web.json_response({"keys": self.keys}, status=self.status, headers=headers)
        return web.json_response({"name": "engines"}, status=self.fly_status, headers=headers)


@asynccontextmanager
async def served(outside: Outside) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get("/{path:.*}", outside.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    outside.url = f"http://127.0.0.1:{port}"
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    outside = Outside()
    async with served(outside):
        yield outside
