"""Reads deploy/: each layout as the parts that it runs, whatever its format."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tests.meta.source import ROOT

DEPLOY = ROOT / "deploy"
# What operators must give. Tests stand in for them.
GIVEN = {
    "POSTGRES_PASSWORD": "not-a-real-password",
    "ORCH8_PUBLIC_URL": "https://cloud.example.com",
    "ORCH8_DATAPLANE_TOKEN": "0123456789abcdef" * 4,
    "ORCH8_SECRET_KEY": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "ORCH8_SUPABASE_URL": "https://project.supabase.co",
    "ORCH8_FLY_API_TOKEN": "fly-token",
    "ORCH8_FLY_APP": "engines",
    "ORCH8_FLY_IMAGE": "ghcr.io/example/orch8-server:0.7.1",
    "ORCH8_FLY_PUBLIC_URL": "https://engines.fly.dev",
    "ORCH8_DATABASE_URL": "postgresql://orch8:not-a-real-password@postgres/orch8",
}
COMMANDS = {"serve": "server", "proxy": "proxy", "edge": "edge"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part as a layout runs it. `host` is the name by which the others find it, `grace` what it has to stop, in s."""

    layout: str
    name: str
    host: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    probes: tuple[tuple[int, str], ...]
    grace: float

    def __str__(self) -> str:
        return f"{self.layout}-{self.name}"

    def port(self, setting: str) -> int:
        """The port of an address that it is told."""
        return int(self.environment[setting].rpartition(":")[2])


def parts() -> list[Part]:
    """Every part of every layout."""
    return [*_compose(), *_kubernetes(), *_fly()]


def compose() -> dict[str, Any]:
    """The compose file, with its variables filled in. A variable that nobody could give is an error."""
    return dict(yaml.safe_load(_VARIABLE.sub(_filled, (DEPLOY / "compose.yaml").read_text())))


def _filled(match: re.Match[str]) -> str:
    name, kind, default = match.groups()
    return default if kind == "-" else GIVEN[name]


def _compose() -> Iterator[Part]:
    for name, service in compose()["services"].items():
        if name not in ("server", "proxy", "edge"):
            continue
        yield Part(
            layout="compose",
            name=name,
            host=name,
            command=tuple(service["command"]),
            environment={key: str(value) for key, value in service["environment"].items()},
            probes=_probes_in(json.dumps(service["healthcheck"]["test"])),
            grace=float(service["stop_grace_period"].removesuffix("s")),
        )


def _probes_in(text: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(port), path) for port, path in re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", text))


@cache
def kubernetes() -> list[dict[str, Any]]:
    """Every object that the kustomization names."""
    folder = DEPLOY / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert {f"{name}" for name in listed} == {one.name for one in folder.glob("*.yaml")} - {"kustomization.yaml"}
    return [one for name in listed for one in yaml.safe_load_all((folder / name).read_text())]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    """The objects of a kind, by name."""
    return {one["metadata"]["name"]: one for one in kubernetes() if one["kind"] == kind}


def _kubernetes() -> Iterator[Part]:
    for name, deployment in of_kind("Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("readiness", "liveness", "startup")]
        yield Part(
            layout="kubernetes",
            name=name,
            host=name,
            command=tuple(container["args"]),
            environment={one["name"]: _value(one) for one in container["env"]},
            probes=tuple((ports[one["port"]], one["path"]) for one in probes),
            grace=float(pod["terminationGracePeriodSeconds"]),
        )


def _value(entry: dict[str, Any]) -> str:
    """What a variable becomes: secrets are given by the operator, the rest is in the config map."""
    if "value" in entry:
        return str(entry["value"])
    source = entry["valueFrom"]
    if "configMapKeyRef" in source:
        reference = source["configMapKeyRef"]
        return str(of_kind("ConfigMap")[reference["name"]]["data"][reference["key"]])
    if "secretKeyRef" in source:
        return GIVEN[entry["name"]]
    assert source["fieldRef"]["fieldPath"] == "metadata.name"
    return "pod-1"


def fly(name: str) -> dict[str, Any]:
    """The fly.toml of a part."""
    return tomllib.loads((DEPLOY / "fly" / f"{name}.toml").read_text())


def fly_secrets(name: str) -> list[str]:
    """The secrets that its fly.toml asks the operator to set."""
    listed = re.search(r"# Secrets[^:]*: (.*)", (DEPLOY / "fly" / f"{name}.toml").read_text())
    assert listed is not None
    return re.findall(r"ORCH8_\w+", listed[1])


def _fly() -> Iterator[Part]:
    for path in sorted((DEPLOY / "fly").glob("*.toml")):
        found = fly(path.stem)
        checks = [*found["checks"].values()]
        yield Part(
            layout="fly",
            name=path.stem,
            host=f"{found['app']}.internal",
            command=tuple(found["processes"]["app"].split()),
            environment={**found["env"], **{secret: GIVEN[secret] for secret in fly_secrets(path.stem)}},
            probes=tuple((check["port"], check["path"]) for check in checks),
            grace=float(found["kill_timeout"]),
        )
