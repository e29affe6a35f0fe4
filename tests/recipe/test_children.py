"""A step that drives others makes them as ordinary steps: refused, locked, cached and logged, and kept for going on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from luthier.core.component import components_by_kind
from luthier.core.errors import DataError, Interrupted, LuthierError, RecipeError, UnknownName
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.step import PlanContext, Reads, Step, StepContext, StepCostEstimate
from luthier.core.store import Store
from luthier.recipe.planner import build_recipe_plan
from luthier.recipe.schema import Recipe
from luthier.recipe.yaml import parse_yaml


class Leaf(Step):
    """Writes a number."""

    kind: Literal["test_leaf"] = "test_leaf"
    makes: ClassVar[str] = "findings"
    number: int = 0
    """What it writes; 13 fails, 99 stops the run."""
    file: str = ""
    """A file whose content counts."""

    def contents(self, recipe_dir: Path) -> dict[str, str]:
        """The file's text."""
        return {"file": (recipe_dir / self.file).read_text()} if self.file else {}

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write it."""
        work.events.progress(1, 1, "numbers")
        if self.number == 13:
            raise DataError("is unlucky")
        if self.number == 99:
            raise KeyboardInterrupt
        (work.folder / "number.txt").write_text(str(self.number))
        return {}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """A second."""
        if self.number < 0:
            raise DataError("is too small")
        return StepCostEstimate(seconds=1.0, how="a guess")


class Twice(Step):
    """Doubles the number of another."""

    kind: Literal["test_twice"] = "test_twice"
    makes: ClassVar[str] = "findings"
    of: Annotated[str, Reads("findings")]
    """What is doubled."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Write it."""
        number = int(work.inputs["of"].path("number.txt").read_text())
        (work.folder / "number.txt").write_text(str(2 * number))
        return {}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """A second."""
        return StepCostEstimate(seconds=1.0, how="a guess")


class Driver(Step):
    """Makes leaves by their numbers, and writes the sum of their doubles."""

    kind: Literal["test_driver"] = "test_driver"
    makes: ClassVar[str] = "findings"
    of: Annotated[str, Reads("findings")]
    """The first."""
    numbers: tuple[int, ...] = (1, 2)
    """Of the leaves."""
    file: str = ""
    """What the leaves read."""

    def list_children(self, steps: Mapping[str, Step]) -> Iterable[Step]:
        """The leaves."""
        assert set(steps) == {self.of}
        return [Leaf(number=number, file=self.file) for number in self.numbers]

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Sum them up."""
        assert isinstance(work.upstream["of"], Leaf)
        total, failed = 0, []
        for number in self.numbers:
            steps = {"leaf": Leaf(number=number, file=self.file), f"twice-{number}": Twice(of="leaf")}
            plan = work.children.plan(steps, f"twice-{number}") if number >= 0 else None
            try:
                made = work.children.make(steps, f"twice-{number}")
            except LuthierError as error:
                failed.append(error.message)
                continue
            assert plan is not None
            assert plan.digest == made.digest
            total += int(made.path("number.txt").read_text())
        changed = work.children.make({self.of: Leaf(number=40), "beside": Twice(of=self.of)}, "beside")
        total += int(changed.path("number.txt").read_text())
        (work.folder / "sum.txt").write_text(f"{total} {'; '.join(failed)}")
        return {}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Unknown."""
        return StepCostEstimate()


