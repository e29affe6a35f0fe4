"""A bench for steps that make a data set from another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.core.artifact import Artifact, Manifest, list_files
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.step import Step, StepContext
from tests.data.conftest import Made


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., Made]:
    """Make a step's artifact: `take(Label(...), data=artifact)`."""
    count = 0

    def run(step: Step, *, seed: int = 7, **inputs: Artifact) -> Made:
        nonlocal count
        count += 1
        said: list[RunEvent] = []
        folder, scratch = tmp_path / f"step{count}", tmp_path / f"step-scratch{count}"
        folder.mkdir()
        scratch.mkdir()
        work = StepContext(
            name=step.kind,
            inputs=inputs,
            folder=folder,
            scratch=scratch,
            recipe_dir=tmp_path,
            seed=seed,
            events=RunEventEmitter(said.append).of(step.kind),
        )
        assert step.make(work)
        manifest = Manifest(
            digest=f"{count:032d}", kind=step.kind, makes=step.makes, settings=step.settings(), inputs={}, reads={},
            code="", seed=seed, files=list_files(folder),
        )  # fmt: skip
        return Made(Artifact(folder, manifest, lambda digest: pytest.fail("no parents")), said)

    return run
