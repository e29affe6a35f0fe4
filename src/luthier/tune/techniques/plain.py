"""The plain classifier: TF-IDF with logistic regression as a model to evaluate, serve and monitor."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.artifacts.dataset import DatasetSummary
from luthier.artifacts.training import TrainingRecord
from luthier.core.errors import DataError, SourceLocation
from luthier.core.events import format_counted_noun
from luthier.core.messages import gettext_noop
from luthier.core.param_space import ParamDistribution
from luthier.core.step import ArtifactSpec, PlanContext, StepContext, StepCostEstimate
from luthier.models.cost import estimate_rows
from luthier.models.describe import ModelDescription
from luthier.models.load import Dtype
from luthier.models.text_classifier import MIN_DF, WORDS, C, TextClassifierSettings
from luthier.tune.technique import StandaloneTechnique, write_settings

if TYPE_CHECKING:
    from luthier.chat.messages import Example
    from luthier.core.artifact import Artifact

NAME = "tfidf"
"""Display name of the model, since it has no base model."""
BASE_BYTES = 320 << 20
"""Memory of Python with polars and scikit-learn, without torch."""
FEATURES = (2.0, 0.72)
"""Factor and exponent of the number of features by characters (Heaps' law): within 2.7 times on six data sets of 500 to
10,000 rows."""
BYTES_A_WEIGHT = 256
"""In float64, with L-BFGS's ten corrections of two vectors each: 77 classes of 23,608 features took 0.47 GB."""
WEIGHT_STEPS_PER_S = 2.5e6
"""Weights times solver iterations a second, on one busy core of a server."""
STEPS = 35
"""Iterations of the solver: 15 to 49 on the same data sets."""
_START_S = 2.0
"""Imports and the reading of words, whatever the size: a fit of less than twice this tells nothing of the speed."""


class PlainTechnique(StandaloneTechnique):
    """TF-IDF of words with logistic regression: classes of short texts in seconds, without a base model.

    The same classifier as the baseline `tfidf`, so that both have the same figures on the same rows. It weighs words
    and not their order or meaning, and learns a class from a few dozen rows. Any scikit-learn opens what `export`
    writes.
    """

    kind: Literal["plain"] = "plain"
    reads_model: ClassVar[bool] = False

    c: float = Field(default=C, gt=0)
    """Inverse strength of regularization, scikit-learn's `C`: more follows the rows more closely."""
    words: int = Field(default=WORDS, ge=1, le=5)
    """Maximum words of an n-gram feature, the end of scikit-learn's `ngram_range`."""
    min_df: int = Field(default=MIN_DF, ge=1)
    """Minimum number of texts with an n-gram for it to be a feature: 2 makes a file of a third of the size."""

    def footprint(self, model: ModelDescription, tokens: int) -> int:
        """Return the bytes of a classifier's training: no weights of a base model are read."""
        return BASE_BYTES

    def fit(self, work: StepContext, examples: Sequence[Example], dtype: Dtype) -> dict[str, Any]:
        """Train on the user's text and the label of every row that has one."""
        from luthier.chat.messages import user_text_of
        from luthier.models.text_classifier import TextClassifier

        _check(work.inputs["data"])
        learned = [example for example in examples if example.label is not None]
        started = time.perf_counter()
        texts, labels = [user_text_of(example) for example in learned], [str(example.label) for example in learned]
        try:
            model = TextClassifier.fit(texts, labels, TextClassifierSettings(self.c, self.words, self.min_df))
        except DataError as error:
            raise DataError(error.message, where=SourceLocation(field="data"), hint=error.hint) from error
        seconds = time.perf_counter() - started
        model.save(work.folder)
        rows = format_counted_noun(len(learned), "row")
        work.events.note(f"{rows}, {len(model.classes)} classes, {model.features:,} runs of words as features")
        if missing := sorted({*DatasetSummary.read(work.inputs["data"]).labels} - {*model.classes}):
            none = "class has" if len(missing) == 1 else "classes have"
            work.events.warning(f"{len(missing)} {none} no training row and will never be named: {', '.join(missing)}")
        self._write_records(work, model, len(learned))
        _write_learnt(work, examples)
        return {"train_s": seconds, "weight_steps_per_s": model.numbers * model.iterations / max(seconds, 1e-3)}

    def _write_records(self, work: StepContext, model: Any, rows: int) -> None:
        """Write `model.json` and `training.json`."""
        write_settings(work.folder / "model.json", {"name": NAME, "origin": "made from the rows alone"})
        record = {
            "technique": self.settings(),
            "objective": {"kind": "classify"},
            "classes": list(model.classes),
            "features": model.features,
            "rows": rows,
            "steps": model.iterations,
            "trainable_parameters": model.numbers,
        }
        TrainingRecord.model_validate(record).write(work.folder)

    def estimate_cost(self, plan_context: PlanContext, rows: int | None) -> StepCostEstimate:
        """Estimate from the number of classes and the length of the rows; refuse data without labels."""
        artifact, ahead = plan_context.inputs.get("data"), plan_context.outlines.get("data", ArtifactSpec())
        if artifact is not None:
            _check(artifact)
        elif ahead.task not in (None, "label"):
            raise _no_classes(ahead.task)
        row_estimate = estimate_rows(rows, plan_context)
        if row_estimate is None:
            return StepCostEstimate(how=gettext_noop("unknown until the data are here; no base model is read"))
        classes = len(DatasetSummary.read(artifact).labels if artifact is not None else ahead.answers)
        factor, power = FEATURES
        weights = factor * (row_estimate.number * row_estimate.characters) ** power * (classes if classes != 2 else 1)
        pace, pace_source = _measure_rate(plan_context)
        return StepCostEstimate(
            seconds=round(_START_S + STEPS * weights / pace, 1),
            peak_bytes=BASE_BYTES + round(BYTES_A_WEIGHT * weights),
            tokens=0,
            how=gettext_noop(
                f"{format_counted_noun(row_estimate.number, 'row')} of {classes} classes; no base model is read"
            )
            + pace_source,
        )

    def outline(self, plan_context: PlanContext) -> ArtifactSpec:
        """Predict a model without a network."""
        return ArtifactSpec(network=False, headed=True, merging=self.merging, how="a plain classifier")

    def search_space(self) -> Mapping[str, ParamDistribution]:
        """Regularization, and the n-grams."""
        return {
            "c": ParamDistribution(0.1, 100.0, log=True),
            "words": ParamDistribution(1, 3, integer=True),
            "min_df": ParamDistribution(1, 3, integer=True),
        }


def _check(data: Artifact) -> None:
    if (task := DatasetSummary.read(data).task) != "label":
        raise _no_classes(task)


def _measure_rate(plan_context: PlanContext) -> tuple[float, str]:
    """Return weights times iterations a second, of the last plain classifier here, else the usual; and its source."""
    for measures in (plan_context.history.get("measures") or {}, *plan_context.paces):
        pace = measures.get("weight_steps_per_s")
        if pace and float(measures.get("train_s", 0.0)) >= 2 * _START_S:
            return float(pace), f"; {gettext_noop('speed of the last plain classifier on this machine')}"
    return WEIGHT_STEPS_PER_S, ""


def _no_classes(task: str) -> DataError:
    what = f"technique plain chooses one of a few classes, and the rows hold {task}s"
    hint = "set `task: label` in the step that prepares the data if the answers are classes, or take lora"
    return DataError(what, where=SourceLocation(field="technique"), hint=hint)


def _write_learnt(work: StepContext, examples: Sequence[Example]) -> None:
    """Write each row with whether it was trained on; it is read as words, so no tokens are counted."""
    import polars

    table = [
        {"id": example.id, "seen": int(example.label is not None), "tokens": 0, "learnt": 0, "cut": False}
        for example in examples
    ]
    polars.DataFrame(table).write_parquet(work.folder / "training_examples.parquet")
