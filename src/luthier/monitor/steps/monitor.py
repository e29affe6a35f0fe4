"""The step `monitor`: what is monitored once a model is released."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary
from luthier.chat.messages import Example, answer_of, prompt_of
from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.core.expressions import Seconds
from luthier.core.files import json_bytes, write_atomically
from luthier.core.step import EvaluationRef, NotHashed, PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.monitor.alerts import Alert
from luthier.monitor.channel import Channel
from luthier.monitor.plan import FILE, REFERENCES, AlertRule, parse_alert_rules
from luthier.monitor.signal import ReportRow, Signal, TrainingSample

_PLAIN = ("error_rate", "latency", "length", "refusal_rate", "throughput", "tokens")
_MOST_ROWS = 20_000


class Monitor(Step):
    """Keep what watching a released model needs: its signals, its alerts, what the training data were like, and what
    the report said. `luthier monitor run` and `replay` then need no training data.

    Who is told (`channels`) is no part of the artifact.
    """

    kind: Literal["monitor"] = "monitor"
    makes: ClassVar[str] = "monitor"

    data: Annotated[str | None, Reads("dataset", optional=True)] = None
    """The data that the model was trained on: what drift is held against."""
    evaluation: EvaluationRef = None
    """The step that evaluated the release: what `evaluation` means in a condition."""
    signals: tuple[Signal, ...] = Field(default=tuple(map(Signal.parse, _PLAIN)), min_length=1)
    """What is measured of traffic."""
    alerts: tuple[Alert, ...] = ()
    """When somebody is told."""
    models: tuple[str, ...] = ()
    """Names such as `support@prod`, whose requests alone are watched where others are served as well; else all are."""
    interval: Seconds = Field(default=60, ge=1)
    """How often the alerts are looked at."""
    channels: Annotated[tuple[Channel, ...], NotHashed()] = (Channel.parse("log"),)
    """Who is told, and how."""
    lookback: Annotated[Seconds, NotHashed()] = 7 * 86400
    """How far back traffic is read when watching begins, so that windows are full and evidence goes on."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        names = [number for signal in self.signals for number in signal.numbers()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two signals give a number {name!r}; give one of them a `name`")
        for rule in parse_alert_rules(self.alerts, self.signals, {}):
            if math.isnan(rule.limit + rule.clear_limit) and self.evaluation is None:
                raise ValueError(f"alert {rule.name!r} is compared with a report; name the evaluation in `evaluation`")
        learning = [signal.called for signal in self.signals if signal.learns]
        if learning and self.data is None:
            raise ValueError(f"{learning[0]} is compared with the training data; name their step in `data`")
        held = [signal.called for signal in self.signals if signal.needs_report]
        if held and self.evaluation is None:
            raise ValueError(f"{held[0]} is compared with a report; name the evaluation in `evaluation`")
        return self

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Take the report's figures, and let signals learn from the training data."""
        report = _figures(work.inputs["evaluation"]) if "evaluation" in work.inputs else {}
        for rule in parse_alert_rules(self.alerts, self.signals, report):
            _check(rule, report)
            if rule.when.reference:
                work.events.note(f"{rule.name}: {rule.when.name} {rule.when.sign} {rule.limit:.4g}")
        if any(signal.learns or signal.needs_report for signal in self.signals):
            training = _training(work)
            for signal in self.signals:
                signal.learn(training, work.folder / REFERENCES / signal.called)
        settings = {
            name: value
            for name, value in self.hashed_settings().items()
            if name in ("signals", "alerts", "models", "interval")
        }
        write_atomically(work.folder / FILE, json_bytes({**settings, "report": report}))
        return {}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Refuse a condition on a figure that the evaluation does not have."""
        evaluation = plan_context.upstream.get("evaluation")
        metrics = getattr(evaluation, "metrics", None)
        if metrics is not None:
            _check_all(self.alerts, self.signals, {metric.kind: 0.0 for metric in metrics})
        return StepCostEstimate(seconds=3.0, how="reads a sample of the training data and the report's figures")


def _check_all(alerts: Sequence[Alert], signals: Sequence[Signal], report: Mapping[str, float]) -> None:
    for rule in parse_alert_rules(alerts, signals, report):
        _check(rule, report)


def _check(rule: AlertRule, report: Mapping[str, float]) -> None:
    for when, limit in ((rule.when, rule.limit), (rule.clear or rule.when, rule.clear_limit)):
        if math.isnan(limit):
            what = f"alert {rule.name!r}: the report says nothing of {when.name}"
            raise RecipeError(what, where=SourceLocation(field="alerts"), hint=did_you_mean(when.name, report))


def _figures(evaluation: Artifact) -> dict[str, float]:
    """Return the evaluation's results for its model, by metric."""
    measured = EvaluationMetrics.read(evaluation).models[EvaluationSummary.read(evaluation).subject]
    return {name: float(score.value) for name, score in measured.items() if math.isfinite(score.value)}


def _training(work: StepContext) -> TrainingSample:
    """Return a sample of the training rows, chosen by their ids, and the report's rows."""
    examples = _sample_examples(work.inputs["data"], work.seed) if "data" in work.inputs else []
    media = {medium.digest: medium for entry in examples for turn in prompt_of(entry) for medium in turn.media}
    return TrainingSample(
        prompts=[_last_user_text(entry) for entry in examples],
        answers=[answer_of(entry) for entry in examples],
        media=[*media.values()],
        recipe_dir=work.recipe_dir,
        seed=work.seed,
        measured=_measured(work.inputs["evaluation"]) if "evaluation" in work.inputs else (),
    )


def _sample_examples(data: Artifact, seed: int) -> list[Example]:
    from heapq import nsmallest

    from luthier.artifacts.dataset import read_example_batches
    from luthier.monitor.windows import hash_text_key

    examples = (example for batch in read_example_batches(data, "train") for example in batch)
    return nsmallest(_MOST_ROWS, examples, key=lambda entry: hash_text_key(f"{seed} {entry.id}"))


def _last_user_text(example: Example) -> str:
    return next((turn.content for turn in reversed(prompt_of(example)) if turn.role == "user"), "")


def _measured(evaluation: Artifact) -> list[ReportRow]:
    """Return the evaluated model's answer to each row with its class probabilities; empty where it chose none."""
    import polars as pl

    from luthier.metrics.kinds.calibration import label_probabilities

    subject = EvaluationSummary.read(evaluation).subject
    frame = pl.read_parquet(evaluation.path("predictions.parquet"))
    mine = frame.filter((pl.col("model") == subject) & pl.col("scores").is_not_null())
    if mine.is_empty():
        return []
    labels, shares = label_probabilities([json.loads(row) for row in mine["scores"]])
    rows = zip(shares.tolist(), mine["prediction"], mine["reference"], strict=True)
    return [ReportRow(dict(zip(labels, row, strict=True)), predicted, right) for row, predicted, right in rows]
