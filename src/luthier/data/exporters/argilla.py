"""Records for Argilla 2, with what was judged as responses and what a model proposes as suggestions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from luthier.data.exporter import Exporter, Outgoing, Say, write_array
from luthier.data.label.asking import choices, question
from luthier.data.passes.tables import dump

_FIELD, _QUESTION = "text", "label"


class ArgillaOut(Exporter):
    """Argilla's records: `SPLIT.json` for `dataset.records.from_json`, and `settings.json` for `Settings.from_json`.

    The record's id is the row's; `origin` and `meta` are metadata, `meta` as JSON text: Argilla takes no structure.
    """

    kind: Literal["argilla"] = "argilla"

    def write(self, data: Outgoing, folder: Path, say: Say) -> None:
        """Write the records of each split, and settings with one text field and one question."""
        text = json.dumps(_settings(choices(data, say)), ensure_ascii=False, indent=1)
        (folder / "settings.json").write_text(text + "\n", encoding="utf-8")
        users = False
        for split in data.splits:
            write_array(folder / f"{split}.json", (record(line) for line in data.lines(split)))
            users = users or any(question(line).judgments for line in data.lines(split))
        if users:
            say("Argilla knows annotators by UUID: responses by other names are refused until such users exist")


def record(line: dict[str, Any]) -> dict[str, Any]:
    """A row as a record."""
    asked = question(line)
    origin = {f"origin.{name}": value for name, value in asked.kept["origin"].items()}
    made: dict[str, Any] = {
        "id": asked.kept["id"],
        "fields": {_FIELD: asked.text},
        "metadata": {**origin, "meta": dump(asked.kept["meta"])},
        "suggestions": {},
        "responses": {},
        "vectors": {},
        "status": "completed" if asked.judgments else "pending",
    }
    if asked.proposal:
        told = {"label": "value", "confidence": "score", "model": "agent"}
        made["suggestions"][_QUESTION] = {theirs: asked.proposal[ours] for ours, theirs in told.items()}
    if given := [one for one in asked.judgments if one.get("label") is not None]:
        made["responses"][_QUESTION] = [{"value": one["label"], "user_id": one["annotator"]} for one in given]
    return made


def _settings(labels: list[str]) -> dict[str, Any]:
    options = [{"value": label, "text": label, "description": None} for label in labels]
    field = {"name": _FIELD, "title": _FIELD, "required": True, "settings": {"type": "text", "use_markdown": False}}
    asked = {
        "name": _QUESTION,
        "title": _QUESTION,
        "description": None,
        "required": True,
        "settings": {"type": "label_selection", "options": options, "visible_options": max(3, len(options))},
    }
    return {
        "guidelines": None,
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "fields": [field],
        "questions": [asked],
        "vectors": [],
        "metadata": [],
    }
