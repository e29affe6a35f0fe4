"""The whole circle on a tiny model: released, gone wrong, alerted, corrected, tuned again, gated, and round again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text

from luthier.cli.app import run_command
from luthier.commands import retrain
from luthier.commands.release import find_released_recipe, list_aliases, roll_back
from luthier.core.files import dump_json_with_checksum, load_json_with_checksum, write_atomically
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.workspace import Workspace
from luthier.traces.feedback import append_redacted_records
from luthier.traces.record import Feedback, Trace
from tiny_models import RECIPE, own_cache, small_recipe
from watching import LABELS, desk_traffic

MONITOR = """\
  monitor:
    kind: monitor
    evaluation: report
    signals: [{kind: metric, metric: accuracy}]
    alerts: [{expr: "accuracy < 0.9 on 50 labels", name: wrong}]
"""
GATED = RECIPE.replace("accuracy >= 0.0", "accuracy >= base - 0.9")
WATCH = ["retrain", "recipe.yaml", "--once"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that was released three hours ago and is watched, made once."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        enter(folder, patch)
        small_recipe(folder, GATED + MONITOR)
        assert run_command(["run", "recipe.yaml"]) == 0
        assert run_command(["release", "desk@prod", "recipe.yaml:tune"]) == 0
        assert run_command(WATCH) == 0
    hours_pass(folder, 3)
    return folder


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a cache of its own."""
    patch.setenv("LUTHIER_CACHE", own_cache(folder))
    patch.delenv("LUTHIER_TRAFFIC", raising=False)
    patch.chdir(folder)


