"""Gates: the grammar with the place of each fault, verdicts by interval, and rules refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from eval.evaluations import evaluation, made
from luthier.artifacts.findings import Finding, FindingNumber, Findings, write_findings
from luthier.core.artifact import Artifact, Manifest, list_files
from luthier.core.errors import RecipeError
from luthier.core.expressions import ExpressionError, ThresholdExpression
from luthier.core.step import PlanContext
from luthier.core.store import Store
from luthier.eval.gate import MeasuredValue, decide_verdict, evaluate_data_rule
from luthier.eval.gate_vocabulary import parse_rule
from luthier.eval.steps.evaluate import Evaluate
from luthier.eval.steps.gate import Gate


@pytest.fixture(scope="module")
def evaluated(store: Store) -> Artifact:
    return evaluation(
        store, {"tuned": 0.9, "base": 0.5, "tfidf": 0.88}, probes=({"kind": "group_gap", "column": "channel"},)
    )


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("macro_f1 > base", ThresholdExpression("macro_f1", ">", "base", 0.0)),
        ("rouge_l >= base - 0.01", ThresholdExpression("rougeL", ">=", "base", -0.01)),
        ("rougeL>=base-0.01", ThresholdExpression("rougeL", ">=", "base", -0.01)),
        ("accuracy >= 0.8", ThresholdExpression("accuracy", ">=", None, 0.8)),
        ("accuracy > tfidf + 2e-2", ThresholdExpression("accuracy", ">", "tfidf", 0.02)),
        ("bias.gap <= 0.05", ThresholdExpression("bias.gap", "<=", None, 0.05)),
        ("  mcc > -.1 ", ThresholdExpression("mcc", ">", None, -0.1)),
        ("accuracy >= 80%", ThresholdExpression("accuracy", ">=", None, 0.8)),
        ("bleu >= 29%", ThresholdExpression("bleu", ">=", None, 29.0)),
        ("bleu >= 30", ThresholdExpression("bleu", ">=", None, 30.0)),
        ("wmt.chrf >= base - 1%", ThresholdExpression("wmt.chrf", ">=", "base", -1.0)),
        ("ifeval.strict_share >= base", ThresholdExpression("ifeval.strict_share", ">=", "base", 0.0)),
    ],
)
def test_grammar(text: str, rule: ThresholdExpression) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("macro_f2 > base", 1, "did you mean 'macro_f1'"),
        ("accuracy > bse", 12, "did you mean 'base'"),
        ("accuracy = 0.8", 10, "no meaning"),
        ("accuracy 0.8", 10, "expected one of"),
        ("accuracy >", 11, "expected a number, or a model"),
        ("accuracy > base -", 18, "expected"),
        ("accuracy > 0.8 0.9", 16, "nothing more"),
        ("accuracy > base 0.1", 17, "expected"),
        ("", 1, "name of a metric"),
        ("> 0.8", 1, "name of a metric"),
        ("p95_latency_s <= 1.2", 1, "unknown"),
        ("bias.gp <= 0.05", 1, "did you mean 'bias.gap'"),
    ],
)
def test_faults_have_a_column(text: str, column: int, said: str) -> None:
    with pytest.raises(ExpressionError, match=said) as caught:
        parse_rule(text)
    assert f"column {column}:" in str(caught.value)
    with pytest.raises(ValidationError, match=f"column {column}"):
        Gate(evaluation="report", rules=(text,))


@pytest.mark.parametrize(
    ("text", "low", "high", "verdict"),
    [
        ("accuracy > 0.5", 0.51, 0.6, "PASS"),
        ("accuracy > 0.5", 0.5, 0.6, "INCONCLUSIVE"),
        ("accuracy >= 0.5", 0.5, 0.6, "PASS"),
        ("accuracy > 0.5", 0.4, 0.5, "FAIL"),
        ("accuracy >= 0.5", 0.4, 0.5, "INCONCLUSIVE"),
        ("accuracy >= 0.5", 0.4, 0.49, "FAIL"),
        ("ece < 0.1", 0.01, 0.09, "PASS"),
        ("ece <= 0.1", 0.01, 0.1, "PASS"),
        ("ece < 0.1", 0.1, 0.2, "FAIL"),
        ("ece < 0.1", 0.05, 0.2, "INCONCLUSIVE"),
    ],
)
def test_verdict_by_the_whole_interval(text: str, low: float, high: float, verdict: str) -> None:
    assert decide_verdict(parse_rule(text), low, high) == verdict
    assert MeasuredValue(value=low, low=low, high=high, rows=1, sentence="").rows == 1


def test_pass_fail_and_inconclusive(store: Store, evaluated: Artifact) -> None:
    rules = ("accuracy > base", "macro_f1 > tfidf + 0.2", "accuracy > tfidf", "accuracy >= 0.6", "ece < base")
    found = made(store, Gate(evaluation="report", rules=rules), {"evaluation": evaluated}).read_json("gate.json")
    verdicts = {rule["rule"]: rule["verdict"] for rule in found["rules"]}
    assert verdicts["accuracy > base"] == verdicts["accuracy >= 0.6"] == "PASS"
    assert verdicts["macro_f1 > tfidf + 0.2"] == "FAIL"
    assert verdicts["accuracy > tfidf"] == "INCONCLUSIVE"
    assert found["verdict"] == "FAIL"
    unsure = found["rules"][2]
    assert set(unsure) == {"rule", "verdict", "value", "low", "high", "against", "more_rows", "why"}
    assert unsure["more_rows"] > 90
    assert "more rows would decide" in unsure["why"]
    assert unsure["low"] < unsure["against"] < unsure["high"]


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [(("accuracy > base",), "PASS"), (("accuracy > base", "accuracy > tfidf"), "INCONCLUSIVE")],
)
def test_overall(store: Store, evaluated: Artifact, rules: tuple[str, ...], verdict: str) -> None:
    found = made(store, Gate(evaluation="report", rules=rules), {"evaluation": evaluated}).read_json("gate.json")
    assert found["verdict"] == verdict


def test_probe_rule(store: Store, evaluated: Artifact) -> None:
    gate = Gate(evaluation="report", rules=("bias.gap <= 0.9",))
    found = made(store, gate, {"evaluation": evaluated}).read_json("gate.json")
    assert found["verdict"] == "PASS"


@pytest.mark.parametrize("rule", ["rougeL > 0.1", "accuracy > majority"])
def test_what_was_not_measured_is_refused(store: Store, evaluated: Artifact, rule: str) -> None:
    with pytest.raises(RecipeError):
        made(store, Gate(evaluation="report", rules=(rule,)), {"evaluation": evaluated})


@pytest.mark.parametrize(
    ("settings", "rule", "said"),
    [
        ({"metrics": ("accuracy",)}, "macro_f1 > base", "does not measure macro_f1"),
        ({}, "bias.gap <= 0.1", "does not measure bias.gap"),
        ({"compare_base": False}, "accuracy > base", "leaves the base out"),
        ({"baselines": ("majority",)}, "accuracy > tfidf", "no tfidf"),
        ({}, "accuracy > against", "against no other"),
    ],
)
def test_refused_at_plan_time(settings: dict[str, object], rule: str, said: str) -> None:
    upstream = {"evaluation": Evaluate.model_validate({"data": "data", **settings})}
    outlook = PlanContext(inputs={}, upstream=upstream, recipe_dir=Path())
    with pytest.raises(RecipeError, match=said):
        Gate(evaluation="report", rules=(rule,)).estimate_cost(outlook)
    assert Gate(evaluation="report", rules=("accuracy > 0.1",)).estimate_cost(outlook).seconds is not None


@pytest.fixture
def found(tmp_path: Path) -> Artifact:
    """What a validation of a thousand rows might say."""
    numbers = {
        "label_errors": FindingNumber(value=0.03, low=0.02, high=0.04, rows=1000, about="share", share=True),
        "imbalance": FindingNumber(value=4, rows=1000, about="rows"),
    }
    findings = (
        Finding(name="label_errors", severity="serious", title="T", sentence="S.", numbers=numbers, hint="R"),
        Finding(name="lengths", severity="warning", title="T", sentence="S.", hint="R"),
    )
    write_findings(tmp_path, Findings(rows=1000, looked_at=1000, findings=findings), [])
    manifest = Manifest(
        digest="0" * 32,
        kind="validate",
        makes="findings",
        settings={},
        inputs={},
        reads={},
        code="",
        seed=0,
        files=list_files(tmp_path),
    )
    return Artifact(tmp_path, manifest, lambda digest: pytest.fail("no parents"))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("label_errors < 5%", "PASS"),
        ("label_errors < 2 %", "FAIL"),
        ("label_errors <= 3.5%", "INCONCLUSIVE"),
        ("imbalance <= 4", "PASS"),
        ("imbalance < 4", "FAIL"),
        ("no serious findings", "FAIL"),
        ("findings.serious < 2", "PASS"),
        ("findings.warning <= 2", "PASS"),
    ],
)
def test_rules_about_data(found: Artifact, text: str, verdict: str) -> None:
    rule_result = evaluate_data_rule(text, parse_rule(text, findings=True), found)
    assert rule_result.verdict == verdict
    assert (rule_result.more_rows is not None) == (verdict == "INCONCLUSIVE")


def test_rules_about_data_and_models_stand_in_one_gate(store: Store, evaluated: Artifact, found: Artifact) -> None:
    gate = Gate(evaluation="report", findings="checked", rules=("accuracy > base", "label_errors < 5%"))
    rule_results = [gate._judged(text, {"evaluation": evaluated, "findings": found}) for text in gate.rules]
    assert [rule_result.verdict for rule_result in rule_results] == ["PASS", "PASS"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rules": ["accuracy > base"]}, "a gate holds nothing"),
        ({"evaluation": "r", "rules": ["no serious findings"]}, "column 1: no data was checked"),
        ({"findings": "f", "rules": ["no dreadful findings"]}, "expected a severity"),
        ({"findings": "f", "rules": ["no serious finding"]}, "expected `findings`"),
        ({"evaluation": "r", "rules": ["label_errors < 2%"]}, "metric 'label_errors' is unknown"),
    ],
)
def test_wrong_rules_about_data(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Gate.model_validate({"kind": "gate", **settings})


def test_what_the_checks_leave_out_is_refused_before_anything_runs(found: Artifact) -> None:
    upstream = {"findings": SimpleNamespace(measured=lambda: ("label_errors", "findings.serious"))}
    Gate(findings="f", rules=("label_errors < 2%",)).estimate_cost(
        PlanContext(inputs={}, upstream=upstream, recipe_dir=Path())
    )
    for text, said in (("label_eror < 2%", "did you mean 'label_errors'"), ("label_errors > base", "no base")):
        with pytest.raises(RecipeError, match=said):
            Gate(findings="f", rules=(text,)).estimate_cost(
                PlanContext(inputs={}, upstream=upstream, recipe_dir=Path())
            )
        with pytest.raises(RecipeError):
            evaluate_data_rule(text, parse_rule(text, findings=True), found)
