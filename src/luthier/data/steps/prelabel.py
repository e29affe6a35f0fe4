"""The step that lets a model propose labels, with how sure it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from luthier.artifacts.dataset import DatasetSummary, dataset_spec_of, list_splits
from luthier.chat.messages import Message
from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.step import ArtifactSpec, DataRef, ModelRef, PlanContext, Step, StepContext, StepCostEstimate
from luthier.data.annotation.annotations import PROPOSAL
from luthier.data.annotation.confidence import fit_label_temperature, softmax_log_scores
from luthier.data.engine.cache import DerivedDatasetWriter, prompt_or_answer_of, read_rows
from luthier.data.row import Row
from luthier.data.steps.label import preview_input_rows
from luthier.models.lm.base import ChoiceRequest, ChoiceResponse

CHUNK = 32
"""Rows that are asked together."""
LEAST_ROWS = 20
"""Labelled rows that calibration wants."""
_DIGITS = 6


class Prelabel(Step):
    """Ask a model what label each row should have, and keep its proposal with a probability for every label.

    Rows and their answers stay as they are; `meta.proposal` has `label`, `confidence`, `scores` and `model`. Exports
    for annotators show it, the labelling function `proposal` votes with it, and `sample_for_labeling` goes by it.
    """

    kind: Literal["prelabel"] = "prelabel"
    makes: ClassVar[str] = "dataset"

    data: DataRef
    """The step that made the data set."""
    model: ModelRef = None
    """The step whose model is asked; left out, the recipe's own."""
    labels: tuple[str, ...] = ()
    """What it chooses from; left out, the classes of the data set."""
    normalize: Literal["sum", "mean", "prior"] = "sum"
    """How the scores of labels are made alike: as in the step `evaluate`."""
    calibrate: Literal["auto", "validation", "test", "off"] = "auto"
    """The split whose labels the probabilities are fitted to, by one temperature. `auto`: `validation`, and nothing
    where there is none, so that no test row is used up unasked."""
    system: str | None = Field(default=None)
    """The system turn for rows that have none; left out, it names the labels. It is asked, and not written."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Ask about every row, fit the temperature, and write the proposals."""
        from luthier.models.lm.cached import open_lm

        started = time.perf_counter()
        data = work.inputs["data"]
        dataset_summary = DatasetSummary.read(data)
        labels = self._labels(dataset_summary.labels or dataset_summary.choices)
        total = sum(dataset_summary.rows.values())
        lm = open_lm(work.inputs["model"], work.scratch / "asked", dtype="float32")
        scores: list[dict[str, float] | None] = []
        for rows in _all(data):
            for start in range(0, len(rows), CHUNK):
                chosen = lm.choose(self._asked(rows[start : start + CHUNK], labels), self.normalize)
                scores += [_scores(choice_response, labels) for choice_response in chosen]
            work.events.progress(len(scores), total, "rows")
        heat = self._temperature(work, labels, scores)
        dataset_writer = DerivedDatasetWriter(work, data)
        at = silent = 0
        for split in list_splits(data):
            for rows in read_rows(data, split):
                new = [
                    _with_proposal(row, scores[at + index], heat, work.inputs["model"].digest[:12])
                    for index, row in enumerate(rows)
                ]
                silent += sum(PROPOSAL not in row.meta for row in new)
                at += len(rows)
                is_label = dataset_summary.task == "label"
                dataset_writer.keep(split, new, [row.answer if is_label else None for row in rows])
        dataset_writer.close(task=dataset_summary.task, labels=dataset_summary.labels)
        if silent:
            work.events.warning(f"{silent} of {total} answers named none of the labels: these rows have no proposal")
        return {"rows_per_s": total / max(time.perf_counter() - started, 1e-9)}

    def _labels(self, known: list[str]) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(self.labels or known))
        if len(found) < 2:
            what = f"{format_counted_noun(len(found), 'label')} to choose from; at least two are wanted"
            raise RecipeError(
                what, where=SourceLocation(field="labels"), hint="the data set has no classes: name the labels"
            )
        return found

    def _asked(self, rows: list[Row], labels: tuple[str, ...]) -> list[ChoiceRequest]:
        system = self.system or f"Choose the class of the user's message. Answer with one of: {', '.join(labels)}."
        choice_requests: list[ChoiceRequest] = []
        for row in rows:
            before = row.messages[:-1] if row.prompt else (Message(role="user", content=prompt_or_answer_of(row)),)
            if not any(turn.role == "system" for turn in before):
                before = (Message(role="system", content=system), *before)
            choice_requests.append(ChoiceRequest(prompt=before, options=labels, tools=row.tools))
        return choice_requests

    def _temperature(self, work: StepContext, labels: tuple[str, ...], scores: list[dict[str, float] | None]) -> float:
        """Fitted on the labelled rows of a split; 1 where there are none."""
        data = work.inputs["data"]
        split_name = "validation" if self.calibrate == "auto" else self.calibrate
        if split_name == "off":
            return 1.0
        pairs = []
        at = 0
        for split in list_splits(data):
            for rows in read_rows(data, split):
                if split == split_name and DatasetSummary.read(data).task == "label":
                    pairs += list(zip(rows, scores[at : at + len(rows)], strict=True))
                at += len(rows)
        known = [
            (entry, row.answer) for row, entry in pairs if entry and len(entry) == len(labels) and row.answer in labels
        ]
        if len(known) < LEAST_ROWS:
            count = format_counted_noun(len(known), "labelled row")
            why = f"{count} in the split {split_name!r}; {LEAST_ROWS} are wanted"
            if self.calibrate != "auto":
                raise RecipeError(
                    f"cannot calibrate: {why}", where=SourceLocation(field="calibrate"), hint="set it to `off`"
                )
            work.events.note(f"the confidences are the model's own, not calibrated: {why}")
            return 1.0
        found = fit_label_temperature([entry for entry, _ in known], [label for _, label in known])
        work.events.note(f"calibrated on {len(known)} labelled rows of {split_name}: temperature {found:.3g}")
        return found

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """From the rows and the speed of the last time."""
        rows = preview_input_rows(plan_context)
        speed = plan_context.history.get("measures", {}).get("rows_per_s")
        if rows is None or not speed:
            return StepCostEstimate(
                how="the data set is not made yet" if rows is None else "no model was asked here yet"
            )
        return StepCostEstimate(seconds=rows / speed, how=f"{rows:,} rows at the {speed:.1f} rows/s of the last time")

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """The rows of the data set."""
        return dataset_spec_of(plan_context)


def _all(data: Artifact) -> Iterator[list[Row]]:
    for split in list_splits(data):
        yield from read_rows(data, split)


def _scores(choice: ChoiceResponse, labels: tuple[str, ...]) -> dict[str, float] | None:
    """A score by label; of a model that gives none, of the label that it named, if it named one."""
    if choice.index is None or choice.scores is not None:
        return choice.by_label(labels)
    return {labels[choice.index]: 0.0}


def _with_proposal(row: Row, scores: dict[str, float] | None, heat: float, model: str) -> Row:
    """The row with what the model proposes; a label that was named without scores has no confidence."""
    meta = {name: value for name, value in row.meta.items() if name != PROPOSAL}
    if not scores:
        return replace(row, meta=meta)
    shares = {label: round(share, _DIGITS) for label, share in softmax_log_scores(scores, heat).items()}
    best = min(shares, key=lambda label: (-scores[label], label))
    sure = shares[best] if len(shares) > 1 else None
    proposal = {"label": best, "confidence": sure, "scores": shares if sure is not None else {}, "model": model}
    return replace(row, meta={**meta, PROPOSAL: proposal})
