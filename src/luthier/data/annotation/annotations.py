"""Annotations of items: one label or several, with annotator and time.

Labels with several classes are split for tools that accept lists and joined again in what comes back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from luthier.artifacts.annotation import Annotation

_ID = re.compile(r"[0-9a-f]{16}")
JUDGMENTS = "judgments"
"""The column of `meta` that keeps every judgment of a row."""
PROPOSAL = "proposal"
"""The column of `meta` that keeps what a model proposes: label, confidence, a score for each label, the model."""
_JUDGMENT_KEYS = ("annotator", "label", "time", "seconds", "question", "more", "classes")


class AnnotatedItem(NamedTuple):
    """One annotated item with its judgments."""

    key: str
    """The item's key in the file."""
    values: dict[str, Any]
    """Its columns."""
    judgments: tuple[Annotation, ...]
    line: int
    whole: bool = False
    """Whether its columns are the same wherever it stands: of two with one key, other columns tell another item."""

    @property
    def is_own(self) -> bool:
        """Return whether `luthier export` wrote this item as a question."""
        name, values = self.values.get("id"), self.values
        named = isinstance(name, str) and _ID.fullmatch(name) is not None
        return named and isinstance(values.get("origin"), dict) and isinstance(values.get("text"), str)


def judgment_to_json(annotation: Annotation) -> dict[str, Any]:
    """Return a judgment as stored in a row: the label, and every other key that has a value."""
    fields = {**annotation._asdict(), "label": annotation.value}
    return {name: fields[name] for name in _JUDGMENT_KEYS if fields[name] not in (None, {}, ())} | {
        "label": annotation.value
    }


def _judgment_from_json(judgment: Mapping[str, Any]) -> Annotation:
    known = {name: judgment[name] for name in _JUDGMENT_KEYS if name in judgment}
    return Annotation(value=known.pop("label", None), **known)


def with_span_texts(annotation: Annotation, fields: Mapping[str, Any]) -> Annotation:
    """The annotation with texts for spans that came without: of `text`, or of the first column that is long enough."""
    if not annotation.spans:
        return annotation
    longest = max(span.end for span in annotation.spans)
    texts = [
        field for field in (fields.get("text"), *fields.values()) if isinstance(field, str) and len(field) >= longest
    ]
    text = texts[0] if texts else ""
    spans = tuple(span if span.text else span._replace(text=text[span.start : span.end]) for span in annotation.spans)
    return annotation._replace(spans=spans)


