"""Suggest the epochs and the batch size of a training on a small data set, and predict the data set's size.

The size is predicted from the first rows, the size of the file and the split.

The suggested epochs and batch sizes follow measurements with SmolLM2-135M, LoRA and default settings. Distinct classes
(188 rows of 5 from banking77, 188 of 6 from snips, 300 of 12 from banking77), accuracy on 100 held-out rows; TF-IDF
with logistic regression reaches 0.98, 0.98 and 0.94:

    steps of 32 rows     6    10    24    29    47    57
    banking77, 5      0.89        0.98        0.98
    snips, 6          0.86        0.97        0.98
    banking77, 12           0.72        0.86        0.95

Four epochs in 94 steps of 8 rows reach 0.98 and 0.97 on the first two, the same as 24 steps of 32.

Similar classes need more steps for the same epochs. Accuracy on 200 to 300 held-out rows (benchmarks/outcome.py):

    rows, classes         epochs   steps of 32      steps of 8       TF-IDF
    200, 5 about cards      4      0.755 in  25     0.895 in 100      0.900
    the same, other seed    4      0.750 in  25     0.875 in 100      0.895
    320, 5 about top-ups    3      0.785 in  30     0.930 in 120      0.850
    400, 12 on transfers    3      0.746 in  38     0.804 in 150      0.817
    the same                4                       0.829 in 200      0.817
    800 tweets, 3 (fresh)   1      0.663 in  25     0.683 in 100      0.533

Steps of 16 reach 0.845 on the top-ups, and six epochs in steps of 8 reach 0.925. So rows with classes get small steps
wherever steps of 32 would be few. Similar classes between 38 and 64 steps of 32 were not measured, nor more than twelve
classes. For free text there is one measurement, 400 replies in two epochs: 25 steps of 32 and 100 steps of 8 reach
ROUGE-L 0.340 and 0.344 and perplexity 2.82 and 2.57, the latter for a third more CPU time. Free text keeps large steps.

On thirteen labeled sets of 140 to 300 rows, the suggestion scores from 2.4 points below TF-IDF to 33.6 above it, and
never significantly below (benchmarks/results/outcome.txt).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from luthier.artifacts.dataset import OUTLINED, dump_spec_example
from luthier.chat.messages import Example, ExampleOrigin
from luthier.core.events import format_counted_noun, take_evenly_spaced
from luthier.core.step import ArtifactSpec
from luthier.data.columns.mapping import MappedRecord
from luthier.data.engine.pipeline import with_split_group
from luthier.data.row import SourceRecord
from luthier.data.source import Source, SourceSample
from luthier.data.split import TEST, TRAIN, VALIDATION, Split
from luthier.data.suggest.profile import SourceProfile
from luthier.data.task import AnswerCounter

ROWS_PER_STEP = 32
"""What a training averages over unless it is told otherwise."""
SMALL_STEP = 8
ENOUGH_STEPS = 24
"""Steps of 32 rows to which more passes go on: 768 rows are seen."""
STEPS_PER_CLASS = 4
"""Where classes are many, so many steps for each: 48 for twelve."""
ENOUGH_FOR_CLASSES = 64
"""Where passes over rows of classes come to fewer steps of 32, they are cut into small ones: 38 were too few for near
classes, 57 enough for others."""
MOST_PASSES = 8
"""More passes over rows of classes were not measured."""
MOST_PASSES_OF_TEXT = 4
"""Up to four passes teach nearly as much as fresh rows (Muennighoff et al., 2023, on pre-training); then texts are
learnt by heart."""


class TrainingSuggestion(NamedTuple):
    """Settings of a training, and why they are not the defaults; empty settings: the defaults are right."""

    settings: dict[str, int]
    why: str


def suggest_training(rows: int, classes: int) -> TrainingSuggestion:
    """What a training on so many rows asks for; `classes` is 0 where answers are free text."""
    target_steps = max(ENOUGH_STEPS, STEPS_PER_CLASS * classes)
    one_pass = math.ceil(rows / ROWS_PER_STEP)
    passes = min(math.ceil(target_steps / one_pass), MOST_PASSES if classes else MOST_PASSES_OF_TEXT)
    is_small = math.ceil(rows * passes / ROWS_PER_STEP) < (ENOUGH_FOR_CLASSES if classes else ENOUGH_STEPS)
    settings = {"epochs": passes} if passes > 1 else {}
    if is_small:
        settings["batch_size"] = SMALL_STEP
    if not settings:
        return TrainingSuggestion({}, "")
    size = settings.get("batch_size", ROWS_PER_STEP)
    steps = math.ceil(rows * passes / size)
    rows_text, times = format_counted_noun(rows, "row"), format_counted_noun(one_pass, "step")
    so_many = f"{steps} of {format_counted_noun(size, 'row')}"
    why = (
        f"one pass over about {rows_text} would be {times} of {ROWS_PER_STEP}, too few to learn from; this is {so_many}"
    )
    return TrainingSuggestion(settings, why)


def suggest_training_for_profile(
    rows: int, profile: SourceProfile, *, held_out: float, is_label: bool
) -> TrainingSuggestion:
    """What a training on so many rows of this profile asks for, a share of them held out."""
    classes = len(set(profile.answers) - set(profile.spellings)) if is_label else 0
    return suggest_training(max(1, round(rows * (1 - held_out))), classes)


_MARKS_CHARS = 2
"""Separators and quotes around a value in a file."""
_LOOKING_S = 0.3
"""How long rows are looked at after the first of them; a file of some megabytes is read whole by then."""
_NAME_CHARS = 5
"""The same around a column's name where every row says it."""


def predict_dataset_spec(source: Source, split: Split, recipe_dir: Path) -> ArtifactSpec:
    """Rows by split, some of them, and what their answers are; what cannot be known is None."""
    sample = with_split_group(source, split).look(recipe_dir, _LOOKING_S)
    rows = _split(split, len(sample.rows) if sample.whole else _rows(sample, source.size(recipe_dir), source))
    if not sample.rows:
        return ArtifactSpec(rows=rows or None, how="as the split says" if rows else "")
    answers = AnswerCounter()
    for _, parts in sample.rows:
        if parts.messages[-1].role == "assistant":
            answers.add(parts.messages[-1].content, parts.kind)
    return ArtifactSpec(
        rows=rows or None,
        examples=[dump_spec_example(_example(source, *one)) for one in take_evenly_spaced(sample.rows, OUTLINED)],
        task=answers.decide().task if answers.rows else None,
        answers=sorted(answers.labels),
        how="before operators drop any" if sample.whole else f"told from the first {len(sample.rows):,}",
    )


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
