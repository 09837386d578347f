"""Structured logs: one JSON line each, on standard error."""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor


def processors(part: str) -> list[Processor]:
    """What every line of a part passes. What is bound to the context of a call or step is in all its lines."""

    def name_part(_logger: object, _method: str, line: EventDict) -> EventDict:
        line["part"] = part
        return line

    return [
        structlog.contextvars.merge_contextvars,
        name_part,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]


def adopt(name: str, part: str) -> None:
    """Has what a library logs by itself come out as our own lines do."""
    handler = logging.StreamHandler(sys.stderr)
    *shared, last = processors(part)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=last, foreign_pre_chain=shared))
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [handler], False


def configure(part: str, level: int = logging.INFO) -> None:
    """Sets up structlog for a whole program. Exceptions come with their traceback, as one field."""
    structlog.configure(
        processors=processors(part),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
