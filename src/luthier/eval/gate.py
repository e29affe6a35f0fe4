"""From a rule and an evaluation to PASS, FAIL or INCONCLUSIVE, with how many more rows would decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from luthier.artifacts.evaluation import EvaluationMetrics, EvaluationSummary, MetricScore
from luthier.artifacts.explanation import ExplanationSummary, MeasureOverRows
from luthier.artifacts.explanation_kinds import read_model_explanation
from luthier.artifacts.findings import FindingNumber, read_findings
from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.core.expressions import ThresholdExpression
from luthier.core.messages import gettext_noop
from luthier.eval.gate_vocabulary import EXPLAIN
from luthier.metrics.paired import Z95, estimate_additional_rows

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """The result of one rule."""

    rule: str
    verdict: Verdict
    value: float
    """The compared value: the measure itself, or the model's minus the other's."""
    low: float
    high: float
    against: float
    """The limit: the number of the rule, or the margin by which a difference must clear zero."""
    more_rows: int | None
    """For INCONCLUSIVE: rows beyond those evaluated that would decide with 80 % power, if what is seen is the truth."""
    why: str

    def as_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class MeasuredValue:
    """The measured value of the quantity in a gate rule, with its interval."""

    value: float
    low: float
    high: float
    rows: int
    sentence: str
    """The quantity and its interval in a sentence."""


def evaluate_rule(text: str, rule: ThresholdExpression, evaluation: Artifact) -> RuleResult:
    """Evaluate one gate rule on an evaluation; `RecipeError` when its quantity was not measured."""
    metrics, summary = EvaluationMetrics.read(evaluation), EvaluationSummary.read(evaluation)
    if rule.reference is None:
        measured = _alone(rule, metrics, summary)
    else:
        measured = _against(rule, metrics, summary, evaluation.read_json("comparisons.json"))
    return _ruling(text, rule, measured)


def _ruling(text: str, rule: ThresholdExpression, measured: MeasuredValue) -> RuleResult:
    """Decide a rule by what is seen."""
    verdict = decide_verdict(rule, measured.low, measured.high)
    needed = None
    if verdict == "INCONCLUSIVE":
        needed = estimate_additional_rows(
            measured.value - rule.margin, (measured.high - measured.low) / (2 * Z95), measured.rows
        )
    return RuleResult(
        rule=text,
        verdict=verdict,
        value=measured.value,
        low=measured.low,
        high=measured.high,
        against=rule.margin,
        more_rows=needed,
        why=_why(rule, verdict, measured, needed),
    )


def evaluate_data_rule(text: str, rule: ThresholdExpression, findings: Artifact) -> RuleResult:
    """Evaluate one gate rule on the findings of a data validation."""
    numbers = read_findings(findings).numbers
    if rule.reference is not None:
        hint = "give the rule a number as its limit"
        raise RecipeError(f"{rule.name} is about data, not models", where=SourceLocation(field="rules"), hint=hint)
    if rule.name not in numbers:
        what = f"no check of the data says {rule.name!r}"
        raise RecipeError(what, where=SourceLocation(field="rules"), hint=did_you_mean(rule.name, numbers))
    return _ruling(text, rule, _of_number(rule.name, numbers[rule.name]))


def evaluate_human_rule(text: str, rule: ThresholdExpression, judgments: Artifact) -> RuleResult:
    """Evaluate one gate rule on human ratings."""
    from luthier.eval.human.results import read_human_summary

    opinion = read_human_summary(judgments)
    if rule.reference is not None:
        hint = f"give a number; `people.difference` is {opinion.subject} minus {opinion.rival}"
        raise RecipeError(f"{rule.name} is compared with numbers only", where=SourceLocation(field="rules"), hint=hint)
    if rule.name not in opinion.numbers:
        what = f"these judgments do not say {rule.name!r}"
        raise RecipeError(what, where=SourceLocation(field="rules"), hint=did_you_mean(rule.name, opinion.numbers))
    return _ruling(text, rule, _of_number(rule.name, opinion.numbers[rule.name]))


def evaluate_explanation_rule(text: str, rule: ThresholdExpression, explanation: Artifact) -> RuleResult:
    """Evaluate one gate rule on how faithful explanations are, or on what else a step measured of a model."""
    if rule.reference is not None:
        where = SourceLocation(field="rules")
        hint = "give a number; `explain.gain_over_random` is the difference from random orders"
        raise RecipeError(f"{rule.name} is compared with numbers only", where=where, hint=hint)
    if (measured := read_model_explanation(explanation)) is not None:
        kind, _, name = rule.name.partition(".")
        over_rows = measured.measure(name) if kind == measured.kind else None
        if over_rows is None:
            what = f"{rule.name} was not measured; the step measured {', '.join(sorted(measured.measures))}"
            raise RecipeError(what, where=SourceLocation(field="rules"), hint="name another step in `explanation`")
        return _ruling(text, rule, _of_rows(f"{rule.name} is", over_rows))
    summary = ExplanationSummary.read(explanation)
    over_rows = summary.measure(rule.name.removeprefix(EXPLAIN))
    if over_rows is None:
        methods = ", ".join(method.method for method in summary.methods)
        what = f"{rule.name} was not measured; the methods are {methods}"
        raise RecipeError(what, where=SourceLocation(field="rules"), hint="add the method to the step `explain`")
    return _ruling(text, rule, _of_rows(f"{rule.name} (of {summary.best} where no method is named) is", over_rows))


def _of_rows(words: str, over_rows: MeasureOverRows) -> MeasuredValue:
    return MeasuredValue(
        value=over_rows.value,
        low=over_rows.low,
        high=over_rows.high,
        rows=over_rows.rows,
        sentence=f"{words} {over_rows.value:.4g} {_ends(over_rows.low, over_rows.high)}",
    )


def _of_number(name: str, number: FindingNumber) -> MeasuredValue:
    low, high = number.ends
    value, about = f"{number.value:.4g}", number.about
    sentence = gettext_noop(
        f"{name} ({about}) is {value} (95 % interval {low:.4g} to {high:.4g})"
        if low < high
        else f"{name} ({about}) is {value}"
    )
    return MeasuredValue(value=number.value, low=low, high=high, rows=number.rows, sentence=sentence)


def decide_verdict(rule: ThresholdExpression, low: float, high: float) -> Verdict:
    """PASS when the whole interval is on the right side of the limit, FAIL when it is wholly on the wrong side."""
    if not rule.upward:
        low, high = -high, -low
    limit = rule.margin if rule.upward else -rule.margin
    if low > limit or (low == limit and not rule.strict):
        return "PASS"
    return "FAIL" if high < limit or (high == limit and rule.strict) else "INCONCLUSIVE"


def combine_verdicts(rule_results: Sequence[RuleResult]) -> Verdict:
    """FAIL when any rule failed, else INCONCLUSIVE when any is, else PASS."""
    verdicts = {rule_result.verdict for rule_result in rule_results}
    return "FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"


def _alone(rule: ThresholdExpression, metrics: EvaluationMetrics, summary: EvaluationSummary) -> MeasuredValue:
    """The subject's own number."""
    score, rows = _score(rule.name, summary.subject, metrics, summary)
    name, subject, value = rule.name, summary.subject, f"{score.value:.4g}"
    sentence = gettext_noop(
        f"{name} of the {subject} model is {value} (95 % interval {score.low:.4g} to {score.high:.4g})"
    )
    return MeasuredValue(value=score.value, low=score.low, high=score.high, rows=rows, sentence=sentence)


