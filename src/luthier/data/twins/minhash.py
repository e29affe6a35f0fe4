"""Which rows may be twins: MinHash signatures of one byte a permutation, cut into bands that overlook next to nothing.

A signature's byte is the same in two rows with probability J + (1 - J) / 256 at least, J being their Jaccard
similarity (Broder 1997; Li and König 2010, b-bit minwise hashing). A band is a set of columns drawn at random; two rows
are proposed when some band is the same in both. Bands may share columns, so that many wide ones fit: wide bands
propose few strangers, and many of them overlook few twins. `bands` says how few.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from math import comb
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from luthier.data.twins.mapped import let_go
from luthier.data.twins.pieces import Flat, distinct

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERMUTATIONS = 128
MISSED = 1e-6
"""Bands are so chosen that a pair at the threshold is overlooked no more often than this."""
_SEED = 7919
MOST_BANDS = 256
_WIDEST = 24
_CROWD = 12
"""A bucket with more rows is settled row by row instead of pair by pair."""
_MERGED_BANDS = 16
_MOST_HANDS = 4
"""Each needs a few dozen bytes a row."""
_KEY_BYTES = 16 << 20
"""Keys of several bands are made together by each hand, as far as they fit."""
_BLOCK = 1 << 14
_BLOCKS_BETWEEN = 4
"""After so many blocks, pages of the signatures' file are let go."""


Given = TypeVar("Given")
Made = TypeVar("Made")
_Crowd = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""Members of large buckets, and the number of each one's bucket."""
Pairs = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""The places of either row of some pairs."""


class Bands(NamedTuple):
    """Which columns make each band, and how many columns a pair must share to be looked at."""

    columns: NDArray[np.int64]
    """(bands, width): columns of the signature."""
    at_least: int
    """Equal columns below this number are not worth a look."""
    missed: float
    """The chance that a pair at the threshold is overlooked."""


class Crowds(NamedTuple):
    """Members of large buckets: row by row, sorted by bucket."""

    places: NDArray[np.int64]
    buckets: NDArray[np.int64]


def signatures(flat: Flat) -> NDArray[np.uint8]:
    """(texts, PERMUTATIONS): the highest byte of each mixed minimum."""
    import rensa

    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        flat.hashes, flat.offsets.tolist(), PERMUTATIONS, _SEED
    )
    least = np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, PERMUTATIONS)
    return ((least * np.uint32(0x9E3779B1)) >> np.uint32(24)).astype(np.uint8)


@cache
def bands(threshold: float, most: int = MOST_BANDS) -> Bands:
    """The widest bands, at most so many, that overlook a pair at the threshold once in a million or less."""
    at_least = max(least for least in range(PERMUTATIONS + 1) if _below(least, threshold) <= MISSED / 2)
    for width in range(_WIDEST, 0, -1):
        for count in range(8, most + 1, 8):
            missed = overlooked(threshold, width, count) + _below(at_least, threshold)
            if missed <= MISSED:
                return Bands(_drawn(count, width), at_least, missed)
    raise AssertionError(f"no bands for {threshold}")


def overlooked(similarity: float, width: int, count: int) -> float:
    """The chance that no band is the same in two rows: over the equal columns, of which a band must hit only such."""
    return float((_chances(similarity) * (1 - _shares(width)) ** count).sum())


@cache
def _chances(similarity: float) -> NDArray[np.float64]:
    """(PERMUTATIONS + 1,): how likely so many columns are equal."""
    equal = range(PERMUTATIONS + 1)
    return np.array([comb(PERMUTATIONS, n) * similarity**n * (1 - similarity) ** (PERMUTATIONS - n) for n in equal])


@cache
def _shares(width: int) -> NDArray[np.float64]:
    """(PERMUTATIONS + 1,): how likely a band falls on equal columns only."""
    return np.array([comb(equal, width) / comb(PERMUTATIONS, width) for equal in range(PERMUTATIONS + 1)])


def _below(least: int, similarity: float) -> float:
    return float(_chances(similarity)[:least].sum())


def _drawn(count: int, width: int) -> NDArray[np.int64]:
    chance = random.Random(_SEED)
    return np.array([sorted(chance.sample(range(PERMUTATIONS), width)) for _ in range(count)], dtype=np.int64)


def proposed(
    signatures: NDArray[np.uint8], chosen: Bands, among: NDArray[np.int64] | None = None, hands: int = 1
) -> tuple[NDArray[np.int64], Crowds]:
    """Pairs (pairs, 2) of rows that share a band and enough columns, the lower first; and large buckets apart.

    Signatures may lie on the disk. Only the rows `among` are looked at, and places count among them. Bands are looked
    at by so many hands, which are threads: arrays are compared outside Python.
    """
    rows = np.arange(len(signatures)) if among is None else among
    if len(rows) < 2:
        return np.zeros((0, 2), dtype=np.int64), _joined([])
    count, hands = len(rows), min(hands, _MOST_HANDS)
    together = max(1, min(_MERGED_BANDS, _KEY_BYTES // (8 * count)))
    parts = [chosen.columns[start : start + together] for start in range(0, len(chosen.columns), together)]
    pairs = np.zeros(0, dtype=np.int64)
    crowds: list[_Crowd] = []
    buckets = 0
    for found, crowded in _by_hands(partial(_of_bands, signatures, rows, chosen.at_least), parts, hands):
        pairs = distinct(np.concatenate([pairs, found]))
        for crowd, run in crowded:
            crowds.append((crowd, run + buckets))
            buckets += int(run[-1]) + 1
    return np.stack(np.divmod(pairs, count), axis=1), _joined(crowds)


def _by_hands(job: Callable[[Given], Made], parts: Sequence[Given], hands: int) -> Iterator[Made]:
    """What a job makes of each part, in order."""
    if hands <= 1:
        yield from map(job, parts)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(hands) as pool:
        yield from pool.map(job, parts)


def _of_bands(
    signatures: NDArray[np.uint8], rows: NDArray[np.int64], at_least: int, columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[_Crowd]]:
    """Pairs of places, as one number each, and large buckets of some bands."""
    pairs = np.zeros(0, dtype=np.int64)
    crowds: list[_Crowd] = []
    for band in _keys(signatures, rows, columns):
        keys = _shared(band)
        crowd = _crowd(keys)
        if len(crowd[0]):
            crowds.append(crowd)
        alike = [_alike(signatures, rows, pair, at_least) for pair in _neighbours(keys)]
        pairs = distinct(np.concatenate([pairs, *(one * len(rows) + two for one, two in alike)]))
    return pairs, crowds


def _keys(signatures: NDArray[np.uint8], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(bands, rows): the keys of some bands, from signatures that are read block by block."""
    found = np.empty((len(columns), len(rows)), dtype=np.uint64)
    for number, start in enumerate(range(0, len(rows), _BLOCK), 1):
        block = np.ascontiguousarray(signatures[rows[start : start + _BLOCK]].T)
        for place, band in enumerate(columns):
            found[place, start : start + _BLOCK] = band_keys(block[band])
        if number % _BLOCKS_BETWEEN == 0:
            let_go(signatures)
    return found


