"""MinHash-LSH: signatures of one byte a permutation, cut into bands that propose candidate pairs.

A signature's byte is the same in two rows with probability J + (1 - J) / 256 at least, J being their Jaccard
similarity (Broder 1997; Li and König 2010, b-bit minwise hashing). A band is a set of columns drawn at random; two rows
are proposed when some band is the same in both. Bands may share columns, so that many wide ones fit: wide bands
propose few strangers, and many of them overlook few twins. `choose_bands` says how few.
"""

from __future__ import annotations

import random
import tempfile
from array import array
from collections.abc import Callable, Iterator
from functools import cache
from itertools import starmap
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from luthier.core.files import translate_write_errors
from luthier.data.dedup.memory_map import (
    FEW,
    MemoryMapLocation,
    locate_memory_map,
    open_memory_map,
    read_rows,
    release_mapped_pages,
)
from luthier.data.dedup.shingles import ComplementIndexSet, FlatShingles, IndexSet, sort_unique
from luthier.pii.batch import find_hash_bin_collisions

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERMUTATIONS = 128
MISSED = 1e-6
"""Bands are so chosen that a pair at the threshold is overlooked no more often than this."""
_SEED = 7919
MOST_BANDS = 256
_WIDEST = 24
_CROWD, _LARGEST = 12, 1024
"""A bucket with more rows than the first is settled row by row instead of pair by pair where most of them are alike;
with more than the second, always. Strangers all stay: row by row, each would be compared with all before it."""
_FEW_ROWS, _MANY_ROWS = 1 << 18, 1 << 22
_MERGED_BANDS = 16
"""Bands that are looked at together; their pairs are told to those that are not asked for yet."""
_WAITING = 1 << 18
"""Pairs that are gathered before they are looked at, since most come from several bands; and those that are told from
strangers at once."""
_NEARBY = 1 << 16
"""Signatures of pairs are read in stretches of so many rows."""
_COMPARED = 1 << 13
"""Pairs whose quarters are compared at a time: they should fit the processor's cache."""
_BANDS_BETWEEN = 8
"""After so many bands, pages of the quarters are let go."""
_STRETCH = 1 << 15
"""Pairs that are made of a bucket's members at a time."""
_BLOCK = 1 << 14
_BLOCKS_BETWEEN = 4
"""After so many blocks, pages of a file are let go."""
_EACH_BYTE = np.uint64(0x0101010101010101)
_QUARTERS_IN = np.array([sum(byte >> 2 * at & 3 > 0 for at in range(4)) for byte in range(256)], dtype=np.uint8)
"""How many of the four quarters in a byte are not nought."""
_MIXER = np.uint64(0x9E3779B97F4A7C15)
_HALF, _LOWER = np.uint64(32), np.uint64(0xFFFFFFFF)


class PairSearchResources(NamedTuple):
    """What pairs are looked for with."""

    map_items: Callable[..., Iterator[Any]] = starmap
    """What a job makes of each of some values, in order, as `Corpus.map_items`."""
    scratch: Path | None = None
    """Where files may lie meanwhile; None: where the system keeps such files."""
    tick: Callable[[int, int], None] = lambda done, total: None
    """Says how many rows of how many are compared, as `RowCorpus.tick`."""


