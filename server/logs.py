"""Structured logs: one JSON line each, on standard error."""

import logging
import sys

import structlog


def configure(level: int = logging.INFO) -> None:
    """Sets up structlog for a whole program. Exceptions come with their traceback, as one field."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
