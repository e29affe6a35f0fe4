"""Metrics: the role `metric`, its input and its result.

A metric is a pure function of predictions and references, with label scores or log-likelihoods where there are any. It
returns a statistic of each row, a value and an interval.

Every metric works through *sufficient statistics*: a few numbers of each row whose sums over any set of rows give the
value on that set. A corpus score such as BLEU is bootstrapped, jackknifed and compared by sums over rows, without
running the metric again.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.core.component import Component
from luthier.core.errors import DataError, SourceLocation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block, Interval

_COLUMNS = ("predictions", "references", "label_scores", "logprobs", "tokens", "clusters")


@dataclass(frozen=True, kw_only=True)
class EvalPredictions:
    """One model's answers, row by row; make it with `EvalPredictions.of`, which checks them."""

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
    ) -> EvalPredictions:
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
            raise DataError("there are no rows to measure", hint="give at least one prediction with its reference")
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

    def select(self, rows: Sequence[int]) -> EvalPredictions:
        """The same for some rows only, by number."""

        def taken(column: Sequence[object] | None) -> list[object] | None:
            return None if column is None else [column[row] for row in rows]

        columns = {name: [numbers[row] for row in rows] for name, numbers in self.columns.items()}
        return EvalPredictions(**{name: taken(getattr(self, name)) for name in _COLUMNS}, columns=columns)  # type: ignore[arg-type]  # same columns

    def joined(self, other: EvalPredictions) -> EvalPredictions:
        """These rows followed by another model's; a column that one of them lacks is left out."""

        def both(name: str) -> list[object] | None:
            mine, its = getattr(self, name), getattr(other, name)
            return None if mine is None or its is None else [*mine, *its]

        shared = self.columns.keys() & other.columns.keys()
        columns = {name: [*self.columns[name], *other.columns[name]] for name in sorted(shared)}
        return EvalPredictions(**{name: both(name) for name in _COLUMNS}, columns=columns)  # type: ignore[arg-type]  # same columns


def _wrong(row: int, field: str, message: str) -> DataError:
    return DataError(f"row {row + 1}: {field}: {message}", where=SourceLocation(field=field))


GREATEST = 1e300
"""Stands for no upper bound where a finite number is wanted."""
Need = Literal["label_scores", "logprobs"]
Form = Literal["text", "number", "json", "calls", "box"]
How = Literal["bca", "logit", "share"]


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """A value with its 95 % interval, what each row contributed, and the signature of how it was measured."""

    value: float
    low: float
    high: float
    rows: NDArray[np.float64]
    """The metric on each row alone."""
    signature: str
    note: str = ""
    """What a reader should know, such as that no row disagreed with another."""

    def as_json(self) -> dict[str, Any]:
        """The documented shape: value, low, high, signature, and the note when there is one."""
        shown: dict[str, Any] = {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "signature": self.signature,
        }
        return {**shown, "note": self.note} if self.note else shown


