"""Tasks for Label Studio, with what was judged as annotations and what a model proposes as predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from luthier.data.annotation.client import LabelChoices, collect_label_choices
from luthier.data.exporter import ExportDataset, Exporter, Say, write_array

_TEXT = "text"
"""What the text is called in the configuration."""


class LabelStudioExporter(Exporter):
    """Label Studio's JSON: `SPLIT.json` to import, and `labels.xml` as the project's labelling configuration.

    `id`, `origin` and `meta` stand in each task's `data` and come back with its answers. Label Studio knows annotators
    by address or number: judgments of others become those of whoever imports, and keep the name in `annotator`.
    """

    kind: Literal["label_studio"] = "label_studio"

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write the tasks of each split, and the configuration."""
        options = collect_label_choices(data, say)
        (folder / "labels.xml").write_text(_config(options), encoding="utf-8")
        for split in data.splits:
            write_array(folder / f"{split}.json", (task(line, options) for line in data.lines(split)))


def task(line: dict[str, Any], options: LabelChoices) -> dict[str, Any]:
    """A row as a task."""
    question = options.question(line)
    made: dict[str, Any] = {"data": {_TEXT: question.text, **question.kept}}
    if question.judgments:
        made["annotations"] = [_annotation(judgment, options) for judgment in question.judgments]
    if question.proposal:
        score = question.proposal["confidence"]
        found = {"model_version": question.proposal["model"], "result": [_choice(options, question.proposal)]}
        made["predictions"] = [found if score is None else {**found, "score": score}]
    return made


def _annotation(one: dict[str, Any], options: LabelChoices) -> dict[str, Any]:
    is_decided = bool(options.of(one))
    made = {
        "result": [_choice(options, one)] if is_decided else [],
        "was_cancelled": not is_decided,
        **_by(one["annotator"]),
    }
    named = {"time": "created_at", "seconds": "lead_time"}
    return made | {theirs: one[ours] for ours, theirs in named.items() if ours in one}


def _by(annotator: str) -> dict[str, Any]:
    """Who judged: Label Studio takes an address or a user's number, and refuses the whole import for any other name."""
    if "@" in annotator:
        return {"completed_by": {"email": annotator}}
    is_number = annotator.isdecimal() and str(int(annotator)) == annotator
    return {"completed_by": int(annotator)} if is_number else {"annotator": annotator}


def _choice(options: LabelChoices, one: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": _name(options), "to_name": _TEXT, "type": "choices", "value": {"choices": options.of(one)}}


def _name(options: LabelChoices) -> str:
    """What the control is called: not as the text is."""
    return options.name if options.name != _TEXT else "label"


def _config(options: LabelChoices) -> str:
    lines = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in options.labels)
    how, name = "multiple" if options.between else "single", quoteattr(_name(options))
    return (
        f'<View>\n  <Text name="{_TEXT}" value="${_TEXT}"/>\n'
        f'  <Choices name={name} toName="{_TEXT}" choice="{how}" showInline="true">\n{lines}  </Choices>\n</View>\n'
    )
