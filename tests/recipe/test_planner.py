"""What a step will cost is told again when its inputs stand: said, kept, and printed beside what was measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.core.errors import DataError, SystemResourceError
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.step import StepCostEstimate
from luthier.core.timings import KEPT, read_machine_timings, read_timings, record_timing
from luthier.data.formats.files import SourceFile
from luthier.data.row import BrokenRow, SourceRecord
from luthier.data.source import Say
from luthier.data.sources.csv import Csv
from luthier.models.sources.folder import FolderModelSource
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.report import report_facts, write_report
from luthier.recipe.runner import run_and_record
from luthier.recipe.schema import Recipe
from luthier.tune.steps.tune import Tune
from tiny_models import RECIPE, small_recipe, write_csv

TUNING = RECIPE[: RECIPE.index("  report:")]


@pytest.mark.parametrize(
    ("other", "far"),
    [
        (StepCostEstimate(seconds=100, peak_bytes=1 << 30), False),
        (StepCostEstimate(seconds=124, peak_bytes=1 << 30), False),
        (StepCostEstimate(seconds=126, peak_bytes=1 << 30), True),
        (StepCostEstimate(seconds=70, peak_bytes=1 << 30), True),
        (StepCostEstimate(seconds=100, peak_bytes=int(1.2 * (1 << 30))), True),
        (StepCostEstimate(seconds=100, peak_bytes=int(1.1 * (1 << 30))), False),
        (StepCostEstimate(seconds=None, peak_bytes=1 << 30), True),
    ],
)
def test_a_quarter_of_the_time_or_a_seventh_of_the_memory_is_far(other: StepCostEstimate, *, far: bool) -> None:
    assert StepCostEstimate(seconds=100, peak_bytes=1 << 30).is_far_from(other) is far


def test_what_nobody_waits_for_is_never_far() -> None:
    assert not StepCostEstimate(seconds=1.0).is_far_from(StepCostEstimate(seconds=5.0))


def test_a_step_is_forecast_again_when_its_inputs_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(FolderModelSource, "here", lambda *_: None)  # as of a model that is still to be fetched
    recipe = Recipe.load(small_recipe(tmp_path, TUNING, rows=50))
    first = build_recipe_plan(recipe)["tune"].forecast
    assert first is not None
    assert first.seconds is None
    heard: list[RunEvent] = []
    result = recipe.run(RunEventEmitter(heard.append))
    timing = result["tune"].artifact.timing()
    told = timing["predicted"]
    assert told["seconds"] > 0
    assert "tokens counted in" in told["how"]
    assert timing["planned"]["seconds"] is None
    said = next(event.text for event in heard if event.step == "tune" and event.kind == "note")
    assert said.startswith("will take about ")
    assert told["how"] in said
    (cost,) = (cost for cost in report_facts(build_recipe_plan(recipe)).costs if cost.step == "tune")
    assert (cost.predicted_seconds, cost.seconds) == (told["seconds"], timing["seconds"])


SAID = {
    "digits": [(f"What is {n * 7919} + {n}?", f"{n * 7919} + {n} = {n * 7920}\n#### {n * 7920}") for n in range(60)],
    "another language": [(f"Wie groß ist Größe {n}?", f"Möglicherweise fünf Füße und {n} Übermaß") for n in range(60)],
}
"""Texts of which characters tell nothing near their tokens."""


@pytest.mark.parametrize("kind", SAID)
def test_a_first_plan_counts_tokens_as_one_with_the_data_made(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the base is there: GSM8K was told a third too few tokens, German nearly half."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    text = RECIPE.replace("metrics: [accuracy, macro_f1]", "metrics: [token_f1]").replace("accuracy >=", "token_f1 >=")
    recipe = Recipe.load(small_recipe(tmp_path, text, rows=10))
    rows = [{"message": asked, "category": answer, "customer": asked} for asked, answer in SAID[kind]]
    write_csv(tmp_path / "tickets.csv", rows)
    recipe.run(RunEventEmitter(), only=["model"])
    plans = [build_recipe_plan(recipe)]
    recipe.run(RunEventEmitter(), only=["data"])
    plans.append(build_recipe_plan(recipe))
    for step in ("tune", "report"):
        first, second = (one[step].forecast for one in plans)
        assert first is not None
        assert second is not None
        assert "tokens counted in" in first.how
        assert first.tokens == pytest.approx(second.tokens, rel=0.04)
        assert first.seconds == pytest.approx(second.seconds, rel=0.04)


def test_the_report_names_an_earlier_forecast_that_was_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    recipe = Recipe.load(small_recipe(tmp_path, TUNING, rows=50))
    for kind in {type(step) for step in recipe.all_steps().values()}:
        once = kind.estimate_cost
        monkeypatch.setattr(
            kind,
            "estimate_cost",
            lambda self, outlook, once=once: (
                once(self, outlook) if outlook.inputs else StepCostEstimate(seconds=1260.0)
            ),
        )
    recipe.run()
    what = build_recipe_plan(recipe)
    (cost,) = (cost for cost in report_facts(what).costs if cost.step == "tune")
    assert cost.planned_seconds == 1260.0
    assert "(planned: 21 min)" in write_report(what, tmp_path / "report.md").read_text(encoding="utf-8")
    assert "(planned: 21 min)" in write_report(what, tmp_path / "report.html").read_text(encoding="utf-8")


def test_another_project_is_foretold_from_what_this_machine_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    Recipe.load(small_recipe(tmp_path / "first", TUNING, rows=50)).run()
    assert read_timings("tune") == []  # it was over at once
    monkeypatch.setattr("luthier.recipe.executors.local.LEAST_S", 0.0)
    with monkeypatch.context() as brief:
        make = Tune.make
        brief.setattr(Tune, "make", lambda step, work: {**make(step, work), "train_s": -1.0})
        Recipe.load(small_recipe(tmp_path / "first", TUNING, rows=52)).run()
    assert read_timings("tune") == []  # it took its time to begin, and learnt for less: first steps are slow
    first = Recipe.load(small_recipe(tmp_path / "first", TUNING, rows=51)).run()
    measures = first["tune"].artifact.timing()["measures"]
    assert read_timings("tune") == [measures]
    assert read_timings("prepare") == []  # operators differ from one recipe to the next
    heard: list[RunEvent] = []
    Recipe.load(small_recipe(tmp_path / "second", TUNING, rows=50)).run(RunEventEmitter(heard.append))
    said = next(event.text for event in heard if event.step == "tune" and event.kind == "note")
    assert "speed as the last tune step on this machine" in said


def test_what_is_not_whole_is_forgotten_and_only_the_newest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    for number in range(KEPT + 2):
        record_timing("tune", {"flops_per_s": float(number)})
    assert [one["flops_per_s"] for one in read_timings("tune")] == [float(n) for n in range(KEPT + 1, 1, -1)]
    (file,) = tmp_path.glob("paces/*/tune.json")
    file.write_bytes(file.read_bytes()[:-20])
    assert read_timings("tune") == []
    record_timing("tune", {"flops_per_s": 1.0})
    assert len(read_timings("tune")) == 1
    record_timing("evaluate", {"flops_per_s": 2.0})
    both = [("tune", 1.0), ("evaluate", 2.0)]
    for kind, expected in (("tune", both), ("evaluate", both[::-1])):
        assert [(one["step"], one["flops_per_s"]) for one in read_machine_timings(kind)] == expected
    gpu = tmp_path / "gpus" / "0000:01:00.0" / "information"
    gpu.parent.mkdir(parents=True)
    gpu.write_text("Model: \t\t NVIDIA H100\nIRQ: 7\n")
    with monkeypatch.context() as patch:
        patch.setattr("luthier.core.timings._GPUS", tmp_path / "gpus")
        assert read_machine_timings("tune") == [], "another device is another machine"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert read_timings("tune") == [], "another number of processors is another machine"


def test_memory_that_the_process_holds_already_is_added_once() -> None:
    told = StepCostEstimate(peak_bytes=1000, common_bytes=300)
    assert told.add_held_bytes(200) == told
    assert told.add_held_bytes(500).peak_bytes == 1200
    assert StepCostEstimate(peak_bytes=1000).add_held_bytes(500).peak_bytes == 1000


def test_an_evaluation_is_planned_in_the_process_that_the_training_before_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    recipe = Recipe.load(small_recipe(tmp_path, rows=50))
    recipe.run(RunEventEmitter(), only=["model", "data"])

    def peaks(kernels: int) -> dict[str, int | None]:
        monkeypatch.setattr(
            "luthier.tune.forecast.estimate_kernel_cache_bytes", lambda packs, model, *, bf16, tokens: kernels
        )
        return {step.name: step.forecast and step.forecast.peak_bytes for step in build_recipe_plan(recipe)}

    few, many = peaks(0), peaks(5 << 30)
    assert few["tune"] is not None
    assert few["report"] is not None
    assert many["tune"] == few["tune"] + (5 << 30)
    assert many["report"] == few["report"] + (5 << 30)
    recipe.run(RunEventEmitter(), only=["tune"])
    assert peaks(5 << 30)["report"] == few["report"], "nothing is left by a step that is made already"


def test_a_plan_says_which_split_a_data_set_lacks(tmp_path: Path) -> None:
    file = small_recipe(tmp_path, rows=50)
    recipe = Recipe.load(file, ["steps.data.split.test=0"])
    recipe.run(RunEventEmitter(), only=["data"])
    with pytest.raises(DataError, match=r"no row in test; it has .* in train"):
        build_recipe_plan(recipe)


def test_a_plan_looks_at_the_first_rows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    read_file = Csv.read_file

    def counted(self: Csv, file: SourceFile, say: Say) -> Iterator[SourceRecord | BrokenRow]:
        looks.append(file.name)
        return read_file(self, file, say)

    monkeypatch.setattr(Csv, "read_file", counted)
    recipe = small_recipe(tmp_path)
    assert Recipe.load(recipe).plan()["data"].forecast
    assert looks == ["tickets.csv"]


def test_a_report_that_cannot_stand_beside_the_recipe_stands_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After hours of work the run ended with an error although everything was made."""
    monkeypatch.setenv("LUTHIER_STORE", str(tmp_path / "store"))
    recipe = Recipe.load(small_recipe(tmp_path, RECIPE[: RECIPE.index("  tune:")], rows=50))
    (recipe.recipe_dir / ".luthier").write_text("no folder can be made here")
    outcome = run_and_record(recipe, lambda event: None)
    assert outcome.report is not None
    assert outcome.report.parent == tmp_path / "store" / "reports"
    assert outcome.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert f"report: {outcome.report}" in outcome.lines()
    assert write_report(build_recipe_plan(recipe)) == outcome.report
    with pytest.raises(SystemResourceError, match="in the way"):
        write_report(build_recipe_plan(recipe), recipe.recipe_dir / ".luthier" / "r.html")


@pytest.mark.parametrize(
    ("words", "heavy"),
    [(("--help",), {"pydantic"}), (("plan", "recipe.yaml"), {"torch", "transformers", "httpcore"})],
)
def test_commands_that_compute_nothing_load_no_heavy_library(
    tmp_path: Path, words: tuple[str, ...], heavy: set[str]
) -> None:
    small_recipe(tmp_path)
    program = "import sys; from luthier.cli.app import run_command; "
    program += f"run_command({[*words]}); print({heavy} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.endswith("set()\n"), found.stdout
