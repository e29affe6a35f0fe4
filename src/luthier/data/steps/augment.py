"""The step that adds made rows to a data set's training split; every other split stays byte for byte."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.artifacts.dataset import MADE, SUMMARY, DatasetSummary, dataset_spec_of, list_splits
from luthier.artifacts.media import MEDIA_FOLDER, MediaReader, MediaWriter
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, RecipeError, SourceLocation
from luthier.core.events import format_counted_noun, format_counts_by_name
from luthier.core.files import translate_write_errors, write_atomically
from luthier.core.param_space import ParamDistribution
from luthier.core.step import ArtifactSpec, DataRef, PlanContext, Step, StepContext, StepCostEstimate, TeacherRef
from luthier.data.augment.checks import DraftChecker, DraftChecks, TfidfLabelClassifier
from luthier.data.augment.loop import AugmenterCounts, AugmentLoop
from luthier.data.augment.requests import AugmentBudget, name_augmenters, order_augment_jobs
from luthier.data.augment.rows import SplitRows, read_split_batches, rows_to_example_batch
from luthier.data.augmenter import AugmentContext, Augmenter
from luthier.data.dedup.near import NearDuplicateIndex
from luthier.data.dedup.shingles import text_to_compare
from luthier.data.engine.tables import EventWriter, TableWriter, dump_cell_json, example_schema
from luthier.data.operator import Operator
from luthier.data.split import TRAIN
from luthier.models.embeddings.base import EmbeddingSpace
from luthier.models.lm.base import LanguageModel

ROWS_PER_S = 400.0
"""Made rows, checks included, on one core of a common server; models take their own time."""
BASE_BYTES = 300 << 20


class Augment(Step):
    """Add rows that are made out of training rows; other splits are copied as they are.

    A made row has an id of its own, its augmenter as origin, and in `meta.augmented` its parents and what was done.
    Rows that fail a check are refused, counted, and listed in `events.parquet`; `augment.json` has the counts.
    """

    kind: Literal["augment"] = "augment"
    makes: ClassVar[str] = "dataset"

    data: DataRef
    """The data set whose training rows are added to."""
    model: TeacherRef = None
    """The step whose model is asked, by augmenters that ask one and by `checks.label: model`; `model` names the
    recipe's own."""
    augmenters: tuple[Augmenter, ...] = Field(min_length=1)
    """What makes rows; all share what `share` allows."""
    share: Annotated[float, Field(gt=0, le=0.95)] = 0.5
    """Made rows are at most this share of all training rows afterwards."""
    per_class: bool = False
    """Whether the share holds within each class as well."""
    checks: DraftChecks = Field(default_factory=DraftChecks)
    """What every made row is held to."""

    @field_validator("augmenters", mode="before")
    @classmethod
    def _at_least_one(cls, value: object) -> object:
        if value in ([], (), None):
            raise ValueError("names no augmenter; `luthier components augmenter` lists them")
        return value

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Read, make, check, write; returns speed."""
        started = time.perf_counter()
        made = _Augmenting(self, work).run()
        return {"made_per_s": made / (time.perf_counter() - started)}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """From the rows to be tried and the speed of the last time; what a model takes is not known."""
        self._refuse_without_model()
        rows = _train_rows(plan_context)
        if rows is None:
            return StepCostEstimate(peak_bytes=BASE_BYTES, how="the data set is not made yet")
        requested_rows = min(rows * sum(augmenter.copies for augmenter in self.augmenters), self._most(rows))
        speed = float(plan_context.history.get("measures", {}).get("made_per_s") or ROWS_PER_S)
        how = f"at most {requested_rows} rows at {speed:.0f} rows/s"
        if self.model is not None:
            return StepCostEstimate(peak_bytes=BASE_BYTES, how=f"{how}, and the time that the model takes")
        return StepCostEstimate(seconds=3 + requested_rows / speed, peak_bytes=BASE_BYTES, how=how)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """The rows of the data set, and as many made ones as the share allows."""
        before = dataset_spec_of(plan_context)
        rows = _train_rows(plan_context)
        if rows is None:
            return before
        requested_rows = min(rows * sum(augmenter.copies for augmenter in self.augmenters), self._most(rows))
        how = "with as many made ones as the share allows"
        return replace(before, rows={**(before.rows or {}), TRAIN: rows + requested_rows}, how=how)

    def _most(self, rows: int) -> int:
        return round(rows * self.share / (1 - self.share))

    def _refuse_without_model(self) -> None:
        asking = [augmenter.kind for augmenter in self.augmenters if augmenter.needs_model()]
        asking += ["checks.label: model"] if self.checks.label == "model" else []
        if asking and self.model is None:
            what = f"{asking[0]} asks a model, and the step names none"
            raise RecipeError(
                what, where=SourceLocation(field="model"), hint="add `model: model`, which is the recipe's own"
            )
        if not asking and self.model is not None:
            raise RecipeError("nobody asks the model", where=SourceLocation(field="model"), hint="leave it out")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """How many of the training rows are made."""
        return {"share": ParamDistribution(0.1, 0.8)}


def _train_rows(plan_context: PlanContext) -> int | None:
    """Training rows of the input, made or expected."""
    if (artifact := plan_context.inputs.get("data")) is not None:
        return DatasetSummary.read(artifact).rows.get(TRAIN)
    expected = plan_context.outlines.get("data")
    return expected.rows.get(TRAIN) if expected is not None and expected.rows else None


class _Augmenting:
    """One making of the step's artifact."""

    def __init__(self, step: Augment, work: StepContext) -> None:
        self._step, self._work = step, work
        self._data: Artifact = work.inputs["data"]
        self._before = DatasetSummary.read(self._data)
        step._refuse_without_model()
        self._named = name_augmenters(step.augmenters)
        with translate_write_errors(work.scratch):
            work.scratch.mkdir(parents=True, exist_ok=True)
            self._train = SplitRows.read(self._data, [TRAIN], work.scratch / "train.arrow")
            held = [split for split in list_splits(self._data) if split != TRAIN]
            self._held_out = SplitRows.read(self._data, held, work.scratch / "held_out.arrow")
        _refuse_taken_name(self._train)

    def run(self) -> int:
        """Write the artifact; returns how many rows were made."""
        folder, work = self._work.folder, self._work
        self._copy()
        maker = self._maker()
        events = EventWriter(folder / "events.parquet")
        writer = TableWriter(folder / "examples" / f"{TRAIN}.parquet", example_schema())
        for table in read_split_batches(self._data, TRAIN):
            writer.write(table)
        with MediaWriter(folder) as media, MediaReader(self._data) as reader:
            maker.add_media = media.add
            maker.around = replace(maker.around, read_media=reader.read)
            for rows, happened in maker.run(order_augment_jobs(self._named, self._train, work.seed)):
                if rows:
                    labels = [row.answer if self._train.classes else None for row in rows]
                    writer.write(rows_to_example_batch(rows, labels))
                events.write(happened)
                done = sum(tally.kept for tally in maker.tallies.values())
                work.events.progress(done, done + maker.budget.whole, "rows made")
        writer.close()
        events.close()
        self._conclude(maker.tallies)
        return sum(tally.made for tally in maker.tallies.values())

    def _copy(self) -> None:
        """Everything but the training split, the events, the books and the media, as it is."""
        own = {f"examples/{TRAIN}.parquet", "events.parquet", SUMMARY, "augment.json"}
        for entry in self._data.manifest.files:
            if entry.path not in own and not entry.path.startswith(f"{MEDIA_FOLDER}/"):
                target = self._work.folder / entry.path
                with translate_write_errors(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self._data.path(entry.path), target)

    def _maker(self) -> AugmentLoop:
        step, work, checks = self._step, self._work, self._step.checks
        lm: LanguageModel | None = None
        if step.model is not None:
            from luthier.models.lm.cached import open_lm

            lm = open_lm(work.inputs["model"], work.scratch / "asked")
        judged = checks.label == "classifier" and self._train.classes
        classifier = TfidfLabelClassifier.learn(self._train) if judged else None
        if judged and classifier is None:
            work.events.note("no classifier can be learnt from these rows: classes of made rows are not checked")
        index = NearDuplicateIndex(checks.held_out, self._held_out.rows(), self._held_out.row)
        inspector = DraftChecker(checks, self._train, index, self._held_out.ids, classifier, lm, self._space())
        budget = AugmentBudget.of(step.share, self._named, self._train, per_class=step.per_class)
        context = AugmentContext(
            recipe_dir=work.recipe_dir, seed=work.seed, events=work.events, train=self._train, lm=lm
        )
        return AugmentLoop(self._named, context, inspector, budget, self._guards())

    def _space(self) -> EmbeddingSpace | None:
        """Where the meanings of training rows and what is made of them lie, when they are checked."""
        meaning = self._step.checks.meaning
        if meaning is None:
            return None
        texts = (text_to_compare(row, "prompt") for row in self._train.rows())
        return meaning.embedder.space(texts, recipe_dir=self._work.recipe_dir, seed=self._work.seed)

    def _guards(self) -> list[Operator]:
        """The operators of the recipes behind the data set that know what may not stand in clear."""
        operators = [Operator.parse(entry) for entry in _operators_behind(self._data)]
        return [operator for operator in operators if type(operator).secrets is not Operator.secrets]

    def _conclude(self, tallies: Mapping[str, AugmenterCounts]) -> None:
        """Write the books and say them."""
        kept = sum(tally.kept for tally in tallies.values())
        refused: dict[str, int] = {}
        for tally in tallies.values():
            for reason, count in tally.refused.items():
                refused[f"made, {reason}"] = refused.get(f"made, {reason}", 0) + count
        rows = {**self._before.rows, TRAIN: self._before.rows[TRAIN] + kept}
        summary = DatasetSummary(
            rows_in=sum(self._before.rows.values()),
            rows=rows,
            dropped=dict(sorted(refused.items())),
            edited={},
            task=self._before.task,
            labels=self._before.labels,
            sources=self._before.sources,
            made={name: tally.made for name, tally in tallies.items()},
        )
        folder = self._work.folder
        summary.write(folder)
        stats = {name: tally.as_json() for name, tally in tallies.items()}
        write_atomically(folder / "augment.json", (dump_cell_json(stats) + "\n").encode())
        for line in _sentences(tallies):
            self._work.events.note(line)
        if not kept:
            self._work.events.warning("no row was made that passed the checks: the training rows are as they were")


