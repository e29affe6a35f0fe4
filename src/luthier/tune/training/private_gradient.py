"""The gradient of a private step: each unit's alone, clipped, added up, with noise.

Nothing that another unit decides touches a unit's gradient: it is read in packs of its own and divided by its own
denominator. The sum is divided by the expected number of units, which no row changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from luthier.models.packing.pack import TokenRow
from luthier.tune.objective import Objective, PreparedBatchSource, TrainingBatch
from luthier.tune.privacy.accountant import PrivacyAccount
from luthier.tune.privacy.noise import NoiseKey
from luthier.tune.training.memory import read_step_rows
from luthier.tune.training.mixed_precision import GradientSum, MixedPrecisionOptimizer
from luthier.tune.training.pack_reader import PackReader, StepGradient
from luthier.tune.training.parallel import schedule_parallel_packs
from luthier.tune.training.parts import mix_seed


@dataclass(frozen=True, kw_only=True)
class PrivateSteps:
    """How the steps of a training keep their promise."""

    key: NoiseKey
    clip: float
    noise: float
    """Standard deviation of the noise, in units of `clip`."""
    sampling: float
    expected_units: float
    unit_of: Callable[[str], int]
    """The unit of a row, by its example's id."""

    def epsilon(self, steps: int, delta: float) -> float:
        """The ε of so many steps at δ."""
        return PrivacyAccount.of(self.noise, self.sampling, steps).epsilon(delta)


class PrivateBatchSource(PreparedBatchSource):
    """A batch source whose rows are made ready unit by unit, when they are read."""

    def draw(self, step: int) -> TrainingBatch:
        """The rows of the units that the step draws; the denominator is each unit's own."""
        return TrainingBatch(read_step_rows(self._lessons, self._course, step), 1.0)


class PrivateReader:
    """Gathers the gradients of a step's units, each scaled down to the clipping norm, and adds the noise."""

    def __init__(
        self,
        reader: PackReader,
        updater: MixedPrecisionOptimizer,
        objective: Objective,
        steps: PrivateSteps,
        read: Callable[[Sequence[TokenRow]], Sequence[float]],
        seed: int,
    ) -> None:
        self._reader, self._updater, self._objective = reader, updater, objective
        self._steps, self._read, self._seed = steps, read, seed

    def gradient(self, rows: Sequence[TokenRow], tokens: int, step: int) -> StepGradient:
        """Gather the step's gradient; what is told of it is the mean over the expected number of units."""
        total, one = self._updater.build_sum(), self._updater.build_sum()
        described, clipped, units = StepGradient(), 0, 0
        for number, unit_rows in enumerate(self._split(rows)):
            for vector in one.flat.values():
                vector.zero_()
            described = described.and_of(self._gather(unit_rows, tokens, one, mix_seed(self._seed, step, number)))
            norm = math.sqrt(sum(float(vector.double().square().sum()) for vector in one.flat.values()))
            units += 1
            clipped += not norm <= self._steps.clip
            if math.isfinite(norm):  # one that is no number adds nothing, and nobody is told which
                scale = min(1.0, self._steps.clip / norm) if norm else 0.0
                for dtype, vector in one.flat.items():
                    total.flat[dtype].add_(vector, alpha=scale)
        self._add_noise(total, step)
        self._updater.take(total)
        share = 1.0 / self._steps.expected_units
        measures = {name: value * share for name, value in described.measures.items()}
        examples = {name: value * share for name, value in described.example_losses.items()}
        measures["clipped_units"] = clipped / max(units, 1)
        loss = described.loss * share
        return StepGradient(loss if math.isfinite(loss) else 0.0, described.computed, measures, examples)

    def _split(self, rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
        """The rows of each unit."""
        units: dict[int, list[TokenRow]] = {}
        for row in rows:
            units.setdefault(self._steps.unit_of(row.key), []).append(row)
        yield from units.values()

    def _gather(self, rows: list[TokenRow], tokens: int, one: GradientSum, seed: int) -> StepGradient:
        """One unit's gradient, from packs that hold nothing else."""
        prepared = self._objective.prepared(rows, self._read)
        denominator = self._objective.denominator(prepared)
        described = StepGradient()
        torch.manual_seed(seed)  # only dropout asks for it
        for (pack,) in schedule_parallel_packs(prepared, tokens, 1):
            ready = self._reader.prepare(pack)
            read = self._reader.read(ready, denominator)
            one.gather(read.gradients)
            described = described.and_of(self._reader.describe(read._replace(gradients=[]), ready, denominator))
        return described

    def _add_noise(self, total: GradientSum, step: int) -> None:
        """Add the noise and divide by the expected number of units."""
        deviation = self._steps.noise * self._steps.clip
        for dtype, vector in total.flat.items():
            drawn = self._steps.key.draw_normal(f"noise/{step}/{dtype}", vector.shape)
            vector.add_(drawn.to(device=vector.device, dtype=vector.dtype), alpha=deviation)
            vector.div_(self._steps.expected_units)
