"""From `luthier site init` to a model: a coordinator's recipe and a site's own, by their commands."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from luthier.cli.app import run_command
from luthier.commands.site import approve, open_site
from luthier.core.errors import InputError, LuthierError
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.data.steps.prepare import Prepare
from luthier.federated.sites.policy import SitePolicy
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from tiny_models import RECIPE, own_cache, small_recipe, tiny_model

SITE = RECIPE.partition("  tune:")[0]
COORDINATOR = """\
luthier: 1
name: both
seed: 3
model: tiny-model
steps:
  tune:
    kind: federate
    rounds: 2
    sum: ffa
    transport:
      kind: folder
      path: mail
      wait_s: 60
      member_cards: {north: north/card.json}
    tune:
      technique: {kind: lora, r: 4}
      batch_size: 8
      learning_rate: 1.0e-2
      dtype: float32
"""


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    small_recipe(tmp_path, SITE)
    (tmp_path / "both.yaml").write_text(COORDINATOR)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def set_policy(folder: Path, **changes: str) -> None:
    path = folder / "policy.yaml"
    lines = path.read_text().splitlines()
    given = [next((f"{name}: {value}" for name, value in changes.items() if line.startswith(f"{name}:")), line)
             for line in lines]  # fmt: skip
    path.write_text("\n".join(given) + "\n")


def test_a_site_is_made_serves_and_tells_what_left(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "recipe.yaml"]) == 0
    assert run_command(["site", "init", "coordinator", "--name", "coordinator"]) == 0
    words = ["site", "init", "north", "--name", "north", "--coordinator", "coordinator/card.json", "--share", "mail"]
    assert run_command([*words, "--json"]) == 0
    assert run_command(words) == 2, "keys are never written over"
    set_policy(places / "north", least_rows="20")
    capsys.readouterr()
    heard = list[str]()
    server = open_site(Workspace.open(places), places / "north", heard.append)
    results: dict[str, Any] = {}

    def coordinate() -> None:
        results["made"] = Recipe.load(places / "both.yaml").run()["tune"]

    thread = threading.Thread(target=coordinate)
    thread.start()
    try:
        while not any("an order waits for approval" in line for line in heard):
            assert thread.is_alive(), heard
            server.answer_waiting()
        [order] = (places / "north").glob("order-*.json")
        assert json.loads(order.read_text())["rounds"] == 2
        approve(places / "north", order.stem.removeprefix("order-"))
        server.run(lambda: not thread.is_alive(), once=True)
    finally:
        thread.join()
    rounds = results["made"].artifact.read_json("federation.json")["rounds"]
    assert [entry["sites"]["north"]["rows"] for entry in rounds] == [60, 60]
    assert run_command(["site", "log", "north", "--json"]) == 0
    kinds = [entry["kind"] for entry in json.loads(capsys.readouterr().out)]
    assert kinds == ["order", "enrolled", "round", "update", "round", "update", "final", "measured"]
    text = (places / "north" / "log.jsonl").read_text()
    assert "invoice" not in text
    assert "delivery" not in text


def test_a_site_uses_its_own_model_like_any_other(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = COORDINATOR.replace("    sum: ffa\n", "    sum: ffa\n    personal: {kind: adapter, r: 2}\n")
    (places / "both.yaml").write_text(text)
    assert run_command(["run", "recipe.yaml"]) == 0
    assert run_command(["site", "init", "coordinator", "--name", "coordinator"]) == 0
    words = ["site", "init", "north", "--name", "north", "--coordinator", "coordinator/card.json", "--share", "mail"]
    assert run_command(words) == 0
    set_policy(places / "north", least_rows="20", approval="never")
    assert run_command(["site", "model", "north"]) == 0
    assert "no federation with a `personal` part has ended here" in capsys.readouterr().out
    heard, results = list[str](), dict[str, Any]()
    server = open_site(Workspace.open(places), places / "north", heard.append)

    def coordinate() -> None:
        results["made"] = Recipe.load(places / "both.yaml").run()["tune"]

    thread = threading.Thread(target=coordinate)
    thread.start()
    try:
        server.run(lambda: not thread.is_alive(), once=True)
    finally:
        thread.join()
    assert heard[-1].startswith("this site's own model lies in")
    assert results["made"].artifact.read_json("federation.json")["personal"]["sites"] == {"north": None}
    assert not any(entry.path.startswith("personal") for entry in results["made"].artifact.manifest.files)
    capsys.readouterr()
    assert run_command(["site", "model", "north", "--json"]) == 0
    [model] = json.loads(capsys.readouterr().out)
    recipe = places / "recipe.yaml"
    own = f"  {model['step']}\n  tried: {{kind: evaluate, data: data, model: north_own, metrics: [accuracy]}}\n"
    recipe.write_text(recipe.read_text() + own)
    made = Recipe.load(recipe).run()
    assert made["tried"].artifact.read_json("metrics.json")
    assert made["north_own"].artifact.read_json("training.json")["federation"]["personal"]["r"] == 2
    recipe.write_text(recipe.read_text().replace("model: tiny-model", "model: other-model"))
    tiny_model(places / "other-model", seed=9)
    with pytest.raises(Exception, match="was tuned from another model"):
        Recipe.load(recipe).run()


def test_the_same_rows_made_by_other_code_keep_their_card(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade that changes `prepare` makes the data set anew, with the same rows in it."""
    assert run_command(["run", "recipe.yaml"]) == 0
    assert run_command(["site", "init", "coordinator", "--name", "coordinator"]) == 0
    words = ["site", "init", "north", "--name", "north", "--coordinator", "coordinator/card.json", "--share", "mail"]
    assert run_command(words) == 0
    before = build_recipe_plan(Recipe.load(places / "recipe.yaml"))["data"].digest
    monkeypatch.setattr(Prepare, "code", lambda self: "of a later version")
    assert run_command(["run", "recipe.yaml"]) == 0
    assert build_recipe_plan(Recipe.load(places / "recipe.yaml"))["data"].digest != before
    open_site(Workspace.open(places), places / "north", lambda text: None)


