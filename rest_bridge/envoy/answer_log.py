"""What became of each request that was let pass, as short lines that the edge reads itself (answers.py).

A file, since another thread of Envoy writes it now and then, hundreds of lines at once: measured, a request costs no
more CPU with it than without. Envoy's gRPC access log service, which fills a large message for each answer, cost 17 %
more in one of two runs.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from rest_bridge.answers import Row, Tally, minute_of
from rest_bridge.envoy.fragments import Json, extension
from rest_bridge.envoy.streams import DECISION, PASS
from server.domain.answers import NOT_ANSWERED, Answers, bucket_of, kind_of

# The pass begins with the instance's id, which ends within so many bytes.
_ID = 46
# What Envoy says of an answer that is the engine's own.
_ENGINES_OWN = b"via_upstream"
# The last one: when the answer began to leave, in microseconds after the request's first byte.
_FIELDS = (
    f"%DYNAMIC_METADATA({DECISION}:{PASS}):{_ID}%",
    "%RESPONSE_CODE%",
    "%RESPONSE_CODE_DETAILS%",
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
    """Counts what whole lines say, in seconds since 1970 now. Most lines differ in their last field only."""
    alike: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for line in lines:
        head, _, began = line.rpartition(b"\t")
        alike[head].append(began)
    for head, waits in alike.items():
        row = _row(head.split(b"\t"), waits, minute_of(now))
        if row is not None:
            into.add([row])


def _row(head: list[bytes], waits: list[bytes], minute: int) -> Row | None:
    if len(head) != len(_FIELDS) - 1 or not head[1].isdigit():
        return None
    passed, status, details = head
    kind = _kind(int(status), details)
    # An answer without a beginning is none: the caller had left.
    latency = Counter(bucket_of(int(wait) / 1000) for wait in waits if wait.isdigit())
    if kind is None or not latency:
        return None
    answers = Answers(kinds=Counter({kind: latency.total()}), latency=latency)
    return Row(instance_id=passed.split(b" ", 1)[0].decode("latin-1"), minute=minute, answers=answers)


def _kind(status: int, details: bytes) -> str | None:
    """A 5xx that is not the engine's stands for its answer; what breaks off later has begun with its status."""
    return NOT_ANSWERED if status >= 500 and details != _ENGINES_OWN else kind_of(status)
