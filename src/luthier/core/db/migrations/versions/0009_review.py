"""Queues of requests that are reviewed."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_ITEM = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables `review_queues`, `review_decisions` and `review_exports`."""
    op.create_table(
        "review_queues",
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("filled_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("project_id", name="pk_review_queues"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["annotation_projects.id"], name="fk_review_queues_project_id_annotation_projects"
        ),
    )
    op.create_table(
        "review_decisions",
        sa.Column("item_id", _ITEM, nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("opinion_by", sa.String(128), nullable=False),
        sa.Column("decided_by", sa.String(128), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("item_id", name="pk_review_decisions"),
        sa.ForeignKeyConstraint(
            ["item_id"], ["annotation_items.id"], name="fk_review_decisions_item_id_annotation_items"
        ),
    )
    op.create_index("ix_review_decisions_project_id", "review_decisions", ["project_id"])
    op.create_table(
        "review_exports",
        sa.Column("item_id", _ITEM, nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("exported_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("item_id", name="pk_review_exports"),
        sa.ForeignKeyConstraint(
            ["item_id"], ["annotation_items.id"], name="fk_review_exports_item_id_annotation_items"
        ),
    )
    op.create_index("ix_review_exports_project_id", "review_exports", ["project_id"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("review_exports")
    op.drop_table("review_decisions")
    op.drop_table("review_queues")
