"""What tuning changed in a model, compared with its base: `model_diff.json` and `tokens.parquet`.

Divergences are in nats. `before` is the base, `after` the tuned model.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from luthier.artifacts.explanation import MeasureOverRows
from luthier.artifacts.model_explanation import FrozenRecord, ModelExplanationRecord

TOKENS = "tokens.parquet"
"""One row for each answer token that was read: `row`, `position`, `token`, `kl`, `logprob_before`, `logprob_after`."""


class TokenDivergence(FrozenRecord):
    """An answer token at which the two models differ."""

    row: str
    context: str
    """The end of what stands before it."""
    token: str
    kl: float
    """KL(after ‖ before) of the next token here."""
    probability_before: float
    probability_after: float
    top_before: str
    """The token that the base finds likeliest here."""
    top_after: str


class SpanDivergence(FrozenRecord):
    """The stretch of an answer in which the divergence exceeds its mean over all tokens the most."""

    row: str
    text: str
    tokens: int
    kl: float
    """Summed over its tokens."""


class LayerChange(FrozenRecord):
    """How far one layer's hidden states and weights moved. Layer 0 is the embeddings."""

    layer: int
    distance: MeasureOverRows
    """‖after - before‖ / ‖before‖ of the hidden states that predict answer tokens."""
    cosine: float
    """Mean cosine of the hidden states before and after."""
    weights: float | None = None
    """‖after - before‖ / ‖before‖ of all its weights that moved; None where none did."""
    lens_before: float | None = None
    """Logit lens: share of the answers' tokens that are likeliest when read off this layer."""
    lens_after: float | None = None


class MatrixChange(FrozenRecord):
    """How one weight matrix changed."""

    name: str
    layer: int | None
    distance: float
    """‖after - before‖ / ‖before‖, Frobenius."""
    singular_values: tuple[float, ...] = ()
    """The largest of the change."""
    effective_rank: float | None = None
    """The exponential of the entropy of the change's singular values (Roy and Vetterli 2007)."""
    top_share: float | None = None
    """The share of the change's squared norm in its first singular direction."""
    intruders: int | None = None
    """Intruder dimensions (Shuttleworth et al. 2024): of the first 10 left singular vectors after, those whose cosine
    with every one before is below 0.5. None where the matrix was not decomposed."""
    tokens: tuple[str, ...] = ()
    """The tokens that the first direction of a change writes towards, then those that it writes away from."""


class AnswerChange(FrozenRecord):
    """A row, or a prompt of the recipe's, that is answered otherwise than before."""

    row: str = ""
    """Empty for a prompt."""
    prompt: str
    reference: str = ""
    before: str
    after: str


class IndicativeWord(FrozenRecord):
    """A word that goes with changed answers."""

    word: str
    part: str
    """`prompt`: rows whose prompt has the word are changed more, or less, often than others. `answer`: the word comes
    into answers, or leaves them."""
    count: int
    """Of a prompt: changed rows with the word. Of an answer: rows in which it is new."""
    of: int
    """Of a prompt: rows with the word. Of an answer: rows in which it is new or gone."""
    share: float
    """`count` / `of`."""
    otherwise: float
    """Of a prompt: the share of changed rows among the others. Of an answer: one half, as if by chance."""
    p: float
    """Fisher's exact test, or McNemar's."""
    p_holm: float
    """After Holm's correction over all words that were tested in this part."""


class ModelDiff(ModelExplanationRecord):
    """What tuning changed: `model_diff.json`."""

    kind: ClassVar[str] = "model_diff"
    known_measures: ClassVar[tuple[str, ...]] = (
        "kl", "hidden", "weights", "effective_rank", "intruders", "changed", "fixed", "words",
    )  # fmt: skip

    base: str
    base_digest: str
    identical: bool
    """Whether no weight and no answer token's distribution differs."""
    tokens: int
    """Answer tokens that were read."""
    top_tokens: tuple[TokenDivergence, ...] = ()
    top_spans: tuple[SpanDivergence, ...] = ()
    layers: tuple[LayerChange, ...] = ()
    lens_layer_before: float | None = None
    """The layer from which on the base finds the answer's token likeliest: the median over the tokens that it does find
    likeliest at its end."""
    lens_layer_after: float | None = None
    matrices: tuple[MatrixChange, ...] = ()
    """Those that moved the most first."""
    decomposed: int = 0
    """Matrices that were compared by singular directions with those before."""
    answered: int = 0
    """Rows and prompts that both models answered."""
    changed: tuple[AnswerChange, ...] = ()
    """Some of those whose answers changed."""
    transitions: dict[str, int] = Field(default_factory=dict)
    """Of labels: how many rows went from one to another, as `billing → delivery`."""
    words: tuple[IndicativeWord, ...] = ()
    """The most telling first; those whose `p_holm` is below 0.05 are told from chance."""
