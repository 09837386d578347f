"""One line on stderr per thing that happens. Keys and secrets never come here."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("devengine")


class _Lines(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        # The request log is read by machines in either mode.
        if self._as_json or "status" in fields:
            line = {"at": at, "level": record.levelname.lower(), "message": record.getMessage(), **fields}
            if record.exc_info:
                line["error"] = "".join(traceback.format_exception(*record.exc_info))
            return json.dumps(line, default=str)
        text = " ".join([at, record.levelname, record.getMessage(), *(f"{k}={v}" for k, v in fields.items())])
        return text + "\n" + self.formatException(record.exc_info) if record.exc_info else text


def configure(*, as_json: bool) -> None:
    """Sends the log to stderr, the web server's own complaints included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(as_json=as_json))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    LOGGER.setLevel(logging.INFO)


def info(message: str, **fields: object) -> None:
    """Writes what happened, with the fields that tell it apart."""
    LOGGER.info(message, extra={"fields": fields})


def warn(message: str, **fields: object) -> None:
    """Writes what went wrong outside of the engine."""
    LOGGER.warning(message, extra={"fields": fields})
