"""Tables of sentences that stand in the package as text, one row a line, cells between bars."""

from __future__ import annotations

from pathlib import Path


def table(name: str) -> list[str]:
    """The rows of a table by its place below this room, in order, without empty lines and those with # in front."""
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
