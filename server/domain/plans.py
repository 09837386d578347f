"""Plans: what each allows. They are read from one file that an operator edits (server/plans.toml)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass

FREE = "free"
# What the proxies are told fits in 32 bits.
MOST = 2**31 - 1
# Days for which a run is kept: a whole month and more, so that its executions can be counted again from the runs, and
# not more than a time can say.
FEWEST_RUNS_DAYS, MOST_RUNS_DAYS = 32, 36_500
KEYS = frozenset(
    {
        "running_instances",
        "executions_per_month",
        "templates",
        "requests_per_second",
        "request_burst",
        "key_requests_per_second",
        "key_request_burst",
        "open_streams",
        "runs_days",
    }
)


class PlansInvalid(Exception):
    """The plan file is broken. The message names the plan, the key and what is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """A rate of requests: so many per second on average, and so many at once after a quiet moment. Both at least 1."""

    per_second: int
    burst: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficLimits:
    """What the tunnel and the gateway allow an organization, and each API key there. None means no limit."""

    organization: Rate | None = None
    key: Rate | None = None
    open_streams: int | None = None


UNLIMITED = TrafficLimits()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One plan. None means no limit."""

    name: str
    running_instances: int | None
    executions_per_month: int | None
    templates: tuple[str, ...]
    traffic: TrafficLimits
    # Days for which runs are kept once they have ended.
    runs_days: int | None = None


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
    unknown = set(table) - KEYS
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
        traffic=TrafficLimits(
            organization=_rate(name, table, "requests_per_second", "request_burst"),
            key=_rate(name, table, "key_requests_per_second", "key_request_burst"),
            open_streams=_countable(name, table, "open_streams"),
        ),
        runs_days=_runs_days(name, table),
    )


def _runs_days(name: str, table: dict[str, object]) -> int | None:
    days = _limit(name, table, "runs_days")
    if days is not None and not FEWEST_RUNS_DAYS <= days <= MOST_RUNS_DAYS:
        raise PlansInvalid(f"{name}.runs_days: must be from {FEWEST_RUNS_DAYS} to {MOST_RUNS_DAYS}")
    return days


def _rate(name: str, table: dict[str, object], rate_key: str, burst_key: str) -> Rate | None:
    rate, burst = _countable(name, table, rate_key), _countable(name, table, burst_key)
    if rate is None:
        if burst is not None:
            raise PlansInvalid(f"{name}.{burst_key}: needs {rate_key} beside it")
        return None
    for key, value in ((rate_key, rate), (burst_key, burst)):
        if value == 0:
            raise PlansInvalid(f"{name}.{key}: must be at least 1; leave it out for no limit")
    return Rate(per_second=rate, burst=min(2 * rate, MOST) if burst is None else burst)


def _countable(name: str, table: dict[str, object], key: str) -> int | None:
    value = _limit(name, table, key)
    if value is not None and value > MOST:
        raise PlansInvalid(f"{name}.{key}: must be at most {MOST}; leave it out for no limit")
    return value


def _limit(name: str, table: dict[str, object], key: str) -> int | None:
    value = table.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PlansInvalid(f"{name}.{key}: must be a number of 0 or more; leave it out for no limit")
    return value
