"""Every command takes the overrides that were given to `run`, or the id of a run, and means the same by them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import polars
import pytest

from commanded import command
from luthier.cli.app import run_command
from luthier.core.errors import UnknownName
from luthier.data.steps.prepare import Prepare
from luthier.recipe.locate import load_run_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from tests.targets import artifact_of
from tiny_models import own_cache, small_recipe

RECIPE = """\
luthier: 1
name: chain
seed: 3
model: tiny-model
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    split: {test: 20}
  sft:
    kind: tune
    data: data
    technique: {kind: lora, r: 4}
    batch_size: 8
    learning_rate: 1.0e-2
    dtype: float32
  more:
    kind: tune
    data: data
    model: sft
    technique: {kind: lora, r: 2}
    max_train_samples: 8
    batch_size: 8
    learning_rate: 1.0e-2
    dtype: float32
  report:
    kind: evaluate
    data: data
    model: sft
    metrics: [accuracy]
"""
OVERRIDE = "steps.sft.max_train_samples=16"


class Made(NamedTuple):
    """A folder in which a recipe was run with an override, then as it stands; with what `report` said in between."""

    folder: Path
    page: str
    """The report of the run with the override, after `luthier report` without it."""
    said: str
    with_override: str
    as_it_stands: str


def latest_run(folder: Path) -> str:
    with Workspace.open(folder).open_ledger() as ledger:
        return ledger.runs(limit=1)[0].id


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("overrides")
    small_recipe(folder, RECIPE)
    page = folder / ".luthier" / "reports" / "chain.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        assert run_command(["run", OVERRIDE]) == 0
        first, whole = latest_run(folder), page.read_text(encoding="utf-8")
        with pytest.MonkeyPatch.context() as heard:
            said: list[str] = []
            heard.setattr("sys.stderr.write", said.append)
            assert run_command(["report"]) == 0
        assert page.read_text(encoding="utf-8") == whole
        assert run_command(["run"]) == 0
    return Made(folder, whole, "".join(said), first, latest_run(folder))


@pytest.fixture(autouse=True)
def _here(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(made.folder))
    monkeypatch.chdir(made.folder)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run_command([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_report_that_lacks_steps_leaves_the_finished_one_and_names_its_run(made: Made) -> None:
    assert (made.folder / ".luthier" / "reports" / "chain.part.html").is_file()
    said = " ".join(made.said.split())
    assert "without sft, more, report: the step 'report' is not made with these settings" in said
    assert f"{made.with_override} (" in said
    assert f"`luthier report recipe.yaml {OVERRIDE}` takes the latest" in said
    assert "`luthier run recipe.yaml` makes it" in said


def test_a_report_says_how_many_rows_were_trained_on(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert "16 rows trained on" in made.page
    assert "16 of 70 (54 not drawn: `max_train_samples` asks for fewer)" in made.page
    tuning = printed(capsys, "report", OVERRIDE)["tunings"][0]
    assert (tuning["trained_rows"], tuning["training_rows"]) == (16, 70)
    assert printed(capsys, "report")["tunings"][0]["trained_rows"] == 70


def test_a_report_of_a_run_is_a_page_of_its_own(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    before = (made.folder / ".luthier" / "reports" / "chain.html").read_bytes()
    capsys.readouterr()
    assert run_command(["report", made.with_override]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page.name == f"chain-{made.with_override}.html"
    assert "16 rows trained on" in page.read_text(encoding="utf-8")
    assert f"luthier run recipe.yaml {OVERRIDE}" in page.read_text(encoding="utf-8")
    assert (made.folder / ".luthier" / "reports" / "chain.html").read_bytes() == before


def test_every_command_means_the_same_by_overrides_and_by_a_run(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = printed(capsys, "show", ":sft", OVERRIDE)["artifact"]
    assert printed(capsys, "show", f"{made.with_override}:sft")["artifact"] == digest
    assert printed(capsys, "show", "recipe.yaml:sft")["artifact"] != digest
    assert printed(capsys, "show", OVERRIDE)["steps"]["sft"]["artifact"] == digest
    said = printed(capsys, "chat", ":sft", OVERRIDE, "-p", "Where is the parcel", "--max-tokens", "2")
    assert said["model"] == f"chain:sft {OVERRIDE}"
    again = printed(capsys, "chat", f"{made.with_override}:sft", "-p", "Where is the parcel", "--max-tokens", "2")
    assert again == {**said, "model": f"{made.with_override}:sft"}
    seen = polars.read_parquet(artifact_of(":sft", OVERRIDE).artifact.path("training_examples.parquet"))
    row = seen.filter(polars.col("seen") > 0)["id"][0]
    for words in ((OVERRIDE,), ("--recipe", made.with_override)):
        learnt = {one["step"]: one["artifact"] for one in printed(capsys, "lineage", row, *words)["trained_models"]}
        assert learnt["sft"] == digest
    out = str(tmp_path / "out")
    assert run_command(["export", "recipe.yaml:sft", OVERRIDE, "--to", out]) == 0
    assert json.loads((tmp_path / "out" / "luthier.json").read_text())["artifact"] == digest
    assert run_command(["release", "chain@prod", ":sft", OVERRIDE]) == 0
    assert f":sft {OVERRIDE} ({digest[:12]})" in capsys.readouterr().out


def test_a_recipe_is_compared_with_itself_under_overrides(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys, "compare", "recipe.yaml", "recipe.yaml", OVERRIDE)
    assert told["rows"] == 20
    assert printed(capsys, "compare", made.as_it_stands, made.with_override) == told
    assert "identical" in printed(capsys, "compare", made.as_it_stands, "recipe.yaml")
    assert run_command(["compare", "recipe.yaml", OVERRIDE]) == 2
    assert "expected two things to compare, got one" in capsys.readouterr().err


def test_a_recipe_is_served_beside_itself_under_overrides(made: Made) -> None:
    words = (":sft", ":sft", OVERRIDE, f"{made.with_override}:more")
    with command(made.folder, *words) as running:
        named = {"chain:sft", f"chain:sft {OVERRIDE}", f"{made.with_override}:more"}
        assert named <= set(running.told["models"]), "beside those that another test released"


def test_what_is_not_made_is_told_with_the_runs_that_made_it(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run_command(
            ["export", "recipe.yaml:sft", "steps.sft.max_train_samples=24", "--to", "out", "--format", "merged"]
        )
        == 2
    )
    said = " ".join(capsys.readouterr().err.split())
    assert "the step 'sft' is not made with these settings; runs that made it with others:" in said
    assert f"{made.as_it_stands} (" in said
    assert f"UTC, without overrides), {made.with_override} (" in said
    assert f"UTC, {OVERRIDE})" in said
    assert "`luthier export recipe.yaml:sft --to out --format merged` takes the latest" in said
    assert "`luthier run recipe.yaml steps.sft.max_train_samples=24 --only sft` makes it" in said


def test_a_step_is_not_told_with_what_another_of_its_kind_made(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("recipe.yaml", "kept.yaml")
    try:
        changed = RECIPE.replace("r: 4", "r: 6")
        Path("recipe.yaml").write_text(changed, encoding="utf-8")
        assert run_command(["chat", "recipe.yaml:sft", "-p", "hello"]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "the step 'sft' was made before the recipe, its data or Luthier changed; runs: " in said
        assert f"`luthier chat {made.as_it_stands}:sft` takes the latest" in said, "the recipe is another by now"
        more = artifact_of(f"{made.as_it_stands}:more").artifact.digest
        assert more[:12] not in said
        assert printed(capsys, "show", f"{made.as_it_stands}:sft")["settings"]["technique"]["r"] == 4
    finally:
        shutil.move("kept.yaml", "recipe.yaml")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "{run}", OVERRIDE], "a run has its overrides already"),
        (["show", "{run}:nothing"], "there is no step 'nothing'"),
        (["export", "{run}", "--to", "x"], "is a run"),
        (["chat", "tiny-model", OVERRIDE, "-p", "x"], "overrides change a recipe, and 'tiny-model' is none"),
        (["show", "{digest}", OVERRIDE], "overrides change a recipe"),
        (["show", ":sft", "steps.sft.rowz=3"], "rowz"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    made: Made, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = artifact_of(":sft").artifact.digest[:12]
    assert run_command([word.format(run=made.as_it_stands, digest=digest) for word in words]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_runs_are_listed_and_shown(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    listed = printed(capsys, "runs", "recipe.yaml")["runs"]
    told = {run["id"]: run["overrides"] for run in listed}
    assert told[made.as_it_stands] == []
    assert told[made.with_override] == [OVERRIDE]
    assert run_command(["runs"]) == 0
    assert OVERRIDE in capsys.readouterr().out
    assert run_command(["show", made.with_override[:8]]) == 0
    said = capsys.readouterr().out
    assert f"run {made.with_override} of chain: recipe.yaml" in said
    assert f"overrides  {OVERRIDE}" in said
    assert "ended      done, exit 0" in said
    assert str(Path("runs") / f"{made.with_override}.jsonl") in said


def test_a_run_stays_readable_without_its_data(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shutil.copytree(made.folder, tmp_path / "copy", symlinks=True)
    (whole / "tickets.csv").unlink()
    monkeypatch.chdir(whole)
    with Workspace.open(whole).open_ledger() as ledger:
        run = ledger.run(made.with_override).model_copy(update={"folder": str(whole)})
    what = load_run_plan(Workspace.open_current(), run)
    assert what.artifact("sft").digest == artifact_of(f"{made.with_override}:sft").artifact.digest
    assert what.unmade == []
    old = run.model_copy(update={"recipe_text": None})
    with pytest.raises(UnknownName, match="did not keep the recipe"):
        load_run_plan(Workspace.open_current(), old)


def log_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / ".luthier" / "runs" / f"{latest_run(folder)}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    recipe = small_recipe(tmp_path, RECIPE)
    monkeypatch.chdir(tmp_path)
    return recipe.parent


def test_the_log_of_a_failed_run_holds_the_error(broken: Path) -> None:
    (broken / "tickets.csv").write_text("message,category\n", encoding="utf-8")
    assert run_command(["run"]) == 2
    last = log_of(broken)[-1]
    assert last["kind"] == "failed"
    assert "tickets.csv" in last["text"]
    assert "details" not in last
    with Workspace.open(broken).open_ledger() as ledger:
        error = ledger.runs(limit=1)[0].error
    assert error is not None
    assert error["error"]["message"] in last["text"]


def test_the_log_of_a_run_that_the_plan_refuses_holds_the_error(broken: Path) -> None:
    (broken / "tickets.csv").unlink()
    assert run_command(["run"]) == 2
    assert [event["kind"] for event in log_of(broken)] == ["failed"]


@pytest.mark.parametrize(
    ("raised", "code", "state", "text", "traced"),
    [
        (RuntimeError("the cable fell out"), 4, "failed", "RuntimeError: the cable fell out", True),
        (KeyboardInterrupt(), 130, "interrupted", "stopped while making 'data'", False),
    ],
)
def test_the_log_holds_faults_with_their_traceback_and_interruptions(
    broken: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, state: str, text: str, traced: bool
) -> None:
    def make(self: Prepare, work: Any) -> Any:
        raise raised

    monkeypatch.setattr(Prepare, "make", make)
    assert run_command(["run"]) == code
    last = log_of(broken)[-1]
    assert text in last["text"]
    assert ("Traceback (most recent call last)" in last.get("details", "")) is traced
    with Workspace.open(broken).open_ledger() as ledger:
        run = ledger.runs(limit=1)[0]
    assert (run.state, run.exit_code) == (state, code)
    assert run.recipe_text == Recipe.load(broken).written
