"""The likelihood of each answer under a base model, for the metric `fluency`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from luthier.core.context import RunContext
from luthier.core.scorer import Column, Scorer, ScorerRow
from luthier.models.source import load_with_auto_class


class FluencyScorer(Scorer):
    """The log-likelihood of each answer, without its question, under a language model that did not write it."""

    kind: Literal["base_model"] = "base_model"
    writes: ClassVar[tuple[str, ...]] = ("fluency_logprob", "fluency_tokens")

    model: str = "smollm2-135m-instruct"
    """A name, a folder or OWNER/NAME on the hub: best the model that tuning began with."""

    def columns(self, rows: Sequence[ScorerRow], context: RunContext) -> dict[str, Column]:
        """Return log-likelihoods and numbers of tokens; an answer of fewer than two tokens has none."""
        import torch
        from transformers import AutoTokenizer

        from luthier.models.generate import score_options
        from luthier.models.load import open_folder

        folder = context.models(self.model)
        tokenizer = load_with_auto_class(folder, AutoTokenizer)
        start = tokenizer.bos_token_id
        ids = [list(tokenizer.encode(row.prediction, add_special_tokens=False)) for row in rows]
        known = [[start, *id_] if start is not None and id_ else id_ for id_ in ids]
        scored = [index for index, entry in enumerate(known) if len(entry) > 1]
        logprobs: Column = [None] * len(rows)
        tokens: Column = [None] * len(rows)
        if scored:
            model = open_folder(folder, torch.float32)
            sums = score_options(
                model, [known[index][:1] for index in scored], [[known[index][1:]] for index in scored]
            )
            for index, (loglikelihoods,) in zip(scored, sums, strict=True):
                logprobs[index], tokens[index] = min(round(loglikelihoods, 6), 0.0), float(len(known[index]) - 1)
        return {"fluency_logprob": logprobs, "fluency_tokens": tokens}
