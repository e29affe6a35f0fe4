"""Which rows may be twins: MinHash signatures of one byte a permutation, cut into bands that overlook next to nothing.

A signature's byte is the same in two rows with probability J + (1 - J) / 256 at least, J being their Jaccard
similarity (Broder 1997; Li and König 2010, b-bit minwise hashing). A band is a set of columns drawn at random; two rows
are proposed when some band is the same in both. Bands may share columns, so that many wide ones fit: wide bands
propose few strangers, and many of them overlook few twins. `bands` says how few.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from math import comb
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from luthier.core.files import writing
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
_FEW_ROWS, _MANY_ROWS = 1 << 18, 1 << 22
_MERGED_BANDS = 32
_WAITING = 1 << 19
"""Pairs that are gathered before they are looked at: most come from several bands."""
_AT_ONCE, _NEARBY = 1 << 11, 1 << 16
"""Pairs that are looked at before pages of the signatures' file are let go; they come in stretches of so many rows."""
_MOST_HANDS = 4
"""Each needs a few dozen bytes a row."""
_BLOCK = 1 << 14
_BLOCKS_BETWEEN = 16
"""After so many blocks, pages of a file are let go."""
_MOST_BITS = 22
"""Of a band's hash, that tell which rows stand alone."""


class Means(NamedTuple):
    """What pairs are looked for with."""

    hands: int = 1
    """Threads: arrays are compared outside Python."""
    scratch: Path | None = None
    """Where a file may lie meanwhile; None: where the system keeps such files."""


ALONE = Means()
Given = TypeVar("Given")
Made = TypeVar("Made")
_Crowd = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""Members of large buckets, and the number of each one's bucket."""
_Pairs = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
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


def most_bands(rows: int) -> int:
    """More bands, which are wider, for more rows: how many strangers a row meets should not grow with the rows."""
    return MOST_BANDS * (1 if rows <= _FEW_ROWS else 2 if rows <= _MANY_ROWS else 4)


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
    signatures: NDArray[np.uint8], chosen: Bands, among: NDArray[np.int64] | None = None, means: Means = ALONE
) -> tuple[NDArray[np.int64], Crowds]:
    """Pairs (pairs, 2) of rows that share a band and enough columns, the lower first; and large buckets apart.

    Signatures may lie on the disk. Only the rows `among` are looked at, and places count among them.
    """
    rows = np.arange(len(signatures)) if among is None else among
    if len(rows) < 2:
        return np.zeros((0, 2), dtype=np.int64), _joined([])
    parts = [chosen.columns[start : start + _MERGED_BANDS] for start in range(0, len(chosen.columns), _MERGED_BANDS)]
    pairs = np.zeros(0, dtype=np.int64)
    crowds: list[_Crowd] = []
    buckets = 0
    with tempfile.TemporaryFile(dir=means.scratch, prefix="luthier.columns.") as file:
        with writing(means.scratch or tempfile.gettempdir()):
            by_column = _by_column(signatures, rows, file)
        look = partial(_of_bands, signatures, rows, by_column, chosen.at_least)
        for found, crowded in _by_hands(look, parts, min(means.hands, _MOST_HANDS)):
            pairs = distinct(np.concatenate([pairs, found]))
            for crowd, run in crowded:
                crowds.append((crowd, run + buckets))
                buckets += int(run[-1]) + 1
    return np.stack(np.divmod(pairs, len(rows)), axis=1), _joined(crowds)


