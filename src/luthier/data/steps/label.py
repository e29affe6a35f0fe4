"""The step that labels rows by rules that are weighed together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from luthier.artifacts.dataset import DatasetSummary, dataset_spec_of, dump_spec_example, list_splits
from luthier.chat.messages import Example, Message
from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counts_by_name, format_rows_affected
from luthier.core.files import write_atomically
from luthier.core.step import ArtifactSpec, DataRef, PlanContext, Step, StepContext, StepCostEstimate
from luthier.data.adjudicator import AdjudicatedLabel, Adjudicator
from luthier.data.adjudicators.generative_models import LabelModel
from luthier.data.annotation.label_function_stats import Votes, label_function_stats, votes_to_annotations
from luthier.data.engine.cache import DerivedDatasetWriter, prompt_or_answer_of, read_rows
from luthier.data.engine.tables import dump_cell_json
from luthier.data.label_function import LabelFunction, name_label_functions
from luthier.data.row import Row

ROWS_PER_S = 20_000
_SOME_LABEL = "label"
"""Stands for the classes of rows that have none yet: a word or two."""
WEAK, GIVEN = "weak", "given"
"""Columns of `meta`: the functions' votes with the confidence, and the label that a row had before."""


class LabelStep(Step):
    """Label rows by labelling functions whose votes are weighed together, and write a data set of labelled rows.

    Texts to continue become questions with the label as their answer. Every row keeps the votes in `meta.weak`, and a
    label that it had before in `meta.given`; `functions.json` tells coverage, conflicts and estimated accuracy.
    """

    kind: Literal["label"] = "label"
    makes: ClassVar[str] = "dataset"

    data: DataRef
    """The step that made the data set."""
    functions: tuple[LabelFunction, ...] = Field(min_length=1)
    """Who votes; a function may say nothing of a row."""
    rule: Adjudicator = LabelModel()
    """How one label is decided from several votes."""
    splits: Literal["auto", "train", "all"] = "auto"
    """Which splits are labelled. `auto`: only `train` where rows have classes already, so that held-out rows keep
    labels that no rule made; all where they have none."""
    undecided: Literal["drop", "keep"] = "drop"
    """Rows without a decision are left out with the reason, or keep the label that they have."""
    system: str | None = None
    """The system turn of labelled rows that have none."""

    @field_validator("functions", mode="before")
    @classmethod
    def _at_least_one(cls, value: object) -> object:
        if value in ([], (), None):
            raise ValueError("names no labelling function; `luthier components 'label function'` lists them")
        return value

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Let all vote, weigh the votes, and write the rows."""
        started = time.perf_counter()
        data = work.inputs["data"]
        dataset_summary = DatasetSummary.read(data)
        which = self._splits(work, labelled=dataset_summary.task == "label")
        names = name_label_functions(self.functions)
        votes: Votes = [[] for _ in names]
        given: list[str | None] = []
        for split in which:
            for rows in read_rows(data, split):
                for mine, function in zip(votes, self.functions, strict=True):
                    mine.extend(function.vote(rows))
                given += [row.answer if dataset_summary.task == "label" else None for row in rows]
                work.events.progress(len(given), sum(dataset_summary.rows.values()), "rows")
        verdicts = self.rule.decide(votes_to_annotations(names, votes))
        accounts = label_function_stats(names, votes, verdicts, given)
        self._write(work, which, list(zip(verdicts.decisions, zip(*votes, strict=True), strict=True)), names)
        write_atomically(
            work.folder / "functions.json",
            (dump_cell_json([account.as_json() for account in accounts]) + "\n").encode(),
        )
        for account in accounts:
            (work.events.note if account.votes else work.events.warning)(str(account))
        return {"rows_per_s": len(given) / max(time.perf_counter() - started, 1e-9)}

    def _splits(self, work: StepContext, *, labelled: bool) -> list[str]:
        found = list_splits(work.inputs["data"])
        if self.splits == "all" or (self.splits == "auto" and not labelled):
            return found
        if self.splits == "auto" and len(found) > 1:
            work.events.note("only training rows are labelled: held-out rows keep the labels that they have")
        if not labelled and len(found) > 1:
            what = "held-out rows have no classes, and only training rows are to be labelled"
            raise DataError(what, where=SourceLocation(field="splits"), hint="set `splits: all`")
        return ["train"]

    def _write(
        self,
        work: StepContext,
        which: list[str],
        decided: list[tuple[AdjudicatedLabel, tuple[str | None, ...]]],
        names: list[str],
    ) -> None:
        dataset_writer = DerivedDatasetWriter(work, work.inputs["data"])
        labels: set[str] = set()
        at = 0
        for split in list_splits(work.inputs["data"]):
            for rows in read_rows(work.inputs["data"], split):
                kept: list[Row] = []
                for row in rows:
                    new: Row | None = row
                    if split in which:
                        new = self._one(dataset_writer, row, *decided[at], names)
                        at += 1
                    if new is not None:
                        kept.append(new)
                labels.update(row.answer for row in kept)
                dataset_writer.keep(split, kept, [row.answer for row in kept])
        if not labels:
            reasons = ", ".join(sorted({decision.why.partition(":")[0] for decision, _ in decided}))
            raise DataError(
                f"no row is labelled: {reasons}", where=SourceLocation(field="functions"), hint="loosen the rules"
            )
        dataset_summary = dataset_writer.close(task="label", labels=sorted(labels))
        dropped = format_counts_by_name(dataset_summary.dropped)
        work.events.note(
            format_rows_affected(
                sum(dataset_summary.rows.values()), dataset_summary.rows_in, "has a label", "have a label"
            )
            + f"; {dropped}" * bool(dropped)
        )

    def _one(
        self,
        made: DerivedDatasetWriter,
        row: Row,
        decision: AdjudicatedLabel,
        votes: tuple[str | None, ...],
        names: list[str],
    ) -> Row | None:
        votes_by_name = {name: vote for name, vote in zip(names, votes, strict=True) if vote is not None}
        has_label = row.kind == "label"
        if decision.label is None and (self.undecided == "drop" or not has_label):
            made.drop(row, decision.why.replace("no judgment", "no vote"))
            return None
        meta = {**row.meta, WEAK: {"votes": votes_by_name, "confidence": decision.confidence}}
        if decision.label is None:
            return replace(row, meta=meta)
        before = row.answer if has_label else ""
        if before != decision.label:
            made.rewritten(row, f"labelled by {len(votes_by_name)} of {len(names)} functions", before, decision.label)
        if has_label:
            meta[GIVEN] = before
        return replace(row, meta=meta, kind="label", messages=self._turns(row, decision.label))

    def _turns(self, row: Row, label: str) -> tuple[Message, ...]:
        """The question as it was, answered by the label."""
        before = (
            row.messages[:-1]
            if row.prompt
            else (*row.messages[:-1], Message(role="user", content=prompt_or_answer_of(row)))
        )
        if self.system and not any(turn.role == "system" for turn in before):
            before = (Message(role="system", content=self.system), *before)
        return (*before, Message(role="assistant", content=label))

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """From the rows and the speed of the last time, or a common one."""
        return estimate_cost_by_rows(plan_context, ROWS_PER_S)

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """At most the rows of the data set, which all have a class; which ones there are is not known yet."""
        before = dataset_spec_of(plan_context)
        if before.task == "label":
            return before
        rows = [self._labelled(Example.model_validate(example)) for example in before.examples]
        examples, how = [dump_spec_example(row) for row in rows], "before any is left without a label"
        return replace(before, examples=examples, task="label", answers=(), how=how)

    def _labelled(self, example: Example) -> Example:
        """An example with some class for its answer."""
        row = Row(0, "", "", "", 0, example.kind, example.messages)
        return example.model_copy(update={"kind": "label", "messages": self._turns(row, _SOME_LABEL)})


def estimate_cost_by_rows(plan_context: PlanContext, usual_rows_per_s: float) -> StepCostEstimate:
    """The time for the rows of the data set at the speed of the last run, else at the usual one."""
    rows = preview_input_rows(plan_context)
    if rows is None:
        return StepCostEstimate(how="the data set is not made yet")
    speed = plan_context.history.get("measures", {}).get("rows_per_s") or usual_rows_per_s
    return StepCostEstimate(seconds=1 + rows / speed, how=f"{rows:,} rows at {speed:,.0f} rows/s")


def preview_input_rows(plan_context: PlanContext) -> int | None:
    """Rows of the data set that a step reads, made or expected."""
    if (artifact := plan_context.inputs.get("data")) is not None:
        return sum(DatasetSummary.read(artifact).rows.values())
    expected = plan_context.outlines.get("data")
    return sum(expected.rows.values()) if expected is not None and expected.rows else None
