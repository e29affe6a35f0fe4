"""Duplicates: verify candidate pairs, choose which row stays, and report what was found."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.data.decisions import DropReasons, Drops, SparseColumn
from luthier.data.dedup.exact import ExactCopies, find_exact_copies
from luthier.data.dedup.memory_map import read_rows
from luthier.data.dedup.minhash import ALONE, LshBandLayout, PairSearchResources, propose_candidate_pairs
from luthier.data.dedup.shingles import ComplementIndexSet, sort_unique
from luthier.data.engine.columns import build_text_column, to_float_column
from luthier.data.engine.columns import to_arrow_indices as rows_at
from luthier.data.operator import TextEdit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from luthier.data.dedup.keep import Ranks

_AHEAD = 128
"""Rows that are compared together with the row that most likely stays for each."""
_FEW_OF = 32
"""Fewer members than one in so many rows are few."""
Verify = Callable[[int, int], float | None]
"""The similarity of two rows when they are twins, else None."""
Pairs = list[tuple[int, int]]
VerifyMany = Callable[[Iterable[Pairs]], Iterator[list[float | None]]]
"""The same for lists of pairs, which may be compared elsewhere."""


class Duplicate(NamedTuple):
    """The row that stays for another one, or stands at the head of its cluster."""

    of: int
    similarity: float


class DuplicatePairs(NamedTuple):
    """Rows that have a twin, each with the row that stays for it or heads its cluster: three values a row."""

    indices: NDArray[np.int64]
    of: NDArray[np.int64]
    similarities: NDArray[np.float64]

    @classmethod
    def those(cls, twins: Mapping[int, Duplicate]) -> DuplicatePairs:
        """Those of a dictionary by rows."""
        of, similarities = zip(*twins.values(), strict=True) if twins else ((), ())
        return cls(np.array(list(twins), np.int64), np.array(of, np.int64), np.array(similarities, np.float64))


class _Proposals(NamedTuple):
    """Pairs that may be twins, as the row that stays sooner and the other, by the other; and members of crowds."""

    earlier: NDArray[np.int64]
    later: NDArray[np.int64]
    large: NDArray[np.int64]
    buckets: NDArray[np.int64]

    def members(self) -> NDArray[np.int64]:
        """Every row that may have a twin, in order."""
        return sort_unique(np.concatenate([self.earlier, self.later, self.large]))


class DuplicateFinder:
    """Goes through rows from the one that stays soonest; those that were seen before are what later ones may copy."""

    def __init__(
        self,
        texts: NDArray[np.uint64],
        signatures: NDArray[np.uint8],
        ranks: Ranks,
        bands: LshBandLayout,
        verify: Verify,
        verify_many: VerifyMany,
        means: PairSearchResources = ALONE,
    ) -> None:
        """`texts` (rows, 2) are digests: rows with equal ones are copies, and only the first of them is compared.

        Nearly all pairs are asked for by `verify_many`, well ahead.
        """
        self._ranks = ranks
        self._verify = verify
        self._verify_many = verify_many
        self._known: dict[tuple[int, int], float | None] = {}
        self._means = means
        self._bands = bands
        self._copies = find_exact_copies(texts, ranks)
        self._own = ComplementIndexSet(len(ranks), self._copies.indices)
        self._signatures = signatures

    def kept_twins(self) -> DuplicatePairs:
        """Each row that goes, with the row that stays: no two rows that stay are twins."""
        gone = bytearray(len(self._ranks))
        indices, of, similarities = array("q"), array("q"), array("d")
        for index, others in self._in_order(self._proposed(), gone):
            for other in others:
                if (similarity := self._similarity(other, index)) is not None:
                    gone[index] = True
                    indices.append(index)
                    of.append(other)
                    similarities.append(similarity)
                    break
        duplicate_pairs = _arrays(indices, of, similarities)
        return _followed(duplicate_pairs, self._copies)

    def clusters(self) -> DuplicatePairs:
        """Each row of a cluster but the one that stays soonest, with that one and the similarity that joined it."""
        proposals = self._proposed()
        heads = _Heads(proposals.members())
        for index, others in self._in_order(proposals, bytearray(len(self._ranks))):
            for other in others:
                one, two = heads.of(other), heads.of(index)
                if one != two and (similarity := self._similarity(other, index)) is not None:
                    low, high = (one, two) if self._ranks[one] < self._ranks[two] else (two, one)
                    heads.join(high, low)
                    heads.record_similarity(index, similarity)
        return heads.found(self._copies)

    def _similarity(self, other: int, index: int) -> float | None:
        pair = (other, index)
        return self._known[pair] if pair in self._known else self._verify(other, index)

    def _proposed(self) -> _Proposals:
        pairs, large_buckets = propose_candidate_pairs(self._signatures, self._bands, self._own, self._means)
        return _Proposals(*self._by_rank(pairs), self._own[large_buckets.indices], large_buckets.buckets)

    def _in_order(self, proposals: _Proposals, gone: bytearray) -> Iterator[tuple[int, list[int]]]:
        """Each row that may copy one before it, with those that are not gone, the soonest first."""
        earlier, later, large, large_bucket = proposals
        members = _BucketMembers(large_bucket, len(self._ranks))
        indices = sort_unique(np.concatenate([later, large]))
        order = indices[np.argsort(self._ranks[indices], kind="stable")]
        requested_pairs = deque[Pairs]()
        known = self._verify_many(_likely(order, earlier, later, requested_pairs))
        for start in range(0, len(order), _AHEAD):
            self._means.tick(start, len(order))
            similarities = next(known)
            self._known = dict(zip(requested_pairs.popleft(), similarities, strict=True))
            some = order[start : start + _AHEAD]
            mine = zip(_parts(later, earlier, some), _parts(large, large_bucket, some), strict=True)
            for index, (before, buckets) in zip(some.tolist(), mine, strict=True):
                others = set(before)
                if buckets:
                    others |= self._alike(index, members.of(buckets))
                yield index, sorted((other for other in others if not gone[other]), key=self._ranks.__getitem__)
                if buckets and not gone[index]:
                    members.add(index, buckets)

    def _by_rank(self, pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs as (stays sooner, stays later), sorted by the later, the soonest first."""
        one, two = self._own[pairs[:, 0]], self._own[pairs[:, 1]]
        swap = self._ranks[one] > self._ranks[two]
        earlier, later = np.where(swap, two, one), np.where(swap, one, two)
        order = np.lexsort((self._ranks[earlier], later))
        return earlier[order], later[order]

    def _alike(self, index: int, others: NDArray[np.int64]) -> set[int]:
        """Those of the others that share enough columns with a row."""
        if not len(others):
            return set()
        own = read_rows(self._signatures, np.array([index]))
        same = (read_rows(self._signatures, others) == own).sum(axis=1)
        return set(others[same >= self._bands.at_least].tolist())


