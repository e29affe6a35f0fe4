"""BERTScore: tokens of answer and reference matched by an encoder's hidden states.

Zhang et al. 2020: recall is the mean, over the reference's tokens, of the highest cosine with any token of the answer;
precision the other way round; F1 of both. The tokens around the text (`[CLS]`, `[SEP]`) are matched, but do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.core.context import RunContext
from luthier.core.scorer import Column, Scorer, ScorerRow
from luthier.models.source import load_with_auto_class

if TYPE_CHECKING:
    from torch import Tensor


class BertScoreScorer(Scorer):
    """F1 of greedily matched tokens, by any encoder; the best reference of each row counts. An empty text has 0."""

    kind: Literal["bert_score"] = "bert_score"
    writes: ClassVar[tuple[str, ...]] = ("bertscore",)

    model: str = "encoder"
    """The encoder's folder, such as `roberta-large`'s; scores of different models cannot be compared."""
    layer: int | None = Field(default=None, ge=0)
    """The layer whose states are used, 0 the embeddings; by default the last. The authors' tables give one for each
    model."""
    max_tokens: int = Field(default=512, ge=8)
    """Longer texts are cut."""

    def columns(self, rows: Sequence[ScorerRow], context: RunContext) -> dict[str, Column]:
        """Return one F1 a row, each text computed alone, so that no other row changes it."""
        from transformers import AutoModel, AutoTokenizer

        folder = context.models(self.model)
        tokenizer = load_with_auto_class(folder, AutoTokenizer)
        model = load_with_auto_class(folder, AutoModel, use_safetensors=True).float().eval()
        texts = {text for row in rows for text in (row.prediction, *row.references)}
        states = {text: self._states(model, tokenizer, text) for text in sorted(texts)}
        best = [
            max(compute_bertscore_f1(states[row.prediction], states[text]) for text in row.references) for row in rows
        ]
        return {"bertscore": [round(score, 6) for score in best]}

    def _states(self, model: Any, tokenizer: Any, text: str) -> tuple[Tensor, Tensor]:
        """Return unit states of a text's tokens, (tokens, width), and which of them count."""
        import torch

        encoded = tokenizer(text.strip(), return_tensors="pt", truncation=True, max_length=self.max_tokens,
                         return_special_tokens_mask=True)  # fmt: skip
        counted = encoded.pop("special_tokens_mask")[0] == 0
        if not counted.any():
            return torch.zeros(1, 1), torch.zeros(1, dtype=torch.bool)
        with torch.no_grad():
            layers = model(**encoded, output_hidden_states=True).hidden_states
        states = layers[-1 if self.layer is None else self.layer][0]
        return torch.nn.functional.normalize(states, dim=-1), counted


def compute_bertscore_f1(predicted: tuple[Tensor, Tensor], real: tuple[Tensor, Tensor]) -> float:
    """F1 of two texts' matched tokens."""
    if not predicted[1].any() or not real[1].any():
        return 0.0
    cosines = predicted[0] @ real[0].T  # (said, real)
    precision = float(cosines.max(dim=1).values[predicted[1]].mean())
    recall = float(cosines.max(dim=0).values[real[1]].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall != 0 else 0.0
