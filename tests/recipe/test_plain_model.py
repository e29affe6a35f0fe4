"""A recipe without a base model: a plain classifier is made, measured, talked with, exported, served and watched."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from commanded import command
from luthier.artifacts.dataset import read_examples
from luthier.chat.messages import user_text_of
from luthier.cli.app import run_command
from luthier.commands.chat import open_chat
from luthier.core.errors import LuthierError
from luthier.recipe.schema import Recipe
from tests.targets import artifact_of, target
from tiny_models import own_cache, tickets, tiny_model, write_csv

RECIPE = """\
luthier: 1
name: tickets
seed: 3
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    ops: [normalize, exact_dedup]
    split: {test: 40, validation: 30}
  tune: {kind: tune, data: data, technique: plain}
  report: {kind: evaluate, data: data, model: tune, metrics: [accuracy, macro_f1, ece, brier]}
  both: {kind: evaluate, data: data, model: tune, metrics: [accuracy, ece], baselines: [tfidf, majority]}
  gate: {kind: gate, evaluation: report, rules: ["accuracy > majority"]}
  monitor:
    kind: monitor
    data: data
    evaluation: report
    signals: [latency, throughput, {kind: metric, metric: accuracy}, {kind: drift, embedder: lsa}, calibration]
    alerts: [{expr: "accuracy < report - 0.2 on 12 labels"}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The recipe, run: no torch is needed, and no base model is here."""
    folder = tmp_path_factory.mktemp("plain")
    write_csv(folder / "tickets.csv", tickets(200))
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        code = "import sys; from luthier.cli.app import run_command as run; " + (
            "made = run(['run', 'recipe.yaml']); sys.exit(made or 9 * ('torch' in sys.modules))"
        )
        made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        yield folder


def oracle() -> Pipeline:
    """scikit-learn's own pipeline over the rows that the model was made from."""
    rows = read_examples(artifact_of(":data").artifact, "train")
    pipeline = Pipeline(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)),
            ("regression", LogisticRegression(C=10, max_iter=2000)),
        ]
    )
    return pipeline.fit([user_text_of(row) for row in rows], [row.label for row in rows])


def held_out() -> list[str]:
    return [user_text_of(row) for row in read_examples(artifact_of(":data").artifact, "test")]


def test_model_and_baseline_have_the_same_figures(place: Path) -> None:
    report = artifact_of(":both").artifact
    measured = report.read_json("metrics.json")["models"]
    assert measured["tuned"].keys() == {"accuracy", "ece"}
    for metric in ("accuracy", "ece"):
        mine, its = (dict(measured[name][metric]) for name in ("tuned", "tfidf"))
        assert mine == its
    table = polars.read_parquet(report.path("predictions.parquet"))
    mine, its = (table.filter(polars.col("model") == name)["scores"].to_list() for name in ("tuned", "tfidf"))
    assert list(map(json.loads, mine)) == list(map(json.loads, its))
    wanted = oracle().predict_proba(held_out())
    found = np.exp([[json.loads(row)[name] for name in ("account", "billing", "delivery")] for row in mine])
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_it_is_not_its_own_baseline_and_the_report_says_what_it_is(place: Path) -> None:
    told = artifact_of(":report").artifact.read_json("summary.json")
    assert told["order"] == ["tuned", "majority"]
    assert told["verdict_sentence"].startswith("The plain classifier scores ")
    assert "It beats the plain baseline, always the most frequent label" in told["verdict_sentence"]
    assert run_command(["report", "recipe.yaml", "--to", "report.md"]) == 0
    assert "technique | plain" in (place / "report.md").read_text()


