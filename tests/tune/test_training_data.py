"""Reading a data set for tuning: memory does not grow with its rows, and every row is accounted for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from luthier.artifacts.dataset import BATCH, read_example_batches, read_examples
from luthier.chat.messages import Example
from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.packing.pack import TokenRow
from luthier.tune.dataset.training_data import TrainingData
from luthier.tune.dataset.validation import ValidationSettings
from luthier.tune.objective import ObjectiveContext, TrainingExample
from luthier.tune.objectives.kto import Kto
from luthier.tune.objectives.sft import Sft
from luthier.tune.steps.tune import Tune
from tuning import TuneEnv, chat, make_env, thumbs

ROWS = 4000
BOUND = 3e6
"""Bytes that Python may hold beyond the numbers in files: a batch of examples, and one hash of each row."""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    rows = [chat(f"Where is parcel {line}? " * 8, "delivery", line) for line in range(ROWS)]
    return make_env(tmp_path_factory.mktemp("shop"), rows)


def peak(work: Callable[[], object]) -> int:
    """Most bytes that Python held at once while something was done."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(
        self: Sft, examples: Sequence[Example], text: ChatTokenizer, about: ObjectiveContext
    ) -> list[TrainingExample]:
        return [TrainingExample(id=one.id, rows=(TokenRow(list(range(90)), [1.0] * 90, one.id),)) for one in examples]

    monkeypatch.setattr(Sft, "build_training_examples", quick)
    step = Tune(data="data", validation=ValidationSettings(rows=0.1))
    text = ChatTokenizer.load(env.base.folder)
    len(
        TrainingData(step.model_copy(update={"max_train_samples": 9}), env.work(step), text).dataset
    )  # what is imported, is
    material = TrainingData(step, env.work(step), text)
    assert peak(lambda: material.dataset) < BOUND
    assert len(material.dataset) == 0.9 * ROWS
    assert peak(lambda: read_examples(env.data, "train")) > 3 * BOUND


def test_batches_hold_the_wanted_rows_in_order(env: TuneEnv) -> None:
    every = read_examples(env.data, "train")
    assert [one for some in read_example_batches(env.data, "train") for one in some] == every
    wanted = [0, 1, 255, 256, 700, 3999]
    found = [one for some in read_example_batches(env.data, "train", wanted, size=100) for one in some]
    assert found == [every[place] for place in wanted]
    assert list(read_example_batches(env.data, "train", [])) == []


@pytest.mark.parametrize("rows", [None, 3])
def test_every_answer_finds_a_neighbour_wherever_it_stands(tmp_path: Path, rows: int | None) -> None:
    env = make_env(tmp_path, thumbs(2 * BATCH + 1))  # the last stands in a batch of its own, and three in two
    step = Tune(data="data", objective=Kto(), max_train_samples=rows)
    material = TrainingData(step, env.work(step, seed=0), ChatTokenizer.load(env.base.folder))
    assert len(material.dataset) == (rows or 2 * BATCH + 1)


def test_a_killed_reading_begins_again_and_a_finished_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make_env(tmp_path)
    step = Tune(data="data", max_train_samples=20)
    text = ChatTokenizer.load(env.base.folder)
    dataset = Sft.build_training_examples
    with monkeypatch.context() as patch:
        patch.setattr(
            Sft, "build_training_examples", lambda self, some, text, about: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            len(TrainingData(step, env.work(step), text).dataset)
    assert len(TrainingData(step, env.work(step), text).dataset) == 20
    monkeypatch.setattr(Sft, "build_training_examples", lambda self, some, text, about: pytest.fail("read twice"))
    assert len(TrainingData(step, env.work(step), text).dataset) == 20
    assert dataset is not Sft.build_training_examples


def test_what_the_template_cannot_show_is_said_once_and_only_when_rows_have_it(tmp_path: Path) -> None:
    rows = [chat(f"Where is parcel {line}?", "delivery", line) for line in range(4)]
    turns = rows[2].messages
    thought = turns[-1].model_copy(update={"thinking": "A parcel."})
    mixed = [*rows[:2], rows[2].model_copy(update={"messages": (*turns[:-1], thought)}), rows[3]]
    for name, some, wanted in (("plain", rows, []), ("thinking", mixed, ["(seen in 1 of 4 rows)"])):
        env = make_env(tmp_path / name, some)
        text = ChatTokenizer.load(env.base.folder)
        assert len(TrainingData(Tune(data="data"), env.work(Tune(data="data")), text).dataset) == 4
        said = [one for one in env.said("note") if "reasoning" in one or "tool calls" in one]
        assert [one.partition("tags ")[2] for one in said] == wanted
