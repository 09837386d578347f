"""What the user asked for, and what follows from it."""

from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of `orch8-cloud up`. All paths are absolute: the parts may run in other folders."""

    port: int
    data_dir: Path
    ready_file: Path | None = None
    plan: str | None = None

    @property
    def url(self) -> str:
        """The address of everything."""
        return f"http://localhost:{self.port}"

    @property
    def keyring(self) -> Path:
        """The secrets that this folder's services share."""
        return self.data_dir / "secrets.json"

    @property
    def lock(self) -> Path:
        """Held while `up` runs."""
        return self.data_dir / "up.lock"

    @property
    def logs(self) -> Path:
        """What the parts log."""
        return self.data_dir / "logs"