def _by_column(signatures: NDArray[np.uint8], rows: NDArray[np.int64], file: IO[bytes]) -> NDArray[np.uint8]:
    """(blocks, PERMUTATIONS, _BLOCK): signatures column by column, on the disk: a band reads its own columns alone."""
    blocks = -(-len(rows) // _BLOCK)
    block = np.zeros((PERMUTATIONS, _BLOCK), dtype=np.uint8)
    for start in range(0, len(rows), _BLOCK):
        some = signatures[rows[start : start + _BLOCK]]
        block[:, : len(some)] = some.T
        file.write(block.data)
        let_go(signatures)
    file.flush()
    return np.memmap(file, dtype=np.uint8, mode="r", shape=(blocks, PERMUTATIONS, _BLOCK)).view(np.ndarray)


def _by_hands(job: Callable[[Given], Made], parts: Sequence[Given], hands: int) -> Iterator[Made]:
    """What a job makes of each part, in order."""
    if hands <= 1:
        yield from map(job, parts)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(hands) as pool:
        yield from pool.map(job, parts)


def _of_bands(
    signatures: NDArray[np.uint8],
    rows: NDArray[np.int64],
    by_column: NDArray[np.uint8],
    at_least: int,
    columns: NDArray[np.int64],
) -> tuple[NDArray[np.int64], list[_Crowd]]:
    """Pairs of places, as one number each, and large buckets of some bands."""
    pairs = np.zeros(0, dtype=np.int64)
    crowds: list[_Crowd] = []
    waiting: list[NDArray[np.int64]] = []
    for left, band in enumerate(columns, 1 - len(columns)):
        keys = _shared(_keys(by_column, len(rows), band))
        crowd = _crowd(keys)
        if len(crowd[0]):
            crowds.append(crowd)
        waiting += [one * len(rows) + two for one, two in _neighbours(keys)]
        if not left or sum(map(len, waiting)) > _WAITING:
            new = np.setdiff1d(distinct(np.concatenate([pairs[:0], *waiting])), pairs, assume_unique=True)
            pairs = np.union1d(pairs, new[_are_alike(signatures, rows, new, at_least)])
            waiting.clear()
    return pairs, crowds


def _keys(by_column: NDArray[np.uint8], count: int, band: NDArray[np.int64]) -> NDArray[np.uint32]:
    """(rows,): the hashes of one band."""
    found = np.empty(by_column.shape[0] * _BLOCK, dtype=np.uint32)
    for number, block in enumerate(by_column):
        found[number * _BLOCK :][:_BLOCK] = band_keys(block[band]) >> np.uint64(32)
        if number % _BLOCKS_BETWEEN == 0:
            let_go(by_column)
    return found[:count]


def _shared(hashes: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Sorted keys with places of rows whose band may be that of another row: most are alone, and are not sorted."""
    bits = min(_MOST_BITS, len(hashes).bit_length() + 3)
    shift = np.uint32(32 - bits)
    last = np.empty(1 << bits, dtype=np.uint32)
    blocks = [(hashes[start : start + _BLOCK], start) for start in range(0, len(hashes), _BLOCK)]
    for some, start in blocks:
        last[some >> shift] = np.arange(start, start + len(some), dtype=np.uint32)
    is_shared = np.zeros(1 << bits, dtype=bool)
    for some, start in blocks:
        bins = some >> shift
        is_shared[bins[last[bins] != np.arange(start, start + len(some), dtype=np.uint32)]] = True
    at = np.concatenate([np.flatnonzero(is_shared[some >> shift]) + start for some, start in blocks]).astype(np.uint64)
    found = (hashes[at].astype(np.uint64) << np.uint64(32)) | at
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


def _neighbours(keys: NDArray[np.uint64]) -> Iterator[_Pairs]:
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


def _are_alike(
    signatures: NDArray[np.uint8], rows: NDArray[np.int64], pairs: NDArray[np.int64], at_least: int
) -> NDArray[np.bool_]:
    """Which of the pairs share enough columns: of many strangers that a band proposes, next to none."""
    found = np.zeros(len(pairs), dtype=bool)
    one, two = np.divmod(pairs, len(rows))
    by_place = np.lexsort((two // _NEARBY, one // _NEARBY))
    for start in range(0, len(pairs), _AT_ONCE):
        at = by_place[start : start + _AT_ONCE]
        same = signatures[rows[one[at]]] == signatures[rows[two[at]]]
        found[at] = np.count_nonzero(same, axis=1) >= at_least
        let_go(signatures)
    return found


def _joined(crowds: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Crowds:
    if not crowds:
        return Crowds(np.zeros(0, np.int64), np.zeros(0, np.int64))
    places, buckets = (np.concatenate(part) for part in zip(*crowds, strict=True))
    order = np.lexsort((buckets, places))
    return Crowds(places[order], buckets[order])
