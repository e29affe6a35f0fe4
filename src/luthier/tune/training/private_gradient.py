"""The gradient of a private step: each unit's own, clipped and summed, with noise.

No other unit affects a unit's gradient: it is read in packs of its own and divided by its own denominator. The sum is
divided by the expected number of units, which no row changes.
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
from luthier.tune.training.pack_gradient import PackGradientComputer, StepGradient
from luthier.tune.training.parallel import schedule_parallel_packs
from luthier.tune.training.parts import mix_seed


@dataclass(frozen=True, kw_only=True)
class PrivateSteps:
    """Settings of private steps: key, clipping norm, noise and sampling probability."""

    key: NoiseKey
    clip: float
    noise: float
    """Standard deviation of the noise, in units of `clip`."""
    sampling: float
    expected_units: float
    unit_of: Callable[[str], int]
    """Returns the unit of a row, by its example's id."""

    def epsilon(self, steps: int, delta: float) -> float:
        """Return ε of `steps` steps at δ."""
        return PrivacyAccount.of(self.noise, self.sampling, steps).epsilon(delta)


def compute_unit_norms(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return (units,) the norm of each unit's gradient in float64, from (units, …) gradients of the parameters."""
    each = [torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64) for gradient in gradients]
    norms: torch.Tensor = torch.linalg.vector_norm(torch.stack(each), dim=0)
    return norms


class PrivateBatchSource(PreparedBatchSource):
    """A batch source whose rows are prepared unit by unit, when they are read."""

    def draw(self, step: int) -> TrainingBatch:
        """Return the rows of the units in a step; each unit has its own denominator."""
        return TrainingBatch(read_step_rows(self._dataset, self._sampler, step), 1.0)


class PrivateReader:
    """Sums the gradients of a step's units, each clipped to the norm, and adds the noise."""

    def __init__(
        self,
        reader: PackGradientComputer,
        updater: MixedPrecisionOptimizer,
        objective: Objective,
        steps: PrivateSteps,
        read: Callable[[Sequence[TokenRow]], Sequence[float]],
        seed: int,
    ) -> None:
        self._reader, self._updater, self._objective = reader, updater, objective
        self._steps, self._read, self._seed = steps, read, seed
        self._units = reader.build_unit_reader()

    def gradient(self, rows: Sequence[TokenRow], tokens: int, step: int) -> StepGradient:
        """Compute the step's gradient; its loss and measures are means over the expected number of units."""
        total, clipped = self._updater.build_sum(), 0
        described, units = StepGradient(), list(self._split(rows))
        parts = self._units.split(units, tokens) if self._units.applies else iter([units])
        for number, part in enumerate(parts):
            seed = mix_seed(self._seed, step, number)
            read = self._gather_together(part, total, seed) if self._units.applies else None
            part_gradient, count = read or self._gather_one_by_one(part, tokens, total, seed)
            described, clipped = described.and_of(part_gradient), clipped + count
        self._add_noise(total, step)
        self._updater.take(total)
        share = 1.0 / self._steps.expected_units
        measures = {name: value * share for name, value in described.measures.items()}
        examples = {name: value * share for name, value in described.example_losses.items()}
        measures["clipped_units"] = clipped / max(len(units), 1)
        loss = described.loss * share
        return StepGradient(loss if math.isfinite(loss) else 0.0, described.computed, measures, examples)

    def _split(self, rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
        """Yield the rows of each unit."""
        units: dict[int, list[TokenRow]] = {}
        for row in rows:
            units.setdefault(self._steps.unit_of(row.key), []).append(row)
        yield from units.values()

    def _gather_together(
        self, units: list[list[TokenRow]], total: GradientSum, seed: int
    ) -> tuple[StepGradient, int] | None:
        """Add the clipped gradients of units from one pass, and count the clipped ones; None where one pass does not
        suffice.
        """
        torch.manual_seed(seed)  # only dropout asks for it
        prepared = [self._objective.prepare_rows(unit, self._read) for unit in units]
        read = self._units.read(prepared, self._reader.prepare)
        if read is None:
            return None
        norms = compute_unit_norms([gradient for gradient in read.gradients if gradient is not None])
        scales = (self._steps.clip / norms.clamp_min(1e-300)).clamp_max(1.0)
        scales = torch.where(norms.isfinite(), scales, 0.0)  # one that is no number adds nothing
        for view, gradient in zip(total.views, read.gradients, strict=True):
            if gradient is not None:
                kept = torch.where(norms.isfinite()[:, None], gradient.flatten(1), 0.0)
                view.add_((scales.to(kept) @ kept).view(view.shape))
        part_gradient = StepGradient(math.fsum(read.losses), read.computed, read.measures, read.example_losses)
        return part_gradient, int((~(norms <= self._steps.clip)).sum())

    def _gather_one_by_one(
        self, units: list[list[TokenRow]], tokens: int, total: GradientSum, seed: int
    ) -> tuple[StepGradient, int]:
        """Compute the gradient unit by unit, where more than plain linear layers is trained."""
        unit_gradient, described, clipped = self._updater.build_sum(), StepGradient(), 0
        for number, unit_rows in enumerate(units):
            for vector in unit_gradient.flat.values():
                vector.zero_()
            described = described.and_of(self._gather(unit_rows, tokens, unit_gradient, mix_seed(seed, 0, number)))
            norm = math.sqrt(sum(float(vector.double().square().sum()) for vector in unit_gradient.flat.values()))
            clipped += not norm <= self._steps.clip
            if math.isfinite(norm):  # one that is no number adds nothing, and nobody is told which
                scale = min(1.0, self._steps.clip / norm) if norm else 0.0
                for dtype, vector in unit_gradient.flat.items():
                    total.flat[dtype].add_(vector, alpha=scale)
        return described, clipped

    def _gather(self, rows: list[TokenRow], tokens: int, unit_gradient: GradientSum, seed: int) -> StepGradient:
        """Compute one unit's gradient, from packs with no other rows."""
        prepared = self._objective.prepare_rows(rows, self._read)
        denominator = self._objective.denominator(prepared)
        described = StepGradient()
        torch.manual_seed(seed)  # only dropout asks for it
        for (pack,) in schedule_parallel_packs(prepared, tokens, 1):
            ready = self._reader.prepare(pack)
            read = self._reader.read(ready, denominator)
            unit_gradient.gather(read.gradients)
            described = described.and_of(self._reader.describe(read._replace(gradients=[]), ready, denominator))
        return described

    def _add_noise(self, total: GradientSum, step: int) -> None:
        """Add the noise and divide by the expected number of units."""
        deviation = self._steps.noise * self._steps.clip
        for dtype, vector in total.flat.items():
            drawn = self._steps.key.draw_normal(f"noise/{step}/{dtype}", vector.shape)
            vector.add_(drawn.to(device=vector.device, dtype=vector.dtype), alpha=deviation)
            vector.div_(self._steps.expected_units)
