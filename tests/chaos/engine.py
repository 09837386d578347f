"""An engine that notes the number of each request before it answers. Runs by itself, without this project."""

import asyncio
import os
import re
import stat
import sys
from pathlib import Path

NUMBER = re.compile(rb"[?&]r=([0-9]+)")
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"
SCRIPT = """#!{python}
import runpy, sys
sys.argv = [{module!r}, {record!r}]
runpy.run_path({module!r}, run_name="__main__")
"""


def install(folder: Path) -> Path:
    """Writes an executable for ORCH8_ENGINE_BIN; all engines note into `folder/reached`."""
    program = folder / "recording-engine"
    module = str(Path(__file__).resolve())
    program.write_text(SCRIPT.format(python=sys.executable, module=module, record=str(folder / "reached")))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (folder / "reached").touch()
    return program


def reached(folder: Path) -> frozenset[int]:
    """The numbers of all requests that an engine saw."""
    return frozenset(int(line) for line in (folder / "reached").read_text().split())


class Connection(asyncio.Protocol):
    """Answers requests without a body, one after the other."""

    def __init__(self, record: int) -> None:
        self._record = record
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        for head in heads:
            if number := NUMBER.search(head.split(b"\r\n", 1)[0]):
                # One write at the end of the file: whole, whatever ends this process next.
                os.write(self._record, number[1] + b"\n")
            self._transport.write(OK)


async def serve(record: int) -> None:
    host, _, port = os.environ["ORCH8_HTTP_ADDR"].rpartition(":")
    server = await asyncio.get_running_loop().create_server(lambda: Connection(record), host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)))
