"""deploy/ names settings, commands, ports and paths that exist, and its parts find each other."""

import re
from typing import Any

import pytest
from typer.main import get_command

from rest_bridge.settings import EdgeSettings, ProxySettings
from server.app import GRACE_S
from server.cli import app
from server.configuration import PREFIX, Settings
from server.settings import ServerSettings
from tests.deploy.layouts import COMMANDS, DEPLOY, Part, compose, fly, kubernetes, of_kind, parts

KINDS: dict[str, type[Settings]] = {"serve": ServerSettings, "proxy": ProxySettings, "edge": EdgeSettings}
LISTENS = {"server": "ORCH8_SERVER_LISTEN", "proxy": "ORCH8_PROXY_LISTEN", "streams": "ORCH8_STREAMS_LISTEN"}
ALL = parts()

each_part = pytest.mark.parametrize("part", ALL, ids=str)


def names(kind: type[Settings]) -> set[str]:
    return {f"{PREFIX}{name.upper()}" for name in kind.model_fields}


def of(layout: str, name: str) -> Part:
    (found,) = [part for part in ALL if (part.layout, part.name) == (layout, name)]
    return found


def test_every_layout_runs_every_part() -> None:
    assert {(part.layout, part.name) for part in ALL} == {
        (layout, name) for layout in ("compose", "kubernetes", "fly") for name in ("server", "proxy", "edge")
    }


@each_part
def test_its_command_exists(part: Part) -> None:
    assert part.command[0] in get_command(app).commands  # type: ignore[attr-defined]
    assert COMMANDS[part.command[0]] == part.name


@each_part
def test_every_setting_that_it_names_exists(part: Part) -> None:
    assert set(part.environment) - names(KINDS[part.command[0]]) == set()


