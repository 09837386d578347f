"""`python -m bench`: exit code 0, 1 where a target is missed and --strict was given, 2 where the run failed."""

import asyncio
import signal
import sys

from bench.errors import BenchFailed
from bench.options import Options, parse
from bench.run import run

_FAILED, _INTERRUPTED = 2, 130


async def _run(options: Options) -> int:
    """Runs. A SIGTERM ends it as a Ctrl-C does: with everything that it started."""
    running = asyncio.create_task(run(options))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    return await running


def main() -> int:
    """Says in words why a run failed."""
    try:
        return asyncio.run(_run(parse()))
    except BenchFailed as error:
        print(f"bench: {error}", file=sys.stderr)
        return _FAILED
    except asyncio.CancelledError:
        print("bench: interrupted", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
