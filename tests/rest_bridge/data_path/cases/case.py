"""What a row of the table says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.rest_bridge.data_path.wire import request
from tests.rest_bridge.proxy.cases import ENGINE_KEY, KEY, PREFIX, bearer

PLAIN = "/api/tunnel/inst_plain"
ANYBODY = "/api/tunnel/inst_anonymous"
HOOK = "/api/gateway/inst_hooks"
REALM = 'Bearer realm="orch8-cloud"'
BAD_TOKEN = f'{REALM}, error="invalid_token"'
AS_KEY = {"x-gateway-provider": "api-key", "x-gateway-subject": PREFIX, "x-api-key": ENGINE_KEY}
AS_ANYBODY = {"x-gateway-provider": "anonymous", "x-gateway-subject": "anon", "x-api-key": ENGINE_KEY}
BY_KEY = (bearer(KEY),)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request and what becomes of it.

    `reason` None: the engine answered, having seen `sees`, `engine_path` and `engine_body`, and not `lacks`.
    `answers` and `hides` are headers of the answer. `undecided`: it is refused before anybody is asked, without a
    decision's id. `reached`: the engine was asked, and broke.
    `instead` is what one of the paths does otherwise, (path, status, reason, engine path), with `because` saying why.
    """

    name: str
    path: str = ""
    method: str = "GET"
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    raw: bytes | None = None
    status: int = 200
    reason: str | None = None
    engine_path: str | None = None
    engine_body: bytes | None = None
    sees: Mapping[str, str] = field(default_factory=dict)
    lacks: Sequence[str] = ()
    challenge: str | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    hides: Sequence[str] = ()
    signed: bool = False
    undecided: bool = False
    reached: bool = False
    instead: tuple[str, int, str | None, str | None] | None = None
    because: str = ""

    @property
    def request(self) -> bytes:
        return self.raw or request(self.path, self.headers, self.body, method=self.method)


def refused(name: str, path: str, status: int, reason: str, *headers: tuple[str, str], **more: object) -> Case:
    """A request that does not pass."""
    return Case(name=name, path=path, status=status, reason=reason, headers=headers, **more)  # type: ignore[arg-type]


def passes(name: str, path: str, *headers: tuple[str, str], **more: object) -> Case:
    """A request that reaches the engine."""
    return Case(name=name, path=path, headers=headers, **more)  # type: ignore[arg-type]
