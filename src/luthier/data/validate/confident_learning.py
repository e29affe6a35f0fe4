"""Confident learning: which labels are likely wrong, from out-of-sample probabilities.

Northcutt, Jiang and Chuang 2021, J. Artif. Intell. Res. 70.

A row counts for the class j when its probability of j reaches the mean probability of j among the rows labelled j.
Counts of (label, confident class), scaled to the labels that there are, estimate the joint distribution of given and
true labels; its cells off the diagonal say how many labels of which kind are wrong. Of each such cell, so many rows
with the largest margin of the other class are taken (pruning by noise rate).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    IntArray = NDArray[np.int64]

_NEAR = 1e-6
"""Probabilities this far below a threshold still reach it."""


def find_label_errors(codes: IntArray, probabilities: Floats) -> NDArray[np.bool_]:
    """(rows,): whether each label is likely wrong; a label that is also the likeliest class never is."""
    noise = noise_counts(codes, probabilities)
    wrong = np.zeros(len(codes), dtype=bool)
    for given in range(probabilities.shape[1]):
        mine = np.flatnonzero(codes == given)
        for true in np.flatnonzero(noise[given]):
            if true != given and len(mine) > 1:
                margin = probabilities[mine, true] - probabilities[mine, given]
                wrong[mine[np.argsort(-margin, kind="stable")[: noise[given, true]]]] = True
    doubted: NDArray[np.bool_] = wrong & (probabilities.argmax(axis=1) != codes)
    return doubted


def noise_counts(codes: IntArray, probabilities: Floats) -> IntArray:
    """(given, true): how many rows of each given label have which true one, by estimate.

    At least one row of each class is taken to be right; where the estimate says none is, the cells beside the diagonal
    give up what it takes, in equal parts.
    """
    joint = confident_joint(codes, probabilities).astype(np.float64)
    size = np.bincount(codes, minlength=len(joint))
    scaled = (joint.T / np.maximum(joint.sum(axis=1), 1e-12) * size).T
    counts = _rounded(scaled / max(scaled.sum(), 1e-12) * len(codes))
    lacking = np.maximum(1 - counts.diagonal(), 0)
    sharers = np.maximum(np.count_nonzero(counts, axis=1) - 1, 1)
    left = np.maximum(counts - (lacking / sharers)[:, None], 0)
    np.fill_diagonal(left, counts.diagonal() + lacking)
    return _rounded(left.T).T


def confident_joint(codes: IntArray, probabilities: Floats) -> IntArray:
    """(given, true): rows of each label that confidently belong to each class; at least 1 on the diagonal."""
    classes = probabilities.shape[1]
    thresholds = np.array(
        [probabilities[codes == code, code].mean() if (codes == code).any() else np.inf for code in range(classes)]
    )
    sure = probabilities >= thresholds - _NEAR
    guess = np.where(sure.sum(axis=1) > 1, probabilities.argmax(axis=1), sure.argmax(axis=1))
    counted = sure.any(axis=1)
    joint = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(joint, (codes[counted], guess[counted]), 1)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    return joint


def _rounded(matrix: Floats) -> IntArray:
    """Whole numbers whose rows keep their (rounded) sums.

    Cells are rounded to the nearest; what a row then lacks is given to those that lost most, what it has too much is
    taken from those that gained most, one each. Counts of many classes tie often: of equals, numpy's own sort decides,
    as it does in cleanlab, so that both name the same rows but for ties that the last bit of a sum breaks.
    """
    found = matrix.round()
    for cells, whole in zip(matrix, found, strict=True):
        missing = int(cells.sum().round() - whole.sum())
        rest = np.argsort(cells - whole)
        rest = rest[::-1] if missing > 0 else rest
        whole[rest[: abs(missing)]] += np.sign(missing)
    return found.astype(np.int64)
