"""What became of each request that was let pass, as short lines that the edge reads itself (answers.py).

Of the ways that Envoy has to tell us of each answer this one costs it the least: a file, which another thread of its
own writes now and then, hundreds of lines at once. Its gRPC access log service takes a multiple, for it fills a large
message for each; so does a callback in Lua.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from rest_bridge.answers import Tally
from rest_bridge.envoy.fragments import Json, extension
from rest_bridge.envoy.streams import DECISION, PASS
from server.domain.answers import NOT_ANSWERED, kind_of

# The pass begins with the instance's id, which ends within so many bytes.
_ID = 46
_NEVER = b"-"
# When the engine's answer began to arrive, and when ours began to leave: microseconds after the request's first byte.
_FIELDS = (
    f"%DYNAMIC_METADATA({DECISION}:{PASS}):{_ID}%",
    "%RESPONSE_CODE%",
    "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%",
    "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%",
)


def answer_log(path: Path) -> Json:
    """The log. Only what was let pass has a pass, and is in it."""
    line = "\t".join(_FIELDS) + "\n"
    kind = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
    log_format = {"text_format_source": {"inline_string": line}}
    log = extension("envoy.access_loggers.file", kind, path=str(path), log_format=log_format)
    passed = {"filter": DECISION, "path": [{"key": PASS}], "value": {"present_match": True}}
    only = {"metadata_filter": {"matcher": passed, "match_if_key_not_found": False}}
    return {**log, "filter": only}


def tally(lines: Iterable[bytes], into: Tally, now: float) -> None:
    """Counts what whole lines say, in seconds since 1970 now."""
    for line, many in Counter(lines).items():
        fields = line.split(b"\t")
        if len(fields) == len(_FIELDS):
            _count(fields, many, into, now)


def _count(fields: list[bytes], many: int, into: Tally, now: float) -> None:
    passed, status, answered, began = fields
    # Without a beginning the caller had left before there was anything to answer.
    if not (status.isdigit() and began.isdigit()):
        return
    kind = kind_of(int(status)) if answered != _NEVER else NOT_ANSWERED if int(status) >= 500 else None
    if kind is not None:
        into.count(passed.split(b" ", 1)[0].decode("latin-1"), kind, int(began) / 1000, now, many)
