"""What each rule does, and the estimates behind two of them beside other people's programs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from luthier.artifacts.annotation import Annotation
from luthier.core.errors import DataError
from luthier.data.adjudicator import Adjudicator
from luthier.data.annotation.aggregate import VoteMatrix, dawid_skene, fit_one_accuracy_per_voter
from luthier.data.annotation.annotations import (
    AnnotatedItem,
    last_judgment_by_annotator,
    to_agreement_table,
)


def _decide(rule: Any, *votes: str) -> list[tuple[Any, str]]:
    items = [[Annotation(f"w{place}", label) for place, label in enumerate(one) if label != "."] for one in votes]
    return [(one.label, one.why) for one in Adjudicator.parse(rule).decide(items).decisions]


def test_majority() -> None:
    assert _decide("majority", "aab", "ab", "a") == [("a", ""), (None, "tie: 1 a, 1 b"), ("a", "")]
    assert _decide({"kind": "majority", "min": 2}, "a", "aa") == [(None, "too few judgments: 1 of 2"), ("a", "")]
    assert _decide({"kind": "majority", "share": 0.5}, "aabc", "aab") == [
        (None, "no sufficient majority: 2 a, 1 b, 1 c"),
        ("a", ""),
    ]


def test_unanimous() -> None:
    assert _decide("unanimous", "aaa", "aab", "a") == [
        ("a", ""),
        (None, "not unanimous: 2 a, 1 b"),
        (None, "too few judgments: 1 of 2"),
    ]


def test_the_senior_has_the_last_word() -> None:
    rule = {"kind": "senior", "annotators": ["w2", "w1"]}
    assert _decide(rule, "aab", "ab.", "a..", "abb") == [("b", ""), ("b", ""), ("a", ""), ("b", "")]
    assert _decide({**rule, "otherwise": "unanimous"}, "a..") == [(None, "too few judgments: 1 of 2")]


def _ballot(seed: int, items: int = 200, voters: int = 6, labels: int = 4, share: float = 0.6) -> Any:
    random = np.random.default_rng(seed)
    truth, skill = random.integers(0, labels, items), random.uniform(0.35, 0.95, voters)
    votes: list[list[tuple[str, int]]] = [[] for _ in range(items)]
    for item in range(items):
        for voter in range(voters):
            if random.random() < share:
                right = random.random() < skill[voter]
                votes[item].append((f"w{voter}", int(truth[item]) if right else int(random.integers(labels))))
    voted = [place for place, one in enumerate(votes) if one]
    return [votes[place] for place in voted], truth[voted], skill + (1 - skill) / labels


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dawid_skene_equals_crowd_kit(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowd-kit and pandas speak of their own future
        import pandas as pd
        from crowdkit.aggregation import DawidSkene

        votes, _, _ = _ballot(seed)
        flat = [(item, voter, label) for item, one in enumerate(votes) for voter, label in one]
        theirs = DawidSkene(n_iter=100).fit_predict_proba(pd.DataFrame(flat, columns=["task", "worker", "label"]))
    vote_matrix = VoteMatrix.of(votes)
    mine = dawid_skene(vote_matrix).probabilities[theirs.index.to_numpy()]
    order = [vote_matrix.labels.index(label) for label in theirs.columns]
    np.testing.assert_allclose(mine[:, order], theirs.to_numpy(), atol=1e-8)


def test_quality_is_found() -> None:
    votes, truth, skill = _ballot(5, items=2000)
    for fit in (dawid_skene, fit_one_accuracy_per_voter):
        found = fit(VoteMatrix.of(votes))
        assert np.abs(found.quality - skill).max() < 0.1
        right = (found.probabilities.argmax(axis=1) == truth).mean()
        assert right > (VoteMatrix.of(votes).shares().argmax(axis=1) == truth).mean() + 0.01, "better than counting"


def test_weights_help_the_few_who_know() -> None:
    """Two experts and five who guess: counting is beaten by weighing."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 400)
    sees = np.where(random.random((400, 7)) < [0.95, 0.95, *[0.4] * 5], truth[:, None], random.integers(0, 3, (400, 7)))
    items = [[Annotation(f"w{voter}", "abc"[label]) for voter, label in enumerate(row)] for row in sees]

    def right(kind: str) -> float:
        found = Adjudicator.parse(kind).decide(items)
        return float(np.mean([one.label == "abc"[t] for one, t in zip(found.decisions, truth, strict=True)]))

    assert right("weighted") > right("majority") + 0.03
    quality = Adjudicator.parse("weighted").decide(items).quality
    assert set(sorted(quality, key=quality.__getitem__)[-2:]) == {"w0", "w1"}


def test_a_balance_is_checked_and_used() -> None:
    with pytest.raises(ValidationError, match="add up to 1"):
        Adjudicator.parse({"kind": "label_model", "balance": {"a": 0.5, "b": 0.2}})
    rule = {"kind": "label_model", "balance": {"a": 0.9, "b": 0.1}}
    assert _decide(rule, "ab")[0][0] == "a"
    assert _decide({**rule, "balance": {"a": 0.1, "b": 0.9}}, "ab")[0][0] == "b"
    with pytest.raises(DataError, match="gives no share to 'c'"):
        _decide(rule, "abc")


def test_the_last_word_of_an_annotator_counts() -> None:
    said = (Annotation("x", "a"), Annotation("y", None), Annotation("x", "b"))
    assert last_judgment_by_annotator(said) == [Annotation("x", "b")]
    assert to_agreement_table([AnnotatedItem("1", {}, said, 1)]) == [["b", None]]
    assert to_agreement_table([AnnotatedItem("1", {}, (Annotation("x", "2"), Annotation("y", "10")), 1)]) == [
        [2.0, 10.0]
    ]


def test_the_last_word_is_told_by_the_time_where_each_is_known() -> None:
    later = Annotation("x", "b", time="2025-02-03T10:00:00+01:00")
    earlier = Annotation("x", "a", time="2025-02-03T08:30:00Z")
    for said in ((later, earlier), (earlier, later)):
        assert last_judgment_by_annotator(said) == [later]
        assert to_agreement_table([AnnotatedItem("1", {}, said, 1)]) == [["b"]]
    assert last_judgment_by_annotator((later, earlier._replace(time="yesterday")))[0].value == "a"
    assert last_judgment_by_annotator((later, earlier._replace(time=None)))[0].value == "a"


def test_a_voter_that_stands_alone_is_neither_believed_more_nor_less() -> None:
    """Two voters agree on most items; a third votes where they are silent, for a label of its own."""
    votes = [[("x", "a"), ("y", "a")]] * 20 + [[("x", "b"), ("y", "b")]] * 20 + [[("z", "c")]] * 20
    found = fit_one_accuracy_per_voter(VoteMatrix.of(votes))
    assert found.quality[2] == pytest.approx(0.7)
    assert found.quality[0] > 0.85
    assert found.probabilities[-1, 2] > 0.6
