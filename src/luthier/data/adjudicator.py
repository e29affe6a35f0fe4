"""A rule that decides one label from what several annotators, or several labelling functions, have said."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from luthier.artifacts.annotation import Annotation
from luthier.core.component import Component

Votes = Sequence[Annotation]
"""The judgments of one item that have a label, the last one of each annotator."""


class AdjudicatedLabel(NamedTuple):
    """The decision for one item, or the reason why there is none."""

    label: Any
    """None: no decision."""
    confidence: float | None = None
    """The share of votes, or a probability, as the rule has it."""
    why: str = ""
    """The reason, for an item without a decision; the part before a colon is its category in counts."""


@dataclass(frozen=True)
class AdjudicationResult:
    """The decisions for all items, with the estimated quality of the annotators."""

    decisions: list[AdjudicatedLabel]
    quality: dict[str, float] = field(default_factory=dict)
    """Estimated share of right judgments of each annotator, where the rule estimates it."""


class Adjudicator(Component):
    """A rule that decides one label from several judgments; items without a decision are left out with its reason."""

    role: ClassVar[str] = "adjudicator"
    home: ClassVar[str] = "luthier.data.adjudicators"

    @abstractmethod
    def decide(self, items: Sequence[Votes]) -> AdjudicationResult:
        """Decide every item; the order of items and of votes does not count."""


NOBODY = AdjudicatedLabel(None, why="no judgment")


def count_votes(votes: Votes) -> Counter[Any]:
    """Count the annotators that chose each label."""
    return Counter(vote.value for vote in votes)


def format_votes(votes: Votes) -> str:
    """The votes in words: `2 spam, 2 ham`."""
    return ", ".join(
        f"{count} {label}" for label, count in sorted(count_votes(votes).items(), key=lambda x: (-x[1], str(x[0])))
    )
