"""Records of decisions, and counts of requests by the minute."""

import sqlalchemy as sa
from alembic import op

from server.store.types import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Goes one step on."""
    op.create_table(
        "decisions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    with op.batch_alter_table("decisions", schema=None) as batch_op:
        batch_op.create_index("ix_decisions_at", ["at"], unique=False)
        batch_op.create_index("ix_decisions_org_id_at_size", ["org_id", "at", "size"], unique=False)

    op.create_table(
        "traffic",
        sa.Column("minute", UtcDateTime(), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "instance_id", "key_id", "policy_id", "status", name=op.f("pk_traffic")),
    )


def downgrade() -> None:
    """Goes one step back."""
    op.drop_table("traffic")
    with op.batch_alter_table("decisions", schema=None) as batch_op:
        batch_op.drop_index("ix_decisions_org_id_at_size")
        batch_op.drop_index("ix_decisions_at")

    op.drop_table("decisions")
