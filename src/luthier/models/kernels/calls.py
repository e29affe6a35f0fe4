"""Bindings of `bf16.c`: norms, gates, softmax and the output head's gradients on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import c_float, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor

from luthier.models.kernels.compile import IN_ANY_ORDER, CompiledLibrary, compile_library, find_c_compiler

_SHAPES = {
    "norm": "nnpnpfpp",
    "norm_back": "nnpnpnppp",
    "gated": "nnpnpnp",
    "gated_back": "nnpnpnpnppn",
    "rotate": "nnnpnnppnp",
    "softmax": "nnppnnn",
    "softmax_back": "nnppp",
    "chosen": "nnpppnpp",
}
"""Arguments of each kernel: integers (n), pointers (p), floats (f)."""
_TYPES = {"n": c_int64, "p": c_void_p, "f": c_float}


class LayerOpKernels:
    """Bindings of the compiled kernels for norms, gated activations, rotary embeddings and softmax (bfloat16 tensors on
    a CPU)."""

    def __init__(self, made: CompiledLibrary) -> None:
        self.name = made.name
        library = ctypes.CDLL(str(made.file))
        for kernel, letters in _SHAPES.items():
            getattr(library, kernel).argtypes = [_TYPES[letter] for letter in letters]
            getattr(library, kernel).restype = None
        self._do = library

    def norm(self, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """Return (…, width) states over their root mean square, times a weight; and the fp32 factor (…, 1) of each."""
        x = _laid_out(x)
        out, scale = x.new_empty(x.shape), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        self._do.norm(
            *_count_rows(x), *_get_pointer_and_stride(x), weight.data_ptr(), epsilon, out.data_ptr(), scale.data_ptr()
        )
        return out, scale

    def norm_back(self, grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        """Return the gradient of `norm`'s states."""
        grad, x = _laid_out(grad), _laid_out(x)
        d_x = x.new_empty(x.shape)
        self._do.norm_back(
            *_count_rows(x),
            *_get_pointer_and_stride(grad),
            *_get_pointer_and_stride(x),
            weight.data_ptr(),
            scale.data_ptr(),
            d_x.data_ptr(),
        )
        return d_x

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return `silu(gate) * up`, (…, width) each."""
        gate, up = _laid_out(gate), _laid_out(up)
        out = gate.new_empty(gate.shape)
        self._do.gated(*_count_rows(gate), *_get_pointer_and_stride(gate), *_get_pointer_and_stride(up), out.data_ptr())
        return out

    def gated_back(self, grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of gate and up in one tensor (…, 2 width), in the layout of their joint product."""
        grad, gate, up = _laid_out(grad), _laid_out(gate), _laid_out(up)
        both = gate.new_empty((*gate.shape[:-1], 2 * gate.shape[-1]))
        d_gate, d_up = both.chunk(2, -1)
        ends = d_gate.data_ptr(), d_up.data_ptr(), both.shape[-1]
        self._do.gated_back(
            *_count_rows(gate),
            *_get_pointer_and_stride(grad),
            *_get_pointer_and_stride(gate),
            *_get_pointer_and_stride(up),
            *ends,
        )
        return d_gate, d_up

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
        """Return (1, heads, T, d) states rotated by (T, d) angles, or rotated back; each token's heads are
        contiguous.
        """
        _, heads, tokens, width = x.shape
        x = x if x.stride(-1) == 1 else x.contiguous()
        out = x.new_empty((1, tokens, heads, width))
        at = x.data_ptr(), x.stride(1), x.stride(2), cos.data_ptr(), sin.data_ptr()
        self._do.rotate(tokens, heads, width, *at, back, out.data_ptr())
        return out.transpose(1, 2)

    def softmax_(self, scores: Tensor, bias: Tensor, groups: int) -> Tensor:
        """Compute the softmax of (heads, lines * groups, keys) scores in place; `bias` (lines, k) is added to the last
        k keys.
        """
        lines, own = bias.shape
        self._do.softmax(
            *_count_rows(scores), scores.data_ptr(), bias.data_ptr(), groups, lines, scores.shape[-1] - own
        )
        return scores

    def softmax_back_(self, grad: Tensor, shares: Tensor, along: Tensor) -> Tensor:
        """Turn gradients of softmax outputs into those of scores, in place; `along` (heads, rows) in fp32."""
        self._do.softmax_back(*_count_rows(grad), grad.data_ptr(), shares.data_ptr(), along.data_ptr())
        return grad

    def chosen_(
        self, logits: Tensor, targets: Tensor, first: Tensor | None, *, slopes: bool, by: Tensor | None = None
    ) -> Tensor:
        """Return (N,) log-probabilities in fp32 from (N, vocab) logits and (N,) token ids.

        `first` (N,) receives whether the token is the top prediction. With `slopes`, their gradients by the logits
        replace the logits, times `by` (N,) in fp32.
        """
        targets = targets.contiguous()
        if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < logits.shape[-1]:
            raise IndexError(f"token ids must lie from 0 to {logits.shape[-1] - 1}, where the logits end")
        logprobs = logits.new_empty(targets.shape, dtype=torch.float32)
        ends = logprobs.data_ptr(), None if first is None else first.data_ptr()
        by = None if by is None else by.contiguous()
        factor = None if by is None else by.data_ptr()
        self._do.chosen(*_count_rows(logits), logits.data_ptr(), targets.data_ptr(), factor, slopes, *ends)
        return logprobs


