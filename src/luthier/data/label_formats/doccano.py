"""Doccano's JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

from luthier.artifacts.annotation import AnnotatedSpan, Annotation
from luthier.data.annotation.annotations import AnnotatedItem, annotator_file_name, classes_of_multilabel
from luthier.data.label_format import LabelFormat, Rows, Say, normalize_label, to_optional_text
from luthier.data.row import BrokenRow, SourceRecord

_LABELS = ("label", "labels", "cats")
_SYSTEM_FIELDS = frozenset(
    {*_LABELS, "id", "annotations", "entities", "relations", "Comments", "comments", "judgments"}
)


class Doccano(LabelFormat):
    """Doccano's JSONL: `text` with a list of labels; a file a person, whose name is the file's.

    Old exports with `annotations` name the person in each. Spans stay with the judgment as `spans`, which is
    the question that asks for them; Doccano writes no times.
    """

    kind: Literal["doccano"] = "doccano"
    says: ClassVar[str] = "Doccano documents"
    order: ClassVar[int] = 30

    def fits(self, rows: Rows) -> bool:
        """Every row has a text (`data` in newer versions) and a list of labels or annotations."""
        return all(_text(row) is not None and _given(row) is not None for row in rows)

    def is_sure(self, rows: Rows) -> bool:
        """Every row has a number or a row's id of ours, too, and some have a class in their list (other tools list
        spans, or one word)."""
        listed = [_given(row) or () for row in rows]
        return (
            self.fits(rows)
            and all(isinstance(row.get("id"), int) or "row_id" in row for row in rows)
            and any(
                isinstance(entry, str) or (isinstance(entry, dict) and "user" in entry)
                for given in listed
                for entry in given
            )
        )

    def items(self, records: Sequence[SourceRecord], file: str, say: Say) -> Iterator[AnnotatedItem | BrokenRow]:
        """One item a document."""
        person = PurePosixPath(file).stem
        for index, record in enumerate(records):
            row = record.values
            text, given = _text(row), _given(row)
            if text is None or given is None:
                yield BrokenRow(record.file, record.line, "the document has no text or no list of labels")
                continue
            values = {name: value for name, value in row.items() if name not in _SYSTEM_FIELDS and name != "data"}
            key = to_optional_text(row.get("row_id")) or to_optional_text(row.get("id")) or str(index)
            named = {"id": values.pop("row_id")} if "row_id" in values else {}
            yield AnnotatedItem(
                key, {**named, **values, "text": text}, tuple(_judgments(row, given, person)), record.line
            )


def _text(row: dict[str, Any]) -> str | None:
    found = row.get("text", row.get("data"))
    return found if isinstance(found, str) else None


def _given(row: dict[str, Any]) -> list[Any] | None:
    return next((row[name] for name in (*_LABELS, "entities", "annotations") if isinstance(row.get(name), list)), None)


def _judgments(row: dict[str, Any], given: list[Any], person: str) -> Iterator[Annotation]:
    if isinstance(row.get("annotations"), list):
        for entry in row["annotations"]:
            time = to_optional_text(entry.get("created_at"))
            yield Annotation(
                to_optional_text(entry.get("user")) or person,
                normalize_label(entry.get("label", entry.get("text"))),
                time=time,
            )
        return
    spans = [entry for entry in given if isinstance(entry, (list, dict))]
    comments = row.get("Comments") or row.get("comments")
    more = {name: value for name, value in (("spans", spans), ("comments", comments)) if value}
    before = [entry for entry in row.get("judgments") or () if isinstance(entry, dict)]
    person = next(
        (name for entry in before if annotator_file_name(name := str(entry.get("annotator"))) == person), person
    )
    times = [entry for entry in before if entry.get("annotator") == person]
    time = to_optional_text(times[0].get("time")) if times else None
    labels = [entry for entry in given if isinstance(entry, (str, int, float))]
    marked = tuple(_spans(spans, str(_text(row))))
    classes = classes_of_multilabel(labels)
    yield Annotation(person, normalize_label(labels), time=time, more=more, classes=classes, spans=marked)


def _spans(given: list[Any], text: str) -> Iterator[AnnotatedSpan]:
    """Spans as lists of start, end and label, or as mappings."""
    for entry in given:
        start, end, label = (
            entry[:3] if isinstance(entry, list) and len(entry) > 2
            else (entry.get("start_offset"), entry.get("end_offset"), entry.get("label")) if isinstance(entry, dict)
            else (None, None, None)
        )  # fmt: skip
        if isinstance(start, int) and isinstance(end, int) and label is not None:
            yield AnnotatedSpan(start, end, text[start:end], str(label), "spans")
