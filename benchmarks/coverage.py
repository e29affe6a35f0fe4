"""How often intervals that claim 95 % hold the truth: every number that an evaluation states, on 30, 120 and 500 rows.

    python benchmarks/coverage.py [--quick] [--only NAME …] [--metrics KIND …] [--rows N …] [--sets N]

Rows are drawn again and again from a population of which the truth is known. For each number the lines tell the share
of the drawn sets whose interval holds the truth: 90 to 98 % of them should. A chance of 95 % gives 93.6 to 96.4 % in
1,000 sets. Measures of a whole set (distinct, self_bleu) depend on how many rows there are: their truth is the mean
over sets of that size. A number that cannot reach the goal has its reason beside it (docs/design/0016).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from luthier.core.component import components_by_kind
from luthier.metrics.columns import WeightedColumn
from luthier.metrics.intervals import wilson_interval
from luthier.metrics.metric import EvalPredictions, Metric, measure_all
from luthier.metrics.paired import compute_paired_difference

SIZES = (30, 120, 500)
GOAL = (0.90, 0.98)
CANNOT = {
    "recall, difference": "2 of 9 rows that bear the label change among 30: fewer than 5 contradict no small difference"
}
"""Numbers of which no interval can be held to the goal on the fewest rows, and why."""
POPULATION = 6000
WORDS = [f"w{number}" for number in range(60)]
LABELS = ("a", "b", "c")
OF_A_SET = ("distinct", "self_bleu")
BY_LABEL = ("accuracy", "precision", "recall", "f1")


class Span(NamedTuple):
    """One interval of one drawn set."""

    value: float
    low: float
    high: float


Trial = Callable[[int, int], dict[str, Span]]
"""From rows and a seed to the intervals of one drawn set, by name."""


class Family(NamedTuple):
    """Numbers that are drawn together."""

    trial: Trial
    truth: Mapping[str, float]
    """The names that are not here have the mean over sets for their truth."""


def covered(family: Family, rows: int, sets: int) -> dict[str, float]:
    """The share of drawn sets whose interval holds the truth, by name."""
    found: dict[str, list[Span]] = {}
    for seed in range(sets):
        for name, span in family.trial(rows, seed).items():
            found.setdefault(name, []).append(span)
    shares = {}
    for name, spans in found.items():
        truth = family.truth.get(name, float(np.mean([span.value for span in spans])))
        shares[name] = float(np.mean([span.low - 1e-9 <= truth <= span.high + 1e-9 for span in spans]))
    return shares


def families(kinds: Sequence[str] = ()) -> dict[str, Family]:
    """Everything that has an interval, by what is drawn together; of metrics, these kinds."""
    if kinds:
        return metric_families(kinds)
    return {**metric_families(), "columns": columns(), "groups": groups(), "judges": judges(), "duels": duels()}


def metric_families(kinds: Sequence[str] = ()) -> dict[str, Family]:
    """Every metric, and its paired difference between two models, by the kind of rows that it reads."""
    wanted = {
        name: [metric for metric in metrics if not kinds or metric.kind in kinds]
        for name, metrics in every_metric().items()
    }
    return {name: family(metrics) for name, metrics in wanted.items() if metrics}


def every_metric() -> dict[str, list[Metric]]:
    """Every metric, by the kind of rows that it reads."""
    groups: dict[str, list[Metric]] = {}
    for kind, metric in sorted(components_by_kind(Metric).items()):
        settings = {"label": "b"} if "label" in metric.model_fields else {}
        one = metric.model_validate({"kind": kind, **settings})
        groups.setdefault(_rows_of(one), []).append(one)
    return groups


def _rows_of(metric: Metric) -> str:
    if metric.single_reference or "label_scores" in metric.needs or metric.kind in BY_LABEL:
        return "labels"
    if metric.scored:
        return "scored"
    return "texts" if metric.form == "text" else metric.form


def family(metrics: Sequence[Metric]) -> Family:
    """Some metrics that read the same rows, of one model and between two."""
    a, b = (population(metrics, seed) for seed in (1, 2))
    truth: dict[str, float] = {}
    for metric in metrics:
        if metric.kind not in OF_A_SET:
            one, other = (measure_all([metric], some)[0].value for some in (a, b))
            truth |= {metric.kind: one, f"{metric.kind}, difference": one - other}

    def trial(rows: int, seed: int) -> dict[str, Span]:
        drawn = np.random.default_rng([2, seed, rows]).integers(0, POPULATION, rows).tolist()
        mine, its = a.select(drawn), b.select(drawn)
        found = {}
        for metric, score in zip(metrics, measure_all(metrics, mine, seed=seed), strict=True):
            found[metric.kind] = Span(score.value, score.low, score.high)
            told = compute_paired_difference(metric, mine, its, seed=seed)
            found[f"{metric.kind}, difference"] = Span(told.value, told.low, told.high)
        return found

    return Family(trial, truth)


def population(metrics: Sequence[Metric], model: int) -> EvalPredictions:
    """Many rows: labels of unequal frequency with overconfident scores, or texts of unequal difficulty.

    Models answer the same rows; the second is a little worse.
    """
    real, own = np.random.default_rng(1), np.random.default_rng([3, model])
    form = metrics[0].form
    said, right, more = _labels(real, own, model) if _rows_of(metrics[0]) == "labels" else _texts(real, model, form)
    tokens = real.integers(3, 30, POPULATION)
    surprise = tokens * real.gamma(4, 0.5, POPULATION) * own.uniform(0.8, 1.2, POPULATION)
    more |= {"logprobs": (-surprise).tolist(), "tokens": tokens.tolist()}
    names = sorted({name for metric in metrics for name in metric.scored})
    more["columns"] = {name: _numbers(name, own, tokens, surprise) for name in names}
    return EvalPredictions.of(said, right, **more)


def _labels(
    chance: np.random.Generator, own: np.random.Generator, model: int
) -> tuple[list[str], list[str], dict[str, Any]]:
    real = chance.choice(3, POPULATION, p=(0.2, 0.3, 0.5))
    sharp = chance.gamma(1.0, 1.0, (POPULATION, 3)) + own.gamma(0.3 * model, 1.0, (POPULATION, 3))
    sharp[np.arange(POPULATION), real] += chance.exponential(1.5, POPULATION)
    chances = (sharp / sharp.sum(axis=1, keepdims=True)) ** 2
    chances /= chances.sum(axis=1, keepdims=True)
    scores = [dict(zip(LABELS, row.tolist(), strict=True)) for row in chances]
    said = [LABELS[number] for number in chances.argmax(axis=1)]
    return said, [LABELS[number] for number in real], {"label_scores": scores}


def _texts(chance: np.random.Generator, model: int, form: str) -> tuple[list[str], list[str], dict[str, Any]]:
    draw, own = random.Random(int(chance.integers(1 << 30))), random.Random(model)
    said, real = [], []
    for wrong in chance.beta(1, 3, POPULATION):
        words = draw.choices(WORDS, k=draw.randint(4, 16))
        copy = [own.choice(WORDS) if own.random() < wrong * (0.8 + 0.2 * model) else word for word in words]
        one, other = dressed(copy, form), dressed(words, form)
        said.append(one if own.random() > 0.1 else "none")
        real.append(other)
    return said, real, {}


def dressed(words: list[str], form: str) -> str:
    """Words as a number, a tool call, a JSON object or a text."""
    if form == "number":
        return words[0][1:]
    if form == "calls":
        return f'{{"name": "{words[0][:2]}", "arguments": {{}}}}'
    return '{"k": ["' + '", "'.join(words) + '"]}' if form == "json" else " ".join(words)


def _numbers(name: str, chance: np.random.Generator, tokens: Any, surprise: Any) -> list[float | None]:
    drawn = {
        "passed": lambda: chance.binomial(5, chance.beta(0.6, 1.0, POPULATION)).astype(float),
        "programs": lambda: np.full(POPULATION, 5.0),
        "fluency_logprob": lambda: -surprise,
        "fluency_tokens": lambda: tokens.astype(float),
        "judge_consistent": lambda: (chance.random(POPULATION) < 0.8).astype(float),
        "human": lambda: np.random.default_rng(9).integers(0, 5, POPULATION) / 4,
        "judge": lambda: np.clip(
            np.random.default_rng(9).integers(0, 5, POPULATION) / 4 + chance.integers(-1, 2, POPULATION) / 4, 0, 1
        ),
    }.get(name, lambda: chance.beta(2, 1, POPULATION))()
    return [None if chance.random() < 0.05 and name not in ("programs",) else float(one) for one in drawn]


def columns() -> Family:
    """Scores of tasks: shares, means, perplexities and bits, and two models' beside each other."""
    real = np.random.default_rng(4)
    hard, tokens = real.beta(2, 2, POPULATION), real.integers(3, 30, POPULATION).astype(float)
    told: dict[str, list[np.ndarray]] = {"share": [], "mean": [], "perplexity": [], "bits": []}
    for skill in (0.0, 0.08):
        right = np.clip(hard + skill, 0, 1)
        told["share"].append((real.random(POPULATION) < right).astype(float))
        told["mean"].append(np.clip(right + real.normal(0, 0.1, POPULATION), 0, 1))
        told["perplexity"].append(-tokens * np.clip(2.5 - right + real.normal(0, 0.3, POPULATION), 0.1, None))
        told["bits"].append(told["perplexity"][-1])

    def of(how: Any, model: int, rows: np.ndarray) -> WeightedColumn:
        weights = tokens[rows].tolist() if how in ("perplexity", "bits") else None
        return WeightedColumn.of(how, told[how][model][rows].tolist(), weights)

    def trial(rows: int, seed: int) -> dict[str, Span]:
        drawn = np.random.default_rng([5, seed, rows]).integers(0, POPULATION, rows)
        found = {}
        for how in told:
            mine, its = (of(how, model, drawn) for model in (0, 1))
            one, apart = mine.measured(seed), mine.against(how, its, seed)
            found[f"column {how}"] = Span(one.value, one.low, one.high)
            found[f"column {how}, difference"] = Span(apart.difference, apart.low, apart.high)
        return found

    every = np.arange(POPULATION)
    truth = {}
    for how in told:
        one, other = (
            float(of(how, model, every).value(of(how, model, every).statistics().sum(0, keepdims=True))[0])
            for model in (0, 1)
        )
        truth |= {f"column {how}": one, f"column {how}, difference": one - other}
    return Family(trial, truth)


