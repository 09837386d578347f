"""The proxy's log: one JSON line on standard error for each event of its life, none for requests."""

import sys

import structlog
from structlog.typing import FilteringBoundLogger

from server.logs import processors


def life_cycle_log(proxy_id: str) -> FilteringBoundLogger:
    """A logger of its own, so that nothing depends on how the rest of the process logs."""
    log: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=processors("proxy"),
        wrapper_class=structlog.make_filtering_bound_logger("INFO"),
    )
    return log.bind(proxy_id=proxy_id)
