"""From votes to probabilities of labels, and from these to decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from luthier.data.adjudicator import NOBODY, Decision, Verdicts, Votes, split
from luthier.data.label.estimate import Ballot, Estimate

_EQUAL = 1e-9


def decided(items: Sequence[Votes], fit: Callable[[Ballot], Estimate], least: float) -> Verdicts:
    """The likeliest label of each item under a fitted model; ties, and what is not more probable than `least`, are
    left out.

    The items are fitted in an order of their content, so that the one in which they came cannot be felt.
    """
    said = [[(one.annotator, one.label) for one in votes] for votes in items]
    order = sorted(
        (place for place, votes in enumerate(said) if votes), key=lambda place: sorted(map(repr, said[place]))
    )
    decisions = [NOBODY] * len(items)
    if not order:
        return Verdicts(decisions)
    ballot = Ballot.of([said[place] for place in order])
    found = fit(ballot)
    for place, row in zip(order, found.probabilities.tolist(), strict=True):
        decisions[place] = _one(items[place], ballot, row, least)
    quality = (round(float(one), 6) for one in found.quality)
    return Verdicts(decisions, dict(zip(ballot.voters, quality, strict=True)))


def _one(votes: Votes, ballot: Ballot, row: list[float], least: float) -> Decision:
    best = int(np.argmax(row))
    if sum(1 for one in row if one > row[best] - _EQUAL) > 1:
        return Decision(None, why=f"tie: {split(votes)}")
    if row[best] <= least and len(row) > 1:
        return Decision(None, why=f"not sure enough: {row[best]:.2f} for {ballot.labels[best]}")
    return Decision(ballot.labels[best], round(row[best], 6))
