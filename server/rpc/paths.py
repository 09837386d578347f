"""The path of a REST call names the resource, whatever its query and body say.

Envoy's transcoder fills request fields from path, query and body alike, and lets the later ones win. So Envoy sends the
path along, and what it names is compared with what arrived.
"""

import re
from collections.abc import Iterable
from urllib.parse import unquote

from google.api.annotations_pb2 import http
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import Message

from server.errors import FieldViolation, InvalidArgument
from server.rpc.interceptors.base import Call

PATH = "x-orch8-path"
VARIABLE = re.compile(r"\\\{(\w+)\\\}")


class PathCheck:
    """Compares the variables of a call's path with the fields of its request."""

    def __init__(self, files: Iterable[FileDescriptor]) -> None:
        self._templates = {
            f"/{service.full_name}/{method.name}": _templates(method)
            for file in files
            for service in file.services_by_name.values()
            for method in service.methods
        }

    def __call__(self, call: Call, request: Message) -> None:
        """Raises InvalidArgument where they differ. Native gRPC calls have no path, and nothing to compare."""
        path = call.metadata.get(PATH)
        if path is None:
            return
        matches = (template.fullmatch(path) for template in self._templates.get(call.method, ()))
        variables = next((match.groupdict() for match in matches if match), None)
        if variables is None:
            raise InvalidArgument([FieldViolation(field="path", description="is not one of this method")])
        # The transcoder leaves reserved characters encoded: both sides are decoded before they are compared.
        wrong = [name for name, value in variables.items() if unquote(getattr(request, name)) != unquote(value)]
        if wrong:
            what = "is named by the path; leave it out of the query and the body"
            raise InvalidArgument([FieldViolation(field=name, description=what) for name in wrong])


def _templates(method: MethodDescriptor) -> list[re.Pattern[str]]:
    rule = method.GetOptions().Extensions[http]
    paths = [getattr(one, one.WhichOneof("pattern") or "get") for one in (rule, *rule.additional_bindings)]
    return [re.compile(VARIABLE.sub(r"(?P<\1>[^/]+)", re.escape(path))) for path in paths if path]
