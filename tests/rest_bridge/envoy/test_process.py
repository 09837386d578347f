import asyncio
import json
import os
import signal
import socket
import ssl
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rest_bridge.envoy.epoch import EnvoyError, how_it_ended
from rest_bridge.envoy.process import EnvoyProcess
from rest_bridge.envoy.run import run_edge
from server.domain.addresses import Address
from tests.rest_bridge.envoy.conftest import settings
from tests.rest_bridge.envoy.fakes import FakeDecisions, FakeServer, assert_error, serving


async def test_without_server_and_proxy_every_answer_is_honest(tmp_path: Path) -> None:
    async with EnvoyProcess(settings(tmp_path)) as process:
        address = await process.address()
        assert address.port
        async with httpx.AsyncClient(base_url=f"http://{address}") as http:
            down = await http.get("/api/instances")
            assert_error(down, 503, "UNAVAILABLE")
            assert down.headers["retry-after"] == "2"
            assert_error(await http.get("/readyz"), 503, "UNAVAILABLE")
            undecided = await http.get("/api/tunnel/inst_1/")
            assert_error(undecided, 503, "DATA_PLANE_NOT_READY")
            assert undecided.headers["retry-after"] == "2"
            assert (await http.get("/healthz")).status_code == 200
            headers = {"content-type": "application/grpc"}
            called = await http.post("/orch8cloud.v1.InstancesService/ListInstances", headers=headers)
            assert called.headers["grpc-status"] == "14"
            assert called.headers["grpc-message"].startswith("The control plane cannot be reached")


async def test_it_finds_the_server_again(tmp_path: Path) -> None:
    async with EnvoyProcess(settings(tmp_path)) as process, httpx.AsyncClient() as http:
        url = f"http://{await process.address()}/healthz"
        assert (await http.get(url)).status_code == 200
        async with FakeServer().serving(Address(path=f"{tmp_path}/server.sock")):
            headers = {"content-type": "application/grpc", "te": "trailers"}
            health = url.replace("/healthz", "/grpc.health.v1.Health/Check")
            answer = await http.post(health, headers=headers, content=b"\0\0\0\0\0")
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/grpc")


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        listen = f"127.0.0.1:{busy.getsockname()[1]}"
        with pytest.raises(EnvoyError, match=f"{listen} is in use"):
            await EnvoyProcess(settings(tmp_path, listen=listen)).start()


async def test_an_administration_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        admin = f"127.0.0.1:{busy.getsockname()[1]}"
        with pytest.raises(EnvoyError, match=f"{admin} is in use"):
            await EnvoyProcess(settings(tmp_path, edge_admin_addr=admin)).start()


async def test_a_binary_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "no-such-envoy"
    binary.touch(mode=0o600)
    with pytest.raises(EnvoyError, match="no-such-envoy cannot be run"):
        await EnvoyProcess(settings(tmp_path, envoy_bin=binary)).start()


async def test_it_listens_on_a_unix_socket_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    process = EnvoyProcess(settings(tmp_path, listen=f"unix:{tmp_path}/edge.sock"))
    await process.start()
    (folder,) = (tmp_path / "tmp").glob("orch8-envoy-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "envoy-0.json").stat().st_mode) == 0o600
    transport = httpx.AsyncHTTPTransport(uds=f"{tmp_path}/edge.sock")
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await http.get("http://edge/healthz")).status_code == 200
    await process.stop()
    await process.stop()
    assert not folder.exists()


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    cert, secret = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(built.public_bytes(encoding))
    secret.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    return cert, secret


async def test_tls_speaks_http2_and_nothing_old(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    async with EnvoyProcess(settings(tmp_path, tls_cert_file=cert, tls_key_file=key)) as process:
        address = await process.address()
        context = ssl.create_default_context(cafile=str(cert))
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname="localhost")
        tls = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "h2"
        assert tls.version() in ("TLSv1.2", "TLSv1.3")
        writer.close()
        await writer.wait_closed()


