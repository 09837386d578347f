"""Run by alembic for every command, on the connection that server.store.migrate hands over."""

from typing import Any, Literal

from alembic import context
from sqlalchemy.types import TypeEngine

from server.store.tables import metadata
from server.store.types import UtcDateTime


def _render(kind: str, item: Any, _context: object) -> str | Literal[False]:
    """Own column types by their own names in a written migration."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "UtcDateTime()"
    if kind == "type" and isinstance(item, TypeEngine) and type(item).__module__.startswith("sqlmodel"):
        return "sa.String()"
    return False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    render_item=_render,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
