"""Every recipe that stands in `recipes/` is run, with fewer rows, on the real model; real data when it is here."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.core.artifact import Artifact
from luthier.core.system.packages import cached_wheel
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.report import write_report
from luthier.recipe.runner import RunResult
from luthier.recipe.schema import Recipe

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("recipe.yaml"))
TECHNIQUES = sorted(path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes" / "techniques").glob("*.yaml"))
"""One recipe or more a technique, named after it: `lora`, `lora-plus`."""
OBJECTIVES = sorted(path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes" / "objectives").glob("*.yaml"))
DATA = ROOT.parent / "shared" / "data"
FEW_OF_PEOPLE = ("steps.data.split.train=64", "steps.data.split.test=32")
SMALL = {
    "anywhere": ("steps.data.source.limit=24", "steps.data.split.test=8"),
    "federated": (
        "steps.data.split.test=8",
        "steps.tune.rounds=1",
        "steps.tune.local={steps: 2}",
    ),
    "headlines": ("steps.data.split.train=16", "steps.data.split.test=8"),
    "distil": ("steps.data.split.train=48", "steps.data.split.test=24"),
    "fair-sentiment": FEW_OF_PEOPLE,
    "grpo-math": ("steps.data.split.train=16", "steps.data.split.test=8"),
    "merge": tuple(f"steps.{name}.split.train=32" for name in ("short", "long")),
    "preferences": ("steps.data.split.train=32", "steps.data.split.test=24"),
    "rlhf": (
        "steps.data.split.train=16",
        "steps.others.split.train=16",
        "steps.unseen.split.test=8",
        "steps.tune.validation={rows: 4, every: 2, keep: last}",
        "steps.report.probes=[]",
        "steps.tune.objective.rollout.max_completion_length=8",
        "steps.report.max_new_tokens=8",
    ),
    "safety": ("steps.data.split={train: 16, test: 8}", "steps.report.probes=[{kind: refusal, max_new_tokens: 4}]"),
    "forms": ("steps.data.split={train: 48, test: 8}", "steps.look.epochs=1", "steps.tune.epochs=1"),
    "pictures": ("steps.data.split={train: 64, test: 8}", "steps.look.epochs=1", "steps.tune.epochs=1"),
    "spoken-commands": ("steps.data.split={train: 64, test: 20}", "steps.hear.epochs=1", "steps.tune.epochs=1"),
    "picture-preferences": (
        "steps.data.split={train: 48, test: 8}",
        "steps.pairs.split={train: 32, test: 8}",
        "steps.look.epochs=1",
        "steps.prefer.epochs=1",
        "steps.tune.max_train_samples=8",
        "steps.tune.objective.rewards=[{kind: regex, pattern: '[aeiou]'}]",  # one that a beginner sometimes gets
    ),
    "questions": ("steps.data.split.train=64", "steps.data.split.test=24"),
    "speech": ("steps.data.split={train: 14, test: 8}", "steps.tune.epochs=1"),
    "summaries": ("steps.data.split.train=24", "steps.data.split.test=8", "steps.report.max_new_tokens=24"),
    "taught": (
        "steps.data.split.train=32",
        "steps.data.split.test=8",
        "steps.tune.epochs=1",
        "steps.tune.keep_states=2",
        "steps.taught.retrainings=0",
    ),
    "why": (
        "steps.data.split.train=32",
        "steps.data.split.test=8",
        "steps.tune.epochs=1",
        "steps.why.limit=3",
        "steps.why.orders=9",
    ),
    "what-changed": (
        "steps.data.split={train: 48, validation: 16, test: 24}",
        "steps.changed.limit=12",
        "steps.changed.matrices=2",
        "steps.flips.limit=3",
        "steps.flips.max_edits=2",
        "steps.rules.limit=40",
    ),
    "habits": (
        "steps.data.split={train: 24, test: 8}",
        "steps.changed.matrices=2",
        "steps.changed.max_new_tokens=8",
    ),
    "support": ("steps.data.split.test=8", "steps.tune.epochs=1", "steps.tune.max_train_samples=16"),
}
OWN_DATA = {
    "summaries": ("DIALOGUES", "dialogsum/dialogsum.train.jsonl"),
    "preferences": ("PAIRS", "hh_rlhf/harmless_base.jsonl"),
    "rlhf": ("PAIRS", "hh_rlhf/harmless_base.jsonl"),
    "safety": ("PAIRS", "hh_rlhf/harmless_base.jsonl"),
}
"""Recipes whose rows are the user's: the variable that names them, and the real data that stand in for them here."""
PLAIN: dict[str, set[str]] = {
    "forms": {"blind"},
    "pictures": {"majority", "blind"},
    "spoken-commands": {"majority", "blind"},
    "picture-preferences": {"blind"},
    "preferences": {"length"},
    "rlhf": set(),
    "grpo-math": {"nearest"},
    "safety": {"length"},
    "questions": {"nearest"},
    "speech": {"nearest", "blind"},
    "summaries": {"nearest", "lead"},
    "habits": {"length"},
}
"""Baselines of recipes whose answers are texts or pairs."""
DATA_ONLY = {"label"}
"""Recipes that tune nothing; each has a test of its own."""
TICKETS = {"choose", "federated", "taught", "why"}
"""Recipes that read the tickets of `support`."""
SEARCHES = {"choose"}
"""Recipes that search; theirs is a test of its own, too."""
LONG = {
    "anywhere",
    "distil",
    "fair-sentiment",
    "federated",
    "forms",
    "grpo-math",
    "habits",
    "headlines",
    "merge",
    "picture-preferences",
    "pictures",
    "preferences",
    "questions",
    "rlhf",
    "safety",
    "speech",
    "spoken-commands",
    "summaries",
    "taught",
    "what-changed",
    "why",
}
"""Recipes with several trainings or written answers, which run by `./check --all`."""
FEW = ("steps.data.split.train=48", "steps.data.split.test=24")
FEWER: dict[str, tuple[str, ...]] = {
    "prompt_search": ("steps.tune.technique.held_back=16", "steps.tune.technique.budget=48")
}
"""What else makes a technique's recipe short."""
Make = Callable[..., RunResult]


