"""The Fly runtime against a Fly over real HTTP: what it makes there, what it keeps, and what it leaves behind."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.providers.runtime import fly as fly_module
from server.providers.runtime.base import (
    EngineSpec,
    EngineState,
    FoundEngine,
    Observation,
    RuntimeFailed,
    RuntimeUnavailable,
)
from server.providers.runtime.fly_config import Routing, machine_name
from tests.providers.runtime.fly_support import ID, NAME, SPEC, runtime, until
from tests.support.fly.cloud import Audit, Fly
from tests.support.fly.faults import Faults
from tests.support.fly.server import running_fly

SEQUENCE = {
    "id": "0197a1b0-0000-7000-8000-000000000001",
    "tenant_id": "acme",
    "namespace": "default",
    "name": "welcome",
    "version": 1,
    "blocks": [{"type": "step", "id": "one", "handler": "noop", "params": {}}],
    "created_at": "2026-01-01T00:00:00Z",
}
ONE = Audit(machines=(NAME,), volumes=(ID,))
NOTHING = Audit(machines=(), volumes=())


@pytest.fixture
async def fly(tmp_path: Path) -> AsyncIterator[Fly]:
    async with running_fly(tmp_path) as fly:
        yield fly


async def call(found: Observation, method: str, path: str, body: Any = None) -> httpx.Response:
    """Calls an engine as the data plane does."""
    where = found.upstream
    assert where is not None
    headers = {"x-api-key": SPEC.engine_key, **where.headers}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
        return await http.request(method, f"http://{where.host}:{where.port}{path}", json=body)


async def names(found: Observation) -> list[str]:
    return [item["name"] for item in (await call(found, "GET", "/sequences")).json()["items"]]


@pytest.mark.parametrize("routing", list(Routing))
@pytest.mark.parametrize(("suspend", "state"), [(False, "stopped"), (True, "suspended")])
async def test_engine_starts_stops_and_starts_again_with_its_data(
    fly: Fly, routing: Routing, suspend: bool, state: str
) -> None:
    async with runtime(fly, routing=routing, suspend=suspend) as made:
        assert (await made.observe(ID)).state is EngineState.ABSENT
        found = await until(EngineState.RUNNING, lambda: made.run(SPEC))
        assert (await call(found, "POST", "/sequences", SEQUENCE)).status_code == 201
        assert fly.audit() == ONE
        assert await made.observe(ID) == found

        await until(EngineState.STOPPED, lambda: made.stop(ID))
        assert fly.machine(NAME).state == state
        assert (await made.observe(ID)) == Observation(state=EngineState.STOPPED)
        assert (await made.stop(ID)).state is EngineState.STOPPED

        found = await until(EngineState.RUNNING, lambda: made.run(SPEC))
        assert await names(found) == ["welcome"]
        await until(EngineState.ABSENT, lambda: made.destroy(ID))
        assert fly.audit() == NOTHING
        assert (await made.destroy(ID)).state is EngineState.ABSENT
        assert (await made.stop(ID)).state is EngineState.ABSENT


async def test_machine_is_what_the_operator_chose(fly: Fly) -> None:
    fly.runs_engines = False
    chosen: dict[str, Any] = {"cpus": 2, "memory_mb": 1024, "volume_gb": 7, "engine_env": {"ORCH8_ENV_LABEL": "prod"}}
    async with runtime(fly, **chosen) as made:
        await until(EngineState.RUNNING, lambda: made.run(SPEC))
        machine, (volume,) = fly.machine(NAME), fly.volumes.values()
        assert machine.region == volume.region == "iad"
        assert volume.size_gb == 7
        assert machine.config["guest"] == {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024}
        mark = {"orch8_instance": ID, "orch8_org": "org_1", "orch8_installation": "ours"}
        assert machine.config["metadata"] == mark
        assert machine.config["mounts"] == [{"volume": volume.id, "path": "/data"}]
        (service,) = machine.config["services"]
        assert (service["autostart"], service["autostop"]) == (False, "off")
        env = machine.config["env"]
        assert (env["ORCH8_API_KEY"], env["ORCH8_ENCRYPTION_KEY"]) == (SPEC.engine_key, SPEC.encryption_key)
        assert (env["ORCH8_REQUIRE_TENANT_HEADER"], env["ORCH8_ALLOW_NO_TENANT_ISOLATION"]) == ("false", "1")
        assert env["ORCH8_ENV_LABEL"] == "prod"
        assert await made.describe() == f"{machine.config['image']} on Fly, in the app {fly.app}"


@pytest.mark.parametrize(("address", "is_told"), [("https://cloud.example.com", True), ("http://localhost", False)])
async def test_machine_reports_its_runs_where_it_can_by_https(fly: Fly, address: str, is_told: bool) -> None:
    fly.runs_engines = False
    async with runtime(fly, report_to=address) as made:
        await until(EngineState.RUNNING, lambda: made.run(replace(SPEC, ingest_key="orc8_ingest_x")))
        env = fly.machine(NAME).config["env"]
    names = ("ENDPOINT", "API_KEY", "ENGINE_ID")
    told = [env.get(f"ORCH8_CLOUD_OBSERVABILITY_{name}") for name in names]
    assert told == ([address, "orc8_ingest_x", ID] if is_told else [None, None, None])


async def test_private_engines_listen_on_ipv6_and_cannot_be_reached_by_flys_proxy(fly: Fly) -> None:
    async with runtime(fly, routing=Routing.PRIVATE, public_url="") as made:
        found = await until(EngineState.RUNNING, lambda: made.run(SPEC))
        machine = fly.machine(NAME)
        assert found.upstream is not None
        assert (found.upstream.host, dict(found.upstream.headers)) == (machine.private_ip, {})
        assert machine.config["services"] == []
        assert machine.config["env"]["ORCH8_HTTP_ADDR"].startswith("[::]:")


async def test_pinned_engines_share_an_address_and_differ_in_the_header(fly: Fly) -> None:
    fly.runs_engines = False
    async with runtime(fly) as made:
        other = replace(SPEC, instance_id="inst_other")
        one = await until(EngineState.RUNNING, lambda: made.run(SPEC))
        two = await until(EngineState.RUNNING, lambda: made.run(other))
        assert one.upstream is not None
        assert two.upstream is not None
        assert (one.upstream.host, one.upstream.port) == (two.upstream.host, two.upstream.port)
        assert one.upstream.headers == {"fly-force-instance-id": fly.machine(NAME).id}
        assert two.upstream.headers == {"fly-force-instance-id": fly.machine("inst-other").id}


STEPS = (
    "Machines_list",
    "Machines_show",
    "Machines_create",
    "Machines_wait",
    "Machines_start",
    "Machines_stop",
    "Machines_delete",
    "Machines_create_lease",
    "Machines_release_lease",
    "Volumes_list",
    "Volumes_create",
    "Volumes_delete",
)


@pytest.mark.parametrize("operation", STEPS)
@pytest.mark.parametrize("how", ["drop", "refuse"])
async def test_lost_answer_of_any_call_doubles_and_loses_nothing(
    fly: Fly, monkeypatch: pytest.MonkeyPatch, operation: str, how: str
) -> None:
    """Each step is followed by a start of the server: what the process knew is gone."""
    monkeypatch.setattr(fly_module, "LEASE_S", 1)
    fly.runs_engines = False

    async def go(state: EngineState, name: str, argument: Any) -> None:
        getattr(fly.faults, how)(operation, times=1)

        async def step() -> Observation:
            async with runtime(fly) as made:
                found: Observation = await getattr(made, name)(argument)
                return found

        await until(state, step)
        fly.faults.clear()

    await go(EngineState.RUNNING, "run", SPEC)
    made = (list(fly.machines), list(fly.volumes))
    await go(EngineState.STOPPED, "stop", ID)
    await go(EngineState.RUNNING, "run", SPEC)
    assert (list(fly.machines), list(fly.volumes)) == made
    assert fly.audit() == ONE
    await go(EngineState.ABSENT, "destroy", ID)
    assert fly.audit() == NOTHING


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2))
async def test_many_engines_survive_a_bad_line(fly: Fly, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Three of ten answers are lost, one call in ten never arrives, one fails; and the server is restarted."""
    monkeypatch.setattr(fly_module, "LEASE_S", 1)
    fly.runs_engines, fly.faults = False, Faults(seed)
    fly.faults.drop(None, times=None, probability=0.3)
    fly.faults.refuse(None, times=None, probability=0.1)
    fly.faults.fail(None, 503, {"error": "try again"}, times=None, probability=0.1)
    ids = [f"inst_{number}" for number in range(12)]
    specs = [replace(SPEC, instance_id=instance_id) for instance_id in ids]

    async def live(spec: EngineSpec) -> None:
        for state, name, argument in (
            (EngineState.RUNNING, "run", spec),
            (EngineState.STOPPED, "stop", spec.instance_id),
            (EngineState.RUNNING, "run", spec),
        ):
            for _ in range(2):
                # What is known to one process is unknown to the next.
                async with runtime(fly) as made:
                    await until(state, partial(getattr(made, name), argument), seconds=90)

    await asyncio.gather(*(live(spec) for spec in specs))
    assert fly.audit().machines == tuple(sorted(machine_name(instance_id) for instance_id in ids))
    assert set(fly.audit().volumes) == set(ids)
    assert all(machine.state == "started" for machine in fly.machines.values())
    async with runtime(fly) as made:
        await asyncio.gather(*(until(EngineState.ABSENT, partial(made.destroy, one), seconds=90) for one in ids))
    assert fly.audit() == NOTHING


