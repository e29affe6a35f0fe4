"""AttnLRP (Achtibat et al. 2024): relevance that flows back through attention, norms and gates by rules."""

from __future__ import annotations

from typing import ClassVar, Literal

from luthier.explain.explainer import Attribution, ExplainedPrompt, Explainer, sum_by_unit


class AttnLRPExplainer(Explainer):
    """Score each token by layer-wise relevance propagation with rules for attention, as gradient times input.

    It reads the prompt once, forward and backward. The rules are found by trying a module of each class; classes that
    took none are named in the explanation's notes, and relevance passes them as a plain gradient does.
    """

    kind: Literal["attnlrp"] = "attnlrp"
    needs_weights: ClassVar[bool] = True

    def attribute(self, prompt: ExplainedPrompt) -> Attribution:
        """Read the gradients once under the rules, and add them up by unit."""
        from luthier.models.gradient_rules import use_gradient_rules
        from luthier.models.packing.logprobs import detect_forward_mode
        from luthier.models.sequence_head import unwrap_peft_model

        gradients = self.require_gradients(prompt)
        embeddings = gradients.embeddings
        packed = detect_forward_mode(gradients.model).packed
        with use_gradient_rules(unwrap_peft_model(gradients.model)) as rules:
            _, found = gradients.read(embeddings[None])
        missing = [*rules.missing, *([] if packed else ["attention"])]
        notes = gradients.notes
        if missing:
            notes = (f"No rule of AttnLRP for {', '.join(missing)}: plain gradients pass there", *notes)
        tokens = (found[0] * embeddings.double().cpu()).sum(-1).tolist()
        units, template = sum_by_unit(prompt.scorer.cut.owners, tokens, prompt.scorer.count)
        return Attribution(units, template, notes=notes)
