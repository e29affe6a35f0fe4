"""Human ratings: one annotator's rating of one item; stored in the ledger, and in portable files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from luthier.annotation.project import AnnotationProject, list_projects
from luthier.annotation.question import InvalidAnswer, Question
from luthier.artifacts.annotation import Annotation
from luthier.core.db import Ledger
from luthier.core.errors import DataError, SourceLocation, describe_json_error, did_you_mean
from luthier.core.files import write_atomically
from luthier.core.hashing import canonical_json
from luthier.core.spreadsheet import escape_formula, unescape_formula
from luthier.eval.human.study import Assignment

STUDY_QUESTION = "judgment"
"""Name of a study's question in its answers."""
_OVERLAP, _WINDOW = timedelta(seconds=10), 200
"""Seconds that are read again, since a transaction may end later than one that began after it."""
_FIELDS = ("item", "judge", "value", "comment", "seconds", "at")


def rating_to_json(rating: Annotation) -> dict[str, Any]:
    """A rating by the names that files of ratings have, in the order of their columns."""
    fields = (rating.item, rating.annotator, rating.value, rating.comment, rating.seconds, rating.time or "")
    return dict(zip(_FIELDS, fields, strict=True))


def record_rating(ledger: Ledger, assignment: str, rating: Annotation) -> None:
    """Record a rating; it replaces an earlier one of the same item by the same judge, which is kept but not counted."""
    from luthier.core.db.tables.annotation import JudgmentRow

    row = JudgmentRow(
        assignment=assignment,
        item=rating.item,
        judge=rating.annotator,
        value=rating.value,
        comment=rating.comment or None,
        seconds=rating.seconds,
        at=datetime.fromisoformat(rating.time) if rating.time else datetime.now(UTC),
    )
    with ledger.writing() as session:
        session.add(row)


class RatingFeed:
    """The judgments of an assignment in several ledgers: all of them at first, then what is new since the last call.

    They are those that `luthier rate` records, and the answers in studies of the assignment that are open to all.
    """

    def __init__(self, ledgers: Sequence[Ledger], assignment: str) -> None:
        self._ledgers, self._assignment = ledgers, assignment
        self._last: dict[int, tuple[int, int]] = {}
        self._looked_at = datetime.min.replace(tzinfo=UTC)

    def read_new(self) -> tuple[list[Annotation], list[tuple[str, str]]]:
        """Judgments in the order in which they were made, and those that were taken back, as (annotator, item)."""
        now, since = datetime.now(UTC), self._looked_at - _OVERLAP if self._last else self._looked_at
        annotations: list[Annotation] = []
        withdrawn: list[tuple[str, str]] = []
        for at, ledger in enumerate(self._ledgers):
            judgment, answer = self._last.get(at, (0, 0))
            recorded, judgment = self._recorded(ledger, judgment)
            answered, answer, undone = self._answered(ledger, answer, since)
            annotations += recorded + answered
            withdrawn += undone
            self._last[at] = judgment, answer
        self._looked_at = now
        return sorted(annotations, key=lambda annotation: annotation.time or ""), withdrawn

    def _recorded(self, ledger: Ledger, last: int) -> tuple[list[Annotation], int]:
        from sqlalchemy import select

        from luthier.core.db.tables.annotation import JudgmentRow

        query = select(JudgmentRow).where(JudgmentRow.assignment == self._assignment, JudgmentRow.id > last)
        with ledger.reading() as session:
            rows = session.scalars(query.order_by(JudgmentRow.id)).all()
            annotations = [
                Annotation(row.judge, row.value, row.item, row.comment or "", row.at.isoformat(), row.seconds)
                for row in rows
            ]
            return annotations, max([last, *(row.id for row in rows)])

    def _answered(
        self, ledger: Ledger, last: int, since: datetime
    ) -> tuple[list[Annotation], int, list[tuple[str, str]]]:
        from sqlalchemy import select
        from sqlalchemy.orm import aliased

        from luthier.core.db.tables.annotation import AnnotationItemRow, AnswerRow

        studies = [study.id for study in list_studies(ledger, self._assignment)]
        if not studies:
            return [], last, []
        row, item, other = AnswerRow, AnnotationItemRow, aliased(AnswerRow)
        mine = select(row, item.key).join(item, item.id == row.item_id).where(row.project_id.in_(studies))
        mine = mine.where(row.decides.is_(False))
        kept = mine.where(row.state == "kept", row.id > last - _WINDOW).order_by(row.id)
        again = select(other.id).where(
            other.item_id == row.item_id, other.annotator == row.annotator, other.state == "kept"
        )
        undone = mine.where(row.state == "undone", row.ended_at > since, ~again.exists())
        with ledger.reading() as session:
            rows = session.execute(kept).all()
            annotations = [
                Annotation(
                    answer_row.annotator, answer_row.values.get(STUDY_QUESTION), key, answer_row.comment,
                    answer_row.given_at.isoformat(), answer_row.seconds,
                )
                for answer_row, key in rows
            ]  # fmt: skip
            withdrawn = [(answer_row.annotator, key) for answer_row, key in session.execute(undone)] if last else []
            return annotations, max([last, *(answer_row.id for answer_row, _ in rows)]), withdrawn


