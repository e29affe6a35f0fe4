"""Verdicts on requests: given, doubted by a second person, decided by an owner, and written into the traffic once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from luthier.annotation.project import item_from_json
from luthier.annotation.queue import AnnotationQueue, AnswerSubmission, SubmitOutcome
from luthier.commands.review.fill import FillResult, Say, fill_review_queue, find_queue_traffic
from luthier.commands.review.queues import ReviewQueue, add_failure_types, get_review_queue
from luthier.core.db import Ledger
from luthier.core.errors import InputError, SourceLocation, UnknownName
from luthier.core.hashing import digest_of
from luthier.recipe.workspace import Workspace
from luthier.traces.record import FailureSpan, Feedback, FeedbackRole, Trace

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from luthier.annotation.question import QuestionItem
    from luthier.core.db.tables.annotation import AnnotationItemRow, AnswerRow

_SECOND_OPINION = timedelta(days=14)
_RATINGS = {"right": 1.0, "wrong": -1.0}
_COMMON = ("verdict", "label", "correction")
"""In what two opinions must be the same to agree."""


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What one reviewer said of a request."""

    by: str
    verdict: str
    at: datetime
    label: str = ""
    correction: str = ""
    types: tuple[str, ...] = ()
    marks: tuple[FailureSpan, ...] = ()
    comment: str = ""

    @property
    def value(self) -> float | None:
        """1 for right and 0 for wrong; None for unsure."""
        return {"right": 1.0, "wrong": 0.0}.get(self.verdict)

    def agrees(self, other: Opinion) -> bool:
        """Whether both say the same."""
        return all(getattr(self, name) == getattr(other, name) for name in _COMMON)


@dataclass(frozen=True, kw_only=True)
class ReviewedItem:
    """A request in a queue, and all that was said of it."""

    id: int
    key: str
    shown: QuestionItem
    trace: Trace
    feedback: tuple[Feedback, ...]
    """What users had said of it when it was drawn."""
    rules: tuple[str, ...]
    probability: float
    opinions: tuple[Opinion, ...]
    waits_for: tuple[str, ...]
    """Who has it."""
    counts_by: str | None
    """Whose opinion an owner chose."""

    @property
    def outcome(self) -> Opinion | None:
        """What counts: the opinion that an owner chose; else that of all, once nobody is waited for and all agree."""
        if self.counts_by is not None:
            chosen = [opinion for opinion in self.opinions if opinion.by == self.counts_by]
            return chosen[-1] if chosen else None
        if not self.opinions or not all(opinion.agrees(self.opinions[0]) for opinion in self.opinions):
            return None
        return None if self.is_doubted and self.waits_for else self.opinions[0]

    @property
    def is_doubted(self) -> bool:
        """Whether a second person was asked."""
        return len(self.opinions) + len(self.waits_for) > 1

    @property
    def is_disputed(self) -> bool:
        """Whether reviewers differ and no owner has decided."""
        return self.counts_by is None and not all(opinion.agrees(self.opinions[0]) for opinion in self.opinions)


def submit_verdict(
    ledger: Ledger,
    workspace: Workspace,
    queue_id: str,
    submission: AnswerSubmission,
    *,
    by: str,
    new_types: Sequence[str] = (),
) -> SubmitOutcome:
    """Keep a reviewer's answer, with types of failure that are new, and write what counts into the traffic."""
    queue = get_review_queue(ledger, queue_id)
    add_failure_types(ledger, queue, [*new_types], by=by)
    submit_outcome = AnnotationQueue(ledger, queue_id).submit(by, submission)
    write_verdicts(ledger, workspace, queue, items=[submission.item])
    return submit_outcome


def refresh_review_queue(ledger: Ledger, workspace: Workspace, queue: ReviewQueue, say: Say = print) -> FillResult:
    """Fill a queue, and write verdicts into the traffic that are not there yet, or whose request's chance rose."""
    fill_result = fill_review_queue(ledger, workspace, queue, say)
    write_verdicts(ledger, workspace, queue)
    return fill_result


