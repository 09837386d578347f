"""What the routes work with, put together in one place."""

import hmac
import json
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from server.providers.runtime.devengine.errors import InvalidArgument, NotFound, TooLarge
from server.providers.runtime.devengine.models import Instance, JsonObject, Sequence, State, Trigger
from server.providers.runtime.devengine.runner import Runner
from server.providers.runtime.devengine.sealing import Sealer
from server.providers.runtime.devengine.settings import Settings
from server.providers.runtime.devengine.store import Store

VERSION = "0.7.1+dev"
MAX_CONTEXT_BYTES = 256 * 1024


@dataclass(kw_only=True, slots=True)
class RateLimit:
    """Counts per key within one second of the clock."""

    per_second: int
    _second: int = 0
    _counts: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def take(self, *key: str) -> bool:
        """Whether one more is within the limit."""
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._counts.clear()
        self._counts[key] += 1
        return self._counts[key] <= self.per_second


@dataclass(kw_only=True, slots=True)
class Engine:
    """The parts of a running engine."""

    settings: Settings
    store: Store
    sealer: Sealer
    runner: Runner
    webhook_limit: RateLimit
    open_streams: int = 0

    def check_key(self, given: str) -> bool:
        """Whether this is the engine's key, in constant time."""
        return hmac.compare_digest(given.encode(), self.settings.api_key.encode())

    def trigger_secret(self, trigger: Trigger) -> str | None:
        """The secret of a trigger, if it has one."""
        if trigger.sealed_secret is None:
            return None
        return self.sealer.open(trigger.sealed_secret, f"trigger:{trigger.slug}")

    def new_instance(self, sequence: Sequence, *, context: JsonObject, **fields: Any) -> Instance:
        """An instance of a sequence, not yet stored. Raises TooLarge for a context above 256 KiB."""
        size = len(json_bytes(context))
        if size > MAX_CONTEXT_BYTES:
            raise TooLarge(f"context is {size} bytes, the limit is {MAX_CONTEXT_BYTES}")
        now = time.time()
        defaults: JsonObject = {
            "namespace": sequence.namespace,
            "metadata": None,
            "priority": "Normal",
            "timezone": "UTC",
            "next_fire_at": None,
            "idempotency_key": None,
        }
        return Instance(
            id=str(uuid.uuid4()),
            sequence_id=sequence.id,
            tenant_id=sequence.tenant_id,
            state=State.SCHEDULED,
            context=context,
            current_step=0,
            error=None,
            created_at=now,
            updated_at=now,
            **{**defaults, **fields},
        )

    def fired(self, trigger: Trigger, data: Any, source: str) -> Instance:
        """The instance that a trigger starts, not yet stored. Raises NotFound when its sequence is gone."""
        sequence = self.store.sequence_named(
            trigger.tenant_id, trigger.namespace, trigger.sequence_name, trigger.version
        )
        if sequence is None:
            raise NotFound(f"sequence {trigger.sequence_name} in namespace {trigger.namespace}")
        metadata = {"source": source, "trigger": trigger.slug}
        return self.new_instance(sequence, context=context_of({"data": data}), metadata=metadata)


def context_of(given: JsonObject) -> JsonObject:
    """A whole execution context from the sections that were given. Raises InvalidArgument."""
    config = given.get("config")
    if config is not None and not isinstance(config, dict):
        raise InvalidArgument("context.config must be an object")
    return {"data": given.get("data", {}), "config": config or {}, "audit": [], "runtime": {}}


def json_bytes(value: Any) -> bytes:
    """The value as compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
