"""Results of a project: each item with its answers, for owners, reviewers and training."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.annotation.project import (
    AnnotationItem,
    get_project,
    item_from_json,
    item_table,
    iterate_batches,
    load_project,
)
from luthier.annotation.question import AnswerValue, InvalidAnswer, QuestionItem
from luthier.annotation.queue import AnnotationQueue, Answer
from luthier.core.db import Ledger
from luthier.core.errors import InputError, SourceLocation, UnknownName

if TYPE_CHECKING:
    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from luthier.core.db.tables.annotation import AnnotationItemRow

_FETCHED = 1000
_BATCH = 500


@dataclass(frozen=True)
class AnsweredItem:
    """An item with all that people said of it."""

    item: AnnotationItem
    answers: tuple[Answer, ...]
    """Those that count, skips and flags among them, in the order in which they came."""
    decision: Answer | None
    """What the owner or a reviewer decided."""

    def values(self, question: str) -> dict[str, AnswerValue]:
        """The answers to one question, by person."""
        return {answer.annotator: answer.values[question] for answer in self.answers if question in answer.values}


def read_answered_items(ledger: Ledger, project_id: str, *, until: datetime | None = None) -> Iterator[AnsweredItem]:
    """All items of a project in the order in which they were added, as they stood at a moment."""
    from sqlalchemy import select

    from luthier.core.db.tables.annotation import AnnotationItemRow

    query = select(AnnotationItemRow).where(AnnotationItemRow.project_id == project_id)
    if until is not None:
        query = query.where(AnnotationItemRow.added_at < until)
    yield from _with_answers(ledger, project_id, query.order_by(AnnotationItemRow.position), until)


def find_items(
    ledger: Ledger, project_id: str, *, search: str = "", state: str = "", ids: Sequence[int] = (), limit: int = 50
) -> list[AnsweredItem]:
    """The first items whose text has all words of a search, or that are in a state, or of some ids."""
    from sqlalchemy import String, cast, func, or_, select

    from luthier.core.db.tables.annotation import AnnotationItemRow

    row = AnnotationItemRow
    query = select(row).where(row.project_id == project_id)
    words = search.casefold().split()
    for word in words:  # what stands in JSON, where letters beyond ASCII are written by their numbers
        forms = {json.dumps(form)[1:-1].lower() for form in (word, word.upper(), word.capitalize())}
        patterns = [form.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for form in sorted(forms)]
        text = func.lower(cast(row.shown, String))
        query = query.where(or_(*(text.like(f"%{pattern}%", escape="\\") for pattern in patterns)))
    if state:
        query = query.where(row.state == state)
    if ids:
        query = query.where(row.id.in_(ids))
    answered_items = _with_answers(ledger, project_id, query.order_by(row.position), None)
    return list(
        islice((answered_item for answered_item in answered_items if _has(answered_item.item.shown, words)), limit)
    )


def _has(shown: QuestionItem, words: Sequence[str]) -> bool:
    """Whether what people see has all words, and not only the form in which it is kept."""
    texts = [str(message.get("content") or "") for message in shown.messages]
    text = "\n".join([*texts, *shown.answers]).casefold()
    return all(word in text for word in words)


def list_disagreements(ledger: Ledger, project_id: str, *, limit: int = 50) -> list[AnsweredItem]:
    """The first items about which people differ and nobody has decided."""
    settings = get_project(ledger, project_id).settings
    found = []
    for answered_item in read_answered_items(ledger, project_id):
        given = [answer.values for answer in answered_item.answers if answer.kind == "answer"]
        if len(given) < 2 or answered_item.decision is not None or answered_item.item.gold is not None:
            continue
        if any(settings.agrees(given[0], other, answered_item.item.shown) is False for other in given[1:]):
            found.append(answered_item)
            if len(found) == limit:
                break
    return found


def _with_answers(
    ledger: Ledger, project_id: str, query: Select[AnnotationItemRow], until: datetime | None
) -> Iterator[AnsweredItem]:
    queue = AnnotationQueue(ledger, project_id)
    answers: dict[int, list[Answer]] = {}
    for answer in queue.answers(until=until):
        answers.setdefault(answer.item, []).append(answer)
    decisions = {answer.item: answer for answer in queue.answers(until=until, decisions=True)}
    with ledger.reading() as session:
        for row in session.scalars(query.execution_options(yield_per=_FETCHED)):
            gold = row.gold if row.gold_at is not None and (until is None or row.gold_at < until) else None
            item = AnnotationItem(
                row.id, row.key, item_from_json(row.shown), row.state, row.overlap, row.answered, row.hidden,
                row.proposal, gold, row.probability, row.added_at,
            )  # fmt: skip
            yield AnsweredItem(item, tuple(answers.get(row.id, ())), decisions.get(row.id))


def record_decision(
    ledger: Ledger, project_id: str, item: int, values: Mapping[str, AnswerValue], *, by: str, gold: bool = False
) -> None:
    """Write down what the owner or a reviewer decides about an item; the item is done. With `gold`, it checks people
    from then on."""
    with ledger.writing(durable=True) as session:
        row, kept = _checked(session, project_id, item, values)
        now = datetime.now(UTC)
        _end_decisions(session, item, now)
        session.add(
            _answer(
                project_id,
                item,
                by,
                kept,
                now,
                decides=True,
                version=load_project(session, project_id).guideline_version,
            )
        )
        if gold:
            row.gold, row.gold_at, row.state = kept, now, "gold"
        elif row.state != "gold":
            row.state = "done"


def _end_decisions(session: Session, item: int, now: datetime) -> None:
    from sqlalchemy import update

    from luthier.core.db.tables.annotation import AnswerRow

    before = update(AnswerRow).where(AnswerRow.item_id == item, AnswerRow.decides.is_(True), AnswerRow.state == "kept")
    session.execute(before.values(state="replaced", ended_at=now))


def label_items(
    ledger: Ledger, project_id: str, items: Sequence[int], values: Mapping[str, AnswerValue], *, by: str
) -> int:
    """Give many items the same answer, in one person's name; returns how many got it. Items that the person has
    answered, and those with a known answer, are left as they are."""
    from luthier.core.db.tables.annotation import AssignmentRow

    given = 0
    for batch in iterate_batches(sorted(set(items)), _BATCH):
        with ledger.writing(durable=True) as session:
            now, version = datetime.now(UTC), load_project(session, project_id).guideline_version
            for item in batch:
                assignment = session.get(AssignmentRow, (item, by))
                row, kept = _checked(session, project_id, item, values)
                if row.state in ("gold", "removed") or (assignment is not None and assignment.state == "answered"):
                    continue
                if assignment is None:
                    assignment = AssignmentRow(item_id=item, annotator=by, project_id=project_id, expires_at=now)
                    session.add(assignment)
                elif assignment.state == "leased":
                    row.leased -= 1
                assignment.state = "answered"
                session.add(_answer(project_id, item, by, kept, now, decides=False, version=version))
                row.answered += 1
                row.state = "done" if row.answered >= row.overlap else row.state
                given += 1
    return given


def _checked(
    session: Session, project_id: str, item: int, values: Mapping[str, AnswerValue]
) -> tuple[AnnotationItemRow, dict[str, Any]]:
    from luthier.core.db.tables.annotation import AnnotationItemRow

    row = session.get(AnnotationItemRow, item, with_for_update=True)
    if row is None or row.project_id != project_id:
        raise UnknownName("there is no such item")
    try:
        return row, load_project(session, project_id).settings.check(values, item_from_json(row.shown))
    except InvalidAnswer as error:
        raise InputError(str(error), where=SourceLocation(field="values")) from error


def _answer(
    project_id: str, item: int, by: str, values: dict[str, Any], now: datetime, *, decides: bool, version: int
) -> Any:
    from luthier.core.db.tables.annotation import AnswerRow

    return AnswerRow(
        project_id=project_id, item_id=item, annotator=by, submission=secrets.token_hex(16), kind="answer",
        values=values, comment="", seconds=None, guideline_version=version, late=False, proposal_shown=False,
        gold_right=None, decides=decides, state="kept", given_at=now, ended_at=None,
    )  # fmt: skip


class ImportedAnswer(NamedTuple):
    """An answer that was given elsewhere."""

    key: str
    """The item's."""
    annotator: str
    values: Mapping[str, AnswerValue]
    seconds: float | None = None
    time: str | None = None
    """When, in ISO 8601; now where it is none."""


