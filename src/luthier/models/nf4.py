"""NF4: the sixteen levels, and codes brought back to numbers by torch or, where it is installed, by bitsandbytes.

Its kernels, on CUDA and on a CPU, do in one pass what takes several of torch's operations. They are used only where a
trial gives the very same bits, so that what was begun with the library goes on without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution between -1 and 1 (QLoRA, appendix E; bitsandbytes' table)."""
LIBRARY = "bitsandbytes"
"""Comes with the extra of the same name."""
GROUPS = (32, 64, 128, 256, 512, 1024)
"""Numbers to a scale for which its kernels are made."""
TYPES = (torch.float32, torch.bfloat16, torch.float16)
_BLOCKS = 33
"""Blocks of the trial: more than a vector holds, and no power of two."""

BringBack = Callable[[Tensor, Tensor], Tensor]
"""Codes (numbers / 2,) and an fp32 scale for each block, to numbers (numbers,)."""


def by_torch(codes: Tensor, scales: Tensor) -> Tensor:
    """The fp32 numbers that codes (numbers / 2,) and scales (blocks,) stand for."""
    levels = torch.tensor(NF4, device=codes.device)
    pairs = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], 1)  # (256, 2)
    return (torch.nn.functional.embedding(codes.int(), pairs).view(scales.shape[0], -1) * scales[:, None]).view(-1)


@cache
def by_library(device: torch.device, dtype: torch.dtype, group: int) -> BringBack | None:
    """The library's way to numbers of a type, for blocks of a size; None where it has none, or other bits."""
    if dtype not in TYPES or group not in GROUPS or find_spec(LIBRARY) is None:
        return None
    logging.getLogger(LIBRARY).setLevel(logging.ERROR)  # it warns of kernels that it would rather download
    import_module(LIBRARY)
    bring_back = torch.ops.bitsandbytes.dequantize_4bit

    def quick(codes: Tensor, scales: Tensor) -> Tensor:
        found: Tensor = bring_back(codes, scales, group, "nf4", [1, 2 * codes.shape[0]], dtype)
        return found.view(-1)

    return quick if _same(quick, device, dtype, group) else None


def _same(quick: BringBack, device: torch.device, dtype: torch.dtype, group: int) -> bool:
    """Whether every pair of levels comes back in the bits that torch gives, under scales large and small."""
    draws = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (_BLOCKS * group // 2,), dtype=torch.uint8, generator=draws).to(device)
    scales = torch.logspace(-6, 2, _BLOCKS).to(device)
    return torch.equal(quick(codes, scales), by_torch(codes, scales).to(dtype))
