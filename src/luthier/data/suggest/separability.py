"""Measure how well words separate the classes of some rows: each row is predicted from the others, in numpy alone.

Kernel ridge regression on the features of the plain classifier (TF-IDF of words and word pairs) has its leave-one-out
predictions in closed form, so that hundreds of rows take a fraction of a second and no further library is loaded. It
stands for the plain classifier where a look must be quick: on thirteen sets of 140 to 300 rows it foretells the
accuracy of that classifier on other rows with a median error of 2.4 points (`benchmarks/results/advice.txt`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from luthier.core.component import add_field_descriptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_ROWS = 400
"""Rows that are compared with one another, spread over all."""
MOST_CHARS = 2000
"""Of a text, its beginning is read."""
_FEWEST = 12
"""Rows below which nothing is measured."""
_COPY = 0.9
"""Texts of at least this cosine are near copies."""
_SHARES = (0.25, 0.5)
"""Parts of the rows that are learned from, besides all but one."""
_DRAWS = 3
_PENALTIES = (0.03, 0.1, 0.3, 1.0)
"""Among which the leave-one-out error chooses."""
_WORD = re.compile(r"\b\w\w+\b")


class LabelSeparability(BaseModel):
    """How well a linear classifier of words separates the classes, each row predicted from other rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=add_field_descriptions)
    rows: int
    """Rows that were predicted."""
    accuracy: dict[int, float]
    """Accuracy by the number of rows that were learned from; the last one is the accuracy with all rows but one."""
    macro_f1: float
    """F1, averaged over the classes, with all rows but one."""
    confused: tuple[str, str] | None = None
    """The two classes that are taken for each other most often."""
    confused_share: float = 0
    """Of the rows of these two classes, the share that is taken for the other one."""


def measure_separability(texts: Sequence[str], labels: Sequence[str]) -> LabelSeparability | None:
    """Predict the class of each text from the others; None where rows or classes are too few."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):  # matrices this small are slower on several threads, which spin
        return _measure(texts, labels)


def _measure(texts: Sequence[str], labels: Sequence[str]) -> LabelSeparability | None:
    import numpy as np

    if len(texts) < _FEWEST or len(set(labels)) < 2:
        return None
    chosen = np.random.default_rng(0).permutation(len(texts))[:MOST_ROWS].tolist()
    names, codes = np.unique([labels[index] for index in chosen], return_inverse=True)
    if len(names) < 2:
        return None
    kernel = _kernel([texts[index] for index in chosen])
    own = _distinct(kernel)
    kernel, codes = kernel[np.ix_(own, own)], codes[own]
    chosen = [chosen[index] for index in own]
    if len(chosen) < _FEWEST or len(set(codes.tolist())) < 2:
        return None
    targets = np.eye(len(names))[codes]
    predicted, penalty = _leave_one_out(kernel, targets)
    accuracy = {}
    for share in _SHARES:
        size = round(share * len(chosen))
        if size >= _FEWEST:
            accuracy[size] = round(_learning_from(size, kernel, targets, codes, penalty), 4)
    accuracy[len(chosen) - 1] = round(float((predicted == codes).mean()), 4)
    pair, share = _most_confused(codes, predicted, len(names))
    return LabelSeparability(
        rows=len(chosen),
        accuracy=accuracy,
        macro_f1=round(_macro_f1(codes, predicted, len(names)), 4),
        confused=(str(names[pair[0]]), str(names[pair[1]])) if pair else None,
        confused_share=round(share, 4),
    )


def _kernel(texts: Sequence[str]) -> NDArray[np.float64]:
    """(texts, texts): the cosine of their TF-IDF features.

    A feature of one text alone adds to its length and to no product, so that it needs no column.
    """
    import numpy as np

    counts = [_features(text) for text in texts]
    frequency = Counter(name for entry in counts for name in entry)
    columns = {name: column for column, name in enumerate(sorted(n for n, texts in frequency.items() if texts > 1))}
    matrix = np.zeros((len(texts), len(columns)), dtype=np.float32)
    for row, entry in enumerate(counts):
        values = {
            name: (1 + np.log(count)) * (np.log((1 + len(texts)) / (1 + frequency[name])) + 1)
            for name, count in entry.items()
        }
        length = np.sqrt(sum(value * value for value in values.values())) or 1.0
        for name, value in values.items():
            if name in columns:
                matrix[row, columns[name]] = value / length
    return (matrix @ matrix.T).astype(np.float64)


def _distinct(kernel: NDArray[np.float64]) -> list[int]:
    """The texts without near copies of earlier ones: what is copied would be predicted from its twin."""
    found: list[int] = []
    for index in range(len(kernel)):
        if not (kernel[index, found] > _COPY).any():
            found.append(index)
    return found


def _features(text: str) -> Counter[str]:
    words = _WORD.findall(text[:MOST_CHARS].lower())
    return Counter([*words, *(f"{entry} {other}" for entry, other in pairwise(words))])


def _leave_one_out(kernel: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
    """The class of each row, predicted from all others, and the penalty with the least squared error."""
    import numpy as np

    values, vectors = np.linalg.eigh(kernel)
    centered = targets - targets.mean(axis=0)
    best, found, chosen = np.inf, np.zeros(len(targets), dtype=np.int64), _PENALTIES[0]
    for penalty in _PENALTIES:
        inverse = 1 / (np.maximum(values, 0) + penalty)
        weights = vectors @ (inverse[:, None] * (vectors.T @ centered))
        residual = weights / ((vectors * vectors) @ inverse)[:, None]
        if (loss := float((residual**2).mean())) < best:
            best, chosen = loss, penalty
            found = (targets - residual).argmax(axis=1)
    return found, chosen


def _learning_from(
    size: int, kernel: NDArray[np.float64], targets: NDArray[np.float64], codes: NDArray[np.int64], penalty: float
) -> float:
    """Accuracy on the other rows after learning from `size` of them, averaged over some draws."""
    import numpy as np

    found = []
    for draw in range(_DRAWS):
        order = np.random.default_rng([size, draw]).permutation(len(codes))
        learn, ask = order[:size], order[size:]
        mean = targets[learn].mean(axis=0)
        system = kernel[np.ix_(learn, learn)] + penalty * np.eye(size)
        weights = np.linalg.solve(system, targets[learn] - mean)
        predicted = (kernel[np.ix_(ask, learn)] @ weights + mean).argmax(axis=1)
        found.append(float((predicted == codes[ask]).mean()))
    return sum(found) / len(found)


def _macro_f1(codes: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> float:
    import numpy as np

    hits = np.bincount(codes[codes == predicted], minlength=classes)
    both = np.bincount(codes, minlength=classes) + np.bincount(predicted, minlength=classes)
    return float((2 * hits / np.maximum(both, 1)).mean())


def _most_confused(
    codes: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> tuple[tuple[int, int] | None, float]:
    """The pair of classes with the most rows taken for the other one, and their share."""
    import numpy as np

    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (codes, predicted), 1)
    rows = table.sum(axis=1)
    mistaken = np.triu(table + table.T, 1)
    if not mistaken.any():
        return None, 0.0
    one, other = divmod(int(mistaken.argmax()), classes)
    return (one, other), float(mistaken[one, other] / (rows[one] + rows[other]))
