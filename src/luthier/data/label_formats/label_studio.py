"""Label Studio's JSON export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from luthier.artifacts.annotation import AnnotatedSpan, Annotation
from luthier.data.annotation.annotations import AnnotatedItem, classes_of_multilabel, with_span_texts
from luthier.data.label_format import LabelFormat, Rows, Say, normalize_label, to_optional_text
from luthier.data.row import BrokenRow, SourceRecord

_VALUES = ("choices", "rating", "number", "text", "taxonomy", "selected", "datetime", "ranker")
"""Kinds of results that say something about the whole item, by the key of their value."""


class LabelStudio(LabelFormat):
    """Label Studio's JSON: tasks with `data` and `annotations` (`completions` in old versions).

    Choices, ratings, numbers, texts, taxonomies and pairwise choices become labels; spans and boxes stay with the
    judgment as `results`, and the question of a text's spans can be asked for. Cancelled annotations are kept as
    judgments without a label; drafts are none. A task without an `id`, and one that Luthier gave out, is known by the
    `id` of its data: of several projects, too.
    """

    kind: Literal["label_studio"] = "label_studio"
    says: ClassVar[str] = "Label Studio tasks"
    order: ClassVar[int] = 10

    def fits(self, rows: Rows) -> bool:
        """Every row has `data` and annotations."""
        return all(isinstance(row.get("data"), dict) and _annotations(row) is not None for row in rows)

    def is_sure(self, rows: Rows) -> bool:
        """Nobody else writes rows like these."""
        return self.fits(rows)

    def items(self, records: Sequence[SourceRecord], file: str, say: Say) -> Iterator[AnnotatedItem | BrokenRow]:
        """One item a task."""
        for index, record in enumerate(records):
            data, given = record.values.get("data"), _annotations(record.values)
            if not isinstance(data, dict) or given is None:
                yield BrokenRow(record.file, record.line, "the task has no `data` or no `annotations`")
                continue
            annotations = [judgment for each in given if isinstance(each, dict) for judgment in _judgments(each)]
            key = to_optional_text(record.values.get("id")) or to_optional_text(data.get("id")) or f"{file}:{index}"
            item = AnnotatedItem(
                key,
                dict(data),
                tuple(with_span_texts(annotation, data) for annotation in annotations),
                record.line,
                whole=True,
            )
            yield item._replace(key=data["id"], whole=False) if item.is_own else item


def _annotations(task: dict[str, Any]) -> list[Any] | None:
    found = task.get("annotations", task.get("completions"))
    return found if isinstance(found, list) else None


def _judgments(annotation: dict[str, Any]) -> Iterator[Annotation]:
    """What one annotator said: a judgment for each question that was answered, or one without a label."""
    values_by_question: dict[str, Any] = {}
    rest: list[Any] = []
    for result in annotation.get("result") or ():
        value, name = result.get("value"), result.get("from_name")
        kind = next((kind for kind in _VALUES if isinstance(value, dict) and kind in value), None)
        if kind is None or "start" in value or "x" in value or result.get("type", "").endswith("labels"):
            rest.append(result)
        else:
            values_by_question[str(name)] = _flat(value[kind]) if kind == "taxonomy" else value[kind]
    more: dict[str, Any] = {"results": rest} if rest else {}
    if annotation.get("was_cancelled"):
        values_by_question, more = {}, {**more, "status": "cancelled"}
    details: dict[str, Any] = {
        "annotator": _name(annotation.get("completed_by", annotation.get("annotator"))),
        "time": to_optional_text(annotation.get("created_at")),
        "seconds": annotation.get("lead_time"),
        "spans": None if annotation.get("was_cancelled") else tuple(span for entry in rest for span in _spans(entry)),
    }
    for name, value in values_by_question.items():
        yield Annotation(
            value=normalize_label(value), question=name, more=more, classes=classes_of_multilabel(value), **details
        )
    if not values_by_question:
        yield Annotation(value=None, more=more, **details)


def _spans(result: dict[str, Any]) -> Iterator[AnnotatedSpan]:
    """The labelled span that a result is, once for each label; boxes, sounds and relations are none."""
    value = result.get("value")
    value = {**value, **value.get("globalOffsets", {})} if isinstance(value, dict) else {}
    start, end, text = value.get("start"), value.get("end"), value.get("text") or ""
    if isinstance(start, int) and isinstance(end, int):
        for label in value.get(str(result.get("type"))) or value.get("labels") or ():
            yield AnnotatedSpan(start, end, str(text), str(label), str(result.get("from_name")))


def _flat(paths: Any) -> list[str]:
    return [" / ".join(map(str, path)) if isinstance(path, list) else str(path) for path in paths]


def _name(completed_by: Any) -> str:
    """An annotator: an id, or an object with an address or an id."""
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("username") or completed_by.get("id")
    return "unknown" if completed_by is None else str(completed_by)
