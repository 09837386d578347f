"""Runs as engines report them, and the keys with which they do."""

import sqlalchemy as sa
from alembic import op

from server.store.types import UtcDateTime

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Goes one step on."""
    op.create_table(
        "runs",
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("org_id", sa.String(), nullable=False),
        sa.Column("sequence", sa.String(), nullable=False),
        sa.Column("sequence_version", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("step_id", sa.String(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("error_kind", sa.String(), nullable=True),
        sa.Column("sub_tenant", sa.String(), nullable=True),
        sa.Column("transitions", sa.String(), nullable=False),
        sa.Column("cut", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("instance_id", "run_id", name=op.f("pk_runs")),
        postgresql_with={"fillfactor": 70},
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index("ix_runs_org_id_started_at", ["org_id", "started_at"], unique=False)
        batch_op.create_index("ix_runs_instance_id_started_at", ["instance_id", "started_at"], unique=False)

    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ingest_key", sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column("ingest_sha256", sa.LargeBinary(), nullable=True))
        batch_op.create_index("uq_instances_ingest_sha256", ["ingest_sha256"], unique=True)


def downgrade() -> None:
    """Goes one step back."""
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.drop_index("uq_instances_ingest_sha256")
        batch_op.drop_column("ingest_sha256")
        batch_op.drop_column("ingest_key")

    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.drop_index("ix_runs_instance_id_started_at")
        batch_op.drop_index("ix_runs_org_id_started_at")

    op.drop_table("runs")
