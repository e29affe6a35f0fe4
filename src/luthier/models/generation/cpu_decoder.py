"""Decoder layers for one token at a time on a CPU.

`CompiledDecoder` runs all layers in one call of the kernels, without transformers' modules. It supports attention and a
gated MLP with an RMSNorm before each, rotary positions, and LoRA adapters on any linear layer, a different one for each
sequence. Weights are read in place. `ModuleDecoder` runs the model's own modules with the attention replaced and the
linear layers computed by row-wise kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_int64
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.models.attention import use_attention
from luthier.models.attention.cross import CrossAttention, use_cross_attention
from luthier.models.generation.kv_cache import ForwardBatch, KVCache, KVCacheAttention
from luthier.models.generation.sampling import BASE
from luthier.models.kernels.linear_ops import (
    AdaptedLinearStruct,
    DecoderLayerStruct,
    LinearStruct,
    LoraPairStruct,
    RmsNormStruct,
    RowKernels,
    get_row_kernels,
)
from luthier.models.kernels.lora import use_peft_forward
from luthier.models.media.inputs import build_decoder_inputs, embed_ids, holds_media
from luthier.models.media.towers import is_tower_parameter
from luthier.models.packing.logprobs import find_decoder
from luthier.models.sequence_head import unwrap_peft_model

_OF_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_OF_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_OF_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_DTYPES = (torch.float32, torch.bfloat16)


class UnsupportedArchitectureError(Exception):
    """A model whose architecture is not supported."""


class CompiledDecoder:
    """A decoder's layers laid out for the compiled CPU kernels, which compute all of them in one call."""

    def __init__(self, rows: RowKernels, model: Any, decoder: Any, past: KVCache) -> None:
        self._rows, self._whole, self._decoder, self._past = rows, model, decoder, past
        self._adapters = list(getattr(model, "peft_config", {}))
        self._weights: list[Tensor] = []
        self._at: list[int] = []
        self._lay_out()

    def read(self, ids: Tensor, visit: ForwardBatch, adapters: Sequence[str | None]) -> Tensor:
        """Return (T, width) states in fp32 after the last layer, from (T,) ids."""
        if self._at != [weight.data_ptr() for weight in self._weights]:
            self._lay_out()
        states = self._embed(ids)
        cos, sin = (entry[0].contiguous() for entry in self._decoder.rotary_emb(states[None], visit.positions[None]))
        batch, d = visit.laid_out, self._d
        if cos.shape[-1] != d:
            raise UnsupportedArchitectureError
        batch.adapters = (c_int64 * len(adapters))(*map(self._get_adapter_number, adapters))
        batch.cos, batch.sin, batch.d = cos.data_ptr(), sin.data_ptr(), d
        batch.heads, batch.key_heads = self._layers[0].q.base.outs // d, self._layers[0].k.base.outs // d
        rows = len(states)
        room = torch.empty(rows * self._room, dtype=torch.float32)
        narrowed = torch.empty(rows * self._widest, dtype=torch.bfloat16)
        batch.room, batch.narrowed = room.data_ptr(), narrowed.data_ptr()
        low = torch.empty(rows * self._rank, dtype=torch.float32)
        self._rows.layers(self._layers, batch, states, low)
        return states

    def ended(self, states: Tensor) -> Tensor:
        """Apply the decoder's final norm."""
        return self._rows.norm(self._last, states)

    def knows(self, adapter: str | None) -> bool:
        """Return whether a sequence's adapter is one plain adapter, or none."""
        try:
            self._get_adapter_number(adapter)
        except UnsupportedArchitectureError:
            return False
        return True

    def _get_adapter_number(self, adapter: str | None) -> int:
        """Return the number of a sequence's adapter; -1 for none."""
        if adapter == BASE or not self._adapters:
            return -1
        if adapter is not None:
            return self._adapters.index(adapter)
        layer = next(module for module in self._whole.modules() if isinstance(module, LoraLinear))
        if layer.disable_adapters:
            return -1
        if len(layer.active_adapters) != 1:
            raise UnsupportedArchitectureError
        return self._adapters.index(layer.active_adapters[0])

    def _embed(self, ids: Tensor) -> Tensor:
        if holds_media(ids):
            states: Tensor = embed_ids(unwrap_peft_model(self._whole), ids[None])[0].float()
        else:
            states = self._decoder.embed_tokens.weight[ids].float()
        return states * float(getattr(self._decoder, "embedding_multiplier", 1.0))

    def _lay_out(self) -> None:
        """Collect the addresses of all weights."""
        self._weights.clear()
        if getattr(self._whole, "peft_config", {}) and not all(map(_is_lora, self._whole.peft_config.values())):
            raise UnsupportedArchitectureError
        if type(self._decoder.embed_tokens) is not torch.nn.Embedding:
            raise UnsupportedArchitectureError
        self._d = int(self._decoder.layers[0].self_attn.head_dim)
        layers = [self._layer(at, layer) for at, layer in enumerate(self._decoder.layers)]
        self._layers = (DecoderLayerStruct * len(layers))(*layers)
        self._last = self._norm(self._decoder.norm)
        self._room = max(self._rows.count_scratch_floats(layer) for layer in layers)
        linears = [getattr(layer, name) for layer in layers for name in ("q", "k", "v", "o", "gate", "up", "down")]
        self._widest = max(linear.base.width for linear in linears)
        ranks = [pair.down.outs for linear in linears if linear.pairs for pair in linear.pairs[: len(self._adapters)]]
        self._rank = max(ranks, default=0)
        self._at = [weight.data_ptr() for weight in self._weights]

    def _layer(self, at: int, layer: Any) -> DecoderLayerStruct:
        attention, mlp = layer.self_attn, layer.mlp
        _require_children(layer, _OF_LAYER, _OF_LAYER)
        _require_children(attention, _OF_ATTENTION, _OF_ATTENTION | {"q_norm", "k_norm"})
        _require_children(mlp, _OF_MLP, _OF_MLP)
        params = self._past.attention_params.get(at)
        if params is None or params.softcap is not None or params.sinks is not None:
            raise UnsupportedArchitectureError
        more = {name: self._norm(getattr(attention, f"{name[-1]}_norm", None)) for name in ("of_q", "of_k")}
        projections = {name: self._linear(getattr(attention, f"{name}_proj")) for name in ("q", "k", "v", "o")}
        projections |= {name: self._linear(getattr(mlp, f"{name}_proj")) for name in ("gate", "up", "down")}
        _refuse_odd(projections)
        keys, values = self._get_layer_cache(at, projections)
        return DecoderLayerStruct(
            **projections,
            **more,
            before=self._norm(layer.input_layernorm),
            between=self._norm(layer.post_attention_layernorm),
            scaling=params.scaling,
            residual=float(getattr(layer, "residual_multiplier", 1.0)),
            window=params.window or 0,
            turned=int(getattr(attention, "use_rope", 1)),
            keys=keys.data_ptr(),
            values=values.data_ptr(),
        )

    def _get_layer_cache(self, at: int, projections: dict[str, AdaptedLinearStruct]) -> tuple[Tensor, Tensor]:
        example = torch.empty(1, projections["k"].base.outs // self._d, self._d, dtype=torch.float32)
        return self._past.of(at, example, example)

    def _linear(self, module: Any) -> AdaptedLinearStruct:
        """Return a plain linear layer, or LoRA over one."""
        if type(module) is torch.nn.Linear:
            return AdaptedLinearStruct.of(self._weight(module))
        if type(module) is not LoraLinear or module.merged or module.fan_in_fan_out or module.lora_variant:
            raise UnsupportedArchitectureError
        if type(module.base_layer) is not torch.nn.Linear:
            raise UnsupportedArchitectureError
        return AdaptedLinearStruct.of(
            self._weight(module.base_layer), [self._pair(module, name) for name in self._adapters]
        )

    def _pair(self, module: Any, name: str) -> LoraPairStruct:
        if name not in module.lora_A:
            return LoraPairStruct()
        down, up = module.lora_A[name], module.lora_B[name]
        if down.bias is not None or up.bias is not None:
            raise UnsupportedArchitectureError
        return LoraPairStruct(self._weight(down), self._weight(up), float(module.scaling[name]))

    def _weight(self, layer: Any) -> LinearStruct:
        for entry in (layer.weight, layer.bias):
            self._note(entry)
        if layer.bias is not None and layer.bias.dtype != layer.weight.dtype:
            raise UnsupportedArchitectureError
        return LinearStruct.of(layer.weight, layer.bias)

    def _norm(self, norm: Any) -> RmsNormStruct:
        if norm is None:
            return RmsNormStruct()
        self._note(norm.weight)
        epsilon = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None)
        if not isinstance(epsilon, float) or norm.weight.ndim != 1:
            raise UnsupportedArchitectureError
        return RmsNormStruct(norm.weight.data_ptr(), epsilon, int(norm.weight.dtype == torch.bfloat16))

    def _note(self, weight: Tensor | None) -> None:
        if weight is None:
            return
        if weight.device.type != "cpu" or weight.dtype not in _DTYPES or weight.stride(-1) != 1:
            raise UnsupportedArchitectureError
        self._weights.append(weight)


