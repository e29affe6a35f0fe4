"""Programs run against their tests, and pass@k from what passed."""

from __future__ import annotations

import platform
from itertools import combinations
from pathlib import Path

import pytest

from luthier.core.context import RunContext
from luthier.core.errors import DataError
from luthier.core.scorer import ScorerRow
from luthier.metrics.kinds.code import PassAtK
from luthier.metrics.metric import EvalPredictions, measure_all
from luthier.metrics.scorers.unit_tests import UnitTestScorer

TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
RIGHT, WRONG = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"
FENCED = f"Here you are:\n```python\n{RIGHT}\n```\nIt adds."


def desk(folder: Path) -> RunContext:
    return RunContext(recipe_dir=folder, kept=folder, models=Path)


@pytest.mark.skipif((platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="needs Linux on x86_64")
def test_programs_are_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ScorerRow(prediction=FENCED, references=(TESTS,), samples=(WRONG, RIGHT)),
        ScorerRow(prediction="no program at all", references=(TESTS,), samples=("import os; os._exit(0)", WRONG)),
    ]
    found = UnitTestScorer().columns(rows, desk(tmp_path))
    assert found == {"passed": [2.0, 0.0], "programs": [3.0, 3.0]}
    monkeypatch.setattr("luthier.metrics.scorers.unit_tests.run", None)  # nothing may be run a second time
    assert UnitTestScorer().columns(rows, desk(tmp_path)) == found
    assert UnitTestScorer(fenced=False).program(FENCED) == FENCED


@pytest.mark.parametrize("k", [1, 2, 5])
def test_pass_at_k_by_drawing_every_set(k: int) -> None:
    programs, passed = 6, [0, 1, 3, 6]
    answers = EvalPredictions.of([""] * 4, [""] * 4, columns={"passed": passed, "programs": [programs] * 4})
    wanted = []
    for count in passed:
        sets = list(combinations([place < count for place in range(programs)], k))
        wanted.append(sum(any(drawn) for drawn in sets) / len(sets))
    score = measure_all([PassAtK(k=k)], answers)[0]
    assert score.rows == pytest.approx(wanted)
    assert score.value == pytest.approx(sum(wanted) / 4)


def test_too_few_programs() -> None:
    answers = EvalPredictions.of([""], [""], columns={"passed": [1], "programs": [2]})
    with pytest.raises(DataError, match="pass@3 needs 3 programs, and 2 came"):
        measure_all([PassAtK(k=3)], answers)
