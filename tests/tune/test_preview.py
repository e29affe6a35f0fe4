"""Rows as the model sees them are those that a training reads, whatever the objective."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.chat.tokenizer import ChatTokenizer
from luthier.models.load import find_base_folder
from luthier.tune.dataset.preview import RenderedRow, render_training_rows
from luthier.tune.dataset.training_data import TrainingData
from luthier.tune.steps.tune import Tune
from tests.tuning import TuneEnv, make_env, pairs, thumbs


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def _told(env: TuneEnv, step: Tune, number: int = 4) -> tuple[list[RenderedRow], TrainingData]:
    work = env.work(step, 3, None)
    material = TrainingData(step, work, ChatTokenizer.load(find_base_folder(env.base)))
    return render_training_rows(step, work, number), material


def _step(**settings: Any) -> Tune:
    return Tune(**{"data": "data", "technique": {"kind": "lora", "r": 2}, **settings})  # type: ignore[arg-type]


OBJECTIVES = [
    {"kind": "sft"},
    {"kind": "sft", "max_length": 60, "truncation": "prompt"},
    {"kind": "classify"},
    {"kind": "classify", "head": "sequence"},
    {"kind": "grpo", "rewards": ["exact"]},
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_ids_and_trained_tokens_are_those_of_the_training(env: TuneEnv, objective: dict[str, Any]) -> None:
    rows, material = _told(env, _step(objective=objective))
    _same(rows, material)


def _same(rows: list[RenderedRow], material: TrainingData) -> None:
    for row, example in zip(rows, material.dataset.first(4), strict=True):
        assert row.id == example.id
        assert (row.cut, row.nothing) == (example.cut, example.nothing)
        for sequence, read in zip(row.sequences, example.rows, strict=True):
            assert [token.id for token in sequence.tokens] == list(read.ids)
            assert [at for at, token in enumerate(sequence.tokens) if token.trained] == read.targets


@pytest.mark.parametrize(("objective", "names"), [("dpo", ["chosen", "rejected"]), ("kto", ["1 of 2", "2 of 2"])])
def test_both_answers_of_a_pair_are_told(tmp_path: Path, objective: str, names: list[str]) -> None:
    env = make_env(tmp_path, pairs(8) if objective == "dpo" else thumbs(8))
    rows, material = _told(env, _step(objective={"kind": objective}))
    assert [one.name for one in rows[0].sequences] == names
    _same(rows, material)


def test_a_sequence_head_is_told_by_the_name_of_its_class(env: TuneEnv) -> None:
    rows, _ = _told(env, _step(objective={"kind": "classify", "head": "sequence"}))
    last = rows[0].sequences[0].stretches[-1]
    assert last.trained
    assert last.text in ("[account]", "[billing]", "[delivery]")


def test_training_keeps_its_first_rows(env: TuneEnv) -> None:
    step = _step(dtype="float32")
    rows, _ = _told(env, step, 3)
    kept = env.tune(step).read_json("rendered.json")["rows"]
    assert kept == [row.as_json() for row in rows]
