"""Rows with pictures go out in every form that takes them, and come back with the same pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.artifacts.dataset import read_examples
from luthier.chat.messages import MEDIA_MARK
from luthier.core.errors import DataError
from luthier.data.export import export_dataset
from luthier.data.exporter import Exporter
from media import picture, sound

Make = Callable[..., Any]


def _rows(count: int = 16, **more: Any) -> list[dict[str, Any]]:
    def url(seed: int) -> dict[str, Any]:
        content = base64.b64encode(picture(seed=seed)).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}}

    return [
        {
            "messages": [
                {"role": "user", "content": [url(at), {"type": "text", "text": f"What differs, {at}?"}, url(at + 50)]},
                {"role": "assistant", "content": f"answer {at}"},
            ],
            **more,
        }
        for at in range(count)
    ]


def _made(make: Make, folder: Path, rows: list[dict[str, Any]]) -> Any:
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return make(source={"kind": "jsonl", "path": "a.jsonl"}, split={}, task="text")


def _export(made: Any, to: Path, kind: str) -> list[str]:
    said: list[str] = []
    export_dataset(made.artifact, to, Exporter.parse(kind), said.append)
    return said


def _media(made: Any, *splits: str) -> list[list[str]]:
    splits = splits or tuple(made.summary.rows)
    return sorted(
        [medium.digest for turn in one.messages for medium in turn.media]
        for split in splits
        for one in read_examples(made.artifact, split)
    )


@pytest.mark.parametrize("kind", ["openai", "azure", "together", "fireworks"])
def test_providers_take_pictures_as_data_urls(kind: str, make: Make, tmp_path: Path) -> None:
    made = _made(make, tmp_path, _rows())
    said = _export(made, tmp_path / "out", kind)
    assert not any("left out" in text for text in said)
    lines = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    parts = lines[0]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text", "image_url"]
    back = make(source={"kind": "jsonl", "path": "out/train.jsonl"}, split={}, task="text")
    assert _media(back) == _media(made, "train")


@pytest.mark.parametrize(
    ("kind", "rows", "problem"),
    [
        ("openai", lambda: _rows(rejected="no"), "tunes on preferences of text alone"),
        ("bedrock", _rows, "written of text alone"),
        ("vertex", _rows, "written of text alone"),
    ],
)
def test_what_a_provider_would_refuse_is_told(
    kind: str, rows: Callable[[], list[dict[str, Any]]], problem: str, make: Make, tmp_path: Path
) -> None:
    made = _made(make, tmp_path, rows())
    with pytest.raises(DataError, match=problem):
        _export(made, tmp_path / "out", kind)


def test_sounds_and_too_many_pictures_are_refused_by_row(make: Make, tmp_path: Path) -> None:
    rows = _rows()
    content = base64.b64encode(sound(seed=1)).decode()
    part = {"type": "input_audio", "input_audio": {"data": content, "format": "wav"}}
    rows[3]["messages"][0]["content"] = [part, {"type": "text", "text": "What is said?"}]
    with pytest.raises(DataError, match="takes no sounds") as caught:
        _export(_made(make, tmp_path, rows), tmp_path / "out", "openai")
    assert (caught.value.where.file, caught.value.where.line) == ("a.jsonl", 4)
    rows = _rows()
    rows[5]["messages"][0]["content"] = rows[5]["messages"][0]["content"] * 6
    with pytest.raises(DataError, match="at most 10 pictures a row, and there are 12"):
        _export(_made(make, tmp_path, rows), tmp_path / "more", "together")


def test_llamafactory_has_marks_files_and_a_description(make: Make, tmp_path: Path) -> None:
    made = _made(make, tmp_path, _rows())
    out = tmp_path / "out"
    said = _export(made, out, "llamafactory")
    assert any("media_dir" in text for text in said)
    (row, *_) = json.loads((out / "train.json").read_text())
    number = row["messages"][1]["content"].split()[-1]
    assert row["messages"][0]["content"] == f"<image>What differs, {number}?<image>"
    assert len(row["images"]) == 2
    assert {path.name for path in (out / "media").iterdir()} == {
        name.partition("/")[2]
        for path in (out / "train.json", out / "test.json")
        for row in json.loads(path.read_text())
        for name in row["images"]
    }
    described = json.loads((out / "dataset_info.json").read_text())["train"]
    assert described["formatting"] == "sharegpt"
    assert described["columns"] == {"messages": "messages", "images": "images"}
    source = {"kind": "json", "path": "out/train.json", "media_folder": "out"}
    back = make(source=source, split={}, task="text")
    assert _media(back) == _media(made, "train")
    (example, *_) = read_examples(back.artifact, "train")
    number = example.messages[1].content.split()[-1]
    assert example.messages[0].content == f"{MEDIA_MARK}What differs, {number}?{MEDIA_MARK}"


def test_llamafactory_takes_pairs(make: Make, tmp_path: Path) -> None:
    made = _made(make, tmp_path, _rows(rejected="no"))
    _export(made, tmp_path / "out", "llamafactory")
    row = json.loads((tmp_path / "out" / "train.json").read_text())[0]
    assert row["chosen"]["content"].startswith("answer ")
    assert row["rejected"] == {"role": "assistant", "content": "no"}
    assert len(row["messages"]) == 1
    assert json.loads((tmp_path / "out" / "dataset_info.json").read_text())["train"]["ranking"] is True
