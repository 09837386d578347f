"""How settings are read from the environment, and the error of a program that cannot start."""

import re
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSource

from server.domain.addresses import Address, Addresses, Collector
from server.domain.urls import is_loopback_name

PREFIX = "ORCH8_"


def _address(value: Any) -> Address:
    return value if isinstance(value, Address) else Address.parse(str(value))


# NoDecode: an address is plain text in the environment, not the JSON that pydantic-settings expects of a dataclass.
AddressSetting = Annotated[Address, NoDecode, BeforeValidator(_address), PlainSerializer(str)]


def _optional_address(value: Any) -> Address | None:
    return None if value in ("", None) else _address(value)


OptionalAddressSetting = Annotated[Address | None, NoDecode, BeforeValidator(_optional_address), PlainSerializer(str)]


def _addresses(value: Any) -> Addresses:
    return value if isinstance(value, Addresses) else Addresses.parse(str(value))


AddressesSetting = Annotated[Addresses, NoDecode, BeforeValidator(_addresses), PlainSerializer(str)]


def _collector(value: Any) -> Collector | None:
    if value in ("", None) or isinstance(value, Collector):
        return value or None
    return Collector.parse(str(value))


CollectorSetting = Annotated[Collector | None, NoDecode, BeforeValidator(_collector), PlainSerializer(str)]


class StartFailed(Exception):
    """A program cannot start. The message is one sentence for the operator; the command ends with exit code 2."""


class SettingsError(StartFailed):
    """Settings are missing or wrong. The message names the first variable and says what to write.

    `problems` has a message for each of them.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(problems[0])
        self.problems = problems


class Settings(BaseSettings):
    """Base of the settings of one program: frozen, read once, and what they mean is in each field's description."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    drain_delay: float = Field(
        0,
        ge=0,
        le=300,
        description="Seconds that it goes on serving once it is told to stop, while /readyz already answers 503.",
    )

    otlp_endpoint: CollectorSetting = Field(
        None,
        description="An OpenTelemetry collector for traces: grpc://HOST:4317 or http://HOST:4318 (grpcs, https: over "
        "TLS). Empty: no traces.",
    )
    trace_sample: float = Field(
        0.01, ge=0, le=1, description="Share of the requests traced that come without a trace of their own."
    )

    @classmethod
    def read(cls, **overrides: Any) -> Self:
        """Reads the environment; keyword arguments win. Raises SettingsError, in one sentence."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            found = map(_problem, error.errors(include_url=False, include_context=False))
            raise SettingsError(*found) from None
        except UnreadableSource as error:
            # Its own words name the field; those of its cause hold the value.
            raise SettingsError(f"{_named(str(error))}: must be JSON") from None

    @classmethod
    def describe(cls) -> str:
        """A Markdown table of all settings: variable, default, meaning."""
        rows = ["| variable | default | what it is |", "| --- | --- | --- |"]
        for name, field in sorted(cls.model_fields.items()):
            rows.append(f"| `{PREFIX}{name.upper()}` | {_default(field)} | {field.description} |")
        return "\n".join(rows)


class SharedSettings(Settings):
    """What server and proxy must both know, and be told alike."""

    public_url: str = Field(
        "http://localhost:8080", pattern=r"^https?://[^/?#]+$", description="The address by which the world knows us."
    )
    dev_allow_loopback: bool = Field(
        False, description="Development only: issuers and alert addresses may be this machine, and plain HTTP."
    )
    dev_discovery: dict[str, str] = Field(
        {}, description="Development only: per issuer, the address of its discovery document, as a JSON object."
    )

    @model_validator(mode="after")
    def _development(self) -> Self:
        host = urlsplit(self.public_url).hostname or ""
        if (self.dev_allow_loopback or self.dev_discovery) and not is_loopback_name(host):
            raise ValueError("the ORCH8_DEV_… switches work only where ORCH8_PUBLIC_URL is a loopback address")
        return self

    @property
    def calls_loopback(self) -> bool:
        """Whether addresses that users choose may be this machine."""
        return self.dev_allow_loopback or bool(self.dev_discovery)

    def switches(self) -> list[str]:
        """The development switches that are on, to be announced at start."""
        on = {"DEV_ALLOW_LOOPBACK": self.dev_allow_loopback, "DEV_DISCOVERY": bool(self.dev_discovery)}
        return [f"{PREFIX}{name}" for name, is_on in on.items() if is_on]


def _problem(error: ErrorDetails) -> str:
    name = "_".join(str(part) for part in error["loc"])
    what = "is required" if error["type"] == "missing" else error["msg"].removeprefix("Value error, ")
    return f"{PREFIX}{name.upper()}: {what}" if name else what


def _named(text: str) -> str:
    found = re.search(r'field "(\w+)"', text)
    return f"{PREFIX}{found[1].upper()}" if found else "a setting"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default()
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return "" if value in (None, "", (), {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"
