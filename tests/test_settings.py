"""Broken settings are one sentence that names the variable, and never its value."""

import base64
from pathlib import Path

import pytest

from rest_bridge.settings import EdgeSettings, ProxySettings
from server.configuration import SettingsError
from server.settings import ServerSettings

GOOD = {
    "ORCH8_DATAPLANE_TOKEN": "a-token-that-is-long-enough",
    "ORCH8_SECRET_KEY": base64.b64encode(bytes(32)).decode(),
    "ORCH8_SUPABASE_JWT_SECRET": "a-secret",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (ServerSettings, "ORCH8_SECRET_KEY", "c2hvcnQ="),
        (ServerSettings, "ORCH8_SECRET_KEY", "not base64!"),
        (ServerSettings, "ORCH8_DATAPLANE_TOKEN", "short"),
        (ServerSettings, "ORCH8_SERVER_LISTEN", "nowhere"),
        (ServerSettings, "ORCH8_SERVER_LISTEN", "localhost:99999"),
        (ServerSettings, "ORCH8_PUBLIC_URL", "cloud.example.com"),
        (ServerSettings, "ORCH8_DATABASE_URL", "mysql://user:password@host/x"),
        (ServerSettings, "ORCH8_SUPABASE_URL", "notaurl"),
        (ServerSettings, "ORCH8_ORG_CLAIM", ""),
        (ServerSettings, "ORCH8_CONFIRM_TIMEOUT", "soon"),
        (ServerSettings, "ORCH8_ALLOWED_ORIGINS", "https://not.json"),
        (ServerSettings, "ORCH8_RUNTIME", "cloud"),
        (ServerSettings, "ORCH8_FLY_APP", "Not An App"),
        (ServerSettings, "ORCH8_FLY_PUBLIC_URL", "engines.example.com"),
        (ServerSettings, "ORCH8_FLY_API_URL", "https://api.example.com/v1"),
        (ServerSettings, "ORCH8_FLY_ENGINE_ENV", "A=secret"),
        (ServerSettings, "ORCH8_FLY_ENGINE_ENV", '["secret"]'),
        (ServerSettings, "ORCH8_FLY_MEMORY_MB", "1"),
        (ServerSettings, "ORCH8_FLY_RATE", "-1"),
        (EdgeSettings, "ORCH8_ALLOWED_ORIGINS", "[broken"),
        (EdgeSettings, "ORCH8_ENVOY_BIN", "/nowhere/envoy"),
        (EdgeSettings, "ORCH8_ENVOY_CONCURRENCY", "0"),
        (ProxySettings, "ORCH8_STALE_LIMIT", "-1"),
    ],
)
def test_wrong_value_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, kind: type[ServerSettings], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: ") as caught:
        kind.read()
    assert value == "" or value not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nobody_can_sign_in_without_supabase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCH8_SUPABASE_JWT_SECRET")
    with pytest.raises(SettingsError, match="ORCH8_SUPABASE_URL or ORCH8_SUPABASE_JWT_SECRET"):
        ServerSettings.read()


FLY = {
    "ORCH8_RUNTIME": "fly",
    "ORCH8_FLY_API_TOKEN": "fm2_a-token",
    "ORCH8_FLY_APP": "engines",
    "ORCH8_FLY_IMAGE": "ghcr.io/orch8-io/engine:0.7.1",
    "ORCH8_FLY_PUBLIC_URL": "https://engines.example.com",
}


@pytest.mark.parametrize("missing", [name for name in FLY if name != "ORCH8_RUNTIME"])
def test_fly_needs_its_settings(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name, value in FLY.items():
        monkeypatch.setenv(name, value)
    assert ServerSettings.read().runtime == "fly"
    monkeypatch.delenv(missing)
    with pytest.raises(SettingsError, match=f"^{missing}: is required where ORCH8_RUNTIME is fly$"):
        ServerSettings.read()
    monkeypatch.setenv("ORCH8_RUNTIME", "local")
    assert ServerSettings.read().runtime == "local"


def test_private_routing_needs_no_public_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (FLY | {"ORCH8_FLY_ROUTING": "private", "ORCH8_FLY_PUBLIC_URL": ""}).items():
        monkeypatch.setenv(name, value)
    assert ServerSettings.read().fly_routing == "private"


def test_large_machines_cannot_be_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (FLY | {"ORCH8_FLY_SUSPEND": "true", "ORCH8_FLY_MEMORY_MB": "4096"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"^ORCH8_FLY_SUSPEND: "):
        ServerSettings.read()


@pytest.mark.parametrize("kind", [ServerSettings, ProxySettings])
def test_development_switches_need_a_loopback_address(
    monkeypatch: pytest.MonkeyPatch, kind: type[ServerSettings] | type[ProxySettings]
) -> None:
    monkeypatch.setenv("ORCH8_DEV_ALLOW_LOOPBACK", "1")
    monkeypatch.setenv("ORCH8_DEV_DISCOVERY", '{"https://a.example": "http://127.0.0.1:1/"}')
    assert kind.read().switches() == ["ORCH8_DEV_ALLOW_LOOPBACK", "ORCH8_DEV_DISCOVERY"]
    monkeypatch.setenv("ORCH8_PUBLIC_URL", "https://cloud.example.com")
    with pytest.raises(SettingsError, match="loopback"):
        kind.read()


def test_plans_are_checked(tmp_path: Path) -> None:
    broken = tmp_path / "plans.toml"
    for text, why in (("[free", "TOML"), ("[pro]", "free"), ("[free]\nrunning_instances = -1", "running_instances")):
        broken.write_text(text)
        with pytest.raises(SettingsError, match=why):
            ServerSettings.read(plans_file=broken).plans()
    with pytest.raises(SettingsError, match="ORCH8_DEFAULT_PLAN"):
        ServerSettings.read(default_plan="gold").plans()


def test_origins_and_addresses_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH8_ALLOWED_ORIGINS", '["https://app.example.com"]')
    monkeypatch.setenv("ORCH8_LISTEN", "[::1]:8443")
    monkeypatch.setenv("ORCH8_SERVER_ADDR", "unix:/run/server.sock")
    settings = EdgeSettings.read()
    assert settings.allowed_origins == ("https://app.example.com",)
    assert (settings.listen.host, settings.listen.port) == ("::1", 8443)
    assert [one.path for one in settings.server_addr] == ["/run/server.sock"]


def test_several_addresses_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH8_SERVER_ADDR", "10.0.0.1:50061, [::1]:50061,10.0.0.1:50061")
    assert str(ProxySettings.read().server_addr) == "10.0.0.1:50061,[::1]:50061"
    for wrong in ("", "10.0.0.1:50061,", "10.0.0.1:50061,unix:/run/server.sock"):
        monkeypatch.setenv("ORCH8_SERVER_ADDR", wrong)
        with pytest.raises(SettingsError, match="ORCH8_SERVER_ADDR: write"):
            EdgeSettings.read()