def test_the_export_opens_in_plain_scikit_learn(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["export", ":tune", "--to", "out"]) == 0
    assert "differ by 0 at most" in capsys.readouterr().out
    files = {path.name for path in (place / "out").iterdir()}
    assert files == {"README.md", "classifier.json", "classifier.safetensors", "luthier.json", "open_classifier.py"}
    code = (
        "import json, sys; from open_classifier import open_pipeline; pipeline = open_pipeline('.'); "
        "assert 'luthier' not in sys.modules; print(json.dumps(pipeline.predict_proba(json.load(sys.stdin)).tolist()))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=place / "out", input=json.dumps(held_out()), capture_output=True, text=True,
        check=True, env={"PATH": ""},
    )  # fmt: skip
    np.testing.assert_allclose(json.loads(told.stdout), oracle().predict_proba(held_out()), atol=1e-9)
    shown = subprocess.run(
        [sys.executable, "out/open_classifier.py", "Where is the parcel"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("Where is the parcel\tdelivery 0.")
    card = (place / "out" / "README.md").read_text()
    assert "library_name: sklearn" in card
    assert "| accuracy |" in card


@pytest.mark.parametrize("form", ["hf", "gguf", "adapter"])
def test_a_form_of_networks_is_refused(place: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["export", ":tune", "--to", f"out-{form}", "--format", form]) == 2
    assert "formats of a plain classifier: sklearn" in capsys.readouterr().err
    assert not (place / f"out-{form}").exists()


def test_chat_names_the_likeliest_classes(place: Path) -> None:
    session = open_chat(target(":tune"), system=None, max_tokens=8, temperature=0.0)
    said = session.ask("Where is the parcel")
    assert said.startswith("delivery (")
    assert said.count("%") == 3
    assert session.ask("Where is the parcel") == said, "each line is answered by itself"


def test_show_says_what_it_is(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["show", ":tune", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["summary"]["technique"]["kind"] == "plain"
    assert told["summary"]["classes"] == ["account", "billing", "delivery"]


def test_it_is_served_traced_and_watched(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = tickets(40, seed=9)
    with command(place, "recipe.yaml:tune", start=subprocess.Popen) as running:
        modules = Path(f"/proc/{running.process.pid}/maps").read_text()
        client = running.client()
        answers = [_ask(client, row["message"]) for row in asked]
        for row, answer in zip(asked, answers, strict=True):
            late = {"id": answer.id, "label": row["category"]}
            assert httpx.post(f"{running.told['url']}/feedback", json=late, trust_env=False).status_code == 200
    assert "libtorch" not in modules, "a classifier of words is served without torch"
    right = sum(
        answer.choices[0].message.content == row["category"] for row, answer in zip(asked, answers, strict=True)
    )
    (shares,) = oracle().predict_proba([asked[0]["message"]])
    scores = answers[0].choices[0].model_extra["scores"]
    assert max(scores, key=scores.get) == ["account", "billing", "delivery"][int(shares.argmax())]
    told = answers[0].choices[0].logprobs.content[0]
    assert np.exp(told.logprob) == pytest.approx(max(scores.values()))
    assert [one.token for one in told.top_logprobs] == sorted(scores, key=lambda name: -scores[name])[:2]
    capsys.readouterr()
    assert run_command(["monitor", "show", "recipe.yaml", "--json"]) == 0
    numbers = {one["number"]: one for one in json.loads(capsys.readouterr().out)["numbers"]}
    assert numbers["accuracy"]["value"] == pytest.approx(right / len(asked))
    assert {"latency.p95", "drift.evidence", "throughput"} <= {*numbers}


def _ask(client: Any, text: str) -> Any:
    turns = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="tickets:tune", messages=turns, logprobs=True, top_logprobs=2)


def test_a_base_model_that_no_step_reads_is_told_and_can_be_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "tiny-model")
    write_csv(tmp_path / "tickets.csv", tickets(120))
    text = RECIPE[: RECIPE.index("  both:")].replace("steps:", "model: tiny-model\nsteps:")
    (tmp_path / "recipe.yaml").write_text(text)
    assert run_command(["plan", "recipe.yaml"]) == 0
    assert "no step reads the recipe's `model`; `compare_with: model`" in capsys.readouterr().out
    assert run_command(["run", "recipe.yaml", "steps.report.compare_with=model"]) == 0
    told = Recipe.load(tmp_path / "recipe.yaml", ["steps.report.compare_with=model"]).plan()
    assert told.artifact("report").read_json("summary.json")["order"] == ["tuned", "against", "majority"]


def test_rows_of_texts_are_refused_at_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    with (tmp_path / "tickets.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("message", "category"), *((f"question {at}", f"answer {at}") for at in range(60))])
    (tmp_path / "recipe.yaml").write_text(RECIPE[: RECIPE.index("  report:")])
    with pytest.raises(LuthierError, match="technique plain chooses one of a few classes, and the rows hold texts"):
        Recipe.load(tmp_path / "recipe.yaml").plan()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("model: other", "model changes nothing under plain"),
        ("epochs: 2", "epochs changes nothing under plain"),
        ("objective: dpo", "objective changes nothing under plain"),
    ],
)
def test_settings_of_networks_are_refused(more: str, said: str, tmp_path: Path) -> None:
    text = RECIPE[: RECIPE.index("  report:")].replace("technique: plain", f"technique: plain, {more}")
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(LuthierError, match=said):
        Recipe.load(tmp_path / "recipe.yaml")
