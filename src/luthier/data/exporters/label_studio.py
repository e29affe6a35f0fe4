"""Tasks for Label Studio, with what was judged as annotations and what a model proposes as predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from luthier.data.exporter import Exporter, Outgoing, Say, write_array
from luthier.data.label.asking import choices, question

_NAME, _TEXT = "label", "text"
"""What the control and the text are called in the configuration."""


class LabelStudioOut(Exporter):
    """Label Studio's JSON: `SPLIT.json` to import, and `labels.xml` as the project's labelling configuration.

    `id`, `origin` and `meta` stand in each task's `data` and come back with its answers. Label Studio knows annotators
    by address or number: judgments of others become those of whoever imports, and keep the name in `annotator`.
    """

    kind: Literal["label_studio"] = "label_studio"

    def write(self, data: Outgoing, folder: Path, say: Say) -> None:
        """Write the tasks of each split, and the configuration."""
        (folder / "labels.xml").write_text(_config(choices(data, say)), encoding="utf-8")
        for split in data.splits:
            write_array(folder / f"{split}.json", (task(line) for line in data.lines(split)))


def task(line: dict[str, Any]) -> dict[str, Any]:
    """A row as a task."""
    asked = question(line)
    made: dict[str, Any] = {"data": {_TEXT: asked.text, **asked.kept}}
    if asked.judgments:
        made["annotations"] = [_annotation(one) for one in asked.judgments]
    if asked.proposal:
        score = asked.proposal["confidence"]
        found = {"model_version": asked.proposal["model"], "result": [_choice(asked.proposal["label"])]}
        made["predictions"] = [found if score is None else {**found, "score": score}]
    return made


def _annotation(one: dict[str, Any]) -> dict[str, Any]:
    label = one.get("label")
    made = {
        "result": [] if label is None else [_choice(label)],
        "was_cancelled": label is None,
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


def _choice(label: Any) -> dict[str, Any]:
    return {"from_name": _NAME, "to_name": _TEXT, "type": "choices", "value": {"choices": [str(label)]}}


def _config(labels: list[str]) -> str:
    lines = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in labels)
    return (
        f'<View>\n  <Text name="{_TEXT}" value="${_TEXT}"/>\n'
        f'  <Choices name="{_NAME}" toName="{_TEXT}" choice="single" showInline="true">\n{lines}  </Choices>\n</View>\n'
    )
