"""Reading a prepared data set: examples of a split, and the summary whose counts add up."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

from luthier.artifacts import parquet
from luthier.chat.messages import Example, ExampleOrigin, Message
from luthier.core.artifact import Artifact
from luthier.core.component import add_field_descriptions
from luthier.core.errors import UnknownName, did_you_mean
from luthier.core.events import take_evenly_spaced
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.step import ArtifactSpec, PlanContext

if TYPE_CHECKING:
    import polars

MADE = "augmented"
"""The key of `meta` under which a made row says who made it, out of which rows, and what was done."""
SUMMARY = "summary.json"
BATCH = 256
"""Examples that are read at once."""
OUTLINED = 256
"""Examples by which steps that are not made yet know a data set."""
_MESSAGES: TypeAdapter[tuple[Message, ...]] = TypeAdapter(tuple[Message, ...])


class SourceFileSummary(BaseModel):
    """Number of rows that were read from one source file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    file: str
    rows: int


class PrecisionRecall(BaseModel):
    """How right an operator was about one kind, on a labelled sample; rates with their 95 % intervals (Wilson)."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)
    expected: int
    """What the sample holds."""
    found: int
    recall: tuple[float, float, float] | None
    """The part of what was wanted that was found, and its interval; None when the sample holds none."""
    precision: tuple[float, float, float] | None
    """The part of what was found that was wanted, and its interval; None when nothing was found."""


class DatasetSummary(BaseModel):
    """What went in and what became of it (`summary.json`); every row is accounted for."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)
    rows_in: int
    rows: dict[str, int]
    """Rows by split."""
    dropped: dict[str, int]
    """Rows left out, by reason."""
    edited: dict[str, int]
    """Rows changed, by operator."""
    task: Literal["label", "text"]
    """Whether an answer is one of a few classes, or free text."""
    labels: list[str]
    """The classes, sorted; empty for free text."""
    choices: list[str] = []
    """Of rows without a label: the classes that they may have."""
    sources: list[SourceFileSummary]
    made: dict[str, int] = {}
    """Rows that were made here out of others, by augmenter, those that were refused included."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    """What operators counted: by operator, by what was found (such as `email`), by where (`user`, `meta.note`)."""
    measured: dict[str, dict[str, PrecisionRecall]] = {}
    """How right operators were on labelled samples, by operator and kind."""

    @model_validator(mode="after")
    def _adds_up(self) -> DatasetSummary:
        came = self.rows_in + sum(self.made.values())
        out = sum(self.rows.values()) + sum(self.dropped.values())
        if out != came:
            raise ValueError(f"{came} rows went in or were made and {out} came out: the books do not balance")
        return self

    @classmethod
    def read(cls, dataset: Artifact) -> DatasetSummary:
        """That of a data set."""
        return cls.model_validate(dataset.read_json(SUMMARY))

    def write(self, folder: Path) -> None:
        """Write `summary.json` into a folder."""
        write_atomically(folder / SUMMARY, (self.model_dump_json(indent=1) + "\n").encode())


def digest_dataset_content(dataset: Artifact) -> str:
    """Return a digest of what training and evaluation read of a data set: examples, attributes and media.

    It stays the same when other code makes the same rows. The events and the summary, which tell how the rows were
    made, are left out.
    """
    read = ("examples/", "attributes/", "media")
    files = sorted((entry.path, entry.digest) for entry in dataset.manifest.files if entry.path.startswith(read))
    return digest_of(files)


def list_source_datasets(artifact: Artifact) -> Iterator[Artifact]:
    """A data set, then those that it was made from, nearest first, as far as they are still in the store."""
    waiting, visited = [artifact], set[str]()
    while waiting:
        one = waiting.pop(0)
        if one.digest in visited or one.manifest.makes != "dataset":
            continue
        visited.add(one.digest)
        yield one
        for digest in one.manifest.inputs.values():
            with suppress(UnknownName):
                waiting.append(one.find(digest))


def has_split(artifact: Artifact, split: str) -> bool:
    """Whether the data set has rows in this split."""
    return any(entry.path == f"examples/{split}.parquet" for entry in artifact.manifest.files)


def list_splits(artifact: Artifact) -> list[str]:
    """The splits that the data set has: train first, then validation, then test."""
    order = ("train", "validation", "test")
    return [split for split in order if has_split(artifact, split)]


def read_split_frame(artifact: Artifact, split: str) -> polars.DataFrame:
    """A split's examples as a polars frame, in source order."""
    import polars as pl

    return pl.read_parquet(_split_file(artifact, split))


def read_examples(artifact: Artifact, split: str) -> list[Example]:
    """A split's examples, in source order."""
    return [_example(values) for values in read_split_frame(artifact, split).iter_rows(named=True)]