def judgments_of(meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The judgments that a row keeps."""
    found = meta.get(JUDGMENTS)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def annotators_of(items: Iterable[AnnotatedItem]) -> list[str]:
    """Everybody who judged, sorted."""
    return sorted({judgment.annotator for item in items for judgment in item.judgments})


def to_agreement_table(items: Sequence[AnnotatedItem]) -> list[list[str | float | None]]:
    """Judgments as agreement is measured from: one row an item, one column an annotator; the last word counts.

    Labels that are all numbers are compared as numbers.
    """
    names = {name: at for at, name in enumerate(annotators_of(items))}
    number = all(_is_number(judgment.value) for item in items for judgment in item.judgments)
    rows: list[list[str | float | None]] = []
    for item in items:
        row: list[str | float | None] = [None] * len(names)
        for annotation in sort_by_time(item.judgments):
            row[names[annotation.annotator]] = (
                float(annotation.value) if number and annotation.value is not None else annotation.value
            )
        rows.append(row)
    return rows


def _is_number(label: str | float | None) -> bool:
    try:
        return label is None or float(label) == float(label)
    except ValueError:
        return False


def annotator_file_name(annotator: str) -> str:
    """The annotator's name as a file's: nothing that leads elsewhere."""
    return "".join(char if char.isalnum() or char in "._-@" else "_" for char in annotator).lstrip(".") or "_"


def sort_by_time(judgments: Iterable[Annotation]) -> list[Annotation]:
    """Sort judgments by time where all carry one; else keep the order of the file."""
    annotations = list(judgments)
    times = [_moment(annotation.time) for annotation in annotations]
    known = [time for time in times if time is not None]
    if len(known) < len(annotations):
        return annotations
    return [annotations[at] for at in sorted(range(len(annotations)), key=known.__getitem__)]


def last_judgment_of(judgments: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The last of some judgments that a row keeps."""
    return judgment_to_json(sort_by_time(map(_judgment_from_json, judgments))[-1])


def _moment(time: str | None) -> datetime | None:
    """A time in ISO 8601, in UTC where it names no zone; None for any other."""
    try:
        moment = datetime.fromisoformat(time or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def last_judgment_by_annotator(judgments: Iterable[Annotation]) -> list[Annotation]:
    """The judgments that have a label, the last of each annotator, by annotator."""
    found = {annotation.annotator: annotation for annotation in sort_by_time(judgments)}
    return [found[name] for name in sorted(found) if found[name].value is not None]


def merge_items_by_key(items: Iterable[AnnotatedItem]) -> list[AnnotatedItem]:
    """One item for each key, in the order of their first parts; where parts differ, the difference stays with the
    judgment."""
    parts: dict[str, list[AnnotatedItem]] = {}
    for item in items:
        parts.setdefault(item.key, []).append(item)
    return [_merged(same) for same in parts.values()]


def _merged(same: list[AnnotatedItem]) -> AnnotatedItem:
    first = same[0]
    if len(same) == 1:
        return first
    alike = {
        name
        for name, value in first.values.items()
        if all(annotated_item.values.get(name) == value for annotated_item in same)
    }
    judgments = [
        judgment._replace(
            more={
                **judgment.more,
                **{name: value for name, value in annotated_item.values.items() if name not in alike},
            }
        )
        for annotated_item in same
        for judgment in annotated_item.judgments
    ]
    values = {name: value for name, value in first.values.items() if name in alike}
    return AnnotatedItem(first.key, values, tuple(judgments), first.line)


TOGETHER = " | "
"""What stands between the classes of a judgment that came as a list."""
_MARKS = (";", "|", ",")


class ClassSeparator(NamedTuple):
    """What stands between the classes of one label."""

    text: str

    def apart(self, label: str) -> list[str]:
        """The classes of a label, each once, in its order."""
        parts = (part.strip() for part in label.split(self.text.strip()))
        return [*dict.fromkeys(part for part in parts if part)] or [label]

    def together(self, classes: Iterable[str], given: str | None = None) -> str:
        """Classes as one label; those of the label that was given are written as it was."""
        found = [*classes]
        same = given is not None and set(self.apart(given)) == set(found)
        return given if same and given is not None else self.text.join(found)


def labels_with_separator(labels: Collection[str], mark: str) -> list[str]:
    """The labels that have a mark between two parts."""
    return [label for label in labels if mark in label.strip(f" {mark}")]


def detect_class_separator(labels: Collection[str], most: int | None = None) -> ClassSeparator | None:
    """What stands between classes where labels hold several, which come again in other labels; None where each label
    is a class of its own. `most` is the number of labels, where only some are given."""
    for mark in _MARKS:
        found = labels_with_separator(labels, mark)
        parts = {part.strip() for label in labels for part in label.split(mark)} - {""}
        if found and len(parts) < (len(labels) if most is None else most):
            spaced = all(f" {mark} " in label for label in found), all(f"{mark} " in label for label in found)
            return ClassSeparator(f" {mark} " if spaced[0] else f"{mark} " if spaced[1] else mark)
    return None


def classes_of_multilabel(value: Any) -> tuple[str, ...]:
    """The classes of a judgment that came as a list of more than one, sorted; none of any other."""
    found = sorted(str(entry) for entry in value if entry is not None) if isinstance(value, (list, tuple)) else []
    return tuple(found) if len(found) > 1 else ()