def list_studies(ledger: Ledger, assignment: str) -> list[AnnotationProject]:
    """Return the studies of an assignment that anyone with the link can rate, newest first."""
    return [
        project for project in list_projects(ledger, purpose="judging") if project.settings.assignment == assignment
    ]


def keep_last_ratings(judgments: Iterable[Annotation]) -> list[Annotation]:
    """The last judgment of each judge on each item, in the order of the last ones."""
    last: dict[tuple[str, str], Annotation] = {}
    for judgment in judgments:
        last.pop((judgment.annotator, judgment.item), None)
        last[judgment.annotator, judgment.item] = judgment
    return list(last.values())


def write_judgments(path: Path, judgments: Sequence[Annotation]) -> None:
    """Write JSON lines, or a table when the name ends in .csv."""
    if path.suffix.lower() != ".csv":
        lines = [
            canonical_json(
                {
                    name: field_value
                    for name, field_value in rating_to_json(judgment).items()
                    if name == "value" or field_value not in ("", None)
                }
            )
            for judgment in judgments
        ]
        write_atomically(path, "".join(line + "\n" for line in lines).encode())
        return
    from io import StringIO

    text = StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_FIELDS)
    for judgment in judgments:
        value = (
            ""
            if judgment.value is None
            else judgment.value
            if isinstance(judgment.value, str)
            else canonical_json(judgment.value)
        )
        cells = {**rating_to_json(judgment), "value": value}
        table.writerow(map(escape_formula, cells.values()))
    write_atomically(path, text.getvalue().encode())


def read_judgments(path: Path, assignment: Assignment, question: Question) -> list[Annotation]:
    """Judgments of a file (JSON lines or CSV), each checked against what was asked; `DataError` names file and line."""
    found = []
    for line, fields in _read(path):
        where = SourceLocation(file=str(path), line=line)
        unknown = sorted(set(fields) - {*_FIELDS, "assignment", "sheet", "prompt", "answer", "answer_a", "answer_b"})
        if unknown:
            raise DataError(f"has no column {unknown[0]!r}", where=where, hint=did_you_mean(unknown[0], _FIELDS))
        found.append(_judgment(fields, assignment, question, where))
    return keep_last_ratings(annotation for annotation in found if annotation is not None)


