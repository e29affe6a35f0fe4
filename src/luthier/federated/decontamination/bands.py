"""Rows as elements of a set: the bands of their MinHash signatures, each with its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.artifacts.dataset import has_split, read_example_batches
from luthier.chat.messages import Example
from luthier.core.artifact import Artifact
from luthier.core.hashing import digest_of
from luthier.data.dedup.minhash import compute_minhash_signatures
from luthier.data.dedup.shingles import normalize_for_comparison
from luthier.data.ops.near_dedup import NearDedup
from luthier.data.row import Row
from luthier.federated.decontamination.settings import BAND_WIDTH, BANDS, DecontaminationSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_ELEMENTS = 512
"""Of a set of so many or fewer, no size is seen."""
_ROWS_AT_ONCE = 2048


def read_bands(data: Artifact, splits: Sequence[str], settings: DecontaminationSettings) -> NDArray[np.uint64]:
    """(rows, BANDS): the bands of all rows of some splits, those that there are; the band's number stands in the upper
    half of each, its four columns in the lower."""
    operator = NearDedup(threshold=settings.threshold, of=settings.of, unit=settings.unit, size=settings.size)
    found = [np.zeros((0, BANDS), np.uint64)]
    for split in splits:
        if has_split(data, split):
            for examples in read_example_batches(data, split):
                found.append(_compute_bands(operator, [_build_row(example) for example in examples]))
    return np.concatenate(found)


def _compute_bands(operator: NearDedup, rows: Sequence[Row]) -> NDArray[np.uint64]:
    texts = [normalize_for_comparison(operator.text(row)) for row in rows]
    signatures = compute_minhash_signatures(operator.pieces(texts, rows))
    values = np.ascontiguousarray(signatures.reshape(len(rows), BANDS, BAND_WIDTH)).view("<u4")[:, :, 0]
    bands: NDArray[np.uint64] = values.astype(np.uint64) | (np.arange(BANDS, dtype=np.uint64) << np.uint64(32))
    return bands


def _build_row(example: Example) -> Row:
    origin = example.origin
    return Row(
        n=origin.line, id=example.id, source=origin.source, file=origin.file, line=origin.line, kind=example.kind,
        messages=example.messages, tools=example.tools, meta=dict(example.meta),
    )  # fmt: skip


def encode_elements(bands: NDArray[np.uint64], settings: DecontaminationSettings) -> list[bytes]:
    """Bands (elements,) as bytes that differ between settings, too."""
    prefix = digest_of(settings.model_dump(mode="json", exclude={"max_rows"})).encode()
    content = bands.astype("<u8").tobytes()
    return [prefix + content[at : at + 8] for at in range(0, len(content), 8)]


def pad_size(count: int) -> int:
    """The size that is told of a set: at most a quarter more, so that near sizes look alike."""
    if count <= LEAST_ELEMENTS:
        return LEAST_ELEMENTS
    step = 1 << ((count - 1).bit_length() - 3)
    return -(-count // step) * step


def find_repeated_rows(
    bands: NDArray[np.uint64], elements: NDArray[np.uint64], matches: NDArray[np.int64], shared_bands: int
) -> NDArray[np.bool_]:
    """(rows,): which rows share enough bands with one row of another site. `elements` are the different bands, sorted;
    `matches` (matches, 2) has the index of an element, and the number of a row there that holds it."""
    unique, inverse = np.unique(bands, axis=0, return_inverse=True)
    order = np.argsort(matches[:, 0], kind="stable")
    indices, others = matches[order, 0], matches[order, 1]
    starts = np.searchsorted(indices, np.arange(len(elements)))
    counts = np.diff([*starts.tolist(), len(indices)])
    found = np.zeros(len(unique), dtype=bool)
    for begin in range(0, len(unique), _ROWS_AT_ONCE):
        own = np.searchsorted(elements, unique[begin : begin + _ROWS_AT_ONCE])
        for at in np.flatnonzero(np.count_nonzero(counts[own], axis=1) >= shared_bands).tolist():
            met: list[Any] = [others[starts[index] : starts[index] + counts[index]] for index in own[at]]
            found[begin + at] = np.unique(np.concatenate(met), return_counts=True)[1].max() >= shared_bands
    repeated: NDArray[np.bool_] = found[inverse.reshape(-1)]
    return repeated
