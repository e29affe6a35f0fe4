"""The doors over one run of the small recipe: show, trace, chat, export, compare, report, parts, doctor, store."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import polars
import pytest
import yaml

from luthier.artifacts.dataset import read_examples
from luthier.cli.app import run_command
from luthier.recipe.schema import Recipe
from tests.targets import artifact_of, target
from tests.tiny_models import RECIPE, own_cache, small_recipe, tickets, tiny_model, write_csv


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small recipe was run from the command line."""
    folder = tmp_path_factory.mktemp("doors")
    small_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        assert run_command(["run"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(made))
    monkeypatch.chdir(made)


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run_command([*arguments, "--json"]) in (0, 1, 3)
    return json.loads(capsys.readouterr().out)


def test_run_prints_the_documented_shape(capsys: pytest.CaptureFixture[str]) -> None:
    told = _json(capsys, "run")
    assert set(told) == {"recipe", "exit", "steps"}
    assert set(told["steps"]) == {"model", "data", "tune", "report", "gate"}
    for step in told["steps"].values():
        assert set(step) == {"artifact", "cached", "seconds", "path"}
        assert step["cached"]
        assert Path(step["path"]).is_dir()


def test_only_some_steps_are_made_with_what_they_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(small_recipe(tmp_path))
    told = _json(capsys, "run", recipe, "--only", "data")
    assert set(told["steps"]) == {"data"}
    assert [path.name for path in tmp_path.glob(".luthier/reports/*")] == ["tickets.part.html"]
    assert _json(capsys, "plan", recipe)["steps"]["tune"]["predicted"]["how"].startswith("60 rows, tokens counted")
    told = _json(capsys, "run", recipe, "--only", "model", "--only", "tune")
    assert {name: step["cached"] for name, step in told["steps"].items()} == {
        "data": True,
        "model": True,  # the shared store has it from the recipe above
        "tune": False,
    }
    capsys.readouterr()
    assert run_command(["run", recipe, "--only", "tuned"]) == 2
    assert "there is no step 'tuned'" in capsys.readouterr().err
    assert run_command(["run", recipe, "--only", "model"]) == 0
    assert "report:" not in capsys.readouterr().out


def test_a_report_keeps_what_is_made_of_steps_that_were_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(small_recipe(tmp_path))
    assert run_command(["run", recipe]) == 0
    report = tmp_path / ".luthier" / "reports" / "tickets.html"
    whole = report.read_text(encoding="utf-8").partition("<body")[2]
    capsys.readouterr()
    assert run_command(["run", recipe, "--only", "data"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {report}"
    assert "accuracy" in whole
    assert report.read_text(encoding="utf-8").count("accuracy") >= whole.count("accuracy")
    page = report.read_bytes()
    assert run_command(["run", recipe, "steps.tune.epochs=2", "--only", "data"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    part = report.with_name("tickets.part.html")
    assert told == f"report: {part}, without tune, report, gate: not made as the recipe stands"
    assert report.read_bytes() == page
    assert b"<body" in part.read_bytes()


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--only", "data", "report"], "before every step: luthier run recipe.yaml --only report"),
        (["recipe.yaml", "--only", "data", "report"], "before every step: --only report"),
        (["--only", "data,report"], "every step is named by itself: --only data --only report"),
        (["--only", "data report"], "every step is named by itself: --only data --only report"),
    ],
)
def test_several_steps_behind_one_only_are_told_how_to_stand(
    words: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["run", *words]) == 2
    assert remedy in " ".join(capsys.readouterr().err.split())


def test_show_tells_steps_and_artifacts(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(step["made"] for step in _json(capsys, "show")["steps"].values())
    assert _json(capsys, "show", ":data")["summary"]["rows"] == {"test": 30, "train": 60}
    assert run_command(["show", ":tune"]) == 0
    said = capsys.readouterr().out
    assert "technique  {kind: lora, init_lora_weights: default, lora_alpha: 32.0, lora_dropout: 0.0," in said
    assert "use_dora: false, use_rslora: false}" in said, "as YAML has it"
    digest = _json(capsys, "show", "recipe.yaml:tune")["artifact"]
    assert _json(capsys, "show", digest[:8])["artifact"] == digest
    assert run_command(["show", ":tune", "--path"]) == 0
    assert capsys.readouterr().out.strip().endswith(digest)


def test_trace_tells_origin_learning_and_answers(capsys: pytest.CaptureFixture[str]) -> None:
    data = artifact_of(":data").artifact
    learnt, held_out = read_examples(data, "train")[0], read_examples(data, "test")[0]
    story = _json(capsys, "lineage", learnt.id)
    assert story["origin"] == {"source": "csv", "file": "tickets.csv", "line": learnt.origin.line}
    assert story["split"] == "train"
    assert [one["step"] for one in story["trained_models"]] == ["tune"]
    assert len(story["trained_models"][0]["runs"]) >= 1
    assert story["answers"] == []
    story = _json(capsys, "lineage", held_out.id[:8])
    assert story["trained_models"] == [] or story["trained_models"][0]["times"] == 0
    assert {one["model"] for one in story["answers"]} == {"tuned", "base", "tfidf", "majority"}


def test_chat_answers_and_each_class_question_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    told = _json(capsys, "chat", ":tune", "-p", "Where is the parcel", "--max-tokens", "4")
    assert told["model"] == "tickets:tune"
    assert told["prompt"] == "Where is the parcel"
    from luthier.commands.chat import open_chat

    session = open_chat(target(":tune"), system=None, max_tokens=4, temperature=0.0)
    first = session.ask("Where is the parcel")
    assert session.ask("Where is the parcel") == first


def test_export_writes_data_and_models(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _json(capsys, "export", ":data", "--to", "out-data")["files"] == ["README.md", "test.jsonl", "train.jsonl"]
    row = json.loads((made / "out-data" / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(row) == {"id", "origin", "kind", "messages", "label", "meta"}
    assert set(row["meta"]) == {"customer"}
    files = _json(capsys, "export", ":tune", "--to", "out-adapter", "--format", "adapter")["files"]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files)
    assert "model.safetensors" in _json(capsys, "export", ":tune", "--to", "out-merged", "--format", "merged")["files"]


def test_a_model_goes_out_as_gguf_with_what_the_check_found(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = _json(capsys, "export", ":tune", "--to", "out-gguf", "--format", "gguf", "--quant", "q8_0")
    assert "tiny-model+lora-q8_0.gguf" in told["files"]
    assert "nats a token" in told["notes"][0]
    assert run_command(["export", ":tune", "--to", "out-hf", "--format", "merged", "--quant", "q8_0"]) == 2


def test_every_fact_of_the_card_is_true_to_the_artifact(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _json(capsys, "export", ":tune", "--to", "out-card", "--format", "merged")
    card = (made / "out-card" / "README.md").read_text(encoding="utf-8")
    tune, data, report = (artifact_of(f":{name}").artifact for name in ("tune", "data", "report"))
    told, learnt = tune.read_json("training.json"), polars.read_parquet(tune.path("training_examples.parquet"))
    for digest in (tune.digest, data.digest, tune.manifest.inputs["model"]):
        assert f"`{digest}`" in card
    assert "data from tickets.csv (90 rows); kept 60 train, 30 test; licence not stated by its source" in card
    assert "technique lora; objective sft; 60 rows; 60 rows seen; 8 steps" in card
    assert f"{told['learnt_tokens']} learnt tokens" in card
    assert learnt["learnt"].sum() == told["learnt_tokens"]
    assert f"{(learnt['tokens'] * learnt['seen']).sum()} tokens seen" in card
    assert f"{told['trainable_parameters']} trained parameters" in card
    assert "learning rate 0.01 (as given)" in card
    measure = report.read_json("metrics.json")["models"]["tuned"]["accuracy"]
    assert f"| accuracy | {measure['value']:.4g} | {measure['low']:.4g} to {measure['high']:.4g} |" in card
    about = report.read_json("summary.json")
    base = report.read_json("metrics.json")["models"]["base"]["accuracy"]["value"]
    heads, _, row = (line.split(" | ") for line in card.split("| metric")[1].splitlines()[:3])
    assert row[heads.index("the base model")].removesuffix(" |") == f"{base:.4g}"
    assert f"Measured on {about['rows']} rows of `test` (`{about['rows_digest'][:12]}`)." in card
    assert about["verdict_sentence"] in card
    _json(capsys, "export", ":model", "--to", "out-base", "--format", "hf")
    assert "## Measures" not in (made / "out-base" / "README.md").read_text(encoding="utf-8")  # it is about another one
    settings = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert settings[f"tune {tune.digest[:12]}"] == tune.manifest.settings
    assert settings[f"prepare {data.digest[:12]}"] == data.manifest.settings
    assert f"data set `{data.digest[:12]}`: not stated by its source" in card
    assert str(made) not in card
    checked = json.loads((made / "out-card" / "luthier.json").read_text())["checked"]
    assert f"checked on one fixed prompt: {checked['same_tokens']} of {checked['tokens']} greedy tokens" in card


def test_compare_pairs_two_runs_and_two_data_sets(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (made / "recipe.yaml").read_text(encoding="utf-8")
    (made / "other").mkdir(exist_ok=True)
    other = text.replace("r: 4", "r: 2").replace("tiny-model", "../tiny-model").replace("tickets.csv", "../tickets.csv")
    (made / "other" / "recipe.yaml").write_text(other, encoding="utf-8")
    _json(capsys, "run", "other/recipe.yaml")
    found = _json(capsys, "compare", "recipe.yaml", "other/recipe.yaml")
    assert found["rows"] == 30
    assert {row["metric"] for row in found["comparisons"]} == {"accuracy", "macro_f1"}
    counts = _json(capsys, "compare", "recipe.yaml:data", "other/recipe.yaml:data")["counts"]
    assert counts["added"] == counts["lost"] == 0
    for word in ("recipe.yaml", "recipe.yaml:data"):
        capsys.readouterr()
        assert run_command(["compare", word, word]) == 0
        assert capsys.readouterr().out.startswith("both are the same artifact: nothing can differ")


def test_two_data_sets_that_share_rows_are_not_called_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = str(small_recipe(tmp_path))
    first = _json(capsys, "run", recipe, "--only", "data")["steps"]["data"]["artifact"]
    write_csv(tmp_path / "tickets.csv", tickets(95))
    second = _json(capsys, "run", recipe, "--only", "data")["steps"]["data"]["artifact"]
    assert _json(capsys, "compare", first, second)["same"] > 0
    assert run_command(["compare", first, second]) == 0
    assert capsys.readouterr().out.startswith("same  ")


def test_what_is_made_can_be_looked_at_where_a_later_step_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = str(small_recipe(tmp_path, RECIPE.replace("test: 30", "test: 0")))
    for _ in range(2):  # the second time, the data set stands before anything is planned
        assert run_command(["run", recipe, "--only", "data"]) == 0
    assert run_command(["show", f"{recipe}:data"]) == 0
    assert run_command(["lineage", "tickets.csv:2", "--recipe", recipe]) == 0
    assert run_command(["export", f"{recipe}:data", "--to", str(tmp_path / "out"), "--format", "jsonl"]) == 0
    assert run_command(["report", recipe]) == 0
    capsys.readouterr()
    assert run_command(["plan", recipe]) == 2
    assert "has no row in test" in capsys.readouterr().err


def test_what_cannot_be_written_is_told_how_to_go_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "x")

    monkeypatch.setattr(os, "fsync", full)
    for words, wanted in (
        (("export", ":data", "--to", "nowhere"), "name another folder (`--to`)"),
        (("report", "--to", "nowhere.html"), "name another file: `luthier report recipe.yaml --to FILE`"),
    ):
        capsys.readouterr()
        assert run_command([*words]) == 2
        said = capsys.readouterr().err
        assert "the disk is full" in said
        assert said.rstrip().endswith(wanted)


def test_report_is_written_in_three_forms(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, begins in (("r.html", "<!doctype html>"), ("r.md", "#"), ("r.json", "{")):
        assert run_command(["report", "--to", name]) == 0
        assert (made / name).read_text(encoding="utf-8").startswith(begins)
    assert _json(capsys, "report")["title"] == "tickets"


def test_another_recipes_evaluation_stands_beside(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = _json(capsys, "report", "--compare", "recipe.yaml:report")
    assert [run["name"] for run in told["runs"]] == ["report", "tickets:report"]
    assert all(one["difference"] == 0 for one in told["runs"][1]["compared"])
    assert run_command(["report", "--compare", "recipe.yaml:data"]) == 2
    assert "expected an evaluation to compare with, got a dataset" in capsys.readouterr().err


def test_gates_are_shown_to_ci_at_the_rules_own_lines(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", "--to", "verdict.xml"]) == 0
    assert '<testcase classname="tickets.gate" name="accuracy &gt;= 0.0">' in (made / "verdict.xml").read_text()
    capsys.readouterr()
    assert run_command(["report", "--format", "github"]) == 0
    line = next(n for n, text in enumerate((made / "recipe.yaml").read_text().splitlines(), 1) if "rules:" in text)
    assert capsys.readouterr().out.startswith(
        f"::notice file=recipe.yaml,line={line},title=gate PASS%3A accuracy >= 0.0::"
    )
    assert run_command(["report", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("# tickets")


def test_ci_forms_without_a_gate_say_what_is_missing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = yaml.safe_load((made / "recipe.yaml").read_text())
    del recipe["steps"]["gate"]
    (made / "nogate.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert run_command(["report", "nogate.yaml", "--format", "junit"]) == 2
    assert "add a step `{kind: gate" in capsys.readouterr().err


def test_parts_doctor_schema_and_store(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"operator", "source", "technique", "objective", "metric", "step"} <= set(_json(capsys, "components"))
    assert "pii" in _json(capsys, "components", "operator")
    names = [setting["name"] for setting in _json(capsys, "components", "technique", "lora")["settings"]]
    assert "r" in names
    assert any(finding["what"] == "python" for finding in _json(capsys, "doctor")["findings"])
    assert len(_json(capsys, "store", "list")["artifacts"]) >= 5
    assert _json(capsys, "store", "verify")["faults"] == []
    before = Recipe.load(made).plan()
    _json(capsys, "store", "gc")
    assert [step.cached for step in Recipe.load(made).plan()] == [step.cached for step in before]


def test_parts_show_what_they_would_do_to_somebodys_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"write  to jo{n}@example.com &amp; wait,{'ab'[n % 2]}\n" for n in range(9))
    (tmp_path / "t.csv").write_text("text,label\n" + rows, encoding="utf-8")
    found = _json(capsys, "components", "operator", "--from", str(tmp_path / "t.csv"))
    assert found["normalize"]["examples"][0]["after"].startswith("write to")
    assert found["pii"]["settings"] == {"action": "redact"}
    assert "example.com" not in json.dumps(found)
    one = _json(capsys, "components", "operator", "pii", "--from", str(tmp_path / "t.csv"))
    assert one == {"pii": found["pii"]}
    assert run_command(["components", "operator", "--from", str(tmp_path / "t.csv")]) == 0
    assert "personal data" in capsys.readouterr().out
    assert run_command(["components", "metric", "--from", str(tmp_path / "t.csv")]) == 2


def test_models_are_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    names = {row["name"] for row in _json(capsys, "models", "list")["models"]}
    assert "smollm2-135m-instruct" in names
    told = _json(capsys, "models", "describe", "tiny-model")
    assert told["architecture"] == "LlamaForCausalLM"
    assert told["tied"] is True
    tuned = _json(capsys, "models", "describe", "recipe.yaml:tune")
    assert tuned["name"] == "tickets:tune"
    assert (tuned["technique"], tuned["parameters"]) == ("lora", told["parameters"])
    assert _json(capsys, "models", "describe", ":model")["parameters"] == told["parameters"]
    assert run_command(["models", "describe", ":data"]) == 2
    assert "tickets:data is a dataset, not a model" in capsys.readouterr().err


def test_gc_removes_nothing_when_it_cannot_know_what_is_needed(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUTHIER_STORE", str(made / ".luthier"))
    before = _json(capsys, "store", "list")
    assert run_command(["store", "gc"]) == 2
    assert "nothing was removed" in capsys.readouterr().err
    assert _json(capsys, "store", "list") == before


def test_new_takes_data_or_a_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["new", "one", "--template", "replies"]) == 0
    assert "rougeL" in (tmp_path / "one" / "recipe.yaml").read_text(encoding="utf-8")
    assert run_command(["new", "two", "--template", "replies", "--from", "tickets.csv"]) == 2
    assert not (tmp_path / "two").exists()


def test_new_takes_the_columns_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"Order {n},Where is parcel {n}?,It comes in {n} days.,{'ab'[n % 2]}\n" for n in range(40))
    (tmp_path / "t.csv").write_text(f"head,said,told,team\n{rows}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    named = ["--prompt", r"{head}\n\n{said}", "--answer", "told"]
    assert run_command(["new", "mine", "--from", "t.csv", *named]) == 0
    source = yaml.safe_load((tmp_path / "mine" / "recipe.yaml").read_text(encoding="utf-8"))["steps"]["data"]["source"]
    assert (source["prompt"], source["answer"]) == ("{head}\n\n{said}", "told")
    assert run_command(["new", "wrong", "--from", "t.csv", "--answer", "tolt"]) == 2
    assert run_command(["new", "wrong", "--template", "labels", "--answer", "told"]) == 2
    assert not (tmp_path / "wrong").exists()


def test_a_base_model_is_named_from_where_new_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model(tmp_path / "base")
    (tmp_path / "far").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_command(["new", "far/one", "--template", "replies", "--model", "base"]) == 0
    assert yaml.safe_load((tmp_path / "far" / "one" / "recipe.yaml").read_text())["model"] == "../../base"


def test_what_was_made_before_the_recipe_changed_is_named(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = (made / "recipe.yaml").read_text(encoding="utf-8").replace("r: 4", "r: 2")
    (made / "changed.yaml").write_text(changed, encoding="utf-8")
    assert run_command(["export", "changed.yaml:tune", "--to", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the step 'tune' was made before the recipe, its data or Luthier changed; runs: " in said
    assert "`luthier run changed.yaml --only tune` makes it" in said
    run = re.findall(r"`luthier export ([0-9a-f]{12}):tune --to ", said)[0]
    before = Recipe.load(made / "recipe.yaml").plan()["tune"].digest
    assert artifact_of(f"{run}:tune").artifact.digest == before
    (made / "changed.yaml").unlink()