def _count_rows(x: Tensor) -> tuple[int, int]:
    return x.numel() // max(1, x.shape[-1]), x.shape[-1]


def _get_pointer_and_stride(x: Tensor) -> tuple[int, int]:
    """Return the address of the first row, and the stride of rows in elements."""
    return x.data_ptr(), x.stride(-2)


def _laid_out(x: Tensor) -> Tensor:
    """Return the tensor with a uniform row stride, copied where it has none."""
    even = x.stride(-1) == 1 and all(
        size == 1 or stride == x.stride(at + 1) * x.shape[at + 1]
        for at, (size, stride) in enumerate(zip(x.shape[:-2], x.stride()[:-2], strict=True))
    )
    return x if even else x.contiguous()


def get_layer_op_kernels(x: Tensor) -> LayerOpKernels | None:
    """Return the compiled norm, activation and rotary kernels for a tensor; None where they do not apply."""
    return _get_kernels() if x.dtype == torch.bfloat16 and x.device.type == "cpu" else None


def get_kernel_names(model: torch.nn.Module) -> str:
    """Return the names of the kernels used in computing a model; empty where torch computes everything."""
    from luthier.models.kernels.attention_ops import get_attention_kernels
    from luthier.models.kernels.head_ops import get_head_kernels
    from luthier.models.kernels.linear_ops import get_linear_kernels

    like = next(
        (
            parameter
            for parameter in model.parameters()
            if parameter.dtype == torch.bfloat16 and parameter.device.type == "cpu"
        ),
        None,
    )
    if like is None:
        return ""
    several = get_layer_op_kernels(like), get_attention_kernels(), get_head_kernels(), get_linear_kernels()
    return "+".join(kernels.name for kernels in several if kernels is not None)


def describe_kernels(model: torch.nn.Module) -> str:
    """Describe for the log the kernels used for a model; empty where there are none."""
    if get_kernel_names(model):
        return " with compiled kernels"
    narrow = any(
        parameter.dtype == torch.bfloat16 and parameter.device.type == "cpu" for parameter in model.parameters()
    )
    return ", slowed for want of a C compiler (see `luthier doctor`)" if narrow and find_c_compiler() is None else ""


@contextmanager
def disable_kernels() -> Iterator[None]:
    """Let torch compute within a context."""
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)


_OFF: ContextVar[bool] = ContextVar("luthier_torch_only", default=False)


def are_kernels_disabled() -> bool:
    """Return whether the kernels are disabled now."""
    return _OFF.get()


def _get_kernels() -> LayerOpKernels | None:
    return None if are_kernels_disabled() else _kernels()


@cache
def _kernels() -> LayerOpKernels | None:
    """Compile once for a user, try once, and open once for a process."""
    from luthier.models.kernels.trial import passes_kernel_trial

    library = compile_library("bf16.c", lambda found: passes_kernel_trial(LayerOpKernels(found)), *IN_ANY_ORDER)
    return LayerOpKernels(library) if library is not None else None
