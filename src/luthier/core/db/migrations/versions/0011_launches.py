"""Jobs that runs handed to schedulers."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table `launches`."""
    op.create_table(
        "launches",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("executor", sa.String(64), nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("store", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("artifact", sa.String(64), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("run", sa.String(32)),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_launches"),
        sa.CheckConstraint("state IN ('submitted', 'done', 'failed', 'cancelled')", name=op.f("ck_launches_state")),
    )
    op.create_index("ix_launches_job_state", "launches", ["job", "state"])
    op.create_index("ix_launches_recipe_folder_state", "launches", ["recipe", "folder", "state"])
    op.create_index("ix_launches_submitted_at", "launches", ["submitted_at"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("launches")
