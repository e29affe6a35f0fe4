"""Score a file of predictions, and compare two files.

A file holds JSON Lines with predictions and references:

    {"prediction": "yes", "reference": "yes", "id": "7", "group": "web", "label_scores": {"yes": 0.9, "no": 0.1}}

`references` (a list) may replace `reference`. `id`, `group`, `label_scores`, `logprob` with `tokens` (for perplexity),
`question`, `samples` and `scores` are optional; a column that one row has must be in every row.

The command line names metrics and scorers alone (`rougeL`) or with settings (`rougeL:stem=true,words=unicode`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.core.component import (
    Role,
    add_field_descriptions,
    component_of_kind,
    components_by_kind,
    field_descriptions,
)
from luthier.core.context import RunContext
from luthier.core.errors import DataError, InputError, SourceLocation, UnknownName, describe_json_error, did_you_mean
from luthier.core.scorer import Scorer, ScorerRow
from luthier.metrics.metric import EvalPredictions, Metric, measure_all

_COLUMNS = ("id", "group", "label_scores", "logprob", "tokens", "question", "samples", "scores")


class PredictionLine(BaseModel):
    """One line of a file of predictions."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, json_schema_extra=add_field_descriptions
    )

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
    question: str | None = None
    """What was asked; scorers such as a judge read it."""
    samples: list[str] | None = None
    """Further answers of the same model, for pass@k."""
    scores: dict[str, float | None] | None = None
    """Numbers of your own by name, such as what people gave (`human`, 0 to 1); null where there is none."""


@dataclass(frozen=True, kw_only=True)
class PredictionFile:
    """A file of predictions, read and checked."""

    path: Path
    answers: EvalPredictions
    ids: tuple[str, ...] | None
    groups: tuple[str, ...] | None
    questions: tuple[str, ...] | None
    samples: tuple[tuple[str, ...], ...] | None

    def rows(self) -> list[ScorerRow]:
        """The rows as scorers read them."""
        nothing = [None] * len(self.answers)
        columns = zip(self.questions or nothing, self.answers.predictions, self.answers.references,
                   self.samples or nothing, strict=True)  # fmt: skip
        return [
            ScorerRow(question=question or "", prediction=prediction, references=references, samples=samples or ())
            for question, prediction, references, samples in columns
        ]


def read_prediction_file(path: Path) -> PredictionFile:
    """Read a file of predictions; `DataError` names the line of the first fault."""
    lines = list(_lines(path))
    if not lines:
        raise DataError("holds no rows", where=SourceLocation(file=str(path)), hint=_WANTED)
    for name in _COLUMNS:
        _all_or_none(name, lines, path)
    ids = _strings([line.id for _, line in lines])
    _unique(ids, [number for number, _ in lines], path)

    def column(name: str) -> list[Any] | None:
        values = [getattr(line, name) for _, line in lines]
        return None if values[0] is None else values

    with attribute_errors_to_file(path):
        answers = EvalPredictions.of(
            [line.prediction for _, line in lines],
            [line.references or line.reference or "" for _, line in lines],
            label_scores=column("label_scores"),
            logprobs=column("logprob"),
            tokens=column("tokens"),
            columns=_own_scores([line.scores for _, line in lines]),
        )
    samples = column("samples")
    return PredictionFile(
        path=path,
        answers=answers,
        ids=ids,
        groups=_strings([line.group for _, line in lines]),
        questions=_strings([line.question for _, line in lines]),
        samples=None if samples is None else tuple(map(tuple, samples)),
    )


def _own_scores(rows: Sequence[dict[str, float | None] | None]) -> dict[str, list[float | None]]:
    """The rows' own numbers, column by column; a name that a row lacks is a gap there."""
    names = sorted({name for row in rows for name in row or {}})
    return {name: [(row or {}).get(name) for row in rows] for name in names}


def add_scorer_columns(file: PredictionFile, scorers: Sequence[Scorer], context: RunContext) -> PredictionFile:
    """Return the file with the columns that scorers add; `DataError` when a scorer needs questions that rows do not
    have."""
    columns = dict(file.answers.columns)
    for scorer in scorers:
        if scorer.asks and file.questions is None:
            what = f"the scorer {scorer.kind} reads what was asked, which these rows do not say"
            where = SourceLocation(file=str(file.path), field="question")
            raise DataError(what, where=where, hint='give every row a "question"')
        columns |= scorer.columns(file.rows(), context)
    return replace(file, answers=replace(file.answers, columns=columns))


@contextmanager
def attribute_errors_to_file(path: Path) -> Iterator[None]:
    """Context manager: add the file's name to errors about its answers."""
    try:
        yield
    except DataError as error:
        where = SourceLocation(file=str(path), line=error.where.line, field=error.where.field)
        raise DataError(error.message, where=where, hint=error.hint or _WANTED) from error


