"""Remember how good a recipe's models turned out, as numbers without texts, for advice on later data."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from luthier.artifacts.dataset import DatasetSummary, read_evenly_spaced_examples
from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary
from luthier.artifacts.training import TrainingRecord
from luthier.core.artifact import Artifact
from luthier.core.errors import LuthierError
from luthier.core.training_outcomes import TrainingOutcome, record_outcomes
from luthier.models.describe import describe_model_folder
from luthier.models.load import find_base_folder, is_endpoint, is_plain_classifier
from luthier.recipe.planner import PlannedStep, RecipePlan

FEWEST_ROWS = 50
"""Rows to train on and to measure on below which an outcome says too little."""
_PROMPTS = 64
_SETTINGS = ("epochs", "batch_size", "learning_rate")


def remember_outcomes(plan: RecipePlan, made: Iterable[PlannedStep]) -> None:
    """Remember the evaluations among some steps that were made just now."""
    outcome_records = [
        record for planned in made if planned.step.makes == "evaluation" for record in _outcomes(plan, planned)
    ]
    record_outcomes(outcome_records)


def _outcomes(plan: RecipePlan, planned: PlannedStep) -> Iterator[TrainingOutcome]:
    """The records of one evaluation: none of an endpoint, of few rows, and of a model that no recipe trained."""
    inputs = {field: plan.store.open(digest) for field, digest in planned.inputs.items() if plan.store.has(digest)}
    evaluation, model, data = plan.store.open(planned.digest), inputs.get("model"), inputs.get("data")
    if model is None or data is None or model.manifest.kind != "tune":
        return
    try:
        about, summary = EvaluationSummary.read(evaluation), DatasetSummary.read(data)
        training, scores = TrainingRecord.read(model), EvaluationMetrics.read(evaluation).models
        rows = training.rows or summary.rows.get("train", 0)
        if min(rows, about.rows) < FEWEST_ROWS:
            return
        words = [
            len(_asked(spaced_example).split())
            for spaced_example in read_evenly_spaced_examples(data, "train", _PROMPTS)
        ]
        parameters = _parameters(model)
    except LuthierError:  # an artifact of another version
        return
    plain = scores.get("tfidf", {})
    for metric, score in scores.get(about.subject, {}).items():
        if not 0 <= score.low <= score.value <= score.high <= 1:
            continue
        yield TrainingOutcome(
            digest=planned.digest,
            task=about.task,
            train_rows=rows,
            classes=len(summary.labels),
            prompt_words=round(statistics.fmean(words), 1) if words else 0,
            technique=_kind(training.technique),
            settings=_settings(model.manifest.settings),
            parameters=parameters,
            metric=metric,
            value=score.value,
            low=score.low,
            high=score.high,
            rows=about.rows,
            plain=plain[metric].value if metric in plain else None,
        )


def _asked(example: Any) -> str:
    return " ".join(message.content for message in example.messages if message.role == "user")


def _kind(technique: Mapping[str, Any] | str) -> str:
    return technique if isinstance(technique, str) else str(technique.get("kind", ""))


def _settings(settings: Mapping[str, Any]) -> dict[str, float | str]:
    return {name: settings[name] for name in _SETTINGS if isinstance(settings.get(name), (int, float))}


def _parameters(model: Artifact) -> int:
    if is_plain_classifier(model) or is_endpoint(model):
        return 0
    return describe_model_folder(find_base_folder(model)).parameters
