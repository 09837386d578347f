"""What an engine inherits of our environment: enough to run, and nothing that is meant for us."""

import os

KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")
KEPT_PREFIXES = ("LC_", "PYTHON")


def inherited_environment() -> dict[str, str]:
    """The harmless part of our environment. Secrets of the control plane never reach an engine."""
    return {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
