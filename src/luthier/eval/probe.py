"""A probe measures something beyond the task's own metrics (bias, safety, forgetting), for every model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from luthier.core.component import Component
from luthier.eval.rows import Task
from luthier.metrics.answers import Answers


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of one model, with its 95 % interval."""

    name: str
    """Family and measure, such as `bias.gap`: what a gate's rule says."""
    model: str
    value: float
    low: float
    high: float
    rows: int
    signature: str
    detail: Mapping[str, float]
    """The parts behind the number, such as each group's score."""

    def as_json(self) -> dict[str, Any]:
        """All but name and model, which are its place in `metrics.json`."""
        return {key: value for key, value in vars(self).items() if key not in ("name", "model")}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a probe works with."""

    task: Task
    answers: Mapping[str, Answers]
    """Each model's answers to the held-out rows."""
    seed: int


class Probe(Component):
    """Something measured for each model beside the metrics."""

    role: ClassVar[str] = "probe"
    home: ClassVar[str] = "luthier.eval.probes"
    measures: ClassVar[tuple[str, ...]]
    """The names of what it measures: a gate's rules may use them."""

    @abstractmethod
    def measure(self, bench: Bench) -> list[Measure]:
        """Measure every model."""
