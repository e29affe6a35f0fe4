"""Accounts, roles, invitations, attempts to log in, the audit log; whose sessions and keys are."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_ROLES = "role IN ('owner', 'editor', 'reviewer', 'labeller', 'viewer')"
_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables, and the columns `person` and `browser` of sessions and `owner` of keys."""
    op.create_table(
        "people",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("email", sa.String(256)),
        sa.Column("password", sa.String(256)),
        sa.Column("made_at", _MOMENT, nullable=False),
        sa.Column("removed_at", _MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_people"),
    )
    op.create_table(
        "identities",
        sa.Column("issuer", sa.String(256), nullable=False),
        sa.Column("subject", sa.String(256), nullable=False),
        sa.Column("person", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "subject", name="pk_identities"),
        sa.ForeignKeyConstraint(["person"], ["people.id"], name="fk_identities_person_people", ondelete="CASCADE"),
    )
    op.create_table(
        "roles",
        sa.Column("person", sa.String(64), nullable=False),
        sa.Column("project", sa.String(256), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("person", "project", name="pk_roles"),
        sa.ForeignKeyConstraint(["person"], ["people.id"], name="fk_roles_person_people", ondelete="CASCADE"),
        sa.CheckConstraint(_ROLES, name=op.f("ck_roles_role")),
    )
    op.create_table(
        "invitations",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("projects", sa.JSON(), nullable=False),
        sa.Column("made_by", sa.String(128), nullable=False),
        sa.Column("made_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.Column("used_at", _MOMENT),
        sa.Column("used_by", sa.String(64)),
        sa.PrimaryKeyConstraint("digest", name="pk_invitations"),
        sa.CheckConstraint(_ROLES, name=op.f("ck_invitations_role")),
    )
    op.create_table(
        "login_attempts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_login_attempts"),
    )
    op.create_index("ix_login_attempts_account_at", "login_attempts", ["account", "at"])
    op.create_index("ix_login_attempts_address_at", "login_attempts", ["address", "at"])
    op.create_table(
        "audit_subjects",
        sa.Column("reference", sa.String(16), nullable=False),
        sa.Column("person", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("reference", name="pk_audit_subjects"),
        sa.UniqueConstraint("person", name="uq_audit_subjects_person"),
    )
    op.create_table(
        "audit_entries",
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.Column("actor", sa.String(16), nullable=False),
        sa.Column("action", sa.String(128), nullable=False),
        sa.Column("project", sa.String(256), nullable=False),
        sa.Column("subject", sa.String(512), nullable=False),
        sa.Column("whom", sa.String(16), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("before", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit_entries"),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.bulk_insert(
        sa.table("audit_head", sa.column("id"), sa.column("number"), sa.column("digest")),
        [{"id": 1, "number": 0, "digest": "0" * 64}],
    )
    op.add_column("browser_sessions", sa.Column("person", sa.String(64)))
    op.add_column("browser_sessions", sa.Column("browser", sa.String(256)))
    op.create_index("ix_browser_sessions_person", "browser_sessions", ["person"])
    op.add_column("keys", sa.Column("owner", sa.String(128)))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("keys", "owner")
    op.drop_index("ix_browser_sessions_person", "browser_sessions")
    op.drop_column("browser_sessions", "browser")
    op.drop_column("browser_sessions", "person")
    for table in ("audit_head", "audit_entries", "audit_subjects", "login_attempts"):
        op.drop_table(table)
    for table in ("invitations", "roles", "identities", "people"):
        op.drop_table(table)
