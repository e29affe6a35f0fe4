"""A search makes one model out of trials: the same one wherever it is made, and none of its trials is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars
import pytest

from luthier.artifacts.search import SearchRecord, TrialRow, read_trials
from luthier.artifacts.training import TrainingRecord
from luthier.core.artifact import Artifact
from luthier.core.errors import DataError, Interrupted, LuthierError, ModelError, RecipeError, SystemResourceError
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.models.load import get_model_name, get_training_data, is_tuned
from luthier.recipe.artifact_types.summaries import ModelType
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from search_recipe import LORA, RECIPE, break_fit, files_of, run_command, write_recipe
from tiny_models import own_cache, small_recipe


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Recipe, Artifact, list[RunEvent]]]:
    """The recipe, run; its model, and what was heard."""
    heard: list[RunEvent] = []
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        recipe = Recipe.load(write_recipe(folder / "here"))
        result = recipe.run(RunEventEmitter(heard.append))
        yield recipe, result["best"].artifact, heard


KILLS = 30
"""Random points at which a search is killed."""


def change(recipe: Recipe, *overrides: str) -> Recipe:
    """The recipe with overrides, over the same store."""
    return Recipe.load(recipe.file, overrides)


def test_it_makes_a_model_with_the_table_of_its_trials(searched: tuple[Recipe, Artifact, list[RunEvent]]) -> None:
    recipe, best, _ = searched
    record, rows = SearchRecord.read(best), read_trials(best)
    assert best.manifest.makes == "model"
    assert (record.of, record.metric, record.budget, record.seeds) == ("tune", "macro_f1", 3.0, 2)
    assert record.spent <= record.budget + 1e-9
    assert record.spent == pytest.approx(sum(row.work for row in rows))
    assert rows[0].settings == {"technique": "plain", "technique.c": 0.01, "technique.words": 2}
    assert record.trials == len({row.trial for row in rows})
    assert {one.trial for one in record.finalists} >= {0, record.verdict.winner}
    assert record.verdict.winner != 0, "a regularization of 0.01 is too strong for 180 rows"
    assert (record.validation_rows, record.test_rows) == (60, 60)
    assert is_tuned(best)
    assert get_model_name(best) == "tfidf"
    data = get_training_data(best)
    assert data is not None
    assert data.digest == build_recipe_plan(recipe)["data"].digest


def test_the_model_has_the_files_of_the_winner_and_answers(searched: tuple[Recipe, Artifact, list[RunEvent]]) -> None:
    recipe, best, _ = searched
    record = SearchRecord.read(best)
    winner = next(one for one in record.finalists if one.trial == record.verdict.winner)
    model = recipe.workspace.open_store().open(winner.digests[0])
    assert files_of(best).items() >= files_of(model).items()
    reported = write_with_report(recipe)
    result = reported.run(progress=False)
    assert result["best"].cached
    assert result["report"].metrics["macro_f1"]["value"] == pytest.approx(winner.values[0])
    assert result["best"].predict([{"message": "Where is the parcel"}])


def write_with_report(recipe: Recipe) -> Recipe:
    """The same recipe with an evaluation of what was chosen."""
    path = Path(recipe.file).with_name("report.yaml")
    path.write_text(RECIPE + "  report: {kind: evaluate, data: data, model: best}\n")
    return Recipe.load(path)


def test_each_trial_is_made_again_by_its_overrides(searched: tuple[Recipe, Artifact, list[RunEvent]]) -> None:
    recipe, best, _ = searched
    rows = read_trials(best)
    for row in (rows[0], rows[1], rows[-1]):
        planned = build_recipe_plan(change(recipe, *row.overrides))["tune"]
        assert (planned.digest, planned.cached) == (row.digest, True)


def test_trials_are_told_as_they_come(searched: tuple[Recipe, Artifact, list[RunEvent]]) -> None:
    _, best, heard = searched
    told = [event for event in heard if event.step == "best" and event.kind == "progress" and event.unit == "trainings"]
    assert len(told) == len(read_trials(best))
    assert told[0].measures["trial"] == 0
    assert {"macro_f1", "best", "best_trial"} <= told[-1].measures.keys()
    assert told[-1].done == pytest.approx(SearchRecord.read(best).spent, abs=0.01)
    assert {event.step for event in heard if event.kind == "start"} >= {"best.0-tune", "best.1-validation"}


def test_a_larger_budget_pays_only_for_what_is_new(searched: tuple[Recipe, Artifact, list[RunEvent]]) -> None:
    recipe, best, _ = searched
    heard: list[RunEvent] = []
    larger = change(recipe, "steps.best.budget=3.5").run(RunEventEmitter(heard.append))["best"].artifact
    known, rows = {row.digest for row in read_trials(best)}, read_trials(larger)
    assert {row.digest for row in read_trials(best) if row.rung == 0} <= {row.digest for row in rows}
    made = [event for event in heard if event.kind == "done" and event.step.endswith("-tune")]
    new = {row.digest for row in rows} - known
    assert len(new) <= len(made) <= len(new) + 2


@pytest.mark.slow
def test_another_store_and_another_run_make_the_same_bytes(
    searched: tuple[Recipe, Artifact, list[RunEvent]], tmp_path: Path
) -> None:
    _, best, _ = searched
    again = Recipe.load(write_recipe(tmp_path / "there")).run(progress=False)["best"].artifact
    assert again.digest == best.digest
    assert files_of(again) == files_of(best)


@pytest.mark.slow
def test_one_worker_and_two_choose_the_same(tmp_path: Path) -> None:
    small = ("steps.best.over={technique.words: [1, 3]}", "steps.best.threads=1", "steps.best.max_trials=2")
    made = []
    for workers in (1, 2):
        path = write_recipe(tmp_path / str(workers), rows=200)
        recipe = Recipe.load(
            path, [*small, f"steps.best.workers={workers}", "steps.data.split={test: 40, validation: 40}"]
        )
        made.append(recipe.run(progress=False)["best"].artifact)
    assert made[0].digest == made[1].digest
    assert files_of(made[0]) == files_of(made[1])


@pytest.mark.slow
@pytest.mark.parametrize("finished", [1, 7, 16, 20])
def test_a_killed_search_goes_on_to_the_same_bytes(
    searched: tuple[Recipe, Artifact, list[RunEvent]], tmp_path: Path, finished: int
) -> None:
    _, best, _ = searched
    folder = write_recipe(tmp_path / "killed").parent
    process = run_command(folder, tmp_path)
    try:
        count_done = 0
        assert process.stderr is not None
        for line in process.stderr:
            count_done += "best." in line and ": done" in line
            if count_done == finished:
                break
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert not (folder / ".luthier" / "artifacts" / best.digest).exists()
    again = run_command(folder, tmp_path)
    _, log = again.communicate(timeout=600)
    assert again.returncode == 0, log
    made = Recipe.load(folder / "recipe.yaml").workspace.open_store().open(best.digest)
    assert files_of(made) == files_of(best)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_search_that_is_killed_at_random_points_comes_to_the_same_bytes(tmp_path: Path) -> None:
    environment = {**os.environ, "LUTHIER_CACHE": own_cache(tmp_path)}
    command = [sys.executable, str(Path(__file__).parents[2] / "search_kills.py"), str(tmp_path), f"{KILLS}", "36"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(points) == KILLS
    assert all(one["same"] for one in points), points
    assert sum(one["late"] for one in points) <= 2, "almost all were killed before their end"


NO_MEMORY = "the machine has no memory left"
FAULTS = [
    (lambda: ModelError("the loss is not a number"), "the loss is not a number"),
    pytest.param(MemoryError, NO_MEMORY, marks=pytest.mark.slow),
    pytest.param(lambda: RuntimeError("CUDA out of memory"), NO_MEMORY, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("make", "reason"), FAULTS)
def test_a_trial_that_fails_is_the_worst_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], BaseException], reason: str
) -> None:
    break_fit(monkeypatch, lambda technique: make() if technique.words == 1 else None)
    recipe = Recipe.load(write_recipe(tmp_path / "here"), ["steps.best.budget=2"])
    best = recipe.run(progress=False)["best"].artifact
    rows, record = read_trials(best), SearchRecord.read(best)
    failed = [row for row in rows if row.settings["technique.words"] == 1]
    assert failed
    assert all((row.value, row.digest, row.failed) == (None, "", reason) for row in failed)
    assert all(row.rung == 0 for row in failed)
    assert record.failed == len({row.trial for row in failed})
    assert all(one.settings["technique.words"] != 1 for one in record.finalists)


@pytest.mark.slow
def test_a_fault_of_the_program_and_a_full_disk_are_no_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.load(write_recipe(tmp_path / "here"), ["steps.best.budget=2"])
    for error in (SystemResourceError("no space left on the disk"), RuntimeError("nobody thought of this")):
        with monkeypatch.context() as patch:
            break_fit(patch, lambda technique, error=error: error if technique.words == 1 else None)  # type: ignore[misc]
            with pytest.raises(type(error), match=str(error).split(" ", maxsplit=1)[0]):
                recipe.run(progress=False)
    with monkeypatch.context() as patch:
        break_fit(patch, lambda technique: KeyboardInterrupt() if technique.words == 1 else None)
        with pytest.raises(Interrupted):
            recipe.run(progress=False)
    assert recipe.run(progress=False)["best"].artifact.manifest.makes == "model"


def test_all_failing_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.load(write_recipe(tmp_path / "here"))
    recipe.run(progress=False, only=["tune"])
    break_fit(monkeypatch, lambda technique: ModelError("the loss is not a number"))
    with pytest.raises(LuthierError, match=r"all \d trials failed: the loss is not a number"):
        recipe.run(progress=False)


def test_twenty_rows_are_one_clear_error(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "here", rows=20)
    recipe = Recipe.load(path, ["steps.data.split={test: 4, validation: 4}"])
    with pytest.raises(LuthierError, match="trials failed"):
        recipe.run(progress=False)


@pytest.mark.parametrize(
    ("split", "missing"), [("{test: 60}", "no validation rows"), ("{test: 0, validation: 60}", "no test rows")]
)
def test_rows_to_compare_by_are_asked_for(tmp_path: Path, split: str, missing: str) -> None:
    recipe = Recipe.load(write_recipe(tmp_path / "here"), [f"steps.data.split={split}"])
    with pytest.raises(DataError, match=missing) as caught:
        recipe.run(progress=False)
    assert "split: {" in caught.value.hint
    with pytest.raises(DataError, match=missing):
        recipe.plan()


def test_a_space_of_one_point_keeps_the_step_as_it_is(tmp_path: Path) -> None:
    recipe = Recipe.load(write_recipe(tmp_path / "here"), ["steps.best.over={technique.c: [0.01]}"])
    result = recipe.run(progress=False)
    record = SearchRecord.read(result["best"].artifact)
    assert (record.trials, record.verdict.winner, record.verdict.better) == (1, 0, False)
    assert record.stopped == "the space has no further settings"
    assert files_of(result["best"].artifact).items() >= files_of(result["tune"].artifact).items()


def test_a_budget_of_time_is_told_in_trainings(searched: tuple[Recipe, Artifact, list[RunEvent]]) -> None:
    recipe, _, _ = searched
    with pytest.raises(RecipeError, match=r"10m here is .* trainings of 'tune'") as caught:
        change(recipe, "steps.best.budget=10m").plan()
    assert caught.value.hint.startswith("write budget: ")
    assert caught.value.where.field == "steps.best.budget"


def test_a_run_and_show_say_what_the_search_decided(searched: tuple[Recipe, Artifact, list[RunEvent]]) -> None:
    recipe, best, _ = searched
    record = SearchRecord.read(best)
    assert record.verdict.sentence in str(recipe.run())
    shown = ModelType().describe(best)
    assert shown["says"] == record.verdict.sentence
    assert shown["spent"].startswith(f"{record.spent:.3g} of 3 trainings, and ")
    assert shown["overrides"].startswith("steps.tune.")
    assert shown["rows"] == TrainingRecord.read(best).as_json()["rows"]


def test_a_time_that_holds_no_search_is_not_told_as_one(searched: tuple[Recipe, Artifact, list[RunEvent]]) -> None:
    recipe, _, _ = searched
    with pytest.raises(
        RecipeError, match=r"is too short here: .tune. takes .* the smallest search is 2 such trainings"
    ) as caught:
        change(recipe, "steps.best.budget=0.001s").plan()
    assert "fewer `finalists` or `seeds`" in caught.value.hint


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("budget=1.5", "greater than or equal to 2|at least 2|2"),
        ("budget=soon", "expected a time"),
        ("workers=2", "give each trial its `threads`"),
        ("prefer=quickest within 1 point", "latency differs from run to run"),
        ("aims=[beauty]", "nothing is measured that is called 'beauty'"),
        ("constraints=['accuracy >= 0.9', 'accuracy <= 0.8']", "no model meets both"),
        ("over={technique.r: [4]}", "technique.r"),
        ("over={technique: [plain, lora]}", "lora tunes a base model, and 'tune' reads none"),
        ("of=data", "expected a step that makes a model"),
        ("of=best", "wait for each other"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_the_run(
    searched: tuple[Recipe, Artifact, list[RunEvent]], override: str, what: str
) -> None:
    recipe, _, _ = searched
    with pytest.raises(LuthierError, match=what):
        change(recipe, f"steps.best.{override}").plan()


def test_a_plan_tells_the_work_and_the_time_and_loads_nothing_heavy(
    searched: tuple[Recipe, Artifact, list[RunEvent]],
) -> None:
    recipe, _, _ = searched
    told = change(recipe, "steps.best.budget=4").plan()["best"].forecast
    assert told is not None
    assert told.seconds is not None
    assert "4 trainings of 'tune'" in told.how
    script = (
        "import sys; from luthier.recipe.schema import Recipe; "
        f"Recipe.load({recipe.file!r}, ['steps.best.budget=4']).plan(); "
        "print([name for name in ('torch', 'optuna', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plan_shares_the_time_among_workers_as_far_as_there_are_processors(
    searched: tuple[Recipe, Artifact, list[RunEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _, _ = searched
    monkeypatch.setattr("luthier.models.cost.count_cores", lambda: 2)
    seconds = []
    for workers in (1, 2, 4):
        settings = (f"steps.best.{one}" for one in ("budget=4", "threads=1", f"workers={workers}"))
        forecast = change(recipe, *settings).plan()["best"].forecast
        assert forecast is not None
        assert forecast.seconds is not None
        seconds.append(forecast.seconds)
    assert seconds[0] == pytest.approx(2 * seconds[1]) == pytest.approx(2 * seconds[2])


def test_a_data_option_that_trains_on_held_out_rows_fails(tmp_path: Path) -> None:
    text = RECIPE.replace("technique.words: [1, 2]", "data.ops.near_dedup: [true, false]")
    recipe = Recipe.load(write_recipe(tmp_path / "here", text), ["steps.best.budget=2"])
    best = recipe.run(progress=False)["best"].artifact
    rows = read_trials(best)
    assert {row.settings["data.ops.near_dedup"] for row in rows} == {True, False}
    plan = build_recipe_plan(Recipe.load(recipe.file))
    assert {one.manifest.inputs["data"] for one in list_reports(best, rows)} == {plan["data"].digest}


def list_reports(best: Artifact, rows: list[TrialRow]) -> list[Artifact]:
    """The evaluations of a search's trials that are in the store."""
    models = {row.digest for row in rows}
    root = best.folder.parent
    found = [best.find(path.name) for path in root.iterdir()]
    return [one for one in found if one.manifest.kind == "evaluate" and one.manifest.inputs["model"] in models]


