"""The step that makes one data set of several: so much of each to train on, and all that any of them held out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.artifacts.dataset import MADE, DatasetSummary, dataset_spec_of, has_split
from luthier.core.artifact import Artifact
from luthier.core.events import format_counted_noun, format_counts_by_name, take_evenly_spaced
from luthier.core.files import write_atomically
from luthier.core.hashing import digest_of
from luthier.core.param_space import ParamDistribution, list_unique_values
from luthier.core.step import ArtifactSpec, PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.data.augment.rows import read_split_batches
from luthier.data.dedup.shingles import digest8, prompt_key
from luthier.data.engine.mixture import MixtureSpec, mixture_row_counts
from luthier.data.engine.tables import EventWriter, RowEvent, TableWriter, dump_cell_json, example_schema
from luthier.data.row import MESSAGES, Row
from luthier.data.split import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_S = 20_000.0
"""Rows of all inputs, on one core of a common server."""
BASE_BYTES = 250 << 20
BYTES_PER_ROW = 300
"""What is remembered of a row while it is decided."""
Cells = dict[str, Any]
"""A row as it lies in a split's file."""
_SPLITS = (TEST, VALIDATION, TRAIN)
"""Who has the first claim on a text that stands in several."""


class Mix(Step):
    """Make one data set of several: training rows by weights or temperature, and the held-out rows of all of them.

    A row keeps its id and origin. What one data set holds out, none trains on: a training row with the prompt of
    another's held-out row is dropped, with the reason. Rows are drawn by the seed and their ids alone, so that more
    rows elsewhere do not exchange them. A row that stands more than once has copies with ids of their own.
    """

    kind: Literal["mix"] = "mix"
    makes: ClassVar[str] = "dataset"

    data: Annotated[tuple[str, ...], Reads("dataset"), Field(min_length=2)]
    """The data sets that are mixed."""
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """How much each data set counts, in the order of `data`: `[3, 1]` takes three rows of the first for one of the
    second. When not given, each counts by its size."""
    temperature: float = Field(default=1.0, ge=1)
    """Evens sizes out: a data set of n rows counts n^(1/temperature). 1 keeps the sizes, 5 favours small ones, a very
    large one makes all equal. Not together with `weights`."""
    rows: int | None = Field(default=None, ge=1)
    """Training rows in all. When not given: all that there are, as far as weights and `repeats` allow."""
    repeats: int = Field(default=1, ge=1, le=1000)
    """How often a row may stand at most: more than once lets small data sets fill their part by copies of their rows;
    at 1 the larger ones give fewer rows instead."""

    @model_validator(mode="after")
    def _fits_together(self) -> Mix:
        if self.weights is not None and len(self.weights) != len(self.data):
            raise ValueError(f"there are {len(self.data)} data sets and {len(self.weights)} weights; give one for each")
        if self.weights is not None and self.temperature != 1.0:
            raise ValueError("`weights` and `temperature` both say how much each data set counts; keep one")
        if twice := next((name for name in self.data if self.data.count(name) > 1), None):
            raise ValueError(f"{twice!r} is named twice in `data`; give it a larger weight instead")
        return self

    @property
    def ask(self) -> MixtureSpec:
        """How much is wished of each."""
        return MixtureSpec(self.weights, self.temperature, self.rows, self.repeats)

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Decide, draw, write; returns speed."""
        started = time.perf_counter()
        rows = _Mixing(self, work).run()
        return {"rows_per_s": rows / (time.perf_counter() - started)}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """From the rows of all inputs and the speed of the last time."""
        known = self._rows(plan_context)
        if any(entry is None for entry in known):
            return StepCostEstimate(peak_bytes=BASE_BYTES, how="not all of the data sets are made yet")
        total = sum(sum(entry.values()) for entry in known if entry)
        speed = float(plan_context.history.get("measures", {}).get("rows_per_s") or ROWS_PER_S)
        how = f"{total} rows at {speed:.0f} rows/s"
        return StepCostEstimate(seconds=1 + total / speed, peak_bytes=BASE_BYTES + total * BYTES_PER_ROW, how=how)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """The held-out rows of all, and so many training rows as weights and repeats allow."""
        known = [row for row in self._rows(plan_context) if row]
        if len(known) < len(self.data):
            return ArtifactSpec()
        rows = {split: sum(entry.get(split, 0) for entry in known) for split in (TEST, VALIDATION)}
        counts = mixture_row_counts([entry.get(TRAIN, 0) for entry in known], self.ask)
        outlines = [dataset_spec_of(plan_context, f"data.{at}") for at in range(len(self.data))]
        tasks = {artifact_spec.task for artifact_spec in outlines}
        return ArtifactSpec(
            rows={**{split: count for split, count in rows.items() if count}, TRAIN: sum(counts)},
            examples=_in_shares([artifact_spec.examples for artifact_spec in outlines], counts),
            task=tasks.pop() if len(tasks) == 1 else None,
            answers=sorted({answer for artifact_spec in outlines for answer in artifact_spec.answers}),
            how="by the sizes of the data sets, before those that another holds out are taken out",
        )

    def _rows(self, plan_context: PlanContext) -> list[Mapping[str, int] | None]:
        """Rows by split of each input, made or expected."""
        found: list[Mapping[str, int] | None] = []
        for at in range(len(self.data)):
            artifact = plan_context.inputs.get(f"data.{at}")
            found.append(
                DatasetSummary.read(artifact).rows
                if artifact
                else plan_context.outlines.get(f"data.{at}", ArtifactSpec()).rows
            )
        return found

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """How much each data set counts: as now, all the same, or one three times as much as the others."""
        if self.temperature != 1.0:
            return {"temperature": ParamDistribution(1.0, 10.0, log=True)}
        count = len(self.data)
        favoured = [tuple(3.0 if at == entry else 1.0 for at in range(count)) for entry in range(count)]
        return {
            "weights": ParamDistribution(values=list_unique_values((self.weights, None, (1.0,) * count, *favoured)))
        }


def _in_shares(examples: Sequence[Sequence[Mapping[str, Any]]], counts: Sequence[int]) -> list[Mapping[str, Any]]:
    """Examples of several data sets, as many of each as its part of the rows asks for."""
    known = [(some, count) for some, count in zip(examples, counts, strict=True) if some and count]
    scale = min((len(some) / count for some, count in known), default=0.0)
    return [entry for some, count in known for entry in take_evenly_spaced(some, max(1, round(count * scale)))]


@dataclass
class _Part:
    """One data set of a mixture, and what is decided of its rows."""

    name: str
    artifact: Artifact
    reasons: dict[str, dict[int, str]] = field(default_factory=lambda: {split: {} for split in _SPLITS})
    """Why a row is left out, by split and place."""
    ids: list[str] = field(default_factory=list)
    """Of the training rows."""
    times: dict[int, int] = field(default_factory=dict)
    """How often each training row stands, by place."""

    def tables(self, split: str) -> Iterator[tuple[int, list[Cells]]]:
        """Some rows of a split at a time, with the place of the first."""
        start = 0
        if has_split(self.artifact, split):
            for table in read_split_batches(self.artifact, split):
                yield start, table.to_pylist()
                start += table.num_rows

    @property
    def left(self) -> list[int]:
        """Places of training rows that may be drawn."""
        return [index for index in range(len(self.ids)) if index not in self.reasons[TRAIN]]


class _Mixing:
    """One making of the step's artifact."""

    def __init__(self, step: Mix, work: StepContext) -> None:
        self._step, self._work = step, work
        self._parts = [_Part(name, work.inputs[f"data.{at}"]) for at, name in enumerate(step.data)]
        self._summaries = [DatasetSummary.read(part.artifact) for part in self._parts]
        self._is_label = all(dataset_summary.task == "label" for dataset_summary in self._summaries)
        self._dropped: dict[str, int] = {}
        self._copies = 0

    def run(self) -> int:
        """Write the artifact; returns the rows that went in."""
        self._claim()
        counts = mixture_row_counts([len(part.left) for part in self._parts], self._step.ask)
        for part, count in zip(self._parts, counts, strict=True):
            _draw(part, count, self._work.seed)
            self._work.events.note(f"{part.name}: {format_counted_noun(count, 'training row')} of {len(part.ids)}")
        events = EventWriter(self._work.folder / "events.parquet")
        written = {split: self._write(split, events) for split in (TRAIN, VALIDATION, TEST)}
        events.close()
        dataset_summary = self._conclude({split: count for split, count in written.items() if count})
        return dataset_summary.rows_in

    def _claim(self) -> None:
        """Say of each row whether a row with a better claim has its prompt, or is the same row."""
        held: dict[int, str] = {}
        ids: dict[str, str] = {}
        for split in _SPLITS:
            before = dict(held)
            for part in self._parts:
                for start, rows in part.tables(split):
                    for index, row in enumerate(rows, start):
                        key = digest8(prompt_key(_row(row)))
                        if split == TRAIN:
                            part.ids.append(row["id"])
                        if (owner := before.get(key, part.name)) != part.name:
                            part.reasons[split][index] = f"held out in another data set: {owner}"
                        elif (other := ids.setdefault(row["id"], part.name)) != part.name:
                            part.reasons[split][index] = f"stands in another data set: {other}"
                        elif split != TRAIN:
                            held.setdefault(key, part.name)

    def _write(self, split: str, events: EventWriter) -> int:
        """The rows of one split; 0 when there are none, and no file."""
        path = self._work.folder / "examples" / f"{split}.parquet"
        writer: TableWriter | None = None
        for part in self._parts:
            for start, rows in part.tables(split):
                kept = list(self._kept(part, split, enumerate(rows, start), events))
                if kept:
                    writer = writer or TableWriter(path, example_schema())
                    writer.write(_table(kept))
        if writer is None:
            return 0
        writer.close()
        return writer.rows

    def _kept(self, part: _Part, split: str, rows: Iterable[tuple[int, Cells]], events: EventWriter) -> Iterator[Cells]:
        """The rows that stay, each as often as it was drawn; the others are told."""
        for index, row in rows:
            times = part.times.get(index, 0) if split == TRAIN else 1
            reason = part.reasons[split].get(index) or (None if times else f"not drawn: {part.name}")
            if reason is not None:
                kind = reason.partition(": ")[0]
                self._dropped[kind] = self._dropped.get(kind, 0) + 1
                events.write([RowEvent(row["id"], row["file"], row["line"], "mix", "drop", reason)])
                continue
            kept = row if self._is_label else _as_text(row)
            yield kept
            yield from (_copy(kept, number) for number in range(1, times))
            self._copies += times - 1

    def _conclude(self, rows: dict[str, int]) -> DatasetSummary:
        dataset_summary = DatasetSummary(
            rows_in=sum(sum(entry.rows.values()) for entry in self._summaries),
            rows=rows,
            dropped=dict(sorted(self._dropped.items())),
            edited={},
            task="label" if self._is_label else "text",
            labels=sorted({label for entry in self._summaries for label in entry.labels}) if self._is_label else [],
            sources=[source for entry in self._summaries for source in entry.sources],
            made={"mix": self._copies} if self._copies else {},
        )
        dataset_summary.write(self._work.folder)
        parts = {part.name: sum(part.times.values()) for part in self._parts}
        write_atomically(
            self._work.folder / "mix.json", (json.dumps(parts, indent=1, ensure_ascii=False) + "\n").encode()
        )
        why = f" ({format_counts_by_name(dataset_summary.dropped)})" if dataset_summary.dropped else ""
        self._work.events.note(
            f"{format_counted_noun(dataset_summary.rows_in, 'row')} in, {sum(dataset_summary.dropped.values())} "
            f"dropped{why}"
        )
        if self._is_label is False and any(entry.task == "label" for entry in self._summaries):
            self._work.events.note("not all data sets have classes, so classes are learnt as free text")
        return dataset_summary


