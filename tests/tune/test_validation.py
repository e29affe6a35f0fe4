"""Held-out rows: never learnt, measured as evaluation measures, and what stops training and chooses its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import polars
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, RecipeError
from luthier.core.events import RunEventEmitter
from luthier.core.hashing import digest_of
from luthier.core.step import StepContext
from luthier.eval.steps.evaluate import Evaluate
from luthier.models.load import open_merged
from luthier.models.packing.logprobs import ForwardMode
from luthier.models.packing.pack import TokenRow
from luthier.tune.dataset.validation import HELD_OUT, BestCheckpoint, ValidationSettings, update_best_checkpoint
from luthier.tune.objectives.classify import Classify
from luthier.tune.objectives.sft import Sft
from luthier.tune.steps.tune import Tune
from luthier.tune.techniques.full import FullFineTuning
from luthier.tune.techniques.lora import Lora
from luthier.tune.training.reference_logprobs import HeldOutEvaluator
from luthier.tune.training.trainer import StepMetrics, Trainer
from tuning import TuneEnv, chat, examples, make_env

QUICK = {"data": "data", "batch_size": 8, "learning_rate": 1e-2, "dtype": "float32", "technique": Lora(r=4)}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    rows = examples(72)
    return make_env(tmp_path_factory.mktemp("split"), rows[:48], rows[48:])


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text())["held_out"]  # type: ignore[no-any-return]


def test_held_back_rows_are_measured_listed_and_never_learnt(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    gradient = Trainer.gradient

    def watched(self: Trainer, rows: list[TokenRow], denominator: float, step: int) -> Any:
        read.update(row.key for row in rows)
        return gradient(self, rows, denominator, step)

    monkeypatch.setattr(Trainer, "gradient", watched)
    made = env.tune(Tune(**QUICK, epochs=3, validation=ValidationSettings(rows=0.25, every=2)))
    learnt = polars.read_parquet(made.folder / "training_examples.parquet")
    held = learnt.filter(polars.col("nothing") == HELD_OUT)
    assert held.height == 12
    assert held["seen"].sum() == 0
    assert learnt.height == 48
    assert read == set(learnt.filter(polars.col("seen") == 3)["id"])
    assert not read & set(held["id"])
    lines = log(made.folder)
    assert [line["step"] for line in lines if "held_out_loss" in line] == [2, 4, 6, 8, 10, 12, 14]
    values = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert values[-1] < 0.7 * values[0]
    assert told(made.folder)["best"] == min(values)


@pytest.mark.parametrize("share", [True, False], ids=["head", "own_logits"])
def test_token_accuracy_is_how_often_the_likeliest_token_is_the_answers(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch, share: bool
) -> None:
    if not share:
        monkeypatch.setattr(
            "luthier.models.packing.logprobs.detect_forward_mode",
            lambda model: ForwardMode(False, "a test's wish", None),
        )
    made = env.tune(
        Tune(
            **QUICK,
            epochs=4,
            validation=ValidationSettings(rows=12, every=100, keep="last"),
            warmup_ratio=0.01 + share / 100,
        )
    )
    lines = log(made.folder)
    assert all(0 <= line["token_accuracy"] <= 1 for line in lines)
    assert lines[-1]["token_accuracy"] > lines[0]["token_accuracy"]
    learnt = polars.read_parquet(made.folder / "training_examples.parquet")
    held = set(learnt.filter(polars.col("nothing") == HELD_OUT)["id"])
    model, text = open_merged(made, torch.float32), ChatTokenizer.load(env.base.folder)
    right = list[bool]()
    for example in Sft().build_training_examples([one for one in examples(48) if one.id in held], text):
        (row,) = example.rows
        said = model(torch.tensor([row.ids])).logits[0].argmax(-1)
        right += [int(said[at - 1]) == row.ids[at] for at in row.targets]
    assert lines[-1]["held_out_token_accuracy"] == pytest.approx(sum(right) / len(right), abs=0.01)


def test_twins_stay_together_and_the_seed_draws(tmp_path: Path) -> None:
    rows = [chat(f"Where is parcel {line // 2}?", "delivery", line) for line in range(60)]
    env = make_env(tmp_path, rows)
    prompts = {row.id: row.messages[1].content for row in rows}
    drawn = []
    for seed in (1, 2):
        made = env.tune(Tune(**QUICK, validation=ValidationSettings(rows=10, every=4)), seed=seed)
        learnt = polars.read_parquet(made.folder / "training_examples.parquet")
        held = {prompts[one] for one in learnt.filter(polars.col("nothing") == HELD_OUT)["id"]}
        assert len(held) == 5
        assert not held & {prompts[one] for one in learnt.filter(polars.col("nothing").is_null())["id"]}
        drawn.append(held)
    assert drawn[0] != drawn[1]


def evaluated(env: TuneEnv, made: Artifact, metric: str, **fields: Any) -> dict[str, Any]:
    """What evaluation measures of a tuned model on the validation rows."""
    asked = {"data": "data", "model": "tune", "split": "validation", "metrics": (metric,), **fields}
    step = Evaluate(dtype="float32", baselines=(), compare_base=False, **asked)
    folder, scratch = env.store.begin(digest_of([made.digest, asked]))
    inputs = {"data": env.data, "model": made}
    step.make(
        StepContext(
            name="e",
            inputs=inputs,
            folder=folder,
            scratch=scratch,
            recipe_dir=folder,
            seed=0,
            events=RunEventEmitter().of("e"),
        )
    )
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("normalize", ["sum", "mean"])
def test_the_metric_scores_labels_as_the_objective_does(split: TuneEnv, normalize: Literal["sum", "mean"]) -> None:
    held_out = ValidationSettings(rows="validation", metric="brier", keep="last")
    made = split.tune(Tune(**QUICK, objective=Classify(normalize=normalize), validation=held_out))
    value = log(made.folder)[-1]["held_out_brier"]
    measured = evaluated(split, made, "brier", normalize=normalize)
    assert value == pytest.approx(measured["models"]["tuned"]["brier"]["value"], abs=1e-5)


def test_the_metric_is_what_evaluation_says_of_the_saved_model(split: TuneEnv) -> None:
    held_out = ValidationSettings(rows="validation", every=2, metric="macro_f1")
    made = split.tune(Tune(**QUICK, epochs=2, validation=held_out))
    measured = evaluated(split, made, "macro_f1")
    value = told(made.folder)["best"]
    assert f'"value": {value}' in json.dumps(measured)
    assert 0.1 < value == max(line.get("held_out_macro_f1", 0.0) for line in log(made.folder))
    assert "24 rows of validation held out, to measure on the way" in split.said("note")


@pytest.mark.parametrize("technique", [Lora(r=4), FullFineTuning()], ids=["lora", "full"])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_weights_of_the_best_measurement_are_saved(
    env: TuneEnv, monkeypatch: pytest.MonkeyPatch, keep: str, technique: Lora | FullFineTuning
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    values = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])

    def take(self: HeldOutEvaluator, model: Any, tokens: int) -> dict[str, float]:
        seen.append({name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad})
        return {"held_out_loss": next(values)}

    saved: list[dict[str, torch.Tensor]] = []
    save = type(technique).save
    monkeypatch.setattr(HeldOutEvaluator, "take", take)
    monkeypatch.setattr(
        type(technique), "save",
        lambda self, model, *rest: (saved.append(dict(model.named_parameters())), save(self, model, *rest))[1],
    )  # fmt: skip
    held_out = ValidationSettings(rows=8, every=1, keep=keep)
    step = Tune(**{**QUICK, "technique": technique, "dtype": "bfloat16"}, validation=held_out)
    made = env.tune(step, seed=5)
    assert len(seen) == 5
    wanted = seen[1 if keep == "best" else 4]
    assert all(torch.equal(saved[0][name], value) for name, value in wanted.items())
    assert told(made.folder)["saved_step"] == (2 if keep == "best" else 5)
    open_merged(made, torch.float32)


def test_it_stops_when_nothing_becomes_better(env: TuneEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([5.0, 4.0, 3.95, 4.5, 9.0])
    monkeypatch.setattr(HeldOutEvaluator, "take", lambda self, model, tokens: {"held_out_loss": next(values)})
    held_out = ValidationSettings(rows=8, every=1, patience=2, min_delta=0.1)
    made = env.tune(Tune(**QUICK, epochs=4, validation=held_out), seed=6)
    assert [line["held_out_loss"] for line in log(made.folder)] == [5.0, 4.0, 3.95, 4.5]
    tuned = json.loads((made.folder / "training.json").read_text())
    assert (tuned["steps"], tuned["rows_seen"]) == (4, 32)
    learnt = polars.read_parquet(made.folder / "training_examples.parquet")
    assert (learnt["seen"].sum(), learnt["taught"].sum()) == (32, 16), "the best weights are those after two steps"
    assert any(said.startswith("stopped after step 4: no better since step 2") for said in env.said("note"))


@pytest.mark.matrix
@pytest.mark.parametrize("technique", [Lora(r=4, lora_dropout=0.1), FullFineTuning()], ids=["lora", "full"])
@pytest.mark.parametrize("kill", ["before", "after"])
def test_killed_around_a_measurement_it_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, technique: Lora | FullFineTuning, kill: str
) -> None:
    env = make_env(tmp_path)
    held_out = ValidationSettings(rows=8, every=2, metric="accuracy", patience=3)
    settings = {**QUICK, "technique": technique, "dtype": "bfloat16", "epochs": 2, "ema": 0.9}
    step = Tune(**settings, validation=held_out, save_steps=1)
    whole = {entry.path: entry.digest for entry in env.tune(step).manifest.files}
    env.store.remove(env.tune_digest(step))
    measured = Trainer._measured

    def dying(self: Trainer, stepped: StepMetrics, keeper: Any) -> StepMetrics:
        found = measured(self, stepped, keeper) if kill == "after" or stepped.step != 4 else stepped
        if stepped.step == 4:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Trainer, "_measured", dying)
    with pytest.raises(KeyboardInterrupt):
        env.tune(step)
    monkeypatch.setattr(Trainer, "_measured", measured)
    assert {entry.path: entry.digest for entry in env.tune(step).manifest.files} == whole


@pytest.mark.parametrize(
    ("held_out", "error", "words"),
    [
        (ValidationSettings(rows="validation"), DataError, "has no validation split"),
        (ValidationSettings(rows=48), DataError, "nothing would be left to learn"),
        (ValidationSettings(metric="perplexity"), RecipeError, "perplexity is about texts"),
    ],
)
def test_what_cannot_be_held_out_is_refused(
    env: TuneEnv, held_out: ValidationSettings, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        env.tune(Tune(**QUICK, validation=held_out))


def test_settings_are_checked() -> None:
    assert ValidationSettings(metric="accuracy").name == "held_out_accuracy"
    for wrong in ({"metric": "acuracy"}, {"rows": 1.5}, {"every": 0}, {"patients": 3}, {"rows": "test"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ValidationSettings.model_validate(wrong)


@given(st.lists(st.one_of(st.none(), st.floats(0, 10)), max_size=30), st.floats(0, 1))
def test_the_standing_is_the_best_with_what_came_after(values: list[float | None], delta: float) -> None:
    held_out, standing = ValidationSettings(min_delta=delta), BestCheckpoint()
    for step, value in enumerate(values, start=1):
        standing = update_best_checkpoint(held_out, standing, step, value)
    there = [value for value in values if value is not None]
    if there:
        assert standing.value is not None
        assert standing.value <= min(there) + delta
        assert standing.value == values[standing.step - 1]
        assert standing.since == sum(value is not None for value in values[standing.step :])
