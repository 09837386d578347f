"""Plans: what each allows. They are read from one file that an operator edits (server/plans.toml)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

FREE = "free"


class PlansInvalid(Exception):
    """The plan file is broken. The message names the plan, the key and what is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One plan. None means no limit."""

    name: str
    running_instances: int | None
    executions_per_month: int | None
    templates: tuple[str, ...]


class Plans:
    """All plans, by name."""

    def __init__(self, plans: Mapping[str, Plan]) -> None:
        self._plans = dict(plans)

    @classmethod
    def parse(cls, text: str) -> "Plans":
        """Reads the text of a plan file. Raises PlansInvalid."""
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PlansInvalid(f"not valid TOML: {error}") from None
        plans = {name: _plan(name, table) for name, table in tables.items()}
        if FREE not in plans:
            raise PlansInvalid(f"there is no plan named {FREE!r}, which every new organization gets")
        return cls(plans)

    def __getitem__(self, name: str) -> Plan:
        """The plan of that name. An organization whose plan the file no longer has falls back to free."""
        return self._plans.get(name, self._plans[FREE])

    def __contains__(self, name: object) -> bool:
        return name in self._plans


def _plan(name: str, table: object) -> Plan:
    if not isinstance(table, dict):
        raise PlansInvalid(f"{name}: must be a table")
    unknown = set(table) - {"running_instances", "executions_per_month", "templates"}
    if unknown:
        raise PlansInvalid(f"{name}: unknown key {sorted(unknown)[0]!r}")
    templates = table.get("templates", [])
    if not isinstance(templates, list) or not all(isinstance(item, str) for item in templates):
        raise PlansInvalid(f"{name}.templates: must be a list of plan names")
    return Plan(
        name=name,
        running_instances=_limit(name, table, "running_instances"),
        executions_per_month=_limit(name, table, "executions_per_month"),
        templates=tuple(templates),
    )


def _limit(name: str, table: dict[str, object], key: str) -> int | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PlansInvalid(f"{name}.{key}: must be a number of 0 or more; leave it out for no limit")
    return value
