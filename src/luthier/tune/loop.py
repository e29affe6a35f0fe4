"""The one training loop: which rows a step sees, how they are split, and every update follow from recipe and seed.

A step's rows are packed together, split only to fit memory, and divided by one denominator over the whole step, so that
no split changes the gradient beyond the order of sums. A killed run goes on from its newest checkpoint and ends in the
same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from luthier.core.errors import ModelError
from luthier.models.logprobs import logprobs
from luthier.models.pack import Pack, Row, packs
from luthier.tune.checkpoint import Keeper, State, threads
from luthier.tune.lessons import Lessons
from luthier.tune.objective import Objective
from luthier.tune.optim import Settings, Updater
from luthier.tune.optimizer import Optimizer
from luthier.tune.schedule import Course, Shape, rate_at


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How the model learns."""

    rate: float
    schedule: Shape
    warmup: float
    decay: float
    optimizer: Optimizer
    clip: float | None
    tokens_per_pack: int
    rate_of: Callable[[str], float]
    """A factor on the rate, by the parameter's name."""


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """What one optimizer step did; every value follows from recipe and seed."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    rows: int
    tokens: int
    """Tokens of the rows, as if each were read alone."""
    computed: int
    """Tokens that were computed: shared prefixes once."""
    measures: dict[str, float]

    def line(self) -> str:
        """The step as a line of `log.jsonl`."""
        own = {name: value for name, value in self.__dict__.items() if name != "measures"}
        return json.dumps({**own, **self.measures}, sort_keys=True)


class Training:
    """A model on its way through a course of lessons."""

    def __init__(self, model: Any, objective: Objective, lessons: Lessons, course: Course, manner: Manner) -> None:
        self._model, self._objective, self._lessons = model, objective, lessons
        self._course, self._manner = course, manner
        settings = Settings(optimizer=manner.optimizer, clip=manner.clip, rate_of=manner.rate_of)
        self._updater = Updater(model, settings)
        self._log: list[str] = []
        self._begun = self._updater.fingerprints()

    @property
    def log(self) -> tuple[str, ...]:
        """One line of JSON for each step that is done."""
        return tuple(self._log)

    @property
    def trainable(self) -> int:
        """How many numbers move."""
        return self._updater.numbers

    def run(self, keeper: Keeper, told: Callable[[Stepped], None]) -> list[str]:
        """Go on from the newest checkpoint to the end; `told` hears of each step.

        Returns the names of parameters that were to move and did not (experts that no token chose, say); when none
        moved at all, that is a `ModelError`.
        """
        if (kept := keeper.read()) is not None:
            self._updater.restore(kept.tensors)
            self._log = list(kept.log)
            torch.set_num_threads(kept.threads)
        with _training(self._model):
            for step in range(len(self._log), self._course.steps):
                if step and keeper.due(step) and step > (kept.step if kept else 0):
                    keeper.write(self._state())
                stepped = self._step(step, keeper)
                self._log.append(stepped.line())
                told(stepped)
        unmoved = self._unmoved()
        self._updater.settle()
        return unmoved

    def _step(self, step: int, keeper: Keeper) -> Stepped:
        """One optimizer step over all of its rows."""
        rows = _rows(self._lessons, self._course, step)
        denominator = self._objective.denominator(rows)
        total, computed, measures = 0.0, 0, dict[str, float]()
        for number, pack in enumerate(packs(rows, self._manner.tokens_per_pack)):
            torch.manual_seed(_mixed(self._course.seed, step, number))  # only dropout asks for it
            loss = self._objective.loss(logprobs(self._model, pack), pack, None)
            (loss.total / denominator).backward()  # type: ignore[no-untyped-call]
            self._updater.gather()
            total += float(loss.total.detach()) / denominator
            computed += pack.tokens
            for name, value in loss.measures.items():
                measures[name] = measures.get(name, 0.0) + value / denominator
        norm = self._updater.norm()
        if not (math.isfinite(total) and math.isfinite(norm)):
            keeper.write(self._state())
            raise _diverged(step, total, norm, rows)
        manner = self._manner
        rate = manner.rate * rate_at(step, self._course.steps, manner.schedule, manner.warmup, manner.decay)
        self._updater.update(rate, norm)
        return Stepped(
            step=step + 1,
            loss=total,
            lr=rate,
            grad_norm=norm,
            rows=len(self._course.lessons_of(step)),
            tokens=sum(len(row.ids) for row in rows),
            computed=computed,
            measures=measures,
        )

    def _state(self) -> State:
        return State(len(self._log), self._updater.state(), tuple(self._log), threads())

    def _unmoved(self) -> list[str]:
        now = self._updater.fingerprints()
        still = [name for name, before in self._begun.items() if now[name] == before]
        if len(still) == len(now):
            raise ModelError("no parameter moved", remedy="raise learning_rate, or train for more steps")
        return still


def packs_of(lessons: Lessons, course: Course, tokens: int) -> Iterator[Pack]:
    """All packs of a course, in the order in which they are learnt."""
    for step in range(course.steps):
        yield from packs(_rows(lessons, course, step), tokens)


def _rows(lessons: Lessons, course: Course, step: int) -> list[Row]:
    return [row for lesson in course.lessons_of(step) for row in lessons.rows(lesson)]


@contextmanager
def _training(model: Any) -> Iterator[None]:
    """Switch dropout on (when there is any) for as long as the model learns."""
    was = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was)


def _mixed(seed: int, step: int, pack: int) -> int:
    """A different seed for the dropout of every pack."""
    return (seed * 1_000_003 + step) * 1_009 + pack & (1 << 63) - 1


def _diverged(step: int, loss: float, norm: float, rows: list[Row]) -> ModelError:
    what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
    keys = list(dict.fromkeys(row.key for row in rows))
    shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
    return ModelError(
        f"training diverged at step {step + 1}: {what}, on examples {shown}",
        remedy="lower learning_rate or set clip; the state before this step is kept",
    )
