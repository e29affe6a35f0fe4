"""The commands `serve` and `keys`, as they are called: where it listens, how it stops, what it refuses."""

from __future__ import annotations

import base64
import gc
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from commanded import command
from luthier.artifacts.dataset import read_examples
from luthier.artifacts.decisions import LABEL_SETS, LabelSet
from luthier.cli.app import run_command
from luthier.recipe.locate import CommandTarget, find_artifact
from luthier.recipe.workspace import Workspace
from tiny_models import own_cache, small_recipe, tiny_encoder

TURNS: list[Any] = [{"role": "user", "content": "Where is the parcel?"}]


@pytest.fixture(scope="module")
def served_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe that was run."""
    folder = tmp_path_factory.mktemp("served_project")
    small_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        assert run_command(["run", "recipe.yaml", "steps.tune.max_train_samples=40"]) in (0, 1, 3)
        text = (
            (folder / "recipe.yaml")
            .read_text()
            .replace("    batch_size: 8", "    max_train_samples: 40\n    batch_size: 8")
        )
        (folder / "recipe.yaml").write_text(text)
        yield folder


def test_it_says_where_it_listens_answers_and_stops_in_order(served_project: Path) -> None:
    words = ("recipe.yaml:tune", "./tiny-model")
    with command(served_project, *words, start=subprocess.Popen) as running, ThreadPoolExecutor(2) as pool:
        assert running.told["models"] == ["tickets:tune", "./tiny-model"]
        client = running.client()
        chosen = client.chat.completions.create(model="tickets:tune", messages=TURNS)
        assert chosen.choices[0].message.content in ("billing", "delivery", "account")
        again = client.chat.completions.create(model="recipe.yaml:tune", messages=TURNS)
        assert again.choices[0].message.content == chosen.choices[0].message.content
        written = client.chat.completions.create(model="./tiny-model", messages=TURNS, max_tokens=4)
        assert written.choices[0].message.content
        asked: dict[str, Any] = {"model": "./tiny-model", "messages": TURNS, "max_tokens": 300}
        busy = pool.submit(client.chat.completions.create, **asked)
        time.sleep(0.2)
        code, said = running.stop()
        assert busy.result().usage is not None, "what was begun is finished"
        assert (code, said) == (0, "")


def test_what_it_answered_is_kept(served_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with command(served_project, "./tiny-model") as running:
        said = running.client().chat.completions.create(model="./tiny-model", messages=TURNS, max_tokens=4)
        opinion = {"id": said.id, "rating": 1}
        import httpx

        assert httpx.post(f"{running.told['url']}/feedback", json=opinion, trust_env=False).status_code == 200
        untold = httpx.post(f"{running.told['url']}/feedback", content=json.dumps(opinion), trust_env=False)
        assert untold.status_code == 415
        assert untold.json()["error"]["message"] == "expected a body of type application/json, got 'none'"
        assert running.stop(signal.SIGINT)[0] == 0
    capsys.readouterr()
    assert run_command(["traces", "show", said.id, "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert kept["answer"]["content"] == said.choices[0].message.content
    assert [one["rating"] for one in kept["feedback"]] == [1]


def test_a_conversation_begins_as_those_did_that_were_learnt(
    served_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guided = (
        (served_project / "recipe.yaml")
        .read_text()
        .replace("answer: category", "answer: category, system: Name the subject.")
    )
    (served_project / "guided.yaml").write_text(guided.replace("name: tickets", "name: guided"))
    system: Any = {"role": "system", "content": "Name the subject."}
    other: Any = {"role": "system", "content": "Say nothing."}
    assert run_command(["run", "guided.yaml"]) in (0, 1, 3)
    assert run_command(["export", "guided.yaml:tune", "--to", "guided-out"]) == 0
    assert json.loads((served_project / "guided-out" / "prompt.json").read_text())["messages"] == [system]
    assert "where it has no system message" in (served_project / "guided-out" / "README.md").read_text()
    with command(served_project, "guided.yaml:tune") as running:
        asked = [TURNS, [system, *TURNS], [other, *TURNS]]
        said = [running.client().chat.completions.create(model="guided:tune", messages=one) for one in asked]
        assert running.stop()[0] == 0
    without, given, told_else = [one.choices[0].model_extra["scores"] for one in said]  # type: ignore[index]
    assert without == given != told_else
    capsys.readouterr()
    for one, first in zip(said, (system, system, other), strict=True):
        assert run_command(["traces", "show", one.id, "--json"]) == 0
        kept = json.loads(capsys.readouterr().out)["messages"]
        assert [kept[0]["content"], len(kept)] == [first["content"], 2]
    with command(served_project, "guided.yaml:tune", "--no-learnt-system") as running:
        bare = running.client().chat.completions.create(model="guided:tune", messages=TURNS)
        assert bare.choices[0].model_extra["scores"] != without  # type: ignore[index]
        assert running.stop()[0] == 0


SETS = """
  sets: {kind: conformal, data: data, model: tune, level: 0.7, score: SCORE, dtype: auto}
