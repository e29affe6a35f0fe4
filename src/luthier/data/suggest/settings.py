"""Predict the size of a data set from the first rows, the size of the file and the split."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from luthier.artifacts.dataset import OUTLINED, dump_spec_example
from luthier.chat.messages import Example, ExampleOrigin
from luthier.core.errors import DataError, MissingExtra
from luthier.core.events import take_evenly_spaced
from luthier.core.messages import gettext_noop
from luthier.core.step import ArtifactSpec
from luthier.data.columns.mapping import MappedRecord
from luthier.data.columns.media import count_media
from luthier.data.engine.pipeline import with_split_group
from luthier.data.row import Row, SourceRecord, UnusableRowError
from luthier.data.source import Source, SourceSample
from luthier.data.split import TEST, TRAIN, VALIDATION, Split
from luthier.data.task import AnswerCounter

_MARKS_CHARS = 2
"""Separators and quotes around a value in a file."""
_LOOKING_S = 0.3
"""How long rows are looked at after the first of them; a file of some megabytes is read whole by then."""
_SAMPLING_S = 0.1
"""The same for rows that operators look at to say how long they take."""
_NAME_CHARS = 5
"""The same around a column's name where every row says it."""


def predict_dataset_spec(source: Source, split: Split, recipe_dir: Path) -> ArtifactSpec:
    """Rows by split, some of them, and what their answers are; what cannot be known is None."""
    sample = with_split_group(source, split).look(recipe_dir, _LOOKING_S)
    rows = _split(split, len(sample.rows) if sample.whole else _rows(sample, source.size(recipe_dir), source))
    if not sample.rows:
        return ArtifactSpec(rows=rows or None, how=gettext_noop("as the split says") if rows else "")
    answers = AnswerCounter()
    for _, parts in sample.rows:
        if parts.messages[-1].role == "assistant":
            answers.add(parts.messages[-1].content, parts.kind)
    return ArtifactSpec(
        rows=rows or None,
        examples=[
            dump_spec_example(_example(source, *entry))
            for entry in _with_media(source, recipe_dir, take_evenly_spaced(sample.rows, OUTLINED))
        ],
        task=answers.decide().task if answers.rows else None,
        answers=sorted(answers.labels),
        how=gettext_noop("before operators drop any" if sample.whole else f"told from the first {len(sample.rows):,}"),
    )


def sample_rows(source: Source, recipe_dir: Path, most: int) -> list[Row]:
    """At most so many rows, evenly spaced among the first ones that are read in a moment."""
    if source.size(recipe_dir) is None:
        return []
    looked = take_evenly_spaced(source.look(recipe_dir, _SAMPLING_S).rows, most)
    return [
        Row(
            number, f"{number:016x}", source.kind, record.file, record.line, parts.kind, parts.messages, meta=parts.meta
        )
        for number, (record, parts) in enumerate(looked)
    ]


def estimate_source_bytes(source: Source, recipe_dir: Path) -> int | None:
    """About how many bytes of a source are read, which may end with one of its first rows; None: it is not here."""
    size = source.size(recipe_dir)
    if size is None or source.limit is None or not (rows := source.look(recipe_dir, 0).rows):
        return size
    return min(size, round(source.limit * _mean(rows, source)))


def _example(source: Source, record: SourceRecord, parts: MappedRecord) -> Example:
    """A row as an example, before it has a name."""
    origin = ExampleOrigin(source=source.kind, file=record.file, line=record.line)
    return Example(id="", origin=origin, kind=parts.kind, messages=parts.messages, tools=parts.tools, meta=parts.meta)


def _with_media(
    source: Source, recipe_dir: Path, rows: Sequence[tuple[SourceRecord, MappedRecord]]
) -> Sequence[tuple[SourceRecord, MappedRecord]]:
    """Those of some rows whose pictures and sounds, which are most of their tokens, are read in a moment; all of them
    as they are where none is, for the step itself says why."""
    if not any(count_media(parts.messages, parts.meta) for _, parts in rows):
        return rows
    from luthier.data.engine.media import MediaIntake

    found = []
    with suppress(DataError, MissingExtra), closing(MediaIntake(source, recipe_dir)) as intake:
        end = math.inf
        for record, parts in rows:
            with suppress(UnusableRowError):
                found.append((record, intake.take(parts)))
            end = min(end, time.monotonic() + _LOOKING_S)  # from the first one on, which imports libraries
            if time.monotonic() > end:
                break
    return found or rows


def _rows(sample: SourceSample, size: int | None, source: Source) -> int | None:
    """The file's rows that can be used: its bytes over those of a row seen."""
    if not sample.rows or size is None:
        return source.limit
    number = max(len(sample.rows), round(size / _mean(sample.rows, source)))
    number = number if source.limit is None else min(number, source.limit)
    return round(number * len(sample.rows) / (len(sample.rows) + sample.left_out))


def _mean(rows: Sequence[tuple[SourceRecord, MappedRecord]], source: Source) -> float:
    """Bytes of a row in its file, one at least."""
    written = sum(_written(record, names_columns=source.names_columns) for record, _ in rows)
    return max(1.0, written / len(rows))


def _written(record: SourceRecord, *, names_columns: bool) -> int:
    """About how many bytes a file spends on a row."""
    values = sum(len(str(value).encode()) + _MARKS_CHARS for value in record.values.values())
    return values + sum(len(name.encode()) + _NAME_CHARS for name in record.values) if names_columns else values


def _split(split: Split, number: int | None) -> dict[str, int]:
    """Rows by split, as far as counts or the number of rows tell."""
    found: dict[str, int] = {}
    for name, part in ((TEST, split.test), (VALIDATION, split.validation)):
        if isinstance(part, int):
            found[name] = part
        elif number is not None:
            found[name] = round(part * number)
    if number is not None:
        left = max(0 if split.train == 0 else 1, number - sum(found.values()))
        found[TRAIN] = left if split.train is None else min(left, split.train)
    elif split.train is not None:
        found[TRAIN] = split.train
    return found
