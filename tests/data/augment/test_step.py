"""The step as a recipe has it: books, limits, refusals, traces, and what is said when it cannot work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from luthier.artifacts.dataset import MADE
from luthier.commands.lineage import trace_example
from luthier.core.errors import DataError, LuthierError, RecipeError
from luthier.data.augment.requests import name_augmenters, order_augment_jobs
from luthier.data.augmenter import Augmenter
from luthier.data.history.lineage import explain_example, list_derived_rows
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.report import write_report
from luthier.recipe.schema import Recipe
from tests.augmenting import Bench, rows
from tests.targets import target
from tests.tiny_models import RECIPE as WORKSHOP
from tests.tiny_models import small_recipe, write_csv

RECIPE = """\
luthier: 1
name: more
seed: 3
steps:
  data:
    kind: prepare
    source: {kind: csv, path: rows.csv, prompt: message, answer: category}
    split: {test: 0.2}
  more:
    kind: augment
    data: data
    augmenters: [noise, {kind: synonyms, copies: 2}]
    share: 0.4
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_csv(tmp_path / "rows.csv", rows())
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path / "recipe.yaml"


def test_a_recipe_runs_is_cached_and_tells_each_rows_story(recipe: Path) -> None:
    loaded = Recipe.load(recipe)
    before = build_recipe_plan(loaded)["more"].forecast
    assert before is not None
    assert "data set is not made" in before.how or "at most" in before.how
    result = loaded.run()
    assert Recipe.load(recipe).run()["more"].cached
    frame = result["more"].frame("examples/train.parquet")
    made = frame.filter(pl.col("meta").str.contains(MADE)).row(0, named=True)
    parent = json.loads(made["meta"])[MADE]["parents"][0]
    told = trace_example(made["id"], target(str(recipe)))
    assert told.lineage["made"]["parents"] == [parent]
    assert any(f"out of {parent}" in line for line in told.lines())
    assert any(event["action"] == "make" and event["before"] is not None for event in told.lineage["events"])
    up = trace_example(parent, target(str(recipe)))
    assert made["id"] in [child["id"] for child in up.children]
    assert any(made["id"] in line for line in up.lines())
    assert up.lineage["made"] is None
    page = write_report(build_recipe_plan(Recipe.load(recipe))).read_text(encoding="utf-8")
    assert "of them made by synonyms" in page
    assert "dropped: made, " in page


def test_a_refused_row_has_a_story_too(bench: Bench) -> None:
    made = bench.augment(["noise"], checks={"parent": 0.5})
    drop = made.events().filter(pl.col("action") == "drop").row(0, named=True)
    told = explain_example(made.artifact, drop["id"])
    assert told["dropped"] is not None
    assert told["dropped"]["reason"] == drop["reason"]
    assert list_derived_rows(bench.data, drop["id"]) == []


def test_kinds_that_stand_there_twice_are_told_apart(bench: Bench) -> None:
    made = bench.augment([{"kind": "noise", "typos": 0.3}, {"kind": "noise", "case": 1.0, "typos": 0}])
    assert set(made.summary.made) == {"noise", "noise-2"}
    assert set(made.added()["source"]) == {"noise", "noise-2"}


def test_every_row_has_its_turn_before_any_has_a_second(bench: Bench) -> None:
    order = list(order_augment_jobs(name_augmenters([Augmenter.parse({"kind": "noise", "copies": 3})]), bench.train, 5))
    assert [asked.request.copy for asked in order] == sorted(asked.request.copy for asked in order)
    first = [asked.request.row.id for asked in order if asked.request.copy == 0]
    assert sorted(first) == sorted(bench.train.ids)
    assert first != bench.train.ids


def test_the_share_can_hold_within_each_class(bench: Bench) -> None:
    made = bench.augment([{"kind": "noise", "copies": 5}], share=0.25, per_class=True)
    counts = dict(made.frame("train").group_by("label").len().iter_rows())
    real = bench.train.labels
    for label, count in counts.items():
        assert count == real[label] + real[label] // 3