def _read(path: Path) -> list[tuple[int, dict[str, Any]]]:
    where = SourceLocation(file=str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            "nobody has judged yet: there is no such file",
            where=where,
            hint="`luthier rate RECIPE:STEP --as NAME` asks, and writes it",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as UTF-8 text: {error}", where=where, hint="save it as UTF-8") from error
    if path.suffix.lower() == ".csv":
        lines = text.splitlines(keepends=True)
        between = max(",;\t", key=lines[0].count) if lines else ","  # spreadsheets of half of Europe write semicolons
        reader = csv.DictReader(lines, strict=True, delimiter=between)
        try:
            return [
                (reader.line_num, {key: unescape_formula(value) for key, value in row.items() if value != ""})
                for row in reader
            ]
        except csv.Error as error:
            raise DataError(
                f"is not a whole CSV: {error}", where=SourceLocation(file=str(path), line=reader.line_num)
            ) from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    describe_json_error(error), where=SourceLocation(file=str(path), line=number)
                ) from error
            if not isinstance(fields, dict):
                raise DataError("expected an object on each line", where=SourceLocation(file=str(path), line=number))
            found.append((number, fields))
    return found


def _judgment(
    fields: dict[str, Any], assignment: Assignment, question: Question, where: SourceLocation
) -> Annotation | None:
    """Parse one rating; None for an empty row of a sheet."""
    at = SourceLocation(file=where.file, line=where.line, field="item")
    item = assignment.items.get(str(fields.get("item")))
    if item is None:
        what = f"there is no item {fields.get('item')!r} in what was asked"
        raise DataError(what, where=at, hint="these judgments belong to another assignment; export it again")
    judge = fields.get("judge")
    if not isinstance(judge, str) or not assignment.may_judge(judge):
        at = SourceLocation(file=where.file, line=where.line, field="judge")
        raise DataError(f"{judge!r} is no judge here", where=at, hint=did_you_mean(str(judge), assignment.sheets))
    value = fields.get("value")
    if value is None and "value" not in fields:
        return None
    if isinstance(value, str) and value.strip()[:1] in "{[":
        value = _json(value)
    at = SourceLocation(file=where.file, line=where.line, field="value")
    try:
        kept = None if value is None else question.check(value, item.shown)
    except InvalidAnswer as error:
        raise DataError(str(error), where=at) from error
    return Annotation(
        judge, kept, item.id, str(fields.get("comment") or ""), _time(fields, where), _seconds(fields, where)
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _seconds(fields: dict[str, Any], where: SourceLocation) -> float | None:
    value = fields.get("seconds")
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        at = SourceLocation(file=where.file, line=where.line, field="seconds")
        raise DataError(f"expected a number, got {value!r}", where=at) from error


def _time(fields: dict[str, Any], where: SourceLocation) -> str | None:
    value = fields.get("at")
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as error:
        at = SourceLocation(file=where.file, line=where.line, field="at")
        raise DataError(f"expected a time such as 2026-05-01T12:00:00+00:00, got {value!r}", where=at) from error
    return moment.replace(tzinfo=moment.tzinfo or UTC).isoformat()


def write_rating_sheet(path: Path, assignment: Assignment, judge: str, done: Sequence[Annotation]) -> int:
    """A judge's items to be filled in elsewhere: a CSV with an empty `value`, or JSON lines; returns how many.

    Items that the judge has judged are left out.
    """
    judged = {annotation.item for annotation in done if annotation.annotator == judge}
    rows = []
    for name in (name for name in assignment.sheets[judge] if name not in judged):
        item = assignment.items[name]
        shown = ("answer",) if len(item.answers) == 1 else ("answer_a", "answer_b")
        prompt = "\n\n".join(f"{turn['role']}: {turn.get('content') or ''}" for turn in item.prompt)
        rows.append({"item": name, "judge": judge, "prompt": prompt, **dict(zip(shown, item.answers, strict=True))})
    if path.suffix.lower() == ".csv":
        from io import StringIO

        text = StringIO(newline="")
        columns = [*(rows[0] if rows else ("item", "judge")), "value", "comment"]
        table = csv.DictWriter(text, columns, lineterminator="\n", restval="")
        table.writeheader()
        table.writerows({name: escape_formula(value) for name, value in row.items()} for row in rows)
        write_atomically(path, text.getvalue().encode("utf-8-sig"))  # without the mark, Excel shows "JosÃ©"
    else:
        write_atomically(path, "".join(canonical_json(row) + "\n" for row in rows).encode())
    return len(rows)
