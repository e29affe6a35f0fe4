"""The trainable weights as one vector, and losses and gradients of rows at the current weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError, SourceLocation
from luthier.models.packing.logprobs import compute_pack_logprobs, disable_dropout
from luthier.models.packing.pack import SHARE_FROM, Pack, TokenRow, build_packs
from luthier.tune.objective import REFERENCE, Loss, Objective, read_pack_logprobs


class FlatWeights:
    """All trainable weights of a model as one vector (P,), in the order of the model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.moving = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        sizes = [parameter.numel() for parameter in self.moving.values()]
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self.spans = {name: slice(*ends[at : at + 2]) for at, name in enumerate(self.moving)}
        """Where each weight lies in the vector."""
        self.size = ends[-1]

    def get(self) -> Tensor:
        """Return a copy of the current weights (P,)."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.moving.values()])

    def set(self, vector: Tensor) -> None:
        """Set the model's weights."""
        for name, parameter in self.moving.items():
            parameter.data.copy_(vector[self.spans[name]].view_as(parameter))

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Set the model's weights by name; `ModelError` where names or shapes differ, or a value is not finite."""
        shapes = {name: tuple(parameter.shape) for name, parameter in self.moving.items()}
        if shapes != {name: tuple(value.shape) for name, value in weights.items()}:
            where, hint = SourceLocation(field="model"), "name the model that this base was tuned to"
            raise ModelError("the kept states are of another base or technique", where=where, hint=hint)
        vector = self.gather(weights)
        if not bool(vector.isfinite().all()):
            raise ModelError("a kept state is not finite", where=SourceLocation(field="model"), hint=_LOWER)
        self.set(vector)

    def gather(self, values: Mapping[str, Tensor]) -> Tensor:
        """Concatenate tensors by name into (P,)."""
        like = next(iter(self.moving.values()))
        return torch.cat([values[name].to(like).reshape(-1) for name in self.moving])

    def spread(self, values: Mapping[str, float]) -> Tensor:
        """Return (P,) with one number for each weight by name; 1 where none is given."""
        like = next(iter(self.moving.values()))
        vector = torch.ones(self.size, dtype=like.dtype, device=like.device)
        for name, value in values.items():
            vector[self.spans[name]] = value
        return vector

    def gradient(self, loss: Tensor) -> Tensor:
        """Return the gradient (P,) of a loss; zero where it does not depend on a weight."""
        gradients = torch.autograd.grad(loss, list(self.moving.values()), allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(parameter) if gradient is None else gradient).reshape(-1)
                for parameter, gradient in zip(self.moving.values(), gradients, strict=True)
            ]
        )


_LOWER = "lower learning_rate, and tune again"


class LossReader:
    """Computes the losses of rows under an objective, and their gradients."""

    def __init__(self, model: Any, objective: Objective, tokens: int) -> None:
        self.model, self._objective, self.tokens = model, objective, tokens
        self.weights = FlatWeights(model)

    def build_packs(self, rows: Sequence[TokenRow], share_from: int = SHARE_FROM) -> list[Pack]:
        """Return packs of rows, as training reads them."""
        return build_packs(rows, self.tokens, share_from) if rows else []

    def loss(self, pack: Pack) -> Loss:
        """Return the loss terms of one pack, with a gradient where gradients are enabled."""
        logp, pack = read_pack_logprobs(self.model, self._objective, pack, compute_pack_logprobs)
        return self._objective.loss(logp, pack, pack.token_values.get(REFERENCE))

    @torch.no_grad()
    def example_losses(self, packs: Sequence[Pack]) -> dict[str, float]:
        """Return each example's contribution to the sum of the losses, by its id."""
        losses: dict[str, float] = {}
        with disable_dropout(self.model):
            for pack in packs:
                values = self.loss(pack).by_example(pack).double().tolist()
                losses |= dict(zip(pack.example_keys, values, strict=True))
        return losses

    def total(self, packs: Sequence[Pack]) -> float:
        """Return the sum of the losses."""
        return sum(self.example_losses(packs).values())

    def gradient(self, packs: Sequence[Pack]) -> Tensor:
        """Return the gradient (P,) of the sum of the losses; `ModelError` where it is not finite."""
        gradient = torch.zeros_like(self.weights.get())
        with torch.enable_grad(), disable_dropout(self.model):
            for pack in packs:
                gradient += self.weights.gradient(self.loss(pack).total)
        if not bool(gradient.isfinite().all()):
            keys = ", ".join(key for pack in packs for key in pack.example_keys[:2])
            raise ModelError(f"a gradient is not finite, on rows {keys}", hint=_LOWER)
        return gradient


@contextmanager
def keep_weights(weights: FlatWeights) -> Iterator[None]:
    """Restore a model's current weights on exit."""
    before = weights.get()
    try:
        yield
    finally:
        weights.set(before)
