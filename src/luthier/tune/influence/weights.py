"""The weights that move as one vector, and losses and gradients of rows as they stand."""

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
    """All weights of a model that move, as one vector (P,) in the order of the model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.moving = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        sizes = [parameter.numel() for parameter in self.moving.values()]
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self.spans = {name: slice(*ends[at : at + 2]) for at, name in enumerate(self.moving)}
        """Where each weight lies in the vector."""
        self.size = ends[-1]

    def get(self) -> Tensor:
        """(P,) as they are now, copied."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.moving.values()])

    def set(self, vector: Tensor) -> None:
        """Give the model other weights."""
        for name, parameter in self.moving.items():
            parameter.data.copy_(vector[self.spans[name]].view_as(parameter))

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Give the model weights by name; `ModelError` where they are not its own, or are no numbers."""
        shapes = {name: tuple(parameter.shape) for name, parameter in self.moving.items()}
        if shapes != {name: tuple(value.shape) for name, value in weights.items()}:
            where, hint = SourceLocation(field="model"), "name the model that this base was tuned to"
            raise ModelError("the kept states are of another base or technique", where=where, hint=hint)
        vector = self.gather(weights)
        if not bool(vector.isfinite().all()):
            raise ModelError("a kept state is not finite", where=SourceLocation(field="model"), hint=_LOWER)
        self.set(vector)

    def gather(self, values: Mapping[str, Tensor]) -> Tensor:
        """(P,) from tensors by name."""
        like = next(iter(self.moving.values()))
        return torch.cat([values[name].to(like).reshape(-1) for name in self.moving])

    def spread(self, values: Mapping[str, float]) -> Tensor:
        """(P,) with one number for each weight by name; 1 where none is given."""
        like = next(iter(self.moving.values()))
        found = torch.ones(self.size, dtype=like.dtype, device=like.device)
        for name, value in values.items():
            found[self.spans[name]] = value
        return found

    def gradient(self, loss: Tensor) -> Tensor:
        """(P,) how a loss falls with each of them; zero where it does not depend on one."""
        found = torch.autograd.grad(loss, list(self.moving.values()), allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(parameter) if gradient is None else gradient).reshape(-1)
                for parameter, gradient in zip(self.moving.values(), found, strict=True)
            ]
        )


_LOWER = "lower learning_rate, and tune again"


class LossReader:
    """Reads the losses of rows as an objective has them, and their gradients."""

    def __init__(self, model: Any, objective: Objective, tokens: int) -> None:
        self.model, self._objective, self.tokens = model, objective, tokens
        self.weights = FlatWeights(model)

    def build_packs(self, rows: Sequence[TokenRow], share_from: int = SHARE_FROM) -> list[Pack]:
        """Packs of rows, as training reads them."""
        return build_packs(rows, self.tokens, share_from) if rows else []

    def loss(self, pack: Pack) -> Loss:
        """The terms of one pack, with a gradient where one is wanted."""
        logp, pack = read_pack_logprobs(self.model, self._objective, pack, compute_pack_logprobs)
        return self._objective.loss(logp, pack, pack.token_values.get(REFERENCE))

    @torch.no_grad()
    def example_losses(self, packs: Sequence[Pack]) -> dict[str, float]:
        """What each example adds to the sum of the losses, by its id."""
        found: dict[str, float] = {}
        with disable_dropout(self.model):
            for pack in packs:
                values = self.loss(pack).by_example(pack).double().tolist()
                found |= dict(zip(pack.example_keys, values, strict=True))
        return found

    def total(self, packs: Sequence[Pack]) -> float:
        """The sum of the losses."""
        return sum(self.example_losses(packs).values())

    def gradient(self, packs: Sequence[Pack]) -> Tensor:
        """(P,) the gradient of the sum of the losses; `ModelError` where it is no number."""
        found = torch.zeros_like(self.weights.get())
        with torch.enable_grad(), disable_dropout(self.model):
            for pack in packs:
                found += self.weights.gradient(self.loss(pack).total)
        if not bool(found.isfinite().all()):
            keys = ", ".join(key for pack in packs for key in pack.example_keys[:2])
            raise ModelError(f"a gradient is not finite, on rows {keys}", hint=_LOWER)
        return found


@contextmanager
def keep_weights(weights: FlatWeights) -> Iterator[None]:
    """Put the weights back that a model has now."""
    before = weights.get()
    try:
        yield
    finally:
        weights.set(before)
