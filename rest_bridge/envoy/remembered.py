"""Decisions that Envoy repeats by itself, for as long as the proxy lets it (remembered.lua)."""

from rest_bridge.envoy import headers
from rest_bridge.envoy.clusters import PROXY
from rest_bridge.envoy.fragments import Json, lua
from rest_bridge.envoy.streams import DECISION, PASS

NAME = "orch8.remembered"


def repeat(busy_from: int, *, logged: bool) -> Json:
    """The filter. It stands before ext_authz, which decides about whatever it leaves undecided.

    `busy_from`: so many requests in 0.1 s make a worker busy. `logged`: a log of requests tells whose they are.
    """
    values = {
        "BUSY": str(busy_from),
        "PROXY": PROXY,
        "DECISION": DECISION,
        "PASS": PASS,
        "DECISION_ID": headers.DECISION_ID,
        "ORG": headers.ORG,
        "INSTANCE": headers.INSTANCE,
        "LOGGED": str(logged).lower(),
    }
    return lua("remembered.lua", NAME, **values)


def undecided() -> Json:
    """Whether a request is undecided, as a matcher: only a decision leaves a pass, and no caller can."""
    return {"filter": DECISION, "path": [{"key": PASS}], "value": {"present_match": True}, "invert": True}
