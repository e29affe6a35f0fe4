"""A table for spreadsheets, without formulas."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

from luthier.core.spreadsheet import escape_formula, is_formula
from luthier.data.engine.tables import dump_cell_json, dump_tools
from luthier.data.exporter import ExportDataset, Exporter, ExportRow, Say, join_turn_texts

COLUMNS = ("id", "source", "file", "line", "kind", "label", "system", "prompt", "answer", "messages", "tools", "meta")


class CsvExporter(Exporter):
    """One CSV a split, safe to open in a spreadsheet: texts that would be read as formulas get an apostrophe in front.

    It begins with the mark of UTF-8, by which Excel reads letters beyond ASCII as they are. `label`, `prompt` and
    `answer` are for reading; `messages`, `tools` and `meta` hold the whole row as JSON text, and are read back.
    """

    kind: Literal["csv"] = "csv"

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write `SPLIT.csv`, every text quoted (RFC 4180), and say how many cells were made harmless."""
        guarded = 0
        for split in data.splits:
            with (folder / f"{split}.csv").open("w", encoding="utf-8-sig", newline="") as file:
                writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
                writer.writerow(COLUMNS)
                for line in data.lines(split):
                    cells = _cells(line)
                    guarded += sum(is_formula(cell) for cell in cells)
                    writer.writerow([escape_formula(cell) for cell in cells])
        if guarded:
            say(f"{guarded} cells would be read as formulas: an apostrophe stands before them")


def _cells(line: ExportRow) -> list[Any]:
    messages = line["messages"]
    before = [turn for turn in messages if turn["role"] == "system"]
    prompt_turns = [turn for turn in messages[:-1] if turn["role"] != "system"]
    values = {
        **line["origin"],
        **{name: line[name] or "" for name in ("id", "kind", "label")},
        "system": join_turn_texts(before),
        "prompt": join_turn_texts(prompt_turns),
        "answer": join_turn_texts(messages[-1:]),
        "messages": dump_cell_json(messages),
        "tools": dump_tools(line["tools"]) if "tools" in line else "",
        "meta": dump_cell_json(line["meta"]),
    }
    return [values[name] for name in COLUMNS]
