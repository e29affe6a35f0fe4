"""The order of items for annotation: the most useful first, updated as answers come."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.annotation.project import get_project, update_settings
from luthier.annotation.queue import AnnotationQueue
from luthier.annotation.results import AnsweredItem, read_answered_items
from luthier.core.db import Ledger

if TYPE_CHECKING:
    from luthier.data.selector import SelectionCandidate, Selector

_POOL = 5000
"""Items among which is chosen: a sample, of more."""
_CHOSEN = 500
_FEWEST = 10
"""Minimum labels for a classifier's uncertainty."""


def known_label(one: AnsweredItem, question: str) -> str | None:
    """Return the label of an item as far as it is known: decided, known before, or the first given."""
    known = (one.decision.values if one.decision else None) or one.item.gold or {}
    value = known.get(question) or next(iter(one.values(question).values()), None)
    return value if isinstance(value, str) else None


def order_items(ledger: Ledger, project_id: str, by: Selector, *, seed: int = 0) -> int:
    """Let the items come first that a selector chooses among those that nobody has answered; returns how many.

    A plain classifier on the labels so far says how sure a model would be; before there are enough of them, all items
    are as uncertain as each other. Loads scikit-learn.
    """
    from luthier.data.selector import LabelingPool

    settings = get_project(ledger, project_id).settings
    name = next(iter(settings.questions))
    labelled: list[tuple[str, str]] = []
    waiting: list[AnsweredItem] = []
    for entry in read_answered_items(ledger, project_id):
        label = known_label(entry, name)
        if label is not None:
            labelled.append((entry.item.shown.text, label))
        elif entry.item.state in ("open", "returned") and not entry.item.shown.media:
            waiting.append(entry)
    sample = random.Random(seed).sample(waiting, min(_POOL, len(waiting)))
    shares = _classify(labelled, [answered_item.item.shown.text for answered_item in sample])
    candidates = [
        _candidate(one, probabilities, at) for at, (one, probabilities) in enumerate(zip(sample, shares, strict=True))
    ]
    pool = LabelingPool(candidates, [text for text, _ in labelled], seed)
    chosen = by.choose(pool, _CHOSEN) if candidates else []
    priorities = {
        sample[candidate.candidate_index].item.id: float(_CHOSEN - rank) for rank, candidate in enumerate(chosen)
    }
    if settings.order != "priority":
        update_settings(ledger, project_id, order="priority")
    earlier = {answered_item.item.id: 0.0 for answered_item in waiting if answered_item.item.id not in priorities}
    AnnotationQueue(ledger, project_id).set_priorities({**earlier, **priorities})
    return len(priorities)


def _classify(labelled: Sequence[tuple[str, str]], texts: Sequence[str]) -> list[Mapping[str, float]]:
    """The probability of each label for each text."""
    names = sorted({label for _, label in labelled})
    if len(labelled) < _FEWEST or len(names) < 2 or not texts:
        return [{"": 0.5, "other": 0.5} for _ in texts]
    from luthier.models.text_classifier import build_logistic_regression, compute_tfidf_features

    matrix: Any = compute_tfidf_features([*(text for text, _ in labelled), *texts])
    classifier = build_logistic_regression().fit(matrix[: len(labelled)], [label for _, label in labelled])
    found = classifier.predict_proba(matrix[len(labelled) :])
    return [dict(zip(map(str, classifier.classes_), map(float, row), strict=True)) for row in found]


def _candidate(one: AnsweredItem, shares: Mapping[str, float], line: int) -> SelectionCandidate:
    from luthier.data.selector import SelectionCandidate

    return SelectionCandidate(one.item.key, "annotations", line, one.item.shown.text, shares)
