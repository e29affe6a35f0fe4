"""What a search leaves behind is read as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from luthier.artifacts.search import TRIALS, SearchRecord, SearchVerdict, TrialRow, read_trials, write_trials
from luthier.core.artifact import Artifact, Manifest, list_files
from luthier.core.errors import UnknownName

ROWS = (
    TrialRow(
        trial=1,
        rung=0,
        share=0.25,
        settings={"technique": "ia3", "learning_rate": 1e-3, "data.ops.quality": True},
        value=0.75,
        low=0.7,
        high=0.8,
        work=0.25,
        digest="abc",
        overrides=("steps.tune.technique=ia3", "steps.tune.learning_rate=0.001"),
    ),
    TrialRow(trial=0, rung=1, share=1.0, settings={}, value=0.8, low=0.75, high=0.85, work=0.75),
    TrialRow(trial=0, rung=0, share=0.25, settings={}, failed="ran out of memory", work=0.1),
)
RECORD = SearchRecord(
    of="tune",
    metric="macro_f1",
    better="higher",
    space={"lora": {"technique.r": {"low": 2, "high": 64, "log": True, "integer": True}}},
    budget=8,
    spent=7.5,
    trials=2,
    validation_rows=100,
    test_rows=200,
    verdict=SearchVerdict(winner=0, best=1, better=False, sentence="tune stays as it is."),
)


def artifact(folder: Path) -> Artifact:
    manifest = Manifest(
        digest="d",
        kind="search",
        makes="model",
        settings={},
        inputs={},
        reads={},
        code="c",
        seed=0,
        files=list_files(folder),
    )

    def find(digest: str) -> Artifact:
        raise UnknownName(digest)

    return Artifact(folder=folder, manifest=manifest, find=find)


def test_trials_are_read_as_written_in_the_order_of_rungs(tmp_path: Path) -> None:
    write_trials(tmp_path, ROWS)
    assert read_trials(artifact(tmp_path)) == [ROWS[2], ROWS[0], ROWS[1]]
    assert [row.branch for row in ROWS] == ["ia3", "", ""]


def test_the_bytes_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    write_trials(tmp_path, ROWS)
    first = (tmp_path / TRIALS).read_bytes()
    write_trials(tmp_path, ROWS[::-1])
    assert (tmp_path / TRIALS).read_bytes() == first


def test_a_search_without_trials_has_a_table_without_rows(tmp_path: Path) -> None:
    write_trials(tmp_path, ())
    assert read_trials(artifact(tmp_path)) == []


def test_the_record_is_read_as_written(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    assert SearchRecord.read(artifact(tmp_path)) == RECORD


def test_what_is_no_number_or_unknown_is_refused() -> None:
    with pytest.raises(ValidationError):
        TrialRow(trial=0, rung=0, share=1.0, settings={}, value=float("nan"))
    with pytest.raises(ValidationError):
        SearchRecord.model_validate({**RECORD.model_dump(), "colour": "red"})
