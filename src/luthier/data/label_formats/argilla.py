"""Argilla's records, as JSON or as rows of a `datasets` folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from luthier.artifacts.annotation import AnnotatedSpan, Annotation
from luthier.data.annotation.annotations import AnnotatedItem, classes_of_multilabel, with_span_texts
from luthier.data.label_format import LabelFormat, Rows, Say, normalize_label, to_optional_text
from luthier.data.row import BrokenRow, SourceRecord

_SYSTEM_FIELDS = frozenset({"id", "status", "_server_id", "inserted_at", "updated_at", "external_id", "vectors"})
_SUFFIX = ".responses"
_NESTED = ("meta", "turns", "tools")
"""What stands as JSON text in the metadata of a row that Luthier gave out."""


class Argilla(LabelFormat):
    """Argilla 2's records: `records.to_json` (nested), `records.to_datasets` (flat), and the feedback records of 1.x.

    Responses that were discarded are kept as judgments without a label; Argilla writes no times. A
    question of spans can be asked for.
    """

    kind: Literal["argilla"] = "argilla"
    says: ClassVar[str] = "Argilla records"
    order: ClassVar[int] = 20

    def fits(self, rows: Rows) -> bool:
        """Every row has fields and responses, or there are columns of responses with their users."""
        nested = all(isinstance(row.get("fields"), dict) and "responses" in row for row in rows)
        return nested or all(any(f"{name}.users" in row for name in row if name.endswith(_SUFFIX)) for row in rows)

    def is_sure(self, rows: Rows) -> bool:
        """Nobody else writes rows like these."""
        return self.fits(rows)

    def items(self, records: Sequence[SourceRecord], file: str, say: Say) -> Iterator[AnnotatedItem | BrokenRow]:
        """One item a record."""
        for index, record in enumerate(records):
            row = record.values
            if isinstance(row.get("fields"), dict):
                values = _whole({**row["fields"], **(row.get("metadata") or {})}, row)
                annotations = list(_nested(row.get("responses") or {}))
                texts = row["fields"]
            elif any(name.endswith(_SUFFIX) for name in row):
                values = _whole({name: value for name, value in row.items() if not _is_book(name, row)}, row)
                annotations = list(_flat(row))
                texts = values
            else:
                yield BrokenRow(record.file, record.line, "the record has neither fields nor responses")
                continue
            key = to_optional_text(row.get("id")) or to_optional_text(row.get("external_id")) or f"{file}:{index}"
            yield AnnotatedItem(
                key, values, tuple(with_span_texts(annotation, texts) for annotation in annotations), record.line
            )


def _whole(values: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The values of an item; one that Luthier gave out gets its id, origin and meta back."""
    origin = {name: values.get(f"origin.{name}") for name in ("source", "file", "line")}
    if None in origin.values() or not isinstance(values.get("meta"), str):
        return values
    rest = {name: value for name, value in values.items() if not name.startswith("origin.")}
    nested = {name: json.loads(values[name]) for name in _NESTED if isinstance(values.get(name), str)}
    return {**rest, "id": row.get("id"), "origin": origin, **nested}


def _is_book(name: str, row: dict[str, Any]) -> bool:
    """Whether a column of a flat record is about answers, and not of the item."""
    questions = [other.removesuffix(_SUFFIX) for other in row if other.endswith(_SUFFIX)]
    return name in _SYSTEM_FIELDS or any(
        name.startswith((f"{question}{_SUFFIX}", f"{question}.suggestion")) for question in questions
    )


def _nested(responses: Any) -> Iterator[Annotation]:
    """Responses by question; in feedback records of 1.x, a list with the questions inside."""
    if isinstance(responses, list):
        for response in responses:
            for question, answer in (response.get("values") or {}).items():
                yield _judgment(question, answer.get("value"), response.get("user_id"), response.get("status"))
        return
    for question, given in responses.items():
        for entry in given or ():
            yield _judgment(question, entry.get("value"), entry.get("user_id"), entry.get("status"))


def _flat(row: dict[str, Any]) -> Iterator[Annotation]:
    for name, values in row.items():
        if not name.endswith(_SUFFIX):
            continue
        users = row.get(f"{name}.users") or [None] * len(values or ())
        states = row.get(f"{name}.status") or [None] * len(values or ())
        for value, user, state in zip(values or (), users, states, strict=False):
            yield _judgment(name.removesuffix(_SUFFIX), value, user, state)


def _judgment(question: str, value: Any, user: Any, status: Any) -> Annotation:
    value = None if status in ("discarded", "draft") else value
    label_value = _to_label_value(value)
    more = {"status": status} if status else {}
    return Annotation(
        to_optional_text(user) or "unknown",
        normalize_label(label_value),
        question=question,
        more=more,
        classes=classes_of_multilabel(label_value),
        spans=tuple(_spans(value, question)) or None,
    )


def _spans(value: Any, question: str) -> Iterator[AnnotatedSpan]:
    """The spans of a response, still without their texts."""
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("start"), int) and isinstance(entry.get("end"), int):
            yield AnnotatedSpan(entry["start"], entry["end"], "", str(entry.get("label")), question)


def _to_label_value(value: Any) -> Any:
    """A ranking as its order, spans as nothing that could be compared."""
    if isinstance(value, list) and value and all(isinstance(entry, dict) and "rank" in entry for entry in value):
        return " > ".join(str(entry.get("value")) for entry in sorted(value, key=lambda entry: entry["rank"]))
    return None if isinstance(value, dict) or (isinstance(value, list) and any(map(_odd, value))) else value


def _odd(value: Any) -> bool:
    return isinstance(value, (dict, list))
