"""The only reader of the environment: the same variables as the real engine, so one launcher can start either."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off"}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class WrongSetting(Exception):
    """A variable is missing or cannot be used. The message is one sentence that names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """Where the states of runs are reported to, and how much waits when nobody takes them."""

    endpoint: str
    api_key: str
    engine_id: str
    interval_ms: int
    max_buffered_events: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All that the engine is told from outside."""

    api_key: str
    host: str
    port: int
    database: Path
    encryption_key: bytes | None
    require_tenant_header: bool
    allow_internal_urls: bool
    log_json: bool
    env_label: str | None
    env_color: str | None
    export: ExportSettings | None

    @property
    def artifacts(self) -> Path:
        """The folder of artifacts, next to the database."""
        return self.database.parent / "artifacts"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads and checks the variables. Raises WrongSetting."""
    env = os.environ if environ is None else environ
    host, port = _address(env)
    _check_backend(env)
    return Settings(
        api_key=_required(env, "ORCH8_API_KEY"),
        host=host,
        port=port,
        database=_database(env),
        encryption_key=_encryption_key(env),
        require_tenant_header=_tenant_header(env),
        allow_internal_urls="ORCH8_ALLOW_INTERNAL_URLS" in env,
        log_json=_flag(env, "ORCH8_LOG_JSON", default=False),
        env_label=env.get("ORCH8_ENV_LABEL") or None,
        env_color=env.get("ORCH8_ENV_COLOR") or None,
        export=_export(env),
    )


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "").strip()
    if not value:
        raise WrongSetting(f"{name} must be set.")
    return value


def _flag(env: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = env.get(name, "").strip().lower()
    if not value:
        return default
    if value not in TRUE | FALSE:
        raise WrongSetting(f"{name} must be true or false, not {value!r}.")
    return value in TRUE


def _number(env: Mapping[str, str], name: str, *, default: int, least: int) -> int:
    value = env.get(name, "").strip()
    if not value:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < least:
        raise WrongSetting(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return int(value)


def _address(env: Mapping[str, str]) -> tuple[str, int]:
    value = env.get("ORCH8_HTTP_ADDR") or "127.0.0.1:8080"
    host, colon, port = value.rpartition(":")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise WrongSetting(f"ORCH8_HTTP_ADDR must look like 127.0.0.1:8080, not {value!r}.")
    return host.strip("[]"), int(port)


def _check_backend(env: Mapping[str, str]) -> None:
    backend = env.get("ORCH8_STORAGE_BACKEND") or "sqlite"
    if backend != "sqlite":
        raise WrongSetting(f"ORCH8_STORAGE_BACKEND can only be sqlite in the development engine, not {backend!r}.")


def _database(env: Mapping[str, str]) -> Path:
    value = env.get("ORCH8_DATABASE_URL") or "sqlite://orch8.db"
    path = value.removeprefix("sqlite://").partition("?")[0]
    if not value.startswith("sqlite://") or not path.strip("/") or ":memory:" in path:
        scheme = value.partition(":")[0]
        raise WrongSetting(
            f"ORCH8_DATABASE_URL must name a file, such as sqlite:///data/orch8.db; this one has scheme {scheme!r}."
        )
    return Path(path).absolute()


def _encryption_key(env: Mapping[str, str]) -> bytes | None:
    value = env.get("ORCH8_ENCRYPTION_KEY", "").strip()
    if not value:
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise WrongSetting("ORCH8_ENCRYPTION_KEY must be 64 hexadecimal digits.")
    return bytes.fromhex(value)


def _tenant_header(env: Mapping[str, str]) -> bool:
    required = _flag(env, "ORCH8_REQUIRE_TENANT_HEADER", default=True)
    # The real engine refuses to start without isolation unless the risk is accepted by name.
    if not required and not _flag(env, "ORCH8_ALLOW_NO_TENANT_ISOLATION", default=False):
        raise WrongSetting("ORCH8_REQUIRE_TENANT_HEADER=false also needs ORCH8_ALLOW_NO_TENANT_ISOLATION=1.")
    return required


def _export(env: Mapping[str, str]) -> ExportSettings | None:
    prefix = "ORCH8_CLOUD_OBSERVABILITY_"
    endpoint = env.get(prefix + "ENDPOINT", "").strip().rstrip("/")
    if not endpoint:
        return None
    _check_endpoint(prefix + "ENDPOINT", endpoint)
    return ExportSettings(
        endpoint=endpoint,
        api_key=_required(env, prefix + "API_KEY"),
        engine_id=_required(env, prefix + "ENGINE_ID"),
        interval_ms=_number(env, prefix + "INTERVAL_MS", default=5000, least=250),
        max_buffered_events=_number(env, prefix + "MAX_BUFFERED_EVENTS", default=10_000, least=1),
    )


def _check_endpoint(name: str, endpoint: str) -> None:
    try:
        url = urlsplit(endpoint)
    except ValueError as error:
        raise WrongSetting(f"{name} is not a URL.") from error
    if url.scheme == "https" and url.hostname:
        return
    if url.scheme != "http" or url.hostname not in LOOPBACK:
        raise WrongSetting(f"{name} must be an https:// URL (http:// is only for loopback), not {endpoint!r}.")
