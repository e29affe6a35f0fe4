"""The kernels of `rows.c`, called with tensors: a decoder's layers on a CPU, each row the same in any company.

No tensor here takes torch's default dtype: transformers changes it, for all threads, while it opens another model.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from ctypes import POINTER, Array, Structure, byref, c_double, c_int64, c_void_p
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor

from luthier.models.kernels.calls import are_off
from luthier.models.kernels.compiled import AS_WRITTEN, Compiled, compiled


class Linear(Structure):
    """A linear layer's weight where it lies."""

    _fields_ = (
        ("weight", c_void_p), ("bias", c_void_p), ("outs", c_int64), ("width", c_int64), ("stride", c_int64),
        ("narrow", c_int64),
    )  # fmt: skip

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """From (outs, width) weights, fp32 or bf16."""
        narrow = int(weight.dtype == torch.bfloat16)
        return cls(
            weight.data_ptr(), None if bias is None else bias.data_ptr(), *weight.shape, weight.stride(0), narrow
        )


class Pair(Structure):
    """An adapter's two weights beside a linear layer."""

    _fields_ = (("down", Linear), ("up", Linear), ("scale", c_double))


class Adapted(Structure):
    """A linear layer, and the pairs of all adapters when there are any."""

    _fields_ = (("base", Linear), ("pairs", POINTER(Pair)))

    @classmethod
    def of(cls, base: Linear, pairs: Sequence[Pair] = ()) -> Adapted:
        """The pairs by the adapters' numbers."""
        return cls(base, (Pair * len(pairs))(*pairs) if any(pair.down.weight for pair in pairs) else None)


class Norm(Structure):
    """A root-mean-square norm."""

    _fields_ = (("weight", c_void_p), ("epsilon", c_double), ("narrow", c_int64))


class Layer(Structure):
    """A decoder layer: attention and a gated MLP, a norm before each."""

    _fields_ = (
        *((name, Adapted) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        *((name, Norm) for name in ("before", "between", "of_q", "of_k")),
        ("scaling", c_double), ("residual", c_double), ("window", c_int64), ("turned", c_int64),
        ("keys", c_void_p), ("values", c_void_p),
    )  # fmt: skip


class Manner(Structure):
    """How an architecture attends."""

    _fields_ = (
        ("key_heads", c_int64), ("heads", c_int64), ("d", c_int64), ("d_value", c_int64), ("window", c_int64),
        ("scaling", c_double), ("softcap", c_double), ("sinks", c_void_p),
    )  # fmt: skip


class Visit(Structure):
    """New tokens of several lines that are read in one pass."""

    _fields_ = (
        ("lines", c_int64), ("rows", c_int64), ("begins", POINTER(c_int64)), ("counts", POINTER(c_int64)),
        ("reads", POINTER(c_int64)), ("adapters", POINTER(c_int64)), ("tables", POINTER(c_void_p)),
        ("cos", c_void_p), ("sin", c_void_p), ("heads", c_int64), ("key_heads", c_int64), ("d", c_int64),
        ("threads", c_int64), ("narrowed", c_void_p), ("room", c_void_p),
    )  # fmt: skip

    @classmethod
    def of(cls, lines: Sequence[tuple[int, int, array[int]]], adapters: Sequence[int] = ()) -> Visit:
        """From how many tokens of each line were read, how many are now, its blocks, and its adapter (-1: none)."""
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


class Rows:
    """The compiled kernels."""

    def __init__(self, made: Compiled) -> None:
        self._do = ctypes.CDLL(str(made.file))
        self._do.rooms.restype = c_int64

    def product(self, weight: Linear, states: Tensor) -> Tensor:
        """(rows, width) fp32 states times a weight: (rows, outs) in fp32."""
        out = torch.empty(states.shape[0], weight.outs, dtype=torch.float32)
        narrowed = torch.empty(states.shape if weight.narrow else 0, dtype=torch.bfloat16)
        self._do.product(
            byref(weight),
            _at(states),
            _at(narrowed),
            c_int64(states.shape[0]),
            _at(out),
            c_int64(torch.get_num_threads()),
        )
        return out

    def norm(self, norm: Norm, states: Tensor) -> Tensor:
        """(rows, width) fp32 states over their root mean square, times the weight."""
        out = torch.empty_like(states)
        self._do.norm(byref(norm), _at(states), c_int64(states.shape[0]), c_int64(states.shape[1]), _at(out))
        return out

    def past(
        self, visit: Visit, manner: Manner, query: Tensor, key: Tensor, value: Tensor, kept: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Put new keys and values (T, key heads, d) among those kept; what queries (T, heads, d) find there."""
        out = torch.empty(*query.shape[:2], manner.d_value, dtype=torch.float32)
        given = (query, key, value, *kept, out)
        self._do.past(byref(visit), byref(manner), *map(_at, given))
        return out

    def layers(self, layers: Array[Layer], visit: Visit, states: Tensor, low: Tensor) -> None:
        """A visit's (T, width) fp32 states through the layers, in their place."""
        self._do.layers(layers, c_int64(len(layers)), byref(visit), _at(states), _at(low))

    def rooms(self, layer: Layer) -> int:
        """Floats that a layer needs for each row between its products."""
        return int(self._do.rooms(byref(layer)))


def _at(tensor: Tensor) -> c_void_p:
    return c_void_p(tensor.data_ptr())


def rows_kernels() -> Rows | None:
    """The kernels, where they are used."""
    return None if are_off() else _rows()


@cache
def _rows() -> Rows | None:
    made = compiled("rows.c", lambda found: _passes(Rows(found)), AS_WRITTEN)
    return Rows(made) if made is not None else None


def _passes(rows: Rows) -> bool:
    """Whether products agree with torch's, and a row's numbers are the same in any company."""
    draws = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        states = torch.randn(23, 100, generator=draws).to(dtype).float()
        weight = torch.randn(50, 100, generator=draws).to(dtype)
        found = rows.product(Linear.of(weight), states)
        few = rows.product(Linear.of(weight), states[5:8])
        if not torch.equal(found[5:8], few) or (found - states @ weight.float().t()).abs().max() > 1e-3:
            return False
    return True