def read_example_batches(
    artifact: Artifact, split: str, indices: Sequence[int] | None = None, size: int = BATCH
) -> Iterator[list[Example]]:
    """A split's examples in source order, some at a time: memory does not grow with the data set.

    `wanted` holds the places of those that are read, in order; None: all.
    """
    begin = 0
    for batch in _stream(artifact, split, size):
        batch_indices = range(begin, begin + batch.num_rows)
        if indices is not None:
            batch_indices = indices[bisect_left(indices, begin) : bisect_left(indices, begin + batch.num_rows)]  # type: ignore[assignment]
        if len(batch_indices):
            chosen = batch.take([int(index) - begin for index in batch_indices])
            yield [_example(values) for values in chosen.to_pylist()]
        begin += batch.num_rows


def first_examples(artifact: Artifact, split: str, number: int) -> list[Example]:
    """So many of a split's examples at most, from its beginning."""
    return list(islice(chain.from_iterable(read_example_batches(artifact, split)), number))


def read_evenly_spaced_examples(artifact: Artifact, split: str, number: int) -> list[Example]:
    """So many of a split's examples at most, evenly from its first to its last."""
    return examples_at(artifact, split, take_evenly_spaced(range(DatasetSummary.read(artifact).rows[split]), number))


def preview_input_examples(plan_context: PlanContext, split: str, number: int) -> list[Example]:
    """Some examples that a step will read in `data`, whose artifact is made or expected."""
    if (artifact := plan_context.inputs.get("data")) is not None:
        return first_examples(artifact, split, number)
    rows = plan_context.outlines.get("data", ArtifactSpec()).examples
    return [Example.model_validate(entry) for entry in take_evenly_spaced(rows, number)]


def dataset_spec_of(plan_context: PlanContext, field: str = "data") -> ArtifactSpec:
    """Return the expected contents (rows, sample examples, task) of the data set that a step's field names, whether it
    exists yet or not."""
    if (artifact := plan_context.inputs.get(field)) is None:
        return plan_context.outlines.get(field, ArtifactSpec())
    dataset_summary, split = DatasetSummary.read(artifact), list_splits(artifact)[0]
    examples = read_evenly_spaced_examples(artifact, split, OUTLINED)
    return ArtifactSpec(
        rows=dataset_summary.rows,
        examples=tuple(map(dump_spec_example, examples)),
        task=dataset_summary.task,
        answers=dataset_summary.labels,
        how="of a data set that is made",
    )


def dump_spec_example(example: Example) -> dict[str, Any]:
    """Convert an example to the dict that `ArtifactSpec.examples` holds."""
    return example.model_dump(exclude_defaults=True)


def examples_at(artifact: Artifact, split: str, indices: Sequence[int]) -> list[Example]:
    """The examples at some places of a split, in the order asked; only what holds them is read."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(_split_file(artifact, split)) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        ends = list(accumulate(sizes))
        by_group: dict[int, list[int]] = {}
        for index in indices:
            by_group.setdefault(bisect_right(ends, index), []).append(index)
        found = {
            row_index: _example(values)
            for group, some in by_group.items()
            for row_index, values in _take_rows(file.read_row_group(group), some, ends[group] - sizes[group])
        }
    return [found[row_index] for row_index in indices]


def _take_rows(rows: Any, indices: Sequence[int], begin: int) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from zip(indices, rows.take([int(index) - begin for index in indices]).to_pylist(), strict=True)


def read_split_columns(artifact: Artifact, split: str, *names: str, size: int = BATCH) -> Iterator[dict[str, Any]]:
    """Some columns of a split, row by row in source order, read a batch at a time."""
    for batch in _stream(artifact, split, size, names):
        yield from batch.to_pylist()


def rows_with_tools(artifact: Artifact, split: str) -> Iterator[dict[str, Any]]:
    """File, line, messages and tools (as JSON) of a split's rows that have tools on offer, or may have a turn that
    calls one; the others are passed over unread."""
    import pyarrow.compute as pc

    for batch in _stream(artifact, split, 16 * BATCH, ("file", "line", "messages", "tools")):
        offers = pc.not_equal(batch.column("tools"), "[]")
        calls = pc.match_substring(batch.column("messages"), '"tool_calls"')
        yield from batch.filter(pc.or_(offers, calls)).to_pylist()


def _stream(artifact: Artifact, split: str, size: int, names: Sequence[str] | None = None) -> Iterator[Any]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(_split_file(artifact, split)) as file:
            yield from parquet.read_parquet_batches(file, size, names)
    except (ArrowException, OSError):
        artifact.check()  # a file that was changed is named as such
        raise


def _split_file(artifact: Artifact, split: str) -> Path:
    if not has_split(artifact, split):
        known = list_splits(artifact)
        raise UnknownName(f"the data set has no split {split!r}", hint=did_you_mean(split, known))
    return artifact.path(f"examples/{split}.parquet")


def _example(values: dict[str, Any]) -> Example:
    return Example(
        id=values["id"],
        origin=ExampleOrigin(source=values["source"], file=values["file"], line=values["line"]),
        kind=values["kind"],
        messages=_MESSAGES.validate_json(values["messages"]),
        label=values["label"],
        tools=tuple(json.loads(values["tools"])),
        meta=json.loads(values["meta"]),
    )