def ask_second_opinion(ledger: Ledger, queue: ReviewQueue, item: int, person: str) -> None:
    """Give an item that is answered to another person, too; the first answer is not shown to them."""
    from luthier.core.db.tables.annotation import AssignmentRow

    person = person.strip()[:128]
    if not person:
        raise InputError("name the person who is asked", where=SourceLocation(field="person"))
    with ledger.writing() as session:
        row = _row(session, queue, item)
        if session.get(AssignmentRow, (item, person)) is not None:
            raise InputError(f"{person} has or had this request already", hint="name another person")
        expires_at = datetime.now(UTC) + _SECOND_OPINION
        session.add(
            AssignmentRow(item_id=item, annotator=person, project_id=queue.id, state="leased", expires_at=expires_at)
        )
        row.overlap, row.leased = row.overlap + 1, row.leased + 1
        row.state = "busy"


def decide_opinion(
    ledger: Ledger, workspace: Workspace, queue: ReviewQueue, item: int, opinion_by: str, *, by: str
) -> None:
    """Let one of several opinions count; both are kept."""
    from luthier.core.db.tables.annotation import ReviewDecisionRow

    reviewed_item = get_reviewed_item(ledger, queue, item)
    chosen = next((opinion for opinion in reviewed_item.opinions if opinion.by == opinion_by), None)
    if chosen is None:
        raise UnknownName(f"{opinion_by[:80]} said nothing of this request")
    with ledger.writing() as session:
        _row(session, queue, item)
        decided = ReviewDecisionRow(
            item_id=item, project_id=queue.id, opinion_by=opinion_by, decided_by=by, decided_at=datetime.now(UTC)
        )
        session.merge(decided)
    write_verdicts(ledger, workspace, queue, items=[item])


def _row(session: Session, queue: ReviewQueue, item: int) -> AnnotationItemRow:
    from luthier.core.db.tables.annotation import AnnotationItemRow

    row = session.get(AnnotationItemRow, item, with_for_update=True)
    if row is None or row.project_id != queue.id:
        raise UnknownName("there is no such request in this queue")
    return row


def get_reviewed_item(ledger: Ledger, queue: ReviewQueue, item: int) -> ReviewedItem:
    """One request of a queue."""
    reviewed_item = next(iterate_reviewed_items(ledger, queue, items=[item]), None)
    if reviewed_item is None:
        raise UnknownName("there is no such request in this queue")
    return reviewed_item


def iterate_reviewed_items(
    ledger: Ledger, queue: ReviewQueue, *, items: Sequence[int] | None = None
) -> Iterator[ReviewedItem]:
    """The requests of a queue (or some of them) with what was said, in the order in which they were drawn."""
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import AnnotationItemRow, AnswerRow, AssignmentRow, ReviewDecisionRow

    item, answer, assignment = AnnotationItemRow, AnswerRow, AssignmentRow
    query = select(item).where(item.project_id == queue.id, item.state != "removed").order_by(item.position)
    answers = select(answer).where(answer.project_id == queue.id, answer.state == "kept", answer.kind == "answer")
    answers = answers.where(answer.decides.is_(False))
    decisions = select(ReviewDecisionRow.item_id, ReviewDecisionRow.opinion_by).where(
        ReviewDecisionRow.project_id == queue.id
    )
    leases = select(assignment.item_id, assignment.annotator).where(
        assignment.project_id == queue.id, assignment.state == "leased"
    )
    if items is not None:
        query, answers = query.where(item.id.in_(items)), answers.where(answer.item_id.in_(items))
        leases = leases.where(assignment.item_id.in_(items))
    with ledger.reading() as session:
        opinions: dict[int, list[Opinion]] = {}
        for row in session.scalars(answers.order_by(answer.id)):
            opinions.setdefault(row.item_id, []).append(_opinion(row))
        waiting: dict[int, list[str]] = {}
        for item_id, person in session.execute(leases):
            waiting.setdefault(item_id, []).append(person)
        decided = {row[0]: row[1] for row in session.execute(decisions)}
        yield from _items(session, query, opinions, waiting, decided)


