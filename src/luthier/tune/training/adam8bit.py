"""AdamW with 8-bit moments: 256 levels, dense near zero, times a scale for each block (Dettmers et al., 2021)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

ON_CPU, ELSEWHERE = 1 << 16, 1 << 24
"""Numbers dequantized to fp32 at once on CPU and on GPU, multiples of every block: what a processor's cache holds
(three times as fast as 16 times as many), and enough to keep a GPU busy."""


class BlockwiseAdamW(torch.optim.Optimizer):
    """AdamW; between steps, each moment is `codes` (one byte a number) and `scale` (one fp32 number a block)."""

    def __init__(self, params: Iterable[dict[str, Any]], *, betas: tuple[float, float], eps: float, block: int) -> None:
        super().__init__(params, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._block = block

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # there is nothing to evaluate again
        """Update every weight by its gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state.update(_init_state(weight, self._block))
                state["step"] += 1
                flat, gradient = weight.view(-1), weight.grad.reshape(-1)
                width = ON_CPU if weight.device.type == "cpu" else ELSEWHERE
                for begin in range(0, flat.numel(), width):
                    part = slice(begin, begin + width)
                    moments = _Moments.of(state, part, self._block)
                    _update_slice(flat[part], gradient[part].float(), group, float(state["step"]), moments)


def _update_slice(weight: Tensor, gradient: Tensor, group: dict[str, Any], count: float, moments: _Moments) -> None:
    """Apply AdamW's update to a slice of one weight."""
    first_kept, second_kept = group["betas"]
    first = moments.first.expand().lerp_(gradient, 1 - first_kept)
    second = moments.root.expand().square_().mul_(second_kept).addcmul_(gradient, gradient, value=1 - second_kept)
    root = second.sqrt_()
    moments.first.compress(first)
    moments.root.compress(root)
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    below = root.div_(math.sqrt(1 - second_kept**count)).add_(group["eps"])
    weight.addcdiv_(first, below, value=-group["lr"] / (1 - first_kept**count))


class QuantizedTensor(NamedTuple):
    """(n,) numbers in 8 bits each: the nearest of 256 levels, times the largest magnitude of their block."""

    codes: Tensor
    """(n,), uint8."""
    scale: Tensor
    """(blocks,), fp32."""
    block: int
    signed: bool

    @classmethod
    def zeros(cls, size: int, block: int, device: torch.device, *, signed: bool) -> QuantizedTensor:
        """Return zeros."""
        code = int((build_quantization_levels(signed, device) == 0).nonzero())
        codes = torch.full((size,), code, dtype=torch.uint8, device=device)
        return cls(codes, torch.zeros(math.ceil(size / block), device=device), block, signed)

    def part(self, where: slice) -> QuantizedTensor:
        """Return a view of a slice that begins at a block boundary."""
        blocks = slice(where.start // self.block, math.ceil(where.stop / self.block))
        return self._replace(codes=self.codes[where], scale=self.scale[blocks])

    def expand(self) -> Tensor:
        """Return the numbers in fp32."""
        values = build_quantization_levels(self.signed, self.codes.device).index_select(0, self.codes.int())
        return values.mul_(self.scale.repeat_interleave(self.block)[: values.numel()])

    def compress(self, values: Tensor) -> None:
        """Store new numbers."""
        missing = self.scale.numel() * self.block - values.numel()
        padded = torch.nn.functional.pad(values, (0, missing)).view(-1, self.block)
        self.scale.copy_(padded.abs().amax(1))
        shares = padded / self.scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
        bits = shares.view(-1)[: values.numel()].bfloat16().view(torch.uint16)
        self.codes.copy_(_nearest(self.signed, values.device).index_select(0, bits.int()))


class _Moments(NamedTuple):
    """The moments of one weight, or of a slice of it."""

    first: QuantizedTensor
    """Average of the gradient."""
    root: QuantizedTensor
    """Root of the average of its square."""

    @classmethod
    def of(cls, state: dict[str, Tensor], part: slice, block: int) -> _Moments:
        first = QuantizedTensor(state["exp_avg"], state["exp_avg_scale"], block, signed=True)
        root = QuantizedTensor(state["root_avg_sq"], state["root_avg_sq_scale"], block, signed=False)
        return cls(first.part(part), root.part(part))


def _init_state(weight: Tensor, block: int) -> dict[str, Tensor]:
    """Return the state before the first step: all zero."""
    first = QuantizedTensor.zeros(weight.numel(), block, weight.device, signed=True)
    root = QuantizedTensor.zeros(weight.numel(), block, weight.device, signed=False)
    return {
        "step": torch.zeros((), dtype=torch.float32),
        "exp_avg": first.codes,
        "exp_avg_scale": first.scale,
        "root_avg_sq": root.codes,
        "root_avg_sq_scale": root.scale,
    }


@cache
def build_quantization_levels(signed: bool, device: torch.device) -> Tensor:
    """Return the 256 values between -1 (or 0) and 1, ascending: each decade down to 1e-7 has half as many
    as the next.
    """
    levels = [0.0, 1.0]
    for decade in range(7):
        count = 2 ** (decade if signed else decade + 1)
        edges = torch.linspace(0.1, 1.0, count + 1, dtype=torch.float64)
        values = 10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2
        levels += values.tolist() + ((-values).tolist() if signed else [])
    return torch.tensor(sorted(levels), dtype=torch.float32, device=device)


@cache
def _nearest(signed: bool, device: torch.device) -> Tensor:
    """Return the code (65536,) of the level nearest to each bf16 number, by its bits: one look-up in place of eight
    comparisons.
    """
    values = build_quantization_levels(signed, device)
    numbers = torch.arange(1 << 16, device=device).to(torch.uint16).view(torch.bfloat16).float().nan_to_num()
    return torch.bucketize(numbers, (values[:-1] + values[1:]) / 2).to(torch.uint8)
