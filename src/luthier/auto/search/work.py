"""The work of trainings and evaluations: floating-point operations, counted from rows and weights alone.

The counts are those of `luthier.tune.cost` without what a machine is quick at: they are the same on every machine, so
that a budget buys the same trials everywhere. What a technique without a network does is counted by its own measure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.artifacts.dataset import DatasetSummary
from luthier.core.artifact import Artifact
from luthier.core.step import PlanContext
from luthier.models.cost import RowEstimate, describe_step_model, estimate_rows
from luthier.models.load import is_endpoint
from luthier.tune.policy import PolicyObjective
from luthier.tune.techniques.plain import STEPS, PlainTechnique
from luthier.tune.techniques.prompt_search import PromptSearch

if TYPE_CHECKING:
    from luthier.models.describe import ModelDescription
    from luthier.tune.steps.tune import Tune

_CHARACTERS_A_FEATURE = 3.0
"""Characters of a text for each n-gram feature of one or two words."""
_UNKNOWN_PARAMETERS = 8e9
"""Assumed size of a model behind an endpoint."""
_NEW_TOKENS = 128
"""Most tokens that an evaluation lets a model write to a row."""


@dataclass(frozen=True, kw_only=True)
class WorkCounter:
    """Counts operations of trainings and evaluations on data sets, with one base model."""

    base: Artifact | None
    """The model that is tuned; None where none is read."""
    recipe_dir: Path
    _rows: dict[tuple[str, str, bool], RowEstimate | None] = field(default_factory=dict)
    """Row estimates, by data set, split, and whether their tokens are the base model's."""

    def count_training(self, step: Tune, data: Artifact) -> float:
        """Operations of a whole training on a data set's training rows."""
        context = self._context(step, data)
        rows = self._estimate_rows(context, "train")
        if rows is None:
            return 0.0
        if step.max_train_samples is not None:
            rows = rows._replace(number=min(rows.number, step.max_train_samples))
        if isinstance(step.technique, PlainTechnique):
            return STEPS * _count_words(rows, data) * 4
        model = self._describe(context)
        if isinstance(step.technique, PromptSearch):
            return step.technique.budget * _count_forward_flops(model, rows) * (1 + max(step.technique.shots or (0,)))
        return self._count_gradients(step, model, rows)

    def count_evaluation(self, step: Tune, data: Artifact, split: str) -> float:
        """Operations of answering a split's rows once with a model that the step makes."""
        context = self._context(step, data)
        rows = self._estimate_rows(context, split)
        if rows is None:
            return 0.0
        if isinstance(step.technique, PlainTechnique):
            return _count_words(rows, data)
        model = self._describe(context)
        written = min(_NEW_TOKENS, rows.answers) if DatasetSummary.read(data).task == "text" else 0.0
        parameters = model.parameters if model is not None else _UNKNOWN_PARAMETERS
        return rows.number * (_count_forward_flops(model, rows) + 2 * parameters * written)

    def _estimate_rows(self, context: PlanContext, split: str) -> RowEstimate | None:
        key = (context.inputs["data"].digest, split, "model" in context.inputs)
        if key not in self._rows:
            self._rows[key] = estimate_rows(None, context, split)
        return self._rows[key]

    def _count_gradients(self, step: Tune, model: ModelDescription | None, rows: RowEstimate) -> float:
        if model is None:
            return 0.0
        moving = 6 if step.technique.trainable(model) > model.parameters / 2 else 4
        examples = rows.number * step.epochs
        if step.max_steps is not None:
            examples = min(examples, step.max_steps * step.batch_size)
        trained, drawn = rows.answers, 0.0
        if isinstance(step.objective, PolicyObjective):
            trained = step.objective.trained_completions * step.objective.rollout.longest
            drawn = 2 * model.parameters * step.objective.rollout.num_generations * step.objective.rollout.longest
        tokens = rows.tokens + (trained if drawn else 0.0)
        head = 0.0 if step.objective.wants_head() else moving * model.vocab * model.hidden_size * trained
        attention = 12 * model.layers * model.heads * model.head_dim * tokens * tokens / 2
        body = moving * (model.parameters - model.embedding_parameters) * tokens
        return examples * (body + head + attention + drawn)

    def _context(self, step: Tune, data: Artifact) -> PlanContext:
        inputs = {"data": data}
        if step.technique.needs_model and self.base is not None:
            inputs["model"] = self.base
        return PlanContext(inputs=inputs, upstream={}, recipe_dir=self.recipe_dir)

    def _describe(self, context: PlanContext) -> ModelDescription | None:
        """The base model; None for one behind an endpoint."""
        artifact = context.inputs.get("model")
        return None if artifact is None or is_endpoint(artifact) else describe_step_model(context)


def _count_forward_flops(model: ModelDescription | None, rows: RowEstimate) -> float:
    """Operations of reading one row."""
    body = _UNKNOWN_PARAMETERS if model is None else model.parameters - model.embedding_parameters
    return 2 * body * rows.tokens


def _count_words(rows: RowEstimate, data: Artifact) -> float:
    """Features of all rows, for each class."""
    classes = max(2, len(DatasetSummary.read(data).labels))
    return rows.number * rows.characters / _CHARACTERS_A_FEATURE * classes
