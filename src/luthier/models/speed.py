"""How quick this machine is at what models do, told without torch."""

from __future__ import annotations

import os
import time

BF16_OVER_FP32 = 2.0
"""How much quicker bf16 products are than numpy's fp32 ones, where the processor has them."""
REACHED = 0.55
"""Share of a machine's own matrix speed that training reaches here."""
MORE_CORES = 0.7
"""Exponent of the number of cores: two are 1.6 times as quick as one."""


def cores() -> int:
    """Processors that this process may use; `OMP_NUM_THREADS` says how many when it is set."""
    if (told := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flops_per_s(*, bf16: bool) -> float:
    """What this machine's processors reach together, from a matrix product measured just now."""
    return _matrix_flops() * float(cores() ** MORE_CORES) * (BF16_OVER_FP32 if bf16 else 1.0) * REACHED


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
