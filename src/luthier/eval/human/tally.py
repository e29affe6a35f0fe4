"""Judgments counted as they come: each costs the same work, however many came before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import combinations

from luthier.annotation.question import RatingQuestion
from luthier.artifacts.annotation import Annotation
from luthier.core.messages import gettext_noop
from luthier.eval.human.study import Assignment
from luthier.metrics.anytime_ranking import AnytimeRanking, RankingAdvice


class RatingTally:
    """The valid ratings of one assignment: the last one of each annotator on each item, of annotators who pass the
    attention checks.
    """

    def __init__(
        self,
        assignment: Assignment,
        question: RatingQuestion,
        models: Sequence[str],
        *,
        min_attention_checks: float = 0.7,
    ) -> None:
        self._assignment, self._question, self._models = assignment, question, tuple(models)
        self._min_attention_checks = min_attention_checks
        self._items = {name: entry for name, entry in assignment.key.items() if not entry.planted}
        self.ratings: dict[tuple[str, str], Annotation] = {}
        """The last judgment of each judge (first) on each item, in the order of the last ones."""
        self.judged: dict[str, int] = defaultdict(int)
        """How many items each judge has judged, passed ones and planted ones included."""
        self.attention_checks: dict[str, tuple[int, int]] = {}
        """For each judge, how many planted items were judged rightly, and how many judged."""
        self._start()

    def _start(self) -> None:
        """Count from nothing; equal answers are ties without anybody."""
        self._ranking = AnytimeRanking(self._models, judges=self._assignment.overlap)
        self.wins: dict[tuple[str, str], float] = defaultdict(float)
        """How often the first of two models was preferred to the second, ties half."""
        self.row_judgments: dict[str, int] = defaultdict(int)
        """How many judgments of each row count."""
        self._points: dict[tuple[str, str], list[float]] = defaultdict(list)
        for row, *pair in self._assignment.same.values():
            for a, b in combinations(pair, 2):
                self._count(a, b, 0.5, row, times=self._assignment.overlap)

    def remove(self, annotator: str, item: str) -> None:
        """Take a judgment back."""
        before = self.ratings.pop((annotator, item), None)
        if before is None:
            return
        self.judged[annotator] -= 1
        if self._assignment.key[item].planted:
            right, rated = self.attention_checks[annotator]
            self.attention_checks[annotator] = right - self._passes(before), rated - 1
        self.__dict__.pop("_counted", None)

    def extend(self, ratings: Iterable[Annotation]) -> None:
        """Take several judgments, in the order in which they were made."""
        for rating in ratings:
            self.add(rating)

    def add(self, rating: Annotation) -> None:
        """Add a rating; where it replaces one, or its annotator fails the checks, results are recomputed."""
        key = rating.annotator, rating.item
        before = self.ratings.pop(key, None)
        self.ratings[key] = rating
        self.judged[rating.annotator] += before is None
        left_out = self.left_out
        entry = self._assignment.key[rating.item]
        if entry.planted:
            right, rated = self.attention_checks.get(rating.annotator, (0, 0))
            right += self._passes(rating) - (self._passes(before) if before is not None else 0)
            self.attention_checks[rating.annotator] = right, rated + (before is None)
        if left_out != self.left_out or (before is not None and before.value != rating.value):
            self.__dict__.pop("_counted", None)
        elif before is None and "_counted" in self.__dict__ and rating.annotator not in left_out:
            self._count_rating(rating)

    def _passes(self, rating: Annotation) -> bool:
        """Return whether an attention check was passed."""
        shown, good = self._assignment.items[rating.item].shown, self._assignment.key[rating.item].good
        return rating.value is not None and self._question.passes(rating.value, shown, good)

    @property
    def left_out(self) -> dict[str, tuple[int, int]]:
        """Judges whose judgments do not count: right in too few of the planted items."""
        return {
            judge: (right, rated)
            for judge, (right, rated) in self.attention_checks.items()
            if right < self._min_attention_checks * rated
        }

    @cached_property
    def _counted(self) -> bool:
        """Whether all ratings are included in the results."""
        self._start()
        for (judge, _), rating in self.ratings.items():
            if judge not in self.left_out:
                self._count_rating(rating)
        return True

    def _count_rating(self, rating: Annotation) -> None:
        entry = self._items.get(rating.item)
        if entry is None or rating.value is None:
            return
        points = self._question.points(rating.value, self._assignment.items[rating.item].shown)
        self.row_judgments[entry.row] += 1
        low, high = self._question.bounds
        if len(points) == 2:
            a, b = entry.models
            self._count(a, b, (points[0] - low) / (high - low), entry.row)
            return
        (model,) = entry.models
        mine = self._points[entry.row, model]
        mine.append(points[0])
        for other in self._models:  # the n-th judgment of one answer meets the n-th of another in the same row
            theirs = self._points[entry.row, other]
            if other != model and len(theirs) >= len(mine):
                gap = (mine[-1] - theirs[len(mine) - 1]) / (2 * (high - low))
                self._count(model, other, 0.5 + gap, entry.row)

    def _count(self, a: str, b: str, score: float, row: str, times: int = 1) -> None:
        for _ in range(times):
            self._ranking.add(a, b, score, row)
            self.wins[a, b] += score
            self.wins[b, a] += 1 - score

    @property
    def ranking(self) -> AnytimeRanking:
        """The order of the models, as far as judgments decide it."""
        assert self._counted, "counting ends"
        return self._ranking


def describe_advice(advice: RankingAdvice, rows: int, same: int = 0) -> str:
    """Return whether to stop, in a sentence; where it is undecided, with what to do. `same` of the rows have equal
    answers: ties that were not shown.
    """
    count = f"{rows:,}"
    counted = gettext_noop(f"{count} rows, {same:,} of them ties of equal answers," if same else f"{count} rows")
    if not advice.stop:
        first = advice.undecided[0]
        one, other, more = first.first, first.second, first.more
        pair = gettext_noop(
            f"{one} against {other} is close to even"
            if more is None
            else f"{one} against {other} would take about {more:,} more rows"
        )
        if others := len(advice.undecided) - 1:
            pair = gettext_noop(f"{pair} (and {others} more {'pair' if others == 1 else 'pairs'})")
        return gettext_noop(f"Not decided after {counted} by bounds that hold however often one looks: {pair}")
    best = advice.order[0]
    if len(best) > 1:
        models = " and ".join(best)
        return gettext_noop(
            f"You may stop: {models} are alike, by bounds that hold however often one looks ({rows:,} rows)."
        )
    winner, order = best[0], ", ".join(" = ".join(entry) for entry in advice.order)
    return gettext_noop(
        f"You may stop: {winner} is better by bounds that hold however often one looks ({rows:,} rows)."
        if len(advice.order) == 2
        else f"You may stop: {winner} is better by bounds that hold however often one looks ({rows:,} rows); the order "
        f"is {order}."
    )
