"""Which instance a path names, and what the engine is asked. Paths are raw: percent-encoding stays as it came."""

import re
from dataclasses import dataclass

_TARGET = re.compile(
    rb"/api/(?:tunnel/(inst_[a-z0-9]{1,40})(?:/(.*))?|gateway/(inst_[a-z0-9]{1,40})/([A-Za-z0-9._~-]{1,255}))",
    re.DOTALL,
)
_FORBIDDEN = re.compile(rb"%2f|%5c|\x00", re.IGNORECASE)
_NEEDS_WORK = re.compile(rb"/\.|[%\\\"<>^`{|}]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})|(%)")
_UNRESERVED = re.compile(rb"[A-Za-z0-9._~-]")
_NOT_IN_PATHS = re.compile(rb"[\"<>^`{|}]")
# Some programs read ..; as .. and so do we, before anything else.
_DOTS_WITH_PARAMETERS = re.compile(rb"(?<=/)(\.{1,2});[^/]*")
_DOTS = (b".", b"..")
# Stands for a % that begins no escape while others are undone. No path holds it.
_STRAY = b"\x00"


class BadPath(Exception):
    """The path could be read in two ways."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PathTarget:
    """A tunnel path (slug None) or a gateway path, and the path that the engine is asked for."""

    instance_id: str
    slug: str | None
    engine_path: bytes


def parse(path: bytes) -> PathTarget | None:
    """Reads a normalized path. None where it is neither a tunnel nor a gateway path."""
    match = _TARGET.fullmatch(path)
    if match is None:
        return None
    tunnel, rest, gateway, slug = match.groups()
    if tunnel is not None:
        return PathTarget(instance_id=tunnel.decode(), slug=None, engine_path=b"/" + (rest or b""))
    return PathTarget(instance_id=gateway.decode(), slug=slug.decode(), engine_path=b"/webhooks/" + slug)


def normalize(path: bytes) -> bytes:
    """One reading of a path, the same as Envoy's normalize_path gives (a test compares them).

    Backslashes become slashes, needless escapes are undone and missing ones made, dot segments resolved. Double slashes
    stay: an engine's path is its own. Raises BadPath for an escaped slash and the like, which Envoy rejects too.
    """
    if _FORBIDDEN.search(path) or not path.startswith(b"/"):
        raise BadPath
    if not _NEEDS_WORK.search(path):
        return path
    plain = _DOTS_WITH_PARAMETERS.sub(rb"\1", path)
    if b"%00" in plain:
        raise BadPath
    return _without_dots(_escaped_once(plain.replace(b"\\", b"/")))


def _escaped_once(path: bytes) -> bytes:
    """What needs no escape has none, what needs one has it, and undoing one makes no other."""
    undone = _ESCAPE.sub(_unescaped, path)
    whole = re.sub(_STRAY + rb"(?=[0-9A-Fa-f]{2})", b"%25", undone).replace(_STRAY, b"%")
    return _NOT_IN_PATHS.sub(lambda match: b"%%%02X" % match[0][0], whole)


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match[2]:
        return _STRAY
    character = bytes([int(match[1], 16)])
    return character if _UNRESERVED.fullmatch(character) else match[0]


def _without_dots(path: bytes) -> bytes:
    """RFC 3986, 5.2.4."""
    segments = path[1:].split(b"/")
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    return b"/" + b"/".join(kept) + (b"/" if segments[-1] in _DOTS and kept else b"")
