"""Tables of sentences that stand beside this file as text, one row a line, cells between bars."""

from __future__ import annotations

from pathlib import Path


def table(name: str) -> list[str]:
    """The rows of a table by the name of its file, in order; empty lines and those that begin with # are left out."""
    text = Path(__file__).with_name(f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
