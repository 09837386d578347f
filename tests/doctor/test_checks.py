"""What each check finds, and what it says to do."""

import socket
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr

from rest_bridge.settings import EdgeSettings
from server.app import running
from server.doctor import edge, network
from server.doctor.command import examine
from server.doctor.findings import Finding, State
from server.settings import ServerSettings
from server.store.migrate import newest
from tests.doctor.conftest import Outside
from tests.rest_bridge.envoy.test_process import certificate
from tests.support.runtime import MemoryRuntime
from tests.support.server import settings as server_settings

Put = Callable[..., None]


def states(findings: list[Finding]) -> dict[str, State]:
    return {one.check: one.state for one in findings}


def only(findings: list[Finding], check: str) -> Finding:
    (found,) = [one for one in findings if one.check == check]
    return found


async def test_a_good_configuration_fails_nothing(environment: Put) -> None:
    environment()
    found = await examine(("server", "proxy", "edge"))
    assert [one for one in found if one.state is State.FAILED] == []
    doubts = {one.check for one in found if one.state is State.WARNING}
    assert doubts == {"engine", "proxy to server", "edge to server", "edge to proxy", "edge to streams"}


@pytest.mark.parametrize(
    ("changes", "part", "check", "state", "words"),
    [
        ({"SECRET_KEY": None}, "server", "server settings", State.FAILED, "ORCH8_SECRET_KEY: is required"),
        ({"SECRET_KEY": "A" * 43 + "="}, "server", "secret key", State.FAILED, "openssl rand -base64 32"),
        ({"DATAPLANE_TOKEN": "a" * 64}, "proxy", "data plane token", State.FAILED, "is not random"),
        ({"DATAPLANE_TOKEN": "k3Jd8sLq0ZpWx7Vb"}, "server", "data plane token", State.WARNING, "only 16 characters"),
        ({"SUPABASE_JWT_SECRET": "secret"}, "server", "session secret", State.FAILED, "too short"),
        ({"PUBLIC_URL": "http://cloud.example.com"}, "server", "public address", State.FAILED, "plain HTTP"),
        ({"PUBLIC_URL": "http://localhost:8080"}, "server", "public address", State.WARNING, "development only"),
        ({"PLANS_FILE": "/nowhere/plans.toml"}, "server", "plans", State.FAILED, "/nowhere/plans.toml"),
        ({"DEFAULT_PLAN": "golden"}, "server", "plans", State.FAILED, "golden"),
        ({"TEMPLATE_DIRS": '["/nowhere/templates"]'}, "server", "templates", State.FAILED, "/nowhere/templates"),
        ({"ENGINE_BIN": "/nowhere/engine"}, "server", "engine", State.FAILED, "ORCH8_ENGINE_BIN"),
        ({"EDGE_ADMIN_ADDR": "0.0.0.0:0"}, "edge", "administration", State.FAILED, "127.0.0.1:9901"),
        ({"TLS_CERT_FILE": "/nowhere/c.pem"}, "edge", "certificate", State.FAILED, "ORCH8_TLS_CERT_FILE"),
        ({"TLS_CERT_FILE": "/nowhere/c.pem"}, "edge", "Envoy", State.FAILED, "ORCH8_TLS_"),
        ({"SERVER_LISTEN": "192.0.2.1:50061"}, "server", "server listens", State.FAILED, "no address of this machine"),
        ({"PROXY_LISTEN": "unix:/nowhere/p.sock"}, "proxy", "proxy listens", State.FAILED, "ORCH8_PROXY_LISTEN"),
    ],
)
async def test_what_is_wrong_is_found(
    environment: Put, changes: dict[str, str | None], part: str, check: str, state: State, words: str
) -> None:
    environment(**changes)
    found = only(await examine((part,)), check)
    assert found.state is state
    assert words in f"{found.found} {found.fix}"
    assert found.fix


async def test_development_switches_are_named(environment: Put) -> None:
    environment(PUBLIC_URL="http://localhost:8080", DEV_ALLOW_LOOPBACK="true")
    assert "ORCH8_DEV_ALLOW_LOOPBACK" in only(await examine(("server",)), "development").fix


