"""The recipe of each run as it was written, and the overrides that were given to it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; runs that were recorded before have none of it."""
    op.add_column("runs", sa.Column("recipe_file", sa.String()))
    op.add_column("runs", sa.Column("recipe_text", sa.Text()))
    op.add_column("runs", sa.Column("overrides", sa.JSON()))


def downgrade() -> None:
    """Drop the columns."""
    for name in ("overrides", "recipe_text", "recipe_file"):
        op.drop_column("runs", name)
