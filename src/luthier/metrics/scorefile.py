"""Scores and comparisons of people's own outputs: JSON lines with predictions beside references.

    {"prediction": "yes", "reference": "yes", "id": "7", "group": "web", "label_scores": {"yes": 0.9, "no": 0.1}}

`references` (a list) may stand in place of `reference`; `id`, `group`, `label_scores`, and `logprob` with `tokens`
(for perplexity) are optional, but a column that one row has must stand in every row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.core.errors import DataError, UnknownName, Where, did_you_mean
from luthier.metrics.answers import Answers
from luthier.metrics.metric import Metric, measure_all
from luthier.metrics.named import named

_COLUMNS = ("id", "group", "label_scores", "logprob", "tokens")
_LABEL_METRICS = ("accuracy", "macro_f1", "mcc")
_SCORE_METRICS = ("ece", "brier")
_TEXT_METRICS = ("exact_match", "token_f1", "rougeL", "chrf")
MOST_LABELS = 100
"""When no metric is named, at most so many different references still look like labels."""


class Line(BaseModel):
    """One line of a file of predictions."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True)

    prediction: str
    """What the model answered; may be empty."""
    reference: str | None = None
    """The accepted answer."""
    references: list[str] | None = Field(default=None, min_length=1)
    """Several accepted answers."""
    id: str | int | None = None
    """What pairs a row with the same row of another file."""
    group: str | int | bool | None = None
    """A part of the rows that is also scored apart."""
    label_scores: dict[str, float] | None = None
    """A score for each label: probabilities, or log-probabilities up to a constant."""
    logprob: float | None = None
    """Natural log-likelihood of the reference."""
    tokens: int | None = Field(default=None, ge=1)
    """Over how many tokens `logprob` is a sum."""


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """A file of predictions, read and checked."""

    path: Path
    answers: Answers
    ids: tuple[str, ...] | None
    groups: tuple[str, ...] | None


def read(path: Path) -> ScoreFile:
    """Read a file of predictions; `DataError` names the line of the first fault."""
    lines = list(_lines(path))
    if not lines:
        raise DataError("holds no rows", where=Where(file=str(path)), remedy=_WANTED)
    for name in _COLUMNS:
        _all_or_none(name, lines, path)
    ids = _strings([line.id for _, line in lines])
    _unique(ids, [number for number, _ in lines], path)

    def column(name: str) -> list[Any] | None:
        values = [getattr(line, name) for _, line in lines]
        return None if values[0] is None else values

    with _about(path):
        answers = Answers.of(
            [line.prediction for _, line in lines],
            [line.references or line.reference or "" for _, line in lines],
            label_scores=column("label_scores"),
            logprobs=column("logprob"),
            tokens=column("tokens"),
        )
    return ScoreFile(path=path, answers=answers, ids=ids, groups=_strings([line.group for _, line in lines]))


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """What is wrong with the answers is wrong in this file."""
    try:
        yield
    except DataError as error:
        where = Where(file=str(path), line=error.where.line, field=error.where.field)
        raise DataError(error.message, where=where, remedy=error.remedy or _WANTED) from error


def score(path: Path, metrics: Sequence[str | Metric] = (), *, seed: int = 0) -> dict[str, Any]:
    """Measure a file of predictions: `{"rows", "metrics": {NAME: {"value", "low", "high", "signature"}}}`.

    Without metrics, those that fit the rows are chosen. Rows with a `group` are also scored by group.
    """
    file = read(path)
    chosen = named(metrics) or fitting(file.answers)
    with _about(path):
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
    return named(names)


def _measured(metrics: Mapping[str, Metric], answers: Answers, seed: int) -> dict[str, Any]:
    scores = measure_all(list(metrics.values()), answers, seed=seed)
    found = {name: value.as_json() for name, value in zip(metrics, scores, strict=True)}
    return {"rows": len(answers), "metrics": found}


def _lines(path: Path) -> Iterator[tuple[int, Line]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=Where(file=str(path)), remedy="save it as UTF-8") from error
    except OSError as error:
        remedy = "name a file of JSON lines with predictions and references"
        raise DataError(f"cannot be read: {error.strerror}", where=Where(file=str(path)), remedy=remedy) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _line(line, Where(file=str(path), line=number))


def _line(text: str, where: Where) -> Line:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "it is too large"
        raise DataError(f"is not JSON: {why}", where=where, remedy=_WANTED) from error
    if not isinstance(row, dict):
        raise DataError(f"wanted a JSON object, came {_KINDS.get(type(row), 'null')}", where=where, remedy=_WANTED)
    if "prediction" not in row:
        raise DataError('lacks "prediction"', where=where, remedy=_remedy("prediction", row))
    try:
        line = Line.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        place = Where(file=where.file, line=where.line, field=field)
        wanted = first["msg"].replace("Input should be", "wanted").replace("a valid string", "text").partition(", ")[0]
        about = Line.model_fields[str(first["loc"][0])].description or ""
        raise DataError(f"{wanted}, came {first['input']!r}"[:300], where=place, remedy=f"{field}: {about}") from error
    if line.reference is None and line.references is None:
        raise DataError('lacks "reference"', where=where, remedy=_remedy("reference", row))
    if line.reference is not None and line.references is not None:
        raise DataError('has both "reference" and "references"', where=where, remedy="keep one of them")
    return line


_WANTED = "one JSON object a line is wanted, with prediction and reference"
_KINDS = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}


def _remedy(name: str, row: dict[str, Any]) -> str:
    """The column that was perhaps meant, or what every row needs."""
    near = did_you_mean(name, row)
    return near if near.startswith("did you mean") else 'each row needs "prediction", and "reference" or "references"'


def _all_or_none(name: str, lines: Sequence[tuple[int, Line]], path: Path) -> None:
    has = [getattr(line, name) is not None for _, line in lines]
    if any(has) and not all(has):
        number = lines[has.index(False)][0]
        where = Where(file=str(path), line=number, field=name)
        remedy = "give it in every row, or in none"
        raise DataError(f"lacks {name!r}, which other rows have", where=where, remedy=remedy)


def _strings(values: Sequence[Any]) -> tuple[str, ...] | None:
    return None if values[0] is None else tuple(str(value) for value in values)


def _unique(ids: tuple[str, ...] | None, numbers: Sequence[int], path: Path) -> None:
    seen: dict[str, int] = {}
    for name, number in zip(ids or (), numbers, strict=False):
        if name in seen:
            where = Where(file=str(path), line=number, field="id")
            remedy = "give every row an id of its own"
            raise DataError(f"id {name!r} stands already on line {seen[name]}", where=where, remedy=remedy)
        seen[name] = number


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