def _draw(part: _Part, count: int, seed: int) -> None:
    """Whole rounds of all rows, then those whose seeded digests are the lowest."""
    left = part.left
    rounds, rest = divmod(count, len(left)) if left else (0, 0)
    ranked = sorted(left, key=lambda index: (digest8(f"{seed}:{part.ids[index]}"), part.ids[index]))
    part.times = {index: rounds for index in left if rounds}
    for index in ranked[:rest]:
        part.times[index] = rounds + 1


def _copy(row: Cells, number: int) -> Cells:
    """The same row once more, with an id of its own and a word on where it comes from."""
    made = {"by": "mix", "parents": [row["id"]], "did": ["repeated"], "copy": number}
    own = digest_of(["mix", row["id"], number])[:16]
    return {**row, "id": own, "meta": dump_cell_json({**json.loads(row["meta"]), MADE: made})}


def _as_text(row: Cells) -> Cells:
    """A row without its class: its answer is free text now."""
    return {**row, "label": None, "kind": "chat" if row["kind"] == "label" else row["kind"]}


def _row(row: Cells) -> Row:
    messages = MESSAGES.validate_json(row["messages"])
    return Row(0, row["id"], row["source"], row["file"], row["line"], row["kind"], messages)


def _table(rows: Sequence[Cells]) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_pylist(list(rows), schema=example_schema())
