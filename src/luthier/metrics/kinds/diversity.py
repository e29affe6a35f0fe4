"""Diversity metrics of a set of answers: distinct n-grams and self-BLEU.

Li et al. 2016 (distinct-n); Zhu et al. 2018 (self-BLEU). Both depend on how many answers there are: compare sets of one
size only. Repeating rows, as a bootstrap does, would make any set look less diverse, so that intervals come from
leaving rows out: see `luthier.metrics.columns`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from luthier.metrics.columns import InfluenceMetric, ValueWithInfluence, influence_from_jackknife
from luthier.metrics.kinds.translation import Bleu
from luthier.metrics.metric import EvalPredictions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORDERS = 4
Run = tuple[str, ...]
Held = tuple[int, int]
"""A count, and the text that has it."""
_NOBODY: Held = (0, -1)


class Distinct(InfluenceMetric):
    """Share of the answers' runs of words that are different ones (distinct-n); 1 when nothing is said twice."""

    kind: Literal["distinct"] = "distinct"
    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    held_against: ClassVar[bool] = False
    n: int = Field(default=2, ge=1, le=8)
    """How many words a run has."""

    def pulled(self, answers: EvalPredictions) -> ValueWithInfluence:
        """Pulls by leaving each row out: its runs go, and of the different ones those that no other row has.

        The jackknife's variance is too large for what rows do in pairs; that part is taken off (Efron and Stein 1981).
        """
        import numpy as np

        counts = [Counter(_runs(text.lower().split(), self.n)) for text in answers.predictions]
        rows = Counter(run for count in counts for run in count)
        own = np.array([sum(rows[run] == 1 for run in count) for count in counts], dtype=np.float64)
        run_counts = np.array([count.total() for count in counts], dtype=np.float64)
        different, total = len(rows), run_counts.sum()
        without = np.divide(
            different - own, total - run_counts, out=np.zeros(len(run_counts)), where=total > run_counts
        )
        with_influence = influence_from_jackknife(float(different / total) if total else 0.0, without)
        return ValueWithInfluence(
            with_influence.value, with_influence.pulls * _calmed(counts, rows, total * (without - without.mean()))
        )

    def undefined(self, answers: EvalPredictions) -> str:
        short = all(len(text.split()) < self.n for text in answers.predictions)
        return f"no answer has {self.n} words" if short else ""


class SelfBleu(InfluenceMetric):
    """Mean BLEU of each answer against all others; high when answers are alike. A lone answer has 0."""

    kind: Literal["self_bleu"] = "self_bleu"
    about: ClassVar[Literal["classes", "texts"] | None] = "texts"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    bounds: ClassVar[tuple[float, float]] = (0.0, 100.0)
    usual: ClassVar[tuple[float, float]] = (0.0, 100.0)
    held_against: ClassVar[bool] = False
    tokenize: Literal["13a", "intl", "zh", "char", "none"] = "13a"
    """sacrebleu's tokenizer, as for `bleu`."""

    def pulled(self, answers: EvalPredictions) -> ValueWithInfluence:
        """Pulls by leaving each row out, as an answer and as a reference of the others (their lengths aside)."""
        import numpy as np

        table, lost = self.counted_matches(answers.predictions)
        rows = Bleu().value(table)
        if len(rows) < 2:
            return ValueWithInfluence(0.0, np.zeros(len(rows)))
        without = (rows.sum() - rows) / (len(rows) - 1)
        if lost:
            gone, left = (np.array(column) for column in zip(*lost, strict=True))
            changed = table[left]
            changed[:, 2 : 2 + ORDERS] -= np.array(list(lost.values()))
            np.add.at(without, gone, (Bleu().value(changed) - rows[left]) / (len(rows) - 1))
        return influence_from_jackknife(float(rows.mean()), without)

    def of_rows(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """BLEU of each text against all others, (rows,), in time that grows with their words only."""
        return Bleu().value(self.counted_matches(texts)[0])

    def counted_matches(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], dict[tuple[int, int], list[int]]]:
        """BLEU's counts of each text against all others, and what a text loses when another one goes.

        The second maps (the text that goes, the text that loses) to the matches lost of each order.
        """
        import numpy as np

        words = [text.split() for text in map(_tokenizer(self.tokenize), texts)]
        lengths = sorted(map(len, words))
        table = np.zeros((len(words), 2 + 2 * ORDERS))
        lost: dict[tuple[int, int], list[int]] = {}
        for row, entry in enumerate(words):
            table[row, :2] = len(entry), _nearest(lengths, len(entry))
        for n in range(1, ORDERS + 1):
            counts = [Counter(_runs(word, n)) for word in words]
            most = _three_highest(counts)
            for row, entry in enumerate(counts):
                table[row, 1 + n] = sum(min(count, _of_others(most[run], count)) for run, count in entry.items())
                table[row, 1 + ORDERS + n] = entry.total()
            for (_, first), (second_count, second), (third_count, _) in most.values():
                for pair in ((first, second), (second, first)) if second_count > third_count else ():
                    lost.setdefault(pair, [0] * ORDERS)[n - 1] += second_count - third_count
        return table, lost

    def versions(self) -> dict[str, str]:
        return Bleu().versions()


def _calmed(counts: Sequence[Counter[Run]], rows: Counter[Run], moves: NDArray[np.float64]) -> float:
    """How much less a number of different runs varies than leaving rows out says.

    A run that exactly two rows have goes only when both do: for each pair, how many they share is its own movement.
    """
    import numpy as np

    holders: dict[Run, list[int]] = {}
    for row, entry in enumerate(counts):
        for run in entry:
            if rows[run] == 2:
                holders.setdefault(run, []).append(row)
    pairs = Counter(tuple(held) for held in holders.values())
    alone, paired = float((moves**2).sum()), sum(count**2 for count in pairs.values())
    return float(np.sqrt(max(1 - paired / alone, 0.25))) if alone > 0 else 1.0


def _runs(words: Sequence[str], n: int) -> list[Run]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def _three_highest(counts: Sequence[Counter[Run]]) -> dict[Run, tuple[Held, Held, Held]]:
    """The three highest counts of each run in any text, and whose they are; 0 of nobody's (-1) for want of more."""
    most: dict[Run, tuple[Held, Held, Held]] = {}
    for row, entry in enumerate(counts):
        for run, count in entry.items():
            first, second, third = most.get(run, (_NOBODY, _NOBODY, _NOBODY))
            if count > first[0]:
                most[run] = (count, row), first, second
            elif count > second[0]:
                most[run] = first, (count, row), second
            elif count > third[0]:
                most[run] = first, second, (count, row)
    return most


def _of_others(most: tuple[Held, Held, Held], own: int) -> int:
    """The highest count in any other text."""
    return most[1][0] if own == most[0][0] else most[0][0]


def _nearest(lengths: Sequence[int], own: int) -> int:
    """Of the other texts' lengths, in order, the one nearest to a text's own; the shorter of two."""
    index = bisect_left(lengths, own)
    others = [*lengths[max(0, index - 1) : index], *lengths[index + 1 : index + 2]]
    return min(others, key=lambda length: (abs(length - own), length)) if others else 0


def _tokenizer(name: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=name).tokenizer
