"""Attention that follows a pack's ancestry, plugged into transformers' registry: any model that uses it can be packed.

with packed(model, pack):
    hidden = decoder(input_ids=pack.ids[None], position_ids=pack.positions[None]).last_hidden_state
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from luthier.models.attention.backends import AttentionParams, dense_pack_attention
from luthier.models.attention.cpu import AttentionPlan
from luthier.models.attention.prefix import PackPrefixKV
from luthier.models.attention.select import run_attention_backend
from luthier.models.packing.pack import Pack

NAME = "luthier_packed"


Cached = Sequence[tuple[Tensor, Tensor]]
"""By layer: keys and values (1, key heads, tokens, d)."""


class UnpackableAttentionError(Exception):
    """The model's attention needs something that packed sequences do not support; rows are padded instead."""


@dataclass
class PackAttentionState:
    """The state of one forward pass of a model over one pack, shared by its attention layers."""

    plan: AttentionPlan
    quick: bool
    cached: Cached = ()
    """Keys and values of the pack's first tokens in each layer, where they are not the model's own (`prefix`)."""
    prefix_kv: PackPrefixKV | None = None
    """What the pack begins with, where that was or will be read with another one."""
    windows: list[int | None] = field(default_factory=list)
    """The sliding window of each attention call so far: how often the registry was used, and how."""


_PASS: ContextVar[PackAttentionState | None] = ContextVar("luthier_pass", default=None)


@contextmanager
def use_pack_attention(
    model: PreTrainedModel,
    pack: Pack,
    *,
    quick: bool = True,
    cached: Cached = (),
    prefix_kv: PackPrefixKV | None = None,
) -> Iterator[PackAttentionState]:
    """Let a model's attention layers follow the pack; `quick=False` keeps to the plain path with a dense mask.

    `cached` keys and values stand in the place of those that the layers compute for the pack's first tokens; what is
    known of `prefix_kv` is not computed at all.
    """
    now = PackAttentionState(AttentionPlan(pack, prefix_kv.known if prefix_kv else 0), quick, cached, prefix_kv)
    token = _PASS.set(now)
    try:
        with use_attention_implementation(model, NAME):
            yield now
    finally:
        _PASS.reset(token)


@contextmanager
def use_attention_implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let a model's layers attend by what is registered under a name."""
    before = [(config, config._attn_implementation_internal) for config in _configs(model) if _is_config(config)]
    try:
        for config, _ in before:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def _configs(model: torch.nn.Module) -> Iterable[Any]:
    """The settings that a model's modules hold, each once. Adapters make thousands of modules, and each token that is
    written asks: they are not looked through by `modules`, which takes four times as long."""
    found, left = {}, [model]
    while left:
        module = left.pop()
        if config := vars(module).get("config"):
            found[id(config)] = config
        left += [child for child in module._modules.values() if child is not None]
    return found.values()


def _is_config(config: Any) -> bool:
    return hasattr(config, "_attn_implementation_internal")


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that is registered with transformers for packs: queries (1, heads, T, d) to outputs (1, T,
    heads, d)."""
    now = _PASS.get()
    if now is None:
        raise RuntimeError("packed attention is only for models that read a pack")
    _refuse(module, attention_mask, kwargs)
    params = build_attention_params(query, scaling, kwargs)
    now.windows.append(params.window)
    if now.cached:
        key, value = _begun(now.cached, module, key, value)
    count = query.shape[2]
    if now.prefix_kv is not None:
        query, key, value = now.prefix_kv.whole(int(module.layer_idx), query, key, value, now.plan.pack.tokens)  # type: ignore[arg-type]
    path = run_attention_backend if now.quick else dense_pack_attention
    return path(query, key, value, now.plan, params)[:, -count:], None


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


def _begun(cached: Cached, module: Any, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's keys and values with others in the place of the first ones."""
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


AttentionInterface.register(NAME, packed_attention)
