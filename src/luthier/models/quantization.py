"""Frozen linear layers with 8-bit or NF4 weights, and LoRA over them.

Weights are quantized in blocks with one fp32 scale each: int8 steps, or the sixteen levels of NF4 (QLoRA, Dettmers et
al. 2023; in the layout of bitsandbytes). A layer is dequantized only while it multiplies, into one buffer that all
layers of a model share. A model is quantized tensor by tensor while it is read from disk. LoRA and the base layer are
one product, rounded once.

NF4 is dequantized by torch, or by the faster kernels of bitsandbytes where it is installed and a trial gives the same
bits. A training that started with the library can therefore continue without it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from luthier.core.errors import ModelError
from luthier.models.sequence_head import ends_in_sequence_head
from luthier.models.shapes import find_part
from luthier.models.source import QuantizationScheme

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution between -1 and 1 (QLoRA, appendix E; bitsandbytes' table)."""
LIBRARY = "bitsandbytes"
"""Installed by the extra of the same name."""
GROUPS = (32, 64, 128, 256, 512, 1024)
"""Block sizes of its kernels."""
TYPES = (torch.float32, torch.bfloat16, torch.float16)
_BLOCKS = 33
"""Blocks of the trial: more than a vector holds, and not a power of two."""

BringBack = Callable[[Tensor, Tensor], Tensor]
"""Dequantizes codes (numbers / 2,) with an fp32 scale for each block to (numbers,)."""


