"""Confidence and calibration against the report: nothing cries wolf, and what changed is found with its size."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from luthier.core.errors import DataError
from luthier.monitor.baseline import FEWEST, compute_confidence, undo_temperature
from luthier.monitor.signal import ReportRow, SignalValue, TrainingSample
from luthier.monitor.signals.confidence import Calibration, Confidence
from luthier.monitor.steps.monitor import Monitor
from luthier.traces.record import Feedback, Trace
from watching import evaluator, label, measured, plan_of, trace

SIGNALS: list[Any] = ["confidence", "calibration"]


def asked(rows: Sequence[ReportRow], begin: int = 0, temperature: float = 1.0) -> list[Trace | Feedback]:
    """Requests that were answered as rows of a report are, after a calibration; with what was right."""
    found: list[Trace | Feedback] = []
    for number, row in enumerate(rows, begin):
        powers = {name: share ** (1 / temperature) for name, share in row.probabilities.items()}
        shares = {name: power / sum(powers.values()) for name, power in powers.items()}
        one = trace(number, answer=row.prediction, scores=shares, parameters={"calibration": temperature})
        found += [one, label(one, row.right, after_s=0.2)]
    return found


def readings(folder: Path, log: Sequence[Trace | Feedback]) -> dict[str, SignalValue]:
    """Both signals' numbers at the end of a log."""
    watching = evaluator(plan_of(folder, SIGNALS), folder)
    for event in log:
        watching.add(event)
    return {number: reading for number, _, reading in watching.readings(log[-1].timestamp.timestamp() + 1)}


def test_a_stream_as_the_report_is_no_change(tmp_path: Path) -> None:
    found = readings(tmp_path, asked(measured(600, seed=1)))
    assert found["confidence.evidence"].value < 2
    assert found["calibration.evidence"].value < 2
    assert found["confidence.evidence"].events == 600
    for name in ("confidence.shift", "calibration.shift"):
        assert abs(found[name].value) < 0.1


def test_what_is_less_sure_is_found_without_labels_and_is_no_fault_of_calibration(tmp_path: Path) -> None:
    found = readings(tmp_path, asked(measured(300, seed=1, sure=0.7)))
    assert found["confidence.evidence"].value > 2
    assert found["confidence.shift"].high < -0.1
    assert found["calibration.evidence"].value < 2, "what is stated still comes true"


def test_what_is_as_sure_as_ever_and_wrong_is_found_by_labels_alone(tmp_path: Path) -> None:
    chance = random.Random(5)
    rows = [row._replace(right=chance.choice(["account", "billing", "delivery"])) for row in measured(300, seed=1)]
    found = readings(tmp_path, asked(rows))
    assert found["confidence.evidence"].value < 2
    assert found["calibration.evidence"].value > 2
    assert found["calibration.shift"].high < -0.2, "too sure of itself"


def test_the_served_models_calibration_is_no_change(tmp_path: Path) -> None:
    plain, calibrated = (readings(tmp_path, asked(measured(300, seed=1), temperature=by)) for by in (1.0, 2.5))
    for name, reading in plain.items():
        assert calibrated[name] == pytest.approx(reading, abs=1e-6)


def test_probabilities_are_those_of_the_evaluation() -> None:
    one = trace(1, scores={"a": 0.5, "b": 0.25, "c": 0.25}, parameters={"calibration": 2.0})
    assert undo_temperature(one) == pytest.approx({"a": 2 / 3, "b": 1 / 6, "c": 1 / 6})
    assert undo_temperature(trace(1, scores={"a": 0.9, "b": 0.1})) == pytest.approx({"a": 0.9, "b": 0.1})
    assert undo_temperature(trace(1)) is None
    assert undo_temperature(trace(1, scores={"a": 1.0})) is None
    assert undo_temperature(trace(1, scores={"a": 0.0, "b": 0.0})) is None
    assert undo_temperature(trace(1, scores={"a": -0.5, "b": -1.5})) is None
    assert compute_confidence([0.5, 0.25, 0.25]) == pytest.approx((0.5, stats.entropy([0.5, 0.25, 0.25])))
    assert compute_confidence([1.0, 0.0]) == (1.0, 0.0)


def test_the_size_of_a_change_is_welchs(tmp_path: Path) -> None:
    now = measured(150, seed=1, sure=1.0)
    found = readings(tmp_path, asked(now))["confidence.shift"]
    mine, theirs = ([max(row.probabilities.values()) for row in rows] for rows in (now, measured(200)))
    wanted = stats.ttest_ind(mine, theirs, equal_var=False).confidence_interval(0.95)
    assert found[:3] == pytest.approx((np.mean(mine) - np.mean(theirs), wanted.low, wanted.high), abs=1e-6)


def test_false_alarms_are_as_rare_as_is_said(tmp_path: Path) -> None:
    weeks, alarms = 120, 0
    plan = plan_of(tmp_path, [{"kind": "confidence", "requests": 200}])
    for week in range(weeks):
        watching = evaluator(plan, tmp_path)
        eye = watching._watched["confidence"].eye
        highest = -math.inf
        for event in asked(measured(200, seed=1000 + week), begin=week * 1000):
            if isinstance(event, Trace):
                eye.row(event, None)
                highest = max(highest, eye._exchange.digits)  # type: ignore[attr-defined]
        alarms += highest > 1
    assert alarms <= stats.binom.ppf(0.999, weeks, 0.1), "one in ten, looked at after each request"


def test_a_request_of_which_several_speak_counts_once(tmp_path: Path) -> None:
    log = asked(measured(60, seed=1))
    again = [event.model_copy(update={"by": "other"}) for event in log if isinstance(event, Feedback)]
    assert readings(tmp_path, [*log, *again])["calibration.evidence"] == readings(tmp_path, log)["calibration.evidence"]


@pytest.mark.parametrize("signal", [Confidence(), Calibration()])
def test_too_small_a_report_is_refused(signal: Any, tmp_path: Path) -> None:
    training = TrainingSample(prompts=[], answers=[], recipe_dir=tmp_path, seed=0, measured=measured(FEWEST - 1))
    with pytest.raises(DataError, match=f"{FEWEST} are needed"):
        signal.learn(training, tmp_path / "reference")
    with pytest.raises(ValueError, match="compared with a report"):
        Monitor(signals=(signal,))
