"""Several aims at once: which finalists no other surpasses, and the constraints that each must meet.

Constraints are rules as a gate has them (`macro_f1 >= 0.9`, `latency <= 0.2`, `bias.gap <= of`), on what was measured
of a finalist; `of` and `plain` name those models' numbers. A rule here goes by the value alone. That it holds for sure,
with the whole interval, is for a gate to say, on the model that was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from luthier.artifacts.search import AimRecord, Better
from luthier.core.component import components_by_kind
from luthier.core.errors import RecipeError, SourceLocation, did_you_mean
from luthier.core.expressions import (
    ExpressionToken,
    ThresholdExpression,
    parse_expression,
    simplify_name,
)
from luthier.eval.gate_vocabulary import GateVocabulary, can_be_task_score
from luthier.eval.task import DROP

UNITS = {"latency": "s", "memory": "bytes", "price": "per 1,000 requests", "parameters": "", "forgetting": ""}
"""Measures of every finalist besides metrics and probes, with their units; lower is better."""
REFERENCES = ("of", "plain")


class SearchVocabulary(GateVocabulary):
    """Names in a gate's rules, and further measures of finalists."""

    limit_wanted = "a number, or `of`"

    def __init__(self) -> None:
        super().__init__(findings=False, people=False)

    def find_name(self, token: ExpressionToken) -> str:
        if simplify_name(token.text) in UNITS:
            return token.match(UNITS, "aim")
        return super().find_name(token)

    def find_reference(self, token: ExpressionToken) -> str:
        return token.match(REFERENCES, "model")


def parse_constraint(text: str) -> ThresholdExpression:
    """Read a rule; `ExpressionError` says at which column it is wrong, and what was wanted there."""
    return parse_expression(text, SearchVocabulary())


def find_unmet(
    constraints: Sequence[str],
    measured: Mapping[str, float],
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """The first constraint that a finalist does not meet, with its number; empty where it meets all.

    `measured` and `references` (of `of` and `plain`) are numbers by name; `RecipeError` where one was not measured.
    """
    for text in constraints:
        rule = parse_constraint(text)
        value = _get_measure(rule.name, measured, text)
        limit = rule.margin
        if rule.reference is not None:
            limit += _get_measure(rule.name, (references or {}).get(rule.reference, {}), text)
        if not rule.holds(value, limit):
            return f"{text}: {rule.name} is {value:.4g}"
    return ""


def find_contradiction(constraints: Sequence[str]) -> str:
    """Two rules with numbers that no model can meet together, in a sentence; empty where there are none.

    `ExpressionError` for what is no rule.
    """
    rules = [(text, parse_constraint(text)) for text in constraints]
    numbers = [(text, rule) for text, rule in rules if rule.reference is None]
    for text, above in numbers:
        for other, below in numbers:
            if above.upward and not below.upward and above.name == below.name and _are_disjoint(above, below):
                return f"no model meets both {text!r} and {other!r}"
    return ""


def _are_disjoint(above: ThresholdExpression, below: ThresholdExpression) -> bool:
    return above.margin > below.margin or (above.margin == below.margin and (above.strict or below.strict))


def parse_aim(name: str, better: Better | None = None, field: str = "aims") -> AimRecord:
    """An aim by its name; `RecipeError` where nothing is measured that is called so.

    Where it is not said which way it is better, a metric and a task's score know it themselves; of anything else less
    is better.
    """
    from luthier.eval.probe import Probe
    from luthier.metrics.metric import Metric

    metrics = components_by_kind(Metric)
    measures = [measure for probe in components_by_kind(Probe).values() for measure in probe.measures]
    if name in metrics:
        return AimRecord(name=name, better=better or metrics[name].better)
    if name in UNITS or name in measures:
        return AimRecord(name=name, better=better or "lower", unit=UNITS.get(name, ""))
    if can_be_task_score(name):
        return AimRecord(name=name, better=better or ("lower" if name.endswith(f".{DROP}") else "higher"))
    hint = did_you_mean(name, [*metrics, *UNITS, *measures])
    raise RecipeError(f"nothing is measured that is called {name!r}", where=SourceLocation(field=field), hint=hint)


def find_front(points: Mapping[int, Mapping[str, float]], aims: Sequence[AimRecord]) -> tuple[int, ...]:
    """The trials that no other surpasses: at least as good in every aim and better in one.

    The best in the first aim comes first, of equal ones the earlier trial; equal trials stand on the front together.
    A trial that lacks one of the aims is not on it.
    """
    known = {trial: _losses(numbers, aims) for trial, numbers in points.items() if all(a.name in numbers for a in aims)}
    front = [
        trial
        for trial, mine in known.items()
        if not any(_dominates(its, mine) for other, its in known.items() if other != trial)
    ]
    return tuple(sorted(front, key=lambda trial: (known[trial], trial)))


def _losses(numbers: Mapping[str, float], aims: Sequence[AimRecord]) -> tuple[float, ...]:
    return tuple(-numbers[aim.name] if aim.better == "higher" else numbers[aim.name] for aim in aims)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def _get_measure(name: str, measured: Mapping[str, float], rule: str) -> float:
    if name not in measured:
        what = f"{name} was not measured, which the constraint {rule!r} is about"
        raise RecipeError(what, where=SourceLocation(field="constraints"), hint=did_you_mean(name, measured))
    return measured[name]
