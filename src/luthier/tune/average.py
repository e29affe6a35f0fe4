"""A running average of what moves (EMA): steadier weights than those of any one step, and often better ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Average:
    """The exponential moving average of some tensors, by name; it follows them from where they are."""

    def __init__(self, moving: Mapping[str, Tensor], decay: float) -> None:
        self._decay = decay
        self.values = {name: value.detach().clone() for name, value in moving.items()}

    def follow(self, moving: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after a step (from 1); early steps count more, so that the start is soon forgotten."""
        decay = min(self._decay, step / (step + 9.0))
        for name, value in self.values.items():
            value.lerp_(moving[name].detach(), 1.0 - decay)

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Go on from averages that were kept."""
        for name, value in values.items():
            self.values[name].copy_(value)


@contextmanager
def standing_in(model: torch.nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a model answer with other weights for a while, by parameter name; its own are not copied."""
    own = {name: parameter.data for name, parameter in model.named_parameters() if name in values}
    try:
        put(model, values)
        yield
    finally:
        for name, parameter in model.named_parameters():
            if name in own:
                parameter.data = own[name]


def put(model: torch.nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give a model other weights, by parameter name, in the precision that it computes in."""
    for name, parameter in model.named_parameters():
        if name in values:
            parameter.data = values[name].to(device=parameter.device, dtype=parameter.dtype)
