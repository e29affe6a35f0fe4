"""Uploaded files and fine-tuning jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATES = "state IN ('validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')"


def upgrade() -> None:
    """Make the tables `files` and `jobs`."""
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64)),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_index("ix_files_key_made_at", "files", ["key", "made_at"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64)),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("wish", sa.JSON(), nullable=False),
        sa.Column("settled", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON()),
        sa.Column("process", sa.String()),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("artifact", sa.String(64)),
        sa.Column("model", sa.String(128)),
        sa.Column("result_file", sa.String(64)),
        sa.Column("trained_tokens", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.CheckConstraint(_STATES, name=op.f("ck_jobs_state")),
    )
    op.create_index("ix_jobs_key_made_at", "jobs", ["key", "made_at"])
    op.create_index("ix_jobs_state", "jobs", ["state"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("jobs")
    op.drop_table("files")