async def test_two_servers_at_once_make_one_engine(fly: Fly) -> None:
    fly.runs_engines = False
    async with runtime(fly) as one, runtime(fly) as two:
        steps = [partial(made.run, SPEC) for made in (one, two)]
        await asyncio.gather(*(until(EngineState.RUNNING, step) for step in steps))
        assert fly.audit().machines == (NAME,)
        steps = [partial(made.destroy, ID) for made in (one, two)]
        await asyncio.gather(*(until(EngineState.ABSENT, step) for step in steps))
        assert fly.audit() == NOTHING, "a volume that was made twice goes too"


async def test_many_at_once_share_the_lists(fly: Fly) -> None:
    fly.runs_engines = False
    async with runtime(fly) as made:
        await asyncio.gather(*(made.observe(f"inst_{number}") for number in range(50)))
        assert len(fly.asked("Machines_list")) <= 2
        assert len(fly.asked("Volumes_list")) <= 2


@pytest.mark.parametrize("status", [409, 422])
async def test_machine_that_is_not_listed_yet_is_found_by_its_name(fly: Fly, status: int) -> None:
    fly.taken_status, fly.runs_engines = status, False
    async with runtime(fly) as first:
        await first.run(SPEC)
    async with runtime(fly) as made:
        fly.faults.fail("Machines_list", 200, [])
        assert (await made.run(SPEC)).state in (EngineState.STARTING, EngineState.RUNNING)
        assert {call.status for call in fly.asked("Machines_create")} == {200, status}
        assert fly.audit() == ONE


