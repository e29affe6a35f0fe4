"""The kernels of `linear.c`, called with tensors: linear layers that read one input, with their low-rank adapters."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_double, c_int64, c_void_p
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from luthier.models.kernels.calls import are_off
from luthier.models.kernels.compiled import IN_ANY_ORDER, Compiled, compiled

_WIDE, _TALL = 32, 8
"""Inputs and outputs are as wide as a whole number of the first, ranks of the second."""
_BYTES = 2
"""Of a number in bfloat16."""
_LEAST_ROWS = 32
"""With fewer, laying out what weights are multiplied with takes longer than it saves."""


class Adapted(NamedTuple):
    """One layer's rows in the joint matrix, its columns behind the input's width, and its adapter's factor."""

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
    """The compiled kernels, called with tensors in bfloat16 on a CPU."""

    def __init__(self, made: Compiled) -> None:
        self.name = made.name
        self._do = ctypes.CDLL(str(made.file))
        for room in (self._do.linear_room_of, self._do.linear_room_back_of):
            room.restype = c_int64
        self.is_able = bool(self._do.linear_is_able())

    def forward(self, x: Tensor, down: Tensor, joint: Tensor, parts: Sequence[Adapted]) -> tuple[Tensor, Tensor]:
        """(tokens, in) to the outputs of all layers side by side, (tokens, out); and what `back` needs.

        `down` is A of all layers, (rank, in); a layer's rows of `joint` hold its weights and, at its own columns
        behind them, B times the factor.
        """
        tokens = x.shape[0]
        out = x.new_empty(tokens, joint.shape[0])
        inside = x.new_empty(down.shape[0], -(-tokens // _WIDE) * _WIDE)
        first = parts[0].out.start
        ends = [{"out": out.data_ptr() + _BYTES * (part.out.start - first), "out_row": out.stride(0)} for part in parts]
        _run(self._do.linear, self._do.linear_room_of, _told(x, down, joint, parts, inside, ends))
        return out, inside

    def back(
        self, grads: Sequence[Tensor], x: Tensor, down: Tensor, joint: Tensor, parts: Sequence[Adapted],
        inside: Tensor, *, through: bool,
    ) -> tuple[Tensor | None, Tensor, list[Tensor]]:  # fmt: skip
        """The gradients of the input (where it is to go `through`), of A (rank, in) and of each layer's B (out, rank),
        the latter two in fp32, from those of the layers' outputs."""
        d_x = torch.empty_like(x, memory_format=torch.contiguous_format) if through else None
        d_down = x.new_empty(down.shape, dtype=torch.float32)
        d_ups = [x.new_empty(grad.shape[1], _size(part.rank), dtype=torch.float32)
                 for grad, part in zip(grads, parts, strict=True)]  # fmt: skip
        grads = [grad if grad.stride(1) == 1 else grad.contiguous() for grad in grads]
        ends = [
            {"grad": grad.data_ptr(), "grad_row": grad.stride(0), "d_up": d_up.data_ptr()}
            for grad, d_up in zip(grads, d_ups, strict=True)
        ]
        told = _told(x, down, joint, parts, inside, ends)
        told.d_x, told.d_down = None if d_x is None else d_x.data_ptr(), d_down.data_ptr()
        _run(self._do.linear_back, self._do.linear_room_back_of, told)
        return d_x, d_down, d_ups


def _told(
    x: Tensor, down: Tensor, joint: Tensor, parts: Sequence[Adapted], inside: Tensor, ends: Sequence[dict[str, int]]
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


def _run(kernel: ctypes._NamedFuncPointer, room_of: ctypes._NamedFuncPointer, told: _Linear) -> None:
    room = torch.empty(room_of(byref(told)) + 64, dtype=torch.uint8)
    told.room = -(-room.data_ptr() // 64) * 64
    kernel(byref(told))


def serves(x: Tensor, parts: Sequence[Adapted]) -> bool:
    """Whether the kernels compute such layers of such inputs (tokens, in), where there are any."""
    is_narrow = x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.stride(1) == 1
    is_whole = x.shape[1] % _WIDE == 0 and all(
        _size(part.out) % _WIDE == 0 and _size(part.rank) % _TALL == 0 for part in parts
    )
    return is_narrow and is_whole and x.shape[0] >= _LEAST_ROWS


def linear_kernels() -> LinearKernels | None:
    """The kernels, where they are used."""
    return None if are_off() else _kernels()


@cache
def _kernels() -> LinearKernels | None:
    from luthier.models.kernels.trial import adapts

    made = compiled("linear.c", lambda found: adapts(LinearKernels(found)), *IN_ANY_ORDER)
    return LinearKernels(made) if made is not None else None
