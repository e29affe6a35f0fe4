"""Trainings repeated without some rows, and the states that a training keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars
import pytest
import torch

from luthier.core.errors import DataError, ModelError
from luthier.tune.objectives.grpo import Grpo
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.kept_states import KeptStates
from tuning import TuneEnv, examples, make_env, tune_and_resume

QUICK: dict[str, Any] = {
    "data": "data", "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32", "technique": Lora(r=4), "epochs": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"), examples(24))


def digests(artifact: Any) -> dict[str, str]:
    return {entry.path: entry.digest for entry in artifact.manifest.files}


def test_no_rows_left_out_is_the_plain_training(env: TuneEnv) -> None:
    plain, without = Tune(**QUICK), Tune(**QUICK, without=(), keep_states=0)
    assert plain.hashed_settings() == without.hashed_settings()
    assert not {"without", "keep_states"} & plain.hashed_settings().keys()


def test_a_row_without_weight_is_as_one_that_other_data_lack_at_its_place(env: TuneEnv, tmp_path: Path) -> None:
    ids = [example.id for example in examples(24)]
    made = env.tune(Tune(**QUICK, without=tuple(ids[:3])))
    table = polars.read_parquet(made.path("training_examples.parquet"))
    assert table.filter(polars.col("seen") == 0)["id"].to_list() == ids[:3]
    assert table["nothing"].to_list()[:4] == ["`without` names it"] * 3 + [None]
    plain = env.tune(Tune(**QUICK))
    assert digests(plain) != digests(made)
    (tmp_path / "ids.txt").write_text("\n".join(ids[:3]))
    named = Tune(**QUICK, without=str(tmp_path / "ids.txt"))
    assert digests(env.tune(named)) == digests(made)
    assert named.fingerprint(tmp_path) is not None
    weights = {name: shop_weights(one) for name, one in (("plain", plain), ("without", made))}
    assert any(not torch.equal(value, weights["without"][name]) for name, value in weights["plain"].items())


def shop_weights(artifact: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(artifact.path("adapter/adapter_model.safetensors"))
    return found


def test_the_counterfactual_is_weight_zero(tmp_path: Path) -> None:
    """Rows with `weight: 0` in the objective leave the order; here the order stays and only their share goes."""
    rows = [example.model_copy(update={"meta": {"share": 1.0}}) for example in examples(8)]
    env = make_env(tmp_path, rows)
    settings = {**QUICK, "epochs": 1}
    one = env.tune(Tune(**settings, without=(rows[0].id,)))
    other = make_env(tmp_path / "fewer", rows[1:]).tune(Tune(**{**settings, "batch_size": 7}))
    for name, value in shop_weights(one).items():
        torch.testing.assert_close(value, shop_weights(other)[name])


def test_ids_that_no_row_has_and_trainings_without_rows_are_refused(env: TuneEnv, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names no training row: 'strange'"):
        env.tune(Tune(**QUICK, without=("strange",)))
    with pytest.raises(DataError, match="leaves no row to learn from"):
        env.tune(Tune(**QUICK, without=tuple(example.id for example in examples(24))))
    with pytest.raises(DataError, match="cannot be read as a file of ids"):
        env.tune(Tune(**QUICK, without=str(tmp_path / "none.txt")))
    with pytest.raises(ValueError, match="grpo learns from answers that it draws"):
        Tune(data="data", objective=Grpo.model_validate({"rewards": ["exact"]}), without=("12345678",))


def test_a_step_of_which_every_row_is_left_out_moves_nothing(env: TuneEnv) -> None:
    settings = {**QUICK, "batch_size": 12, "epochs": 1}
    order = [
        json.loads(line)
        for line in env.tune(Tune(**settings, keep_states=1)).path("log.jsonl").read_text().splitlines()
    ]
    rows = KeptStates(env.store.open(env.tune_digest(Tune(**settings, keep_states=1)))).rows
    made = env.tune(Tune(**settings, without=tuple(rows[2])))
    log = [json.loads(line) for line in made.path("log.jsonl").read_text().splitlines()]
    assert log[0] == order[0]
    assert log[1]["skipped"] == "`without` leaves none of its rows"


def test_states_are_kept_evenly_in_one_epoch_and_go_on_after_a_kill(env: TuneEnv) -> None:
    step = Tune(**{**QUICK, "epochs": 1}, keep_states=2, save_steps=1)
    whole, again = tune_and_resume(env, step, before=2)
    assert whole == again
    assert {
        "states/2.safetensors",
        "states/3.safetensors",
        "states/states.json",
        "states/steps.parquet",
    } <= whole.keys()
    made = env.store.open(env.tune_digest(step))
    states = KeptStates(made)
    assert states.steps == [2, 3]
    assert len(states.rates) == 3
    assert sorted(name for ids in states.rows.values() for name in ids) == sorted(
        example.id for example in examples(24)
    )
    assert all(len(ids) == 8 for ids in states.rows.values())
    last = states.read(3)
    assert last.updates == 3
    assert last.weights.keys() == last.second.keys()
    saved = shop_weights(made)
    for name, value in last.weights.items():
        assert torch.equal(saved[name.replace(".default", "")], value)
    plain = digests(env.tune(Tune(**{**QUICK, "epochs": 1})))
    assert {name: digest for name, digest in whole.items() if not name.startswith("states/")} == plain
    (made.folder / "states" / "2.safetensors").unlink()
    with pytest.raises(ModelError, match="a kept state is gone"):
        states.read(2)
    with pytest.raises(ModelError, match="kept no states"):
        KeptStates(env.tune(Tune(**QUICK)))
