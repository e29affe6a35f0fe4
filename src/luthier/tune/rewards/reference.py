"""Rewards that compare a completion with the reference answer, or with a schema: metrics of one completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from luthier.core.errors import DataError, SourceLocation
from luthier.metrics.kinds.answers import ExactMatch
from luthier.metrics.kinds.numeric import NumericMatch as NumericMetric
from luthier.metrics.kinds.structured import JsonValid
from luthier.metrics.metric import Metric
from luthier.tune.reward import Reward, RewardCompletion, RewardContext


class MetricReward(Reward):
    """The value of a metric on the answer alone, held against the answer in the data: `token_f1`, `rouge`, `chrf`.

    One that counts errors is a penalty: it needs a `weight` below zero.
    """

    kind: Literal["metric"] = "metric"

    metric: Metric
    """The metric; any that needs only a completion and its reference."""

    @model_validator(mode="after")
    def _needs_no_more(self) -> Self:
        if lacking := [*sorted(self.metric.needs), *self.metric.scored]:
            raise ValueError(f"{self.metric.kind} needs {', '.join(lacking)}, which a fresh answer does not have")
        if self.metric.better == "lower" and self.weight > 0:
            raise ValueError(f"the less {self.metric.kind}, the better: give it a weight below zero, such as -1")
        return self

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return the metric's value on each completion."""
        return score_with_metric(self.metric, attempts, held_against=self.metric.held_against)


def score_with_metric(
    metric: Metric, attempts: Sequence[RewardCompletion], *, held_against: bool = True
) -> list[float]:
    """Return the value of a metric on each completion alone, with or without the reference answer."""
    from luthier.metrics.metric import EvalPredictions

    references = [_references(metric, attempt) if held_against else ("",) for attempt in attempts]
    answers = EvalPredictions.of([attempt.text for attempt in attempts], references)
    values: list[float] = metric.contributions(metric.statistics(answers)).tolist()
    return values


def _references(metric: Metric, attempt: RewardCompletion) -> tuple[str, ...]:
    if attempt.references:
        return attempt.references
    origin = attempt.example.origin
    where = SourceLocation(file=origin.file, line=origin.line)
    what = f"the reward {metric.kind} holds answers against that of the data, and this row has none"
    raise DataError(what, where=where, hint="map a column to `answer`, or leave the reward out")


class ExactMatchReward(Reward):
    """1 for an answer that equals the one in the data, else 0."""

    kind: Literal["exact"] = "exact"

    rules: ExactMatch = ExactMatch()
    """Normalization before the comparison: the settings of the metric `exact_match`."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return 1 or 0 for each completion."""
        return score_with_metric(self.rules, attempts)


class NumericReward(Reward):
    """1 for an answer whose number is that of the answer in the data (after `####`, else the last one), else 0."""

    kind: Literal["numeric"] = "numeric"

    rules: NumericMetric = NumericMetric()
    """How numbers are read and compared: the settings of the metric `numeric`."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return 1 or 0 for each completion."""
        return score_with_metric(self.rules, attempts)


class JsonSchemaReward(Reward):
    """1 for an answer that is JSON and obeys a schema, else 0."""

    kind: Literal["json_schema"] = "json_schema"

    obeys: dict[str, Any] | None = None
    """A JSON Schema, with references only within it (`#/…`); any JSON will do when not given."""
    fenced: bool = True
    """Whether the JSON may be in a code fence (```), with text around it."""

    def score(self, attempts: Sequence[RewardCompletion], context: RewardContext) -> list[float]:
        """Return 1 or 0 for each completion."""
        valid = JsonValid(obeys=self.obeys, fenced=self.fenced)
        return score_with_metric(valid, attempts, held_against=False)
