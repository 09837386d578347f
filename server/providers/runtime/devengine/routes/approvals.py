"""Approvals: the steps that wait for somebody's input. They are answered by a signal to their instance."""

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from server.providers.runtime.devengine import bodies, tenants
from server.providers.runtime.devengine.definitions import Gate, gate_of, steps
from server.providers.runtime.devengine.engine import Engine
from server.providers.runtime.devengine.models import Instance, JsonObject, Sequence, State, timestamp
from server.providers.runtime.devengine.runner import INPUT


async def index(request: Request) -> Response:
    """What waits, of the newest instances first."""
    engine: Engine = request.app.state.engine
    limit, offset = bodies.page(request)
    filters = {"tenant_id": tenants.asked(request), "namespace": request.query_params.get("namespace")}
    waiting = engine.store.instances(filters, [State.WAITING], limit, offset)
    items = [item for instance in waiting for item in _items(engine, instance)]
    return JSONResponse({"items": items, "total": len(items)})


def _items(engine: Engine, instance: Instance) -> Iterator[JsonObject]:
    sequence = engine.store.sequence(instance.sequence_id)
    if sequence is None:
        return
    waiting = set(engine.store.open_gates(instance.id, INPUT))
    for step in steps(sequence.blocks):
        gate = gate_of(step)
        if gate is not None and step["id"] in waiting:
            until = engine.store.progress(instance.id, INPUT + step["id"]).wake_at
            yield _item(instance, sequence, step["id"], gate, until)


def _item(instance: Instance, sequence: Sequence, block_id: str, gate: Gate, until: float | None) -> JsonObject:
    since = instance.updated_at if until is None or gate.timeout_s is None else until - gate.timeout_s
    return {
        "instance_id": instance.id,
        "tenant_id": instance.tenant_id,
        "namespace": instance.namespace,
        "sequence_id": sequence.id,
        "sequence_name": sequence.name,
        "block_id": block_id,
        "prompt": gate.prompt,
        "choices": gate.choices,
        "store_as": gate.store_as,
        "timeout_seconds": None if gate.timeout_s is None else int(gate.timeout_s),
        "escalation_handler": None,
        "waiting_since": timestamp(since),
        "deadline": None if until is None else timestamp(until),
        "metadata": instance.metadata,
        "allow_comment": False,
    }


ROUTES = [Route("/approvals", index)]