def dequantize_with_torch(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the fp32 numbers of codes (numbers / 2,) and scales (blocks,)."""
    levels = torch.tensor(NF4, device=codes.device)
    pairs = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], 1)  # (256, 2)
    return (torch.nn.functional.embedding(codes.int(), pairs).view(scales.shape[0], -1) * scales[:, None]).view(-1)


@cache
def get_library_dequantizer(device: torch.device, dtype: torch.dtype, group: int) -> BringBack | None:
    """Return the library's dequantization to a dtype, for a block size; None where it has none, or gives other bits."""
    if dtype not in TYPES or group not in GROUPS or find_spec(LIBRARY) is None:
        return None
    logging.getLogger(LIBRARY).setLevel(logging.ERROR)  # it warns of kernels that it would rather download
    import_module(LIBRARY)
    bring_back = torch.ops.bitsandbytes.dequantize_4bit

    def quick(codes: Tensor, scales: Tensor) -> Tensor:
        numbers: Tensor = bring_back(codes, scales, group, "nf4", [1, 2 * codes.shape[0]], dtype)
        return numbers.view(-1)

    return quick if _dequantizes_alike(quick, device, dtype, group) else None


def _dequantizes_alike(quick: BringBack, device: torch.device, dtype: torch.dtype, group: int) -> bool:
    """Return whether every pair of levels is dequantized to torch's bits, with small and large scales."""
    draws = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (_BLOCKS * group // 2,), dtype=torch.uint8, generator=draws).to(device)
    scales = torch.logspace(-6, 2, _BLOCKS).to(device)
    return torch.equal(quick(codes, scales), dequantize_with_torch(codes, scales).to(dtype))


PIECE = 1 << 18
"""Numbers dequantized to fp32 at once: they stay in the processor's cache."""


class ScratchBuffer(threading.local):
    """One buffer that all layers of a model use in turn; each reading thread has its own."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def get_buffer(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """Return (rows, columns) of `like`'s dtype and device; earlier contents are lost."""
        held = self._held
        if held is None or held.numel() < rows * columns or held.dtype != like.dtype or held.device != like.device:
            self._held = held = torch.empty(rows * columns, dtype=like.dtype, device=like.device)
        return held[: rows * columns].view(rows, columns)


class QuantizedLinear(nn.Module):
    """A frozen linear layer with a block-quantized weight (out, in)."""

    qweight: Tensor  # codes: int8 (numbers,), or uint8 (numbers / 2,) with the even place in the high half
    scale_bits: Tensor  # int32 (blocks,): the bits of the fp32 scales, so that no cast of a model rounds them

    def __init__(self, layer: Any, scheme: QuantizationScheme, room: ScratchBuffer) -> None:
        """Replace a linear layer (or GPT-2's transposed one); `take` sets its weight."""
        super().__init__()
        self.scheme, self.room = scheme, room
        self.transposed = isinstance(layer, Conv1D)
        sides = layer.weight.shape
        self.in_features, self.out_features = sides if self.transposed else sides[::-1]
        self.weight = layer.weight  # where a loader finds its place; gone once the packed one is there
        self.bias = layer.bias

    def take(self, weight: Tensor) -> None:
        """Quantize a weight from disk."""
        codes, scales = quantize_blocks(weight.t() if self.transposed else weight, self.scheme)
        self._parameters.pop("weight", None)
        self.register_buffer("qweight", codes)
        self.register_buffer("scale_bits", scales.view(torch.int32))

    def write(self, out: Tensor) -> Tensor:
        """Write the dequantized weight to `out` (out, in), and return it."""
        scales = self.scale_bits.view(torch.float32)
        if self.in_features % self.scheme.group:
            return out.copy_(dequantize_blocks(self.qweight, scales, self.scheme)[: out.numel()].view_as(out))
        quick = get_library_dequantizer(out.device, out.dtype, self.scheme.group) if self.scheme.bits == 4 else None
        rows = max(1, PIECE // self.in_features)
        for begin in range(0, self.out_features, rows):
            piece = slice(begin * self.in_features, min(begin + rows, self.out_features) * self.in_features)
            halves = slice(piece.start // 2, piece.stop // 2) if self.scheme.bits == 4 else piece
            codes = self.qweight[halves]
            own = scales[piece.start // self.scheme.group : piece.stop // self.scheme.group]
            numbers = dequantize_blocks(codes, own, self.scheme) if quick is None else quick(codes, own)
            out[begin : begin + rows] = numbers.view(-1, self.in_features)
        return out

    def plain(self, dtype: torch.dtype) -> nn.Linear:
        """Return a plain linear layer with the dequantized weight."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        whole = torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.qweight.device)
        layer.weight = nn.Parameter(self.write(whole), requires_grad=False)
        layer.bias = self.bias
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Compute (…, in) to (…, out)."""
        out: Tensor = _Frozen.apply(x.reshape(-1, self.in_features), self)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], self.out_features)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return x W' plus the frozen bias, rounded once."""
        return x @ weight.t() if self.bias is None else torch.addmm(self.bias, x, weight.t())


def quantize_blocks(weight: Tensor, scheme: QuantizationScheme) -> tuple[Tensor, Tensor]:
    """Return codes and the fp32 scale of each block of a weight, row by row (the last block is padded with zeros)."""
    flat = weight.detach().reshape(-1).float()
    blocks = nn.functional.pad(flat, (0, -flat.numel() % scheme.group)).view(-1, scheme.group)
    scales = blocks.abs().amax(1)
    shares = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    if scheme.bits == 8:
        return shares.mul_(127).round_().to(torch.int8).view(-1), scales
    codes = torch.zeros_like(shares, dtype=torch.uint8)
    levels = torch.tensor(NF4, device=flat.device)
    for middle in (levels[1:] + levels[:-1]) / 2:
        codes += shares > middle
    pairs = codes.view(-1, 2)
    return pairs[:, 0] << 4 | pairs[:, 1], scales


def dequantize_blocks(codes: Tensor, scales: Tensor, scheme: QuantizationScheme) -> Tensor:
    """Return the numbers of codes and scales, in fp32."""
    if scheme.bits == 8:
        return (codes.view(-1, scheme.group) * (scales / 127)[:, None]).view(-1)
    return dequantize_with_torch(codes, scales)


class _Frozen(torch.autograd.Function):
    """Compute x W' without saving the weight: it is dequantized again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(x, layer.write(layer.room.get_buffer(layer.out_features, layer.in_features, x)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        layer = ctx.layer
        return grads[0] @ layer.write(layer.room.get_buffer(layer.out_features, layer.in_features, grads[0])), None


class QuantizedLoraLinear(LoraLinear):  # type: ignore[misc]  # peft has no types
    """PEFT's LoRA over a quantized layer, as the one product `[x | x A] · [W | s B]`: rounded once."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the fused product; PEFT's own way when the adapter is disabled, merged or has dropout."""
        base, active = self.base_layer, tuple(self.active_adapters)
        if args or kwargs or self.disable_adapters or len(active) != 1 or not isinstance(base, QuantizedLinear):
            return self._as_peft(x, *args, **kwargs)
        if self.training and not isinstance(self.lora_dropout[active[0]], nn.Identity):
            return self._as_peft(x)
        down, up = self.lora_A[active[0]].weight, self.lora_B[active[0]].weight
        flat = x.reshape(-1, base.in_features)
        out: Tensor = _Joint.apply(flat, base, down, up, float(self.scaling[active[0]]))  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], base.out_features)

    def _as_peft(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = super().forward(x, *args, **kwargs)
        return out

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge into a dequantized weight only."""
        if isinstance(self.base_layer, QuantizedLinear):
            raise ModelError(CANNOT_MERGE, hint=DEQUANTISE)
        super().merge(safe_merge=safe_merge, adapter_names=adapter_names)


CANNOT_MERGE = (
    "this adapter was learnt over quantized weights, and the sum of both cannot be held in so few bits: "
    "rounding it would lose most of what was learnt"
)
DEQUANTISE = "merge with `dequantize`, which writes a whole model in the base's own precision; or export the adapter"


class _Joint(torch.autograd.Function):
    """Compute (tokens, in) to (tokens, out), of base and adapter together."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear, down: Tensor, up: Tensor, scale: float) -> Tensor:
        low = down.to(x.dtype)
        inner = x @ low.t()  # (tokens, rank)
        ctx.save_for_backward(x, inner, low, up)
        ctx.layer, ctx.scale, ctx.dtype = layer, scale, down.dtype
        return layer.product(torch.cat([x, inner], 1), _join_weights(layer, up, scale, x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, low, up = ctx.saved_tensors
        grad, width = grads[0].contiguous(), low.shape[1]
        through = grad @ _join_weights(ctx.layer, up, ctx.scale, grad)  # (tokens, in + rank)
        inside = through[:, width:].contiguous()
        d_x = torch.addmm(through[:, :width], inside, low) if ctx.needs_input_grad[0] else None
        d_up = (grad.t() @ inner).to(ctx.dtype).mul_(ctx.scale)
        return d_x, None, (inside.t() @ x).to(ctx.dtype), d_up, None


def _join_weights(layer: QuantizedLinear, up: Tensor, scale: float, like: Tensor) -> Tensor:
    """Return [W | s B] (out, in + rank), in the model's shared buffer."""
    room = layer.room.get_buffer(layer.out_features, layer.in_features + up.shape[1], like)
    layer.write(room[:, : layer.in_features])
    room[:, layer.in_features :] = up.detach() * scale
    return room


LAYERS_FOR_PEFT = {QuantizedLinear: QuantizedLoraLinear}
"""Layer types that PEFT needs to adapt a quantized model."""


def is_quantized(model: nn.Module) -> bool:
    """Return whether any layer is quantized."""
    return any(isinstance(module, QuantizedLinear) for module in model.modules())


def quantize(model: Any, scheme: QuantizationScheme) -> Any:
    """Quantize every linear layer of a model's decoder, except the output head."""
    for packed in _replace_linear_layers(model, scheme):
        packed.take(packed.weight.data)
    return model


def dequantize(model: nn.Module, dtype: torch.dtype) -> None:
    """Dequantize every weight in place; the result is a plain model that transformers can save."""
    for parent in list(model.modules()):
        if (quantizer := vars(parent).get("hf_quantizer")) is not None:
            quantizer.remove_quantization_config(parent)
        for name, child in list(parent.named_children()):
            if isinstance(child, QuantizedLinear):
                setattr(parent, name, child.plain(dtype))


def _replace_linear_layers(model: Any, scheme: QuantizationScheme) -> Iterator[QuantizedLinear]:
    """Replace each linear layer of the decoder by a quantized one whose weight is not set yet.

    Image encoders are small, may be trained in full, and are not quantized.
    """
    room, head = ScratchBuffer(), model.score if ends_in_sequence_head(model) else model.get_output_embeddings()
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            ours = find_part(f"{path}.{name}") == "language"
            if type(child) in (nn.Linear, Conv1D) and child is not head and ours:
                packed = QuantizedLinear(child, scheme, room)
                setattr(parent, name, packed)
                yield packed


@register_quantization_config("luthier")
class BlockQuantizationConfig(QuantizationConfigMixin):  # type: ignore[misc]  # transformers has no types
    """The transformers quantization config that quantizes weights while they are loaded."""

    def __init__(self, bits: Literal[4, 8] = 4, group: int = 64, **_: Any) -> None:
        self.quant_method = "luthier"
        self.bits, self.group = bits, group


@register_quantizer("luthier")
class _Quantizer(HfQuantizer):  # type: ignore[misc]  # transformers has no types
    """Quantizes each weight as soon as it is read, so that at most one full weight is in memory."""

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        config = self.quantization_config
        list(_replace_linear_layers(model, QuantizationScheme(config.bits, config.group)))
        for module in model.modules():
            if any(isinstance(child, QuantizedLinear) for child in module.children()):
                module._is_hf_initialized = True  # GPT-2's attention would draw anew what its layers no longer have
        return model

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        path, _, name = param_name.rpartition(".")
        return name == "weight" and isinstance(model.get_submodule(path), QuantizedLinear)

    def get_quantize_ops(self) -> ConversionOps:
        return _Pack()

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class _Pack(ConversionOps):  # type: ignore[misc]  # transformers has no types
    """Quantizes one weight after reading it, and frees it."""

    def convert(
        self, input_dict: dict[str, Any], *, model: Any, full_layer_name: str, missing_keys: set[str], **kwargs: Any
    ) -> dict[str, Any]:
        (value,) = input_dict.values()
        model.get_submodule(full_layer_name.removesuffix(".weight")).take(
            value[0] if isinstance(value, list) else value
        )
        missing_keys.discard(full_layer_name)
        return {}
