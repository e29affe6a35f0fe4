"""The first hours of two new users, walked again: a support lead with an export of a spreadsheet, and an engineer who
comes from TRL with chats, tools and preferences."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from luthier.cli.app import run_command
from luthier.recipe.runner import RunResult
from luthier.recipe.schema import Recipe
from luthier.traces.store import read_traces
from tests import strangers
from tests.commanded import command
from tests.tiny_models import own_cache

SHORT = ("steps.tune.epochs=1", "steps.tune.max_train_samples=24")
"""Overrides that keep a training to a second."""
PLAIN = "steps.tune={kind: tune, data: data, technique: plain}"
Say = Callable[..., tuple[str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command that ends as expected; what it printed as output and as error."""

    def run(*words: str, ends: tuple[int, ...] = (0,)) -> tuple[str, str]:
        capsys.readouterr()
        code = run_command([*words])
        printed = capsys.readouterr()
        assert code in ends, printed.err
        return printed.out, printed.err

    return run


def _walk(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("LUTHIER_CACHE", own_cache(folder))
    patch.setenv("LUTHIER_PII_KEY", "for tests")
    patch.delenv("LUTHIER_TRAFFIC", raising=False)
    patch.chdir(folder)


def _shorten(recipe: Path) -> None:
    """Take the recognizer of names out of a recipe, which needs a wheel that is fetched, and train for a second."""
    text = re.sub(r"epochs: \d+", "max_train_samples: 24, epochs: 1", recipe.read_text(encoding="utf-8"))
    at = text.index(", ner: {")
    recipe.write_text(text[:at] + "}" + text[text.index("\n", at) :], encoding="utf-8")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `new` and `run` were typed; `new.txt` has what `new` said."""
    folder = tmp_path_factory.mktemp("lead")
    strangers.write_support(folder)
    with pytest.MonkeyPatch.context() as patch:
        _walk(folder, patch)
        assert run_command(["new", "support", "--from", "tickets.csv", "--model", "./tiny"]) == 0
        (folder / "proposed.yaml").write_bytes((folder / "support" / "recipe.yaml").read_bytes())
        _shorten(folder / "support" / "recipe.yaml")
        assert run_command(["run", "support"]) in (0, 1, 3)
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `new` was typed for chats and for preferences."""
    folder = tmp_path_factory.mktemp("engineer")
    strangers.write_agent(folder)
    with pytest.MonkeyPatch.context() as patch:
        _walk(folder, patch)
        assert run_command(["new", "agent", "--from", "chats.jsonl", "--model", "./tiny"]) == 0
        assert run_command(["new", "liked", "--from", "pairs.jsonl", "--model", "./tiny"]) == 0
    return folder


@pytest.fixture(scope="module")
def result(bench: Path) -> RunResult:
    """What the recipe over chats makes, run from Python."""
    with pytest.MonkeyPatch.context() as patch:
        _walk(bench, patch)
        return Recipe.load("agent", [*SHORT]).run(progress=False)


class TestSupportLead:
    """From tickets of a spreadsheet to a served model, and to the next recipe."""

    @pytest.fixture(autouse=True)
    def _here(self, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _walk(desk, monkeypatch)

    def test_new_reads_the_file_as_excel_wrote_it(self, desk: Path, say: Say) -> None:
        said, _ = say("new", "again", "--from", "tickets.csv", "--model", "./tiny")
        assert "read as cp1252" in said
        assert "fields are separated by semicolon" in said
        assert "the first 2 lines are titles above the header, not data: 'Auswertung 2025'" in said
        assert "15 of 180 rows have nothing to train on and will be dropped: 15 × empty answer" in said
        assert "prompt: 'Betreff' and 'Nachricht' are combined into the prompt" in said
        assert "'Kunden-Konto' as 'Kundenkonto', 'Rueckerstattung' as 'Rückerstattung'" in said
        assert "pii: names of persons in the 180 rows seen" in said
        assert "try `plain` first" in said
        told = yaml.safe_load((desk / "proposed.yaml").read_text(encoding="utf-8"))
        source, ops = told["steps"]["data"]["source"], told["steps"]["data"]["ops"]
        assert (source["header"], source["answer"], source["id"]) == (3, "Kategorie", "Nr")
        assert source["prompt"] == "{Betreff}\n\n{Nachricht}"
        assert source["system"].endswith("Answer with one of: Kundenkonto, Rechnung, Rückerstattung, Versand.")
        assert next(one for one in ops if isinstance(one, dict) and one["kind"] == "pii")["ner"]["kind"] == "rampart"

    def test_plan_says_what_it_costs(self, say: Say) -> None:
        said, _ = say("plan", "support")
        assert "cached" in said
        said, _ = say("plan", "support", "steps.tune.epochs=2")
        assert "to make" in said

    def test_the_report_tells_what_was_left_out_and_what_helps(self, desk: Path) -> None:
        (page,) = (desk / "support" / ".luthier" / "reports").glob("support.html")
        report = page.read_text(encoding="utf-8")
        assert "empty answer" in report
        assert "What may change it" in report
        assert "technique: plain" in report
        assert "<mark>" in report, "rows stand there as the model sees them"
        assert "24 rows trained on" in report

    def test_rows_that_were_left_out_are_listed(self, say: Say) -> None:
        said, _ = say("show", "support:data", "--dropped")
        assert said.startswith("support:data: 16 of 180 rows left out\n15 × empty answer\n")
        assert "1 × near duplicate" in said
        assert "(row 15)" in said, "as the spreadsheet counts"

    def test_rows_are_shown_as_the_model_sees_them(self, say: Say) -> None:
        said, _ = say("show", "support:data", "--rendered", "2")
        assert said.count("tokens, ") == 2
        assert said.count("⟦") == 3
        assert "<|im_start|>assistant\n⟦" in said
        assert "Rueckerstattung" not in said

    def test_rows_without_a_label_go_to_annotators(self, desk: Path, say: Say) -> None:
        text = (desk / "support" / "recipe.yaml").read_text(encoding="utf-8")
        (desk / "support" / "labels.yaml").write_text(text.replace("# unlabeled:", "unlabeled:"), encoding="utf-8")
        say("run", "support/labels.yaml", "--only", "unlabeled")
        say("export", "support/labels.yaml:unlabeled", "--to", "annotators", "--format", "label-studio")
        tasks = json.loads((desk / "annotators" / "train.json").read_text(encoding="utf-8"))
        assert len(tasks) == 15
        labels = (desk / "annotators" / "labels.xml").read_text(encoding="utf-8")
        assert all(f'value="{name}"' in labels for name in strangers.CLASSES)
        assert "Kunden-Konto" not in labels

    def test_new_tickets_are_predicted(self, desk: Path, say: Say) -> None:
        said, _ = say("predict", "support:tune", "neu.csv", "--to", "neu.jsonl")
        assert "wrote neu.jsonl: 12 predictions" in said
        rows = [json.loads(line) for line in (desk / "neu.jsonl").read_text(encoding="utf-8").splitlines()]
        assert {row["prediction"] for row in rows} <= {*strangers.CLASSES}
        assert not any("reference" in row for row in rows), "an empty cell is no right answer"
        _, told = say("score", "neu.jsonl", ends=(2,))
        assert 'lacks "reference"' in told

    def test_tickets_with_labels_are_scored_in_the_models_spelling(self, desk: Path, say: Say) -> None:
        say("predict", "support:tune", "juni.csv", "--to", "juni.jsonl")
        rows = [json.loads(line) for line in (desk / "juni.jsonl").read_text(encoding="utf-8").splitlines()]
        told = {row["reference"] for row in rows if "reference" in row}
        assert told == {*strangers.CLASSES}, "Kunden-Konto is Kundenkonto, as in the recipe"
        assert [at for at, row in enumerate(rows, start=1) if "reference" not in row] == [12]
        with (desk / "juni.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows if "reference" in row)
        said, _ = say("score", "juni.jsonl", "--metric", "accuracy", "--json")
        right = sum(row["prediction"] == row.get("reference") for row in rows)
        assert json.loads(said)["metrics"]["accuracy"]["value"] == pytest.approx(right / 19)

    def test_a_plain_classifier_is_tried_and_no_report_is_lost(self, desk: Path, say: Say) -> None:
        page = desk / "support" / ".luthier" / "reports" / "support.html"
        before = page.read_bytes()
        said, _ = say("run", "support", PLAIN, "--only", "report")
        assert "The plain classifier scores" in said
        assert "report: support/.luthier/reports/support.part.html" in said
        said, _ = say("report", "support", PLAIN)
        assert page.read_bytes() == before, "the finished report is as it was"
        said, _ = say("runs", "support")
        assert said.count("done") >= 2
        assert "plain" in said

    @pytest.mark.slow  # a server of its own, and a second training
    def test_what_people_say_of_answers_makes_the_next_model(self, desk: Path, say: Say) -> None:
        with command(desk, "support/recipe.yaml:tune") as running:
            client = running.client()
            turns: list[Any] = [{"role": "user", "content": "Wo bleibt mein Paket?"}]
            told = client.chat.completions.create(model="support:tune", messages=turns, temperature=0.7)
            assert told.choices[0].message.content in strangers.CLASSES
            running.stop()
        (trace,) = read_traces(desk / "support" / ".luthier" / "traffic")
        _, refused = say("feedback", trace.id, "--label", "Versandt", ends=(2,))
        assert "'Versandt' is no class of support:tune" in refused
        assert "its classes: Versand, " in refused
        say("feedback", trace.id, "--label", "Versand")
        said, _ = say("new", "better", "--from", "traces")
        assert "goes on from support/recipe.yaml:tune" in said
        assert "what people said makes 1 row more" in said
        say("run", "support/better.yaml", ends=(0, 1, 3))
        report = (desk / "support" / ".luthier" / "reports" / "better.html").read_text(encoding="utf-8")
        assert "Rows fixed / broken" in report, "it is told beside the model that was served"


class TestEngineer:
    """From TRL's files to an adapter that PEFT opens, and the same in Python."""

    @pytest.fixture(autouse=True)
    def _here(self, bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _walk(bench, monkeypatch)

    def test_chats_with_tools_train_on_calls(self, bench: Path, say: Say) -> None:
        told = yaml.safe_load((bench / "agent" / "recipe.yaml").read_text(encoding="utf-8"))
        assert told["chat_template"] == "hermes", "the model's own has no place for tools"
        assert told["steps"]["tune"]["objective"] == {"kind": "sft", "train_on": "all"}
        assert told["steps"]["report"]["metrics"][0] == "tool_calls"
        assert re.search("agent: (about|everything is made)", say("plan", "agent", *SHORT)[0])

    def test_other_tools_names_are_answered(self, say: Say) -> None:
        _, told = say("run", "agent", "lr=1e-3", ends=(2,))
        assert "steps.tune.learning_rate" in told
        _, told = say("train", "agent", ends=(2,))
        assert "no such command 'train'" in told
        assert "here it is `luthier run RECIPE`" in told
        assert "trace" not in told, "a command that is only spelled alike"

    def test_a_metric_that_cannot_apply_is_refused_by_plan(self, say: Say) -> None:
        _, told = say("plan", "agent", "steps.report.metrics=[accuracy]", ends=(2,))
        assert "accuracy is about classes, and the data set holds texts" in told
        assert "metrics that apply: " in told

    def test_a_file_of_trl_becomes_a_recipe(self, bench: Path, say: Say) -> None:
        say("new", "trl", "--from", "sft.yaml")
        path = bench / "trl" / "recipe.yaml"
        tune = yaml.safe_load(path.read_text(encoding="utf-8"))["steps"]["tune"]
        assert (tune["learning_rate"], tune["epochs"], tune["batch_size"]) == (2e-4, 1.0, 8)
        assert (tune["technique"]["kind"], tune["technique"]["r"], tune["technique"]["lora_alpha"]) == ("lora", 8, 16.0)
        _, told = say("plan", "trl", ends=(2,))
        assert "have tools" in told
        assert "set `chat_template: hermes` in the recipe" in told
        path.write_text(path.read_text(encoding="utf-8").replace("\nseed: ", "\nchat_template: hermes\nseed: ", 1))
        assert "trl: about" in say("plan", "trl")[0]

    def test_python_gives_tables_numbers_and_predictions(self, result: RunResult) -> None:
        assert str(result).splitlines()[0].split() == ["step", "kind", "state", "time", "artifact"]
        calls = result["report"].metrics["tool_calls"]
        assert 0 <= calls["low"] <= calls["value"] <= calls["high"] <= 1
        (answer,) = result["tune"].predict(["What is the capital number 3?"], max_new_tokens=4)
        assert answer.probabilities is None

    def test_rows_are_shown_with_their_calls(self, result: RunResult, say: Say) -> None:
        said, _ = say("show", "agent:data", "--rendered", "1")
        assert "<tools>" in said
        assert '⟦<tool_call>\n{"name": "lookup"' in said
        assert said.count("⟦") == 3, "both turns of the assistant, and the sign that is explained"

    @pytest.mark.slow  # a process of its own that imports PEFT
    def test_an_adapter_loads_in_peft(self, bench: Path, result: RunResult, say: Say) -> None:
        say("export", "agent:tune", *SHORT, "--to", "adapter", "--format", "adapter")
        program = (
            "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n"
            "model = AutoPeftModelForCausalLM.from_pretrained('adapter')\n"
            "tokenizer = AutoTokenizer.from_pretrained('adapter')\n"
            "print(type(model).__name__, '<tools>' in tokenizer.chat_template)"
        )
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=bench, env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout.split() == ["PeftModelForCausalLM", "True"], done.stderr

    def test_preferences_are_tuned_by_dpo(self, bench: Path, say: Say) -> None:
        text = (bench / "liked" / "recipe.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(text)["steps"]["tune"]["objective"] == "dpo"
        assert "technique: plain" not in text, "a plain classifier learns no preferences"
        said, _ = say("run", "liked", *SHORT, ends=(0, 1, 3))
        assert "accuracy" in said
        assert [*(bench / "liked" / ".luthier" / "reports").glob("liked*.html")]
