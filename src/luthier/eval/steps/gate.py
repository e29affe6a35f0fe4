"""The step that decides: a list of rules over an evaluation, answered PASS, FAIL or INCONCLUSIVE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from luthier.core.errors import RecipeError, Where, did_you_mean
from luthier.core.files import write_aside
from luthier.core.step import EvaluationRef, Forecast, Makes, Outlook, Step, Work


def _checked(text: str) -> str:
    from luthier.eval.rule import parse

    parse(text)
    return text


RuleText = Annotated[str, AfterValidator(_checked)]


class Gate(Step):
    """Hold an evaluation against rules; a rule passes only when its whole 95 % interval is on the right side.

    Each rule is a decision that was written down beforehand, so its interval is not corrected for their number.
    """

    kind: Literal["gate"] = "gate"
    makes: ClassVar[Makes] = "verdict"

    report: EvaluationRef
    """The step that made the evaluation."""
    rules: tuple[RuleText, ...] = Field(min_length=1)
    """What must hold, such as `macro_f1 > base`, `rougeL >= base - 0.01`, `accuracy >= 0.8`, `accuracy > tfidf`."""

    def make(self, work: Work) -> Mapping[str, Any]:
        """Write `verdict.json`; a rule that fails is a result, not an error."""
        from luthier.eval.judge import judge, overall
        from luthier.eval.rule import parse

        evaluation = work.inputs["report"]
        rulings = [judge(text, parse(text), evaluation) for text in self.rules]
        verdict = {"verdict": overall(rulings), "rules": [ruling.as_json() for ruling in rulings]}
        for ruling in rulings:
            work.events.note(f"{ruling.verdict}: {ruling.rule}: {ruling.why}")
        text = json.dumps(verdict, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        write_aside(work.folder / "verdict.json", (text + "\n").encode())
        return {}

    def foresee(self, outlook: Outlook) -> Forecast:
        """Refuse rules about what the evaluation's settings leave out; the work itself takes no time."""
        from luthier.eval.steps.evaluate import Evaluate

        evaluation = outlook.upstream.get("report")
        if isinstance(evaluation, Evaluate):
            for number, text in enumerate(self.rules):
                _check(text, evaluation, Where(field=f"rules.{number}"))
        return Forecast(seconds=0.1, how="reads the evaluation's numbers")


def _check(text: str, evaluation: Any, where: Where) -> None:
    """`RecipeError` when a rule names a measure or model that the evaluation's own settings leave out."""
    from luthier.eval.rule import parse

    rule = parse(text)
    probed = [name for probe in evaluation.probes for name in probe.measures]
    if evaluation.metrics is not None or "." in rule.name:
        measured = [*(metric.kind for metric in evaluation.metrics or ()), *probed]
        if rule.name not in measured:
            raise RecipeError(
                f"the evaluation does not measure {rule.name}", where=where, remedy=_hint(rule.name, measured)
            )
    if rule.model == "base" and not evaluation.compare_base:
        raise RecipeError("the evaluation leaves the base out", where=where, remedy="set its compare_base to true")
    known = None if evaluation.baselines is None else ["base", *(one.kind for one in evaluation.baselines)]
    if rule.model is not None and known is not None and rule.model not in known:
        raise RecipeError(f"the evaluation has no {rule.model}", where=where, remedy=did_you_mean(rule.model, known))


def _hint(name: str, measured: list[str]) -> str:
    what = "probes" if "." in name else "metrics"
    return f"add it to the evaluation's {what}" + (f"; {did_you_mean(name, measured)}" if measured else "")
