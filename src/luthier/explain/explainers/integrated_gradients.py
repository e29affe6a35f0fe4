"""Integrated gradients (Sundararajan, Taly and Yan 2017): gradients along the way from a baseline to the prompt."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from luthier.explain.explainer import AddsUp, Attribution, ExplainedPrompt, Explainer, sum_by_unit

_AT_ONCE = 8
"""Points whose gradients are held together."""
_LARGE_GAP = 0.1
"""Share of the expected sum above which a gap is reported."""


class IntegratedGradientsExplainer(Explainer):
    """Score each token by its gradient, integrated from a baseline embedding to its own.

    With those of the template, the scores add up to the value minus that of the baseline; `gap` tells how far the
    integral with so many steps is from that. Tokens of the answer stay as they are.
    """

    kind: Literal["integrated_gradients"] = "integrated_gradients"
    needs_weights: ClassVar[bool] = True
    adds_up: ClassVar[AddsUp] = "prompt"

    steps: int = Field(default=64, ge=2, le=1000)
    """Points of the integral (Gauss and Legendre's)."""
    baseline: Literal["mean", "zero"] = "mean"
    """The embedding that says nothing: the mean of all token embeddings of the model, or zeros. Norms make all of the
    way from zero look alike but its first steps, so that the integral from there comes out wrong with few steps. With
    `mean`, features of a picture begin at the mean of the picture's own."""

    def attribute(self, prompt: ExplainedPrompt) -> Attribution:
        """Read gradients at all points, several in one pack, and sum them up."""
        import numpy as np
        import torch

        from luthier.models.sequence_head import unwrap_peft_model

        gradients = self.require_gradients(prompt)
        own = gradients.embeddings
        start = torch.zeros_like(own)
        if self.baseline == "mean":
            with torch.no_grad():
                table = unwrap_peft_model(gradients.model).get_input_embeddings().weight
                start = gradients.build_baseline(table.mean(0))
        points, weights = np.polynomial.legendre.leggauss(self.steps)
        total = torch.zeros(own.shape, dtype=torch.float64)
        parts = -(-self.steps // _AT_ONCE)
        for some, their in zip(np.array_split(points, parts), np.array_split(weights, parts), strict=True):
            alphas = torch.tensor((1 + some) / 2, dtype=own.dtype, device=own.device)[:, None, None]
            _, found = gradients.read(start + alphas * (own - start))
            total += torch.einsum("c,cpw->pw", torch.tensor(their / 2), found)
        tokens = (total * (own - start).double().cpu()).sum(-1).tolist()
        units, template = sum_by_unit(prompt.scorer.cut.owners, tokens, prompt.scorer.count)
        ends = gradients.read_values(torch.stack([own, start]))
        expected = float(ends[0] - ends[1])
        gap = sum(tokens) - expected
        large = abs(gap) > _LARGE_GAP * max(1.0, abs(expected))
        notes = (f"The integral misses its sum by {gap:.3g}: take more steps",) if large else ()
        return Attribution(units, template, expected=expected, notes=(*notes, *gradients.notes))