assert components_by_kind(Step)["test_driver"] is Driver
RECIPE = """\
luthier: 1
name: driving
steps:
  first: {kind: test_leaf, number: 5}
  other: {kind: test_leaf, number: 6}
  sum: {kind: test_driver, of: first, numbers: [1, 2]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return Recipe.load(path)


def test_children_are_made_once_and_told_under_the_name_of_their_driver(recipe: Recipe) -> None:
    heard: list[RunEvent] = []
    result = recipe.run(RunEventEmitter(heard.append), on="local")
    assert result["sum"].artifact.path("sum.txt").read_text() == f"{2 + 4 + 80} "
    assert set(result.steps) == {"first", "other", "sum"}
    assert [event.kind for event in heard if event.kind in ("run", "end")] == ["run", "end"]
    made = [event.step for event in heard if event.kind == "done"]
    assert made[-7:] == ["sum.leaf", "sum.twice-1", "sum.leaf", "sum.twice-2", "sum.first", "sum.beside", "sum"]
    assert "sum.leaf" in {event.step for event in heard if event.kind == "progress"}
    heard.clear()
    again = Recipe.load(recipe.file, ["steps.sum.numbers=[2, 1, 3]"])
    again.run(RunEventEmitter(heard.append), only=["sum"])
    cached = [event.step for event in heard if event.kind == "cached"]
    assert cached == ["first", "sum.leaf", "sum.twice-2", "sum.leaf", "sum.twice-1", "sum.first", "sum.beside"]


def test_another_store_holds_the_same_bytes(recipe: Recipe, tmp_path: Path) -> None:
    here = recipe.run(progress=False)["sum"].artifact
    other = tmp_path / "other"
    other.mkdir()
    (other / "recipe.yaml").write_text(RECIPE)
    again = Recipe.load(other / "recipe.yaml").run(progress=False)["sum"].artifact
    assert again.digest == here.digest
    assert again.manifest == here.manifest


def test_a_child_that_fails_is_the_drivers_to_judge(recipe: Recipe) -> None:
    failing = Recipe.load(recipe.file, ["steps.sum.numbers=[1, 13, -1]"])
    heard: list[RunEvent] = []
    result = failing.run(RunEventEmitter(heard.append))
    assert result["sum"].artifact.path("sum.txt").read_text() == "82 is unlucky; is too small"
    assert [event.step for event in heard if event.kind == "failed"] == ["sum.leaf"]


def test_what_stops_a_child_stops_the_run_and_what_was_made_is_found_again(recipe: Recipe) -> None:
    stopped = Recipe.load(recipe.file, ["steps.sum.numbers=[1, 99, 2]"])
    with pytest.raises(Interrupted, match="stopped while making 'sum'"):
        stopped.run(progress=False)
    store = recipe.workspace.open_store()
    plan = build_recipe_plan(stopped, store)
    kept = set(store.digests())
    assert len(kept) == 4  # first, other, leaf 1 and its double
    assert not store.gc([planned.digest for planned in plan]).artifacts
    assert set(store.digests()) == kept
    heard: list[RunEvent] = []
    with pytest.raises(Interrupted):
        stopped.run(RunEventEmitter(heard.append))
    assert [event.step for event in heard if event.kind == "cached"] == ["first", "other", "sum.leaf", "sum.twice-1"]


def test_children_of_a_finished_step_are_rubbish_and_its_own_files_stay(recipe: Recipe) -> None:
    result = recipe.run(progress=False)
    store = recipe.workspace.open_store()
    collected = store.gc([one.artifact.digest for one in result.steps.values()])
    assert len(collected.artifacts) == 6
    assert set(store.digests()) == {one.artifact.digest for one in result.steps.values()}


def test_what_children_read_and_their_code_name_the_driver(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one")
    reading = Recipe.load(recipe.file, ["steps.sum.file=words.txt"])
    before = build_recipe_plan(reading)["sum"]
    (tmp_path / "words.txt").write_text("two")
    after = build_recipe_plan(reading)["sum"]
    assert before.digest != after.digest
    assert set(before.contents) >= {"children"}
    assert build_recipe_plan(recipe)["first"].contents == {}


def test_a_child_reads_only_what_its_driver_reads(recipe: Recipe) -> None:
    for steps in ({"twice": Twice(of="other")}, {"twice": Twice(of="sum")}):
        with pytest.raises(RecipeError, match="which the step itself does not read") as caught:
            recipe.with_children("sum", steps)
        assert caught.value.where.line == 6
    ring = {"a": Twice(of="b"), "b": Twice(of="a")}
    with pytest.raises(RecipeError, match="wait for each other"):
        recipe.with_children("sum", ring)


def test_the_recipe_of_children_is_read_back_from_its_text(recipe: Recipe) -> None:
    children = recipe.with_children("sum", {"leaf": Leaf(number=1), "twice": Twice(of="leaf")})
    assert list(children.steps) == ["first", "leaf", "twice"]
    again = Recipe.of(parse_yaml(children.written, "recipe.yaml"), recipe.workspace)
    assert again.steps == children.steps


def test_a_step_without_a_recipe_has_no_children(tmp_path: Path) -> None:
    work = StepContext(name="sum", inputs={}, folder=tmp_path, scratch=tmp_path, recipe_dir=tmp_path)
    assert not work.children.steps
    with pytest.raises(RecipeError, match="cannot be made here"):
        work.children.make({"leaf": Leaf()}, "leaf")
    with pytest.raises(RecipeError, match="cannot be made here"):
        work.children.plan({"leaf": Leaf()}, "leaf")


def test_an_unknown_child_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="there is no step 'leave'"):
        recipe.with_children("sum", {"leaf": Leaf()}).needed(["leave"])


def test_the_newest_timing_of_a_kind_is_found_without_opening_all(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.run(progress=False)
    store = recipe.workspace.open_store()
    index = store.root / "timings.json"
    first = store.read_newest_timings()
    assert set(first) == {"test_leaf", "test_twice", "test_driver"}
    assert first["test_leaf"]["settings"]["number"] == 40
    opened: list[str] = []
    manifest = Store.manifest

    def count(self: Store, digest: str) -> Any:
        opened.append(digest)
        return manifest(self, digest)

    monkeypatch.setattr(Store, "manifest", count)
    assert store.read_newest_timings() == first
    assert len(opened) == len(first)
    for spoilt in (b"{", b"[]", b'{"a": 1}', b"\xff"):
        index.write_bytes(spoilt)
        assert store.read_newest_timings() == first
    index.unlink()
    assert store.read_newest_timings() == first
    newest = next(one for one in store.digests() if manifest(store, one).settings.get("number") == 40)
    store.remove(newest)
    assert store.read_newest_timings()["test_leaf"]["settings"]["number"] != 40