def _shared(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sorted keys with places of rows whose band may be that of another row: most are alone, and are not sorted."""
    bits = min(22, len(keys).bit_length() + 3)
    bins = (keys >> np.uint64(64 - bits)).astype(np.uint32)
    last = np.empty(1 << bits, dtype=np.uint32)
    places = np.arange(len(keys), dtype=np.uint32)
    last[bins] = places
    is_shared = np.zeros(1 << bits, dtype=bool)
    is_shared[bins[last[bins] != places]] = True
    at = np.flatnonzero(is_shared[bins])
    found = keys[at] | at.astype(np.uint64)
    found.sort()
    return found


def sorted_keys(band: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """For each row of a band (width, rows), a hash of it in the upper half and its place in the lower; sorted."""
    keys = band_keys(band)
    keys |= np.arange(len(keys), dtype=np.uint64)
    keys.sort()
    return keys


def band_keys(band: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(rows,): a hash of the band (width, rows) in the upper half, nothing in the lower."""
    key = np.zeros(band.shape[1], dtype=np.uint64)
    for column in band:
        key *= np.uint64(0x9E3779B97F4A7C15)
        key += column
        key += np.uint64(1)
    key ^= key >> np.uint64(29)
    key *= np.uint64(0xD6E8FEB86659FD93)
    key &= np.uint64(0xFFFFFFFF00000000)
    return key


def _runs(keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The bucket's hash of each sorted key, and where buckets begin (and end)."""
    high = (keys >> np.uint64(32)).astype(np.uint32)
    edges = np.flatnonzero(np.concatenate([[True], high[1:] != high[:-1], [True]])[: len(high) + 1])
    return high, edges


def _crowd(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Members of buckets with many rows, and the number of each one's bucket from 0."""
    _, edges = _runs(keys)
    sizes = np.diff(edges)
    large = np.flatnonzero(sizes > _CROWD)
    chosen = [np.arange(edges[run], edges[run + 1]) for run in large.tolist()]
    at = np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)
    places = (keys[at] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return places, np.repeat(np.arange(len(large)), sizes[large])


def _neighbours(keys: NDArray[np.uint64]) -> Iterator[Pairs]:
    """All pairs inside buckets with few rows."""
    _, edges = _runs(keys)
    sizes = np.diff(edges)
    fitting = np.repeat((sizes > 1) & (sizes <= _CROWD), sizes)
    kept = keys[fitting]
    high = kept >> np.uint64(32)
    places = (kept & np.uint64(0xFFFFFFFF)).astype(np.int64)
    for distance in range(1, _CROWD):
        same = np.flatnonzero(high[distance:] == high[:-distance])
        if len(same) == 0:
            return
        yield places[same], places[same + distance]


def _alike(signatures: NDArray[np.uint8], rows: NDArray[np.int64], pairs: Pairs, at_least: int) -> Pairs:
    """Those of the pairs that share enough columns: of many strangers that a band proposes, next to none."""
    one, two = pairs
    found = np.zeros(len(one), dtype=bool)
    for start in range(0, len(one), _BLOCK):
        part = slice(start, start + _BLOCK)
        same = signatures[rows[one[part]]] == signatures[rows[two[part]]]
        found[part] = np.count_nonzero(same, axis=1) >= at_least
        let_go(signatures)
    return one[found], two[found]


def _joined(crowds: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Crowds:
    if not crowds:
        return Crowds(np.zeros(0, np.int64), np.zeros(0, np.int64))
    places, buckets = (np.concatenate(part) for part in zip(*crowds, strict=True))
    order = np.lexsort((buckets, places))
    return Crowds(places[order], buckets[order])
