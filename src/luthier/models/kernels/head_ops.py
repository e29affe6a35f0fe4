"""Bindings of `head.c`: log-probabilities of given tokens without storing logits."""

from __future__ import annotations

import ctypes
from ctypes import Structure, byref, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor

from luthier.models.kernels.calls import are_kernels_disabled
from luthier.models.kernels.compile import IN_ANY_ORDER, CompiledLibrary, compile_library

_WIDE = 32
"""State widths must be a multiple of this."""


class _Head(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("rows", "width", "words", "threads")), ("states", c_void_p),
        ("weight", c_void_p), *((name, c_int64) for name in ("state_row", "weight_row", "target_count")),
        *((name, c_void_p) for name in ("indices", "targets", "found", "first", "by", "slopes", "room")),
    )  # fmt: skip


class HeadKernels:
    """Bindings of the compiled kernels for log-probabilities at the output head (bfloat16, CPU)."""

    def __init__(self, made: CompiledLibrary) -> None:
        self.name = made.name
        self._do = ctypes.CDLL(str(made.file))
        self._do.head_room_of.restype = c_int64
        self.is_able = bool(self._do.head_is_able())

    def logprobs(
        self, states: Tensor, weight: Tensor, targets: Tensor, indices: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return (N,) log-probabilities in fp32 from (M, width) states, (vocab, width) weights and (N,) token ids.

        Logits are in fp32. `indices` (N,) says which state predicts each token where that is not its own. `first` (N,)
        receives whether the token is the top prediction.
        """
        return self._call_kernel(states, weight, targets, indices, first, None)

    def slopes(
        self, states: Tensor, weight: Tensor, targets: Tensor, out: Tensor, first: Tensor | None = None
    ) -> Tensor:
        """Return (N,) log-probabilities of each state's target; their gradients by the logits are written to `out` (N,
        vocab).
        """
        return self._call_kernel(states, weight, targets, None, first, out)

    def _call_kernel(
        self, states: Tensor, weight: Tensor, targets: Tensor, indices: Tensor | None, first: Tensor | None,
        slopes: Tensor | None,
    ) -> Tensor:  # fmt: skip
        words = weight.shape[0]
        if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < words:
            raise IndexError(f"token ids must lie from 0 to {words - 1}, where the logits end")
        states = states if states.stride(-1) == 1 else states.contiguous()
        targets, order = targets.sort()
        indices = order if indices is None else indices[order]
        logprobs = torch.empty(targets.shape, dtype=torch.float32)
        is_first = None if first is None else torch.empty(targets.shape, dtype=torch.bool)
        args = _Head(
            rows=states.shape[0], width=states.shape[1], words=words, threads=torch.get_num_threads(),
            states=states.data_ptr(), weight=weight.data_ptr(), state_row=states.stride(0),
            weight_row=weight.stride(0), target_count=targets.shape[0], indices=indices.data_ptr(),
            targets=targets.data_ptr(),
            found=logprobs.data_ptr(), first=None if is_first is None else is_first.data_ptr(),
            slopes=None if slopes is None else slopes.data_ptr(),
        )  # fmt: skip
        room = torch.empty(self._do.head_room_of(byref(args)) + 64, dtype=torch.uint8)
        args.room = -(-room.data_ptr() // 64) * 64
        self._do.head(byref(args))
        if first is not None and is_first is not None:
            first[order] = is_first
        return torch.empty_like(logprobs).index_copy_(0, order, logprobs)


def supports_head(states: Tensor, weight: Tensor) -> bool:
    """Return whether the kernels support such states (N, width) and weights (vocab, width), where there are kernels."""
    is_narrow = states.dtype == weight.dtype == torch.bfloat16 and states.device.type == weight.device.type == "cpu"
    return is_narrow and weight.stride(1) == 1 and weight.shape[1] % _WIDE == 0 and states.shape[0] > 0


def get_head_kernels() -> HeadKernels | None:
    """Return the compiled output head kernels; None where they are disabled or not available."""
    return None if are_kernels_disabled() else _kernels()


@cache
def _kernels() -> HeadKernels | None:
    from luthier.models.kernels.trial import passes_head_trial

    library = compile_library("head.c", lambda found: passes_head_trial(HeadKernels(found)), *IN_ANY_ORDER)
    return HeadKernels(library) if library is not None else None