@pytest.fixture
def make(tmp_path: Path, smollm2: Artifact) -> Make:
    """Run a recipe of the repository in a folder of its own."""
    assert smollm2.manifest.makes == "model"

    def run(name: str, *overrides: str) -> RunResult:
        for folder in {name, *(["support"] if name in TICKETS else [])}:
            shutil.copytree(ROOT / "recipes" / folder, tmp_path / folder, ignore=shutil.ignore_patterns(".luthier"))
        return Recipe.load(tmp_path / name, overrides).run()

    return run


def _measures(result: RunResult) -> dict[str, Any]:
    measures: dict[str, Any] = result["report"].artifact.read_json("metrics.json")["models"]
    return measures


def _real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the real data set {name} is not beside the repository (shared/data/{name})")
    return path


def _bring_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in OWN_DATA:
        variable, path = OWN_DATA[name]
        monkeypatch.setenv(variable, str(_real(path)))


def _need_wheel(recipe: Recipe) -> None:
    for step in recipe.steps.values():
        source = step.settings().get("source")
        if not isinstance(source, dict) or source.get("kind") != "wheel":
            continue
        if not cached_wheel(source["package"], source["version"], source["sha256"]):
            pytest.skip(f"the wheel {source['package']} is not in the cache; ./demo fetches it")


@pytest.mark.parametrize("path", [*RECIPES, *TECHNIQUES, *OBJECTIVES], ids=str)
def test_every_recipe_is_read_and_planned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _bring_data(path.parent.name, monkeypatch)
    recipe = Recipe.load(ROOT / "recipes" / path)
    assert [planned.name for planned in build_recipe_plan(recipe)] == recipe.order()


@pytest.mark.parametrize("path", TECHNIQUES, ids=str)
def test_a_techniques_recipe_bears_its_name(path: Path) -> None:
    step = Recipe.load(ROOT / "recipes" / path).steps["tune"]
    assert step.settings()["technique"]["kind"] == path.stem.partition("-")[0]


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("path", [*TECHNIQUES, *OBJECTIVES], ids=str)
def test_every_techniques_recipe_runs(tmp_path: Path, smollm2: Artifact, path: Path) -> None:
    assert smollm2.manifest.makes == "model"
    _need_wheel(Recipe.load(ROOT / "recipes" / path))
    for folder in (path.parent, "grpo-math"):  # whose sums some of them learn, too
        shutil.copytree(ROOT / "recipes" / folder, tmp_path / folder, ignore=shutil.ignore_patterns(".luthier"))
    result = Recipe.load(tmp_path / path, [*FEW, *FEWER.get(path.stem, ())]).run()
    base = {"base"} if "model" in result.recipe.all_steps() else set()
    assert {"tuned", *base} <= set(_measures(result))


