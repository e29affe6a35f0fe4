"""Texts for Doccano, a project of text classification."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from luthier.data.annotation.annotations import annotator_file_name, judgments_of, last_judgment_of
from luthier.data.annotation.client import AnnotationQuestion, LabelChoices, collect_label_choices
from luthier.data.exporter import ExportDataset, Exporter, Say, write_lines


class DoccanoExporter(Exporter):
    """Doccano's JSONL for text classification, and `labels.json` with its label types.

    `row_id` (Doccano gives ids of its own), `origin` and `meta` become the document's metadata. Doccano knows one label
    list a document: what one annotator judged goes into a file of that annotator, and a proposal is shown as the label.
    """

    kind: Literal["doccano"] = "doccano"

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write `SPLIT.jsonl`, or `SPLIT/ANNOTATOR.jsonl` where people have judged, and the label types."""
        options = collect_label_choices(data, say)
        write_lines(folder / "labels.json", [[{"text": label} for label in options.labels]])
        confident = judged = False
        for split in data.splits:
            names = sorted({entry["annotator"] for line in data.lines(split) for entry in judgments_of(line["meta"])})
            judged = judged or bool(names)
            if not names:
                write_lines(
                    folder / f"{split}.jsonl", (to_doccano_document(line, options) for line in data.lines(split))
                )
                confident = confident or any(options.question(line).proposal for line in data.lines(split))
            for name, file in _files(names).items():
                (folder / split).mkdir(exist_ok=True)
                write_lines(folder / split / f"{file}.jsonl", _of(data, split, name, options))
        if confident:
            say("Doccano has no place for a proposal's confidence: it stands in the document's metadata")
        if judged:
            say("Doccano has no place for the time of a judgment: it stands in the document's metadata")


def to_doccano_document(line: dict[str, Any], options: LabelChoices) -> dict[str, Any]:
    """A row as a document with the proposed label, if there is one."""
    question = options.question(line)
    found = question.proposal
    label = options.of(found) if found else []
    return {"text": question.text, "label": label, **_kept(question), **({"proposal": found} if found else {})}


def _of(data: ExportDataset, split: str, annotator: str, options: LabelChoices) -> Iterator[dict[str, Any]]:
    """What one annotator judged; of several judgments of one row, the last is the label."""
    for line in data.lines(split):
        question = options.question(line)
        mine = [judgment for judgment in question.judgments if judgment["annotator"] == annotator]
        if mine:
            yield {
                "text": question.text,
                "label": options.of(last_judgment_of(mine)),
                **_kept(question),
                "judgments": mine,
            }


def _kept(question: AnnotationQuestion) -> dict[str, Any]:
    """What comes back, with the row's id under a name of its own: Doccano gives its own."""
    return {"row_id" if name == "id" else name: value for name, value in question.kept.items()}


def _files(names: list[str]) -> dict[str, str]:
    """A file's name for each annotator, a different one each."""
    found: dict[str, str] = {}
    for name in names:
        file, number = annotator_file_name(name), 2
        while file in found.values():
            file, number = f"{annotator_file_name(name)}-{number}", number + 1
        found[name] = file
    return found
