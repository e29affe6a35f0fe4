"""What every scorer promises: defaults, documentation, and its columns in full, with a gap where it has no number."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from documented import undescribed
from luthier.core.component import components_by_kind
from luthier.core.context import RunContext
from luthier.core.errors import InputError
from luthier.core.scorer import Scorer, ScorerRow

SCORERS = components_by_kind(Scorer)


@pytest.mark.parametrize("kind", sorted(SCORERS))
def test_documented(kind: str) -> None:
    scorer = SCORERS[kind]
    assert len(scorer.summary()) > 20
    assert scorer.writes
    assert undescribed(scorer) == []
    assert scorer.model_validate({"kind": kind}).settings()["kind"] == kind
    with pytest.raises(ValidationError):
        scorer.model_validate({"kind": kind, "no_such_setting": 1})


@pytest.mark.parametrize("kind", sorted(SCORERS))
def test_what_it_cannot_reach_is_said(kind: str, tmp_path: Path) -> None:
    """With defaults there is no judge and no such folder: an error of the user's, or numbers for every row."""
    told = {"url": "http://127.0.0.1:9/v1", "retries": 0} if kind == "judge" else {}
    scorer = SCORERS[kind].model_validate({"kind": kind, **told})
    rows = [ScorerRow(question="what is it", prediction="it is this", references=("pass",))] * 2
    desk = RunContext(recipe_dir=tmp_path, kept=tmp_path, models=lambda name: tmp_path / name)
    if kind not in ("unit_tests", "embedding"):
        with pytest.raises(InputError) as caught:
            scorer.columns(rows, desk)
        assert caught.value.hint
        return
    found = scorer.columns(rows, desk)
    assert set(found) == set(scorer.writes)
    assert all(len(column) == 2 for column in found.values())
