"""Events of more than instances, and what of them was dropped."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SUBJECTS = ("deployment_id", "policy_id", "run_id")


def upgrade() -> None:
    """Goes one step on."""
    with op.batch_alter_table("events", schema=None) as batch_op:
        for name in SUBJECTS:
            batch_op.add_column(sa.Column(name, sa.String(), nullable=True))

    op.create_table(
        "event_floors",
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("floor", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("org_id", name=op.f("pk_event_floors")),
    )


def downgrade() -> None:
    """Goes one step back."""
    op.drop_table("event_floors")
    with op.batch_alter_table("events", schema=None) as batch_op:
        for name in reversed(SUBJECTS):
            batch_op.drop_column(name)
