"""What the protos must say of themselves, and that the code agrees with them."""

import inspect
import re
from collections import Counter

import pytest
from google.api.annotations_pb2 import http
from google.protobuf.descriptor import MethodDescriptor
from orch8cloud.v1.errors_pb2 import ErrorReason
from orch8cloud.v1.options_pb2 import access, error, rest

import server.errors
from server.domain.access import Role
from server.domain.instances import Action, Region, Status
from server.domain.runs import RunState
from server.errors import CloudError
from server.rpc.access import NOBODY
from server.rpc.server import PUBLIC, access_table
from server.rpc.status import row
from tests.meta.source import ROOT

METHODS: list[MethodDescriptor] = [
    method for file in PUBLIC for service in file.services_by_name.values() for method in service.methods
]
ERRORS = [kind for _, kind in inspect.getmembers(server.errors, inspect.isclass) if issubclass(kind, CloudError)]
# The contract's table of reasons, as far as it is built.
STATUSES = {
    "INVALID_ARGUMENT": (3, 400),
    "NO_RUNNING_INSTANCE": (9, 400),
    "ENGINE_UNREACHABLE": (9, 400),
    "UNAUTHENTICATED": (16, 401),
    "KEY_REVOKED": (16, 401),
    "KEY_EXPIRED": (16, 401),
    "TOKEN_INVALID": (16, 401),
    "PLAN_LIMIT_REACHED": (8, 402),
    "PERMISSION_DENIED": (7, 403),
    "ROLE_REQUIRED": (7, 403),
    "RULE_MISMATCH": (7, 403),
    "NOT_FOUND": (5, 404),
    "NAME_TAKEN": (6, 409),
    "STATE_CONFLICT": (9, 409),
    "PAYLOAD_TOO_LARGE": (8, 413),
    "POLICY_INVALID": (3, 422),
    "RATE_LIMITED": (8, 429),
    "INTERNAL": (13, 500),
    "ENGINE_ERROR": (14, 502),
    "DATA_PLANE_NOT_READY": (14, 503),
    "CHANGE_UNCONFIRMED": (14, 503),
    "UNAVAILABLE": (14, 503),
    "ENGINE_TIMEOUT": (4, 504),
    "DATABASE_UNAVAILABLE": (14, 503),
    "VERSION_MISMATCH": (10, 412),
    "IDEMPOTENCY_MISMATCH": (10, 409),
    "IDEMPOTENCY_IN_PROGRESS": (10, 409),
}


def bindings(method: MethodDescriptor) -> list[tuple[str, str]]:
    """Every HTTP method and path of a method."""
    rule = method.GetOptions().Extensions[http]
    rules = (rule, *rule.additional_bindings)
    return [(str(one.WhichOneof("pattern")), getattr(one, str(one.WhichOneof("pattern")))) for one in rules]


def test_error_table_is_the_contracts() -> None:
    values = [value for value in ErrorReason.DESCRIPTOR.values if value.number != 0]
    table = {
        value.name.removeprefix("ERROR_REASON_"): (
            value.GetOptions().Extensions[error].grpc_code,
            value.GetOptions().Extensions[error].http_status,
        )
        for value in values
    }
    assert table == STATUSES


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_row_and_a_branch_of_the_tree(kind: type[CloudError]) -> None:
    assert row(kind.reason).http_status
    assert re.search(rf"\b{kind.__name__}\b", server.errors.__doc__ or "")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_method_says_who_may_call_it_and_where(method: MethodDescriptor) -> None:
    options = method.GetOptions()
    assert options.HasExtension(access), "nobody could call it"
    rule = access_table().rule(f"/{method.containing_service.full_name}/{method.name}")
    assert rule != NOBODY
    assert rule.public or rule.engine or rule.role in set(Role)
    for verb, path in bindings(method):
        assert re.fullmatch(r"(/api(/[a-z-]+|/v1|/\{[a-z_]+\})+|/readyz)(:[a-z]+)?", path), path
        assert verb in ("get", "post", "patch", "put", "delete")


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_unwrapped_field_is_the_only_one_and_repeated(method: MethodDescriptor) -> None:
    unwrap = method.GetOptions().Extensions[rest].unwrap
    if unwrap:
        assert [field.name for field in method.output_type.fields] == [unwrap]
        assert method.output_type.fields[0].is_repeated


def test_no_two_methods_share_a_path() -> None:
    paths = Counter((verb, re.sub(r"\{\w+\}", "*", path)) for method in METHODS for verb, path in bindings(method))
    assert [path for path, count in paths.items() if count > 1] == []


def test_method_without_an_access_option_can_be_called_by_nobody() -> None:
    assert access_table().rule("/orch8cloud.v1.InstancesService/SomethingNew") == NOBODY


@pytest.mark.parametrize(
    ("proto", "field", "words"),
    [
        ("instances", "string region = 3", Region),
        ("instances", "string status = 4", Status),
        ("instances", "string action = 2", Action),
        ("organization", "string role = 4", Role),
        ("runs", "string state = 5", RunState),
    ],
)
def test_proto_comments_list_every_word_of_a_status(proto: str, field: str, words: type) -> None:
    text = (ROOT / "proto/orch8cloud/v1" / f"{proto}.proto").read_text()
    comment = text[: text.index(field)].rsplit("\n\n", 1)[-1]
    assert set(re.findall(r'"([a-z]+)"', comment)) == {str(word) for word in words}  # type: ignore[attr-defined]
