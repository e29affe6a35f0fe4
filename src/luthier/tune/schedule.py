"""Which rows a step sees and how fast it learns: pure functions of the seed and the step, so nothing needs saving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy

Shape = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True, kw_only=True)
class Course:
    """The whole way through the lessons: `count` lessons, seen `epochs` times, some at each step."""

    seed: int
    count: int
    epochs: float
    rows_per_step: int

    @property
    def total(self) -> int:
        """Lessons seen in all, repeats included; at least one."""
        return max(1, round(self.count * self.epochs))

    @property
    def steps(self) -> int:
        """Optimizer steps; the last may be short."""
        return math.ceil(self.total / self.rows_per_step)

    def lessons_of(self, step: int) -> list[int]:
        """Numbers of the lessons that a step (from 0) sees: each epoch goes through all of them in a new order."""
        begin = step * self.rows_per_step
        places = range(begin, min(begin + self.rows_per_step, self.total))
        return [int(order(self.seed, at // self.count, self.count)[at % self.count]) for at in places]


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, count: int) -> numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]:
    """A permutation of `count` lessons, for one epoch."""
    import numpy

    return numpy.random.Generator(numpy.random.PCG64([seed, epoch])).permutation(count)


def chosen(seed: int, count: int, wanted: int | None) -> list[int]:
    """Which examples are used when not all are: drawn by the seed, in source order."""
    if wanted is None or wanted >= count:
        return list(range(count))
    import numpy

    drawn = numpy.random.Generator(numpy.random.PCG64([seed, 1 << 32])).permutation(count)[:wanted]
    return sorted(int(at) for at in drawn)


def rate_at(step: int, steps: int, shape: Shape, warmup: float) -> float:
    """The share of the full learning rate at a step (from 0): it rises over the warm-up, then falls by the shape."""
    rising = max(1, round(warmup * steps))
    if step < rising and warmup > 0:
        return (step + 1) / rising
    begun = rising if warmup > 0 else 0
    gone = (step - begun) / max(1, steps - begun)
    if shape == "linear":
        return 1.0 - gone
    return 0.5 * (1.0 + math.cos(math.pi * gone)) if shape == "cosine" else 1.0
