"""Runs of recipes and their steps."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables `runs` and `run_steps`."""
    op.create_table(
        "runs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("recipe_digest", sa.String(64), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("error", sa.JSON()),
        sa.Column("process", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.CheckConstraint("state IN ('running', 'done', 'failed', 'interrupted')", name=op.f("ck_runs_state")),
    )
    op.create_index("ix_runs_recipe_folder_started_at", "runs", ["recipe", "folder", "started_at"])
    op.create_index("ix_runs_state", "runs", ["state"])
    op.create_table(
        "run_steps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("artifact", sa.String(64), nullable=False),
        sa.Column("cached", sa.Boolean(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_run_steps"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_steps_run_id_runs", ondelete="CASCADE"),
    )
    op.create_index("ix_run_steps_run_id_name", "run_steps", ["run_id", "name"], unique=True)
    op.create_index("ix_run_steps_artifact", "run_steps", ["artifact"])


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("run_steps")
    op.drop_table("runs")