def test_aims_constraints_and_a_preference_decide_between_finalists(
    searched: tuple[Recipe, Artifact, list[RunEvent]],
) -> None:
    recipe, _, _ = searched
    settings = ("aims=[accuracy, parameters]", "prefer=smallest within 5 points", "constraints=['accuracy >= 0.1']")
    best = change(recipe, *(f"steps.best.{one}" for one in settings)).run(progress=False)["best"].artifact
    record = SearchRecord.read(best)
    assert [aim.name for aim in record.aims] == ["macro_f1", "accuracy", "parameters"]
    assert all({"macro_f1", "accuracy", "parameters"} == one.aims.keys() for one in record.finalists)
    assert record.front
    strict = change(recipe, "steps.best.constraints=['accuracy > 1.5']").run(progress=False)["best"].artifact
    assert SearchRecord.read(strict).verdict.winner == 0


@pytest.mark.slow
def test_network_and_plain_classifier_are_branches_of_one_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", own_cache(tmp_path))
    recipe = Recipe.load(small_recipe(tmp_path, LORA, rows=150))
    result = recipe.run(progress=False)
    best, record = result["best"].artifact, SearchRecord.read(result["best"].artifact)
    assert best.manifest.inputs.keys() == {"of", "model"}
    assert best.manifest.inputs["model"] == result["model"].artifact.digest
    rows = read_trials(best)
    assert {row.settings["technique"] for row in rows} == {"lora", "plain"}
    assert record.verdict.winner, "a random model of two layers learns nothing that words do not tell"
    assert get_model_name(best) == "tfidf"
    assert result["report"].metrics["accuracy"]["value"] > 0.5
    kept = Recipe.load(recipe.file, ["steps.best.over={technique.r: [2, 4]}"]).run(progress=False)
    assert {row.settings["technique.r"] for row in read_trials(kept["best"].artifact)} == {2, 4}
    assert get_model_name(kept["best"].artifact).endswith("+lora")
    assert kept["best"].model() is not None
    frame = kept["best"].frame("trials.parquet")
    assert isinstance(frame, polars.DataFrame)
    assert all(json.loads(text) for text in frame["settings"])
