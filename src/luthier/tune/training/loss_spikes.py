"""Loss spikes: a loss that is no number, or far above those before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

Answer = Literal["stop", "skip", "off"]
"""What becomes of a training whose loss is a spike."""


RECENT = 128
"""Losses before a step that say what is ordinary."""
FIRST = 32
"""Losses at the beginning that are only watched."""
AT_LEAST = 3.0
"""A spike is at least so many times as high as the highest of the first losses."""
MAD_TO_DEVIATION = 1.4826
"""Makes the median absolute deviation of Gaussian noise its standard deviation."""
MOST_SKIPPED = 10
"""Steps in a row that may be left out before training stops all the same."""


def compute_spike_threshold(losses: Sequence[float], height: float) -> float:
    """Above which a loss is a spike: `height` robust deviations over the median of recent losses, and never less than
    three times the highest loss of the first steps, so that neither skewed noise nor a single hard row is one."""
    if len(losses) < FIRST:
        return math.inf
    recent = losses[-RECENT:]
    middle = median(recent)
    spread = MAD_TO_DEVIATION * median(abs(loss - middle) for loss in recent)
    return max(middle + height * spread, AT_LEAST * max(losses[:FIRST]))


def diagnose_step(loss: float, norm: float, losses: Sequence[float], height: float | None) -> str:
    """What is wrong with a step, given the losses before it; empty when nothing is."""
    if not math.isfinite(loss):
        return f"loss {loss}"
    if not math.isfinite(norm):
        return f"gradient norm {norm}"
    if height is not None and loss > (most := compute_spike_threshold(losses, height)):
        return f"loss {loss:.4g}, above {most:.4g}"
    return ""
