"""Who may call which method: read once from the options of the protos."""

from collections.abc import Iterable

from google.api.annotations_pb2 import http
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from orch8cloud.v1.options_pb2 import access

from server.domain.access import AccessRule, Role

# Methods of packages that are not ours: open, as every load balancer and grpcurl expects them to be.
OPEN_PACKAGES = ("/grpc.health.v1.", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")
INTERNAL_PACKAGE = "/orch8cloud.dataplane.v1."
NOBODY = AccessRule()
ANYBODY = AccessRule(public=True)


class AccessTable:
    """The access rule of every method, by its full name (/package.Service/Method)."""

    def __init__(self, files: Iterable[FileDescriptor]) -> None:
        methods = [
            (f"/{service.full_name}/{method.name}", method)
            for file in files
            for service in file.services_by_name.values()
            for method in service.methods
        ]
        self._rules = {name: _rule(method) for name, method in methods}
        self._reads = frozenset(name for name, method in methods if _is_read(method))

    def rule(self, method: str) -> AccessRule:
        """The rule of a method. One without a rule can be called by nobody."""
        if method.startswith(OPEN_PACKAGES):
            return ANYBODY
        return self._rules.get(method, NOBODY)

    def is_read(self, method: str) -> bool:
        """Whether the method changes nothing: REST calls it with GET."""
        return method in self._reads


def _rule(method: MethodDescriptor) -> AccessRule:
    options = method.GetOptions().Extensions[access]
    if options.engine:
        return AccessRule(engine=True)
    return AccessRule(public=options.public, role=Role(options.role) if options.role else None, api_key=options.api_key)


def _is_read(method: MethodDescriptor) -> bool:
    pattern: str | None = method.GetOptions().Extensions[http].WhichOneof("pattern")
    return pattern == "get"
