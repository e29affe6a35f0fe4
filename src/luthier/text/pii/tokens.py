"""A token classifier in ONNX: from probabilities of word pieces to whole names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.core.errors import DataError, MissingExtra, Where
from luthier.text.pii.found import Found, PiiKind

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
            raise MissingExtra("onnxruntime is needed to find names", remedy="pip install 'luthier[names]'") from error
        from tokenizers import Tokenizer

        for file in (config, tokenizer, weights):
            if not file.is_file():
                raise DataError("this file of the recogniser is not there", where=Where(file=str(file), field="names"))
        labels = json.loads(config.read_text(encoding="utf-8"))["id2label"]
        self._labels = [str(labels[str(place)]) for place in range(len(labels))]
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # sums in one order: the same bits each time
        self._session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
        self._inputs = {one.name for one in self._session.get_inputs()}
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._find)

    def find(self, text: str, at_least: float) -> tuple[Found, ...]:
        """Names of all kinds that the labels know, in order."""
        return self._remembered(text, at_least) if any(map(str.isalpha, text)) else ()

    def _find(self, text: str, at_least: float) -> tuple[Found, ...]:
        groups: list[list[_Word]] = []
        for word in self._words(text, at_least):
            last = groups[-1][-1] if groups else None
            gap = text[last.end : word.start] if last else ""
            if last and last.kind == word.kind and len(gap) <= 3 and set(gap) <= set(_BETWEEN[word.kind]):
                groups[-1].append(word)
            else:
                groups.append([word])
        return tuple(
            Found(group[0].start, group[-1].end, group[0].kind, text[group[0].start : group[-1].end])
            for group in groups
            if _is_whole(group)
        )

    def _words(self, text: str, at_least: float) -> Iterator[_Word]:
        """Words whose pieces together are probably part of a name."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if not encoding.ids:
            return
        shares = self._shares(encoding.ids)
        places: dict[int, list[int]] = {}
        for place, word in enumerate(encoding.word_ids):
            if word is not None:
                places.setdefault(word, []).append(place)
        for pieces in places.values():
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
        return max(by_kind.items(), key=lambda one: one[1])

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
