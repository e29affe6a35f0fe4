"""The step that decides: a list of rules over an evaluation, answered PASS, FAIL or INCONCLUSIVE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from luthier.core.artifact import Artifact
from luthier.core.errors import RecipeError, Where, did_you_mean
from luthier.core.files import json_bytes, write_aside
from luthier.core.step import EvaluationRef, FindingsRef, Forecast, JudgmentsRef, Outlook, Step, Work

if TYPE_CHECKING:
    from luthier.core.expressions import Expression
    from luthier.eval.judge import Ruling


def _checked(text: str, info: ValidationInfo) -> str:
    from luthier.eval.gate_vocabulary import parse_rule

    parse_rule(text, findings=bool(info.data.get("findings")), people=bool(info.data.get("people")))
    return text


RuleText = Annotated[str, AfterValidator(_checked)]


class Gate(Step):
    """Hold an evaluation, what was found in data, or what people said, against rules.

    A rule passes only when its whole 95 % interval is on the right side.

    Each rule is a decision that was written down beforehand, so its interval is not corrected for their number.
    """

    kind: Literal["gate"] = "gate"
    makes: ClassVar[str] = "verdict"

    report: EvaluationRef = None
    """The step that made the evaluation."""
    findings: FindingsRef = None
    """The step that checked the data, for rules such as `label_errors < 2%` or `no serious findings`."""
    people: JudgmentsRef = None
    """The step that took people's judgments together, for rules such as `people.difference > 0`."""
    rules: tuple[RuleText, ...] = Field(min_length=1)
    """What must hold, such as `macro_f1 > base`, `rougeL >= base - 0.01`, `accuracy >= 0.8`, `accuracy > tfidf`."""

    @model_validator(mode="after")
    def _holds_something(self) -> Gate:
        if self.report is None and self.findings is None and self.people is None:
            raise ValueError(
                "a gate holds nothing; name a step that evaluates in `report`, or one that validates in `findings`, or "
                "one that takes judgments together in `people`"
            )
        return self

    def make(self, work: Work) -> Mapping[str, Any]:
        """Write `verdict.json`; a rule that fails is a result, not an error."""
        from luthier.eval.judge import overall

        rulings = [self._judged(text, work.inputs) for text in self.rules]
        verdict = {"verdict": overall(rulings), "rules": [ruling.as_json() for ruling in rulings]}
        for ruling in rulings:
            work.events.note(f"{ruling.verdict}: {ruling.rule}: {ruling.why}")
        write_aside(work.folder / "verdict.json", json_bytes(verdict))
        return {}

    def _judged(self, text: str, inputs: Mapping[str, Artifact]) -> Ruling:
        from luthier.eval.gate_vocabulary import is_about_models, is_about_people, parse_rule
        from luthier.eval.judge import judge, judge_data, judge_people

        rule = parse_rule(text, findings=self.findings is not None, people=self.people is not None)
        if is_about_people(rule):
            return judge_people(text, rule, inputs["people"])
        if "findings" in inputs and not (is_about_models(rule) and "report" in inputs):
            return judge_data(text, rule, inputs["findings"])
        return judge(text, rule, inputs["report"])

    def foresee(self, outlook: Outlook) -> Forecast:
        """Refuse rules about what the evaluation's settings leave out; the work itself takes no time."""
        from luthier.eval.gate_vocabulary import is_about_models, is_about_people, parse_rule
        from luthier.eval.steps.evaluate import Evaluate

        evaluation, checked = outlook.upstream.get("report"), outlook.upstream.get("findings")
        for number, text in enumerate(self.rules):
            where = Where(field=f"rules.{number}")
            rule = parse_rule(text, findings=checked is not None, people=self.people is not None)
            if is_about_people(rule):
                continue
            if checked is not None and not (is_about_models(rule) and evaluation is not None):
                _check_data(rule, checked, where)
            elif isinstance(evaluation, Evaluate):
                _check(rule, evaluation, where)
        return Forecast(seconds=0.1, how="reads the evaluation's numbers")


def _check_data(rule: Expression, checked: Step, where: Where) -> None:
    """`RecipeError` when no check of the validation has the number that a rule names."""
    known = checked.measured()
    if known is not None and rule.name not in known:
        what = f"the validation does not measure {rule.name}"
        raise RecipeError(what, where=where, remedy=f"add its check to `checks`; {did_you_mean(rule.name, known)}")
    if rule.reference is not None:
        what = f"{rule.name} is about data, which has no {rule.reference}"
        raise RecipeError(what, where=where, remedy="give the rule a number as its limit")


def _check(rule: Expression, evaluation: Any, where: Where) -> None:
    """`RecipeError` when a rule names a measure or model that the evaluation's own settings leave out."""
    from luthier.eval.gate_vocabulary import is_of_a_task

    probed = [name for probe in evaluation.probes for name in probe.measures]
    if is_of_a_task(rule.name):
        _check_task(rule, evaluation, where)
    elif evaluation.metrics is not None or "." in rule.name:
        measured = [*(metric.kind for metric in evaluation.metrics or ()), *probed]
        if rule.name not in measured:
            raise RecipeError(
                f"the evaluation does not measure {rule.name}", where=where, remedy=_hint(rule.name, measured)
            )
    if rule.reference == "base" and not evaluation.compare_base:
        raise RecipeError("the evaluation leaves the base out", where=where, remedy="set its compare_base to true")
    if rule.reference == "against" and evaluation.against is None:
        remedy = "name the step of the model to compare with in its `against`"
        raise RecipeError("the evaluation holds its model against no other", where=where, remedy=remedy)
    known = None if evaluation.baselines is None else ["base", "against", *(one.kind for one in evaluation.baselines)]
    if rule.reference is not None and known is not None and rule.reference not in known:
        raise RecipeError(
            f"the evaluation has no {rule.reference}", where=where, remedy=did_you_mean(rule.reference, known)
        )


def _check_task(rule: Expression, evaluation: Any, where: Where) -> None:
    """`RecipeError` when a rule names the score of a task that the evaluation does not ask."""
    if evaluation.tasks is None:
        return  # whether `forgetting` is asked, the held-out rows decide
    known = [task.measured() for task in evaluation.tasks]
    measured = [name for names in known for name in names or ()]
    if rule.name not in measured and None not in known:
        what = f"the evaluation does not measure {rule.name}"
        raise RecipeError(
            what, where=where, remedy=f"add it to the evaluation's tasks; {did_you_mean(rule.name, measured)}"
        )


def _hint(name: str, measured: list[str]) -> str:
    what = "probes" if "." in name else "metrics"
    return f"add it to the evaluation's {what}" + (f"; {did_you_mean(name, measured)}" if measured else "")
