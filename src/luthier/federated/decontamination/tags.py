"""The bands of held-out rows as tags: who knows a band's value finds it, and the random number of its row."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from luthier.federated.decontamination.bands import pad_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARK_BYTES, NUMBER_BYTES = 8, 4
TAG_BYTES = MARK_BYTES + NUMBER_BYTES
_LEAST_ROWS = 16
"""Number of rows up to which their number is not revealed."""
MOST_REPEATS = 64
"""Held-out rows that one band is listed for; the same first ones in every band."""


class TagList:
    """The tags of some rows for one peer: for each band of each row, 8 bytes by which who knows the band's value finds
    it, and the row's number under a mask from the same value.

    Rows have random numbers. A band of several rows has a tag for each, which look like those of others.
    """

    def __init__(self, rows: int, bands: int) -> None:
        self._least = _LEAST_ROWS * bands
        self._numbers = list(range(rows))
        secrets.SystemRandom().shuffle(self._numbers)
        self._listed: list[bytes] = []

    def add(self, bands: NDArray[np.uint64], elements: NDArray[np.uint64], values: Sequence[bytes]) -> None:
        """Some bands (rows, bands) of all rows; `values` are those of their different `elements`, sorted."""
        times = [0] * len(elements)
        for row, indices in zip(self._numbers, np.searchsorted(elements, bands).tolist(), strict=True):
            for index in indices:
                if times[index] < MOST_REPEATS:
                    self._listed.append(_mask_number(values[index], times[index], row))
                    times[index] += 1

    def pack(self) -> NDArray[np.uint8]:
        """(tags, 12): sorted, and padded with random ones."""
        chaff = range(pad_size(len(self._listed), self._least) - len(self._listed))
        listed = self._listed + [secrets.token_bytes(TAG_BYTES) for _ in chaff]
        return np.frombuffer(b"".join(sorted(listed)), np.uint8).reshape(-1, TAG_BYTES)


def match_tags(values: Sequence[bytes], tags: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(matches, 2): the index of a value that has a tag, and the number of the row there."""
    listed = {tag[:MARK_BYTES].tobytes(): tag[MARK_BYTES:].tobytes() for tag in tags}
    found: list[tuple[int, int]] = []
    for index, value in enumerate(values):
        for time in range(MOST_REPEATS):
            none = _mask_number(value, time, 0)
            if (masked := listed.get(none[:MARK_BYTES])) is None:
                break
            found.append((index, int.from_bytes(masked, "big") ^ int.from_bytes(none[MARK_BYTES:], "big")))
    return np.array(sorted(set(found)), dtype=np.int64).reshape(-1, 2)


def _mask_number(value: bytes, time: int, number: int) -> bytes:
    """The tag of the so manieth row that holds an element, with the row's number under its mask."""
    digest = hashlib.sha256(value + time.to_bytes(4, "big")).digest()
    masked = int.from_bytes(digest[MARK_BYTES:TAG_BYTES], "big") ^ number
    return digest[:MARK_BYTES] + masked.to_bytes(NUMBER_BYTES, "big")
