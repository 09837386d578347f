"""Which engine runs on this machine, and how it is told what it needs."""

import asyncio
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from server.providers.runtime.base import EngineSpec, RuntimeFailed
from server.providers.runtime.environment import engine_environment, inherited_environment, reporting

REAL = "orch8-server"
DEVELOPMENT = "development engine"
DEVELOPMENT_MODULE = "server.providers.runtime.devengine"
VERSION_WITHIN_S = 5.0
DATABASE = "orch8.db"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineProgram:
    """An engine that can be started: what people call it, and its command line."""

    name: str
    command: tuple[str, ...]


def choose(engine_bin: Path | None, path: str | None = None) -> EngineProgram:
    """The engine that is named; else orch8-server on the PATH; else the development engine (architecture, decision 7).

    Raises RuntimeFailed where the named one cannot be run.
    """
    if engine_bin is not None:
        named = engine_bin.expanduser().absolute()
        if not (named.is_file() and os.access(named, os.X_OK)):
            raise RuntimeFailed(f"There is no engine to run at {engine_bin} (ORCH8_ENGINE_BIN).")
        return EngineProgram(name=named.name, command=(str(named),))
    if found := shutil.which(REAL, path=path):
        return EngineProgram(name=REAL, command=(str(Path(found).absolute()),))
    # -P: the engine's folder, which is its working directory, must not be searched for modules.
    return EngineProgram(name=DEVELOPMENT, command=(sys.executable, "-P", "-m", DEVELOPMENT_MODULE))


async def describe(program: EngineProgram) -> str:
    """The engine's name with its version, where it tells one."""
    version = await _version(program)
    return f"{program.name} {version}" if version else program.name


async def _version(program: EngineProgram) -> str | None:
    if program.name == DEVELOPMENT:
        from server.providers.runtime.devengine.engine import VERSION

        return VERSION
    try:
        asked = await asyncio.create_subprocess_exec(
            *program.command,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=inherited_environment(),
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(VERSION_WITHIN_S):
            said, _ = await asked.communicate()
    except TimeoutError:
        asked.kill()
        await asked.communicate()
        return None
    words = said.decode(errors="replace").split()
    return words[-1][:64] if words and asked.returncode == 0 else None


def environment(
    program: EngineProgram, spec: EngineSpec, folder: Path, port: int, *, report_to: str = ""
) -> dict[str, str]:
    """All that an engine is told. Its secrets are here and never among the arguments, which every user can see."""
    # Nobody calls gRPC, but two engines cannot share its default port.
    told = engine_environment(spec, http=f"127.0.0.1:{port}", grpc="127.0.0.1:0", database=str(folder / DATABASE))
    reports = reporting(spec, report_to, is_real=program.name != DEVELOPMENT) if report_to else {}
    return inherited_environment() | told | reports
