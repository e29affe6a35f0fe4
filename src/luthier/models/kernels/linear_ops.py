"""Linear layers and decoder layers by compiled kernels.

`LinearKernels` calls `linear.c`: several linear layers that share an input, with their low-rank adapters. `RowKernels`
calls `rows.c`: the layers of a decoder on a CPU, where a row has the same result in any batch.

Pass an explicit dtype to every tensor: transformers changes the default dtype of all threads while it opens a model.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from ctypes import POINTER, Array, Structure, byref, c_double, c_int64, c_void_p
from functools import cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.models.kernels.calls import are_kernels_disabled
from luthier.models.kernels.compile import AS_WRITTEN, IN_ANY_ORDER, CompiledLibrary, compile_library

_WIDE, _TALL = 32, 8
"""Inputs and outputs must be multiples of the first, ranks of the second."""
_BYTES = 2
"""Bytes of a bfloat16 number."""
_LEAST_ROWS = 32
"""Minimum rows: below it, laying out the weights takes longer than it saves."""


class AdapterSlice(NamedTuple):
    """One layer's rows in the joint matrix, its columns after the input's width, and its adapter's scale."""

    out: slice
    rank: slice
    scale: float


class _Part(Structure):
    _fields_ = (
        ("outs", c_int64), ("rank", c_int64), ("weight", c_void_p), ("up", c_void_p), ("out", c_void_p),
        ("grad", c_void_p), ("out_row", c_int64), ("grad_row", c_int64), ("scale", c_double), ("d_up", c_void_p),
    )  # fmt: skip


class _Linear(Structure):
    _fields_ = (
        ("part", POINTER(_Part)),
        *((name, c_int64) for name in ("parts", "tokens", "width", "ranks", "joint_row", "x_row", "threads")),
        *((name, c_void_p) for name in ("x", "down", "inside", "d_x", "d_down", "room")),
    )  # fmt: skip