class _BucketMembers:
    """The rows of large buckets that came so far and stay, by bucket: eight bytes for each, and one for every row."""

    def __init__(self, buckets: NDArray[np.int64], rows: int) -> None:
        """The bucket of each member that may come, and how many rows there are."""
        names, sizes = np.unique(buckets, return_counts=True)
        self._starts = dict(zip(names.tolist(), (np.cumsum(sizes) - sizes).tolist(), strict=True))
        self._ends = dict(self._starts)
        self._members = np.empty(len(buckets), np.int64)
        self._seen = np.zeros(rows if len(buckets) else 0, np.bool_)

    def add(self, row: int, buckets: Sequence[int]) -> None:
        """A row that stays becomes a member of its buckets."""
        for bucket in buckets:
            self._members[self._ends[bucket]] = row
            self._ends[bucket] += 1

    def of(self, buckets: Sequence[int]) -> NDArray[np.int64]:
        """The different members of some buckets."""
        parts = [self._members[self._starts[bucket] : self._ends[bucket]] for bucket in buckets]
        if sum(map(len, parts)) * _FEW_OF < len(self._seen):  # then sorting them is quicker than to look at every row
            return sort_unique(np.concatenate(parts))
        for part in parts:
            self._seen[part] = True
        found = np.flatnonzero(self._seen)
        self._seen[found] = False
        return found


def _likely(
    order: NDArray[np.int64], earlier: NDArray[np.int64], later: NDArray[np.int64], requested_pairs: deque[Pairs]
) -> Iterator[Pairs]:
    """Some rows after the other, each with the soonest of those that it may copy; `requested_pairs` holds what was
    given out."""
    for start in range(0, len(order), _AHEAD):
        some = order[start : start + _AHEAD]
        before = _parts(later, earlier, some)
        requested_pairs.append(
            [(others[0], index) for index, others in zip(some.tolist(), before, strict=True) if others]
        )
        yield requested_pairs[-1]


def _parts(
    keys: NDArray[np.integer[Any]], values: NDArray[np.integer[Any]], query_keys: NDArray[np.integer[Any]]
) -> Iterator[list[int]]:
    """For each wanted key the values that stand beside it in a sorted array."""
    begins, ends = (np.searchsorted(keys, query_keys, side).tolist() for side in ("left", "right"))
    return (values[begin:end].tolist() for begin, end in zip(begins, ends, strict=True))


