"""LLaMA-Factory's data sets, with pictures and sounds as files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from luthier.chat.openai_examples import get_rejected_answer
from luthier.data.exporter import ExportDataset, Exporter, ExportRow, Say, write_array, write_lines
from luthier.data.exporters.providers import list_row_index

_COLUMNS = {"image": "images", "audio": "audios"}
_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


class LlamaFactoryExporter(Exporter):
    """LLaMA-Factory's form: `SPLIT.json` and the `dataset_info.json` that names them, to be used as `dataset_dir`.

    Rows have `messages`, and `chosen` and `rejected` where every row has an answer that was not preferred. Pictures and
    sounds are files below `media`, each once, with a mark such as `<image>` in the text and their paths in `images` and
    `audios`. Beside each file, `SPLIT.index.jsonl` keeps `id`, `origin` and `meta`, line by line. Tools, and calls of
    them, are not written.
    """

    kind: Literal["llamafactory"] = "llamafactory"
    carries_media: ClassVar[bool] = True

    def write(self, data: ExportDataset, folder: Path, say: Say) -> None:
        """Write `SPLIT.json`, `dataset_info.json` and `media/*`."""
        pairs = all(get_rejected_answer(line["meta"]) for split in data.splits for line in data.lines(split))
        columns = sorted({name for split in data.splits for line in data.lines(split, "own") for name in _media(line)})
        described: dict[str, Any] = {}
        for split in data.splits:
            write_array(folder / f"{split}.json", self._rows(data, split, folder, columns, pairs=pairs))
            write_lines(folder / f"{split}.index.jsonl", list_row_index(data, split))
            shown = {"messages": "messages", **{name: name for name in columns}}
            shown |= {"chosen": "chosen", "rejected": "rejected"} if pairs else {}
            described[split] = {
                "file_name": f"{split}.json", "formatting": "sharegpt", **({"ranking": True} if pairs else {}),
                "columns": shown, "tags": {**_TAGS, "system_tag": "system"},
            }  # fmt: skip
        text = json.dumps(described, indent=2, ensure_ascii=False)
        (folder / "dataset_info.json").write_text(f"{text}\n", encoding="utf-8")
        if any(line.get("tools") for split in data.splits for line in data.lines(split)):
            say("tools on offer, and calls of them, are left out: export `jsonl` for rows with tools")
        say("LLaMA-Factory reads paths of media from `media_dir`: set it to this folder, as `dataset_dir`")

    def _rows(
        self, data: ExportDataset, split: str, folder: Path, columns: list[str], *, pairs: bool
    ) -> Iterator[dict[str, Any]]:
        for marked, own in zip(data.lines(split), data.lines(split, "own"), strict=True):
            paths: dict[str, list[str]] = {name: [] for name in columns}
            for name, medium in ((_COLUMNS[one["kind"]], one) for turn in own["messages"] for one in _of(turn)):
                path = folder / "media" / f"{medium['digest']}.{medium['format']}"
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(data.read_media(medium["digest"]))
                paths[name].append(f"media/{path.name}")
            turns = [{"role": turn["role"], "content": turn.get("content", "")} for turn in marked["messages"]]
            row: dict[str, Any] = {"messages": turns}
            if pairs:
                *prompt_turns, chosen = turns
                other = get_rejected_answer(marked["meta"])
                text = other if isinstance(other, str) else other[-1]["content"]
                row = {"messages": prompt_turns, "chosen": chosen, "rejected": {"role": "assistant", "content": text}}
            yield {**row, **paths}


def _of(turn: dict[str, Any]) -> list[dict[str, Any]]:
    return list(turn.get("media", ()))


def _media(line: ExportRow) -> list[str]:
    return [_COLUMNS[one["kind"]] for turn in line["messages"] for one in _of(turn)]