async def test_a_check_that_breaks_hides_none_of_the_other_parts(
    environment: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("secret detail")

    environment()
    monkeypatch.setattr("server.doctor.configuration.secrets", broken)
    found = await examine(("server", "proxy"))
    assert only(found, "server").found == "a check broke: KeyError"
    assert states(found)["proxy settings"] is State.OK


class TestDatabase:
    """SQLite; the tests of Postgres look at one too."""

    async def look(self, url: str) -> Finding:
        return only(await network.database(cast("Any", SimpleNamespace(store_url=url))), "database")

    async def test_one_that_a_server_made_is_good(self, environment: Put, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir(exist_ok=True)
        async with running(server_settings(tmp_path / "data"), MemoryRuntime()):
            pass
        environment()
        found = only(await examine(("server",)), "database")
        assert (found.state, f"step {newest()}" in found.found) == (State.OK, True)

    @pytest.mark.parametrize(
        ("step", "state", "words"), [("0001", State.WARNING, "back it up"), ("9999", State.FAILED, "newer version")]
    )
    async def test_an_old_and_a_newer_one(self, tmp_path: Path, step: str, state: State, words: str) -> None:
        file = tmp_path / "orch8.db"
        with sqlite3.connect(file) as database:
            database.execute("CREATE TABLE alembic_version (version_num TEXT)")
            database.execute("INSERT INTO alembic_version VALUES (?)", (step,))
        database.close()
        found = await self.look(f"sqlite:///{file}")
        assert found.state is state
        assert words in f"{found.found} {found.fix}"

    async def test_a_new_one_is_not_made_by_looking(self, tmp_path: Path) -> None:
        found = await self.look(f"sqlite:///{tmp_path}/new/orch8.db")
        assert found.state is State.OK
        assert list(tmp_path.iterdir()) == []

    async def test_no_database_at_all(self, tmp_path: Path) -> None:
        file = tmp_path / "orch8.db"
        file.write_text("these are no tables " * 100)
        assert (await self.look(f"sqlite:///{file}")).state is State.FAILED
        assert (await self.look(f"sqlite:///{file}/below")).state is State.FAILED
        assert (await self.look("what is this")).state is State.FAILED


class TestOutside:
    """Supabase and Fly."""

    async def sessions(self, url: str, secret: str = "") -> list[Finding]:
        settings = SimpleNamespace(supabase_url=url, supabase_jwt_secret=SecretStr(secret))
        async with httpx.AsyncClient(trust_env=False) as http:
            return await network.sessions(cast("ServerSettings", settings), http)

    async def fly(self, outside: Outside, **changes: Any) -> list[Finding]:
        values = {"runtime": "fly", "fly_app": "engines", "fly_api_url": outside.url}
        settings = SimpleNamespace(**{**values, "fly_api_token": SecretStr("fly-secret"), **changes})
        async with httpx.AsyncClient(trust_env=False) as http:
            return await network.fly(cast("ServerSettings", settings), http)

    async def test_keys_are_there_and_clocks_agree(self, outside: Outside) -> None:
        found = await self.sessions(outside.url)
        assert states(found) == {"sessions": State.OK, "clock": State.OK}

    async def test_a_clock_that_is_off(self, outside: Outside) -> None:
        outside.late = timedelta(minutes=3)
        assert only(await self.sessions(outside.url), "clock").state is State.FAILED

    async def test_a_project_without_signing_keys(self, outside: Outside) -> None:
        outside.keys = []
        assert only(await self.sessions(outside.url), "sessions").state is State.FAILED
        assert only(await self.sessions(outside.url, "legacy"), "sessions").state is State.OK

    async def test_a_project_that_does_not_answer(self, outside: Outside) -> None:
        outside.status = 404
        assert "answers 404" in only(await self.sessions(outside.url), "sessions").found
        assert only(await self.sessions("http://127.0.0.1:1"), "sessions").state is State.FAILED
        assert "plain HTTP" in only(await self.sessions("http://project.example.com"), "sessions").found

    async def test_fly_lets_us_in(self, outside: Outside) -> None:
        assert states(await self.fly(outside)) == {"Fly": State.OK, "clock": State.OK}
        assert outside.asked == [("/v1/apps/engines", "Bearer fly-secret")]

    @pytest.mark.parametrize(
        ("status", "words"), [(401, "fly tokens create"), (404, "fly apps create engines"), (500, "request fly-1")]
    )
    async def test_fly_does_not(self, outside: Outside, status: int, words: str) -> None:
        outside.fly_status = status
        found = only(await self.fly(outside), "Fly")
        assert found.state is State.FAILED
        assert words in f"{found.found} {found.fix}"
        assert "fly-secret" not in str(found)

    async def test_fly_is_asked_only_where_engines_run_there(self, outside: Outside) -> None:
        assert await self.fly(outside, runtime="local") == []
        assert only(await self.fly(outside, fly_app=""), "Fly").state is State.FAILED
        assert only(await self.fly(outside, fly_api_url="http://127.0.0.1:1"), "Fly").state is State.FAILED

    def test_clocks(self) -> None:
        seconds = {0: State.OK, 10: State.WARNING, 60: State.FAILED}
        for apart, state in seconds.items():
            assert network.clock("it", datetime.now(UTC) + timedelta(seconds=apart)).state is state


async def test_a_port_that_others_have_and_one_that_is_ours(environment: Put, variables: dict[str, str]) -> None:
    environment()
    host, port = variables["ORCH8_SERVER_LISTEN"].split(":")
    with socket.create_server((host, int(port))):
        found = only(await examine(("server",)), "server listens")
    assert (found.state, "ORCH8_SERVER_LISTEN" in found.fix) == (State.FAILED, True)
    async with running(ServerSettings.read(), MemoryRuntime()):
        found = only(await examine(("server",)), "server listens")
        assert (found.state, "it runs already" in found.found) == (State.OK, True)


async def test_the_proxy_must_have_the_servers_token(environment: Put, variables: dict[str, str]) -> None:
    environment(SERVER_ADDR=variables["ORCH8_SERVER_LISTEN"])
    async with running(ServerSettings.read(), MemoryRuntime()):
        assert only(await examine(("proxy",)), "proxy to server").state is State.OK
        environment(SERVER_ADDR=variables["ORCH8_SERVER_LISTEN"], DATAPLANE_TOKEN="0123456789abcdef" * 4)
        found = only(await examine(("proxy",)), "proxy to server")
    assert (found.state, "the same ORCH8_DATAPLANE_TOKEN" in found.fix) == (State.FAILED, True)


async def test_the_collector_of_traces_must_be_there(environment: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as collector:
        environment(OTLP_ENDPOINT=f"grpc://127.0.0.1:{collector.getsockname()[1]}")
        assert only(await examine(("edge",)), "traces").state is State.OK
    found = only(await examine(("edge",)), "traces")
    assert (found.state, "ORCH8_OTLP_ENDPOINT" in found.fix) == (State.WARNING, True)
    monkeypatch.setattr("server.doctor.listening.find_spec", lambda _: None)
    assert only(await examine(("edge",)), "traces").state is State.WARNING, "Envoy needs no package"
    assert "orch8-cloud[otel]" in only(await examine(("proxy",)), "traces").fix


async def test_certificate_and_envoy(environment: Put, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    environment(TLS_CERT_FILE=str(cert), TLS_KEY_FILE=str(key))
    settings = EdgeSettings.read()
    assert (await edge.envoy(settings)).state is State.OK
    found = edge.certificate(cert)
    assert (found.state, "Renew" in found.fix) == (State.WARNING, True)
    environment(TLS_CERT_FILE=str(cert), TLS_KEY_FILE=None)
    assert "ORCH8_TLS_KEY_FILE" in (await edge.envoy(EdgeSettings.read())).found