def _refuse_odd(projections: dict[str, AdaptedLinearStruct]) -> None:
    """Raise `UnsupportedArchitectureError` where widths do not match those of a plain layer."""
    q, k, v, o, gate, up, down = (projections[name].base for name in ("q", "k", "v", "o", "gate", "up", "down"))
    meets = q.width == k.width == v.width == o.outs == gate.width == up.width == down.outs
    if not (meets and q.outs == o.width and k.outs == v.outs and not q.outs % k.outs):
        raise UnsupportedArchitectureError
    if not gate.outs == up.outs == down.width:
        raise UnsupportedArchitectureError


def _is_lora(config: Any) -> bool:
    return bool(config.peft_type.value == "LORA")


def _require_children(module: Any, least: set[str], most: set[str]) -> None:
    """Raise `UnsupportedArchitectureError` where a module's children have other names."""
    names = {name for name, _ in module.named_children()}
    if not least <= names <= most:
        raise UnsupportedArchitectureError


class ModuleDecoder:
    """Runs a batch of sequences through transformers' own modules in one forward pass."""

    def __init__(self, model: Any, past: KVCache) -> None:
        self._model, self._decoder, self._past = model, find_decoder(model), past
        self._layers = [layer for layer in model.modules() if _is_plain(layer)]
        self._adapted = [layer for layer in model.modules() if isinstance(layer, LoraLinear)]

    def read(
        self,
        ids: Tensor,
        visit: ForwardBatch,
        positions: Tensor | None = None,
        cross: CrossAttention | None = None,
    ) -> Tensor:
        """Return (T, width) hidden states from (T,) ids; `positions` (3, 1, T) are grid positions of media, `cross` the
        clips to attend to.
        """
        kernels = get_row_kernels()
        alone = self._adapted if kernels is not None else []
        attention, inputs = KVCacheAttention(self._past, visit), build_decoder_inputs(self._model, ids[None])
        inputs |= cross.inputs if cross is not None else {}
        positions = visit.positions[None] if positions is None else positions
        with (
            use_attention(attention),
            use_cross_attention(cross),
            use_peft_forward(alone),
            _multiplying(self._layers, kernels),
        ):
            states: Tensor = self._decoder(**inputs, position_ids=positions, use_cache=False).last_hidden_state
        return states[0]


