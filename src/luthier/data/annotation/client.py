"""Rows as questions for annotation tools: the text, the choices, earlier annotations and the model's suggestion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.core.events import format_counted_noun
from luthier.data.annotation.annotations import PROPOSAL, TOGETHER, ClassSeparator, detect_class_separator, judgments_of
from luthier.data.exporter import ExportDataset, ExportRow, Say, join_turn_texts

GIVEN = "given"
"""The model's name under which the label that a row has already is shown to annotators."""


@dataclass(frozen=True)
class AnnotationQuestion:
    """One row as a question to annotators."""

    text: str
    kept: dict[str, Any]
    """What comes back with the answer: `id`, `origin`, `meta` without judgments and proposals, and what the text does
    not say of the row (`turns`, `tools`, `detect_class_separator`, `given`)."""
    judgments: list[dict[str, Any]]
    proposal: dict[str, Any] | None
    """`label`, `confidence` (None: not known) and `model`."""


@dataclass(frozen=True)
class LabelChoices:
    """The labels that annotators choose from."""

    labels: list[str]
    between: ClassSeparator | None = None
    """The separator between the classes of rows with several classes; None where every row has one."""
    name: str = "label"
    """The name of the question: the one under which the rows were judged, where there was only one."""

    def of(self, one: Mapping[str, Any]) -> list[str]:
        """The classes that a judgment or a proposal names; none of one that was not decided."""
        label = one.get("label")
        if label is None:
            return []
        if one.get("classes"):
            return [str(name) for name in one["classes"]]
        return self.between.apart(str(label)) if self.between else [str(label)]

    def question(self, line: ExportRow) -> AnnotationQuestion:
        """A row as a question."""
        before = _before(line)
        judgments = judgments_of(line["meta"])
        meta = {name: value for name, value in line["meta"].items() if name not in ("judgments", PROPOSAL)}
        kept = {
            "id": line["id"],
            "origin": line["origin"],
            "meta": meta,
            **_turns_and_tools(line),
            **self._together(line),
        }
        return AnnotationQuestion(
            join_turn_texts(before or line["messages"][-1:]), kept, judgments, _proposal(line, judgments)
        )

    def _together(self, line: ExportRow) -> dict[str, Any]:
        """Return the classes of a row joined into one label."""
        if self.between is None:
            return {}
        answer = line["messages"][-1].get("content", "") if _before(line) else ""
        given = line["label"] or answer
        return {"between": self.between.text, **({"given": given} if len(self.between.apart(given)) > 1 else {})}


def _before(line: ExportRow) -> list[dict[str, Any]]:
    """The turns before the answer, without the system's."""
    return [turn for turn in line["messages"][:-1] if turn["role"] != "system"]


def _turns_and_tools(line: ExportRow) -> dict[str, Any]:
    """Return the row's turns, where its input is more than one text, and the tools on offer."""
    turns = line["messages"][:-1]
    plain = len(turns) < 2 and all(turn["role"] == "user" and set(turn) <= {"role", "content"} for turn in turns)
    return {**({} if plain else {"turns": turns}), **({"tools": line["tools"]} if "tools" in line else {})}


def _proposal(line: ExportRow, judgments: list[dict[str, Any]]) -> dict[str, Any] | None:
    found = line["meta"].get(PROPOSAL)
    if isinstance(found, dict) and "label" in found:
        return {"label": found["label"], "confidence": found.get("confidence"), "model": found.get("model", "model")}
    if line["label"] is not None and not judgments:
        return {"label": line["label"], "confidence": None, "model": GIVEN}
    return None


def collect_label_choices(data: ExportDataset, say: Say) -> LabelChoices:
    """The labels that annotators choose from: the data's classes, those proposed and those judged."""
    found, names, unseen, lists = set(data.labels), set[Any](), 0, False
    for split in data.splits:
        for line in data.lines(split):
            unseen += line["label"] is None and bool(_before(line))
            proposal = line["meta"].get(PROPOSAL)
            if isinstance(proposal, dict):
                found |= {*proposal.get("scores", {}), *([str(proposal["label"])] if "label" in proposal else [])}
            judged = judgments_of(line["meta"])
            found |= {str(entry["label"]) for entry in judged if entry.get("label") is not None}
            names |= {entry.get("question") for entry in judged if entry.get("label") is not None}
            lists = lists or any(entry.get("classes") for entry in judged)
    if not found:
        say("the data names no labels: write them into the tool's configuration")
    if unseen:
        say(
            f"{format_counted_noun(unseen, 'answer')} of free text left out: annotators are shown what was asked before"
        )
    marked = ClassSeparator(TOGETHER) if lists else detect_class_separator(found)
    name = str(*names) if len(names) == 1 and None not in names else "label"
    if marked is None:
        return LabelChoices(sorted(found), name=name)
    say(f"rows hold several classes, with {marked.text.strip()!r} between: annotators may choose several")
    return LabelChoices(sorted({entry for label in found for entry in marked.apart(label)}), marked, name)
