"""Names that the rules of a gate can use (their grammar is `luthier.core.expressions`).

A name is a metric (`macro_f1`), the measure of a probe (`bias.gap`), the score of a task (`arc_easy.acc`, or
`arc_easy.drop`: how much of it the tuned model lost), a number of a check of data (`label_errors`) or what people said
(`people.difference`); a reference is `base`, `against`, `blind` or a baseline (`tfidf`); a per cent is a hundredth of
the metric's scale: one point of BLEU's; `no serious findings` counts those, `no warning findings` those and worse. A
name that begins with `explain.` is a measure of how faithful explanations are (`explain.gain_over_random`); one that
begins with the kind of another step that explains is a measure of that (`model_diff.kl`, `conformal.coverage`).
"""

from __future__ import annotations

from collections.abc import Collection

from luthier.artifacts.explanation import MEASURES
from luthier.artifacts.explanation_kinds import MODEL_EXPLANATIONS
from luthier.artifacts.findings import COUNTS
from luthier.core.component import components_by_kind
from luthier.core.expressions import (
    ExpressionToken,
    ExpressionVocabulary,
    ThresholdExpression,
    parse_expression,
    simplify_name,
)
from luthier.eval.task import SCORES

EXPLAIN = "explain."
PEOPLE = "people."
PEOPLE_MEASURES = tuple(
    PEOPLE + name for name in ("points", "difference", "agreement", "attention_checks", "ties", "first_shown")
)
"""Measures of human ratings; `people.difference.NAME` is the difference from a further model."""


def parse_rule(
    text: str, *, findings: bool = False, people: bool = False, explanation: bool = False
) -> ThresholdExpression:
    """Read a rule; `ExpressionError` says at which column it is wrong, and what was wanted there.

    With `findings`, rules about the data are read as well; which numbers their checks have, the findings know. With
    `people`, so are rules about what people said, and with `explanation` those about how faithful explanations are.
    """
    return parse_expression(text, GateVocabulary(findings=findings, people=people, explanation=explanation))


class GateVocabulary(ExpressionVocabulary):
    """The metrics, measures and models of an evaluation, and the numbers of findings and of people's judgments."""

    name_wanted = "the name of a metric"
    limit_wanted = "a number, or a model such as base"

    def __init__(self, *, findings: bool, people: bool, explanation: bool = False) -> None:
        self._findings = findings
        self._people = people
        self._explanation = explanation
        self._measures = _measures()

    def find_name(self, token: ExpressionToken) -> str:
        if token.text.startswith(PEOPLE):
            if not self._people:
                raise token.error("nobody was asked; name a step of kind `human_ratings` in `human_ratings`")
            is_pair = token.text.startswith(f"{PEOPLE}difference.")
            return token.text if is_pair else token.match(PEOPLE_MEASURES, "measure")
        if is_explanation_name(token.text):
            return self._find_explanation_measure(token)
        is_measure = simplify_name(token.text) in map(simplify_name, self._measures)
        if is_task_score_name(token.text) or (self._findings and not is_measure):
            return token.text
        if not is_measure and can_be_task_score(token.text):
            return token.text
        return token.match(self._measures, "metric")

    def _find_explanation_measure(self, token: ExpressionToken) -> str:
        kind = token.text.partition(".")[0]
        if not self._explanation:
            raise token.error(f"nothing was explained; name a step of kind `{kind}` in `explanation`")
        if kind in MODEL_EXPLANATIONS:
            return token.match([f"{kind}.{name}" for name in MODEL_EXPLANATIONS[kind].known_measures], "measure")
        if token.text.count(".") > 1 and token.text.rpartition(".")[2] in MEASURES:
            return token.text
        return token.match([EXPLAIN + name for name in MEASURES], "measure")

    def find_reference(self, token: ExpressionToken) -> str:
        from luthier.eval.baseline import Baseline
        from luthier.eval.report.facts.models import BLIND

        return token.match(["base", "against", BLIND, *components_by_kind(Baseline)], "model")

    def severities(self, token: ExpressionToken) -> Collection[str]:
        if not self._findings:
            raise token.error("no data was checked; name a `validate` step in `findings`")
        return {name.rpartition(".")[2] for name in COUNTS}

    def scale(self, name: str) -> float:
        """Return the whole of a metric or a task's score: 100 for those from 0 to 100, else 1."""
        from luthier.metrics.metric import Metric

        found = components_by_kind(Metric).get(name.rpartition(".")[2])
        return found.whole() if found is not None else 1.0


def is_evaluation_rule(rule: ThresholdExpression) -> bool:
    """Return whether a rule is about an evaluation, rather than about findings in data."""
    return rule.name in _measures() or is_task_score_name(rule.name)


def is_task_score_name(name: str) -> bool:
    """Return whether a name has the form of a task's score, such as `arc_easy.acc`."""
    return any(part in SCORES for part in name.split(".")[1:])


def can_be_task_score(name: str) -> bool:
    """Return whether a name may be a score of a task's own code: no probe has such measures."""
    family, point, _ = name.partition(".")
    return is_task_score_name(name) or (
        bool(point) and family not in {measure.partition(".")[0] for measure in _measures()}
    )


def is_human_rule(rule: ThresholdExpression) -> bool:
    """Return whether a rule is about human ratings."""
    return rule.name.startswith(PEOPLE)


def is_explanation_rule(rule: ThresholdExpression) -> bool:
    """Return whether a rule is about an explanation step."""
    return is_explanation_name(rule.name)


def is_explanation_name(name: str) -> bool:
    """Return whether a rule's name begins with the kind of an explanation step."""
    kind, point, _ = name.partition(".")
    return bool(point) and (f"{kind}." == EXPLAIN or kind in MODEL_EXPLANATIONS)


def _measures() -> list[str]:
    """Everything that an evaluation can measure: metrics, and the measures of probes."""
    from luthier.eval.probe import Probe
    from luthier.metrics.metric import Metric

    probes = components_by_kind(Probe).values()
    metrics = components_by_kind(Metric)
    return [*metrics, *(name for probe in probes for name in probe.measures)]
