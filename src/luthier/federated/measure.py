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
from luthier.metrics.intervals import Z95, sum_rows, wilson_interval
from luthier.metrics.metric import EvalPredictions, Metric

if TYPE_CHECKING:
    from luthier.federated.local_training import FederatedTraining

SPLIT: Literal["test"] = "test"
"""The rows of a site that are measured."""
MOST_COLUMNS = 32
"""Sums of a metric of texts: more could be counts of words."""
PRODUCTS = " products"
"""After a metric's name, among a site's sums: those of products of its statistics."""
MOST_PRODUCTS = 64
"""Columns of a metric whose products are summed."""
SPARE_ROWS = 10
"""Rows beyond the number of columns that a site has where it sums products."""


def find_metric_obstacle(metric: Metric, classes: bool) -> str:
    """Return why sums of a metric cannot be pooled; empty when they can. `classes`: whether names of classes are
    shared.
    """
    if metric.scored:
        return f"{metric.kind} reads scores of a judge, which sites do not have"
    if metric.about == "classes" and not metric.proportion and not classes:
        return f"{metric.kind} has a column for each class, and only an objective over classes shares them"
    return ""


def sum_statistics(metric: Metric, answers: EvalPredictions, classes: Sequence[str]) -> list[float]:
    """The summed statistics of a site's answers, with columns that mean the same at all sites."""
    return [float(value) for value in sum_rows(_take_statistics(metric, answers, classes))[0]]


def sum_products(metric: Metric, answers: EvalPredictions, classes: Sequence[str]) -> list[float]:
    """The sums of products of each two statistics of a row (the upper triangle), by which values have intervals; none
    for a proportion, which needs none, nor where there are nearly as many of them as numbers of rows, which could then
    be worked out."""
    import numpy

    block = _take_statistics(metric, answers, classes)
    rows, columns = block.shape
    if metric.proportion or columns > MOST_PRODUCTS or rows < columns + SPARE_ROWS:
        return []
    dense = block.toarray() if hasattr(block, "toarray") else numpy.asarray(block)
    return [float(value) for value in (dense.T @ dense)[numpy.triu_indices(columns)]]


def _take_statistics(metric: Metric, answers: EvalPredictions, classes: Sequence[str]) -> Any:
    """(rows, columns): statistics of a site's answers; `InputError` where there are too many columns."""
    if not classes:
        block = metric.statistics(answers)
        if block.shape[1] > MOST_COLUMNS:
            raise InputError(f"{metric.kind} has {block.shape[1]} columns, which could tell of words of the rows")
        return block
    scores = [{name: float(name == label) for name in classes} for label in classes]
    every = EvalPredictions.of(
        list(classes), list(classes), label_scores=scores if answers.label_scores is not None else None
    )
    plain = replace(answers, logprobs=None, tokens=None, columns={}, clusters=None)
    return metric.together(plain, every)[0]


def pool_sums(
    metric: Metric,
    sums: Mapping[str, Sequence[float]],
    rows: Mapping[str, int],
    products: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """The value over all sites and at each, with intervals: Wilson's for a proportion, else from sums of products."""
    import numpy

    if len({len(found) for found in sums.values()}) != 1:
        raise InputError(f"sites sum {metric.kind} over different columns", hint="leave this metric out")
    columns = len(next(iter(sums.values())))
    size = columns * (columns + 1) // 2
    given = {name: numpy.asarray(own) for name, own in (products or {}).items() if len(own) == size}
    total = numpy.sum([numpy.asarray(found) for found in sums.values()], axis=0)
    whole = numpy.sum(list(given.values()), axis=0) if given.keys() == sums.keys() else None
    return {
        **_describe(metric, total, sum(rows.values()), whole),
        "sites": {
            name: _describe(metric, numpy.asarray(found), rows[name], given.get(name)) for name, found in sums.items()
        },
    }


def _describe(metric: Metric, sums: Any, rows: int, products: Any = None) -> dict[str, Any]:
    value = float(metric.value(sums[None])[0])
    found: dict[str, Any] = {"value": value, "rows": rows}
    if metric.proportion:
        low, high = wilson_interval(value * rows, rows)
        found |= {"low": low, "high": high}
    elif products is not None and rows > 1:
        half = Z95 * compute_standard_error(metric, sums, products, rows)
        least, most = metric.bounds
        found |= {"low": max(least, value - half), "high": min(most, value + half)}
    return found


def compute_standard_error(metric: Metric, sums: Any, products: Any, rows: int) -> float:
    """Return the standard error of a value computed from summed statistics, by the delta method: its gradient by the
    sums, and the covariance of the sums over rows.
    """
    import numpy

    columns = len(sums)
    moments = numpy.zeros((columns, columns))
    moments[numpy.triu_indices(columns)] = products
    moments += numpy.triu(moments, 1).T
    covariance = (moments - numpy.outer(sums, sums) / rows) * rows / (rows - 1)
    steps = numpy.diag(1e-5 * numpy.maximum(1.0, numpy.abs(sums)))
    slopes = (metric.value(sums + steps) - metric.value(sums - steps)) / (2 * steps.diagonal())
    return float(numpy.sqrt(max(0.0, float(slopes @ covariance @ slopes))))


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
    sums = {metric.kind: sum_statistics(metric, answers, classes) for metric in metrics}
    products = {f"{metric.kind}{PRODUCTS}": sum_products(metric, answers, classes) for metric in metrics}
    return len(ids), {**sums, **{name: found for name, found in products.items() if found}}


def describe_folder(folder: Path, digest: str, kind: str, makes: str, inputs: Mapping[str, Artifact]) -> Artifact:
    """Files of a site as an artifact that is in no store."""
    by_digest = {artifact.digest: artifact for artifact in inputs.values()}
    manifest = Manifest(
        digest=digest, kind=kind, makes=makes, settings={}, reads={}, code="", seed=0, files=list_files(folder),
        inputs={name: artifact.digest for name, artifact in inputs.items()},
    )  # fmt: skip
    return Artifact(folder, manifest, lambda digest: by_digest[digest])
