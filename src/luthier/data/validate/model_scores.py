"""Score prompts with a language model: their perplexity, and an embedding of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.artifact import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.chat.tokenizer import EncodedChat
    from luthier.data.validate.context import CheckRow
    from luthier.models.lm.local import LocalLM

MOST_TOKENS = 512
"""Longer rows are read up to here."""
_AT_ONCE = 64
"""Rows read together."""
_DIGITS = 5
"""Decimals that are kept: far below what could matter, far above float noise."""


class PromptPerplexity(NamedTuple):
    """How unlikely a model finds each prompt."""

    mean: NDArray[np.float64]
    """(rows,): negative log-likelihood a token."""
    tokens: NDArray[np.int64]
    """(rows,): over how many tokens."""


def measure_prompt_perplexity(model: Artifact, rows: Sequence[CheckRow]) -> PromptPerplexity:
    """The mean negative log-likelihood of the tokens of each prompt, or of the answer where there is none.

    `ModelError` when the model has no weights here.
    """
    import numpy as np

    from luthier.models.generate import compute_row_loglikelihoods
    from luthier.models.packing.pack import TokenRow

    lm, found, tokens = _opened(model), np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _AT_ONCE):
        chosen = rows[start : start + _AT_ONCE]
        encoded = lm.text.encode_many([row.messages for row in chosen], max_tokens=MOST_TOKENS, cut="right")
        read = [
            TokenRow(one.ids, _weights(one, row), str(at))
            for at, (one, row) in enumerate(zip(encoded, chosen, strict=True), start)
        ]
        prompted_rows = [row for row in read if row.targets]
        for row, token_logprobs in zip(
            prompted_rows, compute_row_loglikelihoods(lm.loaded.model, prompted_rows), strict=True
        ):
            found[int(row.key)], tokens[int(row.key)] = (
                -token_logprobs.logprob / max(token_logprobs.tokens, 1),
                token_logprobs.tokens,
            )
    return PromptPerplexity(np.round(found, _DIGITS), tokens)


def embed_prompts(model: Artifact, rows: Sequence[CheckRow]) -> NDArray[np.float64]:
    """(rows, width): the mean last hidden state over each prompt, at unit length; the model's weights as they are."""
    import numpy as np

    order = sorted(range(len(rows)), key=lambda at: rows[at].id)  # rows of one length are read together by their ids
    found = _opened(model).embed([rows[at].messages[:-1] or rows[at].messages for at in order], MOST_TOKENS)
    return np.round(found[np.argsort(order)], _DIGITS)


def _opened(model: Artifact) -> LocalLM:
    """The model without any prompt in front."""
    from luthier.chat.prompt import PromptPrefix
    from luthier.models.lm.local import LocalLM
    from luthier.models.load import require_local_weights

    require_local_weights(model)
    return LocalLM(model, "float32", before=PromptPrefix())


def _weights(encoded: EncodedChat, row: CheckRow) -> list[float]:
    """1 for each token that the user wrote; of a row without a prompt, that the answer holds."""
    before = [span for span in encoded.spans if span.part == "content" and span.message < len(row.messages) - 1]
    user_spans = [span for span in before if row.messages[span.message].role != "system"]
    weights = [0.0] * len(encoded.ids)
    for span in user_spans or [span for span in encoded.spans if span.message == len(row.messages) - 1]:
        for at in range(max(1, span.tokens[0]), min(span.tokens[1], len(weights))):
            weights[at] = 1.0
    return weights
