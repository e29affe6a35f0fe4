"""Rows as tools for annotators want them: the text that is asked about, what was judged, what a model proposes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.core.counted import counted
from luthier.data.exporter import Line, Outgoing, Say, joined
from luthier.data.label.judgment import PROPOSAL, judgments_of

GIVEN = "given"
"""The model's name under which the label that a row has already is shown to annotators."""


@dataclass(frozen=True)
class Question:
    """One row as a question to annotators."""

    text: str
    kept: dict[str, Any]
    """What comes back with the answer: `id`, `origin`, and `meta` without judgments and proposals."""
    judgments: list[dict[str, Any]]
    proposal: dict[str, Any] | None
    """`label`, `confidence` (None: not known) and `model`."""


def question(line: Line) -> Question:
    """A row as a question."""
    asked = _before(line) or line["messages"][-1:]
    judgments = judgments_of(line["meta"])
    meta = {name: value for name, value in line["meta"].items() if name not in ("judgments", PROPOSAL)}
    kept = {"id": line["id"], "origin": line["origin"], "meta": meta}
    return Question(joined(asked), kept, judgments, _proposal(line, judgments))


def _before(line: Line) -> list[dict[str, Any]]:
    """The turns before the answer, without the system's."""
    return [turn for turn in line["messages"][:-1] if turn["role"] != "system"]


def _proposal(line: Line, judgments: list[dict[str, Any]]) -> dict[str, Any] | None:
    found = line["meta"].get(PROPOSAL)
    if isinstance(found, dict) and "label" in found:
        return {"label": found["label"], "confidence": found.get("confidence"), "model": found.get("model", "model")}
    if line["label"] is not None and not judgments:
        return {"label": line["label"], "confidence": None, "model": GIVEN}
    return None


def choices(data: Outgoing, say: Say) -> list[str]:
    """The labels that annotators choose from: the data's classes, those proposed and those judged."""
    found, unseen = set(data.labels), 0
    for split in data.splits:
        for line in data.lines(split):
            unseen += line["label"] is None and bool(_before(line))
            proposal = line["meta"].get(PROPOSAL)
            found |= set(proposal.get("scores", {})) if isinstance(proposal, dict) else set()
            found |= {str(one["label"]) for one in judgments_of(line["meta"]) if one.get("label") is not None}
    if not found:
        say("the data names no labels: write them into the tool's configuration")
    if unseen:
        say(f"{counted(unseen, 'answer')} of free text left out: annotators are shown what was asked before")
    return sorted(found)
