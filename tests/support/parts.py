"""The parts of the product, each started by itself as in production, and killed at will."""

import asyncio
import base64
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.support import sessions
from tests.support.stack import free_port


class Parts:
    """Server, proxy, edge and direct proxies on Unix sockets and free ports of one folder.

    `settings` are for all of them; `own` for one part alone, by its name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        own: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.folder = folder
        self.port, self.direct_port = free_port(), free_port()
        self._own = own or {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._environment = {
            "ORCH8_DATA_DIR": str(folder / "data"),
            "ORCH8_SERVER_LISTEN": f"unix:{folder}/server.sock",
            "ORCH8_SERVER_ADDR": f"unix:{folder}/server.sock",
            "ORCH8_PROXY_LISTEN": f"unix:{folder}/proxy.sock",
            "ORCH8_PROXY_ADDR": f"unix:{folder}/proxy.sock",
            "ORCH8_STREAMS_LISTEN": f"unix:{folder}/streams.sock",
            "ORCH8_STREAMS_ADDR": f"unix:{folder}/streams.sock",
            "ORCH8_LISTEN": f"127.0.0.1:{self.port}",
            "ORCH8_EDGE_ADMIN_ADDR": f"unix:{folder}/admin.sock",
            "ORCH8_DATAPLANE_TOKEN": "a-dataplane-token-for-tests",
            "ORCH8_SECRET_KEY": base64.b64encode(bytes(32)).decode(),
            "ORCH8_SUPABASE_JWT_SECRET": sessions.SECRET,
            "ORCH8_STALE_LIMIT": "30",
            **(settings or {}),
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def direct_url(self) -> str:
        return f"http://127.0.0.1:{self.direct_port}"

    async def start(self, *names: str) -> None:
        """Starts parts: serve, proxy, edge, direct; more of a kind, such as serve-2, have their address in `own`."""
        for name in names:
            kind = name.partition("-")[0]
            arguments, more = [kind], dict(self._own.get(name, {}))
            if kind == "direct":
                arguments = ["proxy", "--direct"]
                more.setdefault("ORCH8_PROXY_LISTEN", f"127.0.0.1:{self.direct_port}")
            with (self.folder / f"{name}.log").open("ab") as log:
                self._processes[name] = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "server", *arguments),
                    env={**os.environ, **self._environment, **more},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    async def end(self, name: str, number: int = signal.SIGKILL) -> int:
        """Ends a part, and says how it ended."""
        process = self._processes.pop(name)
        with suppress(ProcessLookupError):
            process.send_signal(number)
        async with asyncio.timeout(60):
            return await process.wait()

    async def stop(self, name: str) -> int:
        """Tells a part to stop, and says how it ended; it may wait for its drain delay until `hurry` ends that."""
        process = self._processes[name]
        process.send_signal(signal.SIGTERM)
        code = await process.wait()
        del self._processes[name]
        return code

    def hurry(self, name: str) -> None:
        """Ends the drain delay of a part that was told to stop."""
        self._processes[name].send_signal(signal.SIGTERM)

    def start_again(self, name: str) -> None:
        """Has an edge put another Envoy in the place of its own."""
        self._processes[name].send_signal(signal.SIGHUP)

    def halt(self, name: str) -> None:
        """Stops a part where it stands, as a machine that hangs does."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Lets a part go on that was halted."""
        self._processes[name].send_signal(signal.SIGCONT)

    def pid(self, name: str) -> int:
        """The process id of a part that was started."""
        return self._processes[name].pid

    def is_running(self, name: str) -> bool:
        """Whether a part was started and has not ended, by itself or otherwise."""
        return name in self._processes and self._processes[name].returncode is None

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    async def close(self) -> None:
        """Ends all of them, the servers last: they take the engines along."""
        for name in sorted(self._processes, key=lambda name: name.startswith("serve")):
            self.go_on(name)
            await self.end(name, signal.SIGTERM)
