"""The smallest engine: a script in the place of orch8-server, with health, version and something to remember."""

import os
import signal
import stat
import sys
from pathlib import Path

SCRIPT = """#!{python}
import json, os, pathlib, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

if "--version" in sys.argv:
    print("orch8 9.8.7")
    sys.exit(0)
trouble = os.environ.get("PYTHON_STAND_IN", "")
if trouble == "fails":
    print("the wheels came off", os.environ["ORCH8_API_KEY"])
    sys.exit(3)
if trouble == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
database = pathlib.Path(os.environ["ORCH8_DATABASE_URL"].removeprefix("sqlite://"))
if not database.exists():
    database.write_text("1")
print("argv", sys.argv)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if trouble == "never-ready":
            self.send_response(503)
        else:
            self.send_response(200)
        self.end_headers()
        known = {{name: value for name, value in os.environ.items() if name.startswith("ORCH8_")}}
        self.wfile.write(json.dumps(known).encode())

    def log_message(self, *_):
        pass

host, _, port = os.environ["ORCH8_HTTP_ADDR"].rpartition(":")
HTTPServer((host, int(port)), Handler).serve_forever()
"""


def install(folder: Path, name: str = "orch8-server") -> Path:
    """Writes the script, executable, into the folder."""
    folder.mkdir(exist_ok=True)
    script = folder / name
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        os.kill(pid, 0)
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
