"""The plan of a monitor, as its artifact stores it: signals with their references, and alert rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.expressions import (
    ExpressionToken,
    ExpressionVocabulary,
    ThresholdExpression,
    Window,
    parse_expression,
)
from luthier.monitor.alerts import Alert
from luthier.monitor.signal import Signal, map_number_to_signal

FILE = "monitor.json"
REFERENCES = "references"


@dataclass(frozen=True, kw_only=True)
class AlertRule:
    """An alert whose conditions are read and whose limits are numbers."""

    alert: Alert
    when: ThresholdExpression
    limit: float
    clear: ThresholdExpression | None
    clear_limit: float
    enough: int
    """With fewer events there is no data."""

    @property
    def name(self) -> str:
        """Name of the alert."""
        return self.alert.called


@dataclass(frozen=True, kw_only=True)
class MonitorPlan:
    """Everything that a running monitor needs: signals, alert rules and references, without the training data."""

    name: str
    every_s: float
    """Seconds between evaluations."""
    signals: Sequence[Signal]
    rules: Sequence[AlertRule]
    references: Path
    """Folder with what each signal was fitted to."""
    report: Mapping[str, float]
    """The release's own figures, by metric."""
    seed: int
    models: frozenset[str] = frozenset()
    """Requested names or model digests whose requests are monitored; all, where empty."""

    def watched(self) -> Iterator[tuple[Signal, Window]]:
        """Each signal and window that is looked at: those of alerts, and each signal's usual one."""
        numbers = map_number_to_signal(self.signals)
        requested = [(numbers[rule.when.name], rule.when.window) for rule in self.rules]
        usual = [(signal, signal.usual) for signal in self.signals]
        yield from {(signal.called, spec): (signal, spec) for signal, spec in (*requested, *usual)}.values()


class AlertVocabulary(ExpressionVocabulary):
    """The numbers of signals, each with its usual window, and the release's own report."""

    name_wanted = "a number of a signal"
    limit_wanted = "a number, or `report`"

    def __init__(self, numbers: Mapping[str, Signal], windows: Mapping[str, Window] | None = None) -> None:
        self._numbers = numbers
        self._windows = windows or {}

    def find_name(self, token: ExpressionToken) -> str:
        return token.match(self._numbers, "number")

    def find_reference(self, token: ExpressionToken) -> str:
        if token.text != "report":
            raise token.error(f"expected {self.limit_wanted}, got {token.text!r}")
        return token.text

    def scale(self, name: str) -> float:
        """A per cent is a hundredth of the number's scale: one point of BLEU's."""
        return self._numbers[name].whole

    def default_window(self, name: str) -> Window:
        return self._windows.get(name) or self._numbers[name].usual


def parse_alert_rules(
    alerts: Sequence[Alert], signals: Sequence[Signal], report: Mapping[str, float]
) -> list[AlertRule]:
    """Parse the conditions of alerts; `ValueError` (an `ExpressionError` among them) for an invalid one."""
    numbers = map_number_to_signal(signals)
    found = []
    for alert in alerts:
        when = parse_expression(alert.expr, AlertVocabulary(numbers))
        clear = None if alert.clear is None else _clear(alert, when, numbers)
        limit = _limit(when, report)
        usually = max(numbers[when.name].enough(when.name, when.window), 2 if alert.significant else 1)
        found.append(
            AlertRule(
                alert=alert,
                when=when,
                limit=limit,
                enough=alert.min_events or usually,
                clear=clear,
                clear_limit=limit if clear is None else _limit(clear, report),
            )
        )
    names = [rule.name for rule in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two alerts are called {name!r}; give one a `name`")
    return found


def _clear(alert: Alert, when: ThresholdExpression, numbers: Mapping[str, Signal]) -> ThresholdExpression:
    clear = parse_expression(str(alert.clear), AlertVocabulary(numbers, {when.name: when.window}))
    if clear.name != when.name or clear.window != when.window:
        raise ValueError(f"`clear` must be about {when.name} {when.window}, as `expr` is; got {alert.clear!r}")
    if clear.upward == when.upward:
        raise ValueError(f"`clear` must point the other way than `expr`; got {alert.expr!r} and {alert.clear!r}")
    return clear


def _limit(when: ThresholdExpression, report: Mapping[str, float]) -> float:
    """The limit as a number; nan where the report is not there yet, as while a recipe is read."""
    return report.get(when.name, float("nan")) + when.margin if when.reference else when.margin


def read_plan(artifact: Artifact, name: str) -> MonitorPlan:
    """Read the artifact of a step `monitor`; `name` is its name in messages."""
    record = artifact.read_json(FILE)
    signals = [Signal.parse(entry) for entry in record["signals"]]
    alerts = [Alert.model_validate(entry) for entry in record["alerts"]]
    return MonitorPlan(
        name=name,
        every_s=record["interval"],
        signals=signals,
        rules=parse_alert_rules(alerts, signals, record["report"]),
        references=artifact.folder / REFERENCES,
        report=record["report"],
        seed=artifact.manifest.seed,
        models=frozenset(record["models"]),
    )
