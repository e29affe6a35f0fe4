"""Verified twins among rows: those that MinHash proposes are compared in truth, in the order in which rows may stay."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from luthier.data.twins.copies import first_copies
from luthier.data.twins.mapped import let_go
from luthier.data.twins.minhash import Bands, Crowds, proposed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AHEAD = 128
"""Rows that are compared together with the row that most likely stays for each."""
_LOOKS_BETWEEN = 1024
"""After so many looks at signatures, pages of their file are let go."""
Verify = Callable[[int, int], float | None]
"""The similarity of two rows when they are twins, else None."""
Pairs = list[tuple[int, int]]
VerifyMany = Callable[[Iterable[Pairs]], Iterator[list[float | None]]]
"""The same for lists of pairs, which may be compared elsewhere."""


class Twin(NamedTuple):
    """The row that stays for another one, or stands at the head of its cluster."""

    of: int
    similarity: float


class Twins:
    """Goes through rows from the one that stays soonest; those that were seen before are what later ones may copy."""

    def __init__(
        self,
        texts: NDArray[np.uint64],
        signatures: NDArray[np.uint8],
        ranks: NDArray[np.int64],
        bands: Bands,
        verify: Verify,
        verify_many: VerifyMany,
        hands: int = 1,
    ) -> None:
        """`texts` (rows, 2) are digests: rows with equal ones are copies, and only the first of them is compared.

        Nearly all pairs are asked for by `verify_many`, well ahead; `hands` look for them at once.
        """
        self._ranks = ranks
        self._verify = verify
        self._verify_many = verify_many
        self._known: dict[tuple[int, int], float | None] = {}
        self._hands = hands
        self._bands = bands
        first = first_copies(texts, ranks)
        is_own = first == np.arange(len(ranks))
        self._own, copies = np.flatnonzero(is_own), np.flatnonzero(~is_own)
        self._copies = dict(zip(copies.tolist(), first[copies].tolist(), strict=True))
        self._signatures = signatures
        self._looked = 0

    def kept_twins(self) -> dict[int, Twin]:
        """Each row that goes, with the row that stays: no two rows that stay are twins."""
        found: dict[int, Twin] = {}
        for place, others in self._in_order(found):
            for other in others:
                if (similarity := self._similarity(other, place)) is not None:
                    found[place] = Twin(other, similarity)
                    break
        for place, first in self._copies.items():
            found[place] = found[first] if first in found else Twin(first, 1.0)
        return found

    def clusters(self) -> dict[int, Twin]:
        """Each row of a cluster but the one that stays soonest, with that one and the similarity that joined it."""
        up: dict[int, int] = {}
        joined: dict[int, float] = {}
        for place, others in self._in_order({}):
            for other in others:
                one, two = _top(up, other), _top(up, place)
                if one != two and (similarity := self._similarity(other, place)) is not None:
                    low, high = (one, two) if self._ranks[one] < self._ranks[two] else (two, one)
                    up[high] = low
                    joined.setdefault(place, similarity)
        for place, first in self._copies.items():
            up[place] = first
            joined[place] = 1.0
        return {place: Twin(_top(up, place), joined.get(place, 1.0)) for place in sorted(up)}

    def _similarity(self, other: int, place: int) -> float | None:
        pair = (other, place)
        return self._known[pair] if pair in self._known else self._verify(other, place)

    def _in_order(self, gone: dict[int, Twin]) -> Iterator[tuple[int, list[int]]]:
        """Each row that may copy one before it, with those that are not gone, the soonest first."""
        pairs, crowds = proposed(self._signatures, self._bands, self._own, self._hands)
        earlier, later = self._by_rank(pairs)
        members: dict[int, list[int]] = {}
        crowd = _Crowded(crowds, self._own)
        starts = dict(zip(*_starts(later), strict=True))
        places = np.unique(np.concatenate([later, crowd.places]))
        order = places[np.argsort(self._ranks[places], kind="stable")].tolist()
        asked = deque[Pairs]()
        known = self._verify_many(_likely(order, starts, earlier, asked))
        for number, place in enumerate(order):
            if number % _AHEAD == 0:
                similarities = next(known)
                self._known = dict(zip(asked.popleft(), similarities, strict=True))
            begin, end = starts.get(place, (0, 0))
            others = set(earlier[begin:end].tolist())
            buckets = crowd.of(place)
            if buckets:
                near = {other for bucket in buckets for other in members.get(bucket, ())} - others
                others |= self._alike(place, near)
            yield place, sorted((other for other in others if other not in gone), key=self._ranks.__getitem__)
            if place not in gone:
                for bucket in buckets:
                    members.setdefault(bucket, []).append(place)

    def _by_rank(self, pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs as (stays sooner, stays later), sorted by the later, the soonest first."""
        one, two = self._own[pairs[:, 0]], self._own[pairs[:, 1]]
        swap = self._ranks[one] > self._ranks[two]
        earlier, later = np.where(swap, two, one), np.where(swap, one, two)
        order = np.lexsort((self._ranks[earlier], later))
        return earlier[order], later[order]

    def _alike(self, place: int, others: set[int]) -> set[int]:
        """Those of the others that share enough columns with a row."""
        if not others:
            return set()
        all_others = np.fromiter(others, np.int64, len(others))
        same = (self._signatures[all_others] == self._signatures[place]).sum(axis=1)
        self._looked += 1
        if self._looked % _LOOKS_BETWEEN == 0:
            let_go(self._signatures)
        return set(all_others[same >= self._bands.at_least].tolist())


class _Crowded:
    """Rows of large buckets, and which buckets each stands in."""

    def __init__(self, crowds: Crowds, own: NDArray[np.int64]) -> None:
        self.places = own[crowds.places]
        self._buckets = crowds.buckets
        self._starts = dict(zip(*_starts(self.places), strict=True))

    def of(self, place: int) -> list[int]:
        begin, end = self._starts.get(place, (0, 0))
        return list(self._buckets[begin:end].tolist())


def _likely(
    order: Sequence[int], starts: dict[int, tuple[int, int]], earlier: NDArray[np.int64], asked: deque[Pairs]
) -> Iterator[Pairs]:
    """Some rows after the other, each with the soonest of those that it may copy; `asked` holds what was given out."""
    for number in range(0, len(order), _AHEAD):
        some = [place for place in order[number : number + _AHEAD] if place in starts]
        asked.append([(int(earlier[starts[place][0]]), place) for place in some])
        yield asked[-1]


def _starts(values: NDArray[np.int64]) -> tuple[list[int], list[tuple[int, int]]]:
    """Each different value of a sorted array, with where it begins and ends."""
    if len(values) == 0:
        return [], []
    edges = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]])).tolist()
    return values[edges[:-1]].tolist(), list(pairwise(edges))


def _top(up: dict[int, int], place: int) -> int:
    """The head of a cluster."""
    while place in up:
        place = up[place]
    return place
