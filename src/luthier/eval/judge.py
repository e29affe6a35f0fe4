"""From a rule and an evaluation to PASS, FAIL or INCONCLUSIVE, with how many more rows would decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, Where, did_you_mean
from luthier.core.expressions import Expression
from luthier.metrics.paired import Z95, more_rows
from luthier.text.evaluation import EvaluationMetrics, EvaluationSummary, MetricScore
from luthier.text.findings import Number, read_findings

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """How one rule came out."""

    rule: str
    verdict: Verdict
    value: float
    """What was compared with the limit: the measure itself, or the model's measure minus the other's."""
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
class Seen:
    """What an evaluation says of the quantity in a rule."""

    value: float
    low: float
    high: float
    rows: int
    said: str
    """The quantity and its interval in a sentence."""


def judge(text: str, rule: Expression, evaluation: Artifact) -> Ruling:
    """Hold one rule against an evaluation; `RecipeError` when it asks for something that was not measured."""
    metrics, summary = EvaluationMetrics.read(evaluation), EvaluationSummary.read(evaluation)
    if rule.reference is None:
        seen = _alone(rule, metrics, summary)
    else:
        seen = _against(rule, metrics, summary, evaluation.read_json("comparisons.json"))
    return _ruling(text, rule, seen)


def _ruling(text: str, rule: Expression, seen: Seen) -> Ruling:
    """Decide a rule by what is seen."""
    verdict = decide(rule, seen.low, seen.high)
    needed = None
    if verdict == "INCONCLUSIVE":
        needed = more_rows(seen.value - rule.margin, (seen.high - seen.low) / (2 * Z95), seen.rows)
    return Ruling(
        rule=text,
        verdict=verdict,
        value=seen.value,
        low=seen.low,
        high=seen.high,
        against=rule.margin,
        more_rows=needed,
        why=_why(rule, verdict, seen, needed),
    )


def judge_data(text: str, rule: Expression, findings: Artifact) -> Ruling:
    """Hold one rule against what a validation found in the data."""
    numbers = read_findings(findings).numbers
    if rule.reference is not None:
        remedy = "give the rule a number as its limit"
        raise RecipeError(f"{rule.name} is about data, not models", where=Where(field="rules"), remedy=remedy)
    if rule.name not in numbers:
        what = f"no check of the data says {rule.name!r}"
        raise RecipeError(what, where=Where(field="rules"), remedy=did_you_mean(rule.name, numbers))
    return _ruling(text, rule, _of_number(rule.name, numbers[rule.name]))


def judge_people(text: str, rule: Expression, judgments: Artifact) -> Ruling:
    """Hold one rule against what people said of the answers."""
    from luthier.eval.human.opinion import read_opinion

    told = read_opinion(judgments)
    if rule.reference is not None:
        remedy = f"give a number; `people.difference` is {told.subject} minus {told.rival}"
        raise RecipeError(f"{rule.name} is compared with numbers only", where=Where(field="rules"), remedy=remedy)
    if rule.name not in told.numbers:
        what = f"these judgments do not say {rule.name!r}"
        raise RecipeError(what, where=Where(field="rules"), remedy=did_you_mean(rule.name, told.numbers))
    return _ruling(text, rule, _of_number(rule.name, told.numbers[rule.name]))


def _of_number(name: str, number: Number) -> Seen:
    low, high = number.ends
    said = f"{name} ({number.about}) is {number.value:.4g}"
    said += f" {_ends(low, high)}" if low < high else ""
    return Seen(value=number.value, low=low, high=high, rows=number.rows, said=said)


def decide(rule: Expression, low: float, high: float) -> Verdict:
    """PASS when the whole interval is on the right side of the limit, FAIL when it is wholly on the wrong side."""
    if not rule.upward:
        low, high = -high, -low
    limit = rule.margin if rule.upward else -rule.margin
    if low > limit or (low == limit and not rule.strict):
        return "PASS"
    return "FAIL" if high < limit or (high == limit and rule.strict) else "INCONCLUSIVE"


def overall(rulings: Sequence[Ruling]) -> Verdict:
    """FAIL when any rule failed, else INCONCLUSIVE when any is, else PASS."""
    verdicts = {ruling.verdict for ruling in rulings}
    return "FAIL" if "FAIL" in verdicts else "INCONCLUSIVE" if "INCONCLUSIVE" in verdicts else "PASS"


def _alone(rule: Expression, metrics: EvaluationMetrics, summary: EvaluationSummary) -> Seen:
    """The subject's own number."""
    score, rows = _score(rule.name, summary.subject, metrics, summary)
    said = f"{rule.name} of the {summary.subject} model is {score.value:.4g} {_ends(score.low, score.high)}"
    return Seen(value=score.value, low=score.low, high=score.high, rows=rows, said=said)


def _against(rule: Expression, metrics: EvaluationMetrics, summary: EvaluationSummary, pairs: Sequence[Any]) -> Seen:
    """The subject's number minus another model's on the same rows."""
    subject = summary.subject
    known = [name for name in summary.order if name != subject]
    if rule.reference not in known:
        what = f"the evaluation has no model {rule.reference!r} to compare {subject!r} with"
        raise RecipeError(what, where=Where(field="rules"), remedy=did_you_mean(str(rule.reference), known))
    _score(rule.name, subject, metrics, summary)  # a clear error when it was not measured
    for pair in pairs:
        if (pair["a"], pair["b"], pair["metric"]) == (subject, rule.reference, rule.name):
            values = [_score(rule.name, name, metrics, summary)[0].value for name in (subject, str(rule.reference))]
            said = f"{rule.name} is {values[0]:.4g} against {values[1]:.4g} of {rule.reference}: a difference of "
            said += f"{pair['difference']:+.4g} {_ends(pair['low'], pair['high'])}"
            return Seen(value=pair["difference"], low=pair["low"], high=pair["high"], rows=pair["rows"], said=said)
    what = f"{rule.name} was not compared in pairs; give it a number as its limit"
    raise RecipeError(what, where=Where(field="rules"))


def _score(name: str, model: str, metrics: EvaluationMetrics, summary: EvaluationSummary) -> tuple[MetricScore, int]:
    """A model's number by name, and over how many rows."""
    scores, measures = metrics.models[model], metrics.measures.get(model, {})
    if name in scores:
        return scores[name], summary.rows
    if name in measures:
        return measures[name], measures[name].rows
    what = f"{name} was not measured for {model!r}"
    remedy = f"add it to the evaluation's metrics or probes ({did_you_mean(name, [*scores, *measures])})"
    raise RecipeError(what, where=Where(field="rules"), remedy=remedy)


def _ends(low: float, high: float) -> str:
    return f"(95 % interval {low:.4g} to {high:.4g})"


def _why(rule: Expression, verdict: Verdict, seen: Seen, needed: int | None) -> str:
    limit = f"{rule.margin:.4g}"
    side = {
        "PASS": "entirely on the passing side of",
        "FAIL": "entirely on the failing side of",
        "INCONCLUSIVE": "which includes",
    }
    sentence = f"{seen.said}, {side[verdict]} {limit}"
    if verdict != "INCONCLUSIVE":
        return f"{sentence}."
    more = f"about {needed:,} more rows would decide" if needed else "even many more rows are unlikely to decide"
    return f"{sentence}; {more}."
