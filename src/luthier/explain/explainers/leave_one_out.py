"""Leave one unit out at a time, and see how far the target's value falls."""

from __future__ import annotations

from typing import Literal

from luthier.explain.explainer import Attribution, ExplainedPrompt, Explainer
from luthier.explain.scorer import PromptScorer


class LeaveOneOutExplainer(Explainer):
    """Score each unit by how far the value falls without it (occlusion).

    Two units that say the same both get a low score, since either stands in for the other.
    """

    kind: Literal["leave_one_out"] = "leave_one_out"

    def attribute(self, prompt: ExplainedPrompt) -> Attribution:
        """Read the prompt without each unit; all variants are rows of one pack."""
        return Attribution(leave_one_out(prompt.scorer))


def leave_one_out(scorer: PromptScorer) -> list[float]:
    """Return the decrease of the value without each unit."""
    whole = scorer.all_units
    full, *without = scorer.score([whole, *(whole - {unit} for unit in range(scorer.count))])
    return [full - entry for entry in without]
