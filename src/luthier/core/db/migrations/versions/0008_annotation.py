"""Projects of items that people answer questions about."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ITEM_STATES = "state IN ('open', 'returned', 'busy', 'done', 'flagged', 'gold', 'removed')"
_ASSIGNMENT_STATES = "state IN ('leased', 'answered', 'skipped', 'flagged', 'expired', 'released')"
_TABLES = (
    "annotation_comments",
    "annotation_answers",
    "annotation_annotators",
    "annotation_assignments",
    "annotation_items",
    "annotation_guidelines",
    "annotation_projects",
)


def upgrade() -> None:
    """Make the tables."""
    moment, text = sa.DateTime(timezone=True), sa.String
    op.create_table(
        "annotation_projects",
        sa.Column("id", text(32), nullable=False),
        sa.Column("name", text(), nullable=False),
        sa.Column("project", text(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("guideline_version", sa.Integer(), nullable=False),
        sa.Column("order_version", sa.Integer(), nullable=False),
        sa.Column("state", text(16), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("created_by", text(128), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_annotation_projects"),
        sa.CheckConstraint("state IN ('open', 'closed')", name=op.f("ck_annotation_projects_state")),
    )
    op.create_index("ix_annotation_projects_project", "annotation_projects", ["project"])
    op.create_table(
        "annotation_guidelines",
        sa.Column("project_id", text(32), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("questions", sa.JSON(), nullable=False),
        sa.Column("made_at", moment, nullable=False),
        sa.Column("made_by", text(128), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "version", name="pk_annotation_guidelines"),
        _belongs_to_project("annotation_guidelines"),
    )
    op.create_table(
        "annotation_items",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("project_id", text(32), nullable=False),
        sa.Column("key", text(200), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Double(), nullable=False),
        sa.Column("state", text(16), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("answered", sa.Integer(), nullable=False),
        sa.Column("leased", sa.Integer(), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("hidden", sa.JSON(), nullable=False),
        sa.Column("proposal", sa.JSON()),
        sa.Column("proposal_shown", sa.Boolean(), nullable=False),
        sa.Column("gold", sa.JSON()),
        sa.Column("gold_at", moment),
        sa.Column("probability", sa.Double()),
        sa.Column("added_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_annotation_items"),
        sa.CheckConstraint(_ITEM_STATES, name=op.f("ck_annotation_items_state")),
        _belongs_to_project("annotation_items"),
    )
    op.create_index("ix_annotation_items_project_id_key", "annotation_items", ["project_id", "key"], unique=True)
    op.create_index("ix_annotation_items_queue", "annotation_items", ["project_id", "state", "rank", "position"])
    op.create_table(
        "annotation_assignments",
        sa.Column("item_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("annotator", text(128), nullable=False),
        sa.Column("project_id", text(32), nullable=False),
        sa.Column("state", text(16), nullable=False),
        sa.Column("expires_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("item_id", "annotator", name="pk_annotation_assignments"),
        sa.CheckConstraint(_ASSIGNMENT_STATES, name=op.f("ck_annotation_assignments_state")),
        _belongs_to_item("annotation_assignments"),
    )
    expiry, person = ["project_id", "state", "expires_at"], ["project_id", "annotator", "state"]
    op.create_index("ix_annotation_assignments_expiry", "annotation_assignments", expiry)
    op.create_index("ix_annotation_assignments_person", "annotation_assignments", person)
    op.create_table(
        "annotation_annotators",
        sa.Column("project_id", text(32), nullable=False),
        sa.Column("annotator", text(128), nullable=False),
        sa.Column("gold_right", sa.Integer(), nullable=False),
        sa.Column("order_version", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Double()),
        sa.Column("position", sa.Integer()),
        sa.PrimaryKeyConstraint("project_id", "annotator", name="pk_annotation_annotators"),
        _belongs_to_project("annotation_annotators"),
    )
    op.create_table(
        "annotation_answers",
        sa.Column("id", _SEQUENCE, nullable=False),
        sa.Column("project_id", text(32), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("annotator", text(128), nullable=False),
        sa.Column("submission", text(64), nullable=False),
        sa.Column("kind", text(8), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double()),
        sa.Column("guideline_version", sa.Integer(), nullable=False),
        sa.Column("late", sa.Boolean(), nullable=False),
        sa.Column("proposal_shown", sa.Boolean(), nullable=False),
        sa.Column("gold_right", sa.Boolean()),
        sa.Column("decides", sa.Boolean(), nullable=False),
        sa.Column("state", text(8), nullable=False),
        sa.Column("given_at", moment, nullable=False),
        sa.Column("ended_at", moment),
        sa.PrimaryKeyConstraint("id", name="pk_annotation_answers"),
        sa.CheckConstraint("kind IN ('answer', 'skip', 'flag')", name=op.f("ck_annotation_answers_kind")),
        sa.CheckConstraint("state IN ('kept', 'undone', 'replaced')", name=op.f("ck_annotation_answers_state")),
        _belongs_to_project("annotation_answers"),
        _belongs_to_item("annotation_answers"),
    )
    once = ["project_id", "annotator", "submission"]
    op.create_index("ix_annotation_answers_project_id_annotator_submission", "annotation_answers", once, unique=True)
    person = ["project_id", "annotator", "state", "decides", "id"]
    op.create_index("ix_annotation_answers_item", "annotation_answers", ["item_id", "annotator"])
    op.create_index("ix_annotation_answers_person", "annotation_answers", person)
    op.create_index("ix_annotation_answers_given_at", "annotation_answers", ["project_id", "given_at"])
    op.create_table(
        "annotation_comments",
        sa.Column("id", _SEQUENCE, nullable=False),
        sa.Column("project_id", text(32), nullable=False),
        sa.Column("item_id", sa.BigInteger(), nullable=False),
        sa.Column("person", text(128), nullable=False),
        sa.Column("by_reviewer", sa.Boolean(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("made_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_annotation_comments"),
        _belongs_to_project("annotation_comments"),
        _belongs_to_item("annotation_comments"),
    )
    op.create_index("ix_annotation_comments_item_id", "annotation_comments", ["item_id"])
    op.create_index("ix_annotation_comments_project_id_made_at", "annotation_comments", ["project_id", "made_at"])


def _belongs_to_project(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_project_id_annotation_projects"
    return sa.ForeignKeyConstraint(["project_id"], ["annotation_projects.id"], name=name)


def _belongs_to_item(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["item_id"], ["annotation_items.id"], name=f"fk_{table}_item_id_annotation_items")


def downgrade() -> None:
    """Drop them."""
    for table in _TABLES:
        op.drop_table(table)
