"""The step that decides: a list of rules over an evaluation, answered PASS, FAIL or INCONCLUSIVE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.core.files import json_bytes, write_atomically
from luthier.core.messages import gettext_noop
from luthier.core.step import (
    EvaluationRef,
    ExplanationRef,
    FindingsRef,
    JudgmentsRef,
    PlanContext,
    Step,
    StepContext,
    StepCostEstimate,
)

if TYPE_CHECKING:
    from luthier.core.expressions import ThresholdExpression
    from luthier.eval.gate import RuleResult


def _checked(text: str, info: ValidationInfo) -> str:
    from luthier.eval.gate_vocabulary import parse_rule

    parse_rule(
        text,
        findings=bool(info.data.get("findings")),
        people=bool(info.data.get("human_ratings")),
        explanation=bool(info.data.get("explanation")),
    )
    return text


RuleText = Annotated[str, AfterValidator(_checked)]


class Gate(Step):
    """Hold an evaluation, what was found in data, what people said, or how faithful explanations are, against rules.

    A rule passes only when its whole 95 % interval is on the right side.

    Each rule is a decision that was written down beforehand, so its interval is not corrected for their number.
    """

    kind: Literal["gate"] = "gate"
    makes: ClassVar[str] = "verdict"

    evaluation: EvaluationRef = None
    """The step that made the evaluation."""
    findings: FindingsRef = None
    """The step that checked the data, for rules such as `label_errors < 2%` or `no serious findings`."""
    human_ratings: JudgmentsRef = None
    """The step that took people's judgments together, for rules such as `people.difference > 0`."""
    explanation: ExplanationRef = None
    """The step that explained answers or a model, for rules such as `explain.gain_over_random > 0`,
    `model_diff.kl < 0.5` or `conformal.coverage >= 0.9`."""
    rules: tuple[RuleText, ...] = Field(min_length=1)
    """What must hold, such as `macro_f1 > base`, `rougeL >= base - 0.01`, `accuracy >= 0.8`, `accuracy > tfidf`."""

    @model_validator(mode="after")
    def _holds_something(self) -> Gate:
        if not any((self.evaluation, self.findings, self.human_ratings, self.explanation)):
            raise ValueError(
                "a gate holds nothing; name a step that evaluates in `evaluation`, one that validates in "
                "`findings`, one that takes judgments together in `human_ratings`, or one that explains in "
                "`explanation`"
            )
        return self

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write `gate.json`; a rule that fails is a result, not an error."""
        from luthier.eval.gate import combine_verdicts

        rule_results = [self._judged(text, work.inputs) for text in self.rules]
        verdict = {
            "verdict": combine_verdicts(rule_results),
            "rules": [rule_result.as_json() for rule_result in rule_results],
        }
        for rule_result in rule_results:
            work.events.note(f"{rule_result.verdict}: {rule_result.rule}: {rule_result.why}")
        write_atomically(work.folder / "gate.json", json_bytes(verdict))
        return {}

    def _parse(self, text: str) -> ThresholdExpression:
        from luthier.eval.gate_vocabulary import parse_rule

        return parse_rule(
            text,
            findings=self.findings is not None,
            people=self.human_ratings is not None,
            explanation=self.explanation is not None,
        )

    def _judged(self, text: str, inputs: Mapping[str, Artifact]) -> RuleResult:
        from luthier.eval.gate import (
            evaluate_data_rule,
            evaluate_explanation_rule,
            evaluate_human_rule,
            evaluate_rule,
        )
        from luthier.eval.gate_vocabulary import is_evaluation_rule, is_explanation_rule, is_human_rule

        rule = self._parse(text)
        if is_explanation_rule(rule):
            return evaluate_explanation_rule(text, rule, inputs["explanation"])
        if is_human_rule(rule):
            return evaluate_human_rule(text, rule, inputs["human_ratings"])
        if "findings" in inputs and not (is_evaluation_rule(rule) and "evaluation" in inputs):
            return evaluate_data_rule(text, rule, inputs["findings"])
        return evaluate_rule(text, rule, inputs["evaluation"])

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Refuse rules about what the evaluation's settings leave out; the work itself takes no time."""
        from luthier.eval.gate_vocabulary import is_evaluation_rule, is_explanation_rule, is_human_rule
        from luthier.eval.steps.evaluate import Evaluate

        evaluation, checked = plan_context.upstream.get("evaluation"), plan_context.upstream.get("findings")
        for number, text in enumerate(self.rules):
            where = SourceLocation(field=f"rules.{number}")
            rule = self._parse(text)
            if is_human_rule(rule):
                continue
            if is_explanation_rule(rule):
                _check_explanation(rule, plan_context.upstream.get("explanation"), where)
                continue
            if checked is not None and not (is_evaluation_rule(rule) and evaluation is not None):
                _check_data(rule, checked, where)
            elif isinstance(evaluation, Evaluate):
                _check(rule, evaluation, where)
        return StepCostEstimate(seconds=0.1, how=gettext_noop("reads the evaluation's numbers"))


