"""Products of fp32 matrices by oneDNN, where torch's own BLAS does not use AVX-512.

torch multiplies fp32 matrices by MKL, which uses AVX2 kernels on processors that are not Intel's. oneDNN comes with
torch and uses AVX-512 on all of them, which is twice as fast there. Small products stay with MKL.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

LEAST_PRODUCTS = 1 << 24
"""Minimum number of multiplications for which oneDNN is faster."""


def multiply_by_rows(x: Tensor, weight: Tensor) -> Tensor:
    """(n, in) states and (out, in) weights to (n, out), without a gradient: `x @ weight.t()`."""
    if not uses_onednn(x, weight):
        return x @ weight.t()
    if not weight.is_contiguous() and not weight.t().is_contiguous():
        weight = weight.contiguous()  # oneDNN has no quick product for rows that lie apart
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product


def uses_onednn(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN multiplies such states (n, in) and weights (out, in)."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and x.shape[0] * weight.numel() >= LEAST_PRODUCTS
        and is_onednn_faster()
    )


@cache
def is_onednn_faster() -> bool:
    """Return whether this processor has AVX-512, MKL does not use it, and this torch has the oneDNN product."""
    try:
        is_intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False  # no Linux
    is_built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    has_product = bool(is_built) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_product and not is_intel and torch.backends.cpu.get_cpu_capability() == "AVX512"