@pytest.mark.model
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(str(path.parent), marks=[pytest.mark.slow] if str(path.parent) in LONG else [])
        for path in RECIPES
        if str(path.parent) not in DATA_ONLY | SEARCHES
    ],
)
def test_every_recipe_runs(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _bring_data(name, monkeypatch)
    _need_wheel(Recipe.load(ROOT / "recipes" / name))
    result = make(name, *SMALL[name])
    summary = result["data"].artifact.read_json("summary.json")
    assert summary["rows_in"] == sum(summary["rows"].values()) + sum(summary["dropped"].values())
    assert {"base", "tuned"} | PLAIN.get(name, {"tfidf", "majority"}) <= set(_measures(result))
    assert write_report(build_recipe_plan(result.recipe)).read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.model
@pytest.mark.slow
def test_the_search_of_tickets_makes_one_model(make: Make) -> None:
    result = make(
        "choose",
        "steps.data.split={train: 64, test: 32, validation: 32}",
        "steps.tune.epochs=1",
        "steps.best.over={technique: [lora, plain], learning_rate: [5.0e-4, 2.0e-3]}",
        "steps.best.budget=2",
        "steps.best.finalists=1",
        "steps.best.seeds=1",
    )
    search = result["best"].artifact.read_json("search.json")
    assert set(search["space"]) == {"lora", "plain"}
    assert {one["trial"] for one in search["finalists"]} >= {0, search["verdict"]["winner"]}
    assert "tuned" in _measures(result)
    assert write_report(build_recipe_plan(result.recipe)).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_tickets_lose_nothing_of_what_was_planted(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes" / "support", tmp_path / "support", ignore=shutil.ignore_patterns(".luthier"))
    planted = json.loads((tmp_path / "support" / "planted.json").read_text(encoding="utf-8"))
    recipe = Recipe.load(tmp_path / "support", ["steps.data.source.id=ticket_id"])
    result = Recipe(name="only-data", seed=recipe.seed, steps={"data": recipe.steps["data"]})
    result._workspace = recipe.workspace  # the recipe's folder, since it was not loaded from a file
    made = result.run()["data"]
    events = made.frame("events.parquet")
    summary = made.artifact.read_json("summary.json")
    assert summary["dropped"]["exact duplicate"] >= len(planted["exact_duplicates"])
    texts = " ".join(
        text for split in summary["rows"] for text in made.frame(f"examples/{split}.parquet")["messages"].to_list()
    )
    high_risk = [one["text"] for one in planted["pii"] if one["kind"] in ("email", "card", "iban", "ip")]
    assert high_risk
    assert [text for text in high_risk if text in texts] == []
    assert [text for text in high_risk if any(text in str(before) for before in events["before"].to_list())] == []
    kept = [one["text"] for one in planted["lookalikes"]]
    assert sum(text in texts for text in kept) >= 0.9 * len(kept)


@pytest.mark.model
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(1800)  # 77 answers to each of 77 questions, twice
def test_the_support_recipe_learns_banking_questions(make: Make) -> None:
    path = _real("banking77") / "train.csv"
    result = make(
        "support",
        f"steps.data.source.path={path}",
        "steps.data.source.prompt=text",
        "steps.data.source.answer=category",
        "steps.data.source.group=",
        "steps.data.source.system=Name the topic of the bank customer's question.",
        "steps.data.split={train: 800, test: 77}",
        "steps.more.share=0.05",
        "steps.tune.epochs=1",
        "steps.tune.batch_size=16",
        "steps.tune.learning_rate=0.002",
        "steps.report.dtype=auto",
    )
    assert len(result["data"].artifact.read_json("summary.json")["labels"]) == 77
    comparisons = result["report"].artifact.read_json("comparisons.json")
    gain = next(one for one in comparisons if (one["a"], one["b"], one["metric"]) == ("tuned", "base", "accuracy"))
    assert gain["low"] > 0


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.data
def test_the_support_recipe_reads_bitext(make: Make) -> None:
    folder = _real("bitext_customer_support")
    path = folder / "Bitext_Sample_Customer_Support_Training_Dataset.csv"
    result = make(
        "support",
        f"steps.data.source.path={path}",
        "steps.data.source.prompt=instruction",
        "steps.data.source.answer=category",
        "steps.data.source.group=",
        "steps.data.source.system=Name the team that answers the customer.",
        "steps.data.split={train: 160, test: 60}",
        "steps.more.share=0.05",
        "steps.tune.epochs=1",
    )
    summary = result["data"].artifact.read_json("summary.json")
    assert summary["rows_in"] == 4514
    assert summary["rows"] == {"train": 160, "test": 60}


def test_people_and_rules_label(tmp_path: Path) -> None:
    """`recipes/label` wants no model: what it makes is held to what its messages are about."""
    from luthier.artifacts.dataset import DatasetSummary, read_examples
    from luthier.data.export import export_dataset

    shutil.copytree(ROOT / "recipes" / "label", tmp_path / "label", ignore=shutil.ignore_patterns(".luthier"))
    result = Recipe.load(tmp_path / "label").run()
    people, weak, chosen = (result[name].artifact for name in ("people", "weak", "next"))
    assert DatasetSummary.read(people).labels == DatasetSummary.read(weak).labels == ["account", "billing", "delivery"]
    assert sum(DatasetSummary.read(people).rows.values()) == 30
    for example in read_examples(people, "train"):
        assert example.meta["judgments"]
        assert example.meta["adjudication"]["rule"] == "weighted"
    about = {"account": "acco|log in|passw|profile", "billing": "charg|invoi|refund|payment|price"}
    rows = read_examples(weak, "train")
    right = [
        next((label for label, words in about.items() if re.search(words, row.messages[1].content)), "delivery")
        == row.label
        for row in rows
    ]
    assert sum(right) >= len(rows) - 1 >= 27
    assert DatasetSummary.read(chosen).rows == {"train": 10}
    export_dataset(chosen, tmp_path / "ask", "label-studio")
    assert len(json.loads((tmp_path / "ask" / "train.json").read_text())) == 10
