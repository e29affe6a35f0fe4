"""Attention chosen by context: one function in transformers' registry, for any model that uses the registry.

with use_pack_attention(pack):
    hidden = decoder(input_ids=pack.ids[None], position_ids=pack.positions[None]).last_hidden_state

Within the context, and in its thread alone, each configuration names this function when transformers asks which
attention to take. No configuration is written to, so threads may read one model in several ways at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedConfig

from luthier.models.attention.backends import AttentionParams, dense_pack_attention
from luthier.models.attention.cpu import AttentionPlan
from luthier.models.attention.cross import get_cross_attention
from luthier.models.attention.prefix import PackPrefixKV
from luthier.models.attention.select import run_attention_backend
from luthier.models.gradient_rules import apply_attention_rule
from luthier.models.packing.pack import Pack

NAME = "luthier"


class AttentionContext(Protocol):
    """How the attention layers of a forward call attend."""

    def attend(
        self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
        scaling: float | None, kwargs: dict[str, Any],
    ) -> Tensor:  # fmt: skip
        """Attend from queries, keys and values (1, heads, T, d) of a layer to outputs (1, T, heads, d)."""


_CONTEXT: ContextVar[AttentionContext | None] = ContextVar("luthier_attention", default=None)


@contextmanager
def use_attention(context: AttentionContext) -> Iterator[None]:
    """Let the attention layers that this thread calls attend by `context`, in any model."""
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def context_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend by the active context; the function in transformers' registry."""
    context = _CONTEXT.get()
    if context is None:
        raise RuntimeError(f"attention {NAME!r} is chosen by `use_attention`, not by a configuration")
    if (cross := get_cross_attention(module)) is not None:
        return cross.attend(module, query, query.shape[-1] ** -0.5 if scaling is None else scaling), None
    query, key, value = apply_attention_rule(query, key, value)
    return context.attend(module, query, key, value, attention_mask, scaling, kwargs), None


def _read_implementation(config: Any) -> str | None:
    """Return a configuration's attention implementation: outside of a context, its own setting."""
    own: str | None = config._attn_implementation_internal
    return own if _CONTEXT.get() is None else NAME


AttentionInterface.register(NAME, context_attention)
PreTrainedConfig._attn_implementation = PreTrainedConfig._attn_implementation.getter(_read_implementation)

Cached = Sequence[tuple[Tensor, Tensor]]
"""Keys and values (1, key heads, tokens, d) by layer."""


class UnpackableAttentionError(Exception):
    """The model's attention does not support packed sequences; rows are padded instead."""


@dataclass
class PackAttentionState:
    """The state of one forward pass of a model over one pack, shared by its attention layers."""

    plan: AttentionPlan
    quick: bool
    cached: Cached = ()
    """Keys and values of the pack's first tokens in each layer, where they come from prefix tuning."""
    prefix_kv: PackPrefixKV | None = None
    """The pack's prefix, where another pack shares it."""
    windows: list[int | None] = field(default_factory=list)
    """The sliding window of each attention call so far, which shows how the registry was used."""

    def attend(
        self, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
        scaling: float | None, kwargs: dict[str, Any],
    ) -> Tensor:  # fmt: skip
        """Attend along the pack's ancestry; `UnpackableAttentionError` where the layer needs something else."""
        _refuse(module, mask, kwargs)
        params = build_attention_params(query, scaling, kwargs)
        self.windows.append(params.window)
        if self.cached:
            key, value = _prepend_cached(self.cached, module, key, value)
        count = query.shape[2]
        if self.prefix_kv is not None:
            query, key, value = self.prefix_kv.whole(int(module.layer_idx), query, key, value, self.plan.pack.tokens)  # type: ignore[arg-type]
        path = run_attention_backend if self.quick and not self.plan.mutual else dense_pack_attention
        return path(query, key, value, self.plan, params)[:, -count:]


@contextmanager
def use_pack_attention(
    pack: Pack, *, quick: bool = True, cached: Cached = (), prefix_kv: PackPrefixKV | None = None, mutual: bool = False
) -> Iterator[PackAttentionState]:
    """Let attention layers follow the pack; `quick=False` uses the dense mask alone.

    `cached` keys and values replace those that the layers compute for the pack's first tokens; the known part of
    `prefix_kv` is not computed. With `mutual` the tokens of one image or clip attend to one another.
    """
    plan = AttentionPlan(pack, prefix_kv.known if prefix_kv else 0, mutual=mutual)
    now = PackAttentionState(plan, quick, cached, prefix_kv)
    with use_attention(now):
        yield now


def build_attention_params(query: Tensor, scaling: float | None, kwargs: dict[str, Any]) -> AttentionParams:
    """Build the attention parameters (scaling, window, softcap, sinks) from what transformers passes to the registered
    function."""
    return AttentionParams(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=kwargs.get("sliding_window"),
        softcap=kwargs.get("softcap"),
        sinks=kwargs.get("s_aux"),
        dropout=kwargs.get("dropout", 0.0),
    )


def _prepend_cached(cached: Cached, module: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return a layer's keys and values with the first ones replaced."""
    keys, values = cached[module.layer_idx]
    count = keys.shape[2]
    return torch.cat([keys, key[:, :, count:]], 2), torch.cat([values, value[:, :, count:]], 2)


def _refuse(module: torch.nn.Module, attention_mask: Tensor | None, kwargs: dict[str, Any]) -> None:
    if attention_mask is not None:
        raise UnpackableAttentionError("its layers make attention masks of their own")
    if kwargs.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise UnpackableAttentionError("its attention is not causal")
    if kwargs.get("position_bias") is not None:
        raise UnpackableAttentionError("its attention adds a bias by position")
