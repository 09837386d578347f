"""Usage by period, the periods of subscriptions, and events that are no instance's."""

import sqlalchemy as sa
from alembic import op

from server.store.types import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Goes one step on."""
    op.create_table(
        "usage",
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("period_start", UtcDateTime(), nullable=False),
        sa.Column("period_end", UtcDateTime(), nullable=False),
        sa.Column("executions", sa.BigInteger(), nullable=False),
        sa.Column("told_80", sa.BigInteger(), nullable=True),
        sa.Column("told_100", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["org_id"], ["organizations.id"], name=op.f("fk_usage_org_id_organizations")),
        sa.PrimaryKeyConstraint("org_id", "period_start", name=op.f("pk_usage")),
    )

    with op.batch_alter_table("organizations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("period_start", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("period_end", UtcDateTime(), nullable=True))

    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.alter_column("instance_id", existing_type=sa.String(), nullable=True)


def downgrade() -> None:
    """Goes one step back. Events that are no instance's have no place there."""
    op.execute("DELETE FROM events WHERE instance_id IS NULL")
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.alter_column("instance_id", existing_type=sa.String(), nullable=False)

    with op.batch_alter_table("organizations", schema=None) as batch_op:
        batch_op.drop_column("period_end")
        batch_op.drop_column("period_start")

    op.drop_table("usage")
