"""The operator that CONTRIBUTING shows: it does what it says, and is printed there as it is."""

from __future__ import annotations

from pathlib import Path

from luthier.chat.messages import Message
from luthier.data.ops.length import LengthOperator
from luthier.data.row import Row

ROOT = Path(__file__).parents[3]


def _row(text: str) -> Row:
    messages = (Message(role="user", content=text), Message(role="assistant", content="yes"))
    return Row(0, "0" * 16, "csv", "f.csv", 2, "chat", messages)


def test_rows_outside_the_limits_are_dropped_with_their_count() -> None:
    outcome = LengthOperator(min=2, max=3).apply([_row("one"), _row("one two"), _row("one two three four")])
    assert outcome.attributes["length"] == [1, 2, 4]
    assert {place: drop.reason for place, drop in outcome.drops.items()} == {
        0: "too short: 1 words",
        2: "too long: 4 words",
    }


def test_characters_can_be_counted() -> None:
    outcome = LengthOperator(unit="characters", max=3).apply([_row("one"), _row("one two")])
    assert outcome.attributes["length"] == [3, 7]
    assert outcome.drops[1].reason == "too long: 7 characters"


def test_contributing_prints_this_operator() -> None:
    source = (ROOT / "src/luthier/data/ops/length.py").read_text(encoding="utf-8")
    assert f"```python\n{source}```" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
