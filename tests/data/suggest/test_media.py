"""Images, sounds and films in turns: carried through unbroken in one form, or left out and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.artifacts.dataset import read_examples
from luthier.data.columns.media import COLUMNS, Medium, parse_media_part
from luthier.data.export import export_dataset
from luthier.data.row import UnusableRowError
from luthier.data.sources.jsonl import Jsonl
from luthier.data.split import Split
from luthier.data.suggest.settings import predict_dataset_spec
from vision_models import picture

Make = Callable[..., Any]
Write = Callable[..., str]


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://x.org/a.png", "detail": "low"}},
            ("image", "https://x.org/a.png"),
        ),
        ({"type": "image_url", "image_url": "a.png"}, ("image", "a.png")),
        ({"type": "image_url", "value": "data/1.jpg"}, ("image", "data/1.jpg")),
        ({"type": "image", "image": "file:///a.png"}, ("image", "file:///a.png")),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "QUJD"}},
            ("image", "data:image/jpeg;base64,QUJD"),
        ),
        ({"type": "input_image", "image_url": "a.png"}, ("image", "a.png")),
        (
            {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
            ("audio", "data:audio/wav;base64,QUJD"),
        ),
        ({"type": "audio", "audio": "a.wav"}, ("audio", "a.wav")),
        ({"type": "video_url", "video_url": {"url": "a.mp4"}}, ("video", "a.mp4")),
    ],
)
def test_parts_as_others_write_them(part: dict[str, Any], found: tuple[str, str]) -> None:
    assert parse_media_part(part, "content") == Medium(*found)


def test_a_part_may_stand_for_the_next_one_of_the_column() -> None:
    assert parse_media_part({"type": "image"}, "content") == Medium("image", None)


@pytest.mark.parametrize(
    "part", [{"type": "image", "image": {"a": 1}}, {"type": "file", "file": {"file_id": "f"}}, {"type": 3}]
)
def test_parts_that_nothing_can_be_done_with_are_refused(part: dict[str, Any]) -> None:
    with pytest.raises(UnusableRowError):
        parse_media_part(part, "content")


def _rows() -> list[dict[str, Any]]:
    def turns(*content: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": list(content)}, {"role": "assistant", "content": "Two of them, I think."}]

    def text(said: str) -> dict[str, Any]:
        return {"type": "text", "text": said}

    image = {"type": "image_url", "image_url": {"url": "a.png"}}
    sound = {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}
    rows = [turns(text(f"question {n} without any  picture")) for n in range(8)]
    rows += [turns(text("How many <b>birds</b> are on "), image, text(f" and in {n}?"), sound) for n in range(4)]
    return [{"messages": row} for row in rows]


def test_they_go_through_operators_and_out_again(make: Make, write: Write, tmp_path: Path) -> None:
    made = make(
        source={"kind": "jsonl", "path": write("a.jsonl", _rows()), "media": "keep"},
        ops=["normalize", "markup", "exact_dedup"],
        split={"test": 2}, task="text",
    )  # fmt: skip
    every = [one for split in ("train", "test") for one in read_examples(made.artifact, split)]
    held = [one for one in every if "images" in one.meta]
    assert len(held) == 4
    for one in held:
        assert one.messages[0].content.startswith("How many birds are on <image> and in ")
        assert one.messages[0].content.endswith("?<audio>")
        assert one.meta == {"images": ["a.png"], "audios": ["data:audio/wav;base64,QUJD"]}
    assert "4 rows hold images (`meta.images`)" in made.notes
    assert "4 rows hold audios" in made.notes
    export_dataset(made.artifact, tmp_path / "out", "jsonl", lambda text: None)
    lines = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    again = make(
        base=tmp_path / "out", source={"kind": "jsonl", "path": "train.jsonl", "media": "keep"}, split={"test": 2},
        task="text",
    )  # fmt: skip
    read = {one.id: one for split in ("train", "test") for one in read_examples(again.artifact, split)}
    assert {line["id"]: line["meta"] for line in lines} == {name: one.meta for name, one in read.items()}


def test_they_can_be_left_out_and_are_counted(make: Make, write: Write) -> None:
    made = make(
        source={"kind": "jsonl", "path": write("a.jsonl", _rows()), "media": "drop"}, split={"test": 2}, task="text"
    )
    assert made.summary.rows_in == 12
    assert made.summary.dropped == {"holds images, audios": 4}
    assert "not read" not in made.notes


def test_a_column_that_is_there_already_is_not_overwritten(make: Make, write: Write) -> None:
    rows = [{**row, "images": ["mine.png"]} for row in _rows()]
    made = make(
        source={"kind": "jsonl", "path": write("a.jsonl", rows), "on_error": "drop", "media": "keep"},
        split={"test": 2}, task="text",
    )  # fmt: skip
    assert sum(count for why, count in made.summary.dropped.items() if "broken row" in why) == 4
    assert sum(made.summary.rows.values()) == 8


def test_a_plan_knows_the_sizes_of_pictures(tmp_path: Path) -> None:
    """Which are most of their tokens; where none can be read, rows are told as they are."""
    (tmp_path / "a.png").write_bytes(picture(1, 20, 14)[1])
    lines = [{"prompt": "<image>what?", "completion": "a thing", "images": [name]} for name in ("a.png", "b.png")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = Jsonl(path="rows.jsonl", media_folder=".")
    (row,) = predict_dataset_spec(source, Split(), tmp_path).examples
    assert [(one["width"], one["height"]) for turn in row["messages"] for one in turn.get("media", ())] == [(20, 14)]
    blind = predict_dataset_spec(source.model_copy(update={"media_folder": "nowhere"}), Split(), tmp_path)
    assert len(blind.examples) == 2


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "columns"),
    [
        ("mllm_demo.json", {"images"}),
        ("mllm_audio_demo.json", {"audios"}),
        ("mllm_video_demo.json", {"videos"}),
        ("mllm_video_audio_demo.json", {"videos", "audios"}),
        ("v1_multimodal_demo.jsonl", {"images"}),
    ],
)
def test_llama_factorys_demos(make: Make, real_data: Path, file: str, columns: set[str]) -> None:
    path = f"llamafactory_demo/{file}"
    kind = "jsonl" if file.endswith("l") else "json"
    source = {"kind": kind, "path": path, "media": "keep"}
    made = make(base=real_data, source=source, ops=["normalize"], split={"test": 1}, task="text")
    text = (real_data / path).read_text()
    given = [json.loads(line) for line in text.splitlines() if line] if kind == "jsonl" else json.loads(text)
    every = [one for split in ("train", "test") for one in read_examples(made.artifact, split)]
    assert len(every) + sum(made.summary.dropped.values()) == len(given)
    assert every
    for one in every:
        said = " ".join(message.content for message in one.messages)
        for kind, column in COLUMNS.items():
            listed = one.meta.get(column, [])
            assert bool(listed) <= (column in columns)
            assert said.count(f"<{kind}>") == len(listed)
