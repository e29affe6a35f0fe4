"""Steps: the digest follows everything that decides the bytes, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from luthier.core.component import Component, digest_plugin_code
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.hashing import file_digest
from luthier.core.step import DataRef, ModelRef, NotHashed, PlanContext, Step, StepContext, StepCostEstimate


class Reader(Component):
    """Something that reads a file from outside."""

    role: ClassVar[str] = "test_reader"
    home: ClassVar[str] = "luthier.core"

    path: str = "in.txt"
    """What to read."""

    def fingerprint(self, recipe_dir: Path) -> str | None:
        """The file's digest."""
        return file_digest(recipe_dir / self.path)


class Words(Reader):
    """Reads words."""

    kind: Literal["words"] = "words"


class Brew(Step):
    """A step for these tests."""

    kind: Literal["test_brew"] = "test_brew"
    makes: ClassVar[str] = "model"
    data: DataRef
    model: ModelRef = None
    reader: Reader = Words()
    """What it reads."""
    heat: float = 1.0
    """How hot."""
    watched: Annotated[bool, NotHashed()] = False
    """Whether somebody looks."""

    def make(self, work: StepContext) -> Mapping[str, Any]:
        """Not needed here."""
        return {}

    def estimate_cost(self, plan_context: PlanContext) -> StepCostEstimate:
        """Not needed here."""
        return StepCostEstimate()


INPUTS = {"data": "a" * 32, "model": "b" * 32}


def test_what_a_step_reads_is_marked_on_its_fields() -> None:
    assert {field: mark.makes for field, mark in Brew.reads().items()} == {"data": "dataset", "model": "model"}


def test_the_same_step_has_the_same_digest_whatever_its_inputs_are_called() -> None:
    first = Brew(data="data").recipe_digest(INPUTS, {}, 7)
    assert Brew(data="other-name", model="third").recipe_digest(dict(reversed(INPUTS.items())), {}, 7) == first
    assert len(first) == 32


def test_everything_that_decides_the_bytes_changes_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Brew(data="data")
    digests = [
        step.recipe_digest(INPUTS, {}, 7),
        step.recipe_digest(INPUTS, {}, 8),
        step.recipe_digest({**INPUTS, "data": "c" * 32}, {}, 7),
        step.recipe_digest({"data": INPUTS["model"], "model": INPUTS["data"]}, {}, 7),
        step.recipe_digest(INPUTS, {"words": "d"}, 7),
        Brew(data="data", heat=2).recipe_digest(INPUTS, {}, 7),
        Brew(data="data", reader=Words(path="other.txt")).recipe_digest(INPUTS, {}, 7),
    ]
    monkeypatch.setattr(Brew, "code", classmethod(lambda cls: "another revision"))
    digests.append(step.recipe_digest(INPUTS, {}, 7))
    assert len(set(digests)) == len(digests)


def test_what_stands_beside_the_artifact_is_in_no_name_and_no_manifest() -> None:
    plain, watched = Brew(data="data"), Brew(data="data", watched=True)
    assert watched.recipe_digest(INPUTS, {}, 7) == plain.recipe_digest(INPUTS, {}, 7)
    assert watched.hashed_settings() == plain.hashed_settings()
    assert watched.settings() != plain.settings()


def test_who_listens_to_a_steps_numbers_may_ask_it_to_stop(tmp_path: Path) -> None:
    heard: list[RunEvent] = []

    def listen(event: RunEvent) -> bool:
        heard.append(event)
        return float(event.measures["loss"]) < 1

    events = RunEventEmitter(listen, lambda event: None).of("tune")
    work = StepContext(
        name="tune", inputs={}, folder=tmp_path, scratch=tmp_path, recipe_dir=tmp_path, seed=0, events=events
    )
    assert work.report(1, {"loss": 2.0}, total=9) is False
    assert work.report(2, {"loss": 0.5}, done=8, total=36, unit="rows") is True
    assert [(one.done, one.total, one.unit) for one in heard] == [(1, 9, "steps"), (8, 36, "rows")]
    assert [dict(one.measures) for one in heard] == [{"loss": 2.0}, {"step": 2, "loss": 0.5}]


def test_contents_follow_the_files_that_parts_read(tmp_path: Path) -> None:
    step = Brew(data="data")
    (tmp_path / "in.txt").write_text("one")
    first = step.contents(tmp_path)
    ((_, code),) = digest_plugin_code(step).items()  # the step and its reader stand in this file
    assert sorted(first.values()) == sorted([code, file_digest(tmp_path / "in.txt")])
    (tmp_path / "in.txt").write_text("two")
    assert step.contents(tmp_path) != first
    assert step.contents(tmp_path).keys() == first.keys()
