"""How many packs rows become, and how many tokens are read at any moment: the rule of lanes, which a plan computes
without torch."""

from __future__ import annotations

from math import ceil

LANES = 2
"""Packs that are read at once where a processor has the cores: what was measured."""
LEAST_TOKENS = 256
"""Rows with fewer tokens for each lane are read as one: Python itself takes turns, and fewer were not measured."""
WORTH = 0.55
"""Side by side pays when the lanes end within this share of what a step computes when it is read as one (a prefix that
all rows share would be computed twice)."""
ENOUGH = 2048
"""Tokens from which a pack wins nothing more on a processor: a larger one only waits longer for the system to hand out
its memory."""
AGAIN = 1.03
"""How much more may be computed, of a prefix that rows share, for packs of no more than enough."""


def plan_parallel_packs(tokens: float, shared: float, most: int, cores: int) -> tuple[int, float]:
    """Packs of a step that computes so many tokens when it is read as one, of which all rows share some; and the tokens
    that are read at any moment, `most` at most."""
    lanes = LANES if cores >= LANES and tokens >= LANES * LEAST_TOKENS else 1
    if (tokens + (lanes - 1) * shared) / lanes > WORTH * tokens:
        lanes = 1
    room = most / lanes
    count = lanes * max(1, ceil(tokens / (lanes * min(room, ENOUGH))))
    if (count - 1) * shared > (AGAIN - 1) * tokens:
        count = lanes * max(1, ceil(tokens / (lanes * room)))
    return count, min(most, lanes * (tokens + (count - 1) * shared) / count)
