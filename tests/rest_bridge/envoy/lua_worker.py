"""remembered.lua in a LuaJIT of the tests: a clock that is set, and answers that come in any order."""

from dataclasses import dataclass
from typing import Any

from lupa import luajit21

from rest_bridge.envoy.fragments import Json
from rest_bridge.envoy.remembered import repeat

INSTANCE = "inst_a"
SEED = "ab" * 12
_CLOCK = "local clock = monotonic()"
# What the filter uses of Envoy's handle. A question yields, as in Envoy, and is answered by resuming.
_ENVOY = """
function begin(method, path, given)
  local request = {headers = {[":method"] = method, [":path"] = path}, decision = {}}
  for name, value in pairs(given) do
    request.headers[name] = value
  end
  local headers = {}
  function headers:get(name) return request.headers[name] end
  function headers:getNumValues(name) return request.headers[name] and 1 or 0 end
  function headers:remove(name) request.headers[name] = nil end
  function headers:replace(name, value) request.headers[name] = assert(value) end
  local metadata = {set = function(_, _, key, value) request.decision[key] = value end}
  local info = {dynamicMetadata = function() return metadata end}
  local handle = {}
  function handle:headers() return headers end
  function handle:streamInfo() return info end
  function handle:clearRouteCache() end
  function handle:httpCall(_, question, body, _, asynchronous)
    request.question, request.body = question, body
    if asynchronous then return nil end
    return coroutine.yield()
  end
  request.thread = coroutine.create(function() envoy_on_request(handle) end)
  assert(coroutine.resume(request.thread))
  return request
end
function answer(request, status, body)
  request.body = nil
  assert(coroutine.resume(request.thread, {[":status"] = status}, body))
end
"""


@dataclass
class Request:
    """One request in the filter."""

    lua: Any

    @property
    def waits(self) -> bool:
        """Whether it waits for the proxy."""
        return self.asks is not None

    @property
    def asks(self) -> str | None:
        """What it said to the proxy, until that answers."""
        said: str | None = self.lua.body
        return said

    @property
    def asks_about_itself(self) -> bool:
        return bool(self.lua.question is not None and self.lua.question["x-orch8-asked"] is not None)

    @property
    def passed(self) -> bool:
        """Whether it is decided, so that ext_authz is not asked."""
        return bool(self.lua.decision["x-orch8-pass"] is not None)

    def header(self, name: str) -> str | None:
        value: str | None = self.lua.headers[name]
        return value

    def told(self, name: str) -> str | None:
        value: str | None = self.lua.decision[name]
        return value


class Worker:
    """One worker of a busy Envoy. Times are in milliseconds."""

    def __init__(self) -> None:
        self._lua = luajit21.LuaRuntime()
        source = _source(repeat(busy_from=0, logged=True))
        assert _CLOCK in source
        self._lua.execute(source.replace(_CLOCK, "local clock = function() return NOW end"))
        self._lua.execute(_ENVOY)
        self._now = self._lua.globals()
        self._now.NOW = 1000.0

    def passes(self, milliseconds: float) -> None:
        self._now.NOW += milliseconds

    def request(self, credential: str = "Bearer k", instance: str = INSTANCE, **headers: str) -> Request:
        given = {"authorization": credential, **headers}
        return Request(self._now.begin("GET", f"/api/tunnel/{instance}/x", self._lua.table_from(given)))

    def answer(self, request: Request, *lines: str, status: int = 200) -> None:
        assert request.waits
        self._now.answer(request.lua, str(status), "\n".join(lines))

    def has_a_lease(self, version: int = 10, lease: int = 200) -> None:
        """Asks for one, and gets it."""
        first = self.request("Bearer somebody")
        self.answer(first, leased(version, lease, reset=True))

    def learns(self, credential: str = "Bearer k", *, version: int = 10, **entry_fields: Any) -> None:
        """Sees a credential twice, and is told the decision about it."""
        self.request(credential)
        second = self.request(credential)
        self.answer(second, leased(version), entry(**entry_fields))
        assert second.passed


def leased(version: int, lease: int = 200, *, reset: bool = False, sample: float = 0.0) -> str:
    return f"v {version} {lease} {int(reset)} {sample} {SEED}"


def entry(
    *,
    fresh: int = 10_000,
    good: int = 12_000,
    whose: str = f"{INSTANCE} org_a key_1 -",
    key: str = "aa",
    terms: str = "- - - - -",
    subject: str = "orc8_live_12345678",
) -> str:
    fixed = ("e", "dec_1", str(fresh), str(good), whose, key, terms, "a pass", "authorization,x-orch8-signature")
    return "\t".join((*fixed, "x-orch8-cluster", "engine_http", "x-gateway-subject", subject, "x-api-key", "engine"))


def _source(filter_: Json) -> str:
    return str(filter_["typed_config"]["default_source_code"]["inline_string"])
