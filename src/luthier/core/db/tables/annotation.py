"""Annotation projects with items, assignments, answers and comments; queues of requests under review; ratings."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Double, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from luthier.core.db.tables.base import LedgerBase

_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")


class AnnotationProjectRow(LedgerBase):
    """One project."""

    __tablename__ = "annotation_projects"
    __table_args__ = (CheckConstraint("state IN ('open', 'closed')", name="state"), Index(None, "project"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str]
    project: Mapped[str]
    """The id of the recipe that it belongs to; empty where it belongs to none."""
    settings: Mapped[dict[str, Any]]
    """Without the questions and the guidelines, which are those of the version."""
    guideline_version: Mapped[int]
    order_version: Mapped[int]
    """Counts how often the order of the items changed: what people keep of their place in it no longer holds then."""
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(128))


class GuidelineRow(LedgerBase):
    """One version of the questions and the guidelines of a project."""

    __tablename__ = "annotation_guidelines"

    project_id: Mapped[str] = mapped_column(ForeignKey("annotation_projects.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str] = mapped_column(Text)
    questions: Mapped[dict[str, Any]]
    """The questions by name, in the order in which they are asked."""
    made_at: Mapped[datetime]
    made_by: Mapped[str] = mapped_column(String(128))


class AnnotationItemRow(LedgerBase):
    """One item. Its id is random, so that nobody learns from it which item is gold; rows lie in the order in which they
    came (SQLite would order them by an `INTEGER` key, and write the whole table anew for each few thousand)."""

    __tablename__ = "annotation_items"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'returned', 'busy', 'done', 'flagged', 'gold', 'removed')", name="state"),
        Index(None, "project_id", "key", unique=True),
        Index("ix_annotation_items_queue", "project_id", "state", "rank", "position"),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    project_id: Mapped[str] = mapped_column(ForeignKey("annotation_projects.id"))
    key: Mapped[str] = mapped_column(String(200))
    """What the item is called where it comes from."""
    position: Mapped[int]
    """Its number in the order in which items were added."""
    rank: Mapped[float] = mapped_column(Double)
    """Its priority with the sign turned, so that one index in one direction gives the order."""
    state: Mapped[str] = mapped_column(String(16))
    """`open`: somebody may still have it; `returned`: the same, but somebody gave it back; `busy`: as many have it as
    should; `done`: as many have answered as should; `flagged`: it waits for the owner; `gold`: the answer is known."""
    overlap: Mapped[int]
    """How many people should answer it."""
    answered: Mapped[int]
    leased: Mapped[int]
    shown: Mapped[dict[str, Any]]
    hidden: Mapped[dict[str, Any]]
    """What nobody who answers may see."""
    proposal: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    proposal_shown: Mapped[bool]
    gold: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    gold_at: Mapped[datetime | None]
    """Since when the answer is known."""
    probability: Mapped[float | None] = mapped_column(Double)
    """With which probability it was drawn."""
    added_at: Mapped[datetime]


class AssignmentRow(LedgerBase):
    """An item that a person has, or had."""

    __tablename__ = "annotation_assignments"
    __table_args__ = (
        CheckConstraint("state IN ('leased', 'answered', 'skipped', 'flagged', 'expired', 'released')", name="state"),
        Index("ix_annotation_assignments_expiry", "project_id", "state", "expires_at"),
        Index("ix_annotation_assignments_person", "project_id", "annotator", "state"),
    )

    item_id: Mapped[int] = mapped_column(ForeignKey("annotation_items.id"), primary_key=True, autoincrement=False)
    annotator: Mapped[str] = mapped_column(String(128), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    expires_at: Mapped[datetime]


class AnnotatorRow(LedgerBase):
    """What is counted of a person in a project, and how far the person has come in the order of its items."""

    __tablename__ = "annotation_annotators"

    project_id: Mapped[str] = mapped_column(ForeignKey("annotation_projects.id"), primary_key=True)
    annotator: Mapped[str] = mapped_column(String(128), primary_key=True)
    gold_right: Mapped[int]
    order_version: Mapped[int]
    """The order of the items in which the next two say a place: all before it, the person has or had."""
    rank: Mapped[float | None] = mapped_column(Double)
    position: Mapped[int | None]


class AnswerRow(LedgerBase):
    """One answer of a person about an item; what was undone or replaced stays, marked."""

    __tablename__ = "annotation_answers"
    __table_args__ = (
        CheckConstraint("kind IN ('answer', 'skip', 'flag')", name="kind"),
        CheckConstraint("state IN ('kept', 'undone', 'replaced')", name="state"),
        Index(None, "project_id", "annotator", "submission", unique=True),
        Index("ix_annotation_answers_item", "item_id", "annotator"),
        Index("ix_annotation_answers_person", "project_id", "annotator", "state", "decides", "id"),
        Index("ix_annotation_answers_given_at", "project_id", "given_at"),
    )

    id: Mapped[int] = mapped_column(_SEQUENCE, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("annotation_projects.id"))
    item_id: Mapped[int] = mapped_column(ForeignKey("annotation_items.id"))
    annotator: Mapped[str] = mapped_column(String(128))
    submission: Mapped[str] = mapped_column(String(64))
    """The id that the browser gave it: the same again is the same answer."""
    kind: Mapped[str] = mapped_column(String(8))
    values: Mapped[dict[str, Any]]
    comment: Mapped[str] = mapped_column(Text)
    seconds: Mapped[float | None] = mapped_column(Double)
    guideline_version: Mapped[int]
    late: Mapped[bool]
    """Whether the item was no longer the person's when it came."""
    proposal_shown: Mapped[bool]
    gold_right: Mapped[bool | None]
    """Whether it is the known answer; None where none is known."""
    decides: Mapped[bool]
    """Whether it is the word of the owner or a reviewer, which decides where people differed."""
    state: Mapped[str] = mapped_column(String(8))
    given_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    """When it was undone or replaced."""


