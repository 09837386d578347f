"""Path templates of google.api.http, as Envoy matches them."""

import re

from rest_bridge.envoy.fragments import Json

SEGMENT = "[^/]+"
_VARIABLE = re.compile(r"\{[a-zA-Z_][a-zA-Z0-9_.]*(=\*)?\}")
_RANK_LITERAL, _RANK_PART, _RANK_ANY = range(3)


def _segments(template: str) -> list[str]:
    if not template.startswith("/"):
        raise ValueError(f"{template}: a path begins with /")
    segments = template.removeprefix("/").split("/")
    for segment in segments:
        if re.search(r"[{}*]", _VARIABLE.sub("", segment)):
            raise ValueError(f"{template}: a variable spans exactly one segment, as in {{instance_id}}")
    return segments


def regex(template: str) -> str:
    """The whole path that a template matches, as a regular expression. A variable is one segment."""

    def one(segment: str) -> str:
        literals = (re.escape(segment[start:end]) for start, end in _literals(segment))
        return SEGMENT.join(literals)

    return "/" + "/".join(one(segment) for segment in _segments(template))


def _literals(segment: str) -> list[tuple[int, int]]:
    """Where the literal text around the variables of a segment begins and ends."""
    bounds = [0, *(edge for match in _VARIABLE.finditer(segment) for edge in match.span()), len(segment)]
    return list(zip(bounds[::2], bounds[1::2], strict=True))


def matcher(template: str) -> Json:
    """The part of a route's match that compares the path."""
    if _VARIABLE.search(template):
        return {"safe_regex": {"regex": regex(template)}}
    _segments(template)
    return {"path": template}


def precedence(template: str) -> tuple[tuple[int, str], ...]:
    """Sorts templates so that the first match is the most specific: a literal segment before a variable one."""

    def rank(segment: str) -> int:
        if not _VARIABLE.search(segment):
            return _RANK_LITERAL
        return _RANK_ANY if _VARIABLE.fullmatch(segment) else _RANK_PART

    return tuple((rank(segment), segment) for segment in _segments(template))
