"""Repeats a training by AdamW step by step, and backpropagates a derivative through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from luthier.core.errors import ModelError, SourceLocation
from luthier.tune.influence.sweep import choose_step, differentiate
from luthier.tune.optimizer import is_shrunk
from luthier.tune.optimizers.adamw import AdamW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from luthier.models.packing.pack import Pack
    from luthier.tune.influence.study import InfluenceStudy


class AdamState(NamedTuple):
    """The weights and moments of AdamW between two steps; each (P,)."""

    weights: Tensor
    first: Tensor
    second: Tensor


class ReplayedStep(NamedTuple):
    """One step of the training, repeated."""

    before: AdamState
    gradient: Tensor
    rows: Sequence[int]
    rate: float
    updates: int
    """Number of updates done after it."""


class TrainingReplay:
    """The updates of a training by AdamW, repeated in torch's own operations."""

    def __init__(self, study: InfluenceStudy, row_weights: Mapping[int, float] | None = None) -> None:
        """Prepare the replay; `row_weights` are the weights of rows by index, where they are not 1."""
        self._study, self._row_weights = study, row_weights or {}
        optimizer, weights = study.step.optimizer, study.reader.weights
        assert isinstance(optimizer, AdamW), "other optimizers are refused"
        self._optimizer = optimizer
        self._factors = weights.spread(study.states.factors)
        shrunk = {
            name: optimizer.weight_decay if is_shrunk(name, value.shape) else 0.0
            for name, value in weights.moving.items()
        }
        self._decay = weights.spread(shrunk)
        zero = torch.zeros_like(study.start)
        self.end = AdamState(study.start.clone(), zero, zero.clone())
        """The state that was come to."""

    def run(self, max_bytes: int) -> list[ReplayedStep]:
        """Repeat all steps from the first; `ModelError` where they do not fit into memory."""
        rows_by_step = self._study.rows_by_step
        size = 4 * self.end.weights.nbytes * len(rows_by_step)
        if size > max_bytes:
            raise ModelError(
                f"replay holds {len(rows_by_step)} steps of {self._study.reader.weights.size:,} weights, "
                f"{size / 2**30:.1f} GB",
                where=SourceLocation(field="methods"),
                hint="take `adam`, tune fewer weights, or raise replay's `max_bytes`",
            )
        steps = []
        for updates, (number, rows) in enumerate(sorted(rows_by_step.items()), start=1):
            examples = [row for row, _ in rows]
            self._study.reader.weights.set(self.end.weights)
            gradient = self._gradient(examples)
            step = ReplayedStep(self.end, gradient, examples, self._study.states.rates[number - 1], updates)
            with torch.no_grad():
                self.end = self._update(step, *step.before, gradient)
            steps.append(step)
            self._study.work.events.progress(updates, len(rows_by_step), "steps (replay)")
        return steps

    def _packs(self, examples: Sequence[int]) -> list[Pack]:
        return self._study.reader.build_packs(self._study.rows_of(examples))

    def _share(self, index: int) -> float:
        """Return what a row adds to a step's denominator."""
        return self._study.objective.denominator(self._study.rows_of([index]))

    def _gradient(self, examples: Sequence[int]) -> Tensor:
        """Return the step's gradient, with the weights of its rows."""
        total = sum(self._row_weights.get(index, 1.0) * self._share(index) for index in examples)
        plain = [index for index in examples if index not in self._row_weights]
        gradient = self._study.reader.gradient(self._packs(plain))
        for index in examples:
            if index in self._row_weights:
                gradient += self._row_weights[index] * self._study.reader.gradient(self._packs([index]))
        return gradient / total

    def _update(
        self, step: ReplayedStep, weights: Tensor, first: Tensor, second: Tensor, gradient: Tensor
    ) -> AdamState:
        """Return the state after one update by AdamW, as torch computes it, of a clipped gradient."""
        (beta1, beta2), clip = self._optimizer.betas, self._study.step.max_grad_norm
        norm = gradient.norm()
        if clip is not None and float(norm.detach()) > clip:
            gradient = gradient * (clip / norm)
        rate = step.rate * self._factors
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient.square()
        moved = second > 0  # where nothing ever moved the root has no slope
        root = torch.where(moved, second, torch.ones_like(second)).sqrt() / (1 - beta2**step.updates) ** 0.5
        ahead = first / (1 - beta1**step.updates) / (root + self._optimizer.eps)
        weights = weights * (1 - rate * self._decay) - rate * torch.where(moved, ahead, torch.zeros_like(ahead))
        return AdamState(weights, first, second)

    def differentiate(self, steps: Sequence[ReplayedStep], slope: Tensor, readings: Literal[2, 4]) -> Tensor:
        """Return the derivative (rows,) by each row's weight of a number whose gradient by the final
        weights is given.
        """
        derivatives = torch.zeros(len(self._study.keys), dtype=torch.float64)
        slopes = AdamState(slope, torch.zeros_like(slope), torch.zeros_like(slope))
        for step in reversed(steps):
            inputs = [value.clone().requires_grad_() for value in (*step.before, step.gradient)]
            with torch.enable_grad():
                after = self._update(step, *inputs)
            back = torch.autograd.grad(list(after), inputs, list(slopes))
            direction = torch.where(step.gradient == 0, torch.zeros_like(back[3]), back[3])
            losses, curvature = self._look(step, direction, readings)
            shares = {index: self._share(index) for index in step.rows}
            total = sum(shares.values())
            along = float((step.gradient.double() * direction.double()).sum())
            for index in step.rows:
                derivatives[index] += (losses[self._study.keys[index]] - shares[index] * along) / total
            slopes = AdamState(back[0] + curvature / total, back[1], back[2])
        return derivatives

    def _look(self, step: ReplayedStep, direction: Tensor, readings: Literal[2, 4]) -> tuple[dict[str, float], Tensor]:
        """Return the derivatives along a direction of a step's losses and of the gradient of their sum."""
        reader, packs = self._study.reader, self._packs(step.rows)
        reader.weights.set(step.before.weights)
        length = choose_step(reader, packs[:1], direction, readings)
        derivatives: tuple[dict[str, float], Tensor] = differentiate(
            reader,
            direction,
            readings,
            length,
            lambda: (reader.example_losses(packs), reader.gradient(packs)),
            _combine,
        )
        return derivatives


def _combine(readings: Sequence[tuple[tuple[dict[str, float], Tensor], float]]) -> tuple[dict[str, float], Tensor]:
    losses = {key: sum(factor * own[key] for (own, _), factor in readings) for key in readings[0][0][0]}
    first, *others = (factor * gradient for (_, gradient), factor in readings)
    return losses, sum(others, first)
