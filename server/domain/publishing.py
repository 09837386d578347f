"""A template as the `orch8` command line reads one from a catalog, for an engine that is not ours.

Nobody fills in our placeholders there, so the sequence holds what the engine itself understands: the defaults, for
other texts `{{context.config.x}}`, and examples of what can be neither, which its user then edits.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from server.domain.sequences import blocks
from server.domain.templates import Template, defaults, fields, render, required

SCHEMA_VERSION = 1
SEQUENCE_SCHEMA = "https://orch8.io/contracts/sequence.schema.json"
MIN_ENGINE_VERSION = "0.7.1"
# The engine's built-in handlers at that version. Every other name is a worker's.
BUILT_IN = frozenset(
    {
        "agent",
        "assert",
        "blob_get",
        "blob_put",
        "delete_state",
        "embed",
        "emit_event",
        "fail",
        "get_state",
        "http_request",
        "human_review",
        "llm_call",
        "log",
        "mcp_call",
        "memory_search",
        "memory_store",
        "merge_state",
        "noop",
        "query_instance",
        "self_modify",
        "send_signal",
        "set_state",
        "sleep",
        "tool_call",
        "transform",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """A worker that a sequence needs."""

    handler: str
    queue: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A template for an engine of one's own."""

    template: Template
    builtin: tuple[str, ...]
    workers: tuple[Worker, ...]
    requires: tuple[str, ...]
    sequence: Mapping[str, Any]


def publish(template: Template) -> Published:
    """The entry of a template in the catalog."""
    config = {**{name: _stand_in(template, name) for name in required(template)}, **defaults(template)}
    credentials = {secret.name: secret.name for secret in template.secrets if secret.required}
    body = render(template, config=config, credentials=credentials, name=template.name)
    steps = [block for block in blocks(body) if block["type"] == "step"]
    handlers = sorted({str(step["handler"]) for step in steps})
    workers = {step["handler"]: str(step.get("queue_name") or "default") for step in steps}
    return Published(
        template=template,
        builtin=tuple(handler for handler in handlers if handler in BUILT_IN),
        workers=tuple(
            Worker(handler=handler, queue=workers[handler]) for handler in handlers if handler not in BUILT_IN
        ),
        requires=tuple(_requires(template)),
        sequence={"$schema": SEQUENCE_SCHEMA, "schema_version": SCHEMA_VERSION, **body},
    )


def _stand_in(template: Template, name: str) -> Any:
    field = fields(template)[name]
    return f"{{{{context.config.{name}}}}}" if field["type"] == "string" else field["examples"][0]


def _requires(template: Template) -> Iterator[str]:
    for name in sorted(required(template)):
        field = fields(template)[name]
        where = (
            f"context.config.{name}" if field["type"] == "string" else f"{name}, an example of which is in the blocks"
        )
        yield f"{where}: {field['description']}"
    for secret in template.secrets:
        if secret.required:
            yield f"A credential with the id {secret.name}: {secret.description}"
    if template.trigger["type"] == "schedule":
        yield "A schedule (POST /api/v1/cron), if it shall start by itself."
