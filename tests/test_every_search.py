"""What every search of prompts promises: no weight moves, it chooses by score, resumes, and tells its cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars
import pytest
import torch

from luthier.artifacts.dataset import read_examples
from luthier.chat.prompt import PromptPrefix
from luthier.core.artifact import Artifact
from luthier.core.component import components_by_kind
from luthier.core.step import PlanContext
from luthier.models.describe import describe_model_folder
from luthier.models.lm.local import LocalLM
from luthier.models.load import load_model, open_merged
from luthier.tune.prompt_search.client import PromptTrialClient
from luthier.tune.steps.tune import Tune
from luthier.tune.technique import StandaloneTechnique, TechniqueBase
from tuning import TuneEnv, make_env

SEARCHES = {
    kind: found
    for kind, found in components_by_kind(TechniqueBase).items()
    if issubclass(found, StandaloneTechnique) and found.reads_model
}
KINDS = sorted(SEARCHES)
SMALL: dict[str, Any] = {"shots": (0, 2), "draws": 1, "held_back": 12, "budget": 100}
OTHERWISE: dict[tuple[str, str], Any] = {
    ("prompt_search", "instructions"): ("Name the team.",),
    ("prompt_search", "variations"): False,
    ("prompt_search", "proposals"): 2,
    ("prompt_search", "shots"): (0, 3),
    ("prompt_search", "draws"): 2,
    ("prompt_search", "nearest"): False,
    ("prompt_search", "held_back"): 10,
    ("prompt_search", "budget"): 60,
    ("prompt_search", "metric"): "brier",
    ("prompt_search", "normalize"): "prior",
}
"""Another value for each field, which must change what is tried or chosen."""
TEXTS_ONLY = {("prompt_search", "max_new_tokens")}
"""Fields that matter for texts; `tests/tune/test_prompt_search.py` shows that they do."""
FIELDS = [(kind, name) for kind in KINDS for name in SEARCHES[kind].model_fields if name != "kind"]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> TuneEnv:
    return make_env(tmp_path_factory.mktemp("shop"))


def step(kind: str, **fields: Any) -> Tune:
    technique = SEARCHES[kind].model_validate({"kind": kind, **SMALL, **fields})
    return Tune(data="data", technique=technique, dtype="float32")


def made(env: TuneEnv, wanted: Tune) -> Artifact:
    digest = env.tune_digest(wanted)
    return env.store.open(digest) if env.store.has(digest) else env.tune(wanted)


def log(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact.path("search.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_moves_and_none_is_kept(kind: str, env: TuneEnv) -> None:
    artifact = made(env, step(kind))
    assert not [entry.path for entry in artifact.manifest.files if entry.path.endswith(".safetensors")]
    before = load_model(env.base, "float32").model.state_dict()
    for model in (load_model(artifact, "float32").model, open_merged(artifact, torch.float32)):
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert step(kind).technique.trainable(describe_model_folder(env.base.folder)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_chooses_the_best_of_what_it_scored(kind: str, env: TuneEnv) -> None:
    artifact = made(env, step(kind))
    lines = log(artifact)
    last = [line for line in lines if line["round"] == lines[-1]["round"]]
    assert {0} < {line["candidate"] for line in last}, "what the model had stays in until the end"
    assert [line["goes_on"] for line in last] == [True] + [False] * (len(last) - 1)
    assert last[0]["score"] == max(line["score"] for line in last)
    assert all(line["low"] <= line["score"] <= line["high"] for line in lines)
    asked = {line["candidate"]: line["rows"] for line in lines}
    assert sum(asked.values()) == artifact.read_json("training.json")["scored_rows"] <= SMALL["budget"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_is_that_of_the_made_model(kind: str, env: TuneEnv) -> None:
    artifact = made(env, step(kind))
    best = log(artifact)[-1]["round"]
    winner = next(line for line in log(artifact) if line["round"] == best)
    rows = {example.id: example for example in read_examples(env.data, "train")}
    shown = set(winner["examples"])
    seen = polars.read_parquet(artifact.path("training_examples.parquet"))
    held = [rows[key] for key in seen["id"].to_list()[: SMALL["held_back"]]]
    assert shown.isdisjoint(example.id for example in held)
    options = {label: label for label in ("account", "billing", "delivery")}
    told = PromptTrialClient(LocalLM(artifact, "float32"), options, 8).answer(PromptPrefix.of(artifact), held)
    right = [said in wanted for said, wanted in zip(told.predictions, told.references, strict=True)]
    assert sum(right) / len(right) == pytest.approx(winner["score"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_search_goes_on_to_the_same_bytes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(tmp_path)
    whole = {entry.path: entry.digest for entry in env.tune(step(kind)).manifest.files}
    env.store.remove(env.tune_digest(step(kind)))
    once, calls = PromptTrialClient.answer, 0

    def dying(self: PromptTrialClient, *asked: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return once(self, *asked)

    monkeypatch.setattr(PromptTrialClient, "answer", dying)
    with pytest.raises(KeyboardInterrupt):
        env.tune(step(kind))
    calls, finished = 4, calls - 1
    assert {entry.path: entry.digest for entry in env.tune(step(kind)).manifest.files} == whole
    scored = log(env.store.open(env.tune_digest(step(kind))))
    assert finished + (calls - 4) == len(scored), "what was answered before is not asked again"


@pytest.mark.parametrize("kind", KINDS)
def test_it_tells_its_cost_and_what_to_search(kind: str, env: TuneEnv) -> None:
    technique, model = step(kind).technique, describe_model_folder(env.base.folder)
    assert technique.footprint(model, 2000) > technique.footprint(model, 1000) > 4 * model.parameters
    outlook = PlanContext(inputs={"data": env.data, "model": env.base}, upstream={}, recipe_dir=Path())
    told = step(kind).estimate_cost(outlook)
    assert told.how
    assert None not in (told.seconds, told.peak_bytes, told.tokens)
    more = step(kind, budget=1000).estimate_cost(outlook)
    assert more.tokens is not None
    assert told.tokens is not None
    assert more.tokens > told.tokens
    for name, choice in technique.search_space().items():
        assert name in type(technique).model_fields
        assert choice.values or choice.low < choice.high


@pytest.mark.parametrize(("kind", "name"), [field for field in FIELDS if field not in TEXTS_ONLY])
def test_every_field_changes_something(kind: str, name: str, env: TuneEnv) -> None:
    assert (kind, name) in OTHERWISE, f"add another value of {kind}.{name} to OTHERWISE"
    one, other = (made(env, step(kind, **extra)) for extra in ({}, {name: OTHERWISE[kind, name]}))
    assert log(one) != log(other)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_the_loop_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"epochs changes nothing under {kind}"):
        Tune(data="data", technique=SEARCHES[kind].model_validate({"kind": kind}), epochs=2)
