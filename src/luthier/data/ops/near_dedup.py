"""Rows that say nearly the same: MinHash proposes, the true Jaccard similarity decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from luthier.data.operator import Column, Corpus, Drop, Outcome, Reads, SetOperator, Suggestion
from luthier.data.row import Row
from luthier.data.text_keys import digest8, normal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.data.profile import Profile

PERMUTATIONS = 128
MISSED = 1e-6
"""Bands are so chosen that a pair at the threshold is overlooked no more often than this."""
_SEED = 7919
_DOUBT = 0.2
"""A proposed pair whose estimate lies so far below the threshold (5 standard deviations and more) is not verified."""


class NearDedup(SetOperator):
    """Keep the first of rows whose texts are nearly equal, or only mark them as one cluster.

    Texts are compared as sets of short pieces: |A ∩ B| / |A ∪ B| (Jaccard). Pairs are proposed by MinHash with bands
    (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3) and each is verified, so that no
    row is dropped by bad luck.
    """

    kind: Literal["near_dedup"] = "near_dedup"
    reads: ClassVar[tuple[Reads, ...]] = ("prompt", "answer")
    suggested_at: ClassVar[int] = 60
    writes: ClassVar[dict[str, Column]] = {"cluster": "text", "similarity": "number"}

    threshold: float = Field(default=0.8, ge=0.5, le=1)
    """Jaccard similarity from which two rows are twins."""
    of: Literal["prompt", "answer", "both"] = "prompt"
    """What is compared; equal prompts with other answers are twins, too, unless both are compared."""
    unit: Literal["char", "word"] = "char"
    """Pieces of characters suit short texts and any script; pieces of words suit long ones."""
    size: int = Field(default=5, ge=1, le=20)
    """Characters or words in a piece."""
    action: Literal["drop", "flag"] = "drop"
    """Drop later twins, or keep them and write their `cluster`, by which the split can hold them together."""

    def sketch(self, rows: Sequence[Row]) -> list[bytes]:
        """The MinHash signature of each row."""
        import rensa

        pieces = [self.pieces(self.text(row)) for row in rows]
        offsets = np.cumsum([0, *(len(one) for one in pieces)]).tolist()
        flat = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint64)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, PERMUTATIONS, _SEED)
        return [line.tobytes() for line in np.array(matrix.to_rows(), dtype=np.uint32)]

    def settle(self, corpus: Corpus) -> Outcome:
        """Compare proposed pairs and decide who stays."""
        finder = _Twins(self, corpus)
        clusters = finder.kept_twins() if self.action == "drop" else finder.clusters()
        outcome = Outcome()
        names: list[str | None] = [None] * len(corpus)
        similarities: list[float | None] = [None] * len(corpus)
        for place, (first, similarity) in clusters.items():
            name = finder.id(first)
            names[first] = names[place] = name
            similarities[place] = similarity
            if self.action == "drop":
                outcome.drops[place] = Drop("near duplicate", twin=name, similarity=similarity)
        outcome.attributes.update(cluster=names, similarity=similarities)
        return outcome

    def pieces(self, text: str) -> NDArray[np.uint64]:
        """A text's pieces as 64-bit hashes; a piece that comes again may stand again."""
        text = normal(text)
        if self.unit == "word":
            words = text.split()
            last = max(1, len(words) - self.size + 1)
            return np.array([digest8(" ".join(words[at : at + self.size])) for at in range(last)], np.uint64)
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
        if len(codes) < self.size:
            return np.array([digest8(text)], dtype=np.uint64)
        return _rolled(codes, self.size)

    def text(self, row: Row) -> str:
        """What is compared of a row."""
        prompt = row.prompt or row.answer
        if self.of == "both":
            return f"{prompt}\n{row.answer}"
        return row.answer if self.of == "answer" else prompt

    @classmethod
    def trial(cls) -> NearDedup:
        """With defaults."""
        return cls()

    @classmethod
    def suggest(cls, profile: Profile) -> Suggestion | None:
        """Always: near copies across the split flatter the measure."""
        if profile.near_duplicates:
            why = f"{profile.near_duplicates} of {profile.looked_at} rows nearly repeat an earlier one"
            return Suggestion({}, why)
        return Suggestion({}, "near copies across training and test flatter the measure; none was seen so far")


def _rolled(codes: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """A hash of every run of `size` characters: a polynomial in wrapping 64-bit arithmetic, then mixed."""
    count = len(codes) - size + 1
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        total = total * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + count] + np.uint64(1)
    total ^= total >> np.uint64(32)
    total *= np.uint64(0xD6E8FEB86659FD93)
    return total ^ (total >> np.uint64(29))


