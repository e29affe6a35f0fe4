"""Schedules the packs of a training step for parallel reading."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from luthier.models.packing.pack import Pack, TokenRow, build_packs
from luthier.models.packing.parallel_plan import AGAIN, ENOUGH, LEAST_TOKENS, WORTH


def schedule_parallel_packs(rows: Sequence[TokenRow], tokens: int, lanes: int) -> list[tuple[Pack, ...]]:
    """Return the packs of a step in groups that threads take one after another, each as it is free.

    At most `tokens` tokens are read at any moment, in parallel or not.
    """
    whole = build_packs(rows, tokens)
    computed = sum(pack.tokens for pack in whole)
    if lanes > 1 and computed >= LEAST_TOKENS * lanes:
        packs = _build_smaller_packs(rows, tokens // lanes, lanes, computed) or build_packs(
            rows, tokens // lanes, n_parallel=lanes
        )
        if _estimate_finish(packs, lanes) <= WORTH * computed and sum(_list_largest_sizes(packs, lanes)) <= tokens:
            return [tuple(packs)]
    return [(pack,) for pack in (_build_smaller_packs(rows, tokens, 1, computed) or whole)]


def _build_smaller_packs(rows: Sequence[TokenRow], tokens: int, lanes: int, computed: int) -> list[Pack]:
    """Return smaller packs of enough tokens each, where rows share so little that hardly more is computed;
    else none.
    """
    if torch.cuda.is_available() or tokens <= ENOUGH or computed <= ENOUGH * lanes:
        return []
    packs = build_packs(rows, ENOUGH, n_parallel=lanes)
    return packs if sum(pack.tokens for pack in packs) <= AGAIN * computed else []


def _estimate_finish(packs: Sequence[Pack], lanes: int) -> int:
    """Return the tokens of the thread that ends last, when each takes the next pack as it is free."""
    ends = [0] * lanes
    for pack in packs:
        ends[ends.index(min(ends))] += pack.tokens
    return max(ends)


def _list_largest_sizes(packs: Sequence[Pack], lanes: int) -> list[int]:
    """Return the tokens of the largest packs that may be read at the same time."""
    return sorted((pack.tokens for pack in packs), reverse=True)[:lanes]
