"""Statistics of labeling functions on a dataset: coverage, overlaps, conflicts and estimated accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.artifacts.annotation import Annotation
from luthier.data.adjudicator import AdjudicationResult

Votes = list[list[str | None]]
"""By function, a vote for each row."""


@dataclass(frozen=True, kw_only=True)
class LabelFunctionStats:
    """The coverage, overlaps, conflicts and accuracy of one labelling function."""

    name: str
    votes: int
    coverage: float
    """The share of rows on which it votes."""
    overlaps: float
    """The share of rows on which it votes beside another."""
    conflicts: float
    """The share of rows on which another votes otherwise."""
    estimated: float | None
    """The share of its votes that the rule takes to be right."""
    measured: float | None
    """The share that equals the label which rows had already, where they had one."""

    def as_json(self) -> dict[str, Any]:
        """Every field by its name."""
        return vars(self)

    def __str__(self) -> str:
        text = f"{self.name}: votes on {self.coverage:.0%}, beside others on {self.overlaps:.0%}"
        text += f", against others on {self.conflicts:.0%}"
        text += "" if self.estimated is None else f", right in {self.estimated:.0%} by estimate"
        return text + ("" if self.measured is None else f", in {self.measured:.0%} of the rows that had a label")


def votes_to_annotations(names: Sequence[str], votes: Votes) -> list[list[Annotation]]:
    """The votes on each row as judgments."""
    return [
        [Annotation(name, vote) for name, vote in zip(names, row, strict=True) if vote is not None]
        for row in zip(*votes, strict=True)
    ]


def label_function_stats(
    names: Sequence[str], votes: Votes, verdicts: AdjudicationResult, given: Sequence[str | None]
) -> list[LabelFunctionStats]:
    """Compute the statistics of each labelling function."""
    rows = max(1, len(given))
    spoken = [{vote for vote in row if vote is not None} for row in zip(*votes, strict=True)]
    counts = [sum(vote is not None for vote in row) for row in zip(*votes, strict=True)]
    found = []
    for name, mine in zip(names, votes, strict=True):
        at = [index for index, vote in enumerate(mine) if vote is not None]
        known = [mine[index] == given[index] for index in at if given[index] is not None]
        found.append(
            LabelFunctionStats(
                name=name,
                votes=len(at),
                coverage=round(len(at) / rows, 6),
                overlaps=round(sum(counts[index] > 1 for index in at) / rows, 6),
                conflicts=round(sum(len(spoken[index]) > 1 for index in at) / rows, 6),
                estimated=verdicts.quality.get(name) if at else None,
                measured=round(sum(known) / len(known), 6) if known else None,
            )
        )
    return found
