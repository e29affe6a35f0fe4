"""A whole recipe on a model behind an endpoint: search, evaluation, gate, report and chat; and what needs weights."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from endpoint import Body, Reply, Server, serving
from luthier.chat.prompt import PromptPrefix
from luthier.cli.app import run_command
from luthier.commands.chat import open_chat
from luthier.core.errors import ModelError
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.report import write_report
from luthier.recipe.schema import Recipe
from tests.targets import target
from tiny_models import tickets, write_csv

RECIPE = """\
luthier: 1
name: remote
seed: 3
model: {{kind: endpoint, url: "{url}", model: tiny, key_env: MY_KEY, retries: 0}}
steps:
  data:
    kind: prepare
    source: {{kind: csv, path: tickets.csv, prompt: message, answer: category}}
    split: {{test: 20}}
  tune:
    kind: tune
    data: data
    technique: {{kind: prompt_search, shots: [0, 2], draws: 1, held_back: 16, budget: 150, proposals: 1}}
  report:
    kind: evaluate
    data: data
    model: tune
  gate:
    kind: gate
    evaluation: report
    rules: ["accuracy > base"]
"""
WORDS = {
    "billing": "invoice|charge|refund|payment|price",
    "delivery": "parcel|courier|address|shipment|tracking",
    "account": "password|login|profile|email|settings",
}


def answer(body: Body) -> str | Reply:
    """A model that knows the classes, but says so only when it is told which words to use."""
    turns = body["messages"]
    if "Which instruction" in turns[-1]["content"]:
        return '"Sort the ticket."\nBecause.'
    listed = turns[0]["role"] == "system" and "Answer with one of" in turns[0]["content"]
    found = next(label for label, words in WORDS.items() if re.search(words, turns[-1]["content"]))
    return f"{found.upper()}." if listed else f"I think that this is about {found}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(answer) as found:
        yield found


@pytest.fixture(scope="module")
def folder(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("remote")
    write_csv(place / "tickets.csv", tickets(80))
    (place / "recipe.yaml").write_text(RECIPE.format(url=server.url), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("LUTHIER_CACHE", str(place / "cache"))
        patch.setenv("MY_KEY", "sk-1")
        patch.chdir(place)
        yield place


def test_a_recipe_on_an_endpoint(folder: Path, server: Server) -> None:
    recipe = Recipe.load(folder, ["seed=5"])  # a run of its own, whatever ran before
    told = build_recipe_plan(recipe)["tune"].forecast
    assert told is not None
    assert "at most 151 calls" in told.how
    before = len(server.asked)
    result = recipe.run()
    asked = len(server.asked) - before
    tuned = result["tune"].artifact
    scored = tuned.read_json("training.json")["scored_rows"]
    assert scored <= 150
    assert asked <= scored + 1 + 2 * 20
    chosen = PromptPrefix.of(tuned)
    assert chosen.instruction is not None
    assert "Answer with one of: account, billing, delivery." in chosen.instruction
    measures: dict[str, Any] = result["report"].artifact.read_json("metrics.json")["models"]
    assert measures["tuned"]["accuracy"]["value"] == 1.0
    assert measures["base"]["accuracy"]["value"] == 0.0
    assert set(measures["tuned"]) == {"accuracy", "macro_f1", "mcc"}, "no scores of labels, so none of calibration"
    assert result.exit_code == 0
    assert any(line["origin"] == "written by the model" for line in _log(tuned.path("search.jsonl")))
    page = write_report(build_recipe_plan(recipe)).read_text(encoding="utf-8")
    assert "Which prompts were tried" in page
    assert f"Chosen: {html.escape(tuned.read_json('training.json')['prompt'])}; accuracy 1.000" in page
    assert "Sort the ticket." in page, "what the model proposed is among them"
    assert "against 0.000 (0.000 to 0.194) as it was" in page
    recipe.run()
    assert len(server.asked) == before + asked, "what is made is not asked again"


def _log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_killed_search_pays_nothing_twice(folder: Path, server: Server) -> None:
    recipe = Recipe.load(folder, ["seed=4"])
    begun, refused = len(server.asked), []

    def dying(body: Body) -> str | Reply:
        if len(server.asked) <= begun + 30:
            return answer(body)
        refused.append(json.dumps(body))
        return Reply({"error": {"message": "out of luck"}}, 500)

    server.answer = dying
    with pytest.raises(ModelError, match="500 out of luck"):
        recipe.run()
    paid = {json.dumps(body) for body in server.asked[begun:]} - set(refused)
    server.answer, stopped = answer, len(server.asked)
    recipe.run()
    again = [json.dumps(body) for body in server.asked[stopped:]]
    assert len(paid) >= 30
    assert paid.isdisjoint(again[: -2 * 20]), "only the evaluation, which is another step, may ask the same"


def test_chat_puts_the_prompt_in_front(folder: Path, server: Server) -> None:
    Recipe.load(folder).run()
    session = open_chat(target("recipe.yaml:tune"), system=None, max_tokens=9, temperature=0.0)
    assert session.ask("Where is the parcel") == "DELIVERY."
    assert any("Answer with one of" in note for note in session.notes)
    sent = server.asked[-1]["messages"]
    assert sent[0]["role"] == "system"
    assert sent[-1]["content"] == "Where is the parcel"
    own = open_chat(target("recipe.yaml:tune"), system="Mine.", max_tokens=9, temperature=0.0)
    own.ask("Where is the parcel")
    assert server.asked[-1]["messages"][0]["content"] == "Mine."


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("steps.tune.technique={kind: lora}", "is an endpoint: its weights are not here"),
        ("steps.report.normalize=prior", "changes nothing for an endpoint"),
        ("steps.report.metrics=[accuracy, brier]", "brier needs label_scores"),
    ],
)
def test_what_needs_weights_or_scores_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], override: str, says: str
) -> None:
    assert run_command(["run", "recipe.yaml", override]) == 2
    assert says in capsys.readouterr().err


def test_weights_are_refused_at_plan_time_and_at_export(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Recipe.load(folder).run()
    for cache in ("cache", "fresh"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LUTHIER_CACHE", str(folder / cache))
            assert run_command(["plan", "recipe.yaml", "steps.tune.technique={kind: lora}"]) == 2
            assert "is an endpoint: its weights are not here" in capsys.readouterr().err
    for form in ("hf", "gguf", "adapter"):
        assert run_command(["export", "recipe.yaml:tune", "--to", f"out-{form}", "--format", form]) == 2
        assert "is an endpoint: its weights are not here" in capsys.readouterr().err
    assert not list(folder.glob("out-*"))
