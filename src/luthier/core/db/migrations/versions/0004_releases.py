"""Releases of models under names."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table `releases`."""
    op.create_table(
        "releases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(128), nullable=False),
        sa.Column("did", sa.String(16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stable", sa.JSON(), nullable=False),
        sa.Column("canary", sa.JSON()),
        sa.Column("shadow", sa.JSON()),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("before", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_releases"),
    )
    op.create_index("ix_releases_alias", "releases", ["alias"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("releases")
