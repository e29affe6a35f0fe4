"""Facts about a search in a report: how it ended, and its trials."""

from __future__ import annotations

from collections import Counter

from luthier.artifacts.search import FinalistRecord, SearchRecord, TrialRow
from luthier.eval.report.facts.fact import Fact


class RungFacts(Fact):
    """One rung of a search."""

    rung: int
    share: float
    """The share of the whole training that its trials had."""
    trials: int
    failed: int
    promoted: int
    """Trials that were trained further, to the next rung."""
    work: float
    """In whole trainings of `of`."""
    best: float | None
    """The best value of the metric."""


class SearchFacts(Fact):
    """A search: what was tried, how it ended, and what was spent."""

    name: str
    record: SearchRecord
    trials: tuple[TrialRow, ...]
    """By rung and trial."""

    @property
    def rungs(self) -> tuple[RungFacts, ...]:
        """The rungs, the shortest first."""
        tried = Counter(row.trial for row in self.trials)
        last = {row.trial: max(row.rung, 0) for row in sorted(self.trials, key=lambda row: row.rung)}
        found = []
        for rung in sorted({row.rung for row in self.trials}):
            rows = [row for row in self.trials if row.rung == rung]
            values = [row.value for row in rows if row.value is not None]
            choose = max if self.record.better == "higher" else min
            found.append(
                RungFacts(
                    rung=rung,
                    share=rows[0].share,
                    trials=len(rows),
                    failed=sum(bool(row.failed) for row in rows),
                    promoted=sum(last[row.trial] > rung for row in rows if tried[row.trial] > 1),
                    work=sum(row.work for row in rows),
                    best=choose(values, default=None),
                )
            )
        return tuple(found)

    def finalist(self, trial: int) -> FinalistRecord | None:
        """A trial among the finalists."""
        return next(
            (finalist_record for finalist_record in self.record.finalists if finalist_record.trial == trial), None
        )