class _Product:
    """The forward of one linear layer."""

    def __init__(self, kernels: RowKernels, layer: torch.nn.Linear) -> None:
        self._kernels, self._layer = kernels, layer

    def __call__(self, states: Tensor) -> Tensor:
        layer = self._layer
        flat = states.reshape(-1, layer.in_features).float().contiguous()
        product = self._kernels.product(LinearStruct.of(layer.weight, layer.bias), flat)
        return product.view(*states.shape[:-1], -1).to(states.dtype)


@contextmanager
def _multiplying(layers: list[torch.nn.Linear], kernels: RowKernels | None) -> Iterator[None]:
    """Let linear layers multiply by the kernels, where there are some."""
    chosen = layers if kernels is not None else []
    try:
        for layer in chosen:
            assert kernels is not None
            layer.forward = _Product(kernels, layer)  # type: ignore[method-assign, assignment]  # an instance stands before its class
        yield
    finally:
        for layer in chosen:
            vars(layer).pop("forward", None)


def _is_plain(layer: Any) -> bool:
    """Return whether a linear layer on the CPU multiplies as torch's own does."""
    return (
        type(layer) is torch.nn.Linear
        and "forward" not in vars(layer)
        and layer.weight.dtype in _DTYPES
        and layer.weight.device.type == "cpu"
        and (layer.bias is None or layer.bias.dtype == layer.weight.dtype)
    )


def check_adapter_loaded(model: Any, adapter: str | None) -> None:
    """Raise `ModelError` for an adapter that is not loaded."""
    known = getattr(model, "peft_config", {})
    if adapter not in (None, BASE) and adapter not in known:
        there = ", ".join(known) or "none: this model has no adapters"
        raise ModelError(f"no adapter {adapter!r} is loaded", hint=f"loaded are {there}")


@contextmanager
def disable_adapters(model: Any) -> Iterator[None]:
    """Context manager: compute with the base model alone.

    Which parameters require gradients does not change: PEFT's own context freezes all adapters but the active one when
    it ends, a critic's included.
    """
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


@contextmanager
def activate_adapter(model: Any, adapter: str | None, *, decoder_only: bool = False) -> Iterator[None]:
    """Context manager: activate one adapter of a model; None changes nothing, `BASE` disables all. `decoder_only` does
    not touch media encoders.
    """
    if adapter is None or not hasattr(model, "peft_config"):
        yield
        return
    if adapter == BASE:
        with disable_adapters(model):
            yield
        return
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) and not (decoder_only and is_tower_parameter(name))
    ]
    before, whole = [(entry._active_adapter, entry._disable_adapters) for entry in layers], model.active_adapter
    try:
        for layer in layers:
            layer._active_adapter, layer._disable_adapters = [adapter], False
        model.active_adapter = adapter
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled
        model.active_adapter = whole
