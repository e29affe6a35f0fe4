"""Near copies among pictures and sounds, by their perceptual fingerprints: every pair within a distance is found.

Two fingerprints that differ in `d` bits agree in at least one of `d + 1` bands of their bits, so that only those that
share a band are compared, bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from luthier.chat.messages import Message

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES: Final = 16
"""Of a fingerprint."""
_BLOCK = 4096
_ONES = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


class MediaTwins(NamedTuple):
    """Fingerprints that stand for several media, each once."""

    heads: NDArray[np.int64]
    """(prints,): the place of the first print of each one's cluster."""
    distances: NDArray[np.int64]
    """(prints,): in how many bits it differs from the head of its cluster."""


def fingerprints_of(messages: Sequence[Message]) -> list[tuple[str, bytes]]:
    """Kind and fingerprint of each medium of some turns, in order; of one without a fingerprint, its digest's bits."""
    return [
        (media.kind, bytes.fromhex(media.fingerprint or media.digest[: 2 * BYTES]))
        for message in messages
        for media in message.media
    ]


def distance_between(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(pairs,): in how many bits fingerprints (pairs, 16) differ."""
    distances: NDArray[np.int64] = _ONES[one ^ two].sum(axis=-1, dtype=np.int64)
    return distances


def cluster_fingerprints(prints: NDArray[np.uint8], distance: int) -> MediaTwins:
    """Clusters of different fingerprints (prints, 16) that differ in at most so many bits from another one of them."""
    parents = np.arange(len(prints), dtype=np.int64)
    for ones, others in _pairs(prints, distance):
        for one, other in zip(ones.tolist(), others.tolist(), strict=True):
            low, high = sorted((_head(parents, one), _head(parents, other)))
            parents[high] = low
    heads = np.array([_head(parents, index) for index in range(len(prints))], dtype=np.int64)
    return MediaTwins(heads, distance_between(prints, prints[heads]) if len(prints) else heads)


def _head(parents: NDArray[np.int64], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = int(parents[index])
    return index


def _pairs(prints: NDArray[np.uint8], distance: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs within the distance, some of them more than once."""
    bits = np.unpackbits(prints, axis=1)
    for band in np.array_split(np.arange(bits.shape[1]), distance + 1):
        keys = np.packbits(bits[:, band], axis=1)
        packed = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).reshape(-1)
        order = np.argsort(packed, kind="stable")
        ordered = packed[order]
        ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(order))
        begin = 0
        for end in ends.tolist():
            if end - begin > 1:
                yield from _within(prints, order[begin:end], distance)
            begin = end


def _within(
    prints: NDArray[np.uint8], members: NDArray[np.int64], distance: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs among the members of a bucket that are within the distance."""
    rows = max(1, (_BLOCK * _BLOCK) // max(1, BYTES * len(members)))
    for begin in range(0, len(members) - 1, rows):
        some = members[begin : begin + rows]
        rest = members[begin:]
        near = distance_between(prints[some][:, None], prints[rest][None, :]) <= distance
        at, other = np.nonzero(np.triu(near, 1))
        if len(at):
            yield some[at], rest[other]
