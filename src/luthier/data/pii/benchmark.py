"""Measure precision and recall of PII detection on a labeled sample, with intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.artifacts.dataset import PrecisionRecall
from luthier.core.errors import DataError, SourceLocation, did_you_mean
from luthier.metrics.intervals import wilson_interval
from luthier.pii.span import KINDS, PiiSpan

_OVERLAP = 0.5
"""A find counts for a span when they share at least this part of all that either covers."""


class LabeledPiiText(NamedTuple):
    """A text and what really is in it."""

    text: str
    spans: tuple[PiiSpan, ...]


def read_labeled_texts(recipe_dir: Path, file: str) -> list[LabeledPiiText]:
    """Read `{"text", "spans": [{"start", "end", "kind"}]}`, one a line."""
    try:
        lines = (recipe_dir / file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        where = SourceLocation(file=file, field="labelled")
        raise DataError(f"the labelled sample cannot be read: {error.strerror}", where=where) from error
    return [_labelled(line, file, number) for number, line in enumerate(lines, 1) if line.strip()]


def _labelled(line: str, file: str, number: int) -> LabeledPiiText:
    where = SourceLocation(file=file, line=number)
    hint = 'write {"text": "…", "spans": [{"start": 0, "end": 4, "kind": "email"}]}'
    try:
        row: Any = json.loads(line)
        spans = [(int(entry["start"]), int(entry["end"]), str(entry["kind"])) for entry in row["spans"]]
        text = str(row["text"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("a text with its spans was wanted", where=where, hint=hint) from error
    for start, end, kind in spans:
        if kind not in KINDS:
            raise DataError(f"{kind!r} is no kind of personal data", where=where, hint=did_you_mean(kind, KINDS))
        if not 0 <= start < end <= len(text):
            message = f"a span from {start} to {end} does not lie in a text of {len(text)} characters"
            raise DataError(message, where=where)
    return LabeledPiiText(text, tuple(PiiSpan(start, end, kind, text[start:end]) for start, end, kind in spans))  # type: ignore[arg-type]  # checked above


def measure_precision_recall(
    sample: Sequence[LabeledPiiText], finds: Sequence[Sequence[PiiSpan]]
) -> dict[str, PrecisionRecall]:
    """Recall and precision of each kind that the sample holds or the finds name."""
    expected: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for pii_text, its_finds in zip(sample, finds, strict=True):
        for span in pii_text.spans:
            expected[span.kind] += 1
            hit[span.kind] += any(spans_match(span, other) for other in its_finds)
        for other in its_finds:
            counts[other.kind] += 1
            right[other.kind] += any(spans_match(span, other) for span in pii_text.spans)
    return {
        kind: PrecisionRecall(
            expected=expected[kind],
            found=counts[kind],
            recall=_rate(hit[kind], expected[kind]),
            precision=_rate(right[kind], counts[kind]),
        )
        for kind in KINDS
        if expected[kind] or counts[kind]
    }


def _rate(right: int, rows: int) -> tuple[float, float, float] | None:
    return (right / rows, *wilson_interval(right, rows)) if rows else None


def spans_match(span: PiiSpan, other: PiiSpan) -> bool:
    """Whether two spans of one kind mean the same piece of text."""
    shared = min(span.end, other.end) - max(span.start, other.start)
    covered = max(span.end, other.end) - min(span.start, other.start)
    return span.kind == other.kind and shared >= _OVERLAP * covered
