"""How quick this machine is at what models do, told without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import harmonic_mean

from luthier.core.paces import remember, remembered
from luthier.models.load import cpu_has_tiles

BF16_OVER_FP32 = 2.0
"""How much quicker bf16 products are than numpy's fp32 ones, where the processor has them."""
TILES_OVER_FP32 = 2.0
"""The same where it multiplies whole tiles at once (AMX), as far as evaluations show it: its products alone gain far
more."""
REACHED = 0.65
"""Share of a machine's own matrix speed that models reach: fitted to the demo's training on two machines, one with
tiles of bf16 and one with AVX2 alone, before packs were read side by side."""
MORE_CORES = 0.9
"""Exponent of the number of cores: two are 1.87 times as quick as one, since packs are read side by side."""

CALL_S = 3e-4
"""What the calls of a layer take beside its work."""


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU; known without loading torch."""
    return Path("/dev/nvidia0").exists()


def cores() -> int:
    """Processors that this process may use; `OMP_NUM_THREADS` says how many when it is set."""
    if (told := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flops_per_s(*, bf16: bool, tiles: float = TILES_OVER_FP32, narrow: float = BF16_OVER_FP32) -> float:
    """What this machine's processors reach together, from matrix products measured just now and before."""
    reached = over_fp32(bf16=bf16, tiles=tiles, narrow=narrow)
    return _steady("product", _matrix_flops) * float(cores() ** MORE_CORES) * reached


def over_fp32(*, bf16: bool, tiles: float = TILES_OVER_FP32, narrow: float = BF16_OVER_FP32) -> float:
    """What models reach here on a processor over numpy's fp32 product; `tiles` is bf16's gain where it has tiles, and
    `narrow` where it has not."""
    return ((tiles if cpu_has_tiles() else narrow) if bf16 else 1.0) * REACHED


def bytes_per_s() -> float:
    """How quickly this machine reads what lies in memory, from reads measured just now and before."""
    return _steady("reading", _read_bytes) * float(cores() ** MORE_CORES)


def _steady(kind: str, probe: Callable[[], float]) -> float:
    """A rate as the last probes of this machine have it, one more among them: by the mean of the times that they took.

    What a shared machine gives in one second may be a third of what it gives in the next.
    """
    now = probe()
    remember(kind, {"per_s": now})
    return harmonic_mean([float(one["per_s"]) for one in remembered(kind) if one.get("per_s")] or [now])


def _read_bytes() -> float:
    """Bytes a second from reads of 128 MB: the best of some in 60 ms."""
    import numpy

    held = numpy.ones(32 << 20, dtype=numpy.float32)
    best, end = float("inf"), time.perf_counter() + 0.06
    while (begun := time.perf_counter()) < end:
        held.max()
        best = min(best, time.perf_counter() - begun)
    return float(held.nbytes / best)


def writing_pass_s(parameters: int, layers: int, lines: float, flops_per_s: float, *, bf16: bool) -> float:
    """Seconds in which a model writes the next token of some lines: its weights are read once, each line is computed,
    and every layer is called."""
    read = parameters * (2 if bf16 else 4) / bytes_per_s()
    return read + lines * 2 * parameters / flops_per_s + layers * CALL_S


def _matrix_flops() -> float:
    """Floating-point operations a second of numpy's fp32 product on one processor: the best of many in about 50 ms.

    The matrices are so small that numpy keeps to one thread, and that other programs do not come between.
    """
    import numpy

    size = 64
    one, out = numpy.ones((size, size), dtype=numpy.float32), numpy.empty((size, size), dtype=numpy.float32)
    best, end = float("inf"), time.perf_counter() + 0.05
    while (begun := time.perf_counter()) < end:
        numpy.matmul(one, one, out=out)
        best = min(best, time.perf_counter() - begun)
    return float(2 * size**3 / best)
