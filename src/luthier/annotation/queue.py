"""The queue of a project's items: who gets which next, and what becomes of answers.

Every call is one transaction. On SQLite writers wait for one another; on PostgreSQL the row of an item is locked while
it is given out, and who finds it locked takes the next. Locks are taken in one order: the person, the item, the
assignment.

No call looks at all items. Items wait in the order of an index; a person's row keeps how far the person has come in
it, so that items which the person has answered already are not gone over again. An item that comes back (skipped,
released, not answered in time) is `returned`: those are few, and are looked through first.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from luthier.annotation.project import (
    AnnotationProject,
    are_sides_swapped,
    get_project,
    item_from_json,
    item_table,
    iterate_batches,
    load_project,
)
from luthier.annotation.question import AnswerValue, InvalidAnswer, QuestionItem
from luthier.core.db import Ledger
from luthier.core.errors import InputError, SourceLocation, UnknownName

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from luthier.core.db.tables.annotation import AnnotationItemRow, AnnotatorRow, AnswerRow, AssignmentRow

AnswerKind = Literal["answer", "skip", "flag"]
_HAS_OR_HAD = ("leased", "answered", "skipped", "flagged")
"""States of an assignment with which a person does not get the item again; not so `expired` and `released`."""
_QUEUED = ("open", "returned", "busy", "done")
_BATCH = 500
_FETCHED = 2000


class LeasedItem(NamedTuple):
    """An item as the person sees it who has it."""

    id: int
    shown: QuestionItem
    proposal: Mapping[str, AnswerValue] | None
    """The answer of a model, by question; None where there is none or it is hidden."""
    guideline_version: int
    expires_at: datetime
    previous: Mapping[str, AnswerValue] | None = None
    """What the person answered before, where that was undone."""


class AnswerSubmission(BaseModel):
    """What a person sends about an item."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: Annotated[str, Field(min_length=8, max_length=64)]
    """Made by the browser: the same id again is the same answer, and is kept once."""
    item: int
    values: dict[str, Any] = {}
    """The answer to each question by its name."""
    kind: AnswerKind = "answer"
    comment: Annotated[str, Field(max_length=10_000)] = ""
    seconds: Annotated[float | None, Field(ge=0)] = None
    """How long it took."""
    guideline_version: int | None = None
    """The version of the guidelines that the person saw; None: the present one."""


class SubmitOutcome(NamedTuple):
    """What became of an answer."""

    kept: bool
    """Whether this call kept it."""
    late: bool
    """Whether the item was no longer the person's; such an answer is kept and marked."""
    duplicate: bool
    """Whether it had been kept before."""


class QueueProgress(NamedTuple):
    """How many items of a project are in which state."""

    waiting: int
    """Items that are not answered by as many people as they should be."""
    done: int
    flagged: int
    gold: int
    answers: int
    """Answers that count, skips and flags aside."""

    @property
    def items(self) -> int:
        """Items that are to be answered."""
        return self.waiting + self.done + self.flagged


class PersonProgress(NamedTuple):
    """How far a person has come."""

    answered: int
    qualified: bool
    gold_left: int
    """How many known answers must still be found before the person is qualified."""


@dataclass(frozen=True)
class Answer:
    """One answer that counts."""

    item: int
    key: str
    """What the item is called where it comes from."""
    annotator: str
    kind: AnswerKind
    values: Mapping[str, AnswerValue]
    comment: str
    seconds: float | None
    guideline_version: int
    given_at: datetime
    late: bool
    proposal_shown: bool
    gold_right: bool | None
    """Whether it is the known answer; None where none is known."""


