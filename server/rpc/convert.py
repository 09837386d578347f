"""Domain objects to messages and back: the one place that fills fields which print as null."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from orch8cloud.v1 import api_keys_pb2, instances_pb2, organization_pb2, policies_pb2, usage_pb2

from server.domain.access import Role
from server.domain.api_keys import ApiKey
from server.domain.instances import Instance
from server.domain.patch import UNSET
from server.domain.plans import Plan
from server.domain.policies import Policy, PolicyPatch
from server.domain.usage import Usage, pct
from server.domain.warnings import warnings
from server.store.organizations import Organization


def nullable(value: str | float | datetime | None) -> Value:
    """A field that prints as null where there is no value; a time prints as RFC 3339."""
    if value is None:
        return Value(null_value=NULL_VALUE)
    if isinstance(value, datetime):
        return Value(string_value=rfc3339(value))
    return Value(string_value=value) if isinstance(value, str) else Value(number_value=value)


def rfc3339(moment: datetime) -> str:
    """A moment in UTC, to the second, as 2024-01-15T10:00:00Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def timestamp(moment: datetime) -> Timestamp:
    """A moment to the second, so that every time of the API looks alike."""
    return Timestamp(seconds=int(moment.timestamp()))


def moment(stamp: Timestamp) -> datetime:
    """The moment of a timestamp, aware and in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def instance(found: Instance, public_url: str) -> instances_pb2.Instance:
    """An instance as the API shows it."""
    return instances_pb2.Instance(
        id=found.id,
        name=found.name,
        region=found.region,
        status=found.status,
        connection_url=f"{public_url}/api/tunnel/{found.id}",
        error=nullable(found.error),
        created_at=timestamp(found.created_at),
        updated_at=timestamp(found.updated_at),
        resource_version=str(found.revision),
    )


def api_key(key: ApiKey) -> api_keys_pb2.ApiKey:
    """A key as the API shows it, without its digest."""
    return api_keys_pb2.ApiKey(**_key_fields(key))


def new_api_key(key: ApiKey, text: str) -> api_keys_pb2.CreateApiKeyResponse:
    """The answer that shows the key itself, this once."""
    return api_keys_pb2.CreateApiKeyResponse(**_key_fields(key), key=text)


def _key_fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "environment": key.environment,
        "instance_id": nullable(key.instance_id),
        "created_at": timestamp(key.created_at),
        "last_used_at": nullable(key.last_used_at),
        "expires_at": nullable(key.expires_at),
        "revoked_at": nullable(key.revoked_at),
        "resource_version": str(key.revision),
    }


def organization(found: Organization, plan: Plan, role: Role) -> organization_pb2.Organization:
    """An organization as the caller sees it."""
    limits = organization_pb2.PlanLimits(
        running_instances=nullable(plan.running_instances),
        executions_per_month=nullable(plan.executions_per_month),
        templates=plan.templates,
    )
    return organization_pb2.Organization(id=found.id, name=found.name, plan=plan.name, role=role, limits=limits)


def usage(found: Usage, plan: Plan) -> usage_pb2.Usage:
    """The executions of a period, and what the plan says to them."""
    quota = plan.executions_per_month
    return usage_pb2.Usage(
        period_start=timestamp(found.period.start),
        period_end=timestamp(found.period.last_second),
        executions=found.executions,
        quota=nullable(quota),
        pct=nullable(pct(found.executions, quota)),
    )


def policy(found: Policy) -> policies_pb2.Policy:
    """A policy as the API shows it, without its trigger secret."""
    fields = found.fields
    return policies_pb2.Policy(
        id=found.id,
        instance_id=found.instance_id,
        slug=nullable(fields.slug),
        provider=fields.provider,
        audience=nullable(fields.audience),
        issuer=nullable(fields.issuer),
        allow=list_value(fields.allow),
        config=struct(fields.config),
        enabled=fields.enabled,
        created_at=timestamp(found.created_at),
        updated_at=timestamp(found.updated_at),
        warnings=[
            policies_pb2.PolicyWarning(reason=one.reason, field=one.field, message=one.message)
            for one in warnings(fields)
        ],
        resource_version=str(found.revision),
    )


def list_value(items: Any) -> ListValue:
    """A list as JSON, printed as [] where it is empty."""
    result = ListValue()
    result.extend([plain(item) for item in items])
    return result


def struct(fields: Mapping[str, Any]) -> Struct:
    """An object as JSON, printed as {} where it is empty."""
    result = Struct()
    result.update(plain(fields))
    return result


def plain(value: Any) -> Any:
    """The same JSON value in the types that protobuf takes."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def policy_patch(request: policies_pb2.CreatePolicyRequest | policies_pb2.UpdatePolicyRequest) -> PolicyPatch:
    """The policy fields that a request gives, as they came."""
    names = ("provider", "slug", "audience", "issuer", "allow", "config", "enabled")
    return PolicyPatch(**{name: _given(request, name) for name in names})


def _given(request: Message, name: str) -> Any:
    """A Value field as Python JSON, or UNSET where it was left out."""
    return given_json(getattr(request, name)) if request.HasField(name) else UNSET


def given_json(value: Value) -> Any:
    """A Value as Python JSON. Numbers that JSON does not have stay what they are: native gRPC can send them."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {name: given_json(member) for name, member in value.struct_value.fields.items()}
    if kind == "list_value":
        return [given_json(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    return None if kind in (None, "null_value") else getattr(value, kind)