RUN = """
import asyncio, sys
from rest_bridge.envoy.run import run_edge
from rest_bridge.settings import EdgeSettings
listen, folder = sys.argv[1:]
edge = EdgeSettings(listen=listen, edge_admin_addr=f"unix:{folder}/admin.sock", envoy_concurrency=1,
                    server_addr=f"unix:{folder}/server.sock", proxy_addr=f"unix:{folder}/proxy.sock")
sys.exit(asyncio.run(run_edge(edge)))
"""


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    listen = f"unix:{folder}/edge.sock"
    pipe = asyncio.subprocess.PIPE
    # What a killed edge leaves behind stays in the folder of the test.
    own = {**os.environ, "TMPDIR": str(folder)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", RUN, listen, str(folder), stdout=pipe, env=own)
    transport = httpx.AsyncHTTPTransport(uds=f"{folder}/edge.sock")
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://edge") as http, asyncio.timeout(20):
            while not await answers(http):
                await asyncio.sleep(0.05)  # nothing tells that another program has come up
            yield process, http
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def answers(http: httpx.AsyncClient) -> bool:
    with suppress(httpx.TransportError):
        return (await http.get("/healthz")).status_code == 200
    return False


async def test_the_edge_ends_well_and_logs_no_secret(tmp_path: Path) -> None:
    told = {"x-orch8-decision-id": "dec_1", "x-orch8-org": "org_1", "x-orch8-instance": "inst_1"}
    decisions = FakeDecisions(upstream="127.0.0.1:1", more=told)
    proxy = serving(decisions, uds=f"{tmp_path}/proxy.sock")
    async with proxy, started(tmp_path) as (process, http):
        headers = {"authorization": "Bearer secret-token", "cookie": "c=secret", "x-request-id": "req-1"}
        await http.get("/api/tunnel/inst_1/a/b?token=secret", headers=headers)
        await http.get("/api/instances", headers={"x-request-id": "req-2"})
        decisions.answer = (403, told, b"")
        refused = await http.get("/api/tunnel/inst_1/", headers={"x-request-id": "req-3"})
        assert not {"x-orch8-org", "x-orch8-instance"} & set(refused.headers)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            out, _ = await process.communicate()
    assert process.returncode == 0
    lines = [json.loads(line) for line in out.decode().splitlines()]
    line = next(each for each in lines if each["request_id"] == "req-1")
    assert b"secret" not in out
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/tunnel/inst_1/a/b", 502)
    assert (line["route"], line["flags"]) == ("tunnel", "UF")
    assert isinstance(line["duration_ms"], int)
    assert (line["part"], line["event"], line["decision_id"]) == ("edge", "request", "dec_1")
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
    denied = next(each for each in lines if each["request_id"] == "req-3")
    for each in (line, denied):
        assert (each["decision_id"], each["org_id"], each["instance_id"]) == ("dec_1", "org_1", "inst_1")
    rest = next(each for each in lines if each["request_id"] == "req-2")
    assert (rest["org_id"], rest["instance_id"]) == (None, None)
    assert (rest["method"], rest["path"], rest["status"]) == ("GET", "/api/instances", 503)


async def test_an_envoy_that_is_killed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ready: asyncio.Queue[int] = asyncio.Queue()
    start = EnvoyProcess.start

    async def start_and_tell(self: EnvoyProcess) -> None:
        await start(self)
        ready.put_nowait(self.pid)

    monkeypatch.setattr(EnvoyProcess, "start", start_and_tell)
    running = asyncio.create_task(run_edge(settings(tmp_path)))
    os.kill(await ready.get(), signal.SIGKILL)
    assert await running == 1
    assert capsys.readouterr().err.splitlines()[-1] == "Envoy was killed by SIGKILL."


def test_how_envoy_ended_is_said_in_words() -> None:
    assert how_it_ended(3) == "Envoy ended with exit code 3"
    assert how_it_ended(-11) == "Envoy was killed by SIGSEGV"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
async def test_envoy_dies_with_its_parent(tmp_path: Path) -> None:
    async with started(tmp_path) as (process, _):
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        watched = os.pidfd_open(int(child))
        process.kill()
        await process.wait()
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(watched, gone.set)
        async with asyncio.timeout(5):
            await gone.wait()
        asyncio.get_running_loop().remove_reader(watched)
        os.close(watched)
