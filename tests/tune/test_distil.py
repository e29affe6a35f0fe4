"""Distillation: divergences of the coarsened distributions, stored and live alike, from a teacher that can teach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer

from luthier.chat.tokenizer import ChatTokenizer
from luthier.core.errors import ModelError, RecipeError
from luthier.core.step import PlanContext
from luthier.models.describe import describe_model_folder
from luthier.models.load import open_folder
from luthier.models.packing.logprobs import compute_pack_logprobs
from luthier.models.packing.pack import TokenRow, build_pack
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.recipe.yaml import read_yaml
from luthier.tune.dataset.validation import ValidationSettings
from luthier.tune.objective import Teacher, TrainingExample
from luthier.tune.objectives.classify import Classify
from luthier.tune.objectives.distil import Distil
from luthier.tune.steps.tune import Tune
from luthier.tune.teacher import add_teacher_logprobs
from luthier.tune.techniques.lora import Lora
from tiny_models import RECIPE, small_recipe
from tuning import TuneEnv, examples, make_env

VOCABULARY = 400


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def rows(env: TuneEnv) -> list[TokenRow]:
    dataset = Distil().build_training_examples(examples(5), ChatTokenizer.load(env.base.folder))
    return [row for example in dataset for row in example.rows]


@pytest.fixture(scope="module")
def teacher(env: TuneEnv) -> Teacher:
    return Teacher(open_folder(env.teacher.folder, torch.float64), VOCABULARY)


def whole_shares(model: Any, rows: list[TokenRow], temperature: float) -> torch.Tensor:
    """(N, vocab) log-probabilities of transformers' own forward, row by row."""
    found = []
    with torch.no_grad():
        for row in rows:
            logits = model(input_ids=torch.tensor([row.ids])).logits[0]
            found.append(torch.log_softmax(logits[[at - 1 for at in row.targets]] / temperature, -1))
    return torch.cat(found)