def _lines(path: Path) -> Iterator[tuple[int, PredictionLine]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=SourceLocation(file=str(path)), hint="save it as UTF-8") from error
    except OSError as error:
        hint = "name a file of JSON lines with predictions and references"
        raise DataError(f"cannot be read: {error.strerror}", where=SourceLocation(file=str(path)), hint=hint) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _line(line, SourceLocation(file=str(path), line=number))


def _line(text: str, where: SourceLocation) -> PredictionLine:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(describe_json_error(error, column=True), where=where, hint=_WANTED) from error
    except (ValueError, RecursionError) as error:
        raise DataError("is not JSON: it is too large", where=where, hint=_WANTED) from error
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object, got {_KINDS.get(type(row), 'null')}", where=where, hint=_WANTED)
    if "prediction" not in row:
        raise DataError('lacks "prediction"', where=where, hint=_remedy("prediction", row))
    try:
        line = PredictionLine.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        location = SourceLocation(file=where.file, line=where.line, field=field)
        expected = (
            first["msg"].replace("Input should be", "expected").replace("a valid string", "text").partition(", ")[0]
        )
        about = field_descriptions(PredictionLine).get(str(first["loc"][0]), "")
        raise DataError(
            f"{expected}, got {first['input']!r}"[:300], where=location, hint=f"{field}: {about}"
        ) from error
    if line.reference is None and line.references is None:
        raise DataError('lacks "reference"', where=where, hint=_remedy("reference", row))
    if line.reference is not None and line.references is not None:
        raise DataError('has both "reference" and "references"', where=where, hint="keep one of them")
    return line


_WANTED = "one JSON object a line is expected, with prediction and reference"
_KINDS = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}


def _remedy(name: str, row: dict[str, Any]) -> str:
    """The column that was perhaps meant, or what every row needs."""
    near = did_you_mean(name, row)
    return near if near.startswith("did you mean") else 'each row needs "prediction", and "reference" or "references"'


def _all_or_none(name: str, lines: Sequence[tuple[int, PredictionLine]], path: Path) -> None:
    has = [getattr(line, name) is not None for _, line in lines]
    if any(has) and not all(has):
        number = lines[has.index(False)][0]
        where = SourceLocation(file=str(path), line=number, field=name)
        hint = "give it in every row, or in none"
        raise DataError(f"lacks {name!r}, which other rows have", where=where, hint=hint)


def _strings(values: Sequence[Any]) -> tuple[str, ...] | None:
    return None if values[0] is None else tuple(str(value) for value in values)


def _unique(ids: tuple[str, ...] | None, numbers: Sequence[int], path: Path) -> None:
    line_by_id: dict[str, int] = {}
    for name, number in zip(ids or (), numbers, strict=False):
        if name in line_by_id:
            where = SourceLocation(file=str(path), line=number, field="id")
            hint = "give every row an id of its own"
            raise DataError(f"id {name!r} stands already on line {line_by_id[name]}", where=where, hint=hint)
        line_by_id[name] = number


_LABEL_METRICS = ("accuracy", "macro_f1", "mcc")
_SCORE_METRICS = ("ece", "brier")
_TEXT_METRICS = ("exact_match", "token_f1", "rougeL", "chrf")
MOST_LABELS = 100
"""When no metric is named, at most so many different references still look like labels."""


def score_prediction_file(path: Path, metrics: Sequence[str | Metric] = (), *, seed: int = 0) -> dict[str, Any]:
    """Score a file of predictions: `{"rows", "metrics": {NAME: {"value", "low", "high", "signature"}}}`.

    Without metrics, those that fit the rows are chosen. Rows with a `group` are also scored by group.
    """
    return score_predictions(read_prediction_file(path), metrics, seed=seed)


def score_predictions(file: PredictionFile, metrics: Sequence[str | Metric] = (), *, seed: int = 0) -> dict[str, Any]:
    """Score a prediction file that was read before."""
    path = file.path
    chosen = parse_metrics(metrics) or choose_metrics(file.answers)
    with attribute_errors_to_file(path):
        result = _measured(chosen, file.answers, seed)
    if file.groups is None:
        return result
    rows_by_group: dict[str, list[int]] = {}
    for row, group in enumerate(file.groups):
        rows_by_group.setdefault(group, []).append(row)
    groups = {
        group: _measured(chosen, file.answers.select(rows), seed) for group, rows in sorted(rows_by_group.items())
    }
    return {**result, "groups": groups}


