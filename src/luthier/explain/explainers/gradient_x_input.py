"""Gradient times input: how the value moves with each token's embedding, along that embedding."""

from __future__ import annotations

from typing import ClassVar, Literal

from luthier.explain.explainer import Attribution, ExplainedPrompt, Explainer, sum_by_unit


class GradientXInputExplainer(Explainer):
    """Score each token by the gradient of the value with respect to its embedding, times the embedding.

    It reads the prompt once, forward and backward. The gradient tells of small changes only: where an answer is nearly
    certain, it is small and noisy.
    """

    kind: Literal["gradient_x_input"] = "gradient_x_input"
    needs_weights: ClassVar[bool] = True

    def attribute(self, prompt: ExplainedPrompt) -> Attribution:
        """Read the gradients once, and add them up by unit."""
        gradients = self.require_gradients(prompt)
        embeddings = gradients.embeddings
        _, found = gradients.read(embeddings[None])
        tokens = (found[0] * embeddings.double().cpu()).sum(-1).tolist()
        units, template = sum_by_unit(prompt.scorer.cut.owners, tokens, prompt.scorer.count)
        return Attribution(units, template, notes=gradients.notes)