def _check_data(rule: ThresholdExpression, checked: Step, where: SourceLocation) -> None:
    """`RecipeError` when no check of the validation has the number that a rule names."""
    known = checked.measured()
    if known is not None and rule.name not in known:
        what = f"the validation does not measure {rule.name}"
        raise RecipeError(what, where=where, hint=f"add its check to `checks`; {did_you_mean(rule.name, known)}")
    if rule.reference is not None:
        what = f"{rule.name} is about data, which has no {rule.reference}"
        raise RecipeError(what, where=where, hint="give the rule a number as its limit")


def _check_explanation(rule: ThresholdExpression, explained: Step | None, where: SourceLocation) -> None:
    """`RecipeError` when the step that explains does not measure what a rule names."""
    known = None if explained is None else explained.measured()
    if known is not None and rule.name not in known:
        what = f"the step that explains does not measure {rule.name}"
        raise RecipeError(
            what,
            where=where,
            hint=f"add the method to its `methods`, or name another step; {did_you_mean(rule.name, known)}",
        )


def _check(rule: ThresholdExpression, evaluation: Any, where: SourceLocation) -> None:
    """`RecipeError` when a rule names a measure or model that the evaluation's own settings leave out."""
    from luthier.eval.gate_vocabulary import can_be_task_score

    probed = [name for probe in evaluation.probes for name in probe.measures]
    if can_be_task_score(rule.name):
        _check_task(rule, evaluation, where)
    elif evaluation.metrics is not None or "." in rule.name:
        measured = [*(metric.kind for metric in evaluation.metrics or ()), *probed]
        if rule.name not in measured:
            raise RecipeError(
                f"the evaluation does not measure {rule.name}", where=where, hint=_hint(rule.name, measured)
            )
    if rule.reference == "base" and not evaluation.compare_base:
        raise RecipeError("the evaluation leaves the base out", where=where, hint="set its compare_base to true")
    if rule.reference == "against" and evaluation.compare_with is None:
        hint = "name the step of the model to compare with in its `compare_with`"
        raise RecipeError("the evaluation holds its model against no other", where=where, hint=hint)
    known = (
        None
        if evaluation.baselines is None
        else ["base", "against", *(baseline.kind for baseline in evaluation.baselines)]
    )
    if rule.reference is not None and known is not None and rule.reference not in known:
        raise RecipeError(
            f"the evaluation has no {rule.reference}", where=where, hint=did_you_mean(rule.reference, known)
        )


def _check_task(rule: ThresholdExpression, evaluation: Any, where: SourceLocation) -> None:
    """`RecipeError` when a rule names the score of a task that the evaluation does not ask."""
    if evaluation.tasks is None:
        return  # whether `forgetting` is asked, the held-out rows decide
    known = [task.measured() for task in evaluation.tasks]
    measured = [name for names in known for name in names or ()]
    if rule.name not in measured and None not in known:
        what = f"the evaluation does not measure {rule.name}"
        raise RecipeError(
            what, where=where, hint=f"add it to the evaluation's tasks; {did_you_mean(rule.name, measured)}"
        )


def _hint(name: str, measured: list[str]) -> str:
    what = "probes" if "." in name else "metrics"
    return f"add it to the evaluation's {what}" + (f"; {did_you_mean(name, measured)}" if measured else "")