GROUPS = {"apart": ((0.62, 0.72, 0.86), (0.65, 0.7, 0.75)), "alike": ((0.72,) * 3, (0.66,) * 3)}
"""Share of right answers in three groups, of two models."""


def groups() -> Family:
    """Gaps between groups, which differ or do not; a group that is told has 20 rows, so that 60 are the fewest."""
    from luthier.eval import group_gaps
    from luthier.metrics.paired import compare_row_statistics

    values = {
        "gap": group_gaps.compute_share_spread,
        "ratio": group_gaps.compute_share_ratio,
        "worst": group_gaps.compute_lowest_share,
    }
    ends = {
        "gap": group_gaps.compute_spread_interval,
        "ratio": group_gaps.compute_ratio_interval,
        "worst": group_gaps.bound_lowest_share,
    }

    def trial(rows: int, seed: int) -> dict[str, Span]:
        found = {}
        count = max(rows, 60)
        group = np.arange(count) % 3
        for name, models in GROUPS.items():
            chance = np.random.default_rng([6, seed, count, len(name)])
            hard = chance.random(count)
            right = [(0.5 * (hard + chance.random(count)) < _point(np.array(own)[group])) for own in models]
            a, b = (
                group_gaps.build_group_columns(one.astype(float), np.ones(count), group.astype(float), 3)
                for one in right
            )
            for what, value in values.items():
                sums = a.sum(axis=0, keepdims=True)
                found[f"groups {name}, {what}"] = Span(float(value(sums)[0]), *ends[what](sums))
                method: Any = "t" if what == "ratio" else "bca"  # as the probe `fairness` does
                told = compare_row_statistics(
                    what, (a, b), value, width=1.0, lower_is_better=True, seed=seed, method=method
                )
                found[f"groups {name}, {what}, difference"] = Span(told.difference, told.low, told.high)
        return found

    truth: dict[str, float] = {}
    for name, models in GROUPS.items():
        for what, of in {"gap": lambda p: max(p) - min(p), "ratio": lambda p: min(p) / max(p), "worst": min}.items():
            one, other = (float(of(own)) for own in models)
            truth |= {f"groups {name}, {what}": one, f"groups {name}, {what}, difference": one - other}
    return Family(trial, truth)


