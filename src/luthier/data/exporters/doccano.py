"""Texts for Doccano, a project of text classification."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from luthier.data.exporter import Exporter, Outgoing, Say, write_lines
from luthier.data.label.asking import Question, choices, question


class DoccanoOut(Exporter):
    """Doccano's JSONL for text classification, and `labels.json` with its label types.

    `row_id` (Doccano gives ids of its own), `origin` and `meta` become the document's metadata. Doccano knows one label
    list a document: what one annotator judged goes into a file of that annotator, and a proposal is shown as the label.
    """

    kind: Literal["doccano"] = "doccano"

    def write(self, data: Outgoing, folder: Path, say: Say) -> None:
        """Write `SPLIT.jsonl`, or `SPLIT/ANNOTATOR.jsonl` where people have judged, and the label types."""
        write_lines(folder / "labels.json", [[{"text": label} for label in choices(data, say)]])
        confident = judged = False
        for split in data.splits:
            names = sorted({one["annotator"] for line in data.lines(split) for one in question(line).judgments})
            judged = judged or bool(names)
            if not names:
                write_lines(folder / f"{split}.jsonl", (document(line) for line in data.lines(split)))
                confident = confident or any(question(line).proposal for line in data.lines(split))
            for name in names:
                (folder / split).mkdir(exist_ok=True)
                write_lines(folder / split / f"{_file(name)}.jsonl", _of(data, split, name))
        if confident:
            say("Doccano has no place for a proposal's confidence: it stands in the document's metadata")
        if judged:
            say("Doccano has no place for the time of a judgment: it stands in the document's metadata")


def document(line: dict[str, Any]) -> dict[str, Any]:
    """A row as a document with the proposed label, if there is one."""
    asked = question(line)
    found = asked.proposal
    label = [str(found["label"])] if found else []
    return {"text": asked.text, "label": label, **_kept(asked), **({"proposal": found} if found else {})}


def _of(data: Outgoing, split: str, annotator: str) -> Iterator[dict[str, Any]]:
    """What one annotator judged."""
    for line in data.lines(split):
        asked = question(line)
        mine = [one for one in asked.judgments if one["annotator"] == annotator]
        if mine:
            labels = [str(one["label"]) for one in mine if one.get("label") is not None]
            yield {"text": asked.text, "label": labels, **_kept(asked), "judgments": mine}


def _kept(asked: Question) -> dict[str, Any]:
    return {"row_id": asked.kept["id"], "origin": asked.kept["origin"], "meta": asked.kept["meta"]}


def _file(annotator: str) -> str:
    """The annotator's name as a file's: nothing that leads elsewhere."""
    return "".join(char if char.isalnum() or char in "._-@" else "_" for char in annotator).lstrip(".") or "_"