class Metric(Component):
    """Something that can be measured from answers and references."""

    role: ClassVar[str] = "metric"
    home: ClassVar[str] = "luthier.metrics.kinds"

    version: ClassVar[int] = 1
    """Goes up whenever the same answers would get another value."""
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """The least and greatest value there can be."""
    usual: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """The span within which a single row usually lies: what is assumed where rows show no variance."""
    proportion: ClassVar[bool] = False
    """Whether statistics are hits and what could be one, 0 or 1, and the value is their share or a function of it
    (`of_share`): then Wilson's interval is used."""
    same_rows: ClassVar[bool] = True
    """For a proportion: whether what could be a hit is the same for every model: then McNemar's test is used."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """Columns that it reads besides predictions and references."""
    scored: ClassVar[tuple[str, ...]] = ()
    """Columns of a scorer's that it reads (`luthier.core.scorer`)."""
    interval: ClassVar[str] = "bca95"
    """How the interval is made, where it is not Wilson's."""
    method: ClassVar[How] = "bca"
    """How the interval is made, where it is not Wilson's (`luthier.metrics.intervals.Job`); logits are of the
    bounds."""
    added: ClassVar[float] = 1.0
    """What is added to a difference for each kind of row that changed: one, as Bonett and Price do, or half a row, as
    Agresti and Min do, where a row weighs on the share of its own label."""
    about: ClassVar[Literal["classes", "texts"] | None] = None
    """What answers must be for the value to mean something: classes, or free texts; None: either."""
    form: ClassVar[Form] = "text"
    """What every reference must hold."""
    held_against: ClassVar[bool] = True
    """Whether answers are held against references, so that the same words have the best value."""
    single_reference: ClassVar[bool] = False
    """Whether several accepted answers for one row make no sense."""

    @classmethod
    def whole(cls) -> float:
        """What 100 % is of its values: 100 of those that are written from 0 to 100, else 1."""
        return 100.0 if cls.usual == (0.0, 100.0) else 1.0

    @abstractmethod
    def statistics(self, answers: EvalPredictions) -> Block:
        """Sufficient statistics, (rows, k): sums over rows are all that `value` needs."""

    def together(self, a: EvalPredictions, b: EvalPredictions) -> tuple[Block, Block]:
        """Statistics of two models' answers to the same rows, with columns that mean the same for both."""
        both = self.statistics(a.joined(b))
        return both[: len(a)], both[len(a) :]

    @abstractmethod
    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The metric from summed statistics: (b, k) to (b,), finite for any sums, those of no rows included."""

    def of_share(self, share: float) -> float:
        """For a proportion: the value that belongs to a share of hits, never falling."""
        return share

    def contributions(self, statistics: Block) -> NDArray[np.float64]:
        """The metric on each row alone, (rows,)."""
        from luthier.metrics.intervals import value_per_row

        return value_per_row(statistics, self.value)

    def counted(self, answers: EvalPredictions) -> Sequence[bool] | None:
        """Which rows count; None for all."""
        return None

    def bias(self, answers: EvalPredictions) -> tuple[float, float]:
        """How far the value lies above the truth on average with so few rows: the ends are moved back by these."""
        return 0.0, 0.0

    def undefined(self, answers: EvalPredictions) -> str:
        """Why these rows say nothing about the value, such as a single label to rank; the interval is then all."""
        return ""

    def caution(self, answers: EvalPredictions) -> str:
        """What a reader of the value on these rows should know."""
        return ""

    def versions(self) -> dict[str, str]:
        """Versions of other people's software that decide the value, for the signature."""
        return {}

    def measure(
        self,
        predictions: Sequence[str],
        references: Sequence[str | Sequence[str]],
        *,
        label_scores: Sequence[Mapping[str, float]] | None = None,
        logprobs: Sequence[float] | None = None,
        tokens: Sequence[int] | None = None,
        seed: int = 0,
    ) -> MetricResult:
        """Measure a model's answers against references; the seed draws the bootstrap's resamples."""
        answers = EvalPredictions.of(
            predictions, references, label_scores=label_scores, logprobs=logprobs, tokens=tokens
        )
        return measure_all([self], answers, seed=seed)[0]

    def signature(self, *, clustered: bool = False) -> str:
        """How the number is made, in one line; numbers with different signatures must not be compared."""
        settings = {name: value for name, value in self.settings().items() if name != "kind"}
        method = "wilson95" if self.proportion and not clustered else self.interval
        method += " over clusters" if clustered else ""
        parts = {"v": self.version, **settings, **self.versions(), "interval": method}
        return "|".join([self.kind, *(f"{name}:{_word(value)}" for name, value in parts.items())])

    def lacks(self, answers: EvalPredictions) -> list[str]:
        """What it reads that the answers do not have."""
        needed = [name for name in sorted(self.needs) if getattr(answers, name) is None]
        return needed + [name for name in self.scored if name not in answers.columns]

    def check(self, answers: EvalPredictions) -> None:
        """`DataError` when the answers lack what this metric reads."""
        for name in self.lacks(answers):
            what = f"{self.kind} needs {name}, which these answers do not have"
            hint = f"give {name} in every row, or leave the metric out"
            if name in self.scored:
                hint = f"name a scorer that writes {name!r}, or give it in the rows' `scores`"
            raise DataError(what, where=SourceLocation(field=name), hint=hint)
        if self.single_reference:
            for row, references in enumerate(answers.references):
                if len(references) != 1:
                    what = f"row {row + 1}: {self.kind} compares with one label, and {len(references)} references came"
                    raise DataError(what, where=SourceLocation(field="references"), hint="use accuracy or exact_match")


def measure_all(metrics: Sequence[Metric], answers: EvalPredictions, *, seed: int = 0) -> list[MetricResult]:
    """Measure several metrics on the same answers; resamples are drawn once and shared."""
    from luthier.metrics.intervals import IntervalJob, compute_intervals, sum_by_cluster

    jobs, blocks = [], []
    for metric in metrics:
        metric.check(answers)
        usual = metric.bounds if metric.method == "logit" else metric.usual
        span = None if metric.proportion and answers.clusters is None else usual
        block = metric.statistics(answers)
        blocks.append(block)
        sums = (sum_by_cluster(block, answers.clusters),)
        jobs.append(
            IntervalJob(blocks=sums, value=_one(metric), span=span, of_share=metric.of_share, method=metric.method)
        )
    intervals = compute_intervals(jobs, seed=seed)
    return [_scored(*triple, answers) for triple in zip(metrics, blocks, intervals, strict=True)]


def _scored(metric: Metric, block: Block, found: Interval, answers: EvalPredictions) -> MetricResult:
    """A score within the metric's bounds; where rows say nothing, all that the metric can be."""
    why = metric.undefined(answers)
    least, most = (min(metric.bounds[0], found.value), max(metric.bounds[1], found.value))
    biases = (0.0, 0.0) if why else metric.bias(answers)
    low, high = (max(min(end - bias, most), least) for end, bias in zip((found.low, found.high), biases, strict=True))
    low, high = (least, min(most, GREATEST)) if why else (min(low, found.value), max(high, found.value))
    return MetricResult(
        value=found.value,
        low=low,
        high=high,
        rows=metric.contributions(block),
        signature=metric.signature(clustered=answers.clusters is not None),
        note="; ".join(filter(None, (metric.caution(answers), why or found.note))),
    )


def _one(metric: Metric) -> Any:
    return lambda sums: metric.value(sums[0])


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("|", "/")
