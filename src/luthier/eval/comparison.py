"""Compare two evaluations: the models that they are about, on the same rows, measured in the same way."""

from __future__ import annotations

from typing import Any

from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, RecipeError
from luthier.eval.predictions import read_answers
from luthier.metrics.metric import Metric
from luthier.metrics.paired import adjust_comparisons_holm, check_signatures, compare_paired

SHOWN = 50
"""Rows listed of each kind of flip."""


def compare_evaluations(a: Artifact, b: Artifact, *, seed: int = 0) -> dict[str, Any]:
    """`a`'s model minus `b`'s in every metric that both have; refuses, with the reason, what cannot be compared.

    `{"a", "b", "rows", "comparisons": [...], "fixed": [ids], "broken": [ids]}`; flips (for labels) are rows that b's
    model had wrong and a's has right, and the other way round.
    """
    about_a, about_b = EvaluationSummary.read(a), EvaluationSummary.read(b)
    if about_a.task != about_b.task:
        raise RecipeError(f"one evaluation is about {about_a.task}s, the other about {about_b.task}s")
    ids_a, answers_a = read_answers(a, about_a.subject)
    ids_b, answers_b = read_answers(b, about_b.subject)
    if about_a.rows_digest != about_b.rows_digest:
        raise DataError(_difference(ids_a, ids_b), hint=_HINT)
    family = []
    for metric in _shared(a, b, about_a.subject, about_b.subject):
        family.append(compare_paired(metric, answers_a, answers_b, seed=seed))
    fixed, broken = _flips(a, b, about_a.subject, about_b.subject) if about_a.task == "label" else ([], [])
    return {
        "a": {"artifact": a.digest, "model": about_a.subject, "digest": about_a.digests[about_a.subject]},
        "b": {"artifact": b.digest, "model": about_b.subject, "digest": about_b.digests[about_b.subject]},
        "rows": len(ids_a),
        "comparisons": [{"a": "a", "b": "b", **comparison.as_json()} for comparison in adjust_comparisons_holm(family)],
        "fixed": fixed[:SHOWN],
        "broken": broken[:SHOWN],
    }


def _shared(a: Artifact, b: Artifact, subject_a: str, subject_b: str) -> list[Metric]:
    """Metrics that both evaluations have, with the settings of the first; signatures must agree."""
    scores_a = EvaluationMetrics.read(a).models[subject_a]
    scores_b = EvaluationMetrics.read(b).models[subject_b]
    kinds = [kind for kind in scores_a if kind in scores_b]
    if not kinds:
        raise RecipeError("the two evaluations have no metric in common")
    for kind in kinds:
        check_signatures(scores_a[kind].signature, scores_b[kind].signature, kind)
    return [Metric.parse(setting) for setting in EvaluationSummary.read(a).measured if setting["kind"] in kinds]


_HINT = "evaluate both models on the same data, split and rows: `compare_with: STEP` in the step `evaluate` does so"


def _difference(a: list[str], b: list[str]) -> str:
    both = len(set(a) & set(b))
    if set(a) == set(b):
        return "the rows bear the same ids, but their texts, order or answers to choose from differ"
    return f"the two evaluations are not about the same rows: of {len(a):,} and {len(b):,} rows, {both:,} are in both"


def _flips(a: Artifact, b: Artifact, subject_a: str, subject_b: str) -> tuple[list[str], list[str]]:
    ids, told_a = read_answers(a, subject_a)
    _, told_b = read_answers(b, subject_b)
    pairs = list(zip(ids, told_a.predictions, told_b.predictions, told_a.references, strict=True))
    fixed = [name for name, mine, its, real in pairs if mine in real and its not in real]
    broken = [name for name, mine, its, real in pairs if its in real and mine not in real]
    return fixed, broken
