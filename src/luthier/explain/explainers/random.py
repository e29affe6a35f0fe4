"""Random scores: the floor that every other method must rise above."""

from __future__ import annotations

import random
from typing import ClassVar, Literal

from luthier.explain.explainer import AddsUp, Attribution, ExplainedPrompt, Explainer


class RandomExplainer(Explainer):
    """Score units at random. It explains nothing, and shows what a faithful method must be better than."""

    kind: Literal["random"] = "random"
    adds_up: ClassVar[AddsUp] = ""

    def attribute(self, prompt: ExplainedPrompt) -> Attribution:
        """Draw each unit's score from a standard normal distribution by the seed."""
        draw = random.Random(prompt.seed)
        return Attribution([draw.gauss(0, 1) for _ in range(prompt.scorer.count)])
