"""`luthier advise`: its answer, its errors, what it leaves unloaded, and what it remembers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

import luthier
from luthier.auto.advice.predict import TechniqueKind
from luthier.cli.app import run_command
from luthier.commands.advise import advise
from luthier.core.errors import InputError
from luthier.core.training_outcomes import TrainingOutcome, get_outcomes_path, read_outcomes, record_outcomes
from luthier.recipe.schema import Recipe
from luthier.tune.steps.tune import Tune
from tiny_models import tickets, tiny_model, write_csv

DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    write_csv(tmp_path / "rows.csv", tickets(200))


def answered(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run_command(["advise", *words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_words_that_decide_alone_get_a_plain_classifier(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "rows.csv", "--target", "macro_f1 >= 0.9")
    assert found["first"] == {"technique": "plain", "model": ""}
    assert found["metric"] == "macro_f1"
    first = found["techniques"][0]
    assert first["chance"] > 0.8
    assert 0 < first["low"] < first["quality"] < first["high"] <= 1
    assert first["seconds"] > 0
    assert first["peak_bytes"] > 0
    assert {one["technique"] for one in found["techniques"]} >= {
        "lora",
        "full",
        "ia3",
        "prompt_search",
        "base",
        "plain",
    }
    assert found["training"]["settings"]["batch_size"] == 8
    assert "ticket" not in json.dumps(found["profile"])


def test_the_same_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["advise", "rows.csv", "--memory", "700MB", "--latency", "200ms"]) == 0
    said = capsys.readouterr().out
    assert "1. plain: words alone reach" in said
    assert "evidence for plain:" in said
    assert "left out: lora:" in said


def test_the_same_in_python() -> None:
    found = luthier.advise("rows.csv", budget="2s", memory="1GB")
    assert found.as_json()["rows"] == "rows.csv: 200 rows, 3 columns"
    assert all(one.left_out for one in found.ranking.techniques if one.technique == "full")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["nothing.csv"], "nothing.csv"),
        (["rows.csv", "--budget", "soon"], "expected a time"),
        (["rows.csv", "--budget", "0s"], "more than nothing"),
        (["rows.csv", "--memory", "much"], "expected an amount of memory"),
        (["rows.csv", "--memory", "-1GB"], "expected an amount of memory"),
        (["rows.csv", "--latency", "5"], "expected the time of an answer"),
        (["rows.csv", "--target", "good"], "expected a metric and a bound"),
        (["rows.csv", "--target", "macro_f1 >= 90"], "expected a metric and a bound"),
        (["rows.csv", "--target", "rougeL >= 0.5"], "known: accuracy, macro_f1"),
        (["rows.csv", "--model", "gpt-17"], "gpt-17"),
        (["rows.csv", "--answer", "nothing"], "nothing"),
    ],
)
def test_bad_input_is_one_clear_error(capsys: pytest.CaptureFixture[str], words: list[str], part: str) -> None:
    error = answered(capsys, *words, code=2)["error"]
    assert part in f"{error['message']} {error['where']} {error['hint']}"


@pytest.mark.parametrize("rows", [1, 5])
def test_rows_of_which_none_is_held_out_leave_no_choice(rows: int, tmp_path: Path) -> None:
    write_csv(tmp_path / "few.csv", tickets(rows))
    found = advise("few.csv", prompt="message", answer="category", want="classify")
    assert found.ranking.first is None
    assert all(one.left_out for one in found.ranking.techniques)


def test_few_rows_are_advised_on(tmp_path: Path) -> None:
    write_csv(tmp_path / "few.csv", tickets(20))
    found = advise("few.csv", prompt="message", answer="category", want="classify")
    assert found.ranking.first is not None
    assert found.ranking.first.high - found.ranking.first.low > 0.1


def test_one_class_and_free_texts(tmp_path: Path) -> None:
    write_csv(tmp_path / "one.csv", [{"text": f"a text number {n}", "label": "same"} for n in range(60)])
    with pytest.raises(InputError, match="nothing to tell apart"):
        advise("one.csv")
    assert advise("one.csv", prompt="text", answer="label", want="classify").ranking.first is not None
    rows = [{"question": f"what is the price of the item {n}", "answer": f"it is about {n} coins"} for n in range(60)]
    write_csv(tmp_path / "texts.csv", rows)
    found = advise("texts.csv")
    assert found.profile.task == "text"
    assert next(one for one in found.ranking.techniques if one.technique == "plain").left_out


def test_neither_torch_nor_scikit_learn_is_loaded(tmp_path: Path) -> None:
    script = (
        "import sys; from luthier.cli.app import run_command; code = run_command(['advise', 'rows.csv', '--json']);"
        "heavy = {'torch', 'transformers', 'sklearn', 'optuna'} & {*sys.modules};"
        "print(heavy, file=sys.stderr); sys.exit(code or bool(heavy))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_spoilt_memory_is_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    get_outcomes_path().parent.mkdir(parents=True)
    get_outcomes_path().write_text("{")
    assert "cannot be read as JSON" in answered(capsys, "rows.csv")["notes"][0]


def test_past_runs_are_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    record_outcomes(
        [
            TrainingOutcome(
                digest=f"{number:064x}", task="label", train_rows=160, classes=5, prompt_words=8, technique="lora",
                parameters=134_515_008, metric="accuracy", value=0.4, low=0.3, high=0.5, rows=100, plain=0.9,
            )
            for number in range(5)
        ]
    )  # fmt: skip
    lora = next(one for one in answered(capsys, "rows.csv")["techniques"] if one["technique"] == "lora")
    assert any("past run" in sentence for sentence in lora["evidence"])


def test_an_evaluation_is_remembered_without_texts(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "luthier: 1\nname: desk\nseed: 7\nsteps:\n"
        "  data: {kind: prepare, source: {kind: csv, path: rows.csv, prompt: message, answer: category}, "
        "split: {test: 60}, task: label}\n"
        "  tune: {kind: tune, data: data, technique: plain}\n"
        "  report: {kind: evaluate, data: data, model: tune, metrics: [accuracy]}\n"
    )
    Recipe.load(tmp_path / "recipe.yaml").run()
    (found,) = read_outcomes().records
    assert (found.technique, found.metric, found.rows, found.train_rows) == ("plain", "accuracy", 60, 140)
    assert found.low <= found.value <= found.high
    text = get_outcomes_path().read_text()
    assert not any(row["message"] in text or row["category"] in text for row in tickets(200))
    Recipe.load(tmp_path / "recipe.yaml").run()
    assert len(read_outcomes().records) == 1


def test_the_first_choice_is_written_by_new(tmp_path: Path) -> None:
    assert run_command(["new", "desk", "--from", "rows.csv"]) == 0
    text = (tmp_path / "desk" / "recipe.yaml").read_text()
    assert "technique: plain" in text
    assert "# 1. plain: accuracy" in text
    assert "# 2. lora: accuracy" in text
    assert Recipe.load(tmp_path / "desk" / "recipe.yaml").model is None


@pytest.mark.parametrize("words", [["--technique", "lora"], ["--model", "smollm2-135m-instruct"]])
def test_a_technique_or_a_base_model_that_is_named_wins(tmp_path: Path, words: list[str]) -> None:
    assert run_command(["new", "desk", "--from", "rows.csv", *words]) == 0
    text = (tmp_path / "desk" / "recipe.yaml").read_text()
    assert "# 1. plain: accuracy" in text
    assert "# A network is expected to add a point at most" in text
    assert "technique: {kind: lora, r: 16}" in text


@pytest.mark.parametrize("technique", [*get_args(TechniqueKind)])
def test_every_technique_that_is_ranked_can_be_written(tmp_path: Path, technique: str) -> None:
    assert run_command(["new", "desk", "--from", "rows.csv", "--technique", technique]) == 0
    tune = Recipe.load(tmp_path / "desk" / "recipe.yaml").steps["tune"]
    assert isinstance(tune, Tune)
    assert tune.technique.kind == technique


@pytest.mark.parametrize("rows", [5, 8, 12, 20])
def test_thin_evidence_is_told_and_the_standard_is_taken(
    tmp_path: Path, rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "few.csv", tickets(rows))
    words = ["--prompt", "message", "--answer", "category", "--want", "classify"]
    assert run_command(["new", "desk", "--from", "few.csv", *words]) == 0
    assert "technique: lora: the standard, since evidence is thin (" in capsys.readouterr().out
    text = (tmp_path / "desk" / "recipe.yaml").read_text()
    assert "technique: {kind: lora, r: 16}" in text
    assert "# 1. lora: accuracy" in text
    assert "# Evidence is thin (anything from 0." in text
    assert run_command(["advise", "few.csv", *words]) == 0
    said = capsys.readouterr().out
    assert "evidence for lora is thin: " in said or "no technique is left to choose" in said


def test_free_texts_get_the_standard(tmp_path: Path) -> None:
    rows = [{"question": f"what is the price of the item {n}", "answer": f"it is about {n} coins"} for n in range(60)]
    write_csv(tmp_path / "texts.csv", rows)
    assert run_command(["new", "desk", "--from", "texts.csv"]) == 0
    text = (tmp_path / "desk" / "recipe.yaml").read_text()
    assert "technique: {kind: lora, r: 16}" in text
    assert "# Evidence is thin" in text
    assert ". plain:" not in text


def test_a_probe_measures(capsys: pytest.CaptureFixture[str]) -> None:
    found = answered(capsys, "rows.csv", "--probe")
    assert max(found["profile"]["separability"]["accuracy"].values()) > 0.95
    assert any("is not here, so that it was not asked" in note for note in found["notes"])


def test_a_probe_asks_a_base_model_that_is_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny-model")
    found = answered(capsys, "rows.csv", "--model", "tiny-model", "--probe")
    base = next(one for one in found["techniques"] if one["technique"] == "base")
    assert base["reason"].startswith("asked 24 rows, it answered 0.")
    assert not base["fetches"]
    assert not found["notes"]
    (speed,) = found["speeds"]
    assert speed.startswith("time over tiny-model: speed ")
    assert speed.endswith("here") or "on this machine" in speed


SETS = {
    "banking77/train.csv": ("label", {}),
    "bitext_intents/Bitext_Sample_Customer_Service_Training_Dataset.csv": (
        "label", {"prompt": "utterance", "answer": "intent"}
    ),
    "crows_pairs/crows_pairs_anonymized.csv": ("label", {"prompt": "sent_more", "answer": "bias_type"}),
    "bitext_customer_support/Bitext_Sample_Customer_Support_Training_Dataset.csv": (
        "text", {"prompt": "instruction", "answer": "response"}
    ),
    "gsm8k/train.jsonl": ("text", {}),
    "codealpaca_2k/code_alpaca_2k.json": ("text", {}),
}  # fmt: skip


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not beside the repository")
@pytest.mark.parametrize("name", SETS)
def test_the_questions_of_choosing_on_real_sets(name: str) -> None:
    """Size, resources, accuracy and complexity: is there a choice, what if resources are short, and what would help?"""
    task, columns = SETS[name]
    free = advise(DATA / name, **columns)
    assert free.profile.task == task
    assert free.profile.rows > 500
    assert free.ranking.first is not None
    first = free.ranking.first
    assert first.seconds is not None
    assert first.peak_bytes is not None
    short = advise(DATA / name, **columns, memory="1.5GB", budget="10m")
    for one in short.ranking.techniques:
        assert one.left_out or ((one.seconds or 0) <= 600 and (one.peak_bytes or 0) <= 1.5e9)
    if task == "label":
        assert short.ranking.first is not None
        assert not next(one for one in short.ranking.techniques if one.technique == "plain").left_out
    easy, hard = (advise(DATA / name, **columns, target=f"{free.ranking.metric} >= {bound}") for bound in (0.05, 0.98))
    assert easy.ranking.first is not None
    assert hard.ranking.first is not None
    assert (easy.ranking.first.chance or 0) > 0.8 > (hard.ranking.first.chance or 0)


def test_options_are_read_before_the_rows() -> None:
    with pytest.raises(InputError, match="expected a time"):
        advise("nothing.csv", budget="x")
