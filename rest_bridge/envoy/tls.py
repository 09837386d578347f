"""TLS towards the world."""

from pathlib import Path

from rest_bridge.envoy.fragments import Json, extension


def downstream_tls(certificate: Path, key: Path) -> Json:
    """The transport socket of the listener: TLS 1.2 or later, HTTP/2 where the caller can."""
    pair = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(key)}}
    context = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [pair],
    }
    kind = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return extension("envoy.transport_sockets.tls", kind, common_tls_context=context)
