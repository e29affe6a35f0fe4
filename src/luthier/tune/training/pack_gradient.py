"""Forward and backward over one pack: its loss, its measures, and the gradient of all trainable parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from luthier.chat.media import list_media_keys
from luthier.models.media.towers import PackLeaves, StepMedia, gather_leaves, learn_media
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import Pack
from luthier.tune.cost import PackWorkload
from luthier.tune.objective import REFERENCE, Loss, Objective, Teacher, read_pack_logprobs
from luthier.tune.training.critic import Critic
from luthier.tune.training.mixed_precision import MixedPrecisionOptimizer
from luthier.tune.training.unit_gradients import UnitReader


class StepGradient(NamedTuple):
    """Loss and measures of a step, or of a part of it, once its gradient is computed; all divided by the step's
    denominator.
    """

    loss: float = 0.0
    computed: PackWorkload = PackWorkload()
    measures: dict[str, float] = {}  # noqa: RUF012  # a NamedTuple's default is never changed
    example_losses: dict[str, float] = {}  # noqa: RUF012
    """Each example's share of the loss, by its id."""

    def and_of(self, other: StepGradient) -> StepGradient:
        """Return the sum of two."""
        return StepGradient(
            self.loss + other.loss,
            self.computed.and_of(other.computed),
            _add_numbers(self.measures, other.measures),
            _add_numbers(self.example_losses, other.example_losses),
        )


def _add_numbers(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {**first, **{name: first.get(name, 0.0) + value for name, value in second.items()}}


class PackGradient(NamedTuple):
    """One pack's contribution to an optimizer step; without gradients attached."""

    total: Tensor
    examples: Tensor
    """(E,) the contribution of each of the pack's examples."""
    measures: dict[str, Tensor]
    gradients: list[Tensor | None]
    """Gradient of the pack's share in the step's mean by each trainable parameter; None where it does not depend on
    it."""
    media: dict[int, tuple[Tensor | None, ...]] = {}  # noqa: RUF012  # a NamedTuple's default is never changed
    """Gradients by the features of each medium, where its encoder or projector is trained."""


class PackGradientComputer:
    """Computes pack gradients with a model and what its objective needs (a teacher, a critic)."""

    def __init__(
        self,
        model: Any,
        objective: Objective,
        updater: MixedPrecisionOptimizer,
        teacher: Teacher | None = None,
        critic: Critic | None = None,
    ) -> None:
        self._model, self._objective, self._updater = model, objective, updater
        self._teacher, self._critic = teacher, critic

    def build_unit_reader(self) -> UnitReader:
        """Build a reader of many units' gradients in one pass, for the same model."""
        return UnitReader(self._model, self._objective, self._updater.parameters)

    def prepare(self, pack: Pack) -> Pack:
        """Return the pack with the teacher's predictions, where there is one."""
        return self._objective.ready(pack, self._teacher)

    def learn_media(self, packs: Sequence[Pack]) -> AbstractContextManager[StepMedia | None]:
        """Let packs read their media as leaves of a trained encoder; None where no encoder is trained."""
        ids = (token for pack in packs for token in pack.ids.tolist())
        return learn_media(self._model, lambda: list_media_keys(ids))

    def read(self, pack: Pack, denominator: float) -> PackGradient:
        """Run one pack forward and backward."""
        with gather_leaves() as leaves:
            logp, pack = read_pack_logprobs(self._model, self._objective, pack, compute_pack_logprobs)
        loss = self._objective.loss(logp, pack, pack.token_values.get(REFERENCE))
        read = self._reduce(loss, pack, denominator, leaves)
        return read if self._critic is None else self._add_critic(self._critic, pack, denominator, read)

    def _add_critic(self, critic: Critic, pack: Pack, denominator: float, read: PackGradient) -> PackGradient:
        """Add the critic's gradient for the same pack, once the policy's activations are freed."""
        own = self._reduce(critic.loss(pack), pack, denominator, PackLeaves())
        both = [
            gradient if other is None else other for gradient, other in zip(read.gradients, own.gradients, strict=True)
        ]
        return read._replace(measures={**read.measures, **own.measures}, gradients=both)

    def _reduce(self, loss: Loss, pack: Pack, denominator: float, leaves: PackLeaves) -> PackGradient:
        """Return the sums of a pack's terms, and the gradient of their share in the step's mean."""
        total = loss.total
        with torch.no_grad():
            examples = loss.by_example(pack)
        gradients = self._updater.gradients(total / denominator, leaves.tensors)
        measures = {name: value.sum() for name, value in loss.measures.items()}
        count = len(gradients) - len(leaves.tensors)
        return PackGradient(total.detach(), examples, measures, gradients[:count], leaves.name(gradients[count:]))

    def describe(self, read: PackGradient, pack: Pack, denominator: float) -> StepGradient:
        """Return the pack's contribution to the loss and measures of its step."""
        keyed = zip(pack.example_keys, read.examples.tolist(), strict=True)
        return StepGradient(
            float(read.total) / denominator,
            PackWorkload.of(pack, times=1 if self._critic is None else 2),
            {name: float(value) / denominator for name, value in read.measures.items()},
            {key: value / denominator for key, value in keyed},
        )
