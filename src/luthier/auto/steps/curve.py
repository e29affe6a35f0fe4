"""The step that measures how much data is enough: any metric by number of training rows, read beyond the last size."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from luthier.artifacts.findings import COUNTS
from luthier.auto.curve.plain import list_sizes
from luthier.core.errors import RecipeError, SourceLocation
from luthier.core.step import DataRef, PlanContext, Step, StepContext, StepCostEstimate, TeacherRef
from luthier.eval.steps.evaluate import Evaluate
from luthier.metrics.learning_curve import FEWEST_SIZES
from luthier.metrics.metric import Metric
from luthier.tune.steps.tune import Tune

if TYPE_CHECKING:
    from luthier.auto.curve.subject import CurveSubject

BASE_BYTES = 380 << 20
"""Memory of the process with scikit-learn and scipy."""
FITS_PER_S = 700
"""Rows that the plain classifier learns in a second of one core, times sizes and draws; many classes take longer."""


class Curve(Step):
    """Measure a metric by number of training rows on nested draws, and foretell what more rows bring.

    Without `of` the plain classifier (TF-IDF with logistic regression) is trained at each size, in seconds. With `of`
    the model of that `tune` step is trained and evaluated at each size. Several laws of learning curves are averaged,
    each weighted by how well it foretells the largest sizes from the smaller ones.
    """

    kind: Literal["curve"] = "curve"
    makes: ClassVar[str] = "findings"

    data: DataRef
    """The step that made the data set."""
    of: TeacherRef = None
    """The `tune` step whose model is trained at each size; None: the plain classifier, for data with classes."""
    metric: Metric | None = None
    """What is measured; left out, that of `target`, else accuracy for classes and rougeL for texts."""
    split: Literal["validation", "test"] | None = None
    """Which rows are measured; left out, validation rows, or test rows where there are none. The plain classifier is
    measured on every fourth training row where nothing is held out."""
    sizes: tuple[float, ...] = Field(default=(0.125, 0.25, 0.375, 0.5, 0.75, 1.0), min_length=FEWEST_SIZES)
    """Shares of the training rows."""
    repeats: int | None = Field(default=None, ge=1)
    """Draws of each size for the plain classifier, 3 when left out. With `of` there is one, by the recipe's seed."""
    target: str | None = None
    """What is wanted, such as `macro_f1 >= 0.9`: the rows until it is reached are foretold."""
    by: str | None = None
    """Further curves: `class` for the F1 of each class, or a column of the rows (`channel`) for the metric on the rows
    of each value."""
    batch: int = Field(default=100, ge=1)
    """The rows of the next batch of labels: what they bring is a number of its own."""
    clean: int = Field(default=100, ge=1)
    """How many of the most doubtful labels a cleaning corrects, compared with adding `add` rows."""
    add: int = Field(default=500, ge=1)
    """How many rows are added in that comparison."""
    seconds_per_label: float | None = Field(default=None, gt=0)
    """How long a person takes to label a row; left out, the median of the rows that `annotations` measured, where
    there are any."""
    warning: float = Field(default=0.02, gt=0)
    """Gain from twice the rows, as a share of the metric's range, from which more rows are worth gathering, by the
    lower end of its interval."""

    @field_validator("sizes")
    @classmethod
    def _are_shares(cls, sizes: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share <= 1 for share in sizes) or len(set(sizes)) < len(sizes):
            raise ValueError("sizes are different shares of the training rows, over 0 and up to 1")
        if max(sizes) < 1:
            raise ValueError("the largest size is all training rows; add 1.0")
        return tuple(sorted(sizes))

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.of is not None and self.repeats is not None:
            raise ValueError("a model is trained once at each size; leave `repeats` out, or `of`")
        if self.target is not None:
            from luthier.auto.curve.findings import parse_target

            parse_target(self.target, self.metric)
        return self

    def list_children(self, steps: Mapping[str, Step]) -> Iterable[Step]:
        """A training and an evaluation, whose code decides what is measured."""
        of = steps.get(self.of or "")
        return () if of is None else (of, Evaluate(data=self.data))

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Measure, foretell, and write `findings.json` and `rows.parquet`."""
        from luthier.artifacts.findings import write_findings
        from luthier.auto.curve.findings import list_curve_findings

        started = time.perf_counter()
        subject = self._subject(work)
        findings, marks = list_curve_findings(self, subject, work.seed)
        write_findings(work.folder, findings, marks)
        for what, why in findings.skipped.items():
            work.events.note(f"{what} is left out: {why}")
        for finding in findings.findings:
            say = work.events.note if finding.severity == "info" else work.events.warning
            say(f"{finding.title}: {finding.sentence}")
        seconds = max(time.perf_counter() - started, 1e-9)
        learned = 0 if subject.answers is None else sum(subject.answers.counts) * (self.repeats or 3)
        return {"rows": subject.rows, **({} if self.of else {"fitted_rows_per_s": learned / seconds})}

    def _subject(self, work: StepContext) -> CurveSubject:
        from luthier.auto.curve import subject

        if self.of is not None:
            return subject.run_model(self, work)
        return subject.run_classifier(self, work)

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Estimate from the rows; for a model, from its training at each size."""
        if self.of is not None:
            tune = plan_context.upstream.get("of")
            if not isinstance(tune, Tune):
                kind = "no step" if tune is None else f"a step of kind {tune.kind}"
                what = f"a curve of a model needs a step of kind tune, got {kind}"
                raise RecipeError(what, where=SourceLocation(field="of"), hint="name a step of kind `tune`")
            if tune.data != self.data:
                what = f"the model learns from {tune.data!r}, and the curve is about {self.data!r}"
                raise RecipeError(what, where=SourceLocation(field="data"), hint=f"set `data: {tune.data}`")
            share = sum(self.sizes) - 1
            return StepCostEstimate(how=f"{share:.3g} times the training of {self.of!r}, and evaluations")
        outline = plan_context.outlines.get("data")
        if outline is not None and outline.task == "text":
            what = "answers are free text, which the plain classifier does not learn"
            raise RecipeError(what, where=SourceLocation(field="of"), hint="name a step of kind `tune` in `of`")
        rows = (outline.rows or {}).get("train") if outline else None
        if rows is None:
            return StepCostEstimate(peak_bytes=BASE_BYTES, how="the data are not here yet")
        speed = plan_context.history.get("measures", {}).get("fitted_rows_per_s")
        work = sum(list_sizes(rows, self.sizes)) * (self.repeats or 3)
        how = f"{work:,} rows to learn at {speed or FITS_PER_S:,.0f} rows/s ({'as last time' if speed else 'typical'})"
        return StepCostEstimate(seconds=3 + work / (speed or FITS_PER_S), peak_bytes=BASE_BYTES, how=how)

    def measured(self) -> tuple[str, ...] | None:
        """The numbers that every curve has; None where classes or slices name further ones."""
        from luthier.auto.curve.findings import NUMBERS, TARGET_NUMBERS

        return None if self.by else (*COUNTS, *NUMBERS, *(TARGET_NUMBERS if self.target else ()))
