"""Which instance a path names, and what the engine is asked. Paths are raw: percent-encoding stays as it came."""

import re
from dataclasses import dataclass

_TARGET = re.compile(
    rb"/api/(?:tunnel/(inst_[a-z0-9]{1,40})(?:/(.*))?|gateway/(inst_[a-z0-9]{1,40})/([A-Za-z0-9._~-]{1,255}))",
    re.DOTALL,
)
_FORBIDDEN = re.compile(rb"%2f|%5c|%00|[\\\x00]", re.IGNORECASE)
_NEEDS_WORK = re.compile(rb"/\.|/%2e", re.IGNORECASE)


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
    """Resolves dot segments, as Envoy's normalize_path does. Double slashes stay: an engine's path is its own.

    Raises BadPath for escaped slashes and the like, which Envoy rejects too.
    """
    if _FORBIDDEN.search(path) or not path.startswith(b"/"):
        raise BadPath
    if not _NEEDS_WORK.search(path):
        return path
    return _without_dots(path)


def _without_dots(path: bytes) -> bytes:
    """RFC 3986, 5.2.4; an escaped dot is a dot."""
    segments = path[1:].split(b"/")
    kept: list[bytes] = []
    for segment in segments:
        plain = segment.lower().replace(b"%2e", b".")
        if plain == b"..":
            del kept[-1:]
        elif plain != b".":
            kept.append(segment)
    ends_in_dots = segments[-1].lower().replace(b"%2e", b".") in (b".", b"..")
    return b"/" + b"/".join(kept) + (b"/" if ends_in_dots and kept else b"")
