"""What a language model makes of each row: how surprised it is by the prompt, and a point for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from luthier.core.artifact import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.data.checking.material import Seen
    from luthier.models.lm.local import LocalLM
    from luthier.text.ids import Encoded

MOST_TOKENS = 512
"""Longer rows are read up to here."""
_AT_ONCE = 64
"""Rows read together."""
_DIGITS = 5
"""Decimals that are kept: far below what could matter, far above float noise."""


class Surprise(NamedTuple):
    """How unlikely a model finds each prompt."""

    mean: NDArray[np.float64]
    """(rows,): negative log-likelihood a token."""
    tokens: NDArray[np.int64]
    """(rows,): over how many tokens."""


def surprise(model: Artifact, rows: Sequence[Seen]) -> Surprise:
    """The mean negative log-likelihood of the tokens of each prompt, or of the answer where there is none.

    `ModelError` when the model has no weights here.
    """
    import numpy as np

    from luthier.models.generate import row_likelihoods
    from luthier.models.pack import Row

    lm, found, tokens = _opened(model), np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _AT_ONCE):
        chosen = rows[start : start + _AT_ONCE]
        encoded = lm.text.encode_many([row.messages for row in chosen], max_tokens=MOST_TOKENS, cut="right")
        read = [
            Row(one.ids, _weights(one, row), str(at))
            for at, (one, row) in enumerate(zip(encoded, chosen, strict=True), start)
        ]
        asked = [row for row in read if row.targets]
        for row, told in zip(asked, row_likelihoods(lm.loaded.model, asked), strict=True):
            found[int(row.key)], tokens[int(row.key)] = -told.logprob / max(told.tokens, 1), told.tokens
    return Surprise(np.round(found, _DIGITS), tokens)


def states(model: Artifact, rows: Sequence[Seen]) -> NDArray[np.float64]:
    """(rows, width): the mean last hidden state over each prompt, at unit length; the model's weights as they are."""
    import numpy as np

    order = sorted(range(len(rows)), key=lambda at: rows[at].id)  # rows of one length are read together by their ids
    found = _opened(model).embed([rows[at].messages[:-1] or rows[at].messages for at in order], MOST_TOKENS)
    return np.round(found[np.argsort(order)], _DIGITS)


def _opened(model: Artifact) -> LocalLM:
    """The model without any prompt in front."""
    from luthier.models.lm.local import LocalLM
    from luthier.models.load import refuse_endpoint
    from luthier.text.prompt import Prompt

    refuse_endpoint(model)
    return LocalLM(model, "float32", before=Prompt())


def _weights(encoded: Encoded, row: Seen) -> list[float]:
    """1 for each token that the user wrote; of a row without a prompt, that the answer holds."""
    before = [span for span in encoded.spans if span.part == "content" and span.message < len(row.messages) - 1]
    asked = [span for span in before if row.messages[span.message].role != "system"]
    weights = [0.0] * len(encoded.ids)
    for span in asked or [span for span in encoded.spans if span.message == len(row.messages) - 1]:
        for at in range(max(1, span.tokens[0]), min(span.tokens[1], len(weights))):
            weights[at] = 1.0
    return weights
