"""What is told of a training while it goes on, and how quick it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from luthier.core.errors import Interrupted
from luthier.core.step import Work
from luthier.tune.schedule import Course

if TYPE_CHECKING:
    from luthier.tune.cost import Computed
    from luthier.tune.loop import Stepped


SHOWN = ("token_accuracy", "reward", "kl", "entropy", "length")
"""Measures that stand beside the loss while a model learns."""


class Speed:
    """Tells of each step as it is done, and measures how fast they are; `operations` of what a step computed."""

    def __init__(self, work: Work, course: Course, operations: Callable[[Computed], float]) -> None:
        self._work, self._course, self._operations = work, course, operations
        self._begun, self._begun_cpu = time.perf_counter(), time.process_time()
        self._rows = self._computed = self._tokens = 0
        self._flops = 0.0

    def __call__(self, stepped: Stepped) -> None:
        self._rows += stepped.rows
        self._computed += round(stepped.taken.tokens)
        self._flops += self._operations(stepped.taken)
        self._tokens += stepped.tokens
        done = min(stepped.step * self._course.rows_per_step, self._course.total)
        held_out = {name: round(value, 4) for name, value in stepped.measures.items() if name.startswith("held_out_")}
        loss = {"loss": round(stepped.loss, 4)}
        told = {name: round(stepped.measures[name], 4) for name in SHOWN if name in stepped.measures}
        metrics = {**loss, **told, **held_out}
        stop = self._work.report(stepped.step, metrics, done=done, total=self._course.total, unit="rows")
        if stepped.skipped and stepped.rows:
            self._work.events.warning(f"step {stepped.step} was left out: {stepped.skipped}")
        if stop:
            raise Interrupted(f"stopped after step {stepped.step}: who listens to its numbers asked for it")

    def measures(self, aside_s: float, drawing_s: float) -> dict[str, float]:
        """Rates of what this process learnt, without the seconds that went into measuring and keeping states; that of
        its products also without those in which it drew answers, by the clock and by what processors were busy."""
        whole = time.perf_counter() - self._begun
        seconds = max(whole - aside_s, 1e-9)
        flops_per_s = self._flops / max(seconds - drawing_s, 1e-9)
        busy = (time.process_time() - self._begun_cpu) / max(whole, 1e-9)
        return {
            "train_s": whole,
            "rows_per_s": self._rows / seconds,
            "tokens_per_s": self._tokens / seconds,
            "computed_tokens_per_s": self._computed / seconds,
            "flops_per_s": flops_per_s,
            "flops_per_cpu_s": flops_per_s / max(busy, 1e-9),
        }
