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
from luthier.federated.decontamination.settings import (
    FIRST_BANDS,
    LATER_BANDS,
    BandLayout,
    DecontaminationSettings,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_ELEMENTS = 512
"""Number of elements up to which the size of a set is not revealed."""
LEAST_CANDIDATES = 8
"""Number of candidates up to which their number is not revealed."""
_ROWS_AT_ONCE = 2048


def read_bands(
    data: Artifact,
    splits: Sequence[str],
    settings: DecontaminationSettings,
    layout: BandLayout = FIRST_BANDS,
    among: NDArray[np.int64] | None = None,
) -> NDArray[np.uint64]:
    """(rows, bands): the bands of all rows of some splits, those that there are, or of the rows `among` them, whose
    places are sorted; the band's number stands above its columns."""
    operator = NearDedup(threshold=settings.threshold, of=settings.of, unit=settings.unit, size=settings.size)
    found, before = [np.zeros((0, layout.number), np.uint64)], 0
    for split in splits:
        if has_split(data, split):
            for examples in read_example_batches(data, split):
                rows = range(len(examples)) if among is None else _select(among, before, len(examples))
                found.append(compute_bands(operator, [_build_row(examples[at]) for at in rows], layout))
                before += len(examples)
    return np.concatenate(found)


def _select(among: NDArray[np.int64], start: int, count: int) -> list[int]:
    """The places of a batch that are `among` those wanted, counted from its start."""
    low, high = np.searchsorted(among, [start, start + count])
    found: list[int] = (among[low:high] - start).tolist()
    return found


def compute_bands(operator: NearDedup, rows: Sequence[Row], layout: BandLayout = FIRST_BANDS) -> NDArray[np.uint64]:
    """(rows, bands): the bands of some rows."""
    texts = [normalize_for_comparison(operator.text(row)) for row in rows]
    pieces = operator.pieces(texts, rows)
    signatures = compute_minhash_signatures(pieces, layout.number * layout.width, layout.seed)
    values = np.zeros((len(rows), layout.number, 8), np.uint8)
    values[:, :, : layout.width] = signatures.reshape(len(rows), layout.number, layout.width)
    numbers = np.arange(layout.first, layout.first + layout.number, dtype=np.uint64)
    bands: NDArray[np.uint64] = values.view("<u8")[:, :, 0] | (numbers << np.uint64(8 * layout.width))
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


def pad_size(count: int, least: int = LEAST_ELEMENTS) -> int:
    """Return the padded size of a set: at most a quarter more, so that similar sizes look alike."""
    if count <= least:
        return least
    step = 1 << ((count - 1).bit_length() - 3)
    return -(-count // step) * step


def pad_candidates(elements: int, rows: int) -> int:
    """Return the padded size of the later bands of candidates among `rows` rows: that of one row in 32, or that times a
    power of two.
    """
    size = pad_size(max(LEAST_CANDIDATES, -(-rows // 32)) * LATER_BANDS.number)
    while size < elements:
        size *= 2
    return size


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
