"""Where no collector is configured nothing of OpenTelemetry is loaded, and where it is missing one sentence says so."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from server.domain.addresses import Address, Collector
from server.telemetry.tracing import MISSING, is_sampled
from tests.support.parts import Parts

WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from server.cli import main
sys.argv = ["orch8-cloud", *sys.argv[1:]]
main()
"""
LOADED = """
import asyncio, sys
from server.app import running
from rest_bridge.proxy.app import build
from rest_bridge.settings import ProxySettings
from server.settings import ServerSettings
from server.providers.runtime.local import LocalRuntime

async def run():
    settings = ServerSettings.read()
    async with running(settings, LocalRuntime(data_dir=settings.data_dir, engine_bin=None)):
        build(ProxySettings.read(), direct=False)

asyncio.run(run())
print([name for name in sys.modules if name.split(".")[0] == "opentelemetry"])
"""


async def ran(code: str, *arguments: str, folder: Path, **more: str) -> tuple[int, str, str]:
    environment = Parts(folder)._environment
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *arguments),
        env={**os.environ, **environment, **more},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.parametrize("part", ["serve", "proxy"])
async def test_without_opentelemetry_one_sentence_says_what_to_do(tmp_path: Path, part: str) -> None:
    endpoint = "http://127.0.0.1:4318"
    code, _, said = await ran(
        WITHOUT, part, folder=tmp_path, ORCH8_OTLP_ENDPOINT=endpoint, ORCH8_PROXY_LISTEN="127.0.0.1:0"
    )
    assert code == 2
    assert said.splitlines()[-1].endswith(MISSING)
    assert "Traceback" not in said


async def test_without_a_collector_nothing_of_it_is_loaded(tmp_path: Path) -> None:
    code, out, said = await ran(LOADED, folder=tmp_path, ORCH8_SERVER_LISTEN="127.0.0.1:0")
    assert (code, out.splitlines()[-1]) == (0, "[]"), said


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("grpc://collector", "collector:4317", ""),
        ("grpcs://collector:443", "collector:443", ""),
        ("http://[::1]", "[::1]:4318", "http://[::1]:4318/v1/traces"),
        ("https://otel.example.com:443/otlp/", "otel.example.com:443", "https://otel.example.com:443/otlp/v1/traces"),
    ],
)
def test_endpoints(text: str, address: str, url: str) -> None:
    found = Collector.parse(text)
    assert found.address == Address.parse(address)
    assert found.tls == text.split("://")[0].endswith("s")
    if not found.grpc:
        assert found.traces_url == url


@pytest.mark.parametrize(
    "text", ["collector:4317", "ftp://x", "http://", "http://user:secret@host", "grpc://host:port"]
)
def test_no_endpoints(text: str) -> None:
    with pytest.raises(ValueError, match=r"^write "):
        Collector.parse(text)


@pytest.mark.parametrize(
    ("traceparent", "sampled"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03", True),
        ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        ("01", False),
        ("", False),
    ],
)
def test_which_are_sampled(traceparent: str, sampled: bool) -> None:
    assert is_sampled(traceparent) is sampled
