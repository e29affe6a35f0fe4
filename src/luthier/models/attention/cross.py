"""Cross-attention of a decoder to encoded audio, each row to its own clip.

Usually few tokens need the keys and values of a clip's S states, so the queries are projected into the space of the
states instead when that is less to compute. With W the keys' weight, q · (W m) = (Wᵀ q) · m, and the values' weight is
applied to the mixed states, as attention weights sum to one. The keys' bias adds one number to all scores of a query,
which changes no attention weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor


class SoundSpan(NamedTuple):
    """A run of tokens that attend to one audio clip."""

    begin: int
    end: int
    states: Tensor
    """(S, width): the encoder's output for the clip."""


class CrossAttention:
    """The clips that the tokens of one forward call attend to, run by run."""

    def __init__(self, spans: Sequence[SoundSpan]) -> None:
        self._spans = spans

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Model inputs that make a decoder use cross-attention at all: one empty state."""
        states = self._spans[0].states
        return {"encoder_hidden_states": states.new_zeros(1, 1, states.shape[1])}

    def attend(self, module: Any, query: Tensor, scaling: float) -> Tensor:
        """Attend from queries (1, heads, T, d) of a layer to outputs (1, T, heads, d)."""
        projections = _read_projections(module)
        parts = []
        for begin, end, states in self._spans:
            own = query[0, :, begin:end]
            few = projections is not None and own.shape[0] * own.shape[1] < states.shape[1] + own.shape[1]
            if few and projections is not None:
                parts.append(_attend_in_states(projections, own, states, scaling))
            else:
                parts.append(_attend_to_keys(module, own, states, scaling))
        return torch.cat(parts)[None]


_CROSS: ContextVar[CrossAttention | None] = ContextVar("luthier_cross", default=None)


@contextmanager
def use_cross_attention(cross: CrossAttention | None) -> Iterator[None]:
    """Let the cross-attention layers of this thread attend to these clips."""
    token = _CROSS.set(cross)
    try:
        yield
    finally:
        _CROSS.reset(token)


def get_cross_attention(module: Any) -> CrossAttention | None:
    """Return the clips that a layer attends to; None for a self-attention layer."""
    return _CROSS.get() if getattr(module, "is_causal", True) is False else None


class _Projection(NamedTuple):
    """A linear layer with plain low-rank adapters or none, by its parts."""

    weight: Tensor
    bias: Tensor | None
    low: tuple[tuple[Tensor, Tensor, float], ...] = ()
    """A, B and scale of each adapter."""


def _read_projections(module: Any) -> tuple[_Projection, _Projection] | None:
    """Return the projections of keys and values, where they are plain linear layers."""
    projections = tuple(map(_read_projection, (module.k_proj, module.v_proj)))
    key, value = projections
    return None if key is None or value is None else (key, value)


def _read_projection(layer: Any) -> _Projection | None:
    if type(layer) is torch.nn.Linear:
        return _Projection(layer.weight, layer.bias)
    if type(layer) is not LoraLinear or type(layer.base_layer) is not torch.nn.Linear or layer.merged:
        return None
    base = layer.base_layer
    if layer.disable_adapters:
        return _Projection(base.weight, base.bias)
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    plain = all(
        not layer.use_dora.get(name)
        and not layer.lora_bias.get(name)
        and not _has_active_dropout(layer.lora_dropout[name])
        for name in names
    )
    if not plain or getattr(layer, "lora_variant", {}):
        return None
    pairs = [(layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name])) for name in names]
    return _Projection(base.weight, base.bias, tuple(pairs))


def _has_active_dropout(dropout: Any) -> bool:
    return isinstance(dropout, torch.nn.Dropout) and dropout.training and dropout.p > 0


def _attend_in_states(
    projections: tuple[_Projection, _Projection], query: Tensor, states: Tensor, scaling: float
) -> Tensor:
    """Attend from (heads, t, d) queries to (t, heads, d) outputs, in the space of the states."""
    key, value = projections
    heads, count, padded = query.shape
    width = key.weight.shape[0] // heads
    own = query[..., :width]  # some models fill their heads up with zeros
    turned = own @ key.weight.view(heads, width, -1)
    for down, up, scale in key.low:
        wide = (own.to(up.dtype) @ up.view(heads, width, -1)) @ down
        turned = turned + (wide * scale).to(turned.dtype)
    scores = (turned.reshape(heads * count, -1) @ states.T) * scaling
    shares = torch.softmax(scores, -1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(states.dtype)
    mixed = (shares @ states).view(heads, count, -1)
    out = mixed @ value.weight.view(heads, width, -1).transpose(1, 2)
    for down, up, scale in value.low:
        wide = (mixed.to(down.dtype) @ down.T) @ up.view(heads, width, -1).transpose(1, 2)
        out = out + (wide * scale).to(out.dtype)
    if value.bias is not None:
        out = out + value.bias.view(heads, 1, width)
    return torch.nn.functional.pad(out, (0, padded - width)).transpose(0, 1)


def _attend_to_keys(module: Any, query: Tensor, states: Tensor, scaling: float) -> Tensor:
    """Attend with the keys and values of the layer's own projections."""
    heads, _, padded = query.shape
    keys, values = (
        torch.nn.functional.pad(found, (0, padded - found.shape[-1]))
        for found in (
            layer(states[None])[0].view(states.shape[0], heads, -1) for layer in (module.k_proj, module.v_proj)
        )
    )
    out = torch.nn.functional.scaled_dot_product_attention(
        query[None], keys.transpose(0, 1)[None], values.transpose(0, 1)[None], scale=scaling
    )
    return out[0].transpose(0, 1)
