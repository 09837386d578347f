"""Where a process listens: a host and port, or a Unix socket."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """`unix:/path/to.sock`, or a host and TCP port (0: any free one)."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Reads `unix:/path` or `host:port` (IPv6 hosts in brackets). Raises ValueError with what to write instead."""
        if text.startswith("unix:/"):
            return cls(path=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
            raise ValueError("write host:port, such as 127.0.0.1:8080, or unix:/path/to.sock")
        return cls(host=host.strip("[]"), port=int(port))

    @property
    def is_unix(self) -> bool:
        """Whether this is a Unix socket."""
        return bool(self.path)

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
