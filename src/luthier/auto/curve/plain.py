"""The plain classifier by number of training rows, on nested draws, and after cleaning of its labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luthier.metrics.metric import EvalPredictions
from luthier.models.text_classifier import TextClassifier, predict_texts_out_of_fold

_CERTAIN, _IMPOSSIBLE = 0.0, -27.631021
"""Log-probabilities of a classifier that knows one class."""


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with their classes."""

    texts: Sequence[str]
    labels: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, rows: Sequence[int]) -> LabelledTexts:
        """Some of them, by number."""
        return LabelledTexts([self.texts[row] for row in rows], [self.labels[row] for row in rows])


@dataclass(frozen=True)
class NestedDraws:
    """Growing parts of the training rows: of each draw, a smaller part is contained in every larger one."""

    counts: tuple[int, ...]
    """Training rows of each part, the fewest first."""
    orders: tuple[tuple[int, ...], ...]
    """The rows of each draw in the order in which they are added."""

    def rows_of(self, draw: int, count: int) -> list[int]:
        """The rows of one part, in the data's order."""
        return sorted(self.orders[draw][:count])


def list_sizes(rows: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Return the number of rows of each share, ascending; at least two, without duplicates."""
    return tuple(sorted({min(rows, max(2, round(share * rows))) for share in shares}))


def draw_nested(rows: int, shares: Sequence[float], repeats: int, seed: int) -> NestedDraws:
    """Draw prefixes of `repeats` permutations of the rows."""
    import numpy as np

    orders = tuple(
        tuple(int(row) for row in np.random.default_rng([seed, draw]).permutation(rows)) for draw in range(repeats)
    )
    return NestedDraws(list_sizes(rows, shares), orders)


def classify_by_draws(
    learned: LabelledTexts,
    held_out: LabelledTexts,
    draws: NestedDraws,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[list[EvalPredictions]]:
    """Answers of the plain classifier to the held-out texts, by size and by draw.

    All draws of all rows are the same part, which is learned once.
    """
    found: list[list[EvalPredictions]] = []
    total = len(draws.counts) * len(draws.orders)
    for index, count in enumerate(draws.counts):
        found.append([])
        for draw in range(len(draws.orders)):
            progress(index * len(draws.orders) + draw, total)
            if draw and count == len(learned):
                found[-1].append(found[-1][0])
            else:
                rows = draws.rows_of(draw, count)
                found[-1].append(classify(learned.select(rows), held_out, sorted(set(learned.labels))))
    return found


def classify(learned: LabelledTexts, held_out: LabelledTexts, classes: Sequence[str]) -> EvalPredictions:
    """Answers of a classifier that learned some texts; one that saw a single class always names it."""
    known = set(learned.labels)
    if len(known) < 2:
        [own] = known
        row = {name: _CERTAIN if name == own else _IMPOSSIBLE for name in classes}
        scores = [row] * len(held_out)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The number of unique classes")  # of a few rows, that is so
            model = TextClassifier.fit(learned.texts, learned.labels)
        scores = model.scores(held_out.texts, classes)
    predictions = [max(row, key=row.__getitem__) for row in scores]
    return EvalPredictions.of(predictions, list(held_out.labels), label_scores=scores if len(classes) > 1 else None)


@dataclass(frozen=True)
class DoubtfulLabel:
    """A training row whose label is likely wrong."""

    row: int
    score: float
    """Difference of its label's probability to that of the likelier class, from 0 to 0.5."""
    rather: str
    """The likelier class."""


def find_doubtful_labels(learned: LabelledTexts, seed: int) -> list[DoubtfulLabel]:
    """Rows whose label confident learning doubts, the most doubtful first (`luthier.data.checks.label_errors`)."""
    import numpy as np

    from luthier.data.validate.confident_learning import find_label_errors

    classes = sorted(set(learned.labels))
    number = {name: at for at, name in enumerate(classes)}
    codes = np.array([number[label] for label in learned.labels], dtype=np.int64)
    probabilities = predict_texts_out_of_fold(learned.texts, codes, seed=seed).probabilities
    own, best = probabilities[np.arange(len(codes)), codes], probabilities.max(axis=1)
    stand = own / np.maximum(own + best, 1e-12)
    rows = sorted(np.flatnonzero(find_label_errors(codes, probabilities)).tolist(), key=lambda row: (stand[row], row))
    guesses = probabilities.argmax(axis=1)
    return [DoubtfulLabel(row, round(float(stand[row]), 4), classes[guesses[row]]) for row in rows]


def classify_cleaned(
    learned: LabelledTexts, held_out: LabelledTexts, doubtful: Sequence[DoubtfulLabel]
) -> tuple[EvalPredictions, EvalPredictions]:
    """Answers after the doubtful labels are replaced by the likelier classes, and after their rows are left out."""
    classes = sorted(set(learned.labels))
    labels = list(learned.labels)
    for doubtful_label in doubtful:
        labels[doubtful_label.row] = doubtful_label.rather
    removed = {doubtful_label.row for doubtful_label in doubtful}
    labelled_texts = learned.select([row for row in range(len(learned)) if row not in removed])
    corrected = LabelledTexts(learned.texts, labels)
    return classify(corrected, held_out, classes), classify(labelled_texts, held_out, classes)
