"""The few shapes that every part of an Envoy configuration repeats."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from server.domain.addresses import Address

LUA = "envoy.filters.http.lua"

Json = dict[str, Any]


def typed(kind: str, /, **config: Any) -> Json:
    """An extension's configuration, by the name of its message."""
    return {"@type": f"type.googleapis.com/{kind}", **config}


def extension(name: str, kind: str, /, **config: Any) -> Json:
    """A named extension with its configuration."""
    return {"name": name, "typed_config": typed(kind, **config)}


def lua(file: str, name: str = LUA, **values: str) -> Json:
    """A Lua filter whose code is in a file of this package. `{{NAME}}` in it becomes the value of that name."""
    source = files("rest_bridge.envoy").joinpath(file).read_text()
    for key, value in values.items():
        source = source.replace("{{" + key + "}}", value)
    return extension(name, "envoy.extensions.filters.http.lua.v3.Lua", default_source_code={"inline_string": source})


def lua_string(text: str) -> str:
    """Text as a literal of Lua, in which nothing has to be escaped."""
    if "]==]" in text:
        raise ValueError("the text would end its own literal")
    return f"[==[{text}]==]"


def duration(seconds: float) -> str:
    """Seconds, as protobuf JSON writes a Duration."""
    return f"{seconds:g}s"


def socket(address: Address) -> Json:
    """Where to listen or connect to. Sockets that Envoy makes are for this user only."""
    if address.is_unix:
        return {"pipe": {"path": address.path, "mode": 0o600}}
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def set_headers(headers: Mapping[str, str]) -> list[Json]:
    """Headers that replace those of the same name. A `%` in a value begins a command of Envoy's."""
    return [
        {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for name, value in headers.items()
    ]
