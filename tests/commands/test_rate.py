"""From an evaluation to people and back: assigned, judged on the terminal and by files, taken together, gated."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from luthier.artifacts.dataset import read_examples
from luthier.cli.app import run_command
from luthier.commands.rate import open_rating_session
from tests.targets import artifact_of, target
from tests.tiny_models import RECIPE, own_cache, small_recipe

STEPS = """
  ask:
    kind: human_eval
    evaluation: report
    rows: 12
    annotators: [anna, ben]
    overlap: 2
  people:
    kind: human_ratings
    assignment: ask
  pairs:
    kind: preferences
    human_ratings: people
  release:
    kind: gate
    human_ratings: people
    rules: ["people.points >= 0.2", "people.agreement > -2"]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything up to the people was run."""
    folder = tmp_path_factory.mktemp("judge")
    small_recipe(folder, RECIPE + STEPS.lstrip("\n"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        assert run_command(["run"]) == 2
    return folder


@pytest.fixture(autouse=True)
def asked(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the working folder."""
    folder = tmp_path / "judge"
    shutil.copytree(made, folder)
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(folder))
    monkeypatch.chdir(folder)
    return folder


def _type(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run_command([*arguments, "--json"]) in (0, 1, 3)
    return json.loads(capsys.readouterr().out)


def _total() -> int:
    with open_rating_session(target(":ask")) as sitting:
        return len(sitting.assignment.sheets["anna"])


def _everybody_says(folder: Path, typed: str) -> None:
    with open_rating_session(target(":ask")) as sitting:
        for judge in sitting.assignment.sheets:
            for item in sitting.left(judge):
                sitting.say(judge, item, typed, None)
        sitting.save(folder / "judgments.jsonl")


def test_before_anybody_judged_the_run_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run"]) == 2
    told = capsys.readouterr().err
    assert "nobody has judged yet" in told
    assert "luthier rate RECIPE:STEP --as NAME" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([":ask"], "who are you?"),
        ([":ask", "--as", "bob"], "no judge here"),
        ([":report", "--as", "anna"], "a step of kind `human_eval`"),
    ],
)
def test_who_and_what_must_be_known(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert run_command(["rate", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_sitting_is_blind_forgives_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: Path
) -> None:
    total = _total()
    _type(monkeypatch, "a", "what?", "b // shorter, and true", "q")
    assert run_command(["rate", ":ask", "--as", "anna"]) == 0
    out = capsys.readouterr().out
    assert f"1 of {total}" in out
    assert f"3 of {total}" in out
    assert "! expected A, B or tie, got 'what?'" in out
    assert f"anna             2 of {total} judged" in out
    assert "tuned" not in out.split(" judged")[0]

    _type(monkeypatch, "a", "u", *["a"] * (total - 2))
    assert run_command(["rate", ":ask", "--as", "anna"]) == 0
    assert f"anna             {total} of {total} judged" in capsys.readouterr().out
    kept = [json.loads(line) for line in (asked / "judgments.jsonl").read_text().splitlines()]
    assert len(kept) == total
    assert [one.get("comment") for one in kept][:2] == [None, "shorter, and true"]


def test_sheets_go_out_and_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    total, sheet = _total(), Path("ben.jsonl")
    assert _json(capsys, "rate", ":ask", "--as", "ben", "--sheet", str(sheet))["items"] == total
    lines = [{**json.loads(line), "value": "B"} for line in sheet.read_text().splitlines()]
    sheet.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = _json(capsys, "rate", ":ask", "--from", str(sheet))
    assert told["annotators"] == {"anna": {"judged": 0, "of": total}, "ben": {"judged": total, "of": total}}
    assert told["file"].endswith("judgments.jsonl")
    with open_rating_session(target(":ask")) as sitting:
        assert sitting.take(sheet) == 0
    assert "stop" in _json(capsys, "rate", ":ask", "--status")
    assert _json(capsys, "rate", ":ask", "--as", "ben", "--sheet", "rest.csv")["items"] == 0


def test_what_people_said_is_shown_gated_and_reported(capsys: pytest.CaptureFixture[str], asked: Path) -> None:
    total = _total()
    _everybody_says(asked, "a // shorter")
    result = _json(capsys, "run")
    assert result["exit"] in (0, 1, 3)
    assert _json(capsys, "show", ":people")["summary"]["judgments"] == 2 * total
    ask = _json(capsys, "show", ":ask")["summary"]
    assert (ask["question"], ask["models"], ask["anna"]) == ("pair", "tuned, base", f"{total} items")
    verdict = json.loads((Path(result["steps"]["release"]["path"]) / "gate.json").read_text())
    assert [rule["rule"] for rule in verdict["rules"]] == ["people.points >= 0.2", "people.agreement > -2"]
    folder = Path(result["steps"]["people"]["path"])
    kept = [json.loads(line) for line in (folder / "judgments.jsonl").read_text().splitlines()]
    assert {tuple(sorted(one["models"])) for one in kept} == {("base", "tuned")}
    for name, words in (("r.html", "What people say"), ("r.md", "## What people say: people")):
        assert run_command(["report", "--to", name]) == 0
        assert words in (asked / name).read_text()
    assert "shorter" in (asked / "r.html").read_text()
    rows = read_examples(artifact_of(":pairs").artifact, "train")
    assert {row.kind for row in rows} == {"preference"}

    assert _json(capsys, "export", ":people", "--to", "out")["files"] == ["judgments.jsonl", "preferences.jsonl"]
    pairs = [json.loads(line) for line in Path("out/preferences.jsonl").read_text().splitlines()]
    assert pairs
    assert all(one["chosen"] != one["rejected"] and one["prompt"][-1]["role"] == "user" for one in pairs)
    assert run_command(["new", "next", "--from", "out/preferences.jsonl"]) == 0
    assert "preference" in capsys.readouterr().out


def test_a_changed_judgment_is_taken_up_and_nothing_else_is_made_again(
    capsys: pytest.CaptureFixture[str], asked: Path
) -> None:
    _everybody_says(asked, "b")
    _json(capsys, "run")
    assert all(step["cached"] for step in _json(capsys, "run")["steps"].values())
    text = (asked / "judgments.jsonl").read_text()
    (asked / "judgments.jsonl").write_text(text.replace('"value":"B"', '"value":"tie"', 1))
    made = {name for name, step in _json(capsys, "run")["steps"].items() if not step["cached"]}
    assert {"people"} <= made <= {"people", "pairs", "release"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("annotators: []", "nobody judges"),
        ("annotators: 0", "nobody judges"),
        ("annotators: [anna, anna]", "named twice"),
        ("annotators: 1", "2 people judge each item"),
        ("annotators: [anna, 'b e n']", "annotators"),
        ("models: [tuned]", "needs 2 different models"),
    ],
)
def test_an_assignment_that_cannot_be_is_refused(
    asked: Path, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    text = (asked / "recipe.yaml").read_text().replace("annotators: [anna, ben]", change)
    if change.startswith("models"):
        text = text.replace("    rows: 12\n", "    rows: 12\n    annotators: 2\n")
    (asked / "wrong.yaml").write_text(text)
    assert run_command(["plan", "wrong.yaml"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("people.diference > 0", "did you mean 'people.difference'"),
        ("people.points > base", "compared with numbers only"),
        ("people.attention_checks > 0.5", "do not say 'people.attention_checks'"),
    ],
)
def test_rules_about_people_that_make_no_sense(
    asked: Path, capsys: pytest.CaptureFixture[str], rule: str, said: str
) -> None:
    text = (asked / "recipe.yaml").read_text().replace("people.points >= 0.2", rule)
    _everybody_says(asked, "a")
    (asked / "wrong.yaml").write_text(text)
    assert run_command(["run", "wrong.yaml"]) == 2
    assert said in capsys.readouterr().err


def test_a_rule_about_people_needs_people(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (asked / "recipe.yaml").read_text().replace("    human_ratings: people\n", "    evaluation: report\n")
    (asked / "wrong.yaml").write_text(text)
    assert run_command(["plan", "wrong.yaml"]) == 2
    assert "nobody was asked" in capsys.readouterr().err