"""


def test_a_classifier_answers_with_the_label_set_that_was_calibrated(
    served_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, asked = (served_project / "recipe.yaml").read_text().rstrip(), {"label_set": True}
    models = ("recipe.yaml:tune", "./tiny-model")
    with command(served_project, *models, "--no-traces") as running, running.client() as client:
        for model, why in (("tickets:tune", "run a step `conformal` for it"), ("./tiny-model", "names no class")):
            with pytest.raises(openai.BadRequestError, match=why) as refused:
                client.chat.completions.create(model=model, messages=TURNS, extra_body=asked)
            assert refused.value.param == "label_set"
        assert running.stop()[0] == 0
    for score in ("aps", "lac"):  # the newest counts
        (served_project / "sets.yaml").write_text(recipe + SETS.replace("SCORE", score))
        assert run_command(["run", "sets.yaml", "--only", "sets"]) == 0
    artifact = find_artifact(CommandTarget(Workspace(served_project), "sets.yaml:sets")).artifact
    wanted = [LabelSet.model_validate_json(line) for line in artifact.path(LABEL_SETS).read_text().splitlines()]
    rows = {example.id: example for example in read_examples(artifact.find(artifact.manifest.inputs["data"]), "test")}
    with command(served_project, "recipe.yaml:tune") as running, running.client() as client:
        create, said = client.chat.completions.create, []
        for one in wanted:
            messages: list[Any] = [{"role": "user", "content": rows[one.row].messages[0].content}]
            said.append(create(model="tickets:tune", messages=messages, extra_body=asked))
        *_, last = create(model="tickets:tune", messages=messages, extra_body=asked, stream=True)
        assert "label_set" not in create(model="tickets:tune", messages=messages).choices[0].model_extra  # type: ignore[operator]
        assert running.stop()[0] == 0
    found = [one.choices[0].model_extra["label_set"] for one in said]  # type: ignore[index]
    assert last.choices[0].model_extra["label_set"] == found[-1]  # type: ignore[index]
    assert [set(one["labels"]) for one in found] == [set(one.labels) for one in wanted]
    assert {one["level"] for one in found} == {0.7}
    assert [one["abstains"] for one in found] == [len(one.labels) != 1 for one in wanted]
    likeliest = [one.choices[0].message.content for one in said]
    assert all(label == one["labels"][0] for label, one in zip(likeliest, found, strict=True) if one["labels"])
    capsys.readouterr()
    assert run_command(["traces", "show", said[0].id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label_set"] == found[0]["labels"]


def test_a_text_encoder_is_served_from_its_folder(served_project: Path) -> None:
    tiny_encoder(served_project / "encoder")
    with command(served_project, "./encoder") as running:
        asked: dict[str, Any] = {"model": "./encoder", "input": ["a parcel", "an invoice"]}
        listed = running.client().embeddings.create(**asked, encoding_format="float")
        packed = running.client().embeddings.create(**asked, encoding_format="base64")
        first = np.frombuffer(base64.b64decode(str(packed.data[0].embedding)), np.float32)
        assert listed.data[0].embedding == first.tolist() != listed.data[1].embedding
        assert running.stop()[0] == 0


def test_nothing_is_kept_where_that_is_not_wanted(
    served_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_TRAFFIC", str(tmp_path / "traffic"))
    with command(served_project, "./tiny-model", "--no-traces") as running:
        running.client().chat.completions.create(model="./tiny-model", messages=TURNS, max_tokens=4)
        assert running.stop()[0] == 0
    assert not (tmp_path / "traffic").exists()


@pytest.mark.slow
def test_a_kill_under_load_leaves_everything_whole(served_project: Path) -> None:
    for _ in range(5):
        with command(served_project, "./tiny-model") as running, ThreadPoolExecutor(4) as pool:
            client = running.client()
            asked: dict[str, Any] = {"model": "./tiny-model", "messages": TURNS, "max_tokens": 100}
            busy = [pool.submit(client.chat.completions.create, **asked) for _ in range(12)]
            time.sleep(0.4)
            running.process.kill()
            done = [one.result().id for one in busy if one.exception() is None]
        time.sleep(1.0)
        for name in done:
            assert run_command(["traces", "show", name]) == 0
        assert run_command(["keys", "list"]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nobody-knows-it"], "nobody-knows-it"),
        (["recipe.yaml:data"], "is a dataset, not a model"),
        (["recipe.yaml:tun"], "tun"),
        (["./tiny-model", "--engine", "vlm"], "did you mean 'vllm'"),
        (["./tiny-model", "--engine", "{kind: torch, at_onc: 3}"], "at_onc"),
        (["./tiny-model", "--engine", "{kind: torch"], "--engine"),
        (
            ["./tiny-model", "--engine", "{kind: torch, max_num_seqs: 0}"],
            "--engine: max_num_seqs: input should be greater",
        ),
        (["./tiny-model", "--engine", "label"], "was not tuned to choose classes"),
        (["./tiny-model", "--engine", "remote"], "is no endpoint"),
        (["./tiny-model", "--traces", "--keep", "{sampel: 0.1}"], "sampel"),
        (["./tiny-model", "--traces", "--keep", "{sample: 2}"], "sample"),
        (["./tiny-model", "--traces", "--keep", "{pii: [person]}"], "person is found by a recogniser"),
        (["./tiny-model", "--traces", "--keep", "[1"], "--keep: is no mapping in YAML"),
        (["./tiny-model", "--router", "x"], "--router: expected a mapping"),
        (["./tiny-model", "--traces", "--keep", "{names: {kind: spacy, model: nobody-has-it}}"], "nobody-has-it"),
        (["./tiny-model", "--host", "0.0.0.0"], "can be reached from elsewhere"),
        (["./tiny-model", "--host", "203.0.113.7"], "elsewhere"),
        ([], "nothing to serve"),
    ],
    ids=lambda value: " ".join(value)[-30:] if isinstance(value, list) else None,
)
def test_what_cannot_be_served(
    served_project: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    capsys.readouterr()
    quiet = [] if "--traces" in words else ["--no-traces"]
    assert run_command(["serve", *words, "--port", "0", *quiet]) == 2
    assert says.lower() in capsys.readouterr().err.lower()


def test_a_wrong_name_is_told_before_a_model_is_opened(
    served_project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("luthier.commands.serve.open_served_model", lambda target, *_, **__: opened.append(target))
    assert run_command(["serve", "./tiny-model", "recipe.yaml:wrong", "--port", "0", "--no-traces"]) == 2
    assert "wrong" in capsys.readouterr().err
    assert opened == []


def test_a_port_that_is_taken(served_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with command(served_project, "./tiny-model", "--no-traces") as running:
        assert run_command(["serve", "./tiny-model", "--port", str(running.told["port"]), "--no-traces"]) == 2
        assert "cannot listen" in capsys.readouterr().err


def test_what_somebody_else_froze_stays_frozen(served_project: Path) -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert run_command(["serve", "./tiny-model", "--port", str(taken.getsockname()[1]), "--no-traces"]) == 2
    assert gc.get_freeze_count() > frozen / 2  # what nobody names is gone all the same


def test_keys_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def told(*words: str) -> Any:
        assert run_command(["keys", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    key = told("add", "bot", "--scope", "infer", "--scope", "tune", "--requests-per-minute", "60")["key"]
    assert key.startswith("lk-")
    (row,) = told("list")["keys"]
    assert (row["name"], row["scopes"], row["requests_per_minute"], row["revoked_at"]) == (
        "bot",
        ["infer", "tune"],
        60,
        None,
    )
    assert key not in json.dumps(row)
    told("revoke", "bot")
    assert told("list")["keys"][0]["revoked_at"] is not None
    for words in (["add", "bot"], ["revoke", "nobody"], ["add", "x", "--scope", "root"], ["add", "a b"]):
        assert run_command(["keys", *words]) == 2
        assert "error:" in capsys.readouterr().err
    assert run_command(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert "bot" in shown
    assert re.search(r"\d\d:\d\d\s", shown), "moments are shown to the minute"
    assert "+00:00" not in shown