class LinearKernels:
    """Bindings of the compiled kernels for linear layers with LoRA (bfloat16, CPU)."""

    def __init__(self, made: CompiledLibrary) -> None:
        self.name = made.name
        self._do = ctypes.CDLL(str(made.file))
        for room in (self._do.linear_room_of, self._do.linear_room_back_of):
            room.restype = c_int64
        self.is_able = bool(self._do.linear_is_able())

    def forward(self, x: Tensor, down: Tensor, joint: Tensor, parts: Sequence[AdapterSlice]) -> tuple[Tensor, Tensor]:
        """Return the concatenated outputs of all layers (tokens, out) from (tokens, in), and what `back` needs.

        `down` is A of all layers, (rank, in); a layer's rows of `joint` have its weights and, at its own columns after
        them, B times the scale.
        """
        tokens = x.shape[0]
        out = x.new_empty(tokens, joint.shape[0])
        inside = x.new_empty(down.shape[0], -(-tokens // _WIDE) * _WIDE)
        first = parts[0].out.start
        ends = [{"out": out.data_ptr() + _BYTES * (part.out.start - first), "out_row": out.stride(0)} for part in parts]
        _call_kernel(self._do.linear, self._do.linear_room_of, _build_arguments(x, down, joint, parts, inside, ends))
        return out, inside

    def back(
        self, grads: Sequence[Tensor], x: Tensor, down: Tensor, joint: Tensor, parts: Sequence[AdapterSlice],
        inside: Tensor, *, through: bool,
    ) -> tuple[Tensor | None, Tensor, list[Tensor]]:  # fmt: skip
        """Return the gradients of the input (if `through`), of A (rank, in) and of each layer's B (out, rank), the
        latter two in fp32, from those of the layers' outputs.
        """
        d_x = torch.empty_like(x, memory_format=torch.contiguous_format) if through else None
        d_down = x.new_empty(down.shape, dtype=torch.float32)
        d_ups = [x.new_empty(grad.shape[1], _size(part.rank), dtype=torch.float32)
                 for grad, part in zip(grads, parts, strict=True)]  # fmt: skip
        grads = [grad if grad.stride(1) == 1 else grad.contiguous() for grad in grads]
        ends = [
            {"grad": grad.data_ptr(), "grad_row": grad.stride(0), "d_up": d_up.data_ptr()}
            for grad, d_up in zip(grads, d_ups, strict=True)
        ]
        args = _build_arguments(x, down, joint, parts, inside, ends)
        args.d_x, args.d_down = None if d_x is None else d_x.data_ptr(), d_down.data_ptr()
        _call_kernel(self._do.linear_back, self._do.linear_room_back_of, args)
        return d_x, d_down, d_ups


def _build_arguments(
    x: Tensor,
    down: Tensor,
    joint: Tensor,
    parts: Sequence[AdapterSlice],
    inside: Tensor,
    ends: Sequence[dict[str, int]],
) -> _Linear:
    row, first = joint.stride(0), parts[0].out.start
    layers = []
    for part, end in zip(parts, ends, strict=True):
        weight = joint.data_ptr() + _BYTES * row * (part.out.start - first)
        up = weight + _BYTES * (x.shape[1] + part.rank.start)
        sizes = {"outs": _size(part.out), "rank": _size(part.rank)}
        layers.append(_Part(**sizes, weight=weight, up=up, scale=part.scale, **end))
    return _Linear(
        part=(_Part * len(layers))(*layers), parts=len(layers), tokens=x.shape[0], width=x.shape[1],
        ranks=down.shape[0], joint_row=row, x_row=x.stride(0), threads=torch.get_num_threads(), x=x.data_ptr(),
        down=down.data_ptr(), inside=inside.data_ptr(),
    )  # fmt: skip


def _size(span: slice) -> int:
    size: int = span.stop - span.start
    return size


def _call_kernel(kernel: ctypes._NamedFuncPointer, room_of: ctypes._NamedFuncPointer, args: _Linear) -> None:
    room = torch.empty(room_of(byref(args)) + 64, dtype=torch.uint8)
    args.room = -(-room.data_ptr() // 64) * 64
    kernel(byref(args))


def supports_linear(x: Tensor, parts: Sequence[AdapterSlice]) -> bool:
    """Return whether the kernels support such layers of such inputs (tokens, in), where there are kernels."""
    is_narrow = x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.stride(1) == 1
    is_whole = x.shape[1] % _WIDE == 0 and all(
        _size(part.out) % _WIDE == 0 and _size(part.rank) % _TALL == 0 for part in parts
    )
    return is_narrow and is_whole and x.shape[0] >= _LEAST_ROWS


def get_linear_kernels() -> LinearKernels | None:
    """Return the compiled linear and LoRA kernels; None where they are disabled or not available."""
    return None if are_kernels_disabled() else _kernels()


@cache
def _kernels() -> LinearKernels | None:
    from luthier.models.kernels.trial import passes_lora_trial

    library = compile_library("linear.c", lambda found: passes_lora_trial(LinearKernels(found)), *IN_ANY_ORDER)
    return LinearKernels(library) if library is not None else None


class LinearStruct(Structure):
    """C struct: a linear layer's weight and bias by address."""

    _fields_ = (
        ("weight", c_void_p), ("bias", c_void_p), ("outs", c_int64), ("width", c_int64), ("stride", c_int64),
        ("narrow", c_int64),
    )  # fmt: skip

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> LinearStruct:
        """Describe (outs, width) weights, fp32 or bf16."""
        narrow = int(weight.dtype == torch.bfloat16)
        return cls(
            weight.data_ptr(), None if bias is None else bias.data_ptr(), *weight.shape, weight.stride(0), narrow
        )


class LoraPairStruct(Structure):
    """C struct: an adapter's two weights."""

    _fields_ = (("down", LinearStruct), ("up", LinearStruct), ("scale", c_double))


class AdaptedLinearStruct(Structure):
    """C struct: a linear layer, and the weight pairs of all adapters."""

    _fields_ = (("base", LinearStruct), ("pairs", POINTER(LoraPairStruct)))

    @classmethod
    def of(cls, base: LinearStruct, pairs: Sequence[LoraPairStruct] = ()) -> AdaptedLinearStruct:
        """Describe a layer with the pairs by adapter number."""
        return cls(base, (LoraPairStruct * len(pairs))(*pairs) if any(pair.down.weight for pair in pairs) else None)


class RmsNormStruct(Structure):
    """C struct: a root-mean-square norm."""

    _fields_ = (("weight", c_void_p), ("epsilon", c_double), ("narrow", c_int64))


class DecoderLayerStruct(Structure):
    """C struct: a decoder layer with attention, a gated MLP, and a norm before each."""

    _fields_ = (
        *((name, AdaptedLinearStruct) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, RmsNormStruct) for name in ("before", "between", "of_q", "of_k")),
        ("scaling", c_double), ("residual", c_double), ("window", c_int64), ("turned", c_int64),
        ("keys", c_void_p), ("values", c_void_p),
    )  # fmt: skip


class AttentionParamsStruct(Structure):
    """C struct: the attention parameters of an architecture."""

    _fields_ = (
        ("key_heads", c_int64), ("heads", c_int64), ("d", c_int64), ("d_value", c_int64), ("window", c_int64),
        ("scaling", c_double), ("softcap", c_double), ("sinks", c_void_p),
    )  # fmt: skip


class ForwardBatchStruct(Structure):
    """C struct: the new tokens of several sequences in one forward pass."""

    _fields_ = (
        ("lines", c_int64), ("rows", c_int64), ("begins", POINTER(c_int64)), ("counts", POINTER(c_int64)),
        ("reads", POINTER(c_int64)), ("adapters", POINTER(c_int64)), ("tables", POINTER(c_void_p)),
        ("cos", c_void_p), ("sin", c_void_p), ("heads", c_int64), ("key_heads", c_int64), ("d", c_int64),
        ("threads", c_int64), ("narrowed", c_void_p), ("room", c_void_p),
    )  # fmt: skip

    @classmethod
    def of(cls, lines: Sequence[tuple[int, int, array[int]]], adapters: Sequence[int] = ()) -> ForwardBatchStruct:
        """Describe, for each sequence, the tokens read before, the tokens read now, its blocks, and its adapter (-1:
        none).
        """
        many = len(lines)
        counts = [count for _, count, _ in lines]
        begins = [0, *accumulate(counts)]
        numbers = c_int64 * many
        return cls(
            lines=many,
            rows=begins[-1],
            begins=numbers(*begins[:-1]),
            counts=numbers(*counts),
            reads=numbers(*(read for read, _, _ in lines)),
            adapters=numbers(*(adapters or [-1] * many)),
            tables=(c_void_p * many)(*(table.buffer_info()[0] for _, _, table in lines)),
            threads=torch.get_num_threads(),
        )


class RowKernels:
    """The compiled kernels of decoder layers."""

    def __init__(self, made: CompiledLibrary) -> None:
        self._do = ctypes.CDLL(str(made.file))
        self._do.rooms.restype = c_int64

    def product(self, weight: LinearStruct, states: Tensor) -> Tensor:
        """Return (rows, outs) in fp32: (rows, width) fp32 states times a weight."""
        out = torch.empty(states.shape[0], weight.outs, dtype=torch.float32)
        narrowed = torch.empty(states.shape if weight.narrow else 0, dtype=torch.bfloat16)
        self._do.product(
            byref(weight),
            _get_pointer(states),
            _get_pointer(narrowed),
            c_int64(states.shape[0]),
            _get_pointer(out),
            c_int64(torch.get_num_threads()),
        )
        return out

    def norm(self, norm: RmsNormStruct, states: Tensor) -> Tensor:
        """Return (rows, width) fp32 states over their root mean square, times the weight."""
        out = torch.empty_like(states)
        self._do.norm(
            byref(norm), _get_pointer(states), c_int64(states.shape[0]), c_int64(states.shape[1]), _get_pointer(out)
        )
        return out

    def past(
        self,
        visit: ForwardBatchStruct,
        params: AttentionParamsStruct,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kept: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Store new keys and values (T, key heads, d) in the cache, and return the attention outputs of queries (T,
        heads, d).
        """
        out = torch.empty(*query.shape[:2], params.d_value, dtype=torch.float32)
        given = (query, key, value, *kept, out)
        self._do.past(byref(visit), byref(params), *map(_get_pointer, given))
        return out

    def layers(self, layers: Array[DecoderLayerStruct], visit: ForwardBatchStruct, states: Tensor, low: Tensor) -> None:
        """Apply decoder layers to a batch's (T, width) fp32 states, in place."""
        self._do.layers(layers, c_int64(len(layers)), byref(visit), _get_pointer(states), _get_pointer(low))

    def count_scratch_floats(self, layer: DecoderLayerStruct) -> int:
        """Return the floats that a layer needs for each row between its products."""
        return int(self._do.rooms(byref(layer)))


def _get_pointer(tensor: Tensor) -> c_void_p:
    return c_void_p(tensor.data_ptr())


def get_row_kernels() -> RowKernels | None:
    """Return the compiled decoder layer kernels for generation; None where they are disabled or not available."""
    return None if are_kernels_disabled() else _load_row_kernels()


@cache
def _load_row_kernels() -> RowKernels | None:
    library = compile_library("rows.c", lambda found: _passes_row_trial(RowKernels(found)), AS_WRITTEN)
    return RowKernels(library) if library is not None else None


def _passes_row_trial(rows: RowKernels) -> bool:
    """Return whether products agree with torch's, and a row's numbers do not depend on the batch."""
    draws = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        states = torch.randn(23, 100, generator=draws).to(dtype).float()
        weight = torch.randn(50, 100, generator=draws).to(dtype)
        product = rows.product(LinearStruct.of(weight), states)
        few = rows.product(LinearStruct.of(weight), states[5:8])
        if not torch.equal(product[5:8], few) or (product - states @ weight.float().t()).abs().max() > 1e-3:
            return False
    return True
