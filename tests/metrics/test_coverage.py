"""A claimed 95 % interval of every metric holds the true value in 90 to 98 % of drawn sets of rows.

Rows are drawn from one large population; the value on all of it is the truth. Metrics of a set (distinct, self_bleu)
depend on how many rows there are: for them the truth is the mean over many sets of that size. Two exceptions, stated:
`distinct` errs wide (the jackknife's variance is never too small on average), and `ece`, which is biased upwards on few
rows in a bin, needs some thirty a bin (88 % at 120 rows and 15 bins).
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from luthier.core.component import members
from luthier.metrics.answers import Answers
from luthier.metrics.metric import Metric, measure_all

METRICS = members(Metric)
POPULATION, ROWS, SETS = 6000, 120, 200
ROWS_OF = {"ece": 500}
MOST = {"distinct": 1.0}
OF_A_SET = ("distinct", "self_bleu")
WORDS = [f"w{number}" for number in range(60)]
LABELS = ("a", "b", "c")


def population(metric: Metric, seed: int = 1) -> Answers:
    """Many rows: labels of unequal frequency with overconfident scores, or texts of unequal difficulty."""
    chance = np.random.default_rng(seed)
    reads_labels = metric.single_reference or "label_scores" in metric.needs or metric.kind in BY_LABEL
    said, real, more = _labels(chance) if reads_labels else _texts(chance, metric.form)
    if "label_scores" not in metric.needs:
        more.pop("label_scores", None)
    tokens = chance.integers(3, 30, POPULATION)
    surprise = tokens * chance.gamma(4, 0.5, POPULATION)
    if "logprobs" in metric.needs:
        more |= {"logprobs": (-surprise).tolist(), "tokens": tokens.tolist()}
    more["columns"] = {name: _numbers(name, chance, tokens, surprise) for name in metric.scored}
    return Answers.of(said, real, **more)


BY_LABEL = ("accuracy", "precision", "recall", "f1")


def _labels(chance: np.random.Generator) -> tuple[list[str], list[str], dict[str, Any]]:
    real = chance.choice(3, POPULATION, p=(0.2, 0.3, 0.5))
    sharp = chance.gamma(1.0, 1.0, (POPULATION, 3))
    sharp[np.arange(POPULATION), real] += chance.exponential(1.5, POPULATION)
    chances = (sharp / sharp.sum(axis=1, keepdims=True)) ** 2
    chances /= chances.sum(axis=1, keepdims=True)
    scores = [dict(zip(LABELS, row.tolist(), strict=True)) for row in chances]
    said = [LABELS[number] for number in chances.argmax(axis=1)]
    return said, [LABELS[number] for number in real], {"label_scores": scores}


def _texts(chance: np.random.Generator, form: str) -> tuple[list[str], list[str], dict[str, Any]]:
    draw = random.Random(int(chance.integers(1 << 30)))
    said, real = [], []
    for wrong in chance.beta(1, 3, POPULATION):
        words = draw.choices(WORDS, k=draw.randint(4, 16))
        copy = [draw.choice(WORDS) if draw.random() < wrong else word for word in words]
        one, other = _dressed(copy, form), _dressed(words, form)
        said.append(one if draw.random() > 0.1 else "none")
        real.append(other)
    return said, real, {}


def _dressed(words: list[str], form: str) -> str:
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


def share_covered(metric: Metric) -> float:
    """How many of the drawn sets' intervals hold the truth."""
    everyone = population(metric)
    chance, rows = np.random.default_rng(2), ROWS_OF.get(metric.kind, ROWS)
    sets = [everyone.select(chance.integers(0, POPULATION, rows).tolist()) for _ in range(SETS)]
    scores = [measure_all([metric], drawn, seed=place)[0] for place, drawn in enumerate(sets)]
    if metric.kind in OF_A_SET:
        truth = float(np.mean([score.value for score in scores]))
    else:
        truth = measure_all([metric], everyone)[0].value
    return float(np.mean([score.low <= truth <= score.high for score in scores]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(METRICS))
def test_coverage(kind: str) -> None:
    settings = {"label": "b"} if "label" in METRICS[kind].model_fields else {}
    metric = METRICS[kind].model_validate({"kind": kind, **settings})
    assert 0.90 <= share_covered(metric) <= MOST.get(kind, 0.985)
