"""A curriculum: rows come in the order of a number of theirs, whole passes long, and then as they always do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError
from luthier.core.step import StepContext
from luthier.data.steps.prepare import Prepare
from luthier.models.packing.pack import TokenRow
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.schedule import BatchSampler, Curriculum, order_by_curriculum
from luthier.tune.training.trainer import Trainer
from tuning import TuneEnv, made, make_env

QUICK = {"data": "data", "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32", "technique": Lora(r=4)}


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 9), st.integers(0, 5))
def test_whole_passes_keep_the_order_and_later_ones_are_drawn(count: int, passes: int, rows: int, seed: int) -> None:
    first = numpy.arange(count)[::-1].copy()
    ways = [
        BatchSampler(seed=seed, count=count, epochs=passes + 1, batch_size=rows, first=order, first_epochs=passes)
        for order in (first, None)
    ]
    kept, drawn = ([index for step in range(one.steps) for index in one.get_batch_indices(step)] for one in ways)
    assert kept[: passes * count] == first.tolist() * passes
    assert kept[passes * count :] == drawn[passes * count :]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


@pytest.mark.parametrize("first", ["lowest", "highest"])
def test_rows_are_learnt_by_their_length(env: TuneEnv, first: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[int]] = []
    gradient = Trainer.gradient

    def watched(self: Trainer, rows: list[TokenRow], denominator: float, step: int) -> Any:
        read.append([len(row.ids) for row in rows])
        return gradient(self, rows, denominator, step)

    monkeypatch.setattr(Trainer, "gradient", watched)
    env.tune(Tune(**QUICK, epochs=2, curriculum=Curriculum(first=first)))
    steps = len(read) // 2
    lengths = [length for step in read[:steps] for length in step]
    assert lengths == sorted(lengths, reverse=first == "highest")
    later = [length for step in read[steps:] for length in step]
    assert sorted(later) == sorted(lengths)
    assert later != sorted(later, reverse=first == "highest")


def rated(root: Path, values: list[str]) -> tuple[TuneEnv, Artifact]:
    """A bench, and a data set with a column `hard` and what `length` writes of each row."""
    env = make_env(root)
    lines = [
        json.dumps({"prompt": f"Sort this message, number {'x ' * at}{at}", "answer": "billing", "hard": value})
        for at, value in enumerate(values)
    ]
    (root / "rows.jsonl").write_text("\n".join(lines) + "\n")
    step = Prepare.model_validate(
        {
            "source": {"kind": "jsonl", "path": "rows.jsonl", "prompt": "prompt", "answer": "answer"},
            "ops": ["length"],
            "split": {"test": 0},
            "task": "text",
        }
    )

    def fill(folder: Path) -> None:
        quiet = env.work(Tune(**QUICK)).events
        scratch = root / "scratch"
        scratch.mkdir()
        step.make(
            StepContext(name="data", inputs={}, folder=folder, scratch=scratch, recipe_dir=root, seed=1, events=quiet)
        )

    return env, made(env.store, "rated", "dataset", fill)


class Read:
    """What `order_by_curriculum` asks of examples: one for each training row, in source order."""

    def __init__(self, data: Artifact) -> None:
        self.keys = polars.read_parquet(data.path("examples/train.parquet"))["id"].to_list()
        self.sizes = numpy.arange(len(self.keys))

    def __len__(self) -> int:
        return len(self.keys)


def test_columns_of_the_data_and_of_operators_decide(tmp_path: Path) -> None:
    _, data = rated(tmp_path, ["3", "1", "", "2", "1.5"])
    dataset: Any = Read(data)
    assert order_by_curriculum(Curriculum(by="meta.hard"), data, dataset, 0).tolist() == [1, 4, 3, 0, 2]
    assert order_by_curriculum(Curriculum(by="meta.hard", first="highest"), data, dataset, 0).tolist() == [
        0,
        3,
        4,
        1,
        2,
    ]
    lengths = polars.read_parquet(data.path("attributes/length.parquet"))["length"].to_list()
    found = order_by_curriculum(Curriculum(by="length.length", first="highest"), data, dataset, 0).tolist()
    assert [lengths[at] for at in found] == sorted(lengths, reverse=True)


def test_rows_alike_come_in_a_drawn_order(tmp_path: Path) -> None:
    _, data = rated(tmp_path, ["1"] * 12)
    dataset: Any = Read(data)
    orders = {tuple(order_by_curriculum(Curriculum(by="meta.hard"), data, dataset, seed).tolist()) for seed in range(3)}
    assert len(orders) == 3
    assert {tuple(sorted(one)) for one in orders} == {tuple(range(12))}


def test_what_cannot_order_rows_is_said(tmp_path: Path) -> None:
    _, data = rated(tmp_path, ["3", "hard", "1"])
    dataset: Any = Read(data)
    with pytest.raises(DataError, match=r"'hard' in 'meta.hard', which is no number"):
        order_by_curriculum(Curriculum(by="meta.hard"), data, dataset, 0)
    with pytest.raises(DataError, match=r"no training row has a number in 'meta.easy'"):
        order_by_curriculum(Curriculum(by="meta.easy"), data, dataset, 0)
    with pytest.raises(DataError, match=r"the rows have no 'length.lenght'") as caught:
        order_by_curriculum(Curriculum(by="length.lenght"), data, dataset, 0)
    assert "length.length" in (caught.value.hint or "")
    with pytest.raises(ValidationError):
        Curriculum(epochs=0)