def _items(
    session: Session,
    query: Select[AnnotationItemRow],
    opinions: Mapping[int, list[Opinion]],
    waiting: Mapping[int, list[str]],
    decided: Mapping[int, str],
) -> Iterator[ReviewedItem]:
    for row in session.scalars(query.execution_options(yield_per=500)):
        fields = dict(row.hidden["trace"])
        feedback = [Feedback.model_validate({**field, "trace": row.key}) for field in fields.pop("feedback", ())]
        yield ReviewedItem(
            id=row.id,
            key=row.key,
            shown=item_from_json(row.shown),
            trace=Trace.model_validate(fields),
            feedback=tuple(feedback),
            rules=tuple(row.hidden["rules"]),
            probability=row.probability or 1.0,
            opinions=tuple(opinions.get(row.id, ())),
            waits_for=tuple(waiting.get(row.id, ())),
            counts_by=decided.get(row.id),
        )


def _opinion(row: AnswerRow) -> Opinion:
    values: Mapping[str, Any] = row.values
    marks = [
        FailureSpan(start=value["start"], end=value["end"], type=value["label"])
        for value in (values.get("marks") or {}).get("spans", ())
    ]
    return Opinion(
        by=row.annotator, at=row.given_at, verdict=str(values["verdict"]), label=str(values.get("label") or ""),
        correction=str(values.get("correction") or ""), types=tuple(values.get("types") or ()), marks=tuple(marks),
        comment=row.comment,
    )  # fmt: skip


def write_verdicts(
    ledger: Ledger, workspace: Workspace, queue: ReviewQueue, *, items: Sequence[int] | None = None
) -> int:
    """Write what counts into the traffic as feedback, so that signals, sources and the next recipe see it; returns how
    many were new or changed.

    The ledger knows what was written. A kill between the two writes the same record again, under the same moment and
    person: of one person the last counts, so nothing counts twice.
    """
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import ReviewExportRow
    from luthier.traces.feedback import append_redacted_records
    from luthier.traces.retention import has_traffic

    folder = find_queue_traffic(workspace, queue)
    if not has_traffic(folder):
        return 0
    query = select(ReviewExportRow.item_id, ReviewExportRow.digest).where(ReviewExportRow.project_id == queue.id)
    with ledger.reading() as session:
        written = {row[0]: row[1] for row in session.execute(query)}
    new: list[tuple[int, str, Feedback]] = []
    for reviewed_item in iterate_reviewed_items(ledger, queue, items=items):
        record = _feedback(reviewed_item)
        if record is not None and (digest := digest_of(record.model_dump(mode="json"))) != written.get(
            reviewed_item.id
        ):
            new.append((reviewed_item.id, digest, record))
    if new:
        append_redacted_records(folder, [record for _, _, record in new])
        now = datetime.now(UTC)
        with ledger.writing() as session:
            for item, digest, _ in new:
                session.merge(ReviewExportRow(item_id=item, project_id=queue.id, digest=digest, exported_at=now))
    return len(new)


def _feedback(item: ReviewedItem) -> Feedback | None:
    """What counts of a request as feedback, with every field, since an empty one takes back what was said before; None
    while nothing counts, or nobody is sure."""
    outcome = item.outcome
    if outcome is None or outcome.value is None:
        return None
    role: FeedbackRole = "reviewer" if item.counts_by is None else "owner"
    return Feedback(
        trace=item.key, timestamp=outcome.at, by=outcome.by, rating=_RATINGS[outcome.verdict], role=role,
        probability=item.probability, label=outcome.label, correction=outcome.correction, comment=outcome.comment,
        types=outcome.types, spans=outcome.marks,
    )  # fmt: skip
