"""How the edge speaks HTTP with the world."""

from pathlib import Path

from rest_bridge.envoy import headers
from rest_bridge.envoy.access_log import access_log
from rest_bridge.envoy.answer_log import answer_log
from rest_bridge.envoy.filters import http_filters
from rest_bridge.envoy.fragments import Json, duration, extension
from rest_bridge.envoy.limits import Limits
from rest_bridge.envoy.local_replies import local_replies
from rest_bridge.envoy.routes import route_config
from rest_bridge.envoy.tracing import tracing
from rest_bridge.settings import EdgeSettings


def http_connection_manager(settings: EdgeSettings, limits: Limits, answers: Path | None) -> Json:
    """The one network filter of the listener."""
    logs = [*(access_log() if settings.access_log else []), *([answer_log(answers)] if answers else [])]
    return extension(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="edge",
        codec_type="AUTO",
        **_paths(),
        **_identity(),
        **_bounds(limits),
        **tracing(settings.otlp_endpoint, settings.trace_sample),
        local_reply_config=local_replies(limits),
        route_config=route_config(limits, settings.allowed_origins),
        http_filters=http_filters(limits, settings.busy_from, logged=settings.access_log),
        access_log=logs,
    )


def _paths() -> Json:
    """One reading of the path for routing, decision and engine. Slashes are not merged: an engine's path is its own."""
    return {
        "normalize_path": True,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
    }


def _identity() -> Json:
    """Who calls, and what the call is known by. An empty list of internal addresses means that nobody is trusted."""
    mutation = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "use_remote_address": True,
        "internal_address_config": {},
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "server_header_transformation": "PASS_THROUGH",
        "early_header_mutation_extensions": [extension("strip", mutation, mutations=headers.strip_request())],
    }


def _bounds(limits: Limits) -> Json:
    return {
        "max_request_headers_kb": limits.headers_kib + limits.added_kib,
        "request_headers_timeout": duration(limits.headers_timeout),
        "stream_idle_timeout": duration(limits.stream_idle),
        "common_http_protocol_options": {
            "idle_timeout": duration(limits.connection_idle),
            "max_headers_count": limits.headers_count + limits.added_headers,
            "headers_with_underscores_action": "ALLOW",
        },
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "localhost"},
        "http2_protocol_options": {
            "allow_connect": True,
            "max_concurrent_streams": limits.streams,
            "initial_stream_window_size": 256 * 1024,
            "initial_connection_window_size": 1024 * 1024,
        },
    }
