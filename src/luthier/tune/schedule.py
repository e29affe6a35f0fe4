"""Which rows a step sees and how fast it learns: pure functions of the seed and the step, so nothing needs saving."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy

Shape = Literal["linear", "cosine", "constant", "wsd"]
DECAY = 0.2
"""Share of all steps over which `wsd` falls, when nothing else is wanted (Hägele et al., 2024)."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """The whole way through the lessons: `count` lessons, seen `epochs` times, some at each step."""

    seed: int
    count: int
    epochs: float
    rows_per_step: int
    first: numpy.ndarray[Any, Any] | None = field(default=None, compare=False)
    """(count,) numbers of the lessons in the order of the first passes; None: drawn, as in all others."""
    first_epochs: int = 0
    """How many passes keep that order."""

    @property
    def total(self) -> int:
        """Lessons seen in all, repeats included; at least one."""
        return max(1, round(self.count * self.epochs))

    @property
    def steps(self) -> int:
        """Optimizer steps; the last may be short."""
        return math.ceil(self.total / self.rows_per_step)

    def end_of(self, epoch: int) -> int:
        """How many steps are done when all lessons were seen so many times."""
        return min(self.steps, math.ceil(epoch * self.count / self.rows_per_step))

    def lessons_of(self, step: int) -> list[int]:
        """Numbers of the lessons that a step (from 0) sees: each epoch goes through all of them in a new order."""
        begin = step * self.rows_per_step
        return [self._lesson(at) for at in range(begin, min(begin + self.rows_per_step, self.total))]

    def _lesson(self, at: int) -> int:
        if self.first is not None and at < self.first_epochs * self.count:
            return int(self.first[at % self.count])
        return int(order(self.seed, at // self.count, self.count)[at % self.count])


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


def rate_at(step: int, steps: int, shape: Shape, warmup: float, decay: float) -> float:
    """The share of the full learning rate at a step (from 0): it rises over the warm-up, then follows the shape.

    `warmup` and `decay` are shares of all steps; `decay` is how long `wsd` falls, by one minus the root of the way
    gone (Hägele et al., 2024): over two steps at least, since the first of a fall still has the full rate.
    """
    rising = max(1, round(warmup * steps)) if warmup > 0 else 0
    if step < rising:
        return (step + 1) / rising
    begun = max(rising, steps - max(2, round(decay * steps))) if shape == "wsd" else rising
    gone = max(0, step - begun) / max(1, steps - begun)
    return _FALLS[shape](gone)


_FALLS: dict[Shape, Callable[[float], float]] = {
    "linear": lambda gone: 1.0 - gone,
    "cosine": lambda gone: 0.5 * (1.0 + math.cos(math.pi * gone)),
    "constant": lambda gone: 1.0,
    "wsd": lambda gone: 1.0 - math.sqrt(gone),
}
"""What is left of the rate when a share of the fall is gone."""
