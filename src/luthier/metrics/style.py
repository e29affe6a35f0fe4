"""Style of an answer: its length and markup, to control preferences for it."""

from __future__ import annotations

from typing import NamedTuple

STYLE = ("length", "mark-up")
"""The covariates of a comparison, in the order of `style_difference`."""


class AnswerStyle(NamedTuple):
    """What an answer looks like."""

    words: int
    marks: int
    """Headings, list items, bold passages, rows of tables and code blocks, as Markdown has them."""


def measure_style(text: str) -> AnswerStyle:
    """Count an answer's words and mark-up."""
    lines = [line.lstrip() for line in text.splitlines()]
    marks = sum(line.startswith(("# ", "## ", "### ", "#### ", "- ", "* ", "+ ", "|", "```")) for line in lines)
    marks += sum(line.partition(". ")[0].isdigit() for line in lines) + text.count("**") // 2
    return AnswerStyle(len(text.split()), marks)


def style_difference(a: str, b: str) -> tuple[float, float]:
    """How much longer, and how much more marked up, one answer is than the other: from -1 to 1, as Chatbot Arena's
    style control has it (Li et al. 2024, "Does style matter?")."""
    first, second = measure_style(a), measure_style(b)
    length, marks = (x - y for x, y in zip(first, second, strict=True))
    return length / max(1, first.words + second.words), marks / max(1, first.marks + second.marks)
