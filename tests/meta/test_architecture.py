"""The rules of the layout that a linter cannot know. README, "The map", says them in words."""

import ast
import sys

import pytest

from tests.meta.source import CODE, Module, modules

# What each part may import of this project. The most specific row counts.
ALLOWED: dict[str, tuple[str, ...]] = {
    "server.domain": ("server.domain", "server.errors"),
    "server.errors": (),
    "server.explanations": ("server.domain", "orch8cloud"),
    "server.identity": ("server.identity", "server.domain"),
    "server.logs": (),
    "server.listening": ("server.configuration", "server.domain"),
    "server.telemetry": (
        "server.telemetry",
        "server.listening",
        "server.configuration",
        "server.domain",
        "server.logs",
    ),
    "server.tether": (),
    "server.configuration": ("server.domain",),
    "server.settings": ("server.configuration", "server.domain"),
    "server.store": ("server.store", "server.domain", "server.errors", "server.configuration"),
    "server.providers": ("server.providers", "server.domain", "server.errors", "server.identity"),
    "server.providers.runtime.devengine": ("server.providers.runtime.devengine",),
    "server.services": (
        "server.services",
        "server.store",
        "server.providers",
        "server.domain",
        "server.errors",
        "server.identity",
    ),
    "server.workers": (
        "server.workers",
        "server.services",
        "server.store",
        "server.providers",
        "server.domain",
        "server.errors",
    ),
    "server.rpc": (
        "server.rpc",
        "server.services",
        "server.store",
        "server.domain",
        "server.errors",
        "server.explanations",
        "server.telemetry",
        "orch8cloud",
    ),
    "server.operations": ("server.services", "server.workers", "server.store", "server.telemetry", "server.errors"),
    "server.app": ("server", "orch8cloud"),
    "server.up": (
        "server.settings",
        "server.tether",
        "server.up",
        "server.configuration",
        "server.domain",
        "server.providers.runtime",
        "rest_bridge.settings",
    ),
    "server.doctor": ("server", "rest_bridge"),
    "server.migrating": ("server.store", "server.configuration"),
    "server.templating": ("server.providers.templates", "server.domain", "server.configuration"),
    "server.recounting": (
        "server.services",
        "server.store",
        "server.settings",
        "server.configuration",
        "server.domain",
        "server.errors",
    ),
    "server.cli": ("server", "rest_bridge"),
    "server.__main__": ("server.cli",),
    "rest_bridge": (
        "rest_bridge",
        "server.domain",
        "server.configuration",
        "server.errors",
        "server.explanations",
        "server.listening",
        "server.logs",
        "server.telemetry",
        "server.tether",
        "server.identity",
        "orch8cloud",
    ),
    "bench": ("bench", "server", "rest_bridge.envoy.fragments"),
    # What makes the load and what is told of it know nothing of the product.
    "bench.load": (),
    "bench.table": ("bench.generators",),
}
# Packages that one part alone may import.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "grpc": ("server.rpc", "server.app", "rest_bridge.proxy.server_link", "rest_bridge.proxy.processor"),
    "grpc_status": ("server.rpc",),
    "sqlmodel": ("server.store",),
    "sqlalchemy": ("server.store",),
    "alembic": ("server.store",),
    "aiosqlite": ("server.store",),
    "asyncpg": ("server.store",),
    "jose": ("server.identity", "server.up", "bench.issuer"),
    "starlette": ("server.providers.runtime.devengine",),
    "aiohttp": ("rest_bridge.proxy", "server.providers.runtime.devengine"),
    "envoy": ("rest_bridge.envoy", "bench.envoys"),
    "pydantic": ("server.configuration", "server.settings", "rest_bridge.settings"),
    "prometheus_client": ("server.telemetry", "rest_bridge.proxy.metrics"),
    "opentelemetry": ("server.telemetry.tracing",),
    "typer": ("server.cli",),
    "jsonschema": ("server.providers.templates.schemas",),
}
# Who may look at the environment: the settings, and what hands it on to child processes.
ENVIRONMENT = (
    "server.configuration",
    "server.providers.runtime.devengine.settings",
    "server.providers.runtime.environment",
    "server.up.environment",
)
ALL = modules(*CODE)


def within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def row(name: str) -> tuple[str, ...]:
    best = max((part for part in ALLOWED if within(name, (part,))), key=len, default=None)
    assert best is not None, f"{name} has no place in the architecture: add a row"
    return ALLOWED[best]


@pytest.mark.parametrize(
    "module", [module for module in ALL if module.name != "server"], ids=lambda module: module.name
)
def test_imports_go_one_way(module: Module) -> None:
    own = [name for name in module.imports() if name.split(".")[0] in ("server", "rest_bridge", "orch8cloud", "bench")]
    assert [name for name in own if not within(name, row(module.name))] == []


@pytest.mark.parametrize("package", list(ONLY_IN))
def test_package_is_imported_in_its_place_only(package: str) -> None:
    elsewhere = [
        module.name
        for module in ALL
        if not within(module.name, ONLY_IN[package]) and any(within(name, (package,)) for name in module.imports())
    ]
    assert elsewhere == []


def test_domain_needs_the_standard_library_only() -> None:
    foreign = {
        name.split(".")[0]
        for module in ALL
        if within(module.name, ("server.domain", "server.errors"))
        for name in module.imports()
    }
    assert foreign - set(sys.stdlib_module_names) <= {"server"}


def test_environment_is_read_in_its_places_only() -> None:
    readers = {
        module.name
        for module in ALL
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers <= set(ENVIRONMENT)


def test_only_the_unit_of_work_commits() -> None:
    sessions = [
        module.name for module in ALL if within(module.name, ("server.store",)) and "session.commit" in module.text
    ]
    assert sessions == ["server.store.database"]


@pytest.mark.parametrize("module", [*ALL, *modules("tests")], ids=lambda module: module.name)
def test_files_and_functions_stay_small(module: Module) -> None:
    assert module.text.count("\n") <= 500
    functions = [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if not within(module.name, ("server.store.migrations",)):
        long = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
        assert {name: lines for name, lines in long.items() if lines > 50} == {}
