"""Training rows of a trial that are held out in the searched step's own data: found by id, parent, twin or prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from augmenting import Bench, rows
from luthier.artifacts.dataset import MADE, read_examples
from luthier.auto.search import leaks
from luthier.auto.search.leaks import find_leaked_rows
from luthier.auto.search.space import SearchSpace
from luthier.chat.messages import Message, user_text_of
from luthier.core.artifact import Artifact
from luthier.core.step import Step
from luthier.data.row import Row
from luthier.data.steps.augment import Augment
from luthier.data.steps.prepare import Prepare
from luthier.tune.steps.tune import Tune

SPLIT = {"test": 0.2, "validation": 0.2}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Tickets, split by shares."""
    return Bench(tmp_path_factory.mktemp("leaks"), split=SPLIT)


def ids(data: Artifact, *splits: str) -> set[str]:
    """Ids of the rows of some splits."""
    return {one.id for split in splits for one in read_examples(data, split)}


def test_the_same_data_do_not_leak(bench: Bench) -> None:
    assert find_leaked_rows(bench.data, bench.data) == {}


def test_rows_that_another_split_trains_on_are_found_by_id(bench: Bench) -> None:
    trial = bench.prepared(split={"test": 5, "validation": 5})
    found = find_leaked_rows(trial, bench.data)
    held = ids(bench.data, "validation", "test")
    assert {*found} == ids(trial, "train") & held
    assert found
    assert {*found.values()} == {"is held out"}
    order = [one.id for one in read_examples(trial, "train")]
    assert [*found] == [one for one in order if one in found]


def test_operators_of_a_split_by_shares_move_nobody(bench: Bench) -> None:
    trial = bench.prepared(split=SPLIT, ops=["normalize", {"kind": "length", "min": 8}, "quality", "near_dedup"])
    assert len(ids(trial, "train")) < len(ids(bench.data, "train"))
    assert find_leaked_rows(trial, bench.data) == {}


def test_rows_that_an_edit_moves_are_left_out(tmp_path: Path) -> None:
    texts = [f"<b>Order</b> {one['message']} number {at}" for at, one in enumerate(rows()[:80])]
    bench = Bench(tmp_path, csv_rows(*texts), split=SPLIT)
    source = {"kind": "csv", "path": "rows.csv", "prompt": "message", "answer": "category"}
    own = Prepare(source=source, split=SPLIT)
    steps = {"data": own, "more": Augment(data="data", augmenters=["noise"]), "tune": Tune(data="more")}
    data = bench.prepared(source=source, split=SPLIT)
    space = SearchSpace.build(Tune(data="more"), {"data.data.ops.normalize": [True, False]}, steps)
    made = space.apply({"data.data.ops.normalize": True})

    def prepared(step: Step) -> Artifact:
        assert isinstance(step, Prepare)
        return bench.prepared(source=source, split=SPLIT, ops=[one.settings() for one in step.ops])

    leaked = find_leaked_rows(prepared(made["data"]), data)
    assert leaked, "the split goes by the prompt as it is after the operators"
    without = space.exclude_rows(made, leaked)
    assert [*without] == ["of", "data"]
    trial = prepared(without["data"])
    assert find_leaked_rows(trial, data) == {}
    assert ids(trial, "train") == ids(prepared(made["data"]), "train") - {*leaked}
    assert space.exclude_rows(without, leaked) == without


def test_named_rows_are_held_out_wherever_they_stand(bench: Bench) -> None:
    chosen = sorted(ids(bench.data, "train"))[:3]
    assert {*find_leaked_rows(bench.data, bench.data, chosen)} >= {*chosen}
    assert {*find_leaked_rows(bench.data, bench.data, splits=("train",))} == ids(bench.data, "train")


def test_made_rows_leak_with_the_row_that_they_were_made_of(bench: Bench) -> None:
    other = bench.prepared(split={"test": 5})
    once = bench.augment([{"kind": "noise", "typos": 0.3}], data=other, checks={"label": "off"}).artifact
    held = ids(bench.data, "validation", "test")
    found = find_leaked_rows(once, bench.data)
    made = {one: why for one, why in found.items() if one not in held}
    assert made
    assert all(why.startswith("was made of") or why.startswith("has the prompt") for why in made.values())
    parents = {one.id: one.meta.get("augmented", {}).get("parents", []) for one in read_examples(once, "train")}
    for row, of in parents.items():
        assert (row in found) >= any(parent in held for parent in of)


def test_a_row_leaks_by_way_of_rows_that_were_made_of_others(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    held = sorted(ids(bench.data, "test"))[0]
    made = {"one": [held], "two": ["one"], "three": ["four"], "four": ["three", "two"], "five": ["six"], "six": []}
    rows_of = {id(bench.data): leaks._iterate_rows(bench.data, "test")}

    def read(data: object, split: str) -> Iterator[Row]:
        if data is bench.data:
            yield from rows_of.pop(id(data), ()) if split == "test" else ()
        elif split == "train":
            for at, (name, parents) in enumerate(made.items()):
                told = (Message(role="user", content=name), Message(role="assistant", content="c0"))
                yield Row(at, name, "noise", "", 0, "label", told, meta={MADE: {"parents": parents}})

    monkeypatch.setattr(leaks, "_iterate_rows", read)
    trial = Artifact(bench.data.folder, bench.data.manifest, bench.data.find)
    found = find_leaked_rows(trial, bench.data)
    assert [*found] == ["one", "two", "three", "four"]
    assert found["two"] == f"was made of {held}, which is held out"
    assert found["one"] == f"was made of {held}, which is held out"


def csv_rows(*texts: str) -> list[dict[str, str]]:
    """Rows of one customer each."""
    return [{"message": text, "category": f"c{at % 2}", "customer": str(at)} for at, text in enumerate(texts)]


def test_equal_prompts_and_twins_that_were_dropped_are_found(tmp_path: Path) -> None:
    texts = [f"{one['message']} number {at}" for at, one in enumerate(rows()[:60])]
    twins = [f"{text} please" for text in texts]
    own: dict[str, Any] = {"split": {"test": 0.3}, "ops": ["near_dedup"]}
    bench = Bench(tmp_path, csv_rows(*texts, *twins), **own)
    trial = bench.prepared(split={"test": 0.3})
    found = find_leaked_rows(trial, bench.data)
    assert any("is a twin of" in why for why in found.values())
    assert {*found} <= ids(trial, "train")
    (tmp_path / "loud").mkdir()
    loud = Bench(tmp_path / "loud", csv_rows(*(text.upper() + " " for text in texts)), split={"test": 0})
    shouted = find_leaked_rows(loud.data, bench.data)
    same = {one.id for one in read_examples(bench.data, "test") if user_text_of(one) in texts}
    assert same
    assert len(shouted) == len(same)
    assert all(why.startswith("has the prompt of") for why in shouted.values())
