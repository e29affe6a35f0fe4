"""What every kind of task promises: documented settings, names for rules, questions that are the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

from documented import undescribed
from eval.evaluations import text_examples
from eval.lm_eval.test_harness import write
from luthier.core.component import components_by_kind
from luthier.eval.task import SCORES, EvalTask, TaskContext

KINDS = components_by_kind(EvalTask)
SETTINGS = {"lm_eval": {"path": "sums.yaml", "data": "."}}
"""Settings without which a task of a kind cannot be made."""


def task(kind: str) -> EvalTask:
    return EvalTask.parse({"kind": kind, **SETTINGS.get(kind, {})})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_questions_are_the_same_again(kind: str, tmp_path: Path) -> None:
    write(tmp_path)
    brief = TaskContext(recipe_dir=tmp_path, examples=text_examples())
    first, again = task(kind).benchmarks(brief), task(kind).benchmarks(brief)
    assert [benchmark.signature for benchmark in first] == [benchmark.signature for benchmark in again]
    for benchmark in first:
        assert benchmark.name.isidentifier()
        assert len({item.id for item in benchmark.items}) == len(benchmark.items) > 0
        assert all(item.questions and item.shown and item.reference for item in benchmark.items)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_documented(kind: str) -> None:
    assert len(KINDS[kind].summary()) > 20
    assert undescribed(KINDS[kind]) == []
    for name in task(kind).measured() or ():
        assert name.split(".")[-1] in SCORES
