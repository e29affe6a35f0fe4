"""Shapley values: the mean of what a unit adds over the orders in which units can come."""

from __future__ import annotations

import random
from itertools import combinations
from math import factorial
from typing import ClassVar, Literal

from pydantic import Field

from luthier.explain.explainer import AddsUp, Attribution, ExplainedPrompt, Explainer
from luthier.explain.scorer import PromptScorer


class ShapleyExplainer(Explainer):
    """Score each unit by its Shapley value: what it adds, averaged over the orders in which units can come.

    The scores add up to the value with all units minus that with none. They are exact for few units; for more, orders
    are drawn at random, each with its reverse.
    """

    kind: Literal["shapley"] = "shapley"
    adds_up: ClassVar[AddsUp] = "units"

    exact_up_to: int = Field(default=8, ge=1, le=14)
    """So many units at most are computed exactly, which reads the prompt 2^units times."""
    orders: int = Field(default=32, ge=2, le=10_000)
    """Random orders for more units; each is read in both directions."""

    def attribute(self, prompt: ExplainedPrompt) -> Attribution:
        """Compute the values exactly, or from random orders by the seed."""
        scorer = prompt.scorer
        exact = scorer.count <= self.exact_up_to
        scores = exact_shapley(scorer) if exact else self._sample(scorer, prompt.seed)
        notes = () if exact else (f"Shapley values of {scorer.count} units are estimated from {self.orders} orders",)
        return Attribution(scores, expected=scorer.full - scorer.empty, notes=notes)

    def _sample(self, scorer: PromptScorer, seed: int) -> list[float]:
        draw, units = random.Random(seed), list(range(scorer.count))
        orders = list[list[int]]()
        for _ in range((self.orders + 1) // 2):
            draw.shuffle(units)
            orders += [units[:], units[::-1]]
        sets = [[frozenset(order[:count]) for count in range(len(order) + 1)] for order in orders]
        values = iter(scorer.score([entry for chain in sets for entry in chain]))
        totals = [0.0] * scorer.count
        for order in orders:
            before = next(values)
            for unit in order:
                after = next(values)
                totals[unit] += after - before
                before = after
        return [total / len(orders) for total in totals]


def exact_shapley(scorer: PromptScorer) -> list[float]:
    """Shapley values from all sets of units."""
    count = scorer.count
    sets = [frozenset(combination) for size in range(count + 1) for combination in combinations(range(count), size)]
    value = dict(zip(sets, scorer.score(sets), strict=True))
    return [
        sum(
            factorial(len(entry))
            * factorial(count - len(entry) - 1)
            / factorial(count)
            * (value[entry | {unit}] - value[entry])
            for entry in sets
            if unit not in entry
        )
        for unit in range(count)
    ]
