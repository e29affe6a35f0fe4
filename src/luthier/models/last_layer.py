"""The last layer only where somebody reads: a pack's learnt tokens are few, and after attention no other is needed.

Layers stay transformers' own. The last one's `forward` is replaced where the layer is a plain pair of attention and MLP
with a norm before each; whoever installs it compares what comes out before and after (see `logprobs.reading`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_WANTED: ContextVar[Tensor | None] = ContextVar("luthier_wanted", default=None)


class _Last:
    """The forward of a last layer, and its own forward when all tokens are wanted."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._own = layer, type(layer).forward

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        wanted = _WANTED.get()
        if wanted is None or args:
            return self._own(self._layer, hidden_states, *args, **kwargs)
        layer = self._layer
        mixed = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)[0]
        kept = hidden_states.index_select(1, wanted) + mixed.index_select(1, wanted)
        said = layer.mlp(layer.post_attention_layernorm(kept))
        return kept + (said[0] if isinstance(said, tuple) else said)  # experts tell their router's scores too


def install(decoder: Any) -> bool:
    """Replace the forward of a decoder's last layer; False where its layers are not of the known kind."""
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList) or {name for name, _ in layers[-1].named_children()} != _PARTS:
        return False
    layers[-1].forward = _Last(layers[-1])
    return True


def remove(decoder: Any) -> None:
    """Give the last layer its own forward back."""
    del decoder.layers[-1].forward


@contextmanager
def only(places: Tensor | None) -> Iterator[None]:
    """Let installed last layers go on with these places (M,) alone; None: with all."""
    token = _WANTED.set(places)
    try:
        yield
    finally:
        _WANTED.reset(token)


def in_few_sizes(places: Tensor) -> Tensor:
    """Places with the first one repeated at the end, so that they come in few sizes: kernels are made for each."""
    unit = max(8, 1 << max(0, places.shape[0].bit_length() - 3))
    return torch.cat([places, places[:1].expand(-places.shape[0] % unit)])
