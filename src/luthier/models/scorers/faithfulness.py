"""Faithfulness: whether the given text entails the answer, by a natural language inference model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from luthier.core.context import RunContext
from luthier.core.errors import ModelError, SourceLocation
from luthier.core.scorer import Column, Scorer, ScorerRow
from luthier.models.source import load_with_auto_class


class EntailmentScorer(Scorer):
    """The probability of "entailment" from what was given to what was answered, by a classifier of pairs of texts.

    Bring any such model in Hugging Face's layout whose labels hold one that begins with `entail`; none is shipped.
    """

    kind: Literal["inference"] = "inference"
    writes: ClassVar[tuple[str, ...]] = ("faithfulness",)
    asks: ClassVar[bool] = True

    model: str = "nli"
    """The classifier's folder."""
    premise: Literal["question", "reference"] = "question"
    """The premise: the question with its text, or the reference."""
    max_tokens: int = Field(default=512, ge=16)
    """Maximum tokens of a pair; the end of the premise is cut."""

    def columns(self, rows: Sequence[ScorerRow], context: RunContext) -> dict[str, Column]:
        """Return one probability a row, each computed alone, so that no other row changes it."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = context.models(self.model)
        tokenizer = load_with_auto_class(folder, AutoTokenizer)
        model = load_with_auto_class(folder, AutoModelForSequenceClassification, use_safetensors=True).float().eval()
        index = find_entailment_label(model.config.id2label, str(folder))
        probabilities: Column = []
        for row in rows:
            given = row.question if self.premise == "question" else row.references[0]
            pair = tokenizer(given, row.prediction, return_tensors="pt", truncation="only_first",
                             max_length=self.max_tokens)  # fmt: skip
            with torch.no_grad():
                logits = model(**pair).logits[0].double()
            probabilities.append(round(float(torch.softmax(logits, -1)[index]), 6))
        return {"faithfulness": probabilities}


def find_entailment_label(labels: dict[int, str], folder: str) -> int:
    """Return the index of the entailment label."""
    indices = [index for index, name in labels.items() if name.lower().startswith("entail")]
    if len(indices) != 1:
        what = f"the model's labels are {', '.join(labels.values())}; one must begin with 'entail'"
        raise ModelError(what, where=SourceLocation(file=folder), hint="give a model of natural language inference")
    return int(indices[0])
