"""Minutes of instances: how many requests there were, and what became of them."""

import sqlalchemy as sa
from alembic import op

from server.store.types import UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Goes one step on."""
    op.create_table(
        "instance_minutes",
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("minute", UtcDateTime(), nullable=False),
        sa.Column("allowed", sa.BigInteger(), nullable=False),
        sa.Column("denied", sa.BigInteger(), nullable=False),
        sa.Column("kinds", sa.JSON(), nullable=False),
        sa.Column("latency", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", "minute", name=op.f("pk_instance_minutes")),
    )
    with op.batch_alter_table("instance_minutes", schema=None) as batch_op:
        batch_op.create_index("ix_instance_minutes_minute", ["minute"], unique=False)


def downgrade() -> None:
    """Goes one step back."""
    with op.batch_alter_table("instance_minutes", schema=None) as batch_op:
        batch_op.drop_index("ix_instance_minutes_minute")

    op.drop_table("instance_minutes")
