"""Sentences that stopped readers: none of them comes back in what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "luthier"
FILES = [*SOURCE.rglob("*.py"), *SOURCE.rglob("*.jinja"), *SOURCE.rglob("*.yaml")]


@pytest.mark.parametrize(
    "sentence",
    [
        "share a prompt and not the answer",
        "take the sign away from the next line",
        "What it takes for what",
        "once as it is, to be compared with later",
        "; so many rows would show",
        "a text in quotes",
        "cannot be said to prefer",
        "cannot be told from {base",
        "Can its certainty be trusted",
        "The gain, row against row",
        "How it learnt from its own answers",
        "chance alone could explain",
        "the teacher reads the rows once",
        "taken over from before:",
        "the model it is held against",
        "which this one is held against",
        "Nothing is lost in silence: of",
        "crying it falsely",
        "too sure of themselves",
        "rows that changed sides",
        "Numbers hide what a change feels like",
    ],
)
def test_a_sentence_that_stopped_readers_is_gone(sentence: str) -> None:
    assert [path.name for path in FILES if sentence in path.read_text(encoding="utf-8")] == []


def test_errors_say_what_was_expected_and_what_they_got() -> None:
    old = re.compile(r"""["'](?:[^"'\n]*[:;] )?wanted (?:an? |one of |either )[^"'\n]*, came """)
    assert [path.name for path in FILES if old.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.regression
def test_a_hint_that_names_a_kind_names_one_that_exists() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FILES if path.suffix == ".py"]
    kinds = {kind for text in texts for line in re.findall(r"kind: Literal\[([^\]]*)\]", text)
             for kind in re.findall(r'"(\w+)"', line)}  # fmt: skip
    named = {kind for text in texts for kind in re.findall(r"step of kind `(\w+)`", text)}
    assert named
    assert named - kinds == set()
