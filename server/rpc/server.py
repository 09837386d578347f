"""The gRPC server: every service it has, and what happens around every call, in order."""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from orch8cloud.dataplane.v1 import dataplane_pb2_grpc
from orch8cloud.v1 import (
    api_keys_pb2,
    api_keys_pb2_grpc,
    decisions_pb2,
    decisions_pb2_grpc,
    deployments_pb2,
    deployments_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    instances_pb2,
    instances_pb2_grpc,
    metrics_pb2,
    metrics_pb2_grpc,
    organization_pb2,
    organization_pb2_grpc,
    policies_pb2,
    policies_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
    templates_pb2,
    templates_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

from server.domain.addresses import Address
from server.rpc.access import AccessTable
from server.rpc.api_keys import ApiKeysServicer
from server.rpc.dataplane import DataPlaneServicer
from server.rpc.decisions import DecisionsServicer
from server.rpc.deployments import DeploymentsServicer
from server.rpc.events import EventsServicer
from server.rpc.instances import InstancesServicer
from server.rpc.interceptors.access_log import log_access, note_instance
from server.rpc.interceptors.authentication import Authentication
from server.rpc.interceptors.base import Around, Call, Interceptor
from server.rpc.interceptors.errors import map_errors
from server.rpc.interceptors.idempotency import IdempotentCalls
from server.rpc.metrics import MetricsServicer
from server.rpc.organization import OrganizationServicer
from server.rpc.paths import PathCheck
from server.rpc.policies import PoliciesServicer
from server.rpc.runs import RunsServicer
from server.rpc.system import SystemServicer
from server.rpc.templates import TemplatesServicer
from server.rpc.usage import UsageServicer
from server.services.idempotency import Idempotency

PUBLIC: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR
    for module in (
        instances_pb2,
        api_keys_pb2,
        organization_pb2,
        policies_pb2,
        deployments_pb2,
        decisions_pb2,
        events_pb2,
        metrics_pb2,
        templates_pb2,
        runs_pb2,
        system_pb2,
        usage_pb2,
    )
)
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
MAX_MESSAGE = 4 * 1024 * 1024
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 64 * 1024),
    # Two servers on one port by mistake must fail, not share it.
    ("grpc.so_reuseport", 0),
    # A proxy that is gone without a word is noticed, and pings of proxies are welcome.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, kw_only=True)
class Servicers:
    """One servicer for each service."""

    instances: InstancesServicer
    api_keys: ApiKeysServicer
    organization: OrganizationServicer
    policies: PoliciesServicer
    deployments: DeploymentsServicer
    decisions: DecisionsServicer
    metrics: MetricsServicer
    runs: RunsServicer
    events: EventsServicer
    system: SystemServicer
    templates: TemplatesServicer
    usage: UsageServicer
    dataplane: DataPlaneServicer


def access_table() -> AccessTable:
    """Who may call which public method."""
    return AccessTable(PUBLIC)


def build_server(
    servicers: Servicers, authentication: Authentication, idempotency: Idempotency, observers: tuple[Around, ...]
) -> tuple[grpc.aio.Server, health.aio.HealthServicer]:
    """A server with all services registered, not started yet."""
    # Outermost first: log and observers see the status, the error table sees refused credentials.
    arounds: tuple[Around, ...] = (log_access, *observers, map_errors, authentication)
    checks, execute = (PathCheck(PUBLIC), note_instance), IdempotentCalls(idempotency, PUBLIC)
    server = grpc.aio.server(interceptors=[Interceptor(make_call, arounds, checks, execute)], options=OPTIONS)
    _register(server, servicers)
    alive = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    reflection.enable_server_reflection([*service_names(PUBLIC), health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return server, alive


def _register(server: grpc.aio.Server, servicers: Servicers) -> None:
    instances_pb2_grpc.add_InstancesServiceServicer_to_server(servicers.instances, server)
    api_keys_pb2_grpc.add_ApiKeysServiceServicer_to_server(servicers.api_keys, server)
    organization_pb2_grpc.add_OrganizationServiceServicer_to_server(servicers.organization, server)
    policies_pb2_grpc.add_PoliciesServiceServicer_to_server(servicers.policies, server)
    deployments_pb2_grpc.add_DeploymentsServiceServicer_to_server(servicers.deployments, server)
    decisions_pb2_grpc.add_DecisionsServiceServicer_to_server(servicers.decisions, server)
    metrics_pb2_grpc.add_MetricsServiceServicer_to_server(servicers.metrics, server)
    runs_pb2_grpc.add_RunsServiceServicer_to_server(servicers.runs, server)
    events_pb2_grpc.add_EventsServiceServicer_to_server(servicers.events, server)
    system_pb2_grpc.add_SystemServiceServicer_to_server(servicers.system, server)
    templates_pb2_grpc.add_TemplatesServiceServicer_to_server(servicers.templates, server)
    usage_pb2_grpc.add_UsageServiceServicer_to_server(servicers.usage, server)
    dataplane_pb2_grpc.add_DataPlaneServiceServicer_to_server(servicers.dataplane, server)


def service_names(files: Iterable[FileDescriptor]) -> list[str]:
    """The full names of all services in the files."""
    return [service.full_name for file in files for service in file.services_by_name.values()]


async def set_serving(alive: health.aio.HealthServicer) -> None:
    """Tells health checks that every service answers."""
    for name in ("", *service_names(PUBLIC)):
        await alive.set(name, health_pb2.HealthCheckResponse.SERVING)


def make_call(details: grpc.HandlerCallDetails) -> Call:
    """What the interceptors know of a call before it runs. Envoy sends the request id; without one we make it."""
    metadata: dict[str, str] = {}
    for key, value in details.invocation_metadata or ():
        if key.endswith("-bin"):
            continue
        # A value that is no text is looked at all the same: whoever reads it refuses it.
        text = value if isinstance(value, str) else value.decode("latin-1")
        # A header that comes twice is one list; of two credentials neither is then a good one.
        joined = "; " if key == "cookie" else ", "
        metadata[key] = f"{metadata[key]}{joined}{text}" if key in metadata else text
    given = metadata.get("x-request-id", "")
    request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    return Call(method=details.method, metadata=metadata, request_id=request_id)


def listen(server: grpc.aio.Server, address: Address) -> Address:
    """Opens the address and says which it became, where the port was 0. Raises OSError where it is taken."""
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: is it in use?") from error
    return address if address.is_unix else Address(host=address.host, port=port)
