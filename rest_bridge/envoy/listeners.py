"""The one port that the world reaches."""

from pathlib import Path

from rest_bridge.envoy.fragments import Json, socket
from rest_bridge.envoy.http_connection_manager import http_connection_manager
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.tls import downstream_tls
from rest_bridge.settings import EdgeSettings

NAME = "edge"


def listener(settings: EdgeSettings, limits: Limits, answers: Path | None) -> Json:
    """The listener, with TLS if there is a certificate."""
    chain: Json = {"filters": [http_connection_manager(settings, limits, answers)]}
    if settings.tls_cert_file is not None:
        if settings.tls_key_file is None:
            raise ValueError("ORCH8_TLS_KEY_FILE: a certificate needs its private key")
        chain["transport_socket"] = downstream_tls(settings.tls_cert_file, settings.tls_key_file)
    return {
        "name": NAME,
        "address": socket(settings.listen),
        "per_connection_buffer_limit_bytes": limits.stream_buffer,
        "enable_reuse_port": False,
        # Else one worker takes most of the connections, and another none.
        "connection_balance_config": {"exact_balance": {}},
        "filter_chains": [chain],
    }