async def test_machine_that_stays_unlisted_is_waited_for(fly: Fly) -> None:
    fly.runs_engines = False
    async with runtime(fly) as first:
        await first.run(SPEC)
    async with runtime(fly) as made:
        fly.faults.fail("Machines_list", 200, [], times=3)
        with pytest.raises(RuntimeUnavailable, match="does not list it yet"):
            await made.run(SPEC)


async def test_name_of_somebody_elses_machine_is_not_taken_over(fly: Fly) -> None:
    fly.runs_engines = False
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {fly.token}"}, trust_env=False) as http:
        body = {"name": NAME, "config": {"image": "theirs"}}
        assert (await http.post(f"{fly.api_url}/v1/apps/{fly.app}/machines", json=body)).is_success
    async with runtime(fly) as made:
        with pytest.raises(RuntimeFailed, match=rf"{NAME} already, and it is not this instance's"):
            await made.run(SPEC)
        await until(EngineState.ABSENT, lambda: made.destroy(ID))
        assert fly.audit() == Audit(machines=(NAME,), volumes=())


async def test_destroy_is_patient_with_a_volume_that_stays_busy(fly: Fly) -> None:
    fly.delays.volume_busy, fly.runs_engines = 1.0, False
    async with runtime(fly) as made:
        await made.run(SPEC)
        assert (await made.destroy(ID)).state is EngineState.STOPPING
        assert fly.audit() == Audit(machines=(), volumes=(ID,))
        await until(EngineState.ABSENT, lambda: made.destroy(ID))
        assert fly.audit() == NOTHING
        assert 409 in {call.status for call in fly.asked("Volumes_delete")}


async def test_new_machine_waits_for_the_volume_of_the_old_one(fly: Fly) -> None:
    async with runtime(fly) as made:
        found = await until(EngineState.RUNNING, lambda: made.run(SPEC))
        assert (await call(found, "POST", "/sequences", SEQUENCE)).status_code == 201
        await fly.forget(NAME)
        assert (await made.observe(ID)).state is EngineState.STOPPED
        next(iter(fly.volumes.values())).busy_until = asyncio.get_running_loop().time() + 0.3
        found = await until(EngineState.RUNNING, lambda: made.run(SPEC))
        assert await names(found) == ["welcome"]
        assert 412 in {call.status for call in fly.asked("Machines_create")}
        assert fly.audit() == ONE


async def test_machine_that_another_holds_is_left_alone_until_the_lease_ends(fly: Fly) -> None:
    fly.runs_engines = False
    async with runtime(fly) as made:
        await until(EngineState.RUNNING, lambda: made.run(SPEC))
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {fly.token}"}, trust_env=False) as http:
            path = f"{fly.api_url}/v1/apps/{fly.app}/machines/{fly.machine(NAME).id}/lease"
            assert (await http.post(path, json={"ttl": 1})).status_code == 201
        for act in (made.stop, made.destroy):
            with pytest.raises(RuntimeUnavailable, match="lease currently held by"):
                await act(ID)
        assert fly.machine(NAME).state == "started"
        await until(EngineState.STOPPED, lambda: made.stop(ID))
        assert fly.machine(NAME).held_by is None, "it was given back"


