"""What an engine is told: by its own variables, and of our environment only what it needs to run."""

import os
from urllib.parse import urlsplit

import structlog

from server.providers.runtime.base import EngineSpec

KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
KEPT_PREFIXES = ("LC_", "PYTHON")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Runs are to be seen as they happen; left to itself the engine waits for 5 s.
REPORT_EVERY_MS = 1000

log = structlog.get_logger(__name__)


def inherited_environment() -> dict[str, str]:
    """The harmless part of our environment. Secrets of the control plane never reach an engine."""
    return {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}


def engine_environment(spec: EngineSpec, *, http: str, grpc: str, database: str) -> dict[str, str]:
    """All that a managed engine is told, wherever it runs: where it listens, and the path of its database."""
    return {
        "ORCH8_API_KEY": spec.engine_key,
        "ORCH8_ENCRYPTION_KEY": spec.encryption_key,
        "ORCH8_HTTP_ADDR": http,
        "ORCH8_GRPC_ADDR": grpc,
        "ORCH8_STORAGE_BACKEND": "sqlite",
        "ORCH8_DATABASE_URL": f"sqlite://{database}",
        # Tenants inside an instance are its organization's own (architecture, decision 8).
        "ORCH8_REQUIRE_TENANT_HEADER": "false",
        "ORCH8_ALLOW_NO_TENANT_ISOLATION": "1",
        "ORCH8_LOG_JSON": "true",
    }


def reporting(spec: EngineSpec, address: str, *, is_real: bool) -> dict[str, str]:
    """Where an engine reports its runs, and as whom. Nothing where it would refuse to start with that address.

    The real engine takes https only; the development engine also takes plain HTTP on this machine.
    """
    url = urlsplit(address)
    takes = url.scheme == "https" or (not is_real and url.scheme == "http" and url.hostname in LOOPBACK)
    if not takes or not spec.ingest_key:
        log.warning("engine.reports_no_runs", instance_id=spec.instance_id, address=address)
        return {}
    prefix = "ORCH8_CLOUD_OBSERVABILITY"
    return {
        f"{prefix}_ENDPOINT": address.rstrip("/"),
        f"{prefix}_API_KEY": spec.ingest_key,
        f"{prefix}_ENGINE_ID": spec.instance_id,
        f"{prefix}_INTERVAL_MS": str(REPORT_EVERY_MS),
    }
