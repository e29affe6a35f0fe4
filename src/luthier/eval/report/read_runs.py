"""Several evaluations beside each other: what each model scored, and how far it is from the first on the same rows."""

from __future__ import annotations

from collections.abc import Mapping

from luthier.core.artifact import Artifact
from luthier.core.errors import InputError
from luthier.eval.compare import compare_evaluations
from luthier.eval.report.facts.fact import Score
from luthier.eval.report.facts.models import Comparison, RunFacts
from luthier.metrics.paired import holm
from luthier.text.evaluation import EvaluationMetrics, EvaluationSummary, MetricScore


def run_facts(evaluations: Mapping[str, Artifact]) -> tuple[RunFacts, ...]:
    """The models that the evaluations are about, the first one first; each is compared with it where that can be.

    The p values are corrected (Holm) over all comparisons that are shown.
    """
    found = []
    first = next(iter(evaluations.values()))
    for name, evaluation in evaluations.items():
        about = EvaluationSummary.read(evaluation)
        scores = EvaluationMetrics.read(evaluation).models[about.subject]
        compared, why = ((), "") if evaluation is first else _compared(evaluation, first, name)
        found.append(
            RunFacts(
                name=name,
                model=about.subject,
                rows=about.rows,
                scores={metric: as_fact(score) for metric, score in scores.items()},
                compared=compared,
                why=why,
            )
        )
    return _corrected(found)


def as_fact(score: MetricScore) -> Score:
    """A number with its interval as a fact of a report."""
    return Score(value=score.value, low=score.low, high=score.high, signature=score.signature)


def _compared(evaluation: Artifact, first: Artifact, name: str) -> tuple[tuple[Comparison, ...], str]:
    try:
        told = compare_evaluations(evaluation, first)
    except InputError as error:
        return (), error.message
    known = Comparison.model_fields
    rows = [{**{key: row[key] for key in known if key in row}, "a": name, "b": ""} for row in told["comparisons"]]
    return tuple(Comparison.model_validate(row) for row in rows), ""


def _corrected(runs: list[RunFacts]) -> tuple[RunFacts, ...]:
    adjusted = iter(holm([1.0 if one.p is None else one.p for run in runs for one in run.compared]))
    return tuple(
        run.model_copy(
            update={"compared": tuple(one.model_copy(update={"p_holm": next(adjusted)}) for one in run.compared)}
        )
        for run in runs
    )