class AnnotationQueue:
    """The items of one project as people get them, and their answers."""

    def __init__(self, ledger: Ledger, project_id: str) -> None:
        self._ledger, self.project_id = ledger, project_id

    def next_item(self, annotator: str, *, held: Collection[int] = ()) -> LeasedItem | None:
        """Give a person an item; None when there is none for that person.

        A person who has an item already gets it again, unless it is among the `held` ones, which the person's browser
        has; so a page that is loaded anew goes on where it was, and several items can be fetched ahead.
        """
        with self._ledger.writing() as session:
            project = load_project(session, self.project_id)
            if project.state != "open":
                return None
            now = datetime.now(UTC)
            expires_at = now + timedelta(minutes=project.settings.lease_minutes)
            person = self._person(session, annotator)
            self._expire(session, now)
            item = self._held_before(session, annotator, held, expires_at)
            if item is None and (item := self._choose(session, person, project)) is not None:
                self._assign(session, item, annotator, expires_at)
            return None if item is None else _leased(item, project, expires_at, annotator)

    def give_item(self, annotator: str, item: int) -> LeasedItem:
        """Give a person one certain item, also of a closed project; `UnknownName` where there is none."""
        with self._ledger.writing() as session:
            project, item_row = load_project(session, self.project_id), self._item(session, item)
            expires_at = datetime.now(UTC) + timedelta(minutes=project.settings.lease_minutes)
            self._person(session, annotator)
            if self._assignment(session, item, annotator) is None:
                self._assign(session, item_row, annotator, expires_at)
            return _leased(item_row, project, expires_at, annotator)

    def submit(self, annotator: str, submission: AnswerSubmission) -> SubmitOutcome:
        """Keep an answer, on the disk when this returns; `InputError` where the questions do not accept it.

        A second answer of the same person about the same item replaces the first.
        """
        with self._ledger.writing(durable=True) as session:
            person = self._person(session, annotator)
            if (answer_row := self._submitted(session, annotator, submission.id)) is not None:
                return SubmitOutcome(kept=False, late=answer_row.late, duplicate=True)
            item = self._item(session, submission.item)
            assignment = self._assignment(session, item.id, annotator)
            if assignment is None:
                raise UnknownName("this item was not given to you")
            return self._keep(session, person, item, assignment, submission)

    def _keep(
        self,
        session: Session,
        person: AnnotatorRow,
        item: AnnotationItemRow,
        assignment: AssignmentRow,
        submission: AnswerSubmission,
    ) -> SubmitOutcome:
        from luthier.core.db.tables.annotation import AnnotationCommentRow, AnswerRow

        project = load_project(session, self.project_id)
        shown, now = item_from_json(item.shown), datetime.now(UTC)
        try:
            visible = _shown_to(item, project, person.annotator)
            values = project.settings.check(submission.values, visible) if submission.kind == "answer" else {}
        except InvalidAnswer as error:
            raise InputError(str(error), where=SourceLocation(field="values")) from error
        values = _mirror(values, item, project, person.annotator)
        late = assignment.state in ("expired", "released") or (
            assignment.state == "leased" and assignment.expires_at < now
        )
        if (before := self._last_answer(session, person.annotator, item.id)) is not None:
            self._take_back(before, person, item, assignment, "replaced", now)
        is_gold = item.gold is not None
        right = (
            project.settings.agrees(values, item.gold or {}, shown) if is_gold and submission.kind == "answer" else None
        )
        version = project.guideline_version if submission.guideline_version is None else submission.guideline_version
        session.add(
            AnswerRow(
                project_id=self.project_id, item_id=item.id, annotator=person.annotator, submission=submission.id,
                kind=submission.kind, values=values, comment=submission.comment, seconds=submission.seconds,
                guideline_version=min(max(version, 1), project.guideline_version), late=late,
                proposal_shown=item.proposal_shown, gold_right=right, decides=False, state="kept", given_at=now,
            )
        )  # fmt: skip
        if submission.comment.strip():
            session.add(
                AnnotationCommentRow(
                    project_id=self.project_id, item_id=item.id, person=person.annotator, by_reviewer=False,
                    text=submission.comment.strip(), made_at=now,
                )
            )  # fmt: skip
        if assignment.state == "leased":
            item.leased -= 1
        assignment.state = {"answer": "answered", "skip": "skipped", "flag": "flagged"}[submission.kind]
        if submission.kind == "answer":
            item.answered += 1
        if right is not None:
            person.gold_right += right
        if submission.kind == "flag" and item.state in _QUEUED:
            item.state = "flagged"
        _requeue(item)
        return SubmitOutcome(kept=True, late=late, duplicate=False)

    def undo(self, annotator: str) -> LeasedItem | None:
        """Take back a person's last answer, skip or flag, and give the person the item again; None when there is
        none."""
        with self._ledger.writing(durable=True) as session:
            person = self._person(session, annotator)
            before = self._last_answer(session, annotator)
            if before is None:
                return None
            now, project = datetime.now(UTC), load_project(session, self.project_id)
            item = self._item(session, before.item_id)
            assignment = self._assignment(session, item.id, annotator)
            assert assignment is not None, "nobody answers what was not given out"
            self._take_back(before, person, item, assignment, "undone", now)
            assignment.expires_at = now + timedelta(minutes=project.settings.lease_minutes)
            _requeue(item)
            leased = _leased(item, project, assignment.expires_at, annotator)
            return leased._replace(previous=_mirror(before.values, item, project, annotator) or None)

    def _take_back(
        self,
        answer: AnswerRow,
        person: AnnotatorRow,
        item: AnnotationItemRow,
        assignment: AssignmentRow,
        state: Literal["undone", "replaced"],
        now: datetime,
    ) -> None:
        """Let an answer count no more: the item is the person's again, as before it."""
        answer.state, answer.ended_at = state, now
        if answer.kind == "answer":
            item.answered -= 1
        if answer.kind == "flag" and item.state == "flagged":
            item.state = "returned"
        if answer.gold_right is not None:
            person.gold_right -= answer.gold_right
        if assignment.state != "leased":
            assignment.state = "leased"
            item.leased += 1

    def release(self, annotator: str, item: int) -> None:
        """Give an item back unanswered; the person may get it again."""
        with self._ledger.writing() as session:
            self._person(session, annotator)
            item_row = self._item(session, item)
            assignment = self._assignment(session, item, annotator)
            if assignment is not None and assignment.state == "leased":
                assignment.state = "released"
                item_row.leased -= 1
                _requeue(item_row, came_back=True)

    def resolve_flag(self, item: int, decision: Literal["return", "remove"]) -> None:
        """Let a flagged item be answered, also by whoever flagged it; or take it out."""
        from sqlalchemy import update

        from luthier.core.db.tables.annotation import AssignmentRow

        with self._ledger.writing() as session:
            item_row = self._item(session, item)
            if item_row.state in ("flagged", "removed"):
                item_row.state = "removed" if decision == "remove" else "returned"
                _requeue(item_row)
            flagged = update(AssignmentRow).where(AssignmentRow.item_id == item, AssignmentRow.state == "flagged")
            if decision == "return":
                session.execute(flagged.values(state="released"))

    def set_priorities(self, priorities: Mapping[int, float]) -> None:
        """Give items other priorities, many at a time; the highest is answered first."""
        from sqlalchemy import bindparam, update

        from luthier.core.db.tables.annotation import AnnotationProjectRow

        table = item_table()
        statement = update(table).where(table.c.id == bindparam("which"), table.c.project_id == self.project_id)
        statement = statement.values(rank=bindparam("becomes"))
        for batch in iterate_batches(sorted(priorities.items()), _BATCH):
            with self._ledger.writing() as session:
                rows = [{"which": item, "becomes": -priority} for item, priority in batch]
                session.connection().execute(statement, rows)
        with self._ledger.writing() as session:
            project = session.get_one(AnnotationProjectRow, self.project_id)
            project.order_version += 1

    def progress(self) -> QueueProgress:
        """How many items are in which state."""
        from sqlalchemy import func, select

        from luthier.core.db.tables.annotation import AnnotationItemRow, AnswerRow

        item, answer = AnnotationItemRow, AnswerRow
        counted = select(item.state, func.count()).where(item.project_id == self.project_id).group_by(item.state)
        given = select(func.count()).where(
            answer.project_id == self.project_id, answer.state == "kept", answer.kind == "answer",
            answer.decides.is_(False),
        )  # fmt: skip
        with self._ledger.reading() as session:
            states: dict[str, int] = {row[0]: row[1] for row in session.execute(counted)}
            answers = session.scalar(given) or 0
        waiting = sum(states.get(state, 0) for state in ("open", "returned", "busy"))
        done, flagged, gold = (states.get(state, 0) for state in ("done", "flagged", "gold"))
        return QueueProgress(waiting, done, flagged, gold, answers)

    def person_progress(self, annotator: str) -> PersonProgress:
        """How far one person has come."""
        from sqlalchemy import func, select

        from luthier.core.db.tables.annotation import AnnotatorRow, AssignmentRow

        needed = get_project(self._ledger, self.project_id).settings.qualification
        column_elements = AssignmentRow.project_id == self.project_id, AssignmentRow.annotator == annotator
        answered = select(func.count()).where(*column_elements, AssignmentRow.state == "answered")
        with self._ledger.reading() as session:
            person = session.get(AnnotatorRow, (self.project_id, annotator))
            left = max(0, needed - (person.gold_right if person else 0))
            return PersonProgress(session.scalar(answered) or 0, left == 0, left)

    def answers(self, *, until: datetime | None = None, decisions: bool = False) -> Iterator[Answer]:
        """All answers, skips and flags that count, in the order in which they came.

        `until`: those that counted at that moment, whatever was undone since. `decisions`: what owners and reviewers
        decided instead.
        """
        from sqlalchemy import or_, select

        from luthier.core.db.tables.annotation import AnnotationItemRow, AnswerRow

        row, item = AnswerRow, AnnotationItemRow
        query = select(row, item.key).join(item, item.id == row.item_id)
        query = query.where(row.project_id == self.project_id, row.decides.is_(decisions))
        if until is None:
            query = query.where(row.state == "kept")
        else:
            query = query.where(row.given_at < until, or_(row.state == "kept", row.ended_at >= until))
        with self._ledger.reading() as session:
            for answer, key in session.execute(query.order_by(row.id).execution_options(yield_per=_FETCHED)):
                yield _to_answer(answer, key)

    def _choose(self, session: Session, person: AnnotatorRow, project: AnnotationProject) -> AnnotationItemRow | None:
        """The item that a person gets next: one with a known answer by chance, or as long as the person is not
        qualified; else the first that waits."""
        settings = project.settings
        if person.gold_right < settings.qualification:
            return self._gold(session, person.annotator)
        before = person.rank, person.position
        first = self._first(session, person, skip_locked=True)
        if first is None:  # others may have held the lock of an item that was passed over
            person.rank, person.position = None, None
            first = self._first(session, person, skip_locked=False)
        if first is None or random.random() >= settings.gold_share:
            return first  # gold alone, after everything else, would be known to be gold
        gold = self._gold(session, person.annotator)
        if gold is not None:
            person.rank, person.position = before
        return gold or first

    def _gold(self, session: Session, annotator: str) -> AnnotationItemRow | None:
        """An item with a known answer that the person has not had, by chance: people get them in different orders."""
        from sqlalchemy import select

        from luthier.core.db.tables.annotation import AnnotationItemRow

        item = AnnotationItemRow
        free = select(item.id).where(item.project_id == self.project_id, item.state == "gold", ~self._had_by(annotator))
        ids = session.scalars(free.limit(_BATCH)).all()
        return session.get(item, random.choice(ids), with_for_update=True) if ids else None

    def _first(self, session: Session, person: AnnotatorRow, *, skip_locked: bool) -> AnnotationItemRow | None:
        """The first item in the order that the person has not had."""
        from sqlalchemy import select, tuple_

        from luthier.core.db.tables.annotation import AnnotationItemRow, AnnotationProjectRow

        item = AnnotationItemRow
        row = session.get_one(AnnotationProjectRow, self.project_id)
        if person.order_version != row.order_version:
            person.order_version, person.rank, person.position = row.order_version, None, None
        query = select(item).where(item.project_id == self.project_id, ~self._had_by(person.annotator))
        query = query.order_by(item.rank, item.position).limit(1)
        query = query.with_for_update(skip_locked=skip_locked, of=item)
        item_row = session.scalar(query.where(item.state == "returned"))
        if item_row is None:
            opened = query.where(item.state == "open")
            if person.rank is not None:
                opened = opened.where(tuple_(item.rank, item.position) > tuple_(person.rank, person.position))
            item_row = session.scalar(opened)
            if item_row is not None:
                person.rank, person.position = item_row.rank, item_row.position
        return item_row

    def _had_by(self, annotator: str) -> ColumnElement[bool]:
        """Whether a person has an item, or had it."""
        from sqlalchemy import exists

        from luthier.core.db.tables.annotation import AnnotationItemRow, AssignmentRow

        row = AssignmentRow
        had = exists().where(
            row.item_id == AnnotationItemRow.id, row.annotator == annotator, row.state.in_(_HAS_OR_HAD)
        )
        return had.correlate(AnnotationItemRow)

    def _assign(self, session: Session, item: AnnotationItemRow, annotator: str, expires_at: datetime) -> None:
        from luthier.core.db.tables.annotation import AssignmentRow

        before = session.get(AssignmentRow, (item.id, annotator))
        if before is None:
            session.add(
                AssignmentRow(
                    item_id=item.id, annotator=annotator, project_id=self.project_id, state="leased",
                    expires_at=expires_at,
                )
            )  # fmt: skip
        else:
            before.state, before.expires_at = "leased", expires_at
        item.leased += 1
        _requeue(item)

    def _held_before(
        self, session: Session, annotator: str, held: Collection[int], expires_at: datetime
    ) -> AnnotationItemRow | None:
        """The first item that the person has and the browser has not; its time begins anew."""
        from sqlalchemy import select

        from luthier.core.db.tables.annotation import AssignmentRow

        row = AssignmentRow
        query = select(row).where(row.project_id == self.project_id, row.annotator == annotator, row.state == "leased")
        if held:
            query = query.where(row.item_id.not_in(held))
        assignment_row = session.scalar(query.order_by(row.expires_at).limit(1))
        if assignment_row is None:
            return None
        item = self._item(session, assignment_row.item_id)
        assignment_row.expires_at = expires_at
        return item

    def _expire(self, session: Session, now: datetime) -> None:
        """Put items back into the queue whose time is over."""
        from sqlalchemy import select

        from luthier.core.db.tables.annotation import AnnotationItemRow, AssignmentRow

        item, row = AnnotationItemRow, AssignmentRow
        over = select(item, row).join(row, row.item_id == item.id)
        over = over.where(row.project_id == self.project_id, row.state == "leased", row.expires_at < now)
        over = over.limit(_BATCH).with_for_update(skip_locked=True, of=item)
        for item_row, assignment in session.execute(over).all():
            assignment.state = "expired"
            item_row.leased -= 1
            _requeue(item_row, came_back=True)

    def _person(self, session: Session, annotator: str) -> AnnotatorRow:
        """The person's row, locked: two windows of one person wait for one another."""
        from sqlalchemy.dialects import postgresql, sqlite

        from luthier.core.db.tables.annotation import AnnotatorRow

        identity = (self.project_id, annotator)
        annotator_row = session.get(AnnotatorRow, identity, with_for_update=True)
        if annotator_row is None:
            load_project(session, self.project_id)
            insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
            empty = {"gold_right": 0, "order_version": 0}
            row = {"project_id": self.project_id, "annotator": annotator, **empty}
            session.execute(insert(AnnotatorRow).values(row).on_conflict_do_nothing())
            annotator_row = session.get_one(AnnotatorRow, identity, with_for_update=True)
        return annotator_row

    def _item(self, session: Session, item: int) -> AnnotationItemRow:
        """An item's row, locked."""
        from luthier.core.db.tables.annotation import AnnotationItemRow

        item_row = session.get(AnnotationItemRow, item, with_for_update=True)
        if item_row is None or item_row.project_id != self.project_id:
            raise UnknownName("there is no such item")
        return item_row

    def _assignment(self, session: Session, item: int, annotator: str) -> AssignmentRow | None:
        from luthier.core.db.tables.annotation import AssignmentRow

        return session.get(AssignmentRow, (item, annotator))

    def _submitted(self, session: Session, annotator: str, submission: str) -> AnswerRow | None:
        from sqlalchemy import select

        from luthier.core.db.tables.annotation import AnswerRow

        row = AnswerRow
        column_elements = row.project_id == self.project_id, row.annotator == annotator
        return session.scalar(select(row).where(*column_elements, row.submission == submission))

    def _last_answer(self, session: Session, annotator: str, item: int | None = None) -> AnswerRow | None:
        """The last answer, skip or flag of a person that counts; of all items, or of one."""
        from sqlalchemy import select

        from luthier.core.db.tables.annotation import AnswerRow

        row = AnswerRow
        within = row.project_id == self.project_id if item is None else row.item_id == item
        query = select(row).where(within, row.annotator == annotator, row.state == "kept", row.decides.is_(False))
        return session.scalar(query.order_by(row.id.desc()).limit(1))


