"""OpenAI's fine-tuning files: chat rows, or pairs of a preferred and another answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from luthier.chat.openai_examples import (
    LARGEST_BYTES,
    LEAST_ROWS,
    explain_chat_refusal,
    explain_preference_refusal,
    format_chat_example,
    format_preference_example,
    get_rejected_answer,
)
from luthier.core.errors import DataError, SourceLocation
from luthier.data.exporter import ExportDataset, Exporter, ExportRow, Say, write_lines
from luthier.data.row import MESSAGES


class OpenaiOut(Exporter):
    """OpenAI fine-tuning JSONL, checked against OpenAI's rules; beside each file an index with what it cannot hold.

    `SPLIT.jsonl` holds `messages` (and `tools`), or `input`, `preferred_output` and `non_preferred_output`; line by
    line beside it, `SPLIT.index.jsonl` keeps `id`, `origin` and `meta`. Reasoning is left out.
    """

    kind: Literal["openai"] = "openai"
    form: Literal["auto", "chat", "preference"] = "auto"
    """`preference` where every row keeps another answer in its meta (`rejected`, `non_preferred_output`);
    `auto` looks and says."""

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write both files of each split; `DataError` names the first row that OpenAI would refuse."""
        pairs = self._pairs(data, say)
        for split in data.splits:
            path = folder / f"{split}.jsonl"
            write_lines(path, _checked(data, split, pairs=pairs))
            write_lines(folder / f"{split}.index.jsonl", _index(data, split))
            if data.rows(split) < LEAST_ROWS:
                say(f"{split}: {data.rows(split)} rows; OpenAI takes files of {LEAST_ROWS} rows and more")
            if path.stat().st_size > LARGEST_BYTES:
                say(f"{split}: larger than the {LARGEST_BYTES >> 20} MB that OpenAI takes in one file")
        say("OpenAI's form holds no id, origin or meta: they stand line by line in SPLIT.index.jsonl")

    def _pairs(self, data: ExportDataset, say: Say) -> bool:
        if self.form != "auto":
            return self.form == "preference"
        found = all(get_rejected_answer(line["meta"]) for split in data.splits for line in data.lines(split))
        if found:
            say("every row has a rejected answer: written as preference pairs")
        return found


def _index(data: ExportDataset, split: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.lines(split), start=1):
        yield {"line": number, **{name: line[name] for name in ("id", "origin", "meta")}}


def _checked(data: ExportDataset, split: str, *, pairs: bool) -> Iterator[dict[str, Any]]:
    refused: list[str] = []
    for line in data.lines(split):
        made = to_preference_example(line) if pairs else to_chat_example(line)
        if problem := (explain_preference_refusal(made) if pairs else explain_chat_refusal(made)):
            refused.append(f"{line['id']}: {problem}")
        yield made
    if refused:
        what = f"{len(refused)} of {data.rows(split)} rows would be refused by OpenAI; the first is {refused[0]}"
        raise DataError(
            what, where=SourceLocation(field=split), hint="drop or mend such rows in the recipe, or export `jsonl`"
        )


def to_chat_example(line: ExportRow) -> dict[str, Any]:
    """A row as OpenAI's chat example."""
    return format_chat_example(MESSAGES.validate_python(line["messages"]), line.get("tools", ()))


def to_preference_example(line: ExportRow) -> dict[str, Any]:
    """A row as OpenAI's preference example."""
    messages, rejected = MESSAGES.validate_python(line["messages"]), get_rejected_answer(line["meta"])
    return format_preference_example(messages, rejected, line.get("tools", ()))
