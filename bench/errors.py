"""How a run fails."""


class BenchFailed(Exception):
    """The run cannot be finished, or its figures would be worth nothing. The message says why, for people."""
