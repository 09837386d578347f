import time
from typing import Any

import pytest
from orch8cloud.v1 import instances_pb2, organization_pb2
from orch8cloud.v1.instances_pb2_grpc import InstancesServiceStub
from orch8cloud.v1.organization_pb2_grpc import OrganizationServiceStub

from server.domain.keys import new_key
from tests.support import sessions
from tests.support.calls import failure

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return OrganizationServiceStub


async def organization(stub: Any, metadata: Any) -> Any:
    return await stub.GetOrganization(organization_pb2.GetOrganizationRequest(), metadata=metadata)


@pytest.mark.parametrize("form", list(sessions.cookie_forms("a.b.c")))
async def test_session_cookie_in_every_form(grpc_stub: Any, org: str, form: str) -> None:
    cookie = sessions.cookie_forms(sessions.token(org_id=org, role="admin"))[form]
    found = await organization(grpc_stub, (("cookie", cookie),))
    assert (found.id, found.role, found.plan) == (org, "admin", "free")


async def test_organization_shows_the_limits_of_the_plan(grpc_stub: Any, owner: Any, org: str) -> None:
    found = await organization(grpc_stub, owner)
    assert found.limits.running_instances.number_value == 1
    assert found.limits.executions_per_month.number_value == 1000
    assert list(found.limits.templates) == ["free"]


async def test_user_without_an_organization_gets_a_personal_one_that_stays(grpc_stub: Any, signed_in: Any) -> None:
    who = signed_in(None, sub="0c8e5b0e-0000-4000-8000-000000000001")
    first = await organization(grpc_stub, who)
    assert (first.role, first.name) == ("owner", "ana@example.com")
    assert (await organization(grpc_stub, who)).id == first.id
    assert (await organization(grpc_stub, signed_in(None, sub="another"))).id != first.id


async def test_missing_role_is_member_and_an_unknown_one_is_refused(grpc_stub: Any, org: str, signed_in: Any) -> None:
    assert (await organization(grpc_stub, signed_in(org, role=None))).role == "member"
    assert (await failure(organization(grpc_stub, signed_in(org, role="root")))).http == 403
    assert (await failure(organization(grpc_stub, signed_in("org/../x")))).http == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(time.time()) - 60},
        {"exp": None},
        {"exp": "soon"},
        {"sub": None},
        {"sub": ""},
        {"aud": None},
        {"aud": "anon"},
        {"role": "service_role"},
        {"is_anonymous": True},
        {"nbf": int(time.time()) + 86_400},
        {"iat": int(time.time()) + 86_400},
        {"secret": "another-secret-than-the-project-has"},
    ],
)
async def test_bad_tokens_are_401_with_one_message(grpc_stub: Any, changes: dict[str, Any]) -> None:
    role_claim = changes.get("role")
    made = sessions.token(**changes) if role_claim is None else _service_role(role_claim)
    failed = await failure(organization(grpc_stub, (("authorization", f"Bearer {made}"),)))
    assert (failed.http, failed.reason) == (401, "TOKEN_INVALID")
    assert failed.message == "The session is invalid or has expired. Sign in again."


def _service_role(role: str) -> str:
    from jose import jwt

    return str(jwt.encode(sessions.claims() | {"role": role}, sessions.SECRET, algorithm="HS256"))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("Basic YTpi", "UNAUTHENTICATED"),
        ("Bearer", "UNAUTHENTICATED"),
        ("Bearer nonsense", "TOKEN_INVALID"),
        ("Bearer eyJhbGciOiJub25lIn0.e30.", "TOKEN_INVALID"),
        (f"Bearer {new_key('live', bytes(32))}", "UNAUTHENTICATED"),
        ("Bearer orc8_live_short", "UNAUTHENTICATED"),
        ("Bearer " + "a" * 20_000, "TOKEN_INVALID"),
    ],
)
async def test_bad_credentials_are_401(grpc_stub: Any, header: str, reason: str) -> None:
    failed = await failure(organization(grpc_stub, (("authorization", header),)))
    assert (failed.http, failed.reason) == (401, reason)


async def test_no_credential_is_401(grpc_stub: Any) -> None:
    failed = await failure(organization(grpc_stub, ()))
    assert (failed.http, failed.reason) == (401, "UNAUTHENTICATED")
    assert (await failure(organization(grpc_stub, (("cookie", "theme=dark"),)))).reason == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"origin": "https://cloud.example.com"}, True),
        ({"origin": "http://localhost:8080", "x-orch8-host": "localhost:8080"}, True),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "https://cloud.example.com.evil.example"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"origin": "https://cloud.example.com", "sec-fetch-site": "cross-site"}, False),
    ],
)
async def test_writes_with_a_cookie_must_come_from_our_own_pages(
    grpc_channel: Any, org: str, headers: dict[str, str], passes: bool
) -> None:
    stub: Any = InstancesServiceStub(grpc_channel)
    cookie = sessions.cookie_forms(sessions.token(org_id=org))["base64url"]
    metadata = (("cookie", cookie), *headers.items())
    await stub.ListInstances(instances_pb2.ListInstancesRequest(), metadata=metadata)
    write = stub.CreateInstance(instances_pb2.CreateInstanceRequest(name="ab", region="iad"), metadata=metadata)
    if passes:
        assert (await write).id
    else:
        failed = await failure(write)
        assert (failed.http, failed.reason) == (403, "PERMISSION_DENIED")


async def test_bearer_writes_need_no_origin_check(grpc_channel: Any, owner: Any) -> None:
    stub: Any = InstancesServiceStub(grpc_channel)
    metadata = (*owner, ("origin", "https://evil.example"))
    assert (
        await stub.CreateInstance(instances_pb2.CreateInstanceRequest(name="ab", region="iad"), metadata=metadata)
    ).id


async def test_fault_of_ours_shows_a_request_id_and_nothing_else(
    grpc_stub: Any, owner: Any, grpc_server: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("server.services.organizations.OrganizationsService.get", broken)
    failed = await failure(organization(grpc_stub, (*owner, ("x-request-id", "req-42"))))
    assert (failed.http, failed.reason, failed.metadata) == (500, "INTERNAL", {"request_id": "req-42"})
    assert "secret detail" not in failed.message + str(failed.trailers)