class AnnotationCommentRow(LedgerBase):
    """One remark in the thread of an item."""

    __tablename__ = "annotation_comments"
    __table_args__ = (Index(None, "item_id"), Index(None, "project_id", "made_at"))

    id: Mapped[int] = mapped_column(_SEQUENCE, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("annotation_projects.id"))
    item_id: Mapped[int] = mapped_column(ForeignKey("annotation_items.id"))
    person: Mapped[str] = mapped_column(String(128))
    by_reviewer: Mapped[bool]
    """Whether all who have the item may read it, also before they have answered."""
    text: Mapped[str] = mapped_column(Text)
    made_at: Mapped[datetime]


class ReviewQueueRow(LedgerBase):
    """How one review queue is filled; its items and answers are those of its annotation project."""

    __tablename__ = "review_queues"

    project_id: Mapped[str] = mapped_column(ForeignKey("annotation_projects.id"), primary_key=True)
    settings: Mapped[dict[str, Any]]
    filled_at: Mapped[datetime | None]


_ITEM = BigInteger().with_variant(Integer, "sqlite")


class ReviewDecisionRow(LedgerBase):
    """Whose opinion of a request counts, where several people gave one."""

    __tablename__ = "review_decisions"
    __table_args__ = (Index(None, "project_id"),)

    item_id: Mapped[int] = mapped_column(
        _ITEM, ForeignKey("annotation_items.id"), primary_key=True, autoincrement=False
    )
    project_id: Mapped[str] = mapped_column(String(32))
    opinion_by: Mapped[str] = mapped_column(String(128))
    decided_by: Mapped[str] = mapped_column(String(128))
    decided_at: Mapped[datetime]


class ReviewExportRow(LedgerBase):
    """A verdict that was written into the traffic as feedback; the digest tells whether it is that of today."""

    __tablename__ = "review_exports"
    __table_args__ = (Index(None, "project_id"),)

    item_id: Mapped[int] = mapped_column(
        _ITEM, ForeignKey("annotation_items.id"), primary_key=True, autoincrement=False
    )
    project_id: Mapped[str] = mapped_column(String(32))
    digest: Mapped[str] = mapped_column(String(64))
    exported_at: Mapped[datetime]


class JudgmentRow(LedgerBase):
    """One judgment; of several by one judge on one item, the last counts."""

    __tablename__ = "judgments"
    __table_args__ = (Index(None, "assignment", "judge"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment: Mapped[str] = mapped_column(String(64))
    """Digest of the artifact that says what is asked."""
    item: Mapped[str] = mapped_column(String(32))
    judge: Mapped[str] = mapped_column(String(64))
    value: Mapped[Any] = mapped_column(JSON(none_as_null=False))
    """As the form keeps it; JSON's null where the judge passed."""
    comment: Mapped[str | None]
    seconds: Mapped[float | None] = mapped_column(Double)
    at: Mapped[datetime]
