"""Where a process listens: a host and port, or a Unix socket."""

import ipaddress
from collections.abc import Iterator
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

    @property
    def is_name(self) -> bool:
        """Whether the host has to be asked of DNS, which may know several."""
        if self.is_unix:
            return False
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the replicas of a process listen, one or several: any of them will do."""

    each: tuple[Address, ...]

    @classmethod
    def parse(cls, text: str) -> "Addresses":
        """Reads addresses with commas between them. Raises ValueError with what to write instead."""
        each = tuple(dict.fromkeys(Address.parse(one.strip()) for one in text.split(",")))
        if len({one.is_unix for one in each}) > 1:
            raise ValueError("write either host:port for each of them, or unix:/path/to.sock for each")
        return cls(each)

    @property
    def may_be_several(self) -> bool:
        """Whether there is more than one, or a name behind which there may be."""
        return len(self.each) > 1 or any(one.is_name for one in self.each)

    def __iter__(self) -> Iterator[Address]:
        return iter(self.each)

    def __len__(self) -> int:
        return len(self.each)

    def __str__(self) -> str:
        return ",".join(map(str, self.each))


@dataclass(frozen=True, slots=True)
class Collector:
    """Where an OpenTelemetry collector takes traces: over gRPC or HTTP. OTLP sets ports and path."""

    address: Address
    grpc: bool
    tls: bool
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Collector":
        """Reads `grpc://host:4317` or `http://host:4318`, or grpcs, https. Raises ValueError with what to write."""
        scheme, separator, rest = text.partition("://")
        where, _, path = rest.partition("/")
        if scheme not in ("grpc", "grpcs", "http", "https") or not separator or not where or "@" in where:
            raise ValueError("write grpc://host:4317 or http://host:4318 (grpcs, https: over TLS)")
        grpc = scheme.startswith("grpc")
        has_port = ":" in where.rpartition("]")[2]
        address = Address.parse(where if has_port else f"{where}:{4317 if grpc else 4318}")
        return cls(address=address, grpc=grpc, tls=scheme.endswith("s"), path=path.strip("/"))

    @property
    def traces_path(self) -> str:
        """The path for traces over HTTP."""
        return f"/{self.path}/v1/traces" if self.path else "/v1/traces"

    @property
    def traces_url(self) -> str:
        """The address for traces over HTTP."""
        return f"{'https' if self.tls else 'http'}://{self.address}{self.traces_path}"

    def __str__(self) -> str:
        scheme = f"{'grpc' if self.grpc else 'http'}{'s' if self.tls else ''}"
        return f"{scheme}://{self.address}{f'/{self.path}' if self.path else ''}"