def coarse(logps: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(N, K + 1) shares of the chosen tokens and of all others together."""
    kept = torch.zeros_like(logps, dtype=torch.bool).scatter_(1, chosen, True)
    rest = logps.masked_fill(kept, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([logps.gather(1, chosen), rest], -1).exp()


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jensen_shannon", "skewed"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_divergence_is_that_of_the_coarsened_shares(
    divergence: Any, temperature: float, env: TuneEnv, rows: list[TokenRow], teacher: Teacher
) -> None:
    student = open_folder(env.base.folder, torch.float64)
    objective = Distil(divergence=divergence, temperature=temperature, top_k=9)
    theirs, ours = whole_shares(teacher.model, rows, temperature), whole_shares(student, rows, temperature)
    chosen = theirs.topk(9).indices
    p, q = coarse(theirs, chosen), coarse(ours, chosen)
    mixed = 0.5 * p + 0.5 * q
    wanted = {
        "forward": kl(p, q),
        "reverse": kl(q, p),
        "jensen_shannon": 0.5 * kl(p, mixed) + 0.5 * kl(q, mixed),
        "skewed": kl(p, 0.1 * p + 0.9 * q),
    }[divergence]
    ready = objective.ready(build_pack(rows), teacher)
    with torch.no_grad():
        found = objective.loss(compute_pack_logprobs(student, ready), ready, None)
    torch.testing.assert_close(found.total, wanted.sum() * temperature**2)


def test_the_plain_loss_is_mixed_in(env: TuneEnv, rows: list[TokenRow], teacher: Teacher) -> None:
    student = open_folder(env.base.folder, torch.float64)
    losses = {}
    for alpha in (1.0, 0.25):
        objective = Distil(alpha=alpha, temperature=3.0)
        ready = objective.ready(build_pack(rows), teacher)
        with torch.no_grad():
            losses[alpha] = float(objective.loss(compute_pack_logprobs(student, ready), ready, None).total)
    with torch.no_grad():
        plain = -float(compute_pack_logprobs(student, build_pack(rows)).sum())
    assert losses[0.25] == pytest.approx(0.25 * losses[1.0] + 0.75 * plain)


def test_a_teacher_that_is_the_student_leaves_nothing_to_learn(rows: list[TokenRow], teacher: Teacher) -> None:
    for divergence in ("forward", "reverse", "jensen_shannon", "skewed"):
        objective = Distil(divergence=divergence, top_k=20)
        ready = objective.ready(build_pack(rows), teacher)
        logp = compute_pack_logprobs(teacher.model, ready).detach().requires_grad_()
        loss = objective.loss(logp, ready, None).total
        loss.backward()  # type: ignore[no-untyped-call]
        assert float(loss.detach()) == pytest.approx(0, abs=1e-9)


def test_stored_words_are_those_of_the_live_teacher(rows: list[TokenRow], teacher: Teacher) -> None:
    objective = Distil(top_k=7)
    dataset = [
        TrainingExample(id="none", nothing="too long"),
        TrainingExample(id="a", rows=(rows[0],)),
        TrainingExample(id="b", rows=(rows[1],)),
    ]
    stored = list(add_teacher_logprobs(dataset, objective, teacher))
    assert [example.id for example in stored] == ["none", "a", "b"]
    live = objective.ready(build_pack(rows[:2]), teacher)
    kept = objective.ready(build_pack([row for example in stored for row in example.rows]), None)
    assert live.choices is not None
    assert kept.choices is not None
    assert torch.equal(kept.choices.sort().values, live.choices.sort().values)
    torch.testing.assert_close(kept.teacher, live.teacher, check_dtype=False)


def step(**objective: Any) -> Tune:
    return Tune(
        data="data", teacher="teacher", objective=Distil(**objective), technique=Lora(r=4), batch_size=16,
        learning_rate=1e-2, epochs=2, dtype="float32",
    )  # fmt: skip


def test_stored_and_live_train_alike(env: TuneEnv) -> None:
    logs = []
    for logits in ("stored", "live"):
        made = env.tune(step(logits=logits))
        logs.append([json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()])
    for stored, live in zip(*logs, strict=True):
        assert stored["loss"] == pytest.approx(live["loss"], rel=1e-3)
        assert stored["divergence"] == pytest.approx(stored["loss"])


def test_a_teacher_of_other_tokens_is_refused(tmp_path: Path) -> None:
    env = make_env(tmp_path)
    path = env.teacher.folder / "tokenizer.json"
    told = json.loads(path.read_text())
    tokens = list(told["model"]["vocab"])
    told["model"]["vocab"] |= {tokens[50]: 51, tokens[51]: 50}
    path.chmod(0o644)
    path.write_text(Tokenizer.from_str(json.dumps(told)).to_str())
    with pytest.raises(ModelError, match="cut text into different tokens"):
        env.tune(step())


def test_a_teacher_that_names_classes_is_refused(env: TuneEnv) -> None:
    named = Tune(data="data", objective=Classify(head="sequence"), technique=Lora(r=2), dtype="float32")
    other = TuneEnv(env.store, env.base, env.data, [])
    other.__dict__["teacher"] = env.tune(named)
    with pytest.raises(ModelError, match="names classes and writes no text"):
        other.tune(step(top_k=5))


def test_a_teacher_is_named_when_one_is_needed_and_only_then() -> None:
    with pytest.raises(ValidationError, match="distil learns from a `teacher`"):
        Tune(data="data", objective=Distil())
    with pytest.raises(ValidationError, match="sft has no teacher"):
        Tune(data="data", teacher="other")
    with pytest.raises(ValidationError, match="forward has no mixture"):
        Distil(beta=0.3)


def test_only_a_step_with_a_teacher_reads_one(tmp_path: Path) -> None:
    recipe = Recipe.of(read_yaml(small_recipe(tmp_path)), Workspace.open(tmp_path))
    assert recipe.references(recipe.steps["tune"]) == {"data": "data", "model": "model"}
    text = RECIPE.replace(
        "  report:\n", "  student: {kind: tune, data: data, teacher: tune, objective: distil}\n  report:\n"
    )
    recipe = Recipe.of(read_yaml(small_recipe(tmp_path, text)), Workspace.open(tmp_path))
    assert recipe.references(recipe.steps["student"]) == {"data": "data", "model": "model", "teacher": "tune"}
    with pytest.raises(RecipeError, match="expected a step that makes a model; 'data' makes a dataset"):
        Recipe.of(
            read_yaml(small_recipe(tmp_path, text.replace("teacher: tune", "teacher: data"))), Workspace.open(tmp_path)
        )


@pytest.mark.parametrize("logits", ["stored", "live"])
def test_the_held_out_divergence_is_measured(logits: Any, env: TuneEnv) -> None:
    held_out = ValidationSettings.model_validate({"rows": 12, "every": 2})
    made = env.tune(step(logits=logits).model_copy(update={"validation": held_out}))
    log = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    found = [line["held_out_loss"] for line in log if "held_out_loss" in line]
    assert found[-1] < found[0]


def test_an_open_teacher_is_counted_in_the_forecast(env: TuneEnv) -> None:
    inputs = {"data": env.data, "model": env.base, "teacher": env.teacher}
    outlook = PlanContext(inputs=inputs, upstream={}, recipe_dir=env.base.folder)
    stored, live = (step(logits=logits).estimate_cost(outlook).peak_bytes or 0 for logits in ("stored", "live"))
    assert live - stored == 4 * describe_model_folder(env.teacher.folder).parameters
