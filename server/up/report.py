"""What `up` tells the user: a line per step while it starts, and everything that is needed when it has."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.text import Text

from server.up.files import write_private
from server.up.options import Options

_LABEL_WIDTH = 17


@dataclass(frozen=True, kw_only=True)
class Ready:
    """All that somebody needs to use the running product. The field names are those of the ready file."""

    url: str
    org_id: str
    api_key: str
    access_token: str
    session_cookie: str
    supabase_jwt_secret: str
    instance_id: str
    engine: str

    def write(self, path: Path) -> None:
        """Writes the ready file: it appears whole, and only when everything answers."""
        write_private(path, {name: getattr(self, name) for name in self.__dataclass_fields__})

    @property
    def tunnel(self) -> str:
        """The address of the engine's API."""
        return f"{self.url}/api/tunnel/{self.instance_id}"

    def curls(self) -> tuple[str, str]:
        """Two commands to paste: the first reads from the engine, the second gives it something to run."""
        bearer = f'-H "Authorization: Bearer {self.api_key}"'
        sequence = {
            "id": str(uuid.uuid4()),
            "tenant_id": "demo",
            "namespace": "default",
            "name": f"hello-{uuid.uuid4().hex[:4]}",
            "version": 1,
            "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "blocks": [{"type": "step", "id": "hello", "handler": "log", "params": {"message": "hello"}}],
        }
        create = f"""{bearer} -H "Content-Type: application/json" -d '{json.dumps(sequence)}'"""
        return f"curl {self.tunnel}/sequences {bearer}", f"curl {self.tunnel}/sequences {create}"


class _Console(Console):
    """A console whose reader may go away: then it is silent, and the product runs on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Report:
    """Writes to a terminal with colour, and to anything else in plain lines."""

    def __init__(self, output: IO[str] | None = None, errors: IO[str] | None = None) -> None:
        self._out = _Console(file=output, highlight=False, soft_wrap=True)
        self._err = _Console(file=errors, stderr=errors is None, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A step of the start: its line, with its time, appears when it is done."""
        began = time.monotonic()
        yield
        self.done(what, time.monotonic() - began)

    def done(self, what: str, seconds: float) -> None:
        """The line of a step that is done."""
        self._out.print(Text.assemble(("✓", "green"), f" {what} ", (f"{seconds:.1f} s", "dim")))

    def ready(self, ready: Ready, options: Options) -> None:
        """Everything to begin with."""
        read, create = ready.curls()
        rows = {
            "Address": ready.url,
            "Organization": ready.org_id,
            "API key": ready.api_key,
            "Session (30 days)": f"Cookie: {ready.session_cookie}",
            "Instance": ready.instance_id,
            "Engine": ready.engine,
            "Data": str(options.data_dir),
            "Logs": str(options.logs),
        }
        self.say("")
        for label, value in rows.items():
            self._out.print(Text.assemble((f"{label:<{_LABEL_WIDTH}} ", "dim"), value))
        self.say("\nCall the engine through the tunnel:\n")
        self._out.print(Text(read, style="bold"))
        self.say("\nGive it a sequence to run:\n")
        self._out.print(Text(create))
        self.say("\nCtrl-C stops everything; the next run finds it all again.")

    def say(self, text: str) -> None:
        """A plain line."""
        self._out.print(Text(text))

    def problem(self, text: str) -> None:
        """What went wrong, on standard error."""
        self._err.print(Text(f"orch8-cloud: {text}"))
