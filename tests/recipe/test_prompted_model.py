"""A model that is a prompt before another: evaluated, talked with and given out with the prompt in front."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import polars
import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from luthier.artifacts.dataset import read_examples
from luthier.chat.messages import messages_to_openai, prompt_of
from luthier.chat.prompt import PromptPrefix
from luthier.chat.tokenizer import ChatTokenizer
from luthier.cli.app import run_command
from luthier.commands.chat import GenerativeChatModel, open_chat
from luthier.eval.local_model import InferenceSettings, LocalEvalModel
from luthier.eval.task import read_held_out_task
from luthier.models.lm.base import Normalize
from luthier.models.lm.local import LocalLM
from luthier.models.load import find_base_folder
from luthier.tune.prompt_search.client import PromptTrialClient
from tests.targets import artifact_of, target
from tiny_models import RECIPE, own_cache, small_recipe

SEARCHED = (
    "technique: {kind: prompt_search, instructions: [Name the team.], variations: false, shots: [0, 2, 3], draws: 1, "
    "held_back: 10, budget: 60, metric: brier}\n    dtype: float32"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("prompted")
    begin = RECIPE.index("technique:")
    text = RECIPE[:begin] + SEARCHED + RECIPE[RECIPE.index("dtype: float32") + len("dtype: float32") :]
    text = text.replace("    kind: evaluate\n", "    kind: evaluate\n    dtype: float32\n")
    small_recipe(folder, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        assert run_command(["run", "recipe.yaml"]) == 0
        yield folder


def test_evaluation_asks_with_the_prompt_and_the_base_without(place: Path) -> None:
    tuned, data, report = (artifact_of(f":{name}").artifact for name in ("tune", "data", "report"))
    before = PromptPrefix.of(tuned)
    assert before != PromptPrefix(), "the tiny model must not be best as it is, or this test says nothing"
    rows = read_examples(data, "test")
    options = {label: label for label in ("account", "billing", "delivery")}
    found = polars.read_parquet(report.path("predictions.parquet"))
    for name, prompt in (("tuned", before), ("base", PromptPrefix())):
        mine = found.filter(polars.col("model") == name)
        told = PromptTrialClient(LocalLM(tuned, "float32"), options, 8).answer(prompt, rows)
        assert told.label_scores is not None
        for row, scores in zip(mine["scores"].to_list(), told.label_scores, strict=True):
            assert json.loads(row) == pytest.approx(dict(scores), abs=1e-4)


@pytest.mark.parametrize("alike", ["sum", "mean", "prior"])
def test_the_search_scores_labels_as_the_evaluation_does(place: Path, alike: Normalize) -> None:
    tuned = artifact_of(":tune").artifact
    task = read_held_out_task(artifact_of(":data").artifact, "test", 8)
    question = InferenceSettings(normalize=alike, max_new_tokens=8, dtype="float32", likelihood=False)
    theirs = LocalEvalModel.of(tuned, question, name="tuned", title="the tuned model").answer(task.examples, task)
    ours = PromptTrialClient(LocalLM(tuned, "float32"), task.options, 8, alike).answer(
        PromptPrefix.of(tuned), task.examples
    )
    assert [one.prediction for one in theirs] == list(ours.predictions)
    assert ours.label_scores is not None
    for one, scores in zip(theirs, ours.label_scores, strict=True):
        assert one.scores == pytest.approx(dict(scores), abs=1e-5)


@pytest.mark.parametrize("form", ["hf", "gguf"])
def test_the_export_is_the_base_with_the_prompt_beside_it(place: Path, form: str) -> None:
    assert run_command(["export", ":tune", "--to", f"out-{form}", "--format", form]) == 0
    tuned, out = artifact_of(":tune").artifact, place / f"out-{form}"
    if form == "hf":
        weights = load_file(out / "model.safetensors")
        assert all(
            (weights[name] == value).all()
            for name, value in load_file(find_base_folder(tuned) / "model.safetensors").items()
        )
    card = (out / "README.md").read_text(encoding="utf-8")
    assert 'json.load(open("prompt.json"))["messages"] + conversation' in card
    assert "base_model_relation" not in card
    told = json.loads((out / "prompt.json").read_text(encoding="utf-8"))
    example = read_examples(artifact_of(":data").artifact, "test")[0]
    ids = ChatTokenizer.load(find_base_folder(tuned), before=PromptPrefix.of(tuned)).prompt(prompt_of(example))
    tokenizer = AutoTokenizer.from_pretrained(find_base_folder(tuned))
    conversation = messages_to_openai(prompt_of(example))
    whole = tokenizer.apply_chat_template(told["messages"] + conversation, add_generation_prompt=True, tokenize=False)
    assert tokenizer.encode(whole, add_special_tokens=False) == ids


def test_every_report_tells_the_prompt(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = artifact_of(":tune").artifact
    card = tuned.read_json("training.json")
    capsys.readouterr()
    assert run_command(["report", "--format", "markdown"]) == 0
    told = capsys.readouterr().out
    instruction = {None: "the rows' own", "": "none"}.get(words := PromptPrefix.of(tuned).instruction, words)
    assert f"| prompts tried | {card['prompts']} |\n| prompt chosen | {card['prompt']} |" in told
    assert f"| its instruction | {instruction} |\n| why | {card['prompt_why']} |" in told


def test_chat_and_trace_know_the_prompt(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = open_chat(target(":tune"), system=None, max_tokens=2, temperature=0.0)
    assert any(note.startswith("in front, as chosen") for note in session.notes)
    assert isinstance(session.speaker, GenerativeChatModel)
    assert session.speaker.lm.before == PromptPrefix.of(artifact_of(":tune").artifact)
    seen = polars.read_parquet(artifact_of(":tune").artifact.path("training_examples.parquet")).filter(
        polars.col("seen") > 0
    )
    assert run_command(["lineage", seen["id"][0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trained_models"][0]["times"] == seen["seen"][0]
