"""The number of packs and the tokens of a parallel reading: the rule for parallel packs, without torch."""

from __future__ import annotations

from math import ceil

LANES = 2
"""Packs read in parallel where a processor has the cores: as measured."""
LEAST_TOKENS = 256
"""Minimum tokens of each parallel pack: below it the interpreter lock dominates, and fewer were not measured."""
WORTH = 0.55
"""Parallel reading pays when the slowest thread computes at most this share of the undivided step (a prefix that all
rows share would be computed twice)."""
ENOUGH = 2048
"""Tokens of a pack from which a larger one is no faster on a processor: it only waits longer for memory from the
system."""
AGAIN = 1.03
"""Maximum factor of computed tokens (of a shared prefix) for packs of at most `ENOUGH` tokens."""


def plan_parallel_packs(tokens: float, shared: float, most: int, cores: int) -> tuple[int, float]:
    """Return the packs of a step that computes `tokens` tokens undivided, of which all rows share `shared`; and the
    tokens read at any moment, at most `most`.
    """
    lanes = LANES if cores >= LANES and tokens >= LANES * LEAST_TOKENS else 1
    if (tokens + (lanes - 1) * shared) / lanes > WORTH * tokens:
        lanes = 1
    room = most / lanes
    count = lanes * max(1, ceil(tokens / (lanes * min(room, ENOUGH))))
    if (count - 1) * shared > (AGAIN - 1) * tokens:
        count = lanes * max(1, ceil(tokens / (lanes * room)))
    return count, min(most, lanes * (tokens + (count - 1) * shared) / count)
