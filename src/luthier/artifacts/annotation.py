"""What people say about items: labels of an annotation tool, and ratings of a blind human evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class AnnotatedSpan(NamedTuple):
    """A place in a text that an annotator gave a label."""

    start: int
    end: int
    text: str
    label: str
    question: str
    """Which of several questions it answers."""


class Annotation(NamedTuple):
    """What one annotator said about one item: a label or a rating."""

    annotator: str
    value: Any
    """A label (a text or a number), or a rating as its form keeps it; None where the annotator looked and did not
    decide (skipped, passed, discarded, cancelled)."""
    item: str = ""
    """What it is about; empty where the item keeps its annotations itself."""
    comment: str = ""
    time: str | None = None
    """When, in ISO 8601 as the file has it."""
    seconds: float | None = None
    """How long it took."""
    question: str | None = None
    """Which of several questions it answers."""
    more: Mapping[str, Any] = {}
    """What else the tool kept: spans, comments, status, ids."""
    classes: tuple[str, ...] = ()
    """The classes, where there are several; the label is all of them together."""
    spans: tuple[AnnotatedSpan, ...] | None = None
    """Places that were marked in the item's text; None where it is about none."""
