"""Scores of files of predictions, and two such files compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.core.component import members
from luthier.core.errors import DataError, UnknownName, Where
from luthier.metrics.answers import Answers
from luthier.metrics.metric import Metric, measure_all
from luthier.metrics.named import named
from luthier.metrics.scorelines import ScoreFile, about, read

_LABEL_METRICS = ("accuracy", "macro_f1", "mcc")
_SCORE_METRICS = ("ece", "brier")
_TEXT_METRICS = ("exact_match", "token_f1", "rougeL", "chrf")
MOST_LABELS = 100
"""When no metric is named, at most so many different references still look like labels."""


def score(path: Path, metrics: Sequence[str | Metric] = (), *, seed: int = 0) -> dict[str, Any]:
    """Measure a file of predictions: `{"rows", "metrics": {NAME: {"value", "low", "high", "signature"}}}`.

    Without metrics, those that fit the rows are chosen. Rows with a `group` are also scored by group.
    """
    return score_rows(read(path), metrics, seed=seed)


def score_rows(file: ScoreFile, metrics: Sequence[str | Metric] = (), *, seed: int = 0) -> dict[str, Any]:
    """The same for a file that was read."""
    path = file.path
    chosen = named(metrics) or fitting(file.answers)
    with about(path):
        result = _measured(chosen, file.answers, seed)
    if file.groups is None:
        return result
    places: dict[str, list[int]] = {}
    for row, group in enumerate(file.groups):
        places.setdefault(group, []).append(row)
    groups = {group: _measured(chosen, file.answers.select(rows), seed) for group, rows in sorted(places.items())}
    return {**result, "groups": groups}


def compare(a: Path, b: Path, metrics: Sequence[str | Metric] = (), *, seed: int = 0) -> dict[str, Any]:
    """Compare two files on the rows that both have, paired by id (by line when neither has ids).

    `{"rows", "only_a", "only_b", "comparisons": [...]}`; each comparison is `a` minus `b`, p corrected by Holm.
    """
    from luthier.metrics.paired import compare as compared
    from luthier.metrics.paired import with_holm

    left, right = read(a), read(b)
    places = _paired(left, right)
    answers = (left.answers.select([i for i, _ in places]), right.answers.select([j for _, j in places]))
    _same_references(left, right, places)
    chosen = named(metrics) or fitting(answers[0])
    found = [replace(compared(metric, *answers, seed=seed), metric=name) for name, metric in chosen.items()]
    family = with_holm(found)
    return {
        "rows": len(places),
        "only_a": len(left.answers) - len(places),
        "only_b": len(right.answers) - len(places),
        "comparisons": [comparison.as_json() for comparison in family],
    }


def fitting(answers: Answers) -> dict[str, Metric]:
    """Metrics that fit the rows: those of labels where few different references recur, else those of texts."""
    different = {row[0] for row in answers.references}
    labels = len(different) <= min(MOST_LABELS, max(2, len(answers) // 2)) and all(
        len(row) == 1 for row in answers.references
    )
    names = [*(_LABEL_METRICS if labels else _TEXT_METRICS)]
    if labels and answers.label_scores is not None:
        names += _SCORE_METRICS
    if answers.logprobs is not None and answers.tokens is not None:
        names.append("perplexity")
    kinds = members(Metric)
    names += [kind for kind in sorted(kinds) if kinds[kind].scored and not kinds[kind].model_construct().lacks(answers)]
    return named(names)


def _measured(metrics: Mapping[str, Metric], answers: Answers, seed: int) -> dict[str, Any]:
    scores = measure_all(list(metrics.values()), answers, seed=seed)
    found = {name: value.as_json() for name, value in zip(metrics, scores, strict=True)}
    return {"rows": len(answers), "metrics": found}


def _paired(a: ScoreFile, b: ScoreFile) -> list[tuple[int, int]]:
    """Rows of `a` beside the same rows of `b`."""
    if a.ids is None and b.ids is None:
        if len(a.answers) != len(b.answers):
            what = f"{len(a.answers)} rows cannot be paired with {len(b.answers)} rows of {b.path} without ids"
            raise DataError(what, where=Where(file=str(a.path)), remedy='give every row an "id"')
        return [(row, row) for row in range(len(a.answers))]
    if a.ids is None or b.ids is None:
        lacking = a if a.ids is None else b
        where = Where(file=str(lacking.path), field="id")
        raise DataError("has no ids, the other file has", where=where, remedy="give both files ids, or neither")
    places = {name: row for row, name in enumerate(b.ids)}
    pairs = [(row, places[name]) for row, name in enumerate(a.ids) if name in places]
    if not pairs:
        where = Where(file=str(a.path), field="id")
        raise UnknownName(f"no id is in {b.path}, too", where=where, remedy="compare files about the same rows")
    return pairs


def _same_references(a: ScoreFile, b: ScoreFile, places: Sequence[tuple[int, int]]) -> None:
    for i, j in places:
        if set(a.answers.references[i]) != set(b.answers.references[j]):
            name = a.ids[i] if a.ids is not None else f"row {i + 1}"
            raise DataError(
                f"{name!r} has other references in {b.path}",
                where=Where(file=str(a.path), field="reference"),
                remedy="compare files about the same rows",
            )
