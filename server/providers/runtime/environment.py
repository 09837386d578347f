"""What an engine is told: by its own variables, and of our environment only what it needs to run."""

import os

from server.providers.runtime.base import EngineSpec

KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
KEPT_PREFIXES = ("LC_", "PYTHON")


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
