"""Loss spikes: a loss that is not finite, or far above those before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

Answer = Literal["stop", "skip", "off"]
"""What a training does at a loss spike."""


RECENT = 128
"""Number of losses before a step that define the usual range."""
FIRST = 32
"""Number of losses at the start without spike detection."""
AT_LEAST = 3.0
"""A spike is at least this many times as high as the highest of the first losses."""
MAD_TO_DEVIATION = 1.4826
"""Ratio of the standard deviation to the median absolute deviation of Gaussian noise."""
MOST_SKIPPED = 10
"""Maximum number of steps in a row that are skipped before training stops."""


def compute_spike_threshold(losses: Sequence[float], height: float) -> float:
    """Return the loss above which a step is a spike.

    It is `height` robust standard deviations over the median of recent losses, and at least three times the highest
    loss of the first steps, so that neither skewed noise nor a single hard row is a spike.
    """
    if len(losses) < FIRST:
        return math.inf
    recent = losses[-RECENT:]
    middle = median(recent)
    spread = MAD_TO_DEVIATION * median(abs(loss - middle) for loss in recent)
    return max(middle + height * spread, AT_LEAST * max(losses[:FIRST]))


def diagnose_step(loss: float, norm: float, losses: Sequence[float], height: float | None) -> str:
    """Return what is wrong with a step, given the losses before it; empty when nothing is."""
    if not math.isfinite(loss):
        return f"loss {loss}"
    if not math.isfinite(norm):
        return f"gradient norm {norm}"
    if height is not None and loss > (most := compute_spike_threshold(losses, height)):
        return f"loss {loss:.4g}, above {most:.4g}"
    return ""
