"""Files of predictions: JSON lines with what a model answered beside what was wanted.

    {"prediction": "yes", "reference": "yes", "id": "7", "group": "web", "label_scores": {"yes": 0.9, "no": 0.1}}

`references` (a list) may stand in place of `reference`; `id`, `group`, `label_scores`, `logprob` with `tokens` (for
perplexity), `question`, `samples` and `scores` are optional, but a column that one row has must stand in every row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.core.described import described, descriptions
from luthier.core.errors import DataError, Where, did_you_mean
from luthier.core.not_json import not_json
from luthier.core.scorer import Desk, Scored, Scorer
from luthier.metrics.answers import Answers

_COLUMNS = ("id", "group", "label_scores", "logprob", "tokens", "question", "samples", "scores")


class Line(BaseModel):
    """One line of a file of predictions."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, json_schema_extra=described)

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
class ScoreFile:
    """A file of predictions, read and checked."""

    path: Path
    answers: Answers
    ids: tuple[str, ...] | None
    groups: tuple[str, ...] | None
    questions: tuple[str, ...] | None
    samples: tuple[tuple[str, ...], ...] | None

    def rows(self) -> list[Scored]:
        """The rows as scorers read them."""
        nothing = [None] * len(self.answers)
        told = zip(self.questions or nothing, self.answers.predictions, self.answers.references,
                   self.samples or nothing, strict=True)  # fmt: skip
        return [
            Scored(question=question or "", prediction=prediction, references=references, samples=samples or ())
            for question, prediction, references, samples in told
        ]


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

    with about(path):
        answers = Answers.of(
            [line.prediction for _, line in lines],
            [line.references or line.reference or "" for _, line in lines],
            label_scores=column("label_scores"),
            logprobs=column("logprob"),
            tokens=column("tokens"),
            columns=_own_scores([line.scores for _, line in lines]),
        )
    samples = column("samples")
    return ScoreFile(
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


def with_scores(file: ScoreFile, scorers: Sequence[Scorer], desk: Desk) -> ScoreFile:
    """The file with the columns that scorers fill; `DataError` when one asks for questions that rows do not have."""
    columns = dict(file.answers.columns)
    for scorer in scorers:
        if scorer.asks and file.questions is None:
            what = f"the scorer {scorer.kind} reads what was asked, which these rows do not say"
            where = Where(file=str(file.path), field="question")
            raise DataError(what, where=where, remedy='give every row a "question"')
        columns |= scorer.columns(file.rows(), desk)
    return replace(file, answers=replace(file.answers, columns=columns))


@contextmanager
def about(path: Path) -> Iterator[None]:
    """What is wrong with the answers is wrong in this file."""
    try:
        yield
    except DataError as error:
        where = Where(file=str(path), line=error.where.line, field=error.where.field)
        raise DataError(error.message, where=where, remedy=error.remedy or _WANTED) from error


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
    except json.JSONDecodeError as error:
        raise DataError(not_json(error, column=True), where=where, remedy=_WANTED) from error
    except (ValueError, RecursionError) as error:
        raise DataError("is not JSON: it is too large", where=where, remedy=_WANTED) from error
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object, got {_KINDS.get(type(row), 'null')}", where=where, remedy=_WANTED)
    if "prediction" not in row:
        raise DataError('lacks "prediction"', where=where, remedy=_remedy("prediction", row))
    try:
        line = Line.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        place = Where(file=where.file, line=where.line, field=field)
        wanted = (
            first["msg"].replace("Input should be", "expected").replace("a valid string", "text").partition(", ")[0]
        )
        about = descriptions(Line).get(str(first["loc"][0]), "")
        raise DataError(f"{wanted}, got {first['input']!r}"[:300], where=place, remedy=f"{field}: {about}") from error
    if line.reference is None and line.references is None:
        raise DataError('lacks "reference"', where=where, remedy=_remedy("reference", row))
    if line.reference is not None and line.references is not None:
        raise DataError('has both "reference" and "references"', where=where, remedy="keep one of them")
    return line


_WANTED = "one JSON object a line is expected, with prediction and reference"
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