def _point(share: np.ndarray) -> np.ndarray:
    """Below which the mean of two uniform numbers lies with a given chance of a half or more."""
    return 1 - np.sqrt((1 - share) / 2)


def judges() -> Family:
    """Coefficients of agreement among three people, of whom each passes over a tenth of the items."""
    from luthier.metrics.agreement import compute_agreement

    chance = np.random.default_rng(7)
    real = chance.choice(3, POPULATION, p=(0.2, 0.3, 0.5))
    clear = chance.beta(3, 1, POPULATION)
    said = [np.where(chance.random(POPULATION) < clear, real, chance.integers(0, 3, POPULATION)) for _ in range(3)]
    table = [[None if chance.random() < 0.1 else int(one[row]) for one in said] for row in range(POPULATION)]
    pairs = [[int(one[row]) for one in said[:2]] for row in range(POPULATION)]
    wanted = [
        (name, level)
        for name in ("percent", "fleiss", "gwet", "krippendorff")
        for level in ("nominal", "ordinal", "interval")
        if level == "nominal" or name in ("krippendorff",)
    ]

    def every(rows: Sequence[int], seed: int) -> dict[str, Span]:
        found = {}
        for name, level in [*wanted, ("cohen", "nominal"), ("cohen", "ordinal"), ("scott", "nominal")]:
            kind: Any = name
            of: Any = level
            judged = [(pairs if name in ("cohen", "scott") else table)[row] for row in rows]
            one = compute_agreement(kind, judged, level=of, seed=seed)
            found[f"agreement {name}, {level}"] = Span(one.value, one.low, one.high)
        return found

    def trial(rows: int, seed: int) -> dict[str, Span]:
        return every(np.random.default_rng([8, seed, rows]).integers(0, POPULATION, rows).tolist(), seed)

    return Family(trial, {name: span.value for name, span in every(range(POPULATION), 0).items()})


