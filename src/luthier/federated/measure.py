"""Metrics over sites: each site sums sufficient statistics of its held-out rows, and the sums give the pooled values.

A metric over classes has a column for each class. So that columns mean the same at all sites, every site adds a row of
each class before the statistics are taken, and leaves those rows out of the sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.artifact import Artifact, Manifest, list_files
from luthier.core.errors import InputError
from luthier.core.step import StepContext
from luthier.metrics.intervals import sum_rows, wilson_interval
from luthier.metrics.metric import EvalPredictions, Metric

if TYPE_CHECKING:
    from luthier.federated.local import FederatedTraining

SPLIT: Literal["test"] = "test"
"""The rows of a site that are measured."""
MOST_COLUMNS = 32
"""Sums of a metric of texts: more could be counts of words."""


def find_metric_obstacle(metric: Metric, classes: bool) -> str:
    """Why sums of a metric cannot be pooled; empty when they can. `classes`: whether names of classes are shared."""
    if metric.scored:
        return f"{metric.kind} reads scores of a judge, which sites do not have"
    if metric.about == "classes" and not metric.proportion and not classes:
        return f"{metric.kind} has a column for each class, and only an objective over classes shares them"
    return ""


def sum_statistics(metric: Metric, answers: EvalPredictions, classes: Sequence[str]) -> list[float]:
    """The summed statistics of a site's answers, with columns that mean the same at all sites."""
    if not classes:
        found = sum_rows(metric.statistics(answers))[0]
        if len(found) > MOST_COLUMNS:
            raise InputError(f"{metric.kind} has {len(found)} columns, which could tell of words of the rows")
        return [float(value) for value in found]
    scores = [{name: float(name == label) for name in classes} for label in classes]
    every = EvalPredictions.of(
        list(classes), list(classes), label_scores=scores if answers.label_scores is not None else None
    )
    plain = replace(answers, logprobs=None, tokens=None, columns={}, clusters=None)
    return [float(value) for value in sum_rows(metric.together(plain, every)[0])[0]]


def pool_sums(metric: Metric, sums: Mapping[str, Sequence[float]], rows: Mapping[str, int]) -> dict[str, Any]:
    """The value over all sites and at each, with an interval where it is a proportion."""
    import numpy

    if len({len(found) for found in sums.values()}) != 1:
        raise InputError(f"sites sum {metric.kind} over different columns", hint="leave this metric out")
    total = numpy.sum([numpy.asarray(found) for found in sums.values()], axis=0)
    return {
        **_describe(metric, total, sum(rows.values())),
        "sites": {name: _describe(metric, numpy.asarray(found), rows[name]) for name, found in sums.items()},
    }


def _describe(metric: Metric, sums: Any, rows: int) -> dict[str, Any]:
    value = float(metric.value(sums[None])[0])
    found: dict[str, Any] = {"value": value, "rows": rows}
    if metric.proportion:
        low, high = wilson_interval(value * rows, rows)
        found |= {"low": low, "high": high}
    return found


def measure_site(
    training: FederatedTraining, model: Artifact, work: StepContext, metrics: Sequence[Metric], classes: Sequence[str]
) -> tuple[int, dict[str, list[float]]]:
    """Held-out rows of a site, and the sums of each metric over a model's answers to them."""
    from luthier.eval.evaluator import TUNED
    from luthier.eval.predictions import read_answers
    from luthier.eval.steps.evaluate import Evaluate

    step = Evaluate(
        data="data", model="model", metrics=tuple(metrics), split=SPLIT, baselines=(), tasks=(), compare_base=False,
        dtype=training.dtype,
    )  # fmt: skip
    folder = work.scratch / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    step.make(replace(work, name="measure", inputs={**work.inputs, "model": model}, folder=folder))
    ids, answers = read_answers(describe_folder(folder, model.digest, "evaluate", "evaluation", {}), TUNED)
    return len(ids), {metric.kind: sum_statistics(metric, answers, classes) for metric in metrics}


def describe_folder(folder: Path, digest: str, kind: str, makes: str, inputs: Mapping[str, Artifact]) -> Artifact:
    """Files of a site as an artifact that is in no store."""
    by_digest = {artifact.digest: artifact for artifact in inputs.values()}
    manifest = Manifest(
        digest=digest, kind=kind, makes=makes, settings={}, reads={}, code="", seed=0, files=list_files(folder),
        inputs={name: artifact.digest for name, artifact in inputs.items()},
    )  # fmt: skip
    return Artifact(folder, manifest, lambda digest: by_digest[digest])