def compare_prediction_files(
    a: Path, b: Path, metrics: Sequence[str | Metric] = (), *, seed: int = 0
) -> dict[str, Any]:
    """Compare two files on the rows that both have, paired by id (by line when neither has ids).

    `{"rows", "only_a", "only_b", "comparisons": [...]}`; each comparison is `a` minus `b`, p corrected by Holm.
    """
    from luthier.metrics.paired import adjust_comparisons_holm
    from luthier.metrics.paired import compare_paired as compared

    left, right = read_prediction_file(a), read_prediction_file(b)
    pairs = _paired(left, right)
    answers = (left.answers.select([i for i, _ in pairs]), right.answers.select([j for _, j in pairs]))
    _same_references(left, right, pairs)
    chosen = parse_metrics(metrics) or choose_metrics(answers[0])
    comparisons = [replace(compared(metric, *answers, seed=seed), metric=name) for name, metric in chosen.items()]
    family = adjust_comparisons_holm(comparisons)
    return {
        "rows": len(pairs),
        "only_a": len(left.answers) - len(pairs),
        "only_b": len(right.answers) - len(pairs),
        "comparisons": [comparison.as_json() for comparison in family],
    }


def choose_metrics(answers: EvalPredictions) -> dict[str, Metric]:
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
    kinds = components_by_kind(Metric)
    names += [kind for kind in sorted(kinds) if kinds[kind].scored and not kinds[kind].model_construct().lacks(answers)]
    return parse_metrics(names)


def _measured(metrics: Mapping[str, Metric], answers: EvalPredictions, seed: int) -> dict[str, Any]:
    scores = measure_all(list(metrics.values()), answers, seed=seed)
    found = {name: value.as_json() for name, value in zip(metrics, scores, strict=True)}
    return {"rows": len(answers), "metrics": found}


def _paired(a: PredictionFile, b: PredictionFile) -> list[tuple[int, int]]:
    """Rows of `a` beside the same rows of `b`."""
    if a.ids is None and b.ids is None:
        if len(a.answers) != len(b.answers):
            what = f"{len(a.answers)} rows cannot be paired with {len(b.answers)} rows of {b.path} without ids"
            raise DataError(what, where=SourceLocation(file=str(a.path)), hint='give every row an "id"')
        return [(row, row) for row in range(len(a.answers))]
    if a.ids is None or b.ids is None:
        lacking = a if a.ids is None else b
        where = SourceLocation(file=str(lacking.path), field="id")
        raise DataError("has no ids, the other file has", where=where, hint="give both files ids, or neither")
    row_by_id = {name: row for row, name in enumerate(b.ids)}
    pairs = [(row, row_by_id[name]) for row, name in enumerate(a.ids) if name in row_by_id]
    if not pairs:
        where = SourceLocation(file=str(a.path), field="id")
        raise UnknownName(f"no id is in {b.path}, too", where=where, hint="compare files about the same rows")
    return pairs


def _same_references(a: PredictionFile, b: PredictionFile, pairs: Sequence[tuple[int, int]]) -> None:
    for i, j in pairs:
        if set(a.answers.references[i]) != set(b.answers.references[j]):
            name = a.ids[i] if a.ids is not None else f"row {i + 1}"
            raise DataError(
                f"{name!r} has other references in {b.path}",
                where=SourceLocation(file=str(a.path), field="reference"),
                hint="compare files about the same rows",
            )


_WHERE = SourceLocation(field="metric")


def parse_metrics(metrics: Sequence[str | Metric]) -> dict[str, Metric]:
    """Parse metrics from the texts that name them; `InputError` when one is wrong or comes twice."""
    found: dict[str, Metric] = {}
    for word in metrics:
        name = word.kind if isinstance(word, Metric) else word
        if name in found:
            raise InputError(f"{name} is named twice", where=_WHERE, hint="keep one, or give them other settings")
        found[name] = word if isinstance(word, Metric) else parse_component_spec(Metric, word)
    return found


def parse_component_spec(role: type[Role], word: str) -> Role:
    """One part of a role by its kind and settings; `InputError` says what is wrong with the word."""
    kind, _, settings = word.partition(":")
    try:
        part = component_of_kind(role, kind)
    except UnknownName as error:
        raise UnknownName(error.message, where=SourceLocation(field=role.role), hint=error.hint) from error
    values = _settings(word, settings) if settings else {}
    try:
        return part.model_validate({"kind": kind, **values})
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(str(entry) for entry in first["loc"]) or "settings"
        raise InputError(
            f"{word}: {location}: {first['msg']}",
            where=SourceLocation(field=role.role),
            hint=f"luthier components {role.role} {kind}",
        ) from error


def _settings(word: str, text: str) -> dict[str, Any]:
    """`setting=value` pairs between commas; values are read as in YAML (true, 2, text)."""
    import yaml

    values: dict[str, Any] = {}
    for pair in text.split(","):
        name, equals, value = pair.partition("=")
        try:
            values[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not name.strip():
            hint = f"write {word.partition(':')[0]}:setting=value,other=value"
            raise InputError(f"{word}: {pair!r} is no setting with its value", where=_WHERE, hint=hint)
    return values
