"""Reweighing: groups and labels are independent under the weights, or among the rows that are left."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from pydantic import ValidationError

from eval.evaluations import dataset, example, made
from luthier.artifacts.dataset import DatasetSummary, read_examples
from luthier.chat.messages import Example
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.store import Store
from luthier.data.steps.reweigh import Reweigh
from luthier.tune.objectives.sft import read_example_weight

PAIRS = {("north", "yes"): 40, ("north", "no"): 10, ("south", "yes"): 15, ("south", "no"): 35}


def rows() -> list[Example]:
    return [
        example(f"{who} writes from the {group}, number {number}", label, label, number, region=group)
        for (group, label), count in PAIRS.items()
        for number in range(count)
        for who in [("She", "He")[number % 2]]
    ]


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def data(store: Store) -> Artifact:
    return dataset(store, rows(), [example(f"held out {n}", "yes", "yes", n, region="north") for n in range(4)])


def test_no_label_goes_with_a_group_under_the_weights(store: Store, data: Artifact) -> None:
    found = made(store, Reweigh(data="data", column="region"), {"data": data})
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for row in read_examples(found, "train"):
        sums[row.meta["region"], row.label or ""] += read_example_weight(row, "weight")
    total = sum(sums.values())
    assert total == pytest.approx(100, abs=1e-3)
    for (group, label), value in sums.items():
        of_group = sum(weight for (one, _), weight in sums.items() if one == group)
        of_label = sum(weight for (_, one), weight in sums.items() if one == label)
        assert value == pytest.approx(of_group * of_label / total, rel=1e-4)
        assert of_group == pytest.approx(50, abs=1e-3)
    assert {row.meta["weight"] for row in read_examples(found, "test")} == {1.0}
    assert DatasetSummary.read(found).rows == {"train": 100, "test": 4}


def test_kamiran_and_calders_own_weights(store: Store) -> None:
    """The example of the paper: sex and class of ten job applicants."""
    table = [("m", "+")] * 4 + [("m", "-")] + [("f", "+")] * 2 + [("f", "-")] * 3
    rows = [example(f"row {n}", label, label, n, sex=sex) for n, (sex, label) in enumerate(table)]
    found = made(store, Reweigh(data="data", column="sex"), {"data": dataset(store, rows, rows[:1])})
    weights = {(row.meta["sex"], row.label): row.meta["weight"] for row in read_examples(found, "train")}
    assert weights == {("f", "+"): 1.5, ("f", "-"): pytest.approx(0.666667), ("m", "+"): 0.75, ("m", "-"): 2.0}


def test_sampling_leaves_equal_shares(store: Store, data: Artifact) -> None:
    found = made(store, Reweigh(data="data", column="region", how="sample"), {"data": data})
    left = Counter((row.meta["region"], row.label) for row in read_examples(found, "train"))
    share = {group: left[group, "yes"] / (left[group, "yes"] + left[group, "no"]) for group in ("north", "south")}
    assert share["north"] == pytest.approx(share["south"], abs=0.05)
    assert share["north"] == pytest.approx(0.55, abs=0.05)
    told = DatasetSummary.read(found)
    assert sum(left.values()) + told.dropped["balanced away"] == 100
    assert not any("weight" in row.meta for row in read_examples(found, "train"))
    again = made(Store(store.root / "other"), Reweigh(data="data", column="region", how="sample"), {"data": data})
    assert [row.id for row in read_examples(again, "train")] == [row.id for row in read_examples(found, "train")]


def test_groups_by_the_words_that_name_them(store: Store) -> None:
    rows = [
        example(f"{who} is here, number {n}", label, label, n)
        for n, (who, label) in enumerate(
            [("My sister", "yes")] * 6 + [("My sister", "no")] * 2 + [("My brother", "no")] * 4 + [("Nobody", "no")] * 2
        )
    ]
    found = made(store, Reweigh(data="data", axis="gender"), {"data": dataset(store, rows, rows[:1])})
    weights = {(row.messages[1].content[:7], row.label): row.meta["weight"] for row in read_examples(found, "train")}
    assert weights["My sist", "no"] > 1 > weights["My sist", "yes"]


def test_no_weight_is_too_large(store: Store) -> None:
    rows = [example(f"row {n}", "yes", "yes", n, g="a") for n in range(99)]
    rows += [example("other", "no", "no", 99, g="a"), example("one", "yes", "yes", 100, g="b")]
    rows += [example(f"more {n}", "no", "no", n, g="b") for n in range(99)]
    found = made(store, Reweigh(data="data", column="g", max=5.0), {"data": dataset(store, rows, rows[:1])})
    assert max(row.meta["weight"] for row in read_examples(found, "train")) == 5.0


def test_what_cannot_be_is_refused(store: Store, data: Artifact) -> None:
    with pytest.raises(ValidationError, match="either `column` or `axis`"):
        Reweigh(data="data")
    with pytest.raises(DataError, match="no training row has 'regon'"):
        made(store, Reweigh(data="data", column="regon"), {"data": data})
    with pytest.raises(DataError, match="names a religion"):
        made(store, Reweigh(data="data", axis="religion"), {"data": data})
