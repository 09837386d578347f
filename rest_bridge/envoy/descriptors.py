"""What the generated code says of the public API: services, REST bindings, and the descriptors that Envoy reads."""

import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

import orch8cloud.v1
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from orch8cloud.v1 import options_pb2

# The path of the one method that has to answer fast.
READINESS = "/readyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One HTTP method and path of one gRPC method."""

    rpc: str
    method: str
    path: str
    success: int
    unwrap: str
    streams: bool
    timeout: int
    """Seconds within which the method answers; 0: the usual limit."""


def public_files() -> list[FileDescriptor]:
    """The generated files of the public package, found by looking, so that a new proto needs no change here."""
    package = orch8cloud.v1
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name.endswith("_pb2")]
    return [import_module(f"{package.__name__}.{name}").DESCRIPTOR for name in sorted(names)]


def public_services() -> list[ServiceDescriptor]:
    """Every service that the world may call."""
    return [service for file in public_files() for service in file.services_by_name.values()]


def descriptor_set() -> bytes:
    """The public files and all that they import, each after its imports, as the transcoder wants them."""
    found: dict[str, FileDescriptor] = {}

    def visit(file: FileDescriptor) -> None:
        if file.name in found:
            return
        for dependency in file.dependencies:
            visit(dependency)
        found[file.name] = file

    for file in public_files():
        visit(file)
    result = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(result.file.add())
    return result.SerializeToString(deterministic=True)


def bindings() -> list[Binding]:
    """Every REST binding of every public method."""
    methods = (method for service in public_services() for method in service.methods)
    return [binding for method in methods for binding in _bindings(method)]


def _bindings(method: MethodDescriptor) -> Iterator[Binding]:
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    rest = options.Extensions[options_pb2.rest]
    rule = options.Extensions[annotations_pb2.http]
    for each in (rule, *rule.additional_bindings):
        verb, path = _verb_and_path(each)
        yield Binding(
            rpc=method.full_name,
            method=verb,
            path=path,
            success=rest.success or 200,
            unwrap=rest.unwrap,
            streams=method.server_streaming,
            timeout=rest.timeout,
        )


def _verb_and_path(rule: http_pb2.HttpRule) -> tuple[str, str]:
    pattern = rule.WhichOneof("pattern")
    if pattern is None:
        raise ValueError("a google.api.http option names no method and path")
    if pattern == "custom":
        return rule.custom.kind, rule.custom.path
    return pattern.upper(), getattr(rule, pattern)
