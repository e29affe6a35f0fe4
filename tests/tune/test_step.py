"""The tune step: what it learns, writes, says and refuses; killed and resumed it ends in the same bytes."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, Interrupted, ModelError
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.step import PlanContext
from luthier.models.describe import describe_model_folder
from luthier.models.kernels.calls import disable_kernels
from luthier.models.kernels.compile import find_c_compiler
from luthier.models.load import load_model
from luthier.models.quiet import silence_peft_warnings
from luthier.tune import cost
from luthier.tune.objectives.sft import Sft
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import Technique
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.ia3 import Ia3
from luthier.tune.techniques.layers import PartialFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.trainer import StepMetrics, Trainer
from tuning import TuneEnv, chat, examples, interrupted, make_env

QUICK = {"data": "data", "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32"}
FILES = ("training.json", "log.jsonl", "training_examples.parquet")


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def logged(artifact: Artifact, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (artifact.folder / "log.jsonl").read_text().splitlines()]


def losses(artifact: Artifact) -> list[float]:
    return logged(artifact, "loss")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.suffix != ""}


def test_an_adapter_at_the_head_holds_no_weight_of_the_base(env: TuneEnv, recwarn: pytest.WarningsRecorder) -> None:
    """PEFT would write the whole matrix beside it, and say so on the terminal."""
    made = env.tune(Tune(**QUICK, technique=Lora(r=4, target_modules=("q_proj", "lm_head"))))
    held = load_file(made.folder / "adapter" / "adapter_model.safetensors")
    assert any("lm_head" in name for name in held)
    assert all("lora_" in name for name in held)
    with silence_peft_warnings():
        plain = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(env.base.folder), made.folder / "adapter"
        )
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(plain(ids).logits, load_model(made, "float32").model(ids).logits)
    assert not [one for one in recwarn if "embedding" in str(one.message)]


def test_lora_learns_and_loads_in_plain_peft(env: TuneEnv) -> None:
    made = env.tune(Tune(**QUICK, technique=Lora(r=4), epochs=4))
    assert losses(made)[-1] < 0.5 * losses(made)[0]
    with silence_peft_warnings():
        plain = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(env.base.folder), made.folder / "adapter"
        )
    ours = load_model(made, "float32").model
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(plain(ids).logits, ours(ids).logits)
    before = AutoModelForCausalLM.from_pretrained(env.base.folder)(ids).logits
    assert (plain(ids).logits - before).abs().max() > 0.1


def test_full_learns_and_loads_in_plain_transformers(env: TuneEnv) -> None:
    made = env.tune(Tune(**QUICK, technique=FullFineTuning(), epochs=2))
    assert losses(made)[-1] < 0.7 * losses(made)[0]
    plain, info = AutoModelForCausalLM.from_pretrained(made.folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert plain.lm_head.weight.data_ptr() == plain.get_input_embeddings().weight.data_ptr()
    assert load_model(made, "float32").name == "tiny+full"


def test_the_log_and_the_books_add_up(env: TuneEnv) -> None:
    made = env.tune(Tune(**QUICK, max_train_samples=20, epochs=1.5))
    lines = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["rows"] for line in lines] == [8, 8, 8, 6]
    assert all(line["computed"] < line["tokens"] for line in lines)
    assert all(math.isfinite(line["grad_norm"]) and line["lr"] <= 1e-2 for line in lines)
    learnt = polars.read_parquet(made.folder / "training_examples.parquet")
    assert learnt["seen"].sum() == 30
    assert set(learnt["seen"]) == {1, 2}
    assert learnt.height == 20
    assert set(learnt["id"]) <= {example.id for example in examples()}
    tuned = json.loads((made.folder / "training.json").read_text())
    assert tuned["rows"] == 20
    assert tuned["learnt_tokens"] == learnt["learnt"].sum()
    assert tuned["technique"]["kind"] == "lora"


@pytest.mark.matrix
@pytest.mark.parametrize("technique", [Lora(r=4, lora_dropout=0.2), FullFineTuning()], ids=["lora", "full"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_killed_anywhere_it_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, technique: Lora | FullFineTuning, precision: str
) -> None:
    env = make_env(tmp_path)
    step = Tune(**{**QUICK, "dtype": precision}, technique=technique, save_steps=2)
    whole = bytes_of(env.tune(step).folder)
    env.store.remove(env.tune_digest(step))
    for kill in random.Random(0).sample(range(6), 2):
        monkeypatch.setattr(Trainer, "_step", _dying(Trainer._step, kill))
        with pytest.raises(KeyboardInterrupt):
            env.tune(step)
        monkeypatch.undo()
    again = bytes_of(env.tune(step).folder)
    assert {name for name in whole if whole[name] != again[name]} <= {"timing.json"}
    assert whole.keys() == again.keys()


@pytest.mark.skipif(find_c_compiler() is None, reason="no C compiler is here")
def test_it_stops_when_who_listens_to_its_numbers_asks_for_it(tmp_path: Path) -> None:
    env, step = make_env(tmp_path), Tune(**QUICK, technique=Lora(r=4))
    heard: list[RunEvent] = []

    def listen(event: RunEvent) -> bool:
        heard.append(event)
        return event.kind == "progress" and event.measures.get("step") == 2

    work = replace(env.work(step), events=RunEventEmitter(listen).of("tune"))
    with pytest.raises(Interrupted, match="stopped after step 2"):
        step.make(work)
    assert "loss" in heard[-1].measures
    assert not (work.folder / "training.json").exists()


def test_begun_without_kernels_it_goes_on_without_them(tmp_path: Path) -> None:
    step = Tune(**{**QUICK, "dtype": "bfloat16"}, technique=Lora(r=4), save_steps=2)
    with disable_kernels():
        whole = bytes_of(make_env(tmp_path / "whole").tune(step).folder)
        env = make_env(tmp_path / "parted")
        interrupted(env, step, before=4)
    again = bytes_of(env.tune(step).folder)
    assert {name for name in whole if whole[name] != again[name]} <= {"timing.json"}
    assert bytes_of(make_env(tmp_path / "with").tune(step).folder)["log.jsonl"] != whole["log.jsonl"]


def _dying(step: object, at: int) -> object:
    def dying(self: Trainer, number: int, keeper: object) -> StepMetrics:
        if number == at:
            raise KeyboardInterrupt
        return step(self, number, keeper)  # type: ignore[operator, no-any-return]

    return dying


@pytest.mark.parametrize("technique", [Lora(r=4), FullFineTuning()], ids=["lora", "full"])
def test_how_a_step_is_split_does_not_change_what_is_learnt(env: TuneEnv, technique: Lora | FullFineTuning) -> None:
    whole = env.tune(Tune(**QUICK, technique=technique, max_train_samples=16, max_tokens_per_microbatch=4096), seed=1)
    split = env.tune(Tune(**QUICK, technique=technique, max_train_samples=16, max_tokens_per_microbatch=90), seed=1)
    assert losses(split) == pytest.approx(losses(whole), rel=1e-5)
    assert logged(split, "grad_norm") == pytest.approx(logged(whole, "grad_norm"), rel=1e-4)


def test_bf16_ends_near_fp32(env: TuneEnv) -> None:
    settings = {**QUICK, "epochs": 4, "technique": Lora(r=4)}
    wide = losses(env.tune(Tune(**settings)))
    narrow = losses(env.tune(Tune(**{**settings, "dtype": "bfloat16"})))
    assert sum(narrow[-6:]) == pytest.approx(sum(wide[-6:]), rel=0.1)


def test_rows_that_teach_nothing_are_counted_listed_and_said(tmp_path: Path) -> None:
    long = chat("word " * 300, "billing", 90)
    env = make_env(tmp_path, [*examples(12), long, chat("Hello", "", 91)])
    made = env.tune(Tune(**QUICK, objective=Sft(max_length=200)))
    assert any("1 row: longer than 200 tokens" in said for said in env.said("warning"))
    learnt = polars.read_parquet(made.folder / "training_examples.parquet")
    row = learnt.row(by_predicate=polars.col("id") == long.id, named=True)
    assert row["seen"] == 0
    assert row["cut"]
    assert "longer than 200" in row["nothing"]
    cut = env.tune(Tune(**QUICK, objective=Sft(max_length=200, truncation="prompt")))
    row = polars.read_parquet(cut.folder / "training_examples.parquet").row(
        by_predicate=polars.col("id") == long.id, named=True
    )
    assert (row["seen"], row["tokens"], row["cut"]) == (1, 200, True)
    assert any("1 row was cut to 200 tokens" in said for said in env.said("warning"))


def test_nothing_to_learn_at_all_is_an_error(tmp_path: Path) -> None:
    env = make_env(tmp_path, [chat("word " * 300, "billing", line) for line in range(3)])
    with pytest.raises(DataError, match="nothing can be learnt"):
        env.tune(Tune(**QUICK, objective=Sft(max_length=100)))


def test_divergence_stops_with_the_step_and_the_examples(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    step = Tune(**{**QUICK, "learning_rate": 1e30}, max_grad_norm=None, technique=FullFineTuning(), warmup_ratio=0)
    with pytest.raises(
        ModelError, match=r"diverged at step \d+: (loss|gradient norm) (nan|inf), on examples"
    ) as caught:
        env.tune(step)
    assert "lower learning_rate" in caught.value.hint
    assert (env.work(step).scratch / "checkpoint.safetensors").is_file()


def test_a_model_that_did_not_move_is_refused(env: TuneEnv) -> None:
    with pytest.raises(ModelError, match="no parameter moved"):
        env.tune(Tune(**{**QUICK, "learning_rate": 1e-30}, technique=FullFineTuning(), max_train_samples=8))


def test_unknown_targets_get_a_suggestion(env: TuneEnv) -> None:
    with pytest.raises(ModelError, match="no linear layer is called 'q_pro'") as caught:
        env.tune(Tune(**QUICK, technique=Lora(target_modules=("q_pro",))))
    assert "q_proj" in caught.value.hint


@pytest.mark.parametrize(
    ("technique", "words", "remedy"),
    [
        (Ia3(target_modules=("k_proj", "v_pro")), "no linear layer is called 'v_pro'", "v_proj"),
        (Ia3(feedforward_modules=("down_pro",)), "'down_pro' is none of the target_modules", "down_proj"),
        (PartialFineTuning(names=("*.o_proj.weight", "*.q_pro.weight")), "no parameter is called '*.q_pro.weight'", ""),
    ],
)
def test_a_name_beside_others_that_are_known_is_refused_too(
    env: TuneEnv, technique: Technique, words: str, remedy: str
) -> None:
    with pytest.raises(ModelError) as caught:
        env.tune(Tune(**QUICK, technique=technique))
    assert words in str(caught.value)
    assert remedy in caught.value.hint


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_more_directions_than_a_weight_has_are_refused(env: TuneEnv, start: Literal["pissa", "olora"]) -> None:
    with pytest.raises(ModelError, match=r"17 directions of each weight, and model\.layers\.0\.\S+ has 16"):
        env.tune(
            Tune(**QUICK, technique=Lora(r=17, init_lora_weights=start))
        )  # PEFT gives it 16, in a file that says 34
    assert not Lora(r=17, init_lora_weights=start, target_modules=("down_proj",)).refuses(
        "sft", describe_model_folder(env.base.folder)
    )


def test_a_head_that_is_one_with_the_embeddings_is_told_of(env: TuneEnv) -> None:
    told = describe_model_folder(env.base.folder)
    assert told.tied
    with_head = Lora(r=4, target_modules=("q_proj", "lm_head"))
    assert "one with the embeddings" in with_head.warning(told)
    assert not with_head.refuses("sft", told)
    assert not Lora(r=4).warning(told)
    for start in ("pissa", "olora"):
        assert "is the embeddings, too" in with_head.model_copy(update={"init_lora_weights": start}).refuses(
            "sft", told
        )


def test_what_was_decided_is_said(env: TuneEnv) -> None:
    env.heard.clear()
    env.tune(Tune(**{**QUICK, "learning_rate": "auto"}, max_train_samples=8))
    said = " | ".join(env.said("note"))
    assert "learning rate" in said
    assert "ten times the rate of full fine-tuning" in said
    assert "at most" in said
    progress = [event for event in env.heard if event.kind == "progress" and event.unit == "rows"]
    assert progress[-1].done == progress[-1].total == 8
    assert "loss" in progress[-1].measures


def test_an_adapter_can_be_tuned_over_an_adapter(env: TuneEnv) -> None:
    first = env.tune(Tune(**QUICK, technique=Lora(r=2)))
    second = env.tune(Tune(**QUICK, technique=Lora(r=3)), model=first)
    assert load_model(second, "float32").name == "tiny+lora+lora"
    assert losses(second)[0] < losses(first)[0]


def test_a_forecast_needs_no_torch_and_names_its_source(env: TuneEnv) -> None:
    step = Tune(**QUICK, epochs=2)
    told = step.estimate_cost(
        PlanContext(inputs={"data": env.data, "model": env.base}, upstream={}, recipe_dir=env.base.folder)
    )
    assert told.seconds is not None
    assert told.seconds > 0
    assert told.peak_bytes is not None
    assert told.tokens is not None
    assert "48 rows" in told.how
    assert "matrix product" in told.how
    history = {"measures": {"flops_per_s": 1e9, "begin_s": 2.0}}
    inputs = {"data": env.data, "model": env.base}
    later = step.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder, history=history))
    assert "last such step on this machine" in later.how
    nothing = step.estimate_cost(PlanContext(inputs={}, upstream={}, recipe_dir=env.base.folder))
    assert nothing.seconds is None


def test_a_forecast_knows_that_the_last_training_computed_in_other_numbers(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(precision: str, bits: int) -> float:
        history = {"measures": {"flops_per_s": 1e6, "begin_s": 2.0, "bf16": bits == 16}}
        step = Tune.model_validate({"data": "data", "dtype": precision})
        inputs = {"data": env.data, "model": env.base}
        told = step.estimate_cost(
            PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder, history=history)
        ).seconds
        return (told or 0.0) - 2.0

    quicker = cost.estimate_matmul_speedup(bf16=True) / cost.estimate_matmul_speedup(bf16=False)
    assert quicker >= 2
    monkeypatch.setattr(cost, "PACK_TOKENS", 0)
    assert seconds("bfloat16", 16) == seconds("float32", 32)
    assert seconds("float32", 16) == pytest.approx(quicker * seconds("float32", 32), rel=0.01)
    assert seconds("bfloat16", 32) == pytest.approx(seconds("bfloat16", 16) / quicker, rel=0.01)


def test_a_technique_may_begin_with_the_first_packs_and_refuse_an_objective(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = Tune(**QUICK, technique=Lora(r=4), max_train_samples=16), []
    monkeypatch.setattr(Lora, "begin", lambda self, model, packs: seen.append(next(packs)))
    env.tune(step, seed=11)
    assert [pack.rows for pack in seen] == [8]
    monkeypatch.setattr(Lora, "refuses", lambda self, objective, model: f"no {objective} on {model.layers} layers")
    inputs = {"data": env.data, "model": env.base}
    with pytest.raises(ModelError, match="lora and sft do not go together: no sft on 2 layers"):
        step.estimate_cost(PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder))
    with pytest.raises(ModelError, match="do not go together"):
        step.make(env.work(step))


def test_a_technique_sets_the_rate_of_each_parameter(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Tune(**QUICK, technique=Lora(r=4), max_train_samples=16, max_grad_norm=None)
    monkeypatch.setattr(Lora, "rate_of", lambda self, name: 0.0 if "q_proj.lora_B" in name else 1.0)
    made = env.tune(step, seed=12)
    weights = load_file(made.folder / "adapter" / "adapter_model.safetensors")
    still = {name.split(".")[-3] for name, value in weights.items() if "lora_B" in name and not value.any()}
    assert still == {"q_proj"}


@given(st.integers(1, 50), st.floats(0.1, 3), st.integers(1, 16), st.integers(0, 5))
def test_every_example_is_seen_as_often_as_asked(count: int, epochs: float, rows: int, seed: int) -> None:
    from luthier.tune.training.schedule import BatchSampler

    sampler = BatchSampler(seed=seed, count=count, epochs=epochs, batch_size=rows)
    seen = [index for step in range(sampler.steps) for index in sampler.get_batch_indices(step)]
    assert len(seen) == sampler.total
    for begin in range(0, len(seen), count):
        part = seen[begin : begin + count]
        assert len(set(part)) == len(part)
    assert sampler.get_batch_indices(0) == sampler.get_batch_indices(0)


@pytest.mark.parametrize("technique", [FullFineTuning(), PartialFineTuning()], ids=["full", "layers"])
def test_a_whole_model_names_the_dtype_in_which_it_is_written(tmp_path: Path, technique: Technique) -> None:
    """The base's config names a narrower one, to which transformers would round what was learnt."""
    env = make_env(tmp_path)
    config = env.base.folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "bfloat16"}))
    made = env.tune(Tune(data="data", technique=technique, dtype="float32", max_train_samples=32))
    stored = load_file(made.folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(made.folder)
    for name, value in stored.items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=0, rtol=0)
