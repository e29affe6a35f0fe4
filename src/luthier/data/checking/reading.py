"""What a language model makes of each row: how surprised it is by the prompt, and a point for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.core.artifact import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.data.checking.material import Seen
    from luthier.text.ids import Encoded

MOST_TOKENS = 512
"""Longer rows are read up to here."""
_AT_ONCE = 64
"""Rows read together."""
_PACK_TOKENS = 4096
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
    import torch

    from luthier.models.lanes import read_packs
    from luthier.models.load import load, refuse_endpoint
    from luthier.models.logprobs import logprobs
    from luthier.models.pack import Row
    from luthier.models.sequence import refuse_sequence
    from luthier.text.ids import Text

    refuse_endpoint(model)
    loaded = load(model, "float32")
    refuse_sequence(loaded.model)
    text, found, tokens = Text.load(loaded.folder), np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _AT_ONCE):
        chosen = rows[start : start + _AT_ONCE]
        encoded = text.encode_many([row.messages for row in chosen], max_tokens=MOST_TOKENS, cut="right")
        read = [
            Row(one.ids, _weights(one, row), str(at))
            for at, (one, row) in enumerate(zip(encoded, chosen, strict=True), start)
        ]
        asked = [row for row in read if row.targets]
        for pack, told in read_packs(loaded.model, asked, _PACK_TOKENS, partial(logprobs, loaded.model)):
            sums = torch.zeros(pack.rows, dtype=torch.float64).index_add_(0, pack.path.cpu(), told.double().cpu())
            counts = torch.bincount(pack.path.cpu(), minlength=pack.rows)
            places = [int(key) for key in pack.keys]
            found[places], tokens[places] = (-sums / counts.clamp(min=1)).numpy(), counts.numpy()
    return Surprise(np.round(found, _DIGITS), tokens)


def states(model: Artifact, rows: Sequence[Seen]) -> NDArray[np.float64]:
    """(rows, width): the mean last hidden state over each prompt, at unit length; the model's weights as they are."""
    import numpy as np
    import torch

    from luthier.models.load import load, refuse_endpoint
    from luthier.text.ids import Text

    refuse_endpoint(model)
    loaded = load(model, "float32")
    text = Text.load(loaded.folder)
    asked = text.prompts([row.messages[:-1] or row.messages for row in rows])
    found: list[Any] = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda at: (len(asked[at]), rows[at].id))
    device = next(loaded.model.parameters()).device
    for start in range(0, len(rows), 16):
        places = order[start : start + 16]
        ids = [torch.tensor(asked[at][-MOST_TOKENS:], device=device) for at in places]
        batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        seen = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
        with torch.no_grad():
            told = loaded.model(input_ids=batch, attention_mask=seen, output_hidden_states=True, use_cache=False)
        means = (told.hidden_states[-1] * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
        for at, mean in zip(places, torch.nn.functional.normalize(means, dim=1).double().cpu().numpy(), strict=True):
            found[at] = mean
    return np.round(np.stack(found), _DIGITS)


def _weights(encoded: Encoded, row: Seen) -> list[float]:
    """1 for each token that the user wrote; of a row without a prompt, that the answer holds."""
    before = [span for span in encoded.spans if span.part == "content" and span.message < len(row.messages) - 1]
    asked = [span for span in before if row.messages[span.message].role != "system"]
    weights = [0.0] * len(encoded.ids)
    for span in asked or [span for span in encoded.spans if span.message == len(row.messages) - 1]:
        for at in range(max(1, span.tokens[0]), min(span.tokens[1], len(weights))):
            weights[at] = 1.0
    return weights
