"""The settings of the server: the only reader of the environment on this side."""

import base64
import binascii
import hashlib
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from server.configuration import AddressSetting, OptionalAddressSetting, SettingsError, SharedSettings
from server.domain.addresses import Address
from server.domain.instances import Deadlines
from server.domain.plans import Plans, PlansInvalid

DATABASE_URL = re.compile(r"(sqlite:///.+|postgres(ql)?://\S+)?")
_ORIGIN = r"^https?://[^/?#\s]+$"
# docs, suspend and resume.
SUSPENDABLE_MB = 2048


def _secret_key(value: SecretStr) -> SecretStr:
    try:
        raw = base64.b64decode(value.get_secret_value(), validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 32:
        raise ValueError("must be 32 random bytes in base64; make one with: openssl rand -base64 32")
    return value


def _database_url(value: SecretStr) -> SecretStr:
    if DATABASE_URL.fullmatch(value.get_secret_value()) is None:
        raise ValueError("must be postgresql://USER:PASSWORD@HOST/NAME or sqlite:///PATH")
    return value


def read_plans(path: Path | None) -> Plans:
    """The plans of a file, or of the package. Raises SettingsError."""
    source = path or Path(__file__).parent / "plans.toml"
    try:
        return Plans.parse(source.read_text())
    except (OSError, PlansInvalid, UnicodeDecodeError) as error:
        raise SettingsError(f"ORCH8_PLANS_FILE {source}: {error}") from error


class FlySettings(SharedSettings):
    """Where engines run, and how they are laid out if that is Fly."""

    runtime: Literal["local", "fly"] = Field("local", description="Where engines run: `local` (this machine) or `fly`.")
    fly_api_token: SecretStr = Field(
        SecretStr(""), description="Token for Fly's Machines API, of the app alone at best."
    )
    fly_api_url: str = Field(
        "https://api.machines.dev",
        pattern=_ORIGIN,
        description="Fly's Machines API; inside Fly http://_api.internal:4280.",
    )
    fly_app: str = Field("", pattern=r"^([a-z0-9-]{1,62})?$", description="The Fly app in which all engines run.")
    fly_routing: Literal["pinned", "private"] = Field(
        "pinned", description="How engines are reached: `pinned` (through Fly's proxy) or `private` (its network)."
    )
    fly_public_url: str = Field(
        "", pattern=rf"({_ORIGIN})|^$", description="The app's address at Fly's proxy, for pinned routing."
    )
    fly_image: str = Field("", description="The engine's image, such as ghcr.io/orch8-io/engine:0.7.1.")
    fly_cpu_kind: Literal["shared", "performance"] = Field("shared", description="Kind of a machine's processors.")
    fly_cpus: int = Field(1, ge=1, le=16, description="Processors of a machine.")
    fly_memory_mb: int = Field(512, ge=256, le=131072, description="Memory of a machine, in MB.")
    fly_volume_gb: int = Field(1, ge=1, le=500, description="Size of a new engine's volume, in GB.")
    fly_engine_port: int = Field(8080, ge=1, le=65535, description="Where the engine listens in its machine.")
    fly_engine_env: dict[str, str] = Field({}, description="Further environment of the engines, as a JSON object.")
    fly_suspend: bool = Field(
        False, description="Whether a suspended instance keeps its memory too (2048 MB at most), to resume faster."
    )
    fly_rate: float = Field(
        1, gt=0, le=1000, description="Calls a second that Fly allows for each action on each machine."
    )

    @model_validator(mode="after")
    def _fly(self) -> Self:
        if self.runtime != "fly":
            return self
        needed = {"API_TOKEN": self.fly_api_token.get_secret_value(), "APP": self.fly_app, "IMAGE": self.fly_image}
        if self.fly_routing == "pinned":
            needed["PUBLIC_URL"] = self.fly_public_url
        for name, value in needed.items():
            if not value:
                raise ValueError(f"ORCH8_FLY_{name}: is required where ORCH8_RUNTIME is fly")
        if self.fly_suspend and self.fly_memory_mb > SUSPENDABLE_MB:
            raise ValueError(f"ORCH8_FLY_SUSPEND: Fly suspends machines of at most {SUSPENDABLE_MB} MB")
        return self


class ServerSettings(FlySettings):
    """What the control plane needs."""

    server_listen: AddressSetting = Field(
        Address.parse("127.0.0.1:50061"), description="Where the server listens (gRPC). Keep it away from the world."
    )
    server_metrics_listen: OptionalAddressSetting = Field(
        None, description="Where the server answers /healthz, /readyz and /metrics. Empty: nowhere."
    )
    data_dir: Path = Field(Path(".orch8"), description="Folder for the database and the local engines.")
    database_url: Annotated[SecretStr, AfterValidator(_database_url)] = Field(
        SecretStr(""),
        description="Database address: postgresql://USER:PASSWORD@HOST/NAME with what libpq takes, such as sslmode, or "
        "sqlite:////var/lib/orch8/orch8.db. Empty: orch8.db in the data folder.",
    )
    database_pool_size: int = Field(10, ge=2, le=1000, description="Connections to Postgres that are kept open.")
    database_pool_overflow: int = Field(10, ge=0, le=1000, description="How many more there may be under load.")
    database_pool_timeout: float = Field(
        5, gt=0, le=60, description="Seconds that a call waits for a connection before it answers 503."
    )
    database_connect_timeout: float = Field(5, gt=0, le=60, description="Seconds to connect to Postgres.")
    database_statement_timeout: float = Field(
        10, ge=0.1, le=600, description="Seconds that one statement may take on Postgres."
    )
    database_lock_timeout: float = Field(
        5, ge=0.1, le=600, description="Seconds that a statement waits for what another transaction holds on Postgres."
    )
    database_idle_timeout: float = Field(
        5, ge=1, le=600, description="Seconds after which Postgres ends a transaction in which nothing happens."
    )
    allowed_origins: tuple[str, ...] = Field(
        (), description="Origins of other sites whose pages may call the API with a session cookie, as JSON."
    )
    dataplane_token: SecretStr = Field(min_length=16, description="The secret that server and proxy share.")
    secret_key: Annotated[SecretStr, AfterValidator(_secret_key)] = Field(
        description="The key that seals secrets in the database: 32 bytes in base64."
    )
    supabase_url: str = Field(
        "", pattern=r"^(https?://[^/?#\s]+/?)?$", description="The Supabase project, whose public keys verify sessions."
    )
    supabase_jwt_secret: SecretStr = Field(
        SecretStr(""), description="The project's legacy shared secret (HS256), where it still signs with one."
    )
    session_cookie: str = Field(
        "", description="Name of the session cookie. Empty: derived from the Supabase URL as its clients do."
    )
    org_claim: str = Field("app_metadata.org_id", min_length=1, description="Claim path of the organization's id.")
    role_claim: str = Field("app_metadata.org_role", min_length=1, description="Claim path of the member's role.")
    plans_file: Path | None = Field(None, description="The plans, in TOML. Unset: those of the package.")
    default_plan: str = Field("free", description="The plan of new organizations.")
    traffic_limits: bool = Field(
        True, description="Whether the plans' rates of requests and numbers of streams are enforced."
    )
    engine_bin: Path | None = Field(
        None, description="The engine to run locally. Unset: orch8-server on the PATH, else the development engine."
    )
    ingest_url: str = Field(
        "",
        pattern=rf"({_ORIGIN})|^$",
        description="The address at which engines report their runs. Empty: ORCH8_PUBLIC_URL. Engines take https only, "
        "and without it report nothing; the development engine also takes http on this machine.",
    )
    orphans: Literal["report", "remove"] = Field(
        "report", description="What is done about engines of ours that belong to no instance: report or remove."
    )
    provisioning_deadline: float = Field(
        600, gt=0, description="Seconds within which a new instance must be ready; then it has failed."
    )
    transition_deadline: float = Field(
        300, gt=0, description="Seconds after which a suspend, resume or delete that goes on says what holds it up."
    )
    confirm_timeout: float = Field(
        5, gt=0, le=30, description="Seconds that a change waits for the proxies to confirm it."
    )

    @model_validator(mode="after")
    def _sessions(self) -> Self:
        if not self.supabase_url and not self.supabase_jwt_secret.get_secret_value():
            raise ValueError("set ORCH8_SUPABASE_URL or ORCH8_SUPABASE_JWT_SECRET: without one nobody can sign in")
        return self

    @property
    def deadlines(self) -> Deadlines:
        """How long transitions may take."""
        return Deadlines(
            provisioning=timedelta(seconds=self.provisioning_deadline),
            transition=timedelta(seconds=self.transition_deadline),
        )

    @property
    def report_to(self) -> str:
        """Where engines report their runs."""
        return self.ingest_url or self.public_url

    def plans(self) -> Plans:
        """The plans, among which the default one must be. Raises SettingsError."""
        plans = read_plans(self.plans_file)
        if self.default_plan not in plans:
            raise SettingsError(f"ORCH8_DEFAULT_PLAN: there is no plan named {self.default_plan!r}")
        return plans

    @property
    def installation(self) -> str:
        """Which installation this is, to those that share a place with it. All servers of one have the same key."""
        return hashlib.sha256(b"orch8-cloud installation " + self.key_bytes).hexdigest()[:16]

    @property
    def key_bytes(self) -> bytes:
        """The sealing key itself."""
        return base64.b64decode(self.secret_key.get_secret_value())

    @property
    def store_url(self) -> str:
        """The database address as the store takes it. Secret."""
        return self.database_url.get_secret_value() or f"sqlite:///{(self.data_dir / 'orch8.db').absolute()}"
