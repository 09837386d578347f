"""The settings of the edge (Envoy) and of the proxy: the only reader of the environment on this side."""

from pathlib import Path

from pydantic import Field, FilePath, SecretStr

from server.configuration import AddressesSetting, AddressSetting, OptionalAddressSetting, Settings, SharedSettings
from server.domain.addresses import Address, Addresses

SERVER = Address.parse("127.0.0.1:50061")
PROXY = Address.parse("127.0.0.1:8081")
STREAMS = Address.parse("127.0.0.1:8082")
_SERVERS = (
    "Where the servers listen (gRPC): one address or several with commas between them, or a name that has several."
)


class EdgeSettings(Settings):
    """What Envoy needs: where to listen, and where server and proxy are."""

    listen: AddressSetting = Field(Address.parse("127.0.0.1:8080"), description="Where the world reaches the service.")
    server_addr: AddressesSetting = Field(Addresses((SERVER,)), description=_SERVERS)
    proxy_addr: AddressesSetting = Field(
        Addresses((PROXY,)), description="Where the proxies listen: one address or several, as for the servers."
    )
    streams_addr: AddressesSetting = Field(
        Addresses((STREAMS,)), description="Where the proxies watch the answers that go on for long (gRPC)."
    )
    edge_admin_addr: AddressSetting = Field(
        Address.parse("127.0.0.1:9901"), description="Envoy's own administration. Keep it away from the world."
    )
    edge_metrics_listen: OptionalAddressSetting = Field(
        None, description="Where the edge answers /healthz, /readyz and /metrics. Empty: nowhere."
    )
    tls_cert_file: Path | None = Field(None, description="Certificate chain (PEM). With it the edge speaks TLS only.")
    tls_key_file: Path | None = Field(None, description="Private key (PEM) of the certificate.")
    allowed_origins: tuple[str, ...] = Field(
        (),
        description='Origins of other sites whose pages may call the API (CORS), as JSON: ["https://app.example.com"].',
    )
    envoy_bin: FilePath | None = Field(None, description="An Envoy to run instead of the packaged one.")
    envoy_concurrency: int = Field(2, ge=1, le=64, description="Envoy's worker threads.")
    busy_from: int = Field(
        10,
        ge=0,
        description="Requests in 0.1 s from which a worker repeats decisions, where the proxy lets it (EDGE_LEASE).",
    )
    access_log: bool = Field(
        True, description="Whether the edge logs each request as a JSON line to its standard output."
    )


class ProxySettings(SharedSettings):
    """What the proxy needs: where to listen, the server, and how long it may go on without it."""

    proxy_listen: AddressSetting = Field(PROXY, description="Where the proxy listens.")
    streams_listen: AddressSetting = Field(
        STREAMS, description="Where the proxy watches the answers that Envoy carries (gRPC). Unused with --direct."
    )
    proxy_metrics_listen: OptionalAddressSetting = Field(
        None, description="Where the proxy answers /healthz, /readyz and /metrics. Empty: nowhere."
    )
    server_addr: AddressesSetting = Field(Addresses((SERVER,)), description=_SERVERS)
    dataplane_token: SecretStr = Field(min_length=16, description="The secret that server and proxy share.")
    proxy_id: str = Field("", max_length=128, description="Names this proxy; two at once must differ. Empty: random.")
    stale_limit: float = Field(
        60, ge=0, le=3600, description="Seconds for which the proxy serves what it knows while the server is away."
    )
    edge_lease: float = Field(
        0.2,
        ge=0,
        le=2,
        description="Seconds for which a busy Envoy may repeat decisions; a revocation may answer so much later.",
    )
    decision_sample: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of the requests let in whose decision is recorded, less under load; refusals always are.",
    )
    session_cookie: str = Field(
        "sb-orch8-auth-token", description="Name of the session cookie, which no engine may see."
    )
    engine_connect_timeout: float = Field(5, gt=0, le=60, description="Seconds to connect to an engine.")
    engine_idle_timeout: float = Field(
        300, gt=0, le=3600, description="Seconds without a byte after which a tunnelled request ends with 504."
    )
