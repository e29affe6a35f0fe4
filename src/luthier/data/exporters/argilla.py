"""Records for Argilla 2, with what was judged as responses and what a model proposes as suggestions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from luthier.core.events import format_counted_noun
from luthier.data.annotation.annotations import judgments_of
from luthier.data.annotation.client import LabelChoices, collect_label_choices
from luthier.data.engine.tables import dump_cell_json, dump_tools
from luthier.data.exporter import ExportDataset, Exporter, Say, write_array

_FIELD = "text"
_ALLOWED = re.compile(r"[a-z0-9][a-z0-9_-]*")
"""What Argilla lets a question be called."""


class ArgillaExporter(Exporter):
    """Argilla's records: `SPLIT.json` for `dataset.records.from_json`, and `settings.json` for `Settings.from_json`.

    The record's id is the row's; `origin`, `meta` and what else was asked are metadata, as JSON text where they have
    structure, which Argilla does not take. A proposal of several classes has its confidence at each of them.
    """

    kind: Literal["argilla"] = "argilla"

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write the records of each split, and settings with one text field and one question."""
        options = collect_label_choices(data, say)
        text = json.dumps(_settings(options), ensure_ascii=False, indent=1)
        (folder / "settings.json").write_text(text + "\n", encoding="utf-8")
        for split in data.splits:
            write_array(folder / f"{split}.json", (record(line, options) for line in data.lines(split)))
        judged = [entry for split in data.splits for line in data.lines(split) for entry in judgments_of(line["meta"])]
        if judged:
            say("Argilla knows annotators by UUID: responses by other names are refused until such users exist")
        if undecided := sum(entry.get("label") is None for entry in judged):
            say(f"{format_counted_noun(undecided, 'judgment')} without a label left out: Argilla's records hold none")
        if any("time" in entry or "seconds" in entry for entry in judged):
            say("Argilla has no place for the time of a judgment: it is left out")


def record(line: dict[str, Any], options: LabelChoices) -> dict[str, Any]:
    """A row as a record."""
    question = options.question(line)
    kept = {name: value for name, value in question.kept.items() if name not in ("id", "origin")}
    flat = {
        name: value if isinstance(value, str) else dump_tools(value) if name == "tools" else dump_cell_json(value)
        for name, value in kept.items()
    }
    made: dict[str, Any] = {
        "id": question.kept["id"],
        "fields": {_FIELD: question.text},
        "metadata": {**{f"origin.{name}": value for name, value in question.kept["origin"].items()}, **flat},
        "suggestions": {},
        "responses": {},
        "vectors": {},
        "status": "completed" if question.judgments else "pending",
    }
    if found := question.proposal:
        value, score = _value(options, found), found["confidence"]
        scores = [score] * len(value) if isinstance(value, list) and score is not None else score
        made["suggestions"][_name(options)] = {"value": value, "score": scores, "agent": found["model"]}
    if given := [judgment for judgment in question.judgments if judgment.get("label") is not None]:
        responses = [{"value": _value(options, entry), "user_id": entry["annotator"]} for entry in given]
        made["responses"][_name(options)] = responses
    return made


def _name(options: LabelChoices) -> str:
    return options.name if _ALLOWED.fullmatch(options.name) else "label"


def _value(options: LabelChoices, one: dict[str, Any]) -> Any:
    """An answer as the question wants it: a list where several classes may be chosen."""
    return options.of(one) if options.between else one["label"]


def _settings(choose: LabelChoices) -> dict[str, Any]:
    options = [{"value": label, "text": label, "description": None} for label in choose.labels]
    field = {"name": _FIELD, "title": _FIELD, "required": True, "settings": {"type": "text", "use_markdown": False}}
    kind = "multi_label_selection" if choose.between else "label_selection"
    question = {
        "name": _name(choose),
        "title": choose.name,
        "description": None,
        "required": True,
        "settings": {"type": kind, "options": options, "visible_options": max(3, len(options))},
    }
    return {
        "guidelines": None,
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "fields": [field],
        "questions": [question],
        "vectors": [],
        "metadata": [],
    }
