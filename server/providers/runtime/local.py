"""Engines as processes of this machine, for development and for a service on a single host."""

import asyncio
from pathlib import Path

import httpx

from server.providers.runtime.base import (
    INSTANCE_ID,
    EngineSpec,
    EngineState,
    FoundEngine,
    Observation,
    RuntimeFailed,
    RuntimeUnavailable,
    Upstream,
)
from server.providers.runtime.local_engine import LocalEngine, end_strays, stop_engines
from server.providers.runtime.local_folder import EngineFolder, folders, free_port
from server.providers.runtime.local_program import EngineProgram, choose, describe, environment

ENGINES = "engines"
CLOSE_KILL_AFTER_S = 5.0
CLOSE_WITHIN_S = 7.5


class LocalRuntime:
    """Each engine is a process with its own port, key, data and log, below `<data_dir>/engines`.

    `engine_bin` names the engine; without it orch8-server is looked for on `path` (by default the PATH), and the
    development engine takes its place where there is none. With `stop_engines=False`, engines outlive this process, and
    the next one finds them again. `report_to` is the address at which engines report their runs; empty: nowhere.
    """

    poll_interval: float = 0.05
    watch_interval: float = 1.0

    def __init__(
        self,
        *,
        data_dir: Path,
        engine_bin: Path | None = None,
        path: str | None = None,
        stop_engines: bool = True,
        report_to: str = "",
    ) -> None:
        self._root = data_dir.absolute() / ENGINES
        self._engine_bin = engine_bin
        self._path = path
        self._stop_engines = stop_engines
        self._report_to = report_to
        self._engines: dict[str, LocalEngine] = {}
        self._swept = False
        self._http = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))

    async def describe(self) -> str:
        """Such as "orch8-server 0.7.1" or "development engine 0.7.1+dev"."""
        return await describe(self._program())

    async def run(self, spec: EngineSpec) -> Observation:
        """Starts the engine, or finds it running; RUNNING once its health endpoint has said that it is ready."""
        engine = self._engine(spec.instance_id)
        async with engine.lock:
            state = await engine.look(self._http)
            if state is EngineState.STOPPED:
                engine.give_up_after_failures((spec.engine_key, spec.encryption_key, spec.ingest_key))
                self._start(engine, spec)
            return self._seen(engine, EngineState.RUNNING if state is EngineState.RUNNING else EngineState.STARTING)

    async def stop(self, instance_id: str) -> Observation:
        """Asks the engine to end: STOPPING until its process is gone, which takes 8 s at most."""
        engine = self._engine(instance_id)
        async with engine.lock:
            state = engine.stop()
            return self._seen(engine, state if engine.folder.exists else EngineState.ABSENT)

    async def destroy(self, instance_id: str) -> Observation:
        """Stops the engine and removes its folder."""
        engine = self._engine(instance_id)
        async with engine.lock:
            if engine.stop() is not EngineState.STOPPED:
                return self._seen(engine, EngineState.STOPPING)
            try:
                await asyncio.to_thread(engine.folder.remove)
            except OSError as error:
                raise RuntimeUnavailable(f"The engine's folder cannot be removed: {error.strerror}.") from error
            self._engines.pop(instance_id, None)
            return Observation(state=EngineState.ABSENT)

    async def observe(self, instance_id: str) -> Observation:
        """Looks at the process, and at most once a second at its health endpoint."""
        engine = self._engine(instance_id)
        async with engine.lock:
            state = await engine.look(self._http)
            return self._seen(engine, state if engine.folder.exists else EngineState.ABSENT)

    async def engines(self) -> list[FoundEngine]:
        """The folders below `engines`. One changes when its engine starts and stops, so that is how old it can be."""
        return [await self._found(folder) for folder in folders(self._root)]

    async def close(self) -> None:
        """Stops the engines that this process started or found again, all at once, within 8 s."""
        if self._stop_engines:
            await stop_engines(self._engines.values(), kill_after=CLOSE_KILL_AFTER_S, within=CLOSE_WITHIN_S)
        await self._http.aclose()

    def _program(self) -> EngineProgram:
        return choose(self._engine_bin, self._path)

    def _engine(self, instance_id: str) -> LocalEngine:
        if INSTANCE_ID.fullmatch(instance_id) is None:
            raise RuntimeFailed(f"{instance_id!r} is not the id of an instance.")
        if not self._swept:
            self._swept = True
            end_strays(self._root)
        if instance_id not in self._engines:
            self._engines[instance_id] = LocalEngine(EngineFolder(self._root / instance_id))
        return self._engines[instance_id]

    async def _found(self, folder: EngineFolder) -> FoundEngine:
        name = folder.path.name
        if INSTANCE_ID.fullmatch(name) is None:
            return FoundEngine(instance_id=None, name=name, state=EngineState.STOPPED, created_at=folder.changed_at())
        state = (await self.observe(name)).state
        return FoundEngine(instance_id=name, name=name, state=state, created_at=folder.changed_at())

    def _start(self, engine: LocalEngine, spec: EngineSpec) -> None:
        program = self._program()
        others = {other.port for other in self._engines.values() if other is not engine and other.port is not None}
        try:
            engine.folder.make()
            port = free_port(engine.port, others)
            told = environment(program, spec, engine.folder.path, port, report_to=self._report_to)
            engine.start(program.command, told, port)
        except OSError as error:
            raise RuntimeUnavailable(f"The engine's folder cannot be used: {error.strerror}.") from error

    def _seen(self, engine: LocalEngine, state: EngineState) -> Observation:
        if state is not EngineState.RUNNING or engine.port is None:
            return Observation(state=state)
        return Observation(state=state, upstream=Upstream(host="127.0.0.1", port=engine.port))


async def stop_all(data_dir: Path, *, kill_after: float = CLOSE_KILL_AFTER_S, within: float = CLOSE_WITHIN_S) -> None:
    """Stops every engine that is noted below a data folder, whoever started it: the sweep after a crashed server."""
    found = [LocalEngine(folder) for folder in folders(data_dir / ENGINES)]
    await stop_engines(found, kill_after=kill_after, within=within)
