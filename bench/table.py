"""From measurements to the table, the file and the verdict."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.generators import Figures

BARE = "bare-envoy"
KEY = "tunnel-api-key"
OIDC = "tunnel-oidc"
ONE, MANY = 1, 32
CONNECTIONS = (ONE, MANY)

# What issue "The gateway" asks for.
KEY_RATIO, OIDC_RATIO = 0.40, 0.35
OVER_BARE_US = 300.0
FLAT = 0.90


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of the table, as it stands in the file. Times are in microseconds."""

    name: str
    connections: int
    rps: float
    p50_us: float
    p99_us: float
    of_bare_envoy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a target was met, and by how much."""

    target: str
    measured: str
    met: bool


def lines(measured: Mapping[tuple[str, int], Sequence[Figures]]) -> list[Line]:
    """The median of all rounds, for every row and number of connections."""
    middle = {key: _median(rounds) for key, rounds in measured.items()}
    return [
        Line(
            name=name,
            connections=connections,
            rps=round(figures.rps, 1),
            p50_us=round(figures.p50_us, 1),
            p99_us=round(figures.p99_us, 1),
            of_bare_envoy=round(figures.rps / middle[BARE, connections].rps, 4),
        )
        for (name, connections), figures in middle.items()
    ]


def _median(rounds: Sequence[Figures]) -> Figures:
    return Figures(
        requests=sum(one.requests for one in rounds),
        rps=median(one.rps for one in rounds),
        p50_us=median(one.p50_us for one in rounds),
        p99_us=median(one.p99_us for one in rounds),
    )


def verdicts(table: Sequence[Line]) -> list[Verdict]:
    """Every target, met or missed."""
    found = {(line.name, line.connections): line for line in table}
    sizes = [line for line in table if line.name.startswith(f"{KEY}-") and line.connections == MANY]
    return [
        _ratio(found[KEY, MANY], KEY_RATIO),
        _ratio(found[OIDC, MANY], OIDC_RATIO),
        _over_bare(found[KEY, ONE], found[BARE, ONE]),
        _over_bare(found[OIDC, ONE], found[BARE, ONE]),
        *(_flat(line, found[KEY, MANY]) for line in sizes),
    ]


def _ratio(line: Line, wanted: float) -> Verdict:
    target = f"{line.name}: at least {wanted:.2f} of bare Envoy, {line.connections} connections"
    return Verdict(target=target, measured=f"{line.of_bare_envoy:.2f}", met=line.of_bare_envoy >= wanted)


def _over_bare(line: Line, bare: Line) -> Verdict:
    over = line.p50_us - bare.p50_us
    target = f"{line.name}: p50 at most {OVER_BARE_US:.0f} µs over bare Envoy, {line.connections} connection"
    return Verdict(target=target, measured=f"{over:.0f} µs", met=over <= OVER_BARE_US)


def _flat(line: Line, one_key: Line) -> Verdict:
    share = line.rps / one_key.rps
    target = f"{line.name}: at least {FLAT:.2f} of {one_key.name}, {line.connections} connections"
    return Verdict(target=target, measured=f"{share:.2f}", met=share >= FLAT)


def unrest(measured: Mapping[tuple[str, int], Sequence[Figures]]) -> float:
    """How much the bare Envoy's rounds differ, as a share of their median: what else the machine was doing."""
    rates = [one.rps for one in measured[BARE, MANY]]
    return (max(rates) - min(rates)) / median(rates)


def write(path: Path, machine: Mapping[str, object], table: Sequence[Line]) -> None:
    """Writes the file that programs read."""
    content = {"machine": machine, "rows": [asdict(line) for line in table]}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def text(machine: Mapping[str, object], table: Sequence[Line], targets: Sequence[Verdict]) -> str:
    """What people read."""
    width = max(len(line.name) for line in table)
    head = f"{'':{width}}  connections  requests/s   p50 µs   p99 µs  of bare Envoy"
    body = [
        f"{line.name:{width}}  {line.connections:11}  {line.rps:10.0f}  {line.p50_us:7.0f}  {line.p99_us:7.0f}"
        f"  {line.of_bare_envoy:13.3f}"
        for line in table
    ]
    about = ", ".join(f"{name} {value}" for name, value in machine.items())
    goals = [f"{'met   ' if goal.met else 'MISSED'}  {goal.target}: {goal.measured}" for goal in targets]
    return "\n".join((about, "", head, *body, "", "targets", *goals))
