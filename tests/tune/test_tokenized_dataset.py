"""Tokenized examples come back from disk as they were written, a teacher's choices included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from luthier.models.packing.pack import TokenRow
from luthier.tune.dataset.tokenized import TokenizedDataset
from luthier.tune.objective import TrainingExample

PLAIN = [
    TrainingExample(id="a", rows=(TokenRow([1, 2, 3], [0.0, 1.0, 0.5], "a", 2), TokenRow([1, 9], [0.0, 1.0], "a", 2))),
    TrainingExample(id="b", nothing="too long"),
    TrainingExample(id="c", rows=(TokenRow([4, 5], [0.0, 1.0], "c"),)),
]


def taught(example: TrainingExample) -> TrainingExample:
    rows = [
        replace(row, choices=[[7, at] for at in row.targets], teacher=[[-0.5, -1.5] for _ in row.targets])
        for row in example.rows
    ]
    return replace(example, rows=tuple(rows))


@pytest.mark.parametrize("given", [PLAIN, [taught(example) for example in PLAIN]], ids=["plain", "taught"])
def test_examples_come_back_as_they_were(given: list[TrainingExample], tmp_path: Path) -> None:
    made = TokenizedDataset.write(tmp_path / "examples", given, "key")
    assert [tuple(made.rows(number)) for number in range(len(made))] == [one.rows for one in given if one.rows]
    assert (made.counts.examples, made.counts.trained_examples, made.counts.trained_tokens) == (3, 2, 4)


def test_choices_of_an_earlier_writing_are_gone(tmp_path: Path) -> None:
    TokenizedDataset.write(tmp_path / "examples", [taught(example) for example in PLAIN], "one")
    assert TokenizedDataset.write(tmp_path / "examples", PLAIN, "two").rows(0)[0].choices == ()
