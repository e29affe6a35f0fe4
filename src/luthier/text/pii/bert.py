"""A BERT encoder in numpy: short texts are read without torch, and with the same bits each time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NORM_EPS = 1e-12
_HALF, _ROOT_HALF = np.float32(0.5), np.float32(math.sqrt(0.5))


class Bert:
    """Hidden states of one text from weights by the names that transformers gives them."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], heads: int) -> None:
        self._weights, self._heads = weights, heads
        self._layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))

    def states(self, ids: NDArray[np.int64], added: NDArray[np.float32]) -> NDArray[np.float32]:
        """(tokens, width): the last layer's states; `added` (tokens, width) goes to what the tokens' ids say."""
        told = self._weights
        x = told["embeddings.word_embeddings.weight"][ids] + added
        x = x + told["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._norm(x + told["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(self._layers):
            x = self._layer(x, f"encoder.layer.{layer}")
        return x

    def _layer(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        seen = self._linear(self._attention(x, f"{name}.attention.self"), f"{name}.attention.output.dense")
        x = self._norm(x + seen, f"{name}.attention.output.LayerNorm")
        return self._norm(x + self._between(x, name), f"{name}.output.LayerNorm")

    def _attention(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        shape = (len(x), self._heads, x.shape[1] // self._heads)
        query, key, value = (
            self._linear(x, f"{name}.{part}").reshape(shape).transpose(1, 0, 2) for part in ("query", "key", "value")
        )  # (heads, tokens, width of a head)
        scores = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(shape[2]))
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        return np.asarray((shares @ value).transpose(1, 0, 2).reshape(x.shape))

    def _between(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        from scipy.special import erf

        wide = self._linear(x, f"{name}.intermediate.dense")
        return self._linear(wide * _HALF * (1 + erf(wide * _ROOT_HALF)), f"{name}.output.dense")

    def _linear(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        return np.asarray(x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"])

    def _norm(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(_NORM_EPS))
        return np.asarray(x * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"])