def _followed(found: DuplicatePairs, copied: ExactCopies) -> DuplicatePairs:
    """With rows that copy another one to the letter: they go for it, or, where it goes itself, for what it goes for."""
    order = np.argsort(found.indices)
    indices = found.indices[order]
    at = np.searchsorted(indices, copied.firsts)
    goes = np.zeros(len(at), dtype=bool)
    if len(indices):
        at = np.minimum(at, len(indices) - 1)
        goes = indices[at] == copied.firsts
    of, similarities = copied.firsts.copy(), np.ones(len(at))
    of[goes], similarities[goes] = found.of[order][at[goes]], found.similarities[order][at[goes]]
    return DuplicatePairs(
        np.concatenate([found.indices, copied.indices]),
        np.concatenate([found.of, of]),
        np.concatenate([found.similarities, similarities]),
    )


def _arrays(indices: array[int], of: array[int], similarities: array[float]) -> DuplicatePairs:
    return DuplicatePairs(*(np.array(part, dtype=part.typecode) for part in (indices, of, similarities)))


class _Heads:
    """Clusters of some rows, each with a head: a few bytes for each of them, and none for other rows."""

    def __init__(self, members: NDArray[np.int64]) -> None:
        """Rows that may come into clusters, in order."""
        self._members = members
        self._up = array("q", range(len(members)))
        self._similarities = array("d", [-1.0]) * len(members)

    def of(self, row: int) -> int:
        """The head of a row's cluster."""
        return int(self._members[self._top(self._at(row))])

    def join(self, head: int, other: int) -> None:
        """Put the cluster of one head under another head."""
        self._up[self._at(head)] = self._at(other)

    def record_similarity(self, row: int, similarity: float) -> None:
        """Keep the similarity that joined a row; the first counts."""
        at = self._at(row)
        if self._similarities[at] < 0:
            self._similarities[at] = similarity

    def found(self, copied: ExactCopies) -> DuplicatePairs:
        """Every row but heads, with its head; rows that copy another one to the letter stand where that one stands."""
        tops = np.fromiter(map(self._top, range(len(self._up))), np.int64, len(self._up))
        indices = sort_unique(np.concatenate([self._members[tops != np.arange(len(tops))], copied.indices]))
        of, similarities = copied.first_of(indices), np.ones(len(indices))
        own, at = _standing(self._members, of)
        of[own] = self._members[tops[at]]
        own, at = _standing(self._members, indices)
        known = np.frombuffer(self._similarities, np.float64)[at]
        similarities[own] = np.where(known < 0, 1.0, known)
        return DuplicatePairs(indices, of, similarities)

    def _at(self, row: int) -> int:
        return int(np.searchsorted(self._members, row))

    def _top(self, at: int) -> int:
        while self._up[at] != at:
            at = self._up[at]
        return at


def _standing(among: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of some rows stand among others in order, by their indices here and there."""
    at = np.searchsorted(among, rows)
    here = np.flatnonzero(at < len(among))
    here = here[among[at[here]] == rows[here]]
    return here, at[here]


@dataclass(frozen=True, slots=True)
class DedupReport:
    """What is said of all rows of a corpus, in a few bytes for each that has a twin and none for the others."""

    drops: Drops = field(default_factory=lambda: Drops.of({}))
    attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    edits: Mapping[int, list[TextEdit]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


def report_duplicates(found: DuplicatePairs, rows: int, name: Callable[[int], str], drop: str | None) -> DedupReport:
    """Columns `cluster` (the id of the row that stays or heads) and `similarity`, and drops for the reason `drop`."""
    heads, which = np.unique(found.of, return_inverse=True)
    names = build_text_column(name, heads)
    indices = np.concatenate([found.indices, heads])
    order = np.argsort(indices)
    clusters = names.take(rows_at(np.concatenate([which, np.arange(len(heads))])[order]))
    by_place = np.argsort(found.indices)
    columns = {
        "cluster": SparseColumn(rows, None, indices[order], clusters, "text"),
        "similarity": SparseColumn(
            rows, None, found.indices[by_place], to_float_column(found.similarities[by_place]), "number"
        ),
    }
    if drop is None:
        return DedupReport(attributes=columns)
    why = DropReasons([drop] * len(which), names.take(rows_at(which)), to_float_column(found.similarities))
    return DedupReport(Drops(found.indices, why), columns)