def import_answers(ledger: Ledger, project_id: str, answers: Iterable[ImportedAnswer]) -> tuple[int, dict[str, int]]:
    """Add answers that were given elsewhere, many at a time; the last of one person about one item counts.

    Returns how many were kept, and how many were not by the reason.
    """
    from sqlalchemy import insert, select

    from luthier.core.db.tables.annotation import AnnotationItemRow, AnswerRow, AssignmentRow

    project, now = get_project(ledger, project_id), datetime.now(UTC)
    row = AnnotationItemRow
    kept, refused = 0, dict[str, int]()
    given = {(answer.key, answer.annotator): answer for answer in answers}
    for batch in iterate_batches(given.values(), _BATCH):
        with ledger.writing(durable=True) as session:
            query = select(row.id, row.key, row.shown, row.gold).where(
                row.project_id == project_id, row.key.in_({imported_answer.key for imported_answer in batch})
            )
            items = {key: (item, item_from_json(shown), gold) for item, key, shown, gold in session.execute(query)}
            rows: list[dict[str, Any]] = []
            for imported_answer in batch:
                try:
                    item, shown, gold = items[imported_answer.key]
                    values = project.settings.check(imported_answer.values, shown)
                except (KeyError, InvalidAnswer) as error:
                    why = str(error) if isinstance(error, InvalidAnswer) else "there is no such item"
                    refused[why] = refused.get(why, 0) + 1
                    continue
                right = project.settings.agrees(values, gold, shown) if gold else None
                rows.append(
                    {
                        "project_id": project_id, "item_id": item, "annotator": imported_answer.annotator,
                        "submission": secrets.token_hex(16), "kind": "answer", "values": values, "comment": "",
                        "seconds": imported_answer.seconds, "guideline_version": project.guideline_version,
                        "late": False,
                        "proposal_shown": False, "gold_right": right, "decides": False, "state": "kept",
                        "given_at": _moment(imported_answer.time) or now, "ended_at": None,
                    }
                )  # fmt: skip
            if not rows:
                continue
            session.execute(insert(AnswerRow), rows)
            held = [
                {"item_id": entry["item_id"], "annotator": entry["annotator"], "project_id": project_id,
                 "state": "answered", "expires_at": now}
                for entry in rows
            ]  # fmt: skip
            session.execute(insert(AssignmentRow), held)
            session.connection().execute(
                _count_statement(),
                [
                    {"which": item, "count": count}
                    for item, count in Counter(entry["item_id"] for entry in rows).items()
                ],
            )
            kept += len(rows)
    return kept, refused


def _count_statement() -> Any:
    """Add to how many have answered an item, as a statement for many."""
    from sqlalchemy import bindparam, case, update

    table = item_table()
    more = table.c.answered + bindparam("count")
    state = case((table.c.state == "gold", "gold"), (more >= table.c.overlap, "done"), else_=table.c.state)
    return update(table).where(table.c.id == bindparam("which")).values(answered=more, state=state)


def _moment(text: str | None) -> datetime | None:
    """A time in ISO 8601, in UTC where it names no zone; None for any other."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
