"""A bench for the data room: write rows, prepare them, read the books."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from luthier.artifacts.dataset import DatasetSummary
from luthier.core.artifact import Artifact, Manifest, list_files
from luthier.core.events import RunEvent, RunEventEmitter
from luthier.core.step import StepContext
from luthier.data.engine.pipeline import PrepareOptions, prepare
from luthier.data.steps.prepare import Prepare

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_PII_KEY", "a key for tests")


@pytest.fixture
def real_data() -> Path:
    """The folder with real data sets; the test is skipped without it."""
    if not DATA.is_dir():
        pytest.skip(f"the real data sets are not beside the repository ({DATA.parent.name}/{DATA.name})")
    return DATA


@dataclass
class Made:
    """A prepared data set and what was said on the way."""

    artifact: Artifact
    said: list[RunEvent] = field(default_factory=list)

    @property
    def summary(self) -> DatasetSummary:
        return DatasetSummary.read(self.artifact)

    @property
    def notes(self) -> str:
        return "\n".join(event.text for event in self.said if event.kind in ("note", "warning"))

    @property
    def events(self) -> pl.DataFrame:
        return pl.read_parquet(self.artifact.folder / "events.parquet")

    def split(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.artifact.folder / "examples" / f"{name}.parquet")

    def attributes(self, operator: str) -> pl.DataFrame:
        return pl.read_parquet(self.artifact.folder / "attributes" / f"{operator}.parquet")

    def all(self) -> pl.DataFrame:
        return pl.concat([self.split(name) for name in self.summary.rows])

    def texts(self) -> list[str]:
        return [turn.get("content", "") for row in self.all()["messages"] for turn in json.loads(row)]

    def files(self) -> dict[str, str]:
        return {entry.path: entry.digest for entry in list_files(self.artifact.folder)}


Maker = Callable[..., Made]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Prepare a data set as the step would: `make(source=…, ops=…, split=…)`."""
    count = 0

    def run(
        *,
        seed: int = 7,
        batch_rows: int = 1024,
        workers: int = 1,
        base: Path | None = None,
        scratch: Path | None = None,
        kept: Path | None = None,
        **settings: Any,
    ) -> Made:
        nonlocal count
        count += 1
        said: list[RunEvent] = []
        folder, scratch = tmp_path / f"out{count}", scratch or tmp_path / f"scratch{count}"
        folder.mkdir()
        scratch.mkdir(exist_ok=True)
        work = StepContext(
            name="data",
            inputs={},
            folder=folder,
            scratch=scratch,
            recipe_dir=base or tmp_path,
            seed=seed,
            events=RunEventEmitter(said.append).of("data"),
            kept=kept,
        )
        step = Prepare(**settings)
        prepare(step.source, step.ops, step.split, work, PrepareOptions(batch_rows, workers, step.task))
        manifest = Manifest(
            digest=f"{count:032d}",
            kind="prepare",
            makes="dataset",
            settings=step.settings(),
            inputs={},
            reads={},
            code="",
            seed=seed,
            files=list_files(folder),
        )
        return Made(Artifact(folder, manifest, lambda digest: pytest.fail("no parents")), said)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes | list[dict[str, Any]]], str]:
    """Write a file below the recipe's folder; rows are written as JSON lines."""

    def run(name: str, content: str | bytes | list[dict[str, Any]]) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return run