@each_part
def test_its_settings_can_be_read_and_none_is_missing(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = KINDS[part.command[0]]
    known = {name: value for name, value in part.environment.items() if name in names(kind)}
    if part.name == "server":
        assert known.pop("ORCH8_DATABASE_URL").startswith("postgresql://")
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    settings: Any = kind.read()
    assert settings.drain_delay > 0
    assert part.grace >= settings.drain_delay + 2 * GRACE_S, "it would be killed in the middle"


@each_part
def test_its_probes_ask_the_listener_for_them(part: Part) -> None:
    listener = part.port(f"ORCH8_{part.name.upper()}_METRICS_LISTEN")
    assert part.probes
    assert {port for port, _ in part.probes} == {listener}
    paths = {path for _, path in part.probes}
    assert "/readyz" in paths
    assert paths <= {"/healthz", "/readyz"}


@each_part
def test_it_finds_the_others_where_they_listen(part: Part) -> None:
    for name, setting in LISTENS.items():
        address = part.environment.get(f"ORCH8_{name.upper()}_ADDR")
        if address is not None:
            other = of(part.layout, "proxy" if name == "streams" else name)
            assert address == f"{other.host}:{other.port(setting)}"


@each_part
def test_it_listens_for_others_and_its_administration_does_not(part: Part) -> None:
    for name, value in part.environment.items():
        if name.endswith("_LISTEN"):
            assert value.rpartition(":")[0] in ("0.0.0.0", "[::]"), name
    assert "ORCH8_EDGE_ADMIN_ADDR" not in part.environment


@each_part
def test_no_development_switch_and_no_secret_is_in_it(part: Part) -> None:
    assert not [name for name in part.environment if name.startswith("ORCH8_DEV_")]
    if part.layout == "fly":
        assert not set(fly(part.name)["env"]) & {"ORCH8_DATAPLANE_TOKEN", "ORCH8_SECRET_KEY", "ORCH8_FLY_API_TOKEN"}


def test_parts_of_one_layout_are_told_alike() -> None:
    for layout in ("compose", "kubernetes", "fly"):
        server, proxy = of(layout, "server"), of(layout, "proxy")
        for setting in ("ORCH8_PUBLIC_URL", "ORCH8_DATAPLANE_TOKEN"):
            assert server.environment[setting] == proxy.environment[setting]


class TestCompose:
    def test_two_of_each_that_decides_and_one_door(self) -> None:
        services = compose()["services"]
        assert [services[name]["deploy"]["replicas"] for name in ("server", "proxy", "edge")] == [2, 2, 2]
        assert {name for name, one in services.items() if "ports" in one} == {"edge"}
        (published,) = services["edge"]["ports"]
        assert int(published.split(":")[1]) == of("compose", "edge").port("ORCH8_LISTEN")

    def test_everything_that_is_waited_for_has_a_health_check(self) -> None:
        services = compose()["services"]
        for one in services.values():
            for name, condition in one.get("depends_on", {}).items():
                assert condition == {"condition": "service_healthy"}
                assert "healthcheck" in services[name]

    def test_the_database_is_the_one_that_the_server_is_told(self) -> None:
        postgres = compose()["services"]["postgres"]["environment"]
        assert of("compose", "server").environment["ORCH8_DATABASE_URL"] == (
            f"postgresql://{postgres['POSTGRES_USER']}:{postgres['POSTGRES_PASSWORD']}@postgres/{postgres['POSTGRES_DB']}"
        )

    def test_the_check_looks_at_what_the_server_gets(self) -> None:
        services = compose()["services"]
        assert services["server-check"]["environment"] == services["server"]["environment"]
        assert services["server-check"]["command"] == ["doctor", "--part", "server"]


class TestKubernetes:
    def pods(self) -> dict[str, dict[str, Any]]:
        return {name: one["spec"]["template"] for name, one in of_kind("Deployment").items()}

    def test_selectors_find_their_pods(self) -> None:
        labels = {name: pod["metadata"]["labels"] for name, pod in self.pods().items()}
        for name, one in of_kind("Deployment").items():
            assert one["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
            assert one["spec"]["replicas"] >= 2
        for name, one in of_kind("PodDisruptionBudget").items():
            assert one["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
        for name, one in of_kind("Service").items():
            assert one["spec"]["selector"].items() <= labels[name].items()
        for name, one in of_kind("NetworkPolicy").items():
            assert one["spec"]["podSelector"]["matchLabels"].items() <= labels[name].items()
        assert set(of_kind("PodDisruptionBudget")) == set(of_kind("NetworkPolicy")) == set(labels)

    def test_ports_of_containers_services_and_policies_are_those_of_the_settings(self) -> None:
        for name, pod in self.pods().items():
            (container,) = pod["spec"]["containers"]
            ports = {one["name"]: one["containerPort"] for one in container["ports"]}
            part = of("kubernetes", name)
            listens = {part.port(setting) for setting in part.environment if setting.endswith("_LISTEN")}
            assert set(ports.values()) == listens
            assert int(pod["metadata"]["annotations"]["prometheus.io/port"]) == ports["metrics"]
            service = of_kind("Service")[name]["spec"]
            for one in service["ports"]:
                assert one["targetPort"] in ports
                assert service.get("clusterIP") != "None" or one["port"] == ports[one["targetPort"]]
            for rule in of_kind("NetworkPolicy")[name]["spec"]["ingress"]:
                assert {one["port"] for one in rule["ports"]} <= set(ports)

    def test_only_the_edge_is_open_to_the_world(self) -> None:
        assert {name for name, one in of_kind("Service").items() if one["spec"].get("type") == "LoadBalancer"} == {
            "edge"
        }
        (open_rule,) = [rule for rule in of_kind("NetworkPolicy")["edge"]["spec"]["ingress"] if "from" not in rule]
        assert open_rule["ports"] == [{"port": "http"}]
        for name in ("server", "proxy"):
            assert all(rule["from"] for rule in of_kind("NetworkPolicy")[name]["spec"]["ingress"])

    def test_secrets_are_references_to_the_one_that_the_operator_makes(self) -> None:
        made = set(re.findall(r"--from-literal=([\w-]+)=", (DEPLOY / "kubernetes" / "kustomization.yaml").read_text()))
        asked = {
            one["valueFrom"]["secretKeyRef"]["key"]
            for pod in self.pods().values()
            for one in pod["spec"]["containers"][0]["env"]
            if "secretKeyRef" in one.get("valueFrom", {})
        }
        assert asked == made
        assert of_kind("Secret") == {}
        for pod in self.pods().values():
            values = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
            for secret in ("ORCH8_DATAPLANE_TOKEN", "ORCH8_SECRET_KEY", "ORCH8_FLY_API_TOKEN", "ORCH8_DATABASE_URL"):
                assert values.get(secret) is None

    def test_nothing_runs_as_root(self) -> None:
        for pod in self.pods().values():
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
            own = pod["spec"]["containers"][0]["securityContext"]
            assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)

    def test_every_object_says_what_it_is(self) -> None:
        assert all(one["apiVersion"] and one["kind"] and one["metadata"]["name"] for one in kubernetes())


class TestFly:
    @pytest.mark.parametrize("name", ["server", "proxy", "edge"])
    def test_build_signal_and_metrics(self, name: str) -> None:
        found, part = fly(name), of("fly", name)
        assert (DEPLOY / "fly" / found["build"]["dockerfile"]).resolve().name == "Containerfile"
        assert (DEPLOY / "fly" / found["build"]["dockerfile"]).resolve().is_file()
        assert found["kill_signal"] == "SIGTERM"
        metrics = part.port(f"ORCH8_{name.upper()}_METRICS_LISTEN")
        assert (found["metrics"]["port"], found["metrics"]["path"]) == (metrics, "/metrics")

    def test_only_the_edge_has_a_service(self) -> None:
        for name in ("server", "proxy"):
            assert not {"http_service", "services"} & set(fly(name))
        service = fly("edge")["http_service"]
        assert service["internal_port"] == of("fly", "edge").port("ORCH8_LISTEN")
        assert [check["path"] for check in service["checks"]] == ["/healthz"]
