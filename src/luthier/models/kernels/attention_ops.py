"""Bindings of `attention.c`: attention over blocks of queries and their keys."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_double, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from luthier.models.kernels.calls import are_kernels_disabled
from luthier.models.kernels.compile import IN_ANY_ORDER, CompiledLibrary, compile_library

STEP = 128
"""Rows of a block's mask are padded to a multiple of this many keys."""
_WIDE = 32
"""Head dimensions must be a multiple of this."""


class _Block(Structure):
    _fields_ = (
        ("row", c_int64), ("rows", c_int64), ("span", c_int64), ("spans", c_int64), ("all", c_int64),
        ("steps", c_int64), ("sees", c_void_p),
    )  # fmt: skip


class _Span(Structure):
    _fields_ = (("begin", c_int64), ("end", c_int64))


class _States(Structure):
    _fields_ = (("first", c_void_p), ("head", c_int64), ("row", c_int64))

    @classmethod
    def of(cls, states: Tensor) -> _States:
        """Describe (1, heads, tokens, width) states with contiguous rows."""
        return cls(states.data_ptr(), states.stride(1), states.stride(2))


class _Attention(Structure):
    _fields_ = (
        ("block", POINTER(_Block)), ("span", POINTER(_Span)), ("blocks", c_int64), ("first", c_int64),
        ("tokens", c_int64), ("key_heads", c_int64), ("groups", c_int64), ("width", c_int64), ("threads", c_int64),
        ("scaling", c_double), ("query", _States), ("key", _States), ("value", _States), ("out", _States),
        ("norms", c_void_p), ("d_out", _States), ("d_query", _States), ("d_key", _States), ("d_value", _States),
        ("room", c_void_p),
    )  # fmt: skip


class KernelBlockMask:
    """Blocks of queries: for each its rows and spans of keys; all keys are visible except in the last span, its own."""

    def __init__(self, blocks: Sequence[tuple[slice, Sequence[slice], Tensor | None]]) -> None:
        """Describe blocks.

        The third item is the mask of rows (columns) by keys (lines, of all spans or of the last alone); None: causal
        within its own span.
        """
        spans = [span for _, some, _ in blocks for span in some]
        self.count = len(blocks)
        self.spans = (_Span * len(spans))(*(_Span(span.start, span.stop) for span in spans))
        self.blocks = (_Block * len(blocks))()
        self._sees = []
        at = 0
        for here, (rows, some, sees) in zip(self.blocks, blocks, strict=True):
            count, own = rows.stop - rows.start, some[-1].stop - some[-1].start
            here.row, here.rows, here.span, here.spans = rows.start, count, at, len(some)
            at += len(some)
            if sees is not None:
                padded = torch.zeros(sees.shape[0], -(-count // STEP) * STEP, dtype=torch.uint8)
                padded[:, :count] = sees
                self._sees.append(padded)
                here.all, here.steps, here.sees = int(sees.shape[0] > own), padded.shape[1], padded.data_ptr()


class AttentionKernels:
    """Bindings of the compiled attention kernels (bfloat16, CPU)."""

    def __init__(self, made: CompiledLibrary) -> None:
        self.name = made.name
        self._do = ctypes.CDLL(str(made.file))
        for room in (self._do.room_of, self._do.room_back_of):
            room.restype = c_int64
        self.is_able = bool(self._do.is_able())

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, block_mask: KernelBlockMask, scaling: float, first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Attend from queries (1, heads, T, d), keys and values (1, key heads, T, d) to outputs (1, T, heads, d) of
        tokens from `first` on.

        Also returns each query's normalizer (heads, T) in fp32, which `attend_back` needs.
        """
        _, heads, tokens, width = query.shape
        out = query.new_empty(1, tokens, heads, width)
        norms = query.new_empty(heads, tokens, dtype=torch.float32)
        args = _build_arguments(
            query, key, value, block_mask, scaling=scaling, first=first, out=_States.of(out.transpose(1, 2)),
            norms=norms.data_ptr(),
        )  # fmt: skip
        _call_kernel(self._do.attend, self._do.room_of, args)
        return out, norms

    def attend_back(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kept: tuple[Tensor, Tensor],
        block_mask: KernelBlockMask,
        scaling: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of queries, keys and values, from that of the outputs and the results of `attend`."""
        out, norms = kept
        d_query, d_key, d_value = (
            entry.new_empty(1, entry.shape[2], entry.shape[1], entry.shape[3]).transpose(1, 2)
            for entry in (query, key, value)
        )
        args = _build_arguments(
            query, key, value, block_mask, scaling=scaling, out=_States.of(out.transpose(1, 2)), norms=norms.data_ptr(),
            d_out=_States.of(grad.transpose(1, 2)), d_query=_States.of(d_query), d_key=_States.of(d_key),
            d_value=_States.of(d_value),
        )  # fmt: skip
        _call_kernel(self._do.attend_back, self._do.room_back_of, args)
        return d_query, d_key, d_value


def _build_arguments(query: Tensor, key: Tensor, value: Tensor, block_mask: KernelBlockMask, **more: Any) -> _Attention:
    _, heads, tokens, width = query.shape
    return _Attention(
        block=block_mask.blocks, span=block_mask.spans, blocks=block_mask.count, tokens=tokens, key_heads=key.shape[1],
        groups=heads // key.shape[1], width=width, threads=torch.get_num_threads(),
        query=_States.of(query), key=_States.of(key), value=_States.of(value), **more,
    )  # fmt: skip


def _call_kernel(kernel: Any, room_of: Any, args: _Attention) -> None:
    """Call a kernel with its scratch memory, aligned to a cache line."""
    room = torch.empty(room_of(byref(args)) + 64, dtype=torch.uint8)
    args.room = -(-room.data_ptr() // 64) * 64
    kernel(byref(args))


def make_tokens_contiguous(states: Tensor) -> Tensor:
    """The states with each token's numbers contiguous."""
    return states if states.stride(-1) == 1 else states.contiguous()


def supports_attention(query: Tensor, value: Tensor) -> bool:
    """Return whether the kernels support such states (1, heads, T, d), where there are kernels."""
    is_narrow = query.dtype == torch.bfloat16 and query.device.type == "cpu"
    return is_narrow and query.shape[-1] == value.shape[-1] and query.shape[-1] % _WIDE == 0


def get_attention_kernels() -> AttentionKernels | None:
    """Return the compiled attention kernels; None where they are disabled or not available."""
    return None if are_kernels_disabled() else _kernels()


@cache
def _kernels() -> AttentionKernels | None:
    from luthier.models.kernels.trial import passes_attention_trial

    library = compile_library(
        "attention.c", lambda found: passes_attention_trial(AttentionKernels(found)), *IN_ANY_ORDER
    )
    return AttentionKernels(library) if library is not None else None
