"""The Fly that others are tested against is as Fly says it is."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.calls import eventually
from tests.support.fly.cloud import Delays, Fly
from tests.support.fly.contract import contract
from tests.support.fly.faults import CAPACITY
from tests.support.fly.handling import HANDLERS
from tests.support.fly.rates import Rates
from tests.support.fly.server import running_fly

NONCE = "fly-machine-lease-nonce"
IMAGE = "ghcr.io/orch8-io/engine:0.7.1"


@pytest.fixture
async def fly(tmp_path: Path) -> AsyncIterator[Fly]:
    async with running_fly(tmp_path, runs_engines=False) as fly:
        yield fly


@pytest.fixture
async def api(fly: Fly) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"FlyV1 {fly.token}"}
    base = f"{fly.api_url}/v1/apps/{fly.app}"
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as http:
        yield http


async def create(api: httpx.AsyncClient, name: str = "one", **changes: Any) -> dict[str, Any]:
    config = {"image": IMAGE, "metadata": {"orch8_instance": name}, **changes.pop("config", {})}
    made = await api.post("/machines", json={"name": name, "region": "iad", "config": config, **changes})
    assert made.status_code == 200, made.text
    return dict(made.json())


async def wait(api: httpx.AsyncClient, machine: dict[str, Any], state: str) -> None:
    query = {"state": state, "timeout": 10, "version": machine["instance_id"]}
    answer = await api.get(f"/machines/{machine['id']}/wait", params=query)
    assert answer.json()["state"] == state


def test_every_operation_of_the_description_is_there() -> None:
    assert set(HANDLERS) == set(contract().ids)


@pytest.mark.parametrize(
    ("operation", "path", "body"),
    [
        ("POST", "/v1/apps/a/machines", {"nme": "x"}),
        ("POST", "/v1/apps/a/machines", {"config": {"imag": "x"}}),
        ("POST", "/v1/apps/a/machines", {"config": {"guest": {"cpus": "1"}}}),
        ("POST", "/v1/apps/a/machines", {"config": {"restart": {"policy": "never"}}}),
        ("POST", "/v1/apps/a/machines", {"config": {"env": {"A": 1}}}),
        ("POST", "/v1/apps/a/volumes", {"size_gb": "1"}),
        ("POST", "/v1/apps/a/machines/m/stop", {"signal": "SIGSTOP"}),
        ("POST", "/v1/apps/a/machines/m/start", {}),
    ],
)
def test_contract_sees_what_fly_would_not_understand(operation: str, path: str, body: Any) -> None:
    found = contract().find(operation, path)
    assert found is not None
    assert contract().request(found[0], {}, body)


def test_contract_sees_answers_that_fly_would_not_give() -> None:
    found = contract().find("GET", "/v1/apps/a/machines/m")
    assert found is not None
    assert contract().answer(found[0], 200, {"id": "m", "state": "started"}) == []
    assert contract().answer(found[0], 200, {"id": 1})
    assert contract().answer(found[0], 200, {"ident": "m"})
    assert contract().answer(found[0], 200, {"host_status": "fine"})
    assert contract().answer(found[0], 201, {"id": "m"})
    assert contract().answer(found[0], 404, {"message": 1})
    assert contract().request(found[0], {"state": "x"}, None)


async def test_machine_goes_through_its_states(fly: Fly, api: httpx.AsyncClient) -> None:
    made = await create(api)
    path = f"/machines/{made['id']}"
    assert made["state"] == "created"
    await wait(api, made, "started")
    for action, state in (("stop", "stopped"), ("start", "started"), ("suspend", "suspended"), ("start", "started")):
        assert (await api.post(f"{path}/{action}")).status_code == 200
        await wait(api, made, state)
    assert (await api.post(f"{path}/restart")).status_code == 200
    await wait(api, made, "started")
    events = (await api.get(f"{path}/events")).json()
    assert {"launch", "start", "stop", "suspend"} <= {event["type"] for event in events}
    assert (await api.delete(path)).status_code == 412
    assert (await api.delete(path, params={"force": "true"})).status_code == 200
    await wait(api, made, "destroyed")
    assert (await api.get(path)).json()["state"] == "destroyed"
    assert (await api.get("/machines")).json() == []
    assert len((await api.get("/machines", params={"include_deleted": "true"})).json()) == 1
    assert fly.audit().machines == ()


async def test_wrong_state_is_412_with_flys_words(fly: Fly, api: httpx.AsyncClient) -> None:
    fly.delays.create = 30
    made = await create(api)
    for action in ("start", "stop", "suspend", "restart"):
        answer = await api.post(f"/machines/{made['id']}/{action}")
        assert answer.status_code == 412
        assert answer.json()["error"].endswith("machine from current state: 'created'")


async def test_wait_times_out_with_flys_words(fly: Fly, api: httpx.AsyncClient) -> None:
    made = await create(api, skip_launch=True)
    answer = await api.get(f"/machines/{made['id']}/wait", params={"timeout": 1})
    assert answer.status_code == 408
    said = "deadline_exceeded: machine failed to reach desired state, started, currently created"
    assert answer.json()["error"] == said


async def test_wait_for_stopped_needs_the_version(api: httpx.AsyncClient) -> None:
    made = await create(api, skip_launch=True)
    for query in ({"state": "stopped"}, {"state": "started", "version": "01OLD"}):
        assert (await api.get(f"/machines/{made['id']}/wait", params=query)).status_code == 400


async def test_lists_are_filtered(api: httpx.AsyncClient) -> None:
    one = await create(api, "one")
    await create(api, "two", region="fra")

    async def names(**query: str) -> list[str]:
        return [row["name"] for row in (await api.get("/machines", params=query)).json()]

    assert await names() == ["one", "two"]
    assert await names(**{"metadata.orch8_instance": "two"}) == ["two"]
    assert await names(region="iad") == ["one"]
    await wait(api, one, "started")
    assert await names(state="started,stopped", region="iad") == ["one"]
    summary = (await api.get("/machines", params={"summary": "true"})).json()
    assert all("config" not in row and "state" in row for row in summary)


async def test_metadata_is_read_and_written(api: httpx.AsyncClient) -> None:
    path = f"/machines/{(await create(api))['id']}/metadata"
    assert (await api.post(f"{path}/color", json={"value": "red"})).status_code == 204
    assert (await api.get(path)).json() == {"orch8_instance": "one", "color": "red"}
    assert (await api.get(f"{path}/color")).json() == {"value": "red"}
    assert (await api.delete(f"{path}/color")).status_code == 204
    assert (await api.get(f"{path}/color")).status_code == 404


async def test_update_replaces_the_configuration_and_checks_the_version(api: httpx.AsyncClient) -> None:
    made = await create(api)
    await wait(api, made, "started")
    path, config = f"/machines/{made['id']}", {"image": "other:2"}
    stale = await api.post(path, json={"config": config, "current_version": "01OLD"})
    assert stale.status_code == 409
    changed = (await api.post(path, json={"config": config, "current_version": made["instance_id"]})).json()
    assert changed["config"] == config
    assert changed["instance_id"] != made["instance_id"]
    await wait(api, changed, "started")


async def test_leased_machine_is_changed_with_the_nonce_alone(api: httpx.AsyncClient) -> None:
    made = await create(api)
    await wait(api, made, "started")
    path = f"/machines/{made['id']}"
    lease = (await api.post(f"{path}/lease", json={"ttl": 30, "description": "test"})).json()["data"]
    refused = await api.post(f"{path}/stop")
    assert refused.status_code == 409
    assert "lease currently held by" in refused.json()["error"]
    assert "lease currently held by" in (await api.post(f"{path}/lease", json={})).json()["message"]
    held = {NONCE: lease["nonce"]}
    assert (await api.post(f"{path}/lease", json={"ttl": 60}, headers=held)).json()["data"]["nonce"] == lease["nonce"]
    assert (await api.get(f"{path}/lease")).json()["data"]["description"] == "test"
    assert (await api.post(f"{path}/stop", headers=held)).status_code == 200
    assert (await api.delete(f"{path}/lease", headers={NONCE: "another"})).status_code == 409
    assert (await api.delete(f"{path}/lease", headers=held)).status_code == 200
    assert (await api.get(f"{path}/lease")).status_code == 404
    with_lease = await create(api, "two", lease_ttl=30)
    assert (await api.delete(f"/machines/{with_lease['id']}", params={"force": "true"})).status_code == 409


async def test_volume_stays_busy_for_a_while_after_its_machine(fly: Fly, api: httpx.AsyncClient) -> None:
    fly.delays.volume_busy = 0.3
    volume = (await api.post("/volumes", json={"name": "data", "region": "iad", "size_gb": 1})).json()
    mounts = {"mounts": [{"volume": volume["id"], "path": "/data"}]}
    made = await create(api, config=mounts)
    second = {"name": "two", "region": "iad", "config": {"image": IMAGE, **mounts}}
    assert (await api.post("/machines", json=second)).status_code == 412
    assert (await api.delete(f"/volumes/{volume['id']}")).status_code == 412
    await wait(api, made, "started")
    await api.delete(f"/machines/{made['id']}", params={"force": "true"})
    await wait(api, made, "destroyed")
    assert (await api.delete(f"/volumes/{volume['id']}")).status_code == 409
    assert fly.audit().volumes == ("data",)

    async def deleted() -> bool:
        return bool((await api.delete(f"/volumes/{volume['id']}")).is_success)

    await eventually(deleted)
    assert fly.audit().volumes == ()
    await eventually(lambda: _gone(api))


async def _gone(api: httpx.AsyncClient) -> bool:
    return bool((await api.get("/volumes")).json() == [])


async def test_names_are_unique_and_checked(fly: Fly, api: httpx.AsyncClient) -> None:
    made = await create(api)
    body = {"name": "one", "config": {"image": IMAGE}}
    taken = await api.post("/machines", json=body)
    assert (taken.status_code, taken.json()["status"]) == (422, "name_taken")
    fly.taken_status = 409
    taken = await api.post("/machines", json=body)
    assert taken.status_code == 409
    assert made["id"] in taken.json()["error"]
    assert (await api.post("/volumes", json={"name": "with-dashes"})).status_code == 422
    assert (await api.post("/machines", json={"name": "x", "config": {}})).status_code == 422


async def test_apps(fly: Fly, api: httpx.AsyncClient) -> None:
    base = f"{fly.api_url}/v1/apps"
    made = await api.post(base, json={"name": "another", "org_slug": "tests"})
    assert (made.status_code, made.json()["id"]) == (201, "another")
    assert (await api.post(base, json={"name": "another", "org_slug": "tests"})).json()["status"] == "name_taken"
    assert (await api.get(f"{base}/another")).json()["organization"]["slug"] == "tests"
    assert (await api.get(base, params={"org_slug": "tests"})).json()["total_apps"] == 2
    assert (await api.delete(f"{base}/another")).status_code == 202
    assert (await api.get(f"{base}/another")).status_code == 404
    fly.foreign_apps.add("theirs")
    assert (await api.get(f"{base}/theirs")).status_code == 403


async def test_callers_need_the_token_and_every_answer_has_an_id(fly: Fly, api: httpx.AsyncClient) -> None:
    for header in ("", "Bearer wrong", f"Basic {fly.token}"):
        answer = await api.get("/machines", headers={"authorization": header})
        assert answer.status_code == 401
        assert answer.headers["fly-request-id"]
    good = await api.get("/machines", headers={"authorization": f"Bearer {fly.token}"})
    assert good.headers["fly-request-id"] == fly.calls[-1].request_id
    assert (await api.get("/nonsense")).headers["fly-request-id"]


async def test_rates_are_by_action_and_machine(fly: Fly, api: httpx.AsyncClient) -> None:
    fly.rates = Rates()
    one, two = await create(api, "one", skip_launch=True), await create(api, "two", skip_launch=True)
    answers = [await api.get(f"/machines/{one['id']}/events") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].headers["retry-after"] == "1"
    assert (await api.get(f"/machines/{two['id']}/events")).status_code == 200
    assert {(await api.get(f"/machines/{one['id']}")).status_code for _ in range(10)} == {200}


async def test_full_region_has_no_room(fly: Fly, api: httpx.AsyncClient) -> None:
    fly.full_regions.add("gru")
    answer = await api.post("/machines", json={"name": "x", "region": "gru", "config": {"image": IMAGE}})
    assert (answer.status_code, answer.json()["status"]) == (503, "insufficient_capacity")
    assert fly.audit().machines == ()


async def test_faults_come_as_they_were_set(fly: Fly, api: httpx.AsyncClient) -> None:
    fly.faults.fail("Machines_list", 503, CAPACITY, headers={"retry-after": "7"})
    fly.faults.fail("Machines_list", 502, "<html>bad gateway</html>", times=2)
    assert (await api.get("/machines")).headers["retry-after"] == "7"
    assert [(await api.get("/machines")).text for _ in range(2)] == ["<html>bad gateway</html>"] * 2
    assert (await api.get("/machines")).status_code == 200

    fly.faults.refuse("Machines_create")
    with pytest.raises(httpx.TransportError):
        await create(api)
    assert fly.audit().machines == ()
    fly.faults.drop("Machines_create")
    with pytest.raises(httpx.TransportError):
        await create(api)
    assert fly.audit().machines == ("one",), "the work was done"

    fly.faults.down = True
    with pytest.raises(httpx.TransportError):
        await api.get("/machines")
    fly.faults.clear()
    fly.faults.delay("Machines_list", 30)
    with pytest.raises(httpx.TimeoutException):
        await api.get("/machines", timeout=0.1)
    assert (await api.get("/machines")).status_code == 200


async def test_faults_by_chance_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    async def outcomes(folder: str) -> list[bool]:
        async with running_fly(tmp_path / folder, runs_engines=False) as fly:
            fly.faults.fail(None, 500, times=None, probability=0.5)
            headers = {"authorization": f"Bearer {fly.token}"}
            async with httpx.AsyncClient(base_url=fly.api_url, headers=headers, trust_env=False) as http:
                return [(await http.get(f"/v1/apps/{fly.app}/volumes")).is_success for _ in range(20)]

    first = await outcomes("a")
    assert first == await outcomes("b")
    assert True in first
    assert False in first


async def test_contract_breach_of_a_caller_fails_the_test(tmp_path: Path) -> None:
    async def breach() -> None:
        async with running_fly(tmp_path, runs_engines=False) as fly:
            headers = {"authorization": f"Bearer {fly.token}"}
            async with httpx.AsyncClient(base_url=fly.api_url, headers=headers, trust_env=False) as http:
                body = {"config": {"image": IMAGE}, "misspelt": 1}
                assert (await http.post(f"/v1/apps/{fly.app}/machines", json=body)).status_code == 400

    with pytest.raises(AssertionError, match="'misspelt' was unexpected"):
        await breach()


ENGINE = {
    "ORCH8_API_KEY": "an-engine-key-for-tests",
    "ORCH8_HTTP_ADDR": "0.0.0.0:8080",
    "ORCH8_DATABASE_URL": "sqlite:///data/orch8.db",
}


async def test_machine_runs_an_engine_that_the_proxy_and_the_private_network_reach(tmp_path: Path) -> None:
    async with running_fly(tmp_path, delays=Delays(volume_busy=0)) as fly:
        headers = {"authorization": f"Bearer {fly.token}"}
        base = f"{fly.api_url}/v1/apps/{fly.app}"
        async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as api:
            volume = (await api.post("/volumes", json={"name": "data", "region": "iad"})).json()
            config = {
                "env": ENGINE,
                "mounts": [{"volume": volume["id"], "path": "/data"}],
                "services": [{"protocol": "tcp", "internal_port": 8080, "autostart": False}],
                "restart": {"policy": "on-failure", "max_retries": 1},
            }
            made = await create(api, config=config)
            pin = {"fly-force-instance-id": made["id"]}

            async def status(url: str, **headers: str) -> int:
                try:
                    return (await api.get(f"{url}/health/ready", headers={**pin, **headers})).status_code
                except httpx.TransportError:
                    return 0

            async def ready() -> bool:
                return await status(fly.edge_url) == 200

            await eventually(ready)
            assert await status(f"http://{made['private_ip']}:8080") == 200
            assert await status(fly.edge_url, **{"fly-force-instance-id": "nothing"}) == 502
            assert (fly.volumes[volume["id"]].folder / "orch8.db").exists()

            first = fly.pid("one")
            await fly._guests[made["id"]].stop(9)
            await eventually(ready)
            assert fly.pid("one") not in (None, first), "it was restarted by policy"
            await fly._guests[made["id"]].stop(9)
            await wait(api, made, "stopped")
            assert await status(fly.edge_url) == 503
            await api.post(f"/machines/{made['id']}/start")
            await eventually(ready)
            await fly.forget("one")
            assert await status(fly.edge_url) == 502
            assert (await api.get(f"/machines/{made['id']}")).status_code == 404
            assert fly.audit().volumes == ("data",)
