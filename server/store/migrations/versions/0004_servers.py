"""Servers, and what each knows of its proxies."""

import sqlalchemy as sa
from alembic import op

from server.store.types import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Goes one step on. Proxies of before belong to no server: they are waited for as those of a dead one."""
    op.create_table(
        "servers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_servers")),
    )
    with op.batch_alter_table("proxies", schema=None) as batch_op:
        batch_op.add_column(sa.Column("server_id", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("session", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("acked_version", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("connected", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.drop_column("seen_at")


def downgrade() -> None:
    """Goes one step back."""
    with op.batch_alter_table("proxies", schema=None) as batch_op:
        batch_op.add_column(sa.Column("seen_at", UtcDateTime(), nullable=False, server_default=sa.func.now()))
        batch_op.drop_column("connected")
        batch_op.drop_column("acked_version")
        batch_op.drop_column("session")
        batch_op.drop_column("server_id")

    op.drop_table("servers")