async def test_lease_whose_answer_was_lost_is_used_all_the_same(fly: Fly) -> None:
    fly.runs_engines = False
    async with runtime(fly) as made:
        await until(EngineState.RUNNING, lambda: made.run(SPEC))
        fly.faults.drop("Machines_create_lease")
        with pytest.raises(RuntimeUnavailable, match="cannot be reached"):
            await made.stop(ID)
        assert fly.machine(NAME).held_by is not None
        assert (await made.stop(ID)).state in (EngineState.STOPPING, EngineState.STOPPED)
        assert fly.machine(NAME).held_by is None


async def test_machine_that_cannot_be_launched_is_made_anew_twice(fly: Fly, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fly_module, "WAIT_S", 1)
    fly.launch_fails, fly.runs_engines = 2, False
    async with runtime(fly) as made:
        await until(EngineState.RUNNING, lambda: made.run(SPEC))
        assert fly.audit() == ONE
        await until(EngineState.ABSENT, lambda: made.destroy(ID))
        fly.launch_fails = 3
        with pytest.raises(RuntimeFailed, match=r"could not launch the machine, 3 times.*launch: failed"):
            await until(EngineState.RUNNING, lambda: made.run(SPEC))
        await until(EngineState.ABSENT, lambda: made.destroy(ID))
        assert fly.audit() == NOTHING


async def test_engine_that_dies_is_started_by_fly_and_then_by_us(fly: Fly) -> None:
    async with runtime(fly) as made:
        await until(EngineState.RUNNING, lambda: made.run(SPEC))
        machine = fly.machine(NAME)
        fly.stop(machine, goal="stopped")
        await until(EngineState.STOPPED, lambda: made.observe(ID))
        assert (await until(EngineState.RUNNING, lambda: made.run(SPEC))).upstream is not None


async def test_stop_waits_for_what_is_on_its_way_up(fly: Fly) -> None:
    fly.delays.create, fly.runs_engines = 30, False
    async with runtime(fly) as made:
        assert (await made.run(SPEC)).state is EngineState.STARTING
        assert (await made.stop(ID)).state is EngineState.STOPPING
        await until(EngineState.ABSENT, lambda: made.destroy(ID))
        assert fly.audit() == NOTHING


async def test_what_exists_is_listed(fly: Fly) -> None:
    fly.runs_engines = False
    async with runtime(fly) as made:
        await made.run(SPEC)
        base = f"{fly.api_url}/v1/apps/{fly.app}"
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {fly.token}"}, trust_env=False) as http:
            for name in ("inst_loose", "theirs"):
                assert (await http.post(f"{base}/volumes", json={"name": name})).is_success
            theirs = {"name": "theirs", "config": {"image": "x", "metadata": {"orch8_instance": "../etc"}}}
            assert (await http.post(f"{base}/machines", json=theirs)).is_success
        found = {engine.instance_id or engine.name: engine for engine in await made.engines()}
        assert set(found) == {ID, "inst_loose", "theirs", *(v.id for v in fly.volumes.values() if v.name == "theirs")}
        machine = fly.machine(NAME)
        assert found[ID] == FoundEngine(
            instance_id=ID, name=NAME, state=EngineState.RUNNING, created_at=machine.created_at
        )
        assert found["inst_loose"].state is EngineState.STOPPED
        assert found["inst_loose"].created_at is not None
        assert not found["inst_loose"].is_marked, "a volume cannot say whose it is"
        assert found["theirs"].instance_id is None
        await until(EngineState.ABSENT, lambda: made.destroy("inst_loose"))
        assert "inst_loose" not in {engine.instance_id for engine in await made.engines()}


async def test_machines_of_another_installation_are_not_ours(fly: Fly) -> None:
    """Two may share an app; neither may take the other's engines for orphans."""
    fly.runs_engines = False
    async with runtime(fly) as ours, runtime(fly, installation="theirs") as theirs:
        await theirs.run(SPEC)
        (found,) = await ours.engines()
        assert (found.instance_id, found.is_marked, found.name) == (None, False, NAME)
        (found,) = await theirs.engines()
        assert (found.instance_id, found.is_marked) == (ID, True)


@pytest.mark.parametrize("name", ["", "inst_", "../inst_a", "inst_A", "inst_a\n", "inst_" + "a" * 26])
async def test_only_instance_ids_become_machines(fly: Fly, name: str) -> None:
    async with runtime(fly) as made:
        for act in (made.observe, made.stop, made.destroy):
            with pytest.raises(RuntimeFailed, match="not the id of an instance"):
                await act(name)
    assert fly.calls == []