ALONE = PairSearchResources()
_LargeBucket = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""Members of large buckets, and the number of each one's bucket."""
_Pairs = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""The places of either row of some pairs."""


class LshBandLayout(NamedTuple):
    """The LSH bands: which signature columns each has, and how many equal columns a candidate pair needs."""

    columns: NDArray[np.int64]
    """(bands, width): columns of the signature."""
    at_least: int
    """Equal columns below this number are not worth a look."""
    at_least_quarters: int
    """Nor are equal upper quarters of columns (two of eight bits) below this one."""
    missed: float
    """The chance that a pair at the threshold is overlooked."""


class LargeBuckets(NamedTuple):
    """Members of large buckets: row by row, sorted by bucket."""

    indices: NDArray[np.int64]
    buckets: NDArray[np.int64]


def compute_minhash_signatures(
    flat: FlatShingles, permutations: int = PERMUTATIONS, seed: int = _SEED
) -> NDArray[np.uint8]:
    """Compute MinHash signatures of shape (texts, permutations), of which the highest byte of each minimum is kept."""
    import rensa

    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(flat.hashes, flat.offsets.tolist(), permutations, seed)
    rows = b"".join([array("I", row) for row in matrix.to_rows()])  # a quarter of what `np.array` takes for lists
    least = np.frombuffer(rows, dtype=np.uint32).reshape(-1, permutations)
    return ((least * np.uint32(0x9E3779B1)) >> np.uint32(24)).astype(np.uint8)


@cache
def choose_bands(threshold: float, most: int = MOST_BANDS) -> LshBandLayout:
    """The widest bands, at most so many, that overlook a pair at the threshold once in a million or less."""
    quarter = threshold + (1 - threshold) / 4
    at_least = max(least for least in range(PERMUTATIONS + 1) if _below(least, threshold) <= MISSED / 2)
    quarters = max(least for least in range(PERMUTATIONS + 1) if _below(least, quarter) <= MISSED / 500)
    lost = _below(at_least, threshold) + _below(quarters, quarter)
    for width in range(_WIDEST, 0, -1):
        for count in range(8, most + 1, 8):
            missed = miss_probability(threshold, width, count) + lost
            if missed <= MISSED:
                return LshBandLayout(_drawn(count, width), at_least, quarters, missed)
    raise AssertionError(f"no bands for {threshold}")


def max_bands_for(rows: int) -> int:
    """More bands, which are wider, for more rows: how many strangers a row meets should not grow with the rows."""
    return MOST_BANDS * (1 if rows <= _FEW_ROWS else 2 if rows <= _MANY_ROWS else 4)


def miss_probability(similarity: float, width: int, count: int) -> float:
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


def propose_candidate_pairs(
    signatures: NDArray[np.uint8],
    chosen: LshBandLayout,
    among: IndexSet | None = None,
    means: PairSearchResources = ALONE,
) -> tuple[NDArray[np.int64], LargeBuckets]:
    """Pairs (pairs, 2) of rows that share a band and enough columns, the lower first; and large buckets apart.

    Signatures may lie on the disk. Only the rows `among` are looked at, and places count among them.
    """
    rows = ComplementIndexSet(len(signatures)) if among is None else among
    if len(rows) < 2:
        return np.zeros((0, 2), dtype=np.int64), _joined([])
    pairs = np.zeros(0, dtype=np.int64)
    large_buckets: list[_LargeBucket] = []
    buckets = 0
    with _folder(means) as folder:
        with translate_write_errors(folder):
            looked = _Looked(signatures, rows, *_columns(signatures, rows, Path(folder)), chosen)
        parts = np.array_split(chosen.columns, -(-len(chosen.columns) // _MERGED_BANDS))
        for found, large in means.map_items(_of_bands, ((looked, pairs, part) for part in parts)):
            pairs = sort_unique(np.concatenate([pairs, found]))
            for large_bucket, run in large:
                large_buckets.append((large_bucket, run + buckets))
                buckets += int(run[-1]) + 1
    return np.stack(np.divmod(pairs, len(rows)), axis=1), _joined(large_buckets)


class _Looked(NamedTuple):
    """Rows among which pairs are looked for; places count among `rows`."""

    signatures: NDArray[np.uint8]
    rows: IndexSet
    by_column: NDArray[np.uint8]
    """(blocks, PERMUTATIONS, _BLOCK): signatures column by column, on the disk: a band reads its own columns alone."""
    quarters: NDArray[np.uint64]
    """(rows, 4): the upper two bits of each column, on the disk, too: so few pages tell nearly all strangers."""
    chosen: LshBandLayout

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the files for itself."""
        signatures, by_column = locate_memory_map(self.signatures), locate_memory_map(self.by_column)
        return _looked_again, (signatures, self.rows, by_column, locate_memory_map(self.quarters), self.chosen)

    def near(self, one: NDArray[np.int64], two: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pairs share enough quarters to be looked at."""
        most = np.uint64(PERMUTATIONS - self.chosen.at_least_quarters)
        near = np.empty(np.broadcast_shapes(one.shape, two.shape), dtype=bool)
        ones = np.broadcast_to(one, near.shape)
        for start in range(0, len(near), _COMPARED):
            part = slice(start, start + _COMPARED)
            other = self.quarters.take(ones[part], axis=0) ^ self.quarters.take(two[part], axis=0)
            unlike = _QUARTERS_IN[other.view(np.uint8)].view(np.uint64).sum(axis=1)
            near[part] = (unlike * _EACH_BYTE) >> np.uint64(56) <= most
        return near


def _looked_again(
    signatures: MemoryMapLocation,
    rows: IndexSet,
    by_column: MemoryMapLocation,
    quarters: MemoryMapLocation,
    chosen: LshBandLayout,
) -> _Looked:
    return _Looked(open_memory_map(signatures), rows, open_memory_map(by_column), open_memory_map(quarters), chosen)


def _folder(means: PairSearchResources) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=means.scratch, prefix="luthier.columns.", ignore_cleanup_errors=True)


def _columns(
    signatures: NDArray[np.uint8], rows: IndexSet, folder: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Write the signatures column by column, and their quarters, and map them."""
    block = np.zeros((PERMUTATIONS, _BLOCK), dtype=np.uint8)
    with (folder / "columns").open("wb") as columns, (folder / "quarters").open("wb") as quarters:
        for start in range(0, len(rows), _BLOCK):
            some = signatures[rows[start : start + _BLOCK]]
            block[:, : len(some)] = some.T
            columns.write(block.data)
            four = [(some[:, part::4] >> 6) << 2 * part for part in range(4)]
            quarters.write((four[0] | four[1] | four[2] | four[3]).data)
            release_mapped_pages(signatures)
    by_column = np.memmap(folder / "columns", dtype=np.uint8, mode="r").view(np.ndarray)
    by_row = np.memmap(folder / "quarters", dtype=np.uint64, mode="r").view(np.ndarray)
    return by_column.reshape(-1, PERMUTATIONS, _BLOCK), by_row.reshape(-1, PERMUTATIONS // 32)


def _of_bands(
    looked: _Looked, known: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[_LargeBucket]]:
    """Pairs of places, as one number each, that some bands find and are not known already, and large buckets."""
    pairs = known
    large_buckets: list[_LargeBucket] = []
    waiting: list[NDArray[np.int64]] = []
    count = len(looked.rows)
    for left, band in enumerate(columns, 1 - len(columns)):
        keys = _shared(_keys(looked.by_column, count, band))
        buckets = _buckets(keys)
        is_large = _are_large(looked, keys, buckets)
        if is_large.any():
            large_buckets.append(_collect_large_bucket(keys, buckets, is_large))
        for entry, two in _neighbours(keys, buckets, ~is_large):
            near = looked.near(entry, two)
            waiting.append(entry[near] * count + two[near])
        if left % _BANDS_BETWEEN == 0:
            release_mapped_pages(looked.quarters)
        if not left or sum(map(len, waiting)) > _WAITING:
            new = np.setdiff1d(sort_unique(np.concatenate([pairs[:0], *waiting])), pairs, assume_unique=True)
            pairs = sort_unique(np.concatenate([pairs, new[_are_alike(looked, new)]]))
            waiting.clear()
    return np.setdiff1d(pairs, known, assume_unique=True), large_buckets


def _keys(by_column: NDArray[np.uint8], count: int, band: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(rows,): the hash of one band in the upper half, the place in the lower; sorted. Of few rows, most that are alone
    are left out."""
    found = np.empty(count, dtype=np.uint64)
    for number, block in enumerate(by_column):
        start = number * block.shape[1]
        end = min(start + block.shape[1], count)
        found[start:end] = band_keys(block[band, : end - start])
        found[start:end] |= np.arange(start, end, dtype=np.uint64)
        if number % _BLOCKS_BETWEEN == 0:
            release_mapped_pages(by_column)
    if count <= _FEW_ROWS:
        found = found.compress(find_hash_bin_collisions(found >> _HALF, count.bit_length() + 2))
    found.sort()
    return found


def _shared(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those of the sorted keys whose hash another row has, too: most rows are alone."""
    found = [keys[:0]]
    for start in range(0, len(keys), _BLOCK):
        before = max(start - 1, 0)
        high = keys[before : start + _BLOCK + 1] >> _HALF
        same = np.concatenate([[False], high[1:] == high[:-1], [False]])
        at = np.flatnonzero((same[1:] | same[:-1])[start - before :][:_BLOCK])
        found.append(keys[start + at])
    return np.concatenate(found)


def sort_band_keys(band: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """For each row of a band (width, rows), a hash of it in the upper half and its place in the lower; sorted."""
    keys = band_keys(band)
    keys |= np.arange(len(keys), dtype=np.uint64)
    keys.sort()
    return keys


def band_keys(band: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(rows,): a hash of the band (width, rows) in the upper half, nothing in the lower."""
    parts = list(band)
    for kind, bits in ((np.uint16, 8), (np.uint32, 16), (np.uint64, 32)):
        wider = [part.astype(kind) for part in parts]
        for at in range(1, len(wider), 2):
            wider[at - 1] <<= kind(bits)
            wider[at - 1] |= wider[at]
        parts = wider[::2]
    key: NDArray[np.uint64] = parts[0]
    key *= _MIXER
    for part in parts[1:]:
        key ^= key >> np.uint64(29)
        key += part
        key *= _MIXER
    key ^= key >> np.uint64(29)
    key *= np.uint64(0xD6E8FEB86659FD93)
    key &= np.uint64(0xFFFFFFFF00000000)
    return key


def _buckets(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where buckets begin among sorted keys, and where the last one ends."""
    high = keys >> _HALF
    return np.flatnonzero(np.concatenate([[True], high[1:] != high[:-1], [True]])[: len(high) + 1])


def _places(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (keys & _LOWER).astype(np.int64)


def _are_large(looked: _Looked, keys: NDArray[np.uint64], buckets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which buckets are large and of rows that are mostly like their first, or larger than what is taken in pairs."""
    sizes = np.diff(buckets)
    found = sizes > _CROWD
    for bucket in np.flatnonzero(found & (sizes <= _LARGEST)).tolist():
        members = _places(keys[buckets[bucket] : buckets[bucket + 1]])
        found[bucket] = 2 * np.count_nonzero(looked.near(members[:1], members[1:])) >= sizes[bucket] - 1
    return found


def _collect_large_bucket(
    keys: NDArray[np.uint64], buckets: NDArray[np.int64], mask: NDArray[np.bool_]
) -> _LargeBucket:
    """Members of the buckets that are wanted, and the number of each one's bucket from 0."""
    sizes = np.diff(buckets)
    return _places(keys[np.repeat(mask, sizes)]), np.repeat(np.arange(np.count_nonzero(mask)), sizes[mask])


def _neighbours(keys: NDArray[np.uint64], buckets: NDArray[np.int64], mask: NDArray[np.bool_]) -> Iterator[_Pairs]:
    """All pairs inside the buckets that are wanted, in stretches."""
    sizes = np.diff(buckets)
    indices = _places(keys[np.repeat(mask, sizes)])
    sizes = sizes[mask]
    ends = np.cumsum(sizes)
    before = np.arange(len(indices)) - np.repeat(ends - sizes, sizes)
    until = np.concatenate([[0], np.cumsum(before)])
    start = 0
    while start < len(indices):
        end = max(start + 1, int(np.searchsorted(until, until[start] + _STRETCH, "right")) - 1)
        counts = before[start:end]
        two = np.repeat(np.arange(start, end), counts)
        back = np.arange(len(two)) - np.repeat(until[start:end] - until[start], counts)
        yield indices[two - 1 - back], indices[two]
        start = end


def _are_alike(looked: _Looked, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the pairs share enough columns, by a look at the disk."""
    found = np.zeros(len(pairs), dtype=bool)
    one, two = np.divmod(pairs, len(looked.rows))
    by_place = np.lexsort((two // _NEARBY, one // _NEARBY))
    for start in range(0, len(pairs), FEW):
        at = by_place[start : start + FEW]
        same = read_rows(looked.signatures, looked.rows[one[at]]) == read_rows(looked.signatures, looked.rows[two[at]])
        found[at] = np.count_nonzero(same, axis=1) >= looked.chosen.at_least
    return found


def _joined(large_buckets: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> LargeBuckets:
    if not large_buckets:
        return LargeBuckets(np.zeros(0, np.int64), np.zeros(0, np.int64))
    indices, buckets = (np.concatenate(part) for part in zip(*large_buckets, strict=True))
    order = np.lexsort((buckets, indices))
    return LargeBuckets(indices[order], buckets[order])
