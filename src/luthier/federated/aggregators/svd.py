"""SVD: the best adapter of the same rank for the mean of the products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from luthier.federated.aggregator import (
    AggregatedWeights,
    Aggregator,
    Factors,
    RoundNumbers,
    average_weights,
    compute_product_error,
    list_modules,
    split_others,
    stack_products,
)

if TYPE_CHECKING:
    from torch import Tensor


class SvdAggregator(Aggregator):
    """Take the mean of the products, and of that the largest directions, as many as the adapter's rank (FlexLoRA, Bai
    et al., 2024). What is cut off is logged in each round."""

    kind: Literal["svd"] = "svd"
    exact: ClassVar[bool] = False
    linear: ClassVar[bool] = False

    def refuses(self, technique: object) -> str:
        """Refuse DoRA, whose magnitudes belong to the factors that they were trained with."""
        if getattr(technique, "use_dora", False):
            return "DoRA's lengths belong to the factors that they were learnt with; take factors"
        return super().refuses(technique)  # type: ignore[arg-type]

    def combine(self, updates: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> AggregatedWeights:
        """The truncated sum, with its error; the mean of heads."""
        weights = average_weights([split_others(update) for update in updates], shares)
        pairs = []
        for down, up in list_modules(updates[0]).values():
            right = stack_products(updates, shares, down, up)
            rank = updates[0][down].shape[0]
            found = truncate_product(right, rank)
            weights[up], weights[down] = found.up.to(updates[0][up].dtype), found.down.to(updates[0][down].dtype)
            pairs.append((found, right))
        return AggregatedWeights(weights=weights, error=compute_product_error(pairs))

    def count_numbers(self, down: int, up: int, other: int, sites: int) -> RoundNumbers:
        """Both factors, both ways."""
        return RoundNumbers(down + up + other, down + up + other)


def truncate_product(product: Factors, rank: int) -> Factors:
    """The nearest matrix of a rank, by QR of both factors and SVD of what is between; each direction has the sign by
    which the largest number of `up` is positive."""
    import torch

    left, first = torch.linalg.qr(product.up)
    right, second = torch.linalg.qr(product.down.T)
    u, sizes, v = torch.linalg.svd(first @ second.T)
    kept = min(rank, len(sizes))
    root = sizes[:kept].sqrt()
    up, down = left @ (u[:, :kept] * root), (root[:, None] * v[:kept]) @ right.T
    signs = up.gather(0, up.abs().argmax(0, keepdim=True)).sign()
    signs[signs == 0] = 1
    up, down = up * signs, down * signs.T
    if kept < rank:  # few sites of a narrow matrix: the rest of the adapter is empty
        up = torch.cat([up, up.new_zeros(up.shape[0], rank - kept)], 1)
        down = torch.cat([down, down.new_zeros(rank - kept, down.shape[1])], 0)
    return Factors(up, down)