def _operators_behind(data: Artifact) -> Iterator[Any]:
    """Settings of all operators that a data set went through, also in the data sets that it was made of."""
    yield from data.manifest.settings.get("ops", ())
    for name in data.manifest.inputs:
        if name.partition(".")[0] == "data":
            yield from _operators_behind(data.parent(name))


def _sentences(tallies: Mapping[str, AugmenterCounts]) -> Iterator[str]:
    for name, tally in tallies.items():
        why = format_counts_by_name(dict(sorted(tally.refused.items())))
        refused = f", {tally.refused.total()} refused ({why})" if why else ""
        nothing = f", {format_counted_noun(tally.nothing, 'row')} gave it nothing to change" if tally.nothing else ""
        yield f"{name}: {tally.tried} tried, {tally.kept} kept{refused}{nothing}"


def _refuse_taken_name(train: SplitRows) -> None:
    """Made rows are told by a key of `meta`: a column of that name cannot be."""
    for index in train.made:
        row = train.row(index)
        if not isinstance(row.meta[MADE], dict) or "parents" not in row.meta[MADE]:
            where = SourceLocation(file=row.file, line=row.line, field=MADE)
            what = f"the data has a column {MADE!r}, under which made rows say where they come from"
            raise DataError(what, where=where, hint="rename the column")
