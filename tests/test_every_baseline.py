"""What every plain baseline promises: an answer for every row, sound scores, the same answers each time."""

from __future__ import annotations

import math

import pytest

from eval.evaluations import label_examples, text_examples
from luthier.core.component import members
from luthier.eval.baseline import Baseline
from luthier.eval.rows import Task, TaskKind

KINDS = members(Baseline)


def task(kind: TaskKind) -> Task:
    """Some held-out rows."""
    examples = label_examples()[60:] if kind == "label" else text_examples()[28:]
    options = {label: label for label in sorted({one.label for one in examples if one.label})}
    return Task(kind=kind, split="test", examples=tuple(examples), available=len(examples), options=options)


def cases() -> list[tuple[str, TaskKind]]:
    """Each baseline with each task that it can do."""
    return [(kind, able) for kind in sorted(KINDS) for able in sorted(KINDS[kind].tasks)]


@pytest.mark.parametrize(("kind", "able"), cases())
@pytest.mark.parametrize("learnt", [0, 1, 60])
def test_answers(kind: str, able: TaskKind, learnt: int) -> None:
    baseline, asked = Baseline.parse(kind), task(able)
    train = (label_examples() if able == "label" else text_examples())[:learnt]
    replies = baseline.answer(train, asked)
    assert replies == baseline.answer(train, asked)
    assert len(replies) == len(asked.examples)
    for reply in replies:
        if able == "label":
            assert reply.scores is not None
            assert set(reply.scores) == set(asked.labels)
            assert sum(map(math.exp, reply.scores.values())) == pytest.approx(1, abs=1e-3)
            assert reply.scores[reply.prediction] == max(reply.scores.values())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_documented(kind: str) -> None:
    assert len(KINDS[kind].title) > 5
    assert len(KINDS[kind].summary()) > 20
    for name, field in KINDS[kind].model_fields.items():
        assert name == "kind" or field.description, name


def test_tfidf_learns_from_words() -> None:
    asked = task("label")
    replies = Baseline.parse("tfidf").answer(label_examples()[:60], asked)
    assert sum(map(bool, asked.correct(replies))) > 20
