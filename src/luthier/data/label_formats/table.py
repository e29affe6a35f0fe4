"""Tables of judgments: one row for each annotator and item, or one column for each annotator."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from luthier.artifacts.annotation import Annotation
from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.data.annotation.annotations import AnnotatedItem, classes_of_multilabel
from luthier.data.columns.layouts import LABEL_NAMES, TEXT_NAMES
from luthier.data.label_format import LabelFormat, Rows, Say, normalize_label, to_optional_text
from luthier.data.row import BrokenRow, SourceRecord

_WHO = ("annotator", "worker", "rater", "coder", "judge", "labeler", "labeller", "reviewer", "user", "expert")
_ITEM = ("item", "task", "unit", "item_id", "task_id", "unit_id", "example_id", "doc_id", "id")
_TIME = ("time", "timestamp", "created_at", "annotated_at", "submitted_at", "date")
_SECONDS = ("seconds", "lead_time", "duration", "duration_s")
_A_COLUMN = re.compile(rf"(?:{'|'.join(_WHO)})s?[ _-]?[a-z0-9]{{1,40}}", re.IGNORECASE)


class TableLabelFormat(LabelFormat):
    """A CSV, JSON or Parquet table: long (a row for each annotator and item) or wide (a column for each annotator).

    A column `annotator` (`worker`, `rater`, `completed_by`, …) makes it long; columns such as `rater_1`, `rater_2` make
    it wide. The label stands in `label`, `category`, `answer` and the like. What is set here is not guessed.
    """

    kind: Literal["table"] = "table"
    says: ClassVar[str] = "a table of judgments"
    order: ClassVar[int] = 90

    annotator: str | None = None
    """Of a long table: the column with who judged."""
    item: str | None = None
    """The column that names the item; by default one called `item`, `task` or `id`, else the text itself."""
    label: str | None = None
    """Of a long table: the column with what was said."""
    time: str | None = None
    """Of a long table: the column with when."""
    annotators: tuple[str, ...] = ()
    """Of a wide table: the annotators' columns."""

    def fits(self, rows: Rows) -> bool:
        """Some column says who judged, or some columns are annotators."""
        columns = list(rows[0]) if rows else []
        return bool(self._who(columns) or len(self._wide(columns)) > 1)

    def items(self, records: Sequence[SourceRecord], file: str, say: Say) -> Iterator[AnnotatedItem | BrokenRow]:
        """One item a row, in parts where the table is long."""
        columns = list(records[0].values) if records else []
        self._check(columns, file)
        if who := self._who(columns):
            label = self.label or _named(columns, LABEL_NAMES) or _last(columns, who, file)
            item, time, seconds = self._key(columns), self.time or _named(columns, _TIME), _named(columns, _SECONDS)
            say(f"{file}: a row a judgment: {who!r} says who, {label!r} what{f', {time!r} when' if time else ''}")
            yield from (_long(record, who, label, item, time, seconds) for record in records)
            return
        wide = self._wide(columns)
        if not wide:
            hint = "set `format: {kind: table, annotator: …, label: …}` or `annotators: […]`"
            raise DataError("no column says who judged", where=SourceLocation(file=file), hint=hint)
        say(f"{file}: a column an annotator: {', '.join(wide)}")
        yield from (_wide_item(record, wide, self._key(columns)) for record in records)

    def _check(self, columns: list[str], file: str) -> None:
        column_settings = {"annotator": self.annotator, "item": self.item, "label": self.label, "time": self.time}
        for field, name in [*column_settings.items(), *(("annotators", name) for name in self.annotators)]:
            if name is not None and name not in columns:
                what = f"there is no column {name!r}"
                raise DataError(
                    what, where=SourceLocation(file=file, line=1, field=field), hint=did_you_mean(name, columns)
                )

    def _who(self, columns: list[str]) -> str | None:
        if self.annotator or self.annotators:
            return self.annotator
        names = {*_WHO, *(f"{name}_id" for name in _WHO), *(f"{name}_name" for name in _WHO), "completed_by"}
        return _named(columns, names)

    def _wide(self, columns: list[str]) -> list[str]:
        if self.annotators:
            return list(self.annotators)
        return [name for name in columns if _A_COLUMN.fullmatch(name)]

    def _key(self, columns: list[str]) -> str | None:
        return self.item or _named(columns, _ITEM) or _named(columns, TEXT_NAMES)


def _named(columns: list[str], names: Any) -> str | None:
    """The first column whose name, in small letters, is among these; where names are in order, the first of them."""
    found = {name.lower(): name for name in reversed(columns)}
    if isinstance(names, (set, frozenset)):
        return next((name for name in columns if name.lower() in names), None)
    return next((found[name] for name in names if name in found), None)


def _last(columns: list[str], who: str, file: str) -> str:
    """The only column that could hold the label."""
    known = {*_ITEM, *_TIME, *_SECONDS, *TEXT_NAMES, who.lower(), "annotation_id", "updated_at", "origin", "meta"}
    left = [name for name in columns if name.lower() not in known]
    if len(left) == 1:
        return left[0]
    hint = "set `format: {kind: table, label: …}`"
    raise DataError(f"cannot tell which of {', '.join(left)} is the label", where=SourceLocation(file=file), hint=hint)


def _long(
    record: SourceRecord, who: str, label: str, item: str | None, time: str | None, seconds: str | None
) -> AnnotatedItem | BrokenRow:
    row = record.values
    if (name := to_optional_text(row.get(who))) is None:
        return BrokenRow(record.file, record.line, "nobody is named as annotator", who)
    own = {who, label, time, seconds}
    took = _number(row.get(seconds)) if seconds else None
    when, label_value = to_optional_text(row.get(time)) if time else None, _to_label_value(row.get(label))
    classes = classes_of_multilabel(label_value)
    annotation = Annotation(name, normalize_label(label_value), time=when, seconds=took, classes=classes)
    values = {column: value for column, value in row.items() if column not in own}
    return AnnotatedItem(_key(row, item), values, (annotation,), record.line)


def _wide_item(record: SourceRecord, annotators: list[str], item: str | None) -> AnnotatedItem:
    row = record.values
    labels_by_annotator = ((name, _to_label_value(row.get(name))) for name in annotators)
    annotations = tuple(
        Annotation(name, normalize_label(entry), classes=classes_of_multilabel(entry))
        for name, entry in labels_by_annotator
        if normalize_label(entry) is not None
    )
    values = {column: value for column, value in row.items() if column not in annotators}
    return AnnotatedItem(_key(row, item), values, annotations, record.line)


def _to_label_value(cell: Any) -> Any:
    """What a cell says; Label Studio's tables hold several choices as `{"choices": […]}`, in CSV as JSON text."""
    if isinstance(cell, str) and cell.startswith('{"choices"'):
        try:
            cell = json.loads(cell)
        except ValueError:
            return cell
    return cell["choices"] if isinstance(cell, dict) and isinstance(cell.get("choices"), list) else cell


def _key(row: dict[str, Any], item: str | None) -> str:
    return str(row.get(item)) if item else str(sorted(row.items()))


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
