"""What a metric reads: predictions beside references, and label scores or log-likelihoods when there are any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from luthier.core.errors import DataError, Where

_COLUMNS = ("predictions", "references", "label_scores", "logprobs", "tokens", "clusters")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One model's answers, row by row; make it with `Answers.of`, which checks them."""

    predictions: Sequence[str]
    references: Sequence[tuple[str, ...]]
    """One or more accepted answers a row."""
    label_scores: Sequence[Mapping[str, float]] | None = None
    """A score for each label: probabilities that add up to one, or log-probabilities up to a constant."""
    logprobs: Sequence[float] | None = None
    """Natural log-likelihood of each row's reference."""
    tokens: Sequence[int] | None = None
    """How many tokens each log-likelihood is a sum over."""
    columns: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Numbers that a scorer gave the rows, by name; None where it could give none."""
    clusters: Sequence[str] | None = None
    """Which rows hang together, such as turns of one conversation: intervals and tests then go over clusters."""

    @classmethod
    def of(
        cls,
        predictions: Sequence[str],
        references: Sequence[str | Sequence[str]],
        *,
        label_scores: Sequence[Mapping[str, float]] | None = None,
        logprobs: Sequence[float] | None = None,
        tokens: Sequence[int] | None = None,
        columns: Mapping[str, Sequence[float | None]] | None = None,
        clusters: Sequence[str] | None = None,
    ) -> Answers:
        """Check and keep a model's answers; `DataError` names the first row that cannot be used."""
        answers = cls(
            predictions=predictions,
            references=[(row,) if isinstance(row, str) else tuple(row or ()) for row in references],
            label_scores=label_scores,
            logprobs=logprobs,
            tokens=tokens,
            columns=columns or {},
            clusters=clusters,
        )
        answers.check()
        return answers

    def __len__(self) -> int:
        return len(self.predictions)

    def check(self) -> None:
        """Refuse no rows, rows without a reference, columns of unequal length, and scores that are not numbers."""
        if not self.predictions:
            raise DataError("there are no rows to measure", remedy="give at least one prediction with its reference")
        for name in ("references", "label_scores", "logprobs", "tokens", "clusters"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self):
                raise DataError(f"{len(self)} predictions stand beside {len(column)} {name}")
        for row, (prediction, references) in enumerate(zip(self.predictions, self.references, strict=True)):
            if not isinstance(prediction, str):
                raise _wrong(row, "prediction", f"expected a text, got {type(prediction).__name__}")
            if not references or not all(isinstance(text, str) for text in references):
                raise _wrong(row, "reference", "is missing or no text")
        for row, scores in enumerate(self.label_scores or ()):
            if len(scores) < 2 or not all(math.isfinite(score) for score in scores.values()):
                raise _wrong(row, "label_scores", "expected a finite score for each of at least two labels")
        for row, value in enumerate(self.logprobs or ()):
            if not math.isfinite(value):
                raise _wrong(row, "logprobs", f"expected a finite log-likelihood, got {value}")
        self._check_columns()

    def _check_columns(self) -> None:
        for name, numbers in self.columns.items():
            if len(numbers) != len(self):
                raise DataError(f"{len(self)} predictions stand beside {len(numbers)} scores {name!r}")
            for row, number in enumerate(numbers):
                if number is not None and not math.isfinite(number):
                    raise _wrong(row, f"scores.{name}", f"expected a finite number or null, got {number}")

    def select(self, rows: Sequence[int]) -> Answers:
        """The same for some rows only, by number."""

        def taken(column: Sequence[object] | None) -> list[object] | None:
            return None if column is None else [column[row] for row in rows]

        columns = {name: [numbers[row] for row in rows] for name, numbers in self.columns.items()}
        return Answers(**{name: taken(getattr(self, name)) for name in _COLUMNS}, columns=columns)  # type: ignore[arg-type]  # same columns

    def joined(self, other: Answers) -> Answers:
        """These rows followed by another model's; a column that one of them lacks is left out."""

        def both(name: str) -> list[object] | None:
            mine, its = getattr(self, name), getattr(other, name)
            return None if mine is None or its is None else [*mine, *its]

        shared = self.columns.keys() & other.columns.keys()
        columns = {name: [*self.columns[name], *other.columns[name]] for name in sorted(shared)}
        return Answers(**{name: both(name) for name in _COLUMNS}, columns=columns)  # type: ignore[arg-type]  # same columns


def _wrong(row: int, field: str, message: str) -> DataError:
    return DataError(f"row {row + 1}: {field}: {message}", where=Where(field=field))