@pytest.fixture
def desk(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    with Workspace.open(tmp_path).open_ledger() as ledger, ledger.writing() as session:
        session.execute(text("update runs set folder = :folder"), {"folder": str(tmp_path)})
    enter(tmp_path, monkeypatch)
    return tmp_path


def hours_pass(folder: Path, hours: int) -> None:
    """Whatever was released or looked at was so some hours earlier."""
    with Workspace.open(folder).open_ledger() as ledger, ledger.writing() as session:
        for row in session.execute(text("select id, at from releases")).all():
            earlier = datetime.fromisoformat(str(row.at)) - timedelta(hours=hours)
            session.execute(text("update releases set at = :at where id = :id"), {"at": str(earlier), "id": row.id})
    for state in (folder / ".luthier" / "monitor").glob("*/state.json"):
        kept: dict[str, Any] = load_json_with_checksum(state.read_bytes(), state)
        write_atomically(state, dump_json_with_checksum({**kept, "looked": kept["looked"] - 3600 * hours}))


def people_ask(folder: Path, count: int, wrong: range, *, name: str, ended: int, asked: str = "desk@prod") -> None:
    """Traffic that ended so many seconds ago, in a part of which every second answer was wrong."""
    log = desk_traffic(count, wrong=[wrong], every_s=2, seed=len(name))
    shift = datetime.now(UTC) - timedelta(seconds=ended) - log[-1].timestamp
    append_redacted_records(folder / ".luthier" / "traffic", [_named(one, name, shift, asked) for one in log])


def _named(event: Trace | Feedback, name: str, shift: timedelta, model: str) -> Trace | Feedback:
    field = "id" if isinstance(event, Trace) else "trace"
    asked = {"model": model} if isinstance(event, Trace) else {}
    return event.model_copy(
        update={**asked, field: f"{name}-{getattr(event, field)}", "timestamp": event.timestamp + shift}
    )


def steps_of(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())["steps"]
    return found


def test_one_round_is_released_and_the_next_fails_its_gate(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = list_aliases(Workspace.open_current())[0].stable
    people_ask(desk, 200, range(100, 200), name="one", ended=7200)
    capsys.readouterr()
    assert run_command(WATCH) == 0
    printed = capsys.readouterr().out
    assert "warning: wrong (tickets)" in printed
    assert "wrong fired: tickets-2.yaml learns from" in printed
    assert "released: desk@prod is tickets-2:tune" in printed
    second = list_aliases(Workspace.open_current())[0].stable
    assert second.digest != first.digest
    assert second.word == "tickets-2.yaml:tune"
    steps = steps_of(desk / "tickets-2.yaml")
    assert [*steps] == ["data-1", "tune-1", "said-2", "data", "tune", "report", "gate", "monitor"]
    assert steps["report"]["compare_with"] == "tune-1"
    assert steps["gate"]["rules"] == ["accuracy >= against - 0.9"]
    assert build_recipe_plan(Recipe.load("tickets-2.yaml"))["tune-1"].digest == first.digest, (
        "it is held against what was released"
    )
    assert run_command(WATCH) == 0
    said = capsys.readouterr()
    assert "learns from" not in said.out, "one alert makes one round"
    assert "nothing to be done; firing now: none" in said.err

    # the second round begins where the first ended; its gate asks for what no model can do
    hours_pass(desk, 1)
    hard = (desk / "tickets-2.yaml").read_text().replace("accuracy >= against - 0.9", "accuracy > against + 1")
    (desk / "tickets-2.yaml").write_text(hard)
    assert run_command(["run", "tickets-2.yaml"]) == 1
    people_ask(desk, 120, range(60, 120), name="two", ended=60)
    capsys.readouterr()
    assert run_command(WATCH) == 0
    said = capsys.readouterr()
    assert "tickets-2.yaml:tune" in said.err, "the monitor of the model that is released now"
    assert "warning: wrong (tickets-2)" in said.out
    assert "wrong fired: tickets-3.yaml learns from" in said.out
    assert "not released: the gate says FAIL" in said.out
    assert list_aliases(Workspace.open_current())[0].stable == second
    steps = steps_of(desk / "tickets-3.yaml")
    assert [*steps] == [
        "data-1", "said-2", "data-2", "tune-2", "said-3", "data", "tune", "report", "gate", "monitor",
    ]  # fmt: skip
    assert steps["report"]["compare_with"] == "tune-2"
    assert build_recipe_plan(Recipe.load("tickets-3.yaml"))["tune-2"].digest == second.digest
    assert run_command(WATCH) == 0
    said = capsys.readouterr()
    assert "learns from" not in said.out, "nothing new was said"
    assert "wrong fires on after a round that failed; while the alert fires" in said.err


def test_a_round_that_was_cut_off_is_made_again_from_the_same_rows(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    people_ask(desk, 120, range(60, 120), name="one", ended=120)

    class KilledError(BaseException):
        """Stands for the end of the process."""

    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(retrain, "run_and_record", killed)
        with pytest.raises(KilledError):
            run_command(WATCH)
    rows = (desk / "tickets-2.jsonl").read_bytes()
    people_ask(desk, 20, range(0), name="meanwhile", ended=1)
    capsys.readouterr()
    assert run_command(WATCH) == 0
    assert "released: desk@prod is tickets-2:tune" in capsys.readouterr().out
    assert (desk / "tickets-2.jsonl").read_bytes() == rows
    assert not (desk / "tickets-3.yaml").exists()


def test_what_somebody_released_meanwhile_stays(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    people_ask(desk, 120, range(60, 120), name="one", ended=120)
    run = retrain.run_and_record

    def meddled(*given: Any) -> Any:
        found = run(*given)
        assert run_command(["release", "desk@prod", "tickets-2.yaml:tune-1", "--canary", "10%"]) == 0
        assert run_command(["release", "desk@prod", "tickets-2.yaml:tune"]) == 0
        return found

    monkeypatch.setattr(retrain, "run_and_record", meddled)
    assert run_command(WATCH) == 0
    assert "not released: desk@prod was changed meanwhile" in capsys.readouterr().out
    assert find_released_recipe("desk@prod", Path("recipe.yaml"), Workspace.open_current()).recipe.name == "tickets-2"
    roll_back(Workspace.open_current(), "desk@prod")
    assert find_released_recipe("desk@prod", Path("recipe.yaml"), Workspace.open_current()).recipe.name == "tickets", (
        "and back, by the other recipe"
    )


def test_tries_are_bounded(tmp_path: Path) -> None:
    from luthier.commands.monitor import AlertEvaluation
    from luthier.commands.retrain import TRIES, RetrainLoop, _due

    append_redacted_records(tmp_path, [opinion for opinion in desk_traffic(100) if isinstance(opinion, Feedback)])
    circle = RetrainLoop(workspace=Workspace(tmp_path), recipe=tmp_path, alias="desk@prod")
    on, off = AlertEvaluation([], {"wrong": 1000.0}), AlertEvaluation([], {})

    def due(look: AlertEvaluation, said: int, tries: int) -> int | None:
        found = _due(circle, look, {"failed": {"alert": "wrong", "said": said, "tries": tries}}, tmp_path, None)
        return found and found["tries"]

    assert due(on, 50, 1) == 2
    assert due(on, 80, 1) is None, "too little is new"
    assert due(on, 50, TRIES) is None
    assert due(off, 50, 1) is None
    assert _due(circle, on, {}, tmp_path, datetime.fromtimestamp(1001, UTC)) is None, "it was so before the release"
    assert _due(circle, off, {}, tmp_path, None) is None


def test_an_alert_that_another_program_heard_first_sets_the_circle_going(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people_ask(desk, 120, range(60, 120), name="one", ended=120)
    capsys.readouterr()
    assert run_command(["monitor", "run", "recipe.yaml", "--once"]) == 0
    said = capsys.readouterr()
    assert "warning: wrong (tickets)" in said.out
    assert "1 alert, once" in said.err
    assert "firing now: wrong" in said.err
    assert run_command(WATCH) == 0
    assert "wrong fired: tickets-2.yaml learns from" in capsys.readouterr().out


@pytest.fixture
def released(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Releases the model of a recipe, whose training has been made before."""
    for folder in (".luthier/artifacts", "cache"):
        shutil.copytree(made / folder, tmp_path / folder, symlinks=True)
    enter(tmp_path, monkeypatch)

    def made(text: str) -> None:
        small_recipe(tmp_path, text)
        assert run_command(["run", "recipe.yaml"]) == 0
        assert run_command(["release", "desk@prod", "recipe.yaml:tune"]) == 0

    return made


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        (RECIPE[: RECIPE.index("  gate:")], [], "has no gate"),
        (RECIPE, [], "expected one step of kind `monitor`"),
        (RECIPE + MONITOR, ["--on", "nothing"], "no alert is called 'nothing'"),
    ],
)
def test_a_circle_that_cannot_close_is_refused(
    text: str, more: list[str], said: str, released: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    released(text)
    assert run_command([*WATCH, *more]) == 2
    assert said in capsys.readouterr().err


def test_a_name_must_mean_a_model_of_a_recipe_here(
    released: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    released(RECIPE + MONITOR)
    assert run_command(["release", "other@prod", "recipe.yaml:tune"]) == 0
    assert run_command(WATCH) == 2
    assert "2 names mean a model of this recipe: desk@prod, other@prod" in capsys.readouterr().err
    changed = Path("recipe.yaml").read_text().replace("r: 4", "r: 2")
    Path("recipe.yaml").write_text(changed)
    assert run_command(["new", "next", "--from", "traces", "--base-recipe", "recipe.yaml"]) == 2
    said = capsys.readouterr().err
    assert "no name means what this recipe makes as it stands: desk@prod is recipe.yaml:tune (" in said
    assert "changed since: `luthier run recipe.yaml`" in said
    assert run_command([*WATCH, "--release", "desk@prod"]) == 2
    assert "which no recipe here makes" in capsys.readouterr().err


def test_where_nobody_said_anything_nothing_is_learnt(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = [one for one in desk_traffic(60, every_s=2) if isinstance(one, Trace)]
    append_redacted_records(desk / ".luthier" / "traffic", log)
    memory = desk / ".luthier" / "watch" / "desk@prod.json"
    digest = list_aliases(Workspace.open_current())[0].stable.digest
    begun = {"alert": "wrong", "until": "2026-11-25T00:00:00Z", "tries": 1, "name": "tickets-2", "of": digest}
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps({"round": {**begun, "step": "tune"}}))
    assert run_command(WATCH) == 0
    assert "not released: people said nothing of desk@prod that can be learnt from" in capsys.readouterr().out
    assert not (desk / "tickets-2.yaml").exists()


def test_the_next_recipe_is_written_by_hand_too(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people_ask(desk, 60, range(30, 60), name="one", ended=60)
    people_ask(desk, 40, range(40), name="another-model", ended=60, asked="route@prod")
    slip = Feedback(trace="one-r7", timestamp=datetime.now(UTC), label=LABELS[0].title())
    append_redacted_records(desk / ".luthier" / "traffic", [slip])
    capsys.readouterr()
    assert run_command(["new", "again", "--from", "traces", "--base-recipe", "recipe.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "wrote again.yaml" in printed
    assert "60 rows" in printed
    strange = f"{LABELS[0].title()!r} (1 row; did you mean {LABELS[0]!r}?)"
    assert strange in printed
    assert strange in (desk / "again.yaml").read_text().partition("name:")[0]
    assert steps_of(desk / "again.yaml")["report"]["compare_with"] == "tune-1"
    refused = [
        (["new", "again", "--from", "traces", "--base-recipe", "recipe.yaml"], "it was not touched"),
        (
            ["new", "other", "--from", "tickets.csv", "--base-recipe", "recipe.yaml"],
            "goes on from a recipe by its traffic",
        ),
        (["new", "O/1", "--from", "traces", "--base-recipe", "recipe.yaml"], "cannot name a recipe"),
    ]
    for words, said in refused:
        assert run_command(words) == 2
        assert said in capsys.readouterr().err


SEARCHED = """\
luthier: 1
name: tickets
seed: 3
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    ops: [normalize, near_dedup]
    split: {test: 0.25, validation: 0.25}
  tune: {kind: tune, data: data, technique: plain}
  best:
    kind: search
    of: tune
    over: {technique.c: [1.0, 10.0], data.ops.near_dedup: [true, false]}
    metric: accuracy
    budget: 4
    finalists: 1
    seeds: 1
  report: {kind: evaluate, data: data, model: best, metrics: [accuracy]}
"""


def test_the_next_round_searches_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    monkeypatch.delenv("LUTHIER_TRAFFIC", raising=False)
    monkeypatch.chdir(tmp_path)
    small_recipe(tmp_path, SEARCHED, rows=240)
    assert run_command(["run", "recipe.yaml"]) == 0
    assert run_command(["release", "desk@prod", "recipe.yaml:best"]) == 0
    people_ask(tmp_path, 60, range(30, 60), name="one", ended=0)
    assert run_command(["new", "again", "--from", "traces", "--base-recipe", "recipe.yaml"]) == 0
    steps = steps_of(tmp_path / "again.yaml")
    assert steps["best-1"]["over"] == {"technique.c": [1.0, 10.0], "data.ops.near_dedup": [True, False]}
    assert steps["best"]["over"] == {"technique.c": [1.0, 10.0], "data.data.0.ops.near_dedup": [True, False]}
    assert steps["report"]["compare_with"] == "best-1"
    capsys.readouterr()
    assert run_command(["run", "again.yaml"]) == 0
    assert "trial" in capsys.readouterr().err


PLAIN = """\
luthier: 1
name: tickets
seed: 3
steps:
  data:
    kind: prepare
    source: {kind: csv, path: tickets.csv, prompt: message, answer: category}
    split: {test: 0.25}
  tune: {kind: tune, data: data, technique: plain}
  report: {kind: evaluate, data: data, model: tune, metrics: [accuracy]}
  gate: {kind: gate, evaluation: report, rules: ["accuracy > majority"]}
"""


def test_a_model_without_a_base_is_replaced_only_by_a_better_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    monkeypatch.delenv("LUTHIER_TRAFFIC", raising=False)
    monkeypatch.chdir(tmp_path)
    small_recipe(tmp_path, PLAIN, rows=240)
    assert run_command(["run", "recipe.yaml"]) == 0
    assert run_command(["release", "desk@prod", "recipe.yaml:tune"]) == 0
    people_ask(tmp_path, 60, range(30, 60), name="one", ended=0)
    assert run_command(["new", "again", "--from", "traces", "--base-recipe", "recipe.yaml"]) == 0
    assert steps_of(tmp_path / "again.yaml")["gate"]["rules"] == ["accuracy > majority", "accuracy > against"]
    capsys.readouterr()
    assert run_command(["run", "again.yaml"]) in {0, 1, 3}
    assert "accuracy > against" in capsys.readouterr().out
