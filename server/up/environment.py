"""The user's environment, handed on to the processes that `up` starts."""

import os


def inherited_environment() -> dict[str, str]:
    """All of it: settings of the user's own, such as ORCH8_STALE_LIMIT, reach the parts that read them."""
    return dict(os.environ)
