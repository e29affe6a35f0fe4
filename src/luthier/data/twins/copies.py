"""Rows with the same text, told by digests: most rows have no copy, and only those that may have one are sorted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from luthier.data.twins.mapped import gathered

if TYPE_CHECKING:
    from numpy.typing import NDArray


def first_copies(digests: NDArray[np.uint64], ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row, the row with the same digest (rows, words) whose rank is lowest; itself when it is alone."""
    found = np.arange(len(ranks), dtype=np.int64)
    at = _shared(gathered(digests[:, 0]))
    own = gathered(digests, at)
    chosen = np.lexsort((ranks[at], *own.T))
    order, keys = at[chosen], own[chosen]
    new = np.concatenate([[True], (keys[1:] != keys[:-1]).any(axis=1)])[: len(keys)]
    if len(order):
        found[order] = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return found


def _shared(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places of keys that come more than once."""
    order = np.argsort(keys)
    keys = keys[order]
    same = keys[1:] == keys[:-1]
    found = order[np.concatenate([[False], same]) | np.concatenate([same, [False]])] if len(keys) else order
    found.sort()
    return found


def contested(prompts: NDArray[np.int64], wholes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows whose prompt stands with more than one answer; both are told as the place of the first such row."""
    low, high = wholes.copy(), wholes.copy()
    np.minimum.at(low, prompts, wholes)
    np.maximum.at(high, prompts, wholes)
    found: NDArray[np.bool_] = (low != high)[prompts]
    return found
