"""Alerts as they are written, and the states they go through."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from luthier.monitor.alerts import Alert, AlertState, advance_alert_state
from luthier.monitor.evaluator import condition_holds
from luthier.monitor.plan import parse_alert_rules
from luthier.monitor.signal import Signal, SignalValue

SIGNALS = [Signal.parse({"kind": "metric", "metric": "accuracy"}), Signal.parse("latency")]


def test_a_text_alone_is_an_alert_named_after_its_number() -> None:
    alert = Alert.model_validate("latency.p95 > 2 over 10m")
    assert (alert.called, alert.hold, alert.severity) == ("latency_p95", 0, "warning")


def test_a_per_cent_of_bleu_is_a_point() -> None:
    signals = [Signal.parse({"kind": "metric", "metric": name}) for name in ("bleu", "accuracy")]
    alerts = [{"expr": "bleu < report - 1%", "clear": "bleu > 29%"}, "accuracy < 90%"]
    of_bleu, of_accuracy = parse_alert_rules([Alert.model_validate(one) for one in alerts], signals, {"bleu": 31.5})
    assert (of_bleu.limit, of_bleu.clear_limit, of_accuracy.limit) == (30.5, 29.0, 0.9)


def test_for_is_written_for_and_comes_back() -> None:
    alert = Alert.model_validate({"expr": "accuracy < 0.9", "for": "10m", "keep_firing_for": "1h"})
    assert alert.hold == 600
    written = alert.model_dump(mode="json")
    assert written["for"] == 600
    assert "hold" not in written
    assert Alert.model_validate(written) == alert


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"expr": "x", "fro": "10m"}, "there is no setting 'fro'"),
        ({"expr": "x", "for": "ten"}, "expected a time"),
        ({"expr": "x", "for": -1}, "greater than or equal"),
        ({"for": "10m"}, "expr"),
        ({"expr": "x", "severity": "bad"}, "severity"),
        ({"expr": "x", "name": "no-dash"}, "name"),
        ({"expr": "x", "min_events": 0}, "min_events"),
        (7, "valid dictionary"),
    ],
)
def test_a_wrong_setting_is_told(settings: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Alert.model_validate(settings)


@pytest.mark.parametrize(
    ("alerts", "said"),
    [
        (["accuracy < 0.9", "accuracy < 0.8"], "two alerts are called 'accuracy'"),
        ([{"expr": "accuracy < 0.9", "clear": "latency.p95 < 1"}], "must be about accuracy on 200"),
        ([{"expr": "accuracy < 0.9", "clear": "accuracy > 0.9 on 50 labels"}], "must be about accuracy on 200"),
        ([{"expr": "accuracy < 0.9", "clear": "accuracy < 0.95"}], "the other way"),
        (["nothing < 0.9"], "number 'nothing' is unknown"),
    ],
)
def test_alerts_that_make_no_sense_are_told(alerts: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_alert_rules([Alert.model_validate(one) for one in alerts], SIGNALS, {})


def test_what_a_clear_leaves_out_is_taken_from_when() -> None:
    alert = Alert.model_validate({"expr": "accuracy < report - 5% on 50 labels", "clear": "accuracy >= report"})
    (rule,) = parse_alert_rules([alert], SIGNALS, {"accuracy": 0.9})
    assert rule.clear is not None
    assert rule.clear.window == rule.when.window
    assert rule.limit == pytest.approx(0.85)
    assert rule.clear_limit == pytest.approx(0.9)
    assert rule.enough == 50


def test_nothing_is_certain_of_one_event() -> None:
    asked = [{"expr": "accuracy < 0.9 over 1h", "significant": certain} for certain in (False, True)]
    rules = parse_alert_rules(
        [Alert.model_validate({"name": f"a{at}", **one}) for at, one in enumerate(asked)], SIGNALS, {}
    )
    assert [rule.enough for rule in rules] == [1, 2]


def walk(settings: dict[str, Any], values: list[float | None]) -> list[str]:
    """The states over minutes; None is a minute without data."""
    (rule,) = parse_alert_rules([Alert.model_validate({"expr": "accuracy < 0.9", **settings})], SIGNALS, {})
    state, found = AlertState(), list[str]()
    for minute, value in enumerate(values):
        reading = None if value is None else SignalValue(value, value - 0.05, value + 0.05, 200)
        state = advance_alert_state(rule.alert, state, holds=condition_holds(rule, state, reading), at=60.0 * minute)
        found.append(state.status[0])
    return found


GOOD, BAD = 0.95, 0.8


@pytest.mark.parametrize(
    ("settings", "values", "states"),
    [
        ({}, [GOOD, BAD, GOOD], "ifi"),
        ({"for": "2m"}, [BAD, BAD, BAD, GOOD], "ppfi"),
        ({"for": "2m"}, [BAD, GOOD, BAD, BAD, BAD], "pippf"),
        ({"clear": "accuracy > 0.97"}, [BAD, GOOD, 0.98, GOOD], "ffii"),
        ({"keep_firing_for": "2m"}, [BAD, GOOD, GOOD, GOOD], "fffi"),
        ({"keep_firing_for": "2m"}, [BAD, GOOD, BAD, GOOD, GOOD, GOOD], "fffffi"),
        ({"no_data": "ok"}, [BAD, None, None], "fii"),
        ({"no_data": "keep"}, [None, BAD, None, GOOD, None], "iffii"),
        ({"no_data": "alert", "for": "1m"}, [GOOD, None, None, GOOD], "ipfi"),
        ({"min_events": 500}, [BAD, BAD], "ii"),
        ({"significant": True}, [0.88, 0.84, 0.88, 0.91], "iffi"),
    ],
)
def test_states_follow_what_is_read(settings: dict[str, Any], values: list[float | None], states: str) -> None:
    assert "".join(walk(settings, values)) == states
