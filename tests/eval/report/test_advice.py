"""What a report advises where a plain classifier is not beaten: each command is read, planned, or run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.cli.app import run_command
from luthier.eval.report.advice import RecipeArtifacts, _most_confused, _rises, _with_merged, suggest_improvements
from luthier.eval.report.facts.models import Advice, ConfusionMatrix
from luthier.eval.report.facts.tuning import LogPoint, TuningFacts
from luthier.recipe.report import report_facts
from luthier.recipe.schema import Recipe
from tiny_models import RECIPE, own_cache, small_recipe

LESS = RECIPE.replace("1.0e-2", "1.0e-6").replace('rules: ["accuracy >= 0.0"]', 'rules: ["accuracy >= base - 1"]')
WITH_CURVE = LESS.replace(
    "  tune:\n", "  validate: {kind: validate, data: data, checks: [enough]}\n  tune:\n    max_train_samples: 20\n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model that learned next to nothing, beside a plain classifier that did."""
    folder = tmp_path_factory.mktemp("behind")
    small_recipe(folder, LESS, rows=150)
    (folder / "curve.yaml").write_text(WITH_CURVE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", own_cache(folder))
        patch.chdir(folder)
        assert run_command(["run", "recipe.yaml"]) == 0
        assert run_command(["run", "curve.yaml"]) == 0
        yield folder


def advised(file: str, *overrides: str) -> tuple[Advice, ...]:
    (evaluation,) = report_facts(Recipe.load(Path(file), overrides).plan()).evaluations
    return evaluation.advice


def overrides_of(one: Advice) -> list[str]:
    return [word for word in shlex.split(one.command)[3:] if "=" in word]


def test_the_cheapest_way_stands_first_and_each_has_its_command(place: Path) -> None:
    found = advised("recipe.yaml")
    assert [one.what for one in found[:3]] == [
        "Take the plain classifier as the model.",
        "Train for 2 passes.",
        "Compute the learning curve to see whether more rows help.",
    ]
    assert found[3].what.startswith("Merge the classes ")
    assert all(one.command.startswith("luthier run recipe.yaml ") for one in found)
    for one in found:
        assert Recipe.load(place / "recipe.yaml", overrides_of(one)).plan()


def test_the_commands_do_what_they_say(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, passes, curve, merged = advised("recipe.yaml")[:4]
    for one in (plain, passes, curve):
        assert run_command(shlex.split(one.command)[1:]) == 0
    made = Recipe.load(place / "recipe.yaml", overrides_of(plain)).plan().artifact("tune")
    assert made.read_json("training.json")["technique"]["kind"] == "plain"
    planned = Recipe.load(place / "recipe.yaml", overrides_of(passes)).plan()
    assert planned["tune"].step.settings()["epochs"] == 2
    capsys.readouterr()
    assert run_command([*shlex.split(merged.command)[1:], "--only", "data"]) == 0
    told = Recipe.load(place / "recipe.yaml", overrides_of(merged)).plan().artifact("data").read_json("summary.json")
    assert len(told["labels"]) == 2


def test_the_overrides_of_a_run_are_kept_in_its_advice(place: Path) -> None:
    assert run_command(["run", "recipe.yaml", "steps.tune.max_train_samples=24"]) == 0
    found = advised("recipe.yaml", "steps.tune.max_train_samples=24")
    kept = [one for one in found if one.what != "Train on all rows."]
    assert len(kept) == len(found) - 1
    assert all("steps.tune.max_train_samples=24" in one.command for one in kept)
    assert "technique: plain, max_train_samples: 24}" in found[0].command
    every = next(one for one in found if one.what == "Train on all rows.")
    assert "It was trained on 24 of 120 training rows." in every.why
    assert "steps.tune.max_train_samples=24" not in every.command, "the override that it changes is not repeated"
    assert Recipe.load(place / "recipe.yaml", overrides_of(every)).steps["tune"].settings()["max_train_samples"] is None


def test_a_learning_curve_that_was_drawn_is_told(place: Path) -> None:
    found = advised("curve.yaml", "steps.tune.max_train_samples=null")
    assert run_command(["run", "curve.yaml", "steps.tune.max_train_samples=null"]) == 0
    found = advised("curve.yaml", "steps.tune.max_train_samples=null")
    rows = [one for one in found if "learning curve" in one.why]
    assert not rows or "twice the 120 rows take" in rows[0].why
    assert not [one for one in found if one.what.startswith("Draw the learning curve")]


def test_page_and_markdown_show_it(place: Path) -> None:
    for name in ("page.html", "page.md"):
        assert run_command(["report", "recipe.yaml", "--to", name]) == 0
        text = (place / name).read_text()
        assert "What may change it" in text
        assert "luthier run recipe.yaml steps.tune.epochs=2" in text
    assert run_command(["report", "recipe.yaml", "--to", "page.json"]) == 0
    told = json.loads((place / "page.json").read_text())
    assert told["evaluations"][0]["advice"][0]["what"] == "Take the plain classifier as the model."


def test_a_model_that_is_ahead_needs_no_advice(place: Path) -> None:
    plan = Recipe.load(place / "recipe.yaml").plan()
    (facts,) = report_facts(plan).evaluations
    made = RecipeArtifacts(
        artifacts={name: plan.artifact(name) for name in ("data", "tune", "report")}, text="", file="r.yaml"
    )
    ahead = [
        one.model_copy(update={"difference": 0.5, "low": 0.4, "high": 0.6, "p": 0.001}) for one in facts.comparisons
    ]
    assert suggest_improvements(facts, made)
    assert suggest_improvements(facts.model_copy(update={"comparisons": tuple(ahead)}), made) == ()


def test_a_plain_classifier_is_not_advised_to_be_one(place: Path) -> None:
    plain = overrides_of(advised("recipe.yaml")[0])
    assert run_command(["run", "recipe.yaml", *plain, "--only", "report"]) == 0
    assert advised("recipe.yaml", *plain) == ()


def test_the_pair_with_most_mistakes_is_the_one_to_merge() -> None:
    table = ConfusionMatrix(model="tuned", labels=("a", "b", "c"), counts=((9, 1, 0), (3, 2, 1), (0, 0, 7)))
    assert _most_confused(table) == ("b", "a", 4, 5)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ([], [{"kind": "label_spelling", "also": {"b": "a"}}]),
        (["normalize"], ["normalize", {"kind": "label_spelling", "also": {"b": "a"}}]),
        (["label_spelling"], [{"kind": "label_spelling", "also": {"b": "a"}}]),
        (
            [{"kind": "label_spelling", "also": {"c": "a"}}, "normalize"],
            [{"kind": "label_spelling", "also": {"c": "a", "b": "a"}}, "normalize"],
        ),
    ],
)
def test_a_merged_class_is_one_more_spelling(written: list[object], wanted: list[object]) -> None:
    assert _with_merged(written, "b", "a") == wanted


def test_more_passes_are_not_advised_where_the_held_out_loss_rose() -> None:
    def curve(*losses: float) -> TuningFacts:
        log = tuple(LogPoint(step=at, held_out_loss=loss) for at, loss in enumerate(losses))
        return TuningFacts(name="tune", technique="lora", objective="sft", log=log)

    assert _rises(curve(2.0, 1.0, 1.5))
    assert not _rises(curve(2.0, 1.0, 1.01))
    assert not _rises(curve())
