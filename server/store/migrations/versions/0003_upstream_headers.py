"""The request headers by which an engine is reached."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Goes one step on."""
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.add_column(sa.Column("upstream_headers", sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    """Goes one step back."""
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.drop_column("upstream_headers")
