"""Threads of remarks about items: what people asked, and what was answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from luthier.core.db import Ledger
from luthier.core.errors import InputError, SourceLocation, UnknownName

if TYPE_CHECKING:
    from luthier.core.db.tables.annotation import AnnotationCommentRow

_LONGEST = 10_000


@dataclass(frozen=True)
class AnnotationComment:
    """One remark about an item."""

    item: int
    person: str
    by_reviewer: bool
    """Whether all who have the item may read it before they answer."""
    text: str
    made_at: datetime


def add_comment(
    ledger: Ledger, project_id: str, item: int, person: str, text: str, *, by_reviewer: bool = False
) -> None:
    """Add a remark to an item; who is no reviewer must have the item, or have had it."""
    from luthier.core.db.tables.annotation import AnnotationCommentRow, AnnotationItemRow, AssignmentRow

    if not text.strip() or len(text) > _LONGEST:
        raise InputError(f"a remark has 1 to {_LONGEST:,} characters", where=SourceLocation(field="text"))
    with ledger.writing() as session:
        item_row = session.get(AnnotationItemRow, item)
        has = by_reviewer or session.get(AssignmentRow, (item, person)) is not None
        if item_row is None or item_row.project_id != project_id or not has:
            raise UnknownName("there is no such item")
        session.add(
            AnnotationCommentRow(
                project_id=project_id, item_id=item, person=person, by_reviewer=by_reviewer, text=text.strip(),
                made_at=datetime.now(UTC),
            )
        )  # fmt: skip


def list_comments(ledger: Ledger, project_id: str, items: Sequence[int]) -> dict[int, list[AnnotationComment]]:
    """All remarks about some items, in the order in which they were made; for reviewers."""
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import AnnotationCommentRow

    row = AnnotationCommentRow
    query = select(row).where(row.project_id == project_id, row.item_id.in_(items)).order_by(row.id)
    found: dict[int, list[AnnotationComment]] = {}
    with ledger.reading() as session:
        for comment_row in session.scalars(query):
            found.setdefault(comment_row.item_id, []).append(_to_comment(comment_row))
    return found


def read_thread(ledger: Ledger, project_id: str, item: int, person: str) -> list[AnnotationComment]:
    """What a person who has an item may read of its thread: before the person has answered, the person's own remarks
    and those of reviewers, since others' may tell their answers; afterwards all."""
    from luthier.core.db.tables.annotation import AssignmentRow

    with ledger.reading() as session:
        assignment = session.get(AssignmentRow, (item, person))
        state = None if assignment is None else assignment.state
    if state is None:
        return []
    thread = list_comments(ledger, project_id, [item]).get(item, [])
    return [comment for comment in thread if state == "answered" or comment.by_reviewer or comment.person == person]


def _to_comment(row: AnnotationCommentRow) -> AnnotationComment:
    return AnnotationComment(row.item_id, row.person, row.by_reviewer, row.text, row.made_at)
