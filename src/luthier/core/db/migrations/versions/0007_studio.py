"""Runs that wait for their turn, and browsers of the studio."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_STATES = "state IN ('queued', 'running', 'done', 'failed', 'interrupted', 'cancelled')"


def upgrade() -> None:
    """Make the tables `queued_runs` and `browser_sessions`."""
    op.create_table(
        "queued_runs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("recipe_file", sa.String(), nullable=False),
        sa.Column("overrides", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("position", sa.Double(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("stopped_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("process", sa.String()),
        sa.Column("run", sa.String(32)),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("error", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_queued_runs"),
        sa.CheckConstraint(_STATES, name=op.f("ck_queued_runs_state")),
    )
    op.create_index("ix_queued_runs_state_position", "queued_runs", ["state", "position"])
    op.create_index("ix_queued_runs_recipe_file_requested_at", "queued_runs", ["recipe_file", "requested_at"])
    op.create_table(
        "browser_sessions",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_browser_sessions"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("browser_sessions")
    op.drop_table("queued_runs")