def _against(
    rule: ThresholdExpression, metrics: EvaluationMetrics, summary: EvaluationSummary, pairs: Sequence[Any]
) -> MeasuredValue:
    """The subject's number minus another model's on the same rows."""
    subject = summary.subject
    known = [name for name in summary.order if name != subject]
    if rule.reference not in known:
        what = f"the evaluation has no model {rule.reference!r} to compare {subject!r} with"
        raise RecipeError(what, where=SourceLocation(field="rules"), hint=did_you_mean(str(rule.reference), known))
    _score(rule.name, subject, metrics, summary)  # a clear error when it was not measured
    for pair in pairs:
        if (pair["a"], pair["b"], pair["metric"]) == (subject, rule.reference, rule.name):
            values = [_score(rule.name, name, metrics, summary)[0].value for name in (subject, str(rule.reference))]
            own, its = (f"{value:.4g}" for value in values)
            difference, low, high = f"{pair['difference']:+.4g}", f"{pair['low']:.4g}", f"{pair['high']:.4g}"
            sentence = gettext_noop(
                f"{rule.name} is {own} against {its} of {rule.reference}: a difference of {difference} "
                f"(95 % interval {low} to {high})"
            )
            return MeasuredValue(
                value=pair["difference"], low=pair["low"], high=pair["high"], rows=pair["rows"], sentence=sentence
            )
    what = f"{rule.name} was not compared in pairs; give it a number as its limit"
    raise RecipeError(what, where=SourceLocation(field="rules"))


def _score(name: str, model: str, metrics: EvaluationMetrics, summary: EvaluationSummary) -> tuple[MetricScore, int]:
    """A model's number by name, and over how many rows."""
    scores, measures = metrics.models[model], metrics.measures.get(model, {})
    if name in scores:
        return scores[name], summary.rows
    if name in measures:
        return measures[name], measures[name].rows
    what = f"{name} was not measured for {model!r}"
    hint = f"add it to the evaluation's metrics or probes ({did_you_mean(name, [*scores, *measures])})"
    raise RecipeError(what, where=SourceLocation(field="rules"), hint=hint)


def _ends(low: float, high: float) -> str:
    return f"(95 % interval {low:.4g} to {high:.4g})"


def _why(rule: ThresholdExpression, verdict: Verdict, measured: MeasuredValue, needed: int | None) -> str:
    limit, sentence = f"{rule.margin:.4g}", measured.sentence
    match verdict:
        case "PASS":
            return gettext_noop(f"{sentence}, entirely on the passing side of {limit}.")
        case "FAIL":
            return gettext_noop(f"{sentence}, entirely on the failing side of {limit}.")
        case _ if needed:
            count = f"{needed:,}"
            return gettext_noop(f"{sentence}, which includes {limit}; about {count} more rows would decide.")
        case _:
            return gettext_noop(f"{sentence}, which includes {limit}; even many more rows are unlikely to decide.")