def _requeue(item: AnnotationItemRow, *, came_back: bool = False) -> None:
    """Let an item wait, or not, by how many have it and have answered it."""
    if item.state not in _QUEUED:
        return
    if item.answered >= item.overlap:
        item.state = "done"
    elif item.answered + item.leased >= item.overlap:
        item.state = "busy"
    elif came_back or item.state != "open":
        item.state = "returned"


def _leased(item: AnnotationItemRow, project: AnnotationProject, expires_at: datetime, annotator: str) -> LeasedItem:
    proposal = item.proposal if item.proposal_shown else None
    shown = _shown_to(item, project, annotator)
    return LeasedItem(item.id, shown, proposal, project.guideline_version, expires_at)


def _shown_to(item: AnnotationItemRow, project: AnnotationProject, annotator: str) -> QuestionItem:
    shown = item_from_json(item.shown)
    mirrored = _is_mirrored(item, project, annotator)
    return shown._replace(answers=shown.answers[::-1]) if mirrored else shown


def _is_mirrored(item: AnnotationItemRow, project: AnnotationProject, annotator: str) -> bool:
    """Whether a judge sees two answers in the other order than they are kept in."""
    is_pair = project.settings.purpose == "judging" and len(item.shown["answers"]) == 2
    return is_pair and are_sides_swapped(item.key, annotator)


def _mirror(
    values: Mapping[str, AnswerValue], item: AnnotationItemRow, project: AnnotationProject, annotator: str
) -> dict[str, AnswerValue]:
    """The values as the person saw the answers, from those that are kept; and the other way round."""
    questions = project.settings.questions if _is_mirrored(item, project, annotator) else {}
    return {name: questions[name].mirror(value) if name in questions else value for name, value in values.items()}


def _to_answer(row: AnswerRow, key: str) -> Answer:
    kind: AnswerKind = row.kind  # type: ignore[assignment]  # the table's constraint says so
    return Answer(
        row.item_id, key, row.annotator, kind, row.values, row.comment, row.seconds, row.guideline_version,
        row.given_at, row.late, row.proposal_shown, row.gold_right,
    )  # fmt: skip
