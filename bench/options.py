"""What a run is asked to do."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results.json"
MANY_KEYS = (1_000, 100_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """`seconds` is the load on one line of the table, all rounds together."""

    seconds: float
    rounds: int
    keys: tuple[int, ...]
    results: Path
    own_load: bool
    strict: bool

    @property
    def turn(self) -> float:
        """Seconds of one measurement: a line's share of one round."""
        return self.seconds / self.rounds


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Reads the command line. Ends the program where it is wrong."""
    parser = argparse.ArgumentParser(prog="bench", description="Measures what the gateway costs, against bare Envoy.")
    parser.add_argument("--seconds", type=_positive, default=10.0, help="seconds of load for each line of the table")
    parser.add_argument("--rounds", type=_count, default=5, help="into how many turns that is split (default: 5)")
    parser.add_argument(
        "--keys",
        type=_count,
        nargs="+",
        default=list(MANY_KEYS),
        help="how many keys and policies the rows with many of them have (default: 1000 100000)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go, as JSON")
    parser.add_argument("--own-load", action="store_true", help="do not use wrk, even where it is installed")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    given = parser.parse_args(arguments)
    return Options(**{**vars(given), "keys": tuple(given.keys)})


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 3600")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError("must be at least 1 and at most 1000000")
    return value
