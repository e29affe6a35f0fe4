"""Linear layers with their weights laid out for the processor beforehand, while a few rows are written token by token.

A matrix library brings a weight into its own order at each product; with few rows that takes as long as the product.
On a CPU in float32 the weights of a model that is not large are brought into that order once, and the copies are let go
at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

LEAST_BYTES = 1 << 25
"""Weights of smaller models are quick in any order."""
MOST_BYTES = 3 << 30
"""Weights of larger models are not copied: the memory would be missed."""


@contextmanager
def prepacked(model: torch.nn.Module, rows: int) -> Iterator[None]:
    """Let a model's linear layers multiply prepacked weights, laid out for so many rows at a time, where that pays."""
    layers = _layers(model)
    size = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    chosen = layers if rows > 1 and LEAST_BYTES <= size <= MOST_BYTES and _able() else []
    changed = []
    try:
        for layer in chosen:
            layer.forward = _Packed(layer, rows)  # type: ignore[method-assign, assignment]  # an instance stands before its class
            changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward


class _Packed:
    """The product with a weight that stands in the library's own order."""

    def __init__(self, layer: torch.nn.Linear, rows: int) -> None:
        self._bias = layer.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)

    def __call__(self, states: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self._bias, "none", [], "")
        return found


def _layers(model: torch.nn.Module) -> list[torch.nn.Linear]:
    """Plain linear layers in float32 on the CPU, whose own forward nobody has changed."""
    return [
        layer
        for layer in model.modules()
        if type(layer) is torch.nn.Linear
        and layer.weight.dtype == torch.float32
        and layer.weight.device.type == "cpu"
        and "forward" not in vars(layer)
    ]


def _able() -> bool:
    """Whether this torch has the products, and they give what its own give."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    layer, draw = torch.nn.Linear(32, 16), torch.Generator().manual_seed(0)
    states = torch.randn(2, 3, 32, generator=draw)
    try:
        found: Any = _Packed(layer, 4)(states)
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return bool(torch.allclose(found, layer(states), atol=1e-5))