def jaccard(one: NDArray[np.uint64], two: NDArray[np.uint64]) -> float:
    """|A ∩ B| / |A ∪ B| of two arrays without repeats."""
    shared = len(np.intersect1d(one, two, assume_unique=True))
    return shared / (len(one) + len(two) - shared)


def rows_of_band(threshold: float) -> int:
    """The most signature rows a band may have, so that a pair at the threshold is missed at most once in a million."""
    fitting = [rows for rows in range(1, 17) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED]
    return max(fitting, default=1)


class _Twins:
    """Goes through rows in order, proposes earlier ones that share a band, and verifies them."""

    def __init__(self, operator: NearDedup, corpus: Corpus) -> None:
        self._operator = operator
        self._corpus = corpus
        self._signatures = np.ascontiguousarray(corpus.sketches).view(np.uint32)  # (rows, PERMUTATIONS)
        self._members: dict[int, list[int]] = {}
        self._sets = lru_cache(maxsize=4096)(self._read_set)
        self.id = lru_cache(maxsize=65536)(self._read_id)

    def kept_twins(self) -> dict[int, tuple[int, float]]:
        """Each later twin with the earlier row that stays, and their similarity."""
        found: dict[int, tuple[int, float]] = {}
        for place, buckets in self._bucketed():
            for other in self._proposals(place, buckets):
                if (similarity := self._verified(other, place)) is not None:
                    found[place] = (other, similarity)
                    break
            else:
                self._enter(place, buckets)
        return found

    def clusters(self) -> dict[int, tuple[int, float]]:
        """Each row of a cluster but its first, with the first and the similarity that joined it."""
        up: dict[int, int] = {}
        joined: dict[int, float] = {}
        for place, buckets in self._bucketed():
            copy = False
            for other in self._proposals(place, buckets):
                one, two = _top(up, other), _top(up, place)
                if one != two and (similarity := self._verified(other, place)) is not None:
                    up[max(one, two)] = min(one, two)
                    joined.setdefault(place, similarity)
                    copy = copy or similarity == 1
            if not copy:  # whatever is near a copy is near its original
                self._enter(place, buckets)
        return {place: (_top(up, place), joined.get(place, 1.0)) for place in sorted(up)}

    def _enter(self, place: int, buckets: Sequence[int]) -> None:
        for bucket in buckets:
            self._members.setdefault(bucket, []).append(place)

    def _proposals(self, place: int, buckets: Sequence[int]) -> list[int]:
        """Earlier rows of the same buckets, without those whose estimate is hopeless."""
        others = np.array(sorted({other for bucket in buckets for other in self._members.get(bucket, ())}), np.int64)
        if len(others) == 0:
            return []
        estimates = (self._signatures[others] == self._signatures[place]).mean(axis=1)
        return list(others[estimates >= self._operator.threshold - _DOUBT].tolist())

    def _bucketed(self) -> Iterator[tuple[int, list[int]]]:
        """Each row that shares a band with any other, in order, with the numbers of its buckets."""
        rows = rows_of_band(self._operator.threshold)
        places: list[NDArray[np.int64]] = []
        numbers: list[NDArray[np.int64]] = []
        start = 0
        for band in range(PERMUTATIONS // rows):
            place, number = _shared(self._signatures[:, band * rows : (band + 1) * rows])
            places.append(place)
            numbers.append(number + start)
            start += len(place)
        place, number = np.concatenate(places), np.concatenate(numbers)
        order = np.lexsort((number, place))
        place, number = place[order], number[order]
        edges = np.flatnonzero(np.diff(place)) + 1
        for mine, buckets in zip(np.split(place, edges), np.split(number, edges), strict=True):
            if len(mine):
                yield int(mine[0]), buckets.tolist()

    def _verified(self, one: int, two: int) -> float | None:
        similarity = jaccard(self._sets(one), self._sets(two))
        return round(similarity, 6) if similarity >= self._operator.threshold else None

    def _read_set(self, place: int) -> NDArray[np.uint64]:
        return np.unique(self._operator.pieces(self._operator.text(self._corpus.row(place))))

    def _read_id(self, place: int) -> str:
        return self._corpus.row(place).id


def _top(up: dict[int, int], place: int) -> int:
    """The first row of a cluster."""
    while place in up:
        place = up[place]
    return place


def _shared(part: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of rows whose band is that of some other row, and a number from 0 for each such bucket."""
    if len(part) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    order = np.lexsort(part.T)
    same = (part[order][1:] == part[order][:-1]).all(axis=1)
    shared = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    number = np.cumsum(np.concatenate([[False], ~same]))
    return order[shared].astype(np.int64), number[shared].astype(np.int64)