def test_made_rows_are_no_parents_and_count_towards_the_share(bench: Bench) -> None:
    once = bench.augment(["noise"], share=0.2)
    twice = bench.augment([{"kind": "noise", "copies": 4}], data=once.artifact, share=0.4, seed=9)
    real = bench.train_rows
    assert twice.summary.rows["train"] - real <= real * 2 // 3
    ids = set(bench.train.ids)
    for meta in twice.added()["meta"]:
        assert set(json.loads(meta)[MADE]["parents"]) <= ids


def test_a_column_of_the_same_name_is_refused(tmp_path: Path) -> None:
    own = [{**row, "customer": row["customer"]} for row in rows()]
    bench = Bench(tmp_path, own)
    train = bench.data.path("examples/train.parquet")
    frame = pl.read_parquet(train).with_columns(pl.lit(json.dumps({MADE: "yes"})).alias("meta"))
    frame.write_parquet(train)
    with pytest.raises(DataError, match="rename the column"):
        bench.augment(["noise"])


def test_a_killed_making_leaves_nothing_that_changes_the_next(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bench.augment(["noise"]).files()
    monkeypatch.setattr("luthier.data.augment.loop.WAVE", 16)
    monkeypatch.setattr("luthier.data.augment.checks.DraftChecker.take", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.augment(["noise"])
    monkeypatch.undo()
    assert bench.augment(["noise"]).files() == whole


def _interrupted(*args: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("augmenters: []", "names no augmenter"),
        ("augmenters: [nosie]", "did you mean 'noise'"),
        ("augmenters: [{kind: noise, typo: 1}]", "did you mean 'typos'"),
        ("augmenters: [{kind: noise, typos: 0, case: 0, punctuation: 0}]", "every strength is 0"),
        ("augmenters: [noise]\n    share: 1.0", "share"),
        ("augmenters: [noise]\n    checks: {held_out: 0.3}", "held_out"),
        ("augmenters: [noise]\n    checks: {label: model}", "asks a model"),
    ],
)
def test_a_mistake_is_said_with_its_place(recipe: Path, change: str, what: str) -> None:
    text = RECIPE.partition("    augmenters")[0] + f"    {change}\n"
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(LuthierError) as caught:
        build_recipe_plan(Recipe.load(recipe))
    assert what in str(caught.value)
    assert "recipe.yaml" in str(caught.value)


def test_a_model_that_nobody_asks_is_refused(recipe: Path) -> None:
    text = f"{RECIPE}    model: model\n".replace("seed: 3\n", "seed: 3\nmodel: smollm2-135m-instruct\n")
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="nobody asks"):
        build_recipe_plan(Recipe.load(recipe))


def test_secrets_stand_in_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_PII_KEY", "a key for tests")
    own = [{**row, "message": f"{row['message']} Write to jo@example.com"} for row in rows()]
    bench = Bench(tmp_path, own, ops=[{"kind": "pii", "action": "flag"}])
    events = bench.augment(["noise"], checks={"parent": 0.9}).events()
    assert events.filter(pl.col("action") == "drop").height
    assert not [text for text in [*events["before"], *events["after"]] if text and "jo@example" in text]


def test_nothing_kept_is_said(bench: Bench) -> None:
    made = bench.augment([{"kind": "noise", "punctuation": 0, "case": 1.0, "typos": 0}])
    assert made.summary.rows["train"] == bench.train_rows
    assert "no row was made" in made.notes
    shutil.rmtree(made.artifact.folder)


def test_a_tuning_learns_made_rows_and_a_report_compares_on_real_ones(tmp_path: Path) -> None:
    text = WORKSHOP.replace("  tune:\n", "  more: {kind: augment, data: data, augmenters: [noise]}\n  tune:\n")
    path = small_recipe(tmp_path, text.replace("data: data\n    ", "data: more\n    "))
    result = Recipe.load(path).run()
    made = result["more"].frame("examples/train.parquet").filter(pl.col("meta").str.contains(MADE))
    learnt = result["tune"].frame("training_examples.parquet")
    assert set(made["id"]) <= set(learnt.filter(pl.col("seen") > 0)["id"])
    told = trace_example(made["id"][0], target(str(path)))
    assert told.trained_models
    assert told.lineage["made"]
    assert result["report"].frame("predictions.parquet").height
