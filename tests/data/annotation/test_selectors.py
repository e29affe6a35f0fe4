"""What each way of choosing prefers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.data.selector import LabelingPool, SelectionCandidate, Selector
from luthier.models.embedders.lsa import LsaEmbedder
from tests.test_every_selector import TOPICS, _candidate, pool


def test_uncertainty_by_its_formulae() -> None:
    one = LabelingPool([_candidate(0, "t", [0.5, 0.3, 0.2])], (), 0)
    entropy = -sum(share * math.log(share) for share in (0.5, 0.3, 0.2)) / math.log(3)
    assert one.uncertainty("entropy")[0] == pytest.approx(entropy)
    assert one.uncertainty("margin")[0] == pytest.approx(0.8)
    assert one.uncertainty("confidence")[0] == pytest.approx(0.75)
    ends = LabelingPool([_candidate(0, "t", [1.0, 0.0, 0.0]), _candidate(1, "t", [1 / 3] * 3)], (), 0)
    for measure in ("entropy", "margin", "confidence"):
        assert ends.uncertainty(measure).tolist() == pytest.approx([0.0, 1.0])


def test_uncertainty_takes_the_least_sure_first() -> None:
    whole = pool()
    chosen = Selector.parse({"kind": "uncertainty", "measure": "margin"}).choose(whole, 5)
    margins = whole.uncertainty("margin")
    assert [one.candidate_index for one in chosen] == np.argsort(-margins)[:5].tolist()


def test_no_proposal_is_one_clear_error() -> None:
    bare = LabelingPool([_candidate(4, "t", None)], (), 0)
    with pytest.raises(DataError, match="no proposal") as caught:
        Selector.parse("uncertainty").choose(bare, 1)
    assert "`prelabel`" in caught.value.hint
    assert len(Selector.parse("k_center").choose(bare, 1)) == 1


@pytest.mark.parametrize("kind", ["uncertainty", "mmr"])
def test_a_row_of_which_the_model_said_nothing_is_asked_about_first(kind: str) -> None:
    """Some models name no label now and then: that is no reason to choose nothing."""
    told = _candidate(0, "one", [0.6, 0.3, 0.1])
    some = LabelingPool(
        [told, _candidate(1, "two", None), _candidate(2, "three", None)._replace(shares={"a": 1.0})], (), 0
    )
    *first, last = Selector.parse(kind).choose(some, 3)
    assert ({one.candidate_index for one in first}, last.candidate_index) == ({1, 2}, 0)


def _topics(whole: LabelingPool, kind: object, count: int) -> set[int]:
    return {one.candidate_index % 4 for one in Selector.parse(kind).choose(whole, count)}


def test_k_center_covers_what_there_is() -> None:
    assert _topics(pool(), "k_center", 4) == {0, 1, 2, 3}


def test_k_center_stays_away_from_what_is_labelled() -> None:
    done = tuple(f"my {topic} number {n} is late" for topic in TOPICS[:3] for n in range(5))
    first = Selector.parse("k_center").choose(pool(labelled=done), 1)[0]
    assert first.candidate_index % 4 == 3


def test_k_center_is_the_greedy_one() -> None:
    """Beside a plain loop over distances."""
    whole = pool(labelled=("my parcel by courier number 1 is late",))
    points = np.concatenate(whole.points(LsaEmbedder()))
    far = [1 - float(points[at] @ points[40]) for at in range(40)]
    wanted: list[int] = []
    for _ in range(10):
        farthest = max(far)
        ties = [at for at in range(40) if round(far[at], 9) == round(farthest, 9)]
        wanted.append(min(ties, key=lambda at: whole.candidates[at].id))
        far = [min(old, 1 - float(points[at] @ points[wanted[-1]])) for at, old in enumerate(far)]
        far[wanted[-1]] = -1
    assert [one.candidate_index for one in Selector.parse("k_center").choose(whole, 10)] == wanted


def test_mmr_trades_uncertainty_against_likeness() -> None:
    twins = [_candidate(n, "exactly the same words here", [0.34, 0.33, 0.33]) for n in range(5)]
    other: list[SelectionCandidate] = [_candidate(9, "something else altogether", [0.6, 0.3, 0.1])]
    both = LabelingPool([*twins, *other], (), 0)
    assert {one.candidate_index for one in Selector.parse("uncertainty").choose(both, 2)} <= set(range(5))
    assert 5 in {one.candidate_index for one in Selector.parse({"kind": "mmr", "diversity": 0.5}).choose(both, 2)}
    alone = Selector.parse({"kind": "mmr", "diversity": 0}).choose(pool(), 8)
    assert [one.candidate_index for one in alone] == [
        one.candidate_index for one in Selector.parse("uncertainty").choose(pool(), 8)
    ]


def test_random_follows_the_seed() -> None:
    places = [
        tuple(one.candidate_index for one in Selector.parse("random").choose(pool(seed=seed), 10)) for seed in range(4)
    ]
    assert len(set(places)) == 4
