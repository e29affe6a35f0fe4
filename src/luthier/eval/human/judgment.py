"""A judgment: what one person said of one item; kept in the ledger as it is said, and in files to be carried about."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core.digest import canonical
from luthier.core.errors import DataError, Where, did_you_mean
from luthier.core.files import write_aside
from luthier.core.ledger import Ledger
from luthier.core.not_json import not_json
from luthier.eval.form import Form, Value, WrongValue
from luthier.eval.human.assign import Assignment

_FIELDS = ("item", "judge", "value", "comment", "seconds", "at")


class Judgment(NamedTuple):
    """What one person said of one item."""

    item: str
    judge: str
    value: Value
    """As the form keeps it; None where the judge passed."""
    comment: str = ""
    seconds: float | None = None
    at: str = ""
    """When, in ISO 8601."""


def record(ledger: Ledger, assignment: str, said: Judgment) -> None:
    """Keep a judgment; an earlier one by the same judge stays, and no longer counts."""
    from luthier.core.ledger.tables.judgments import JudgmentRow

    row = JudgmentRow(
        assignment=assignment,
        item=said.item,
        judge=said.judge,
        value=said.value,
        comment=said.comment or None,
        seconds=said.seconds,
        at=datetime.fromisoformat(said.at) if said.at else datetime.now(UTC),
    )
    with ledger.writing() as session:
        session.add(row)


def recorded(ledger: Ledger, assignment: str) -> list[Judgment]:
    """The judgments that count, in the order in which they were made."""
    from sqlalchemy import select

    from luthier.core.ledger.tables.judgments import JudgmentRow

    with ledger.reading() as session:
        rows = session.scalars(
            select(JudgmentRow).where(JudgmentRow.assignment == assignment).order_by(JudgmentRow.at, JudgmentRow.id)
        )
        found = [
            Judgment(row.item, row.judge, row.value, row.comment or "", row.seconds, row.at.isoformat()) for row in rows
        ]
    return last_words(found)


def last_words(judgments: Iterable[Judgment]) -> list[Judgment]:
    """The last judgment of each judge on each item, in the order of the last ones."""
    last: dict[tuple[str, str], Judgment] = {}
    for one in judgments:
        last.pop((one.judge, one.item), None)
        last[one.judge, one.item] = one
    return list(last.values())


def write_judgments(path: Path, judgments: Sequence[Judgment]) -> None:
    """Write JSON lines, or a table when the name ends in .csv."""
    if path.suffix.lower() != ".csv":
        lines = [
            canonical({name: told for name, told in one._asdict().items() if name == "value" or told not in ("", None)})
            for one in judgments
        ]
        write_aside(path, "".join(line + "\n" for line in lines).encode())
        return
    from io import StringIO

    text = StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_FIELDS)
    for one in judgments:
        value = "" if one.value is None else one.value if isinstance(one.value, str) else canonical(one.value)
        table.writerow([one.item, one.judge, value, _harmless(one.comment), one.seconds, one.at])
    write_aside(path, text.getvalue().encode())


def read_judgments(path: Path, asked: Assignment, form: Form) -> list[Judgment]:
    """Judgments of a file (JSON lines or CSV), each checked against what was asked; `DataError` names file and line."""
    found = []
    for line, told in _read(path):
        where = Where(file=str(path), line=line)
        unknown = sorted(set(told) - {*_FIELDS, "assignment", "sheet", "prompt", "answer", "answer_a", "answer_b"})
        if unknown:
            raise DataError(f"has no column {unknown[0]!r}", where=where, remedy=did_you_mean(unknown[0], _FIELDS))
        found.append(_judgment(told, asked, form, where))
    return last_words(one for one in found if one is not None)


def _read(path: Path) -> list[tuple[int, dict[str, Any]]]:
    where = Where(file=str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(
            "nobody has judged yet: there is no such file",
            where=where,
            remedy="`luthier judge RECIPE:STEP --as NAME` asks, and writes it",
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as UTF-8 text: {error}", where=where, remedy="save it as UTF-8") from error
    if path.suffix.lower() == ".csv":
        lines = text.splitlines(keepends=True)
        between = max(",;\t", key=lines[0].count) if lines else ","  # spreadsheets of half of Europe write semicolons
        reader = csv.DictReader(lines, strict=True, delimiter=between)
        try:
            return [(reader.line_num, {key: value for key, value in row.items() if value != ""}) for row in reader]
        except csv.Error as error:
            raise DataError(
                f"is not a whole CSV: {error}", where=Where(file=str(path), line=reader.line_num)
            ) from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                told = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(not_json(error), where=Where(file=str(path), line=number)) from error
            if not isinstance(told, dict):
                raise DataError("expected an object on each line", where=Where(file=str(path), line=number))
            found.append((number, told))
    return found


def _judgment(told: dict[str, Any], asked: Assignment, form: Form, where: Where) -> Judgment | None:
    """One judgment; None for a row of a sheet that was left empty."""
    at = Where(file=where.file, line=where.line, field="item")
    item = asked.items.get(str(told.get("item")))
    if item is None:
        what = f"there is no item {told.get('item')!r} in what was asked"
        raise DataError(what, where=at, remedy="these judgments belong to another assignment; export it again")
    judge = told.get("judge")
    if not isinstance(judge, str) or judge not in asked.sheets:
        at = Where(file=where.file, line=where.line, field="judge")
        raise DataError(f"{judge!r} is no judge here", where=at, remedy=did_you_mean(str(judge), asked.sheets))
    value = told.get("value")
    if value is None and "value" not in told:
        return None
    if isinstance(value, str) and value.strip()[:1] in "{[":
        value = _json(value)
    at = Where(file=where.file, line=where.line, field="value")
    try:
        kept = None if value is None else form.check(value, item.answers)
    except WrongValue as error:
        raise DataError(str(error), where=at) from error
    return Judgment(item.id, judge, kept, str(told.get("comment") or ""), _seconds(told, where), _time(told, where))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _seconds(told: dict[str, Any], where: Where) -> float | None:
    value = told.get("seconds")
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        at = Where(file=where.file, line=where.line, field="seconds")
        raise DataError(f"expected a number, got {value!r}", where=at) from error


def _time(told: dict[str, Any], where: Where) -> str:
    value = told.get("at")
    if value is None:
        return ""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as error:
        at = Where(file=where.file, line=where.line, field="at")
        raise DataError(f"expected a time such as 2026-05-01T12:00:00+00:00, got {value!r}", where=at) from error
    return moment.replace(tzinfo=moment.tzinfo or UTC).isoformat()


def _harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") else text


def write_sheet(path: Path, asked: Assignment, judge: str, done: Sequence[Judgment]) -> int:
    """A judge's items to be filled in elsewhere: a CSV with an empty `value`, or JSON lines; returns how many.

    Items that the judge has judged are left out.
    """
    judged = {one.item for one in done if one.judge == judge}
    rows = []
    for name in (name for name in asked.sheets[judge] if name not in judged):
        item = asked.items[name]
        shown = ("answer",) if len(item.answers) == 1 else ("answer_a", "answer_b")
        prompt = "\n\n".join(f"{turn['role']}: {turn.get('content') or ''}" for turn in item.prompt)
        rows.append({"item": name, "judge": judge, "prompt": prompt, **dict(zip(shown, item.answers, strict=True))})
    if path.suffix.lower() == ".csv":
        from io import StringIO

        text = StringIO(newline="")
        columns = [*(rows[0] if rows else ("item", "judge")), "value", "comment"]
        table = csv.DictWriter(text, columns, lineterminator="\n", restval="")
        table.writeheader()
        table.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
        write_aside(path, text.getvalue().encode("utf-8-sig"))  # without the mark, Excel shows "JosÃ©"
    else:
        write_aside(path, "".join(canonical(row) + "\n" for row in rows).encode())
    return len(rows)