STRENGTHS = {"base": 0.0, "large": 1.2, "tuned": 0.8}


def duels() -> Family:
    """Strengths from preferences of pairs, with ties and without."""
    from luthier.metrics.bradley_terry import PairwiseComparison, fit_bradley_terry

    def trial(rows: int, seed: int) -> dict[str, Span]:
        found = {}
        for name, tie in (("ties", 0.7), ("no ties", 0.0)):
            chance = np.random.default_rng([9, seed, rows, int(10 * tie)])
            fought = []
            for number in range(rows):
                a, b = chance.permutation(list(STRENGTHS))[:2].tolist()
                gap = (STRENGTHS[a] - STRENGTHS[b]) / 2
                weights = np.array([np.exp(gap), tie, np.exp(-gap)])
                fought.append(
                    PairwiseComparison(a, b, (1.0, 0.5, 0.0)[chance.choice(3, p=weights / weights.sum())], str(number))
                )
            for model, one in fit_bradley_terry(fought, against="base").of.items():
                if model != "base":
                    found[f"strength of {model}, {name}"] = Span(one.value, one.low, one.high)
        return found

    truth = {
        f"strength of {model}, {ties}": value for model, value in STRENGTHS.items() for ties in ("ties", "no ties")
    }
    return Family(trial, truth)


def main() -> None:
    """Print a line for each number: the share covered on 30, 120 and 500 rows."""
    read = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    read.add_argument("--quick", action="store_true", help="60 sets of 30 and 120 rows")
    read.add_argument("--only", nargs="*", default=[], help="these of " + ", ".join(families()))
    read.add_argument("--metrics", nargs="*", default=[], help="only metrics, and of them these")
    read.add_argument("--rows", nargs="*", type=int, default=SIZES, help="how many rows a set has")
    read.add_argument("--sets", type=int, default=1000, help="how many sets are drawn")
    told = read.parse_args()
    sizes, sets = (SIZES[:2], 60) if told.quick else (told.rows, told.sets)
    seen: dict[str, list[float]] = {}
    for name, one in families(told.metrics).items():
        if told.only and name not in told.only:
            continue
        print(
            f"{name}: {sets} sets of {', '.join(map(str, sizes))} rows; % of intervals that hold the truth", flush=True
        )
        shares = [covered(one, rows, sets) for rows in sizes]
        for number in shares[0]:
            seen[number] = [of[number] for of in shares]
            line = " ".join(f"{100 * share:6.1f}" for share in seen[number])
            print(f"  {number:44} {line}  {CANNOT.get(number, '')}".rstrip())
    summed_up(seen, sets)


def summed_up(seen: Mapping[str, Sequence[float]], sets: int) -> None:
    """Print the least and the greatest share, and which numbers lie outside the goal by more than chance."""
    least = min(seen, key=lambda number: min(seen[number]))
    most = max(seen, key=lambda number: max(seen[number]))
    print(json.dumps({"figure": "least_coverage", "value": round(min(seen[least]), 4), "goal": GOAL[0], "of": least}))
    print(json.dumps({"figure": "greatest_coverage", "value": round(max(seen[most]), 4), "goal": GOAL[1], "of": most}))
    surely = [number for number, shares in seen.items() if any(outside(share, sets) for share in shares)]
    print(json.dumps({"figure": "surely_outside", "value": len(surely), "goal": 0, "of": surely}))


def outside(share: float, sets: int) -> bool:
    """Whether a share of so many sets lies outside the goal by more than chance, at 99 %."""
    low, high = wilson_interval(share * sets, sets, 2.5758)
    return high < GOAL[0] or low > GOAL[1]


if __name__ == "__main__":
    main()