def test_other_rows_are_another_card(places: Path) -> None:
    assert run_command(["run", "recipe.yaml"]) == 0
    assert run_command(["site", "init", "coordinator", "--name", "coordinator"]) == 0
    words = ["site", "init", "north", "--name", "north", "--coordinator", "coordinator/card.json", "--share", "mail"]
    assert run_command(words) == 0
    first = Recipe.load(places / "both.yaml").steps["tune"].contents(places)
    with (places / "tickets.csv").open("a") as file:
        file.write("Where is my other parcel,delivery,C-99\n")
    assert run_command(["run", "recipe.yaml"]) == 0
    with pytest.raises(Exception, match="others than those that the card names"):
        open_site(Workspace.open(places), places / "north", print)
    for path in ("private.key", "card.json"):
        (places / "north" / path).unlink()
    assert run_command(words) == 0
    assert Recipe.load(places / "both.yaml").steps["tune"].contents(places) != first


def test_a_site_whose_recipe_names_no_base_model_is_told_before_keys_are_made(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = places / "recipe.yaml"
    recipe.write_text(re.sub(r"(?m)^model:.*\n", "", recipe.read_text()))
    assert run_command(["site", "init", "coordinator", "--name", "coordinator"]) == 0
    words = ["site", "init", "north", "--name", "north", "--coordinator", "coordinator/card.json", "--share", "mail"]
    assert run_command(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "(model): the recipe names no base model" in said
    assert "write `model: smollm2-135m-instruct`" in said
    assert not (places / "north").exists()


def test_a_refused_order_is_answered_once_the_policy_allows_it(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["run", "recipe.yaml"]) == 0
    assert run_command(["site", "init", "coordinator", "--name", "coordinator"]) == 0
    words = ["site", "init", "north", "--name", "north", "--coordinator", "coordinator/card.json", "--share", "mail"]
    assert run_command(words) == 0
    capsys.readouterr()
    assert run_command(["plan", "both.yaml"]) == 0
    assert capsys.readouterr().out.startswith("tune: the coordinator can see the update of each site")
    ends = list[str]()
    events = list[RunEvent]()

    def coordinate() -> None:
        try:
            Recipe.load(places / "both.yaml").run(RunEventEmitter(events.append))
            ends.append("made")
        except LuthierError as error:
            ends.append(str(error))

    for rounds in ("1", "20"):  # the order is for two
        set_policy(places / "north", rounds=rounds, approval="never", least_rows="20")
        server = open_site(Workspace.open(places), places / "north", print)
        thread = threading.Thread(target=coordinate)
        thread.start()
        with FileLock(places / "north" / "serve.lock"), pytest.raises(InputError, match="another process answers"):
            server.run()
        server.run(lambda alive=thread.is_alive: not alive(), once=True)
        thread.join()
    assert "policy.yaml:" in ends[0]
    assert "at most 1" in ends[0]
    assert ends[1:] == ["made"]
    answers = [event for event in events if event.unit == "answers"]
    assert [(event.done, event.total, event.measures["waits_for"]) for event in answers[-2:]] == [(0, 1, "north")] * 2


def test_a_site_behind_flower_names_its_socket(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["site", "init", "coordinator", "--name", "coordinator"]) == 0
    words = ["site", "init", "north", "--name", "north", "--coordinator", "coordinator/card.json"]
    assert run_command([*words, "--flower", "n.sock", "--http", "http://127.0.0.1:1"]) == 2
    assert "name one way that messages come by" in capsys.readouterr().err
    assert run_command([*words, "--flower", "n.sock"]) == 0
    assert SitePolicy.read(places / "north").flower == str(places / "n.sock")
    assert run_command(["site", "flower", "app", "--json"]) == 0
    assert run_command(["site", "flower", "app"]) == 2


def test_a_log_of_no_site_is_an_error(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["site", "log", "nowhere"]) == 2
    assert "there is no site here" in capsys.readouterr().err
