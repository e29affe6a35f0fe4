"""People who judge in tests: rows with answers of two or three models, and judges whose taste is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from luthier.annotation.question import RatingQuestion
from luthier.artifacts.annotation import Annotation
from luthier.eval.human.study import Assignment, BlindingKeyEntry, RatingCandidate, RatingItem, create_rating_assignment

Taste = Callable[[RatingItem, BlindingKeyEntry, random.Random], object]


def candidates(count: int, models: Sequence[str] = ("tuned", "base")) -> list[RatingCandidate]:
    """Rows, each with an answer of every model; the reference is another text."""
    return [
        RatingCandidate(
            row=f"row{number:03d}",
            prompt=({"role": "user", "content": f"Question {number}?"},),
            answers={model: f"{model} says {number}" for model in models},
            reference=f"the answer is {number}",
        )
        for number in range(count)
    ]


def assigned(
    question: RatingQuestion, count: int = 40, models: Sequence[str] = ("tuned", "base"), **settings: object
) -> Assignment:
    """What is asked about some rows."""
    from itertools import combinations

    pairs = list(combinations(models, 2)) if question.sides == 2 else [(model,) for model in models]
    told = {"rows": None, "judges": ("anna", "ben", "cleo"), "overlap": 2, "planted": 6, "seed": 1, **settings}
    return create_rating_assignment(candidates(count, models), pairs, **told)  # type: ignore[arg-type]


def preferring(model: str, share: float, ties: float = 0.0) -> Taste:
    """One who reads, and prefers a model's answers so often."""

    def taste(item: RatingItem, entry: BlindingKeyEntry, chance: random.Random) -> object:
        if entry.planted:
            return "AB"[entry.good or 0]
        if chance.random() < ties:
            return "tie"
        wins = chance.random() < share
        return (
            "AB"[entry.models.index(model)] if wins == (model in entry.models) else "AB"[1 - entry.models.index(model)]
        )

    return taste


def careless(item: RatingItem, entry: BlindingKeyEntry, chance: random.Random) -> object:
    """One who does not read."""
    return "A"


def judged(asked: Assignment, tastes: dict[str, Taste], seed: int = 0) -> list[Annotation]:
    """Everybody's judgments, item after item in the order of their sheets."""
    chance = random.Random(seed)
    return [
        Annotation(judge, tastes[judge](asked.items[name], asked.key[name], chance), name, seconds=float(place))
        for judge in tastes
        for place, name in enumerate(asked.sheets[judge])
    ]
