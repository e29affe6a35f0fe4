"""METEOR: words aligned by form, by stem and by meaning, with a price for words out of order.

Lavie and Agarwal 2007. The alignment is greedy, as in nltk: from the last word backwards, each takes the last word of
the other side that is still free. Synonyms are WordNet 3.0's, from the table that ships with Luthier.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from luthier.metrics.kinds.answers import ratio_of_sums
from luthier.metrics.metric import EvalPredictions, Metric
from luthier.metrics.text.stems import stem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.metrics.intervals import Block

Numbered = list[tuple[int, str]]
"""Words with their places."""
_WORDS = re.compile(r"\w+|[^\w\s]")


class Meteor(Metric):
    """Mean METEOR: a mean of precision and recall of aligned words, less a penalty for breaks in their order."""

    kind: Literal["meteor"] = "meteor"
    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    words: Literal["split", "spaces"] = "split"
    """What a word is: `split` takes punctuation for words of their own, `spaces` cuts at spaces only."""
    synonyms: bool = True
    """Whether words with a common sense in WordNet are aligned; English only."""
    alpha: float = Field(default=0.9, gt=0, lt=1)
    """Weight of recall against precision; 0.9 as in the paper and in nltk."""
    beta: float = Field(default=3.0, ge=0)
    """Exponent of the penalty."""
    gamma: float = Field(default=0.5, ge=0, le=1)
    """Greatest penalty, for words that are all out of order."""

    def statistics(self, answers: EvalPredictions) -> Block:
        import numpy as np

        best = [
            max(self.one(self.split(text), self.split(prediction)) for text in references)
            for prediction, references in zip(answers.predictions, answers.references, strict=True)
        ]
        return np.stack([np.array(best), np.ones(len(best))], axis=1)

    def value(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio_of_sums(sums)

    def split(self, text: str) -> list[str]:
        """A text's words."""
        text = text.lower()
        return text.split() if self.words == "spaces" else _WORDS.findall(text)

    def one(self, reference: Sequence[str], prediction: Sequence[str]) -> float:
        """METEOR of one row; 0 when no word is aligned."""
        pairs = align_words(prediction, reference, synonyms=self.synonyms)
        if not pairs:
            return 0.0
        precision, recall = len(pairs) / len(prediction), len(pairs) / len(reference)
        middle = precision * recall / (self.alpha * precision + (1 - self.alpha) * recall)
        breaks = sum(b != (a[0] + 1, a[1] + 1) for a, b in pairwise(pairs))
        return float((1 - self.gamma * ((breaks + 1) / len(pairs)) ** self.beta) * middle)


def align_words(prediction: Sequence[str], reference: Sequence[str], *, synonyms: bool) -> list[tuple[int, int]]:
    """Places in both of the words that are aligned, in the prediction's order."""
    predicted, real = list(enumerate(prediction)), list(enumerate(reference))
    pairs, predicted, real = _matched(predicted, real, lambda word: (word,))
    predicted, real = _stemmed(predicted), _stemmed(real)
    more, predicted, real = _matched(predicted, real, lambda word: (word,))
    pairs += more
    if synonyms:  # of the stems, as in nltk
        more, predicted, real = _matched(predicted, real, _same_sense)
        pairs += more
    return sorted(pairs)


@lru_cache(maxsize=1 << 16)
def _same_sense(word: str) -> frozenset[str]:
    from luthier.core.wordnet import synonyms

    return synonyms(word) | {word}


def _stemmed(words: Numbered) -> Numbered:
    return [(position, stem(word)) for position, word in words]


def _matched(
    predicted: Numbered, real: Numbered, forms: Callable[[str], Collection[str]]
) -> tuple[list[tuple[int, int]], Numbered, Numbered]:
    """Pairs of places, and the words on both sides that are left over."""
    if not predicted or not real:
        return [], predicted, real
    free: defaultdict[str, list[int]] = defaultdict(list)
    for position, word in real:
        free[word].append(position)
    pairs, left = [], []
    for position, word in reversed(predicted):
        able = [form for form in forms(word) if free.get(form)]
        if not able:
            left.append((position, word))
            continue
        pairs.append((position, free[max(able, key=lambda form: free[form][-1])].pop()))
    taken = {position for _, position in pairs}
    return pairs, left[::-1], [(position, word) for position, word in real if position not in taken]
