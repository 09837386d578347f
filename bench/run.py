"""A whole run: start everything, check every row, measure in turns, report.

The rows are measured in turn, several rounds of all of them, and the median of the rounds counts: whatever else the
machine does in between hits all rows alike, the bare Envoy among them, so the ratios hold where the figures do not.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench import machine, table
from bench.check import check
from bench.generators import Figures, Generator, OwnLoad, choose
from bench.options import Options
from bench.processes import Programs
from bench.stack import Row, start
from server.providers.runtime.environment import inherited_environment

_QUIET = 0.15

_Measured = dict[tuple[str, int], list[Figures]]


async def run(options: Options) -> int:
    """The exit code: 0, or 1 where a target is missed and that counts. Raises BenchFailed."""
    began = time.monotonic()
    generator = choose(own_load=options.own_load)
    with tempfile.TemporaryDirectory(prefix="orch8-bench-") as folder:
        async with Programs(Path(folder), inherited_environment()) as programs:
            _say(f"starting everything, with {max(options.keys)} keys and policies in the largest database")
            rows = await start(programs, Path(folder), options.keys)
            await _prepare(rows)
            measured = await _measure(rows, programs, generator, options)
    return _report(measured, generator, options, time.monotonic() - began)


async def _prepare(rows: Sequence[Row]) -> None:
    """Each row is right, and every call of it has been made once, so that what is measured is the steady state."""
    for row in rows:
        await check(row)
        first = await OwnLoad().first_pass(row.target)
        _say(f"{row.name} answers right; the first {first.requests} calls, one at a time: p50 {first.p50_us:.0f} µs")


async def _measure(rows: Sequence[Row], programs: Programs, generator: Generator, options: Options) -> _Measured:
    measured: _Measured = defaultdict(list)
    for number in range(1, options.rounds + 1):
        for row in rows:
            for connections in table.CONNECTIONS:
                programs.check()
                figures = await generator.run(row.target, connections=connections, seconds=options.turn)
                measured[row.name, connections].append(figures)
            said = ", ".join(f"{measured[row.name, many][-1].rps:.0f}/s at {many}" for many in table.CONNECTIONS)
            _say(f"round {number} of {options.rounds}: {row.name} {said}")
    return measured


def _report(measured: _Measured, generator: Generator, options: Options, seconds: float) -> int:
    about = machine.describe(generator.name, options)
    found = table.lines(measured)
    targets = table.verdicts(found)
    table.write(options.results, about, found)
    _say(f"\n{table.text(about, found, targets)}\n\n{seconds:.0f} s in all; written to {options.results}")
    if (unrest := table.unrest(measured)) > _QUIET:
        _say(f"The machine was busy: bare Envoy's rounds differ by {unrest:.0%}. Run it again when nothing else does.")
    return 1 if options.strict and not all(goal.met for goal in targets) else 0


def _say(text: str) -> None:
    print(text, flush=True)
