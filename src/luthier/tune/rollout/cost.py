"""How long drawing answers will take, told without torch: by the last drawing here, else by the machine's speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.models.cost import RowEstimate, estimate_decode_step_seconds
from luthier.models.describe import ModelDescription
from luthier.tune.rollout.settings import HELD_TOKENS, RolloutSettings


def estimate_rollout_seconds(
    drawing: RolloutSettings, model: ModelDescription, rows: RowEstimate, prompts: float, together: int, rate: float,
    before: Mapping[str, Any], *, bf16: bool,
) -> float:  # fmt: skip
    """Seconds in which answers of the longest length are drawn to so many prompts, those of `together` prompts at once.

    `rate` is the speed of products here; `before` is what the last training measured.
    """
    if drawing.writer is not None:
        return 0.0
    parameters = model.parameters
    written = prompts * drawing.num_generations * drawing.written
    if measured := before.get("drawing_flops_per_s"):
        return written * 2 * parameters / float(measured)
    lines = together * drawing.steps_per_generation * drawing.num_generations
    held = max(1.0, min(lines, HELD_TOKENS / (rows.tokens + drawing.longest)))
    writing = written / held * estimate_decode_step_seconds(parameters, model.layers, held, rate, bf16=bf16)
    return writing + prompts * rows.tokens * 2 * parameters / rate
