"""Pictures and sounds come into a data set from every form in which rows hold them, each once."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from luthier.artifacts.dataset import read_examples
from luthier.artifacts.media import MediaReader, list_media_files
from luthier.chat.media_codec import keep_media
from luthier.chat.messages import MEDIA_MARK, Example
from luthier.core.errors import DataError
from luthier.data.export import export_dataset
from media import picture, sound

Make = Callable[..., Any]
ASKED = "What is it?"


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{_b64(content)}"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for number in range(12):
        (folder / f"{number}.png").write_bytes(picture(seed=number))
        (folder / "deep" / f"{number}.wav").write_bytes(sound(seed=number))
    return folder


def _jsonl(folder: Path, rows: list[dict[str, Any]], name: str = "a.jsonl") -> str:
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return name


def _every(made: Any) -> list[Example]:
    return [one for split in made.summary.rows for one in read_examples(made.artifact, split)]


def _openai(number: int) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": _url(picture(seed=number))}}
    turns = [{"role": "user", "content": [{"type": "text", "text": ASKED}, part]}]
    return {"messages": [*turns, {"role": "assistant", "content": f"number {number}"}]}


def _openai_sound(number: int) -> dict[str, Any]:
    part = {"type": "input_audio", "input_audio": {"data": _b64(sound(seed=number)), "format": "wav"}}
    turns = [{"role": "user", "content": [{"type": "text", "text": ASKED}, part]}]
    return {"messages": [*turns, {"role": "assistant", "content": f"number {number}"}]}


def _anthropic(number: int) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": _b64(picture(seed=number))}
    turns = [{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": ASKED}]}]
    return {"messages": [*turns, {"role": "assistant", "content": f"number {number}"}]}


def _qwen(number: int) -> dict[str, Any]:
    part = {"type": "image", "image": f"photos/{number}.png"}
    turns = [{"role": "user", "content": [part, {"type": "text", "text": ASKED}]}]
    return {"messages": [*turns, {"role": "assistant", "content": [{"type": "text", "text": f"number {number}"}]}]}


def _trl(number: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASKED}]}]
    answer = {"role": "assistant", "content": f"number {number}"}
    return {"messages": [*turns, answer], "images": [f"photos/{number}.png"]}


def _llama_factory(number: int) -> dict[str, Any]:
    turns = [
        {"role": "user", "content": f"<image>{ASKED}<audio>"},
        {"role": "assistant", "content": f"number {number}"},
    ]
    return {"messages": turns, "images": [f"photos/{number}.png"], "audios": [f"photos/deep/{number}.wav"]}


def _columns(number: int) -> dict[str, Any]:
    return {"question": ASKED, "answer": f"number {number}", "image": f"photos/{number}.png", "kept": number}


def _pair(number: int) -> dict[str, Any]:
    row = _openai(number)["messages"]
    worse = [{"role": "assistant", "content": [{"type": "text", "text": "no idea"}]}]
    return {"chosen": row, "rejected": [row[0], *worse]}


FORMS = {
    "openai": (_openai, {}, f"{ASKED}{MEDIA_MARK}", ("image",)),
    "openai sound": (_openai_sound, {}, f"{ASKED}{MEDIA_MARK}", ("audio",)),
    "anthropic": (_anthropic, {}, f"{MEDIA_MARK}{ASKED}", ("image",)),
    "qwen": (_qwen, {"media_folder": "."}, f"{MEDIA_MARK}{ASKED}", ("image",)),
    "trl": (_trl, {"media_folder": "."}, f"{MEDIA_MARK}{ASKED}", ("image",)),
    "llama-factory": (_llama_factory, {"media_folder": "."}, f"{MEDIA_MARK}{ASKED}{MEDIA_MARK}", ("image", "audio")),
    "columns": (_columns, {"media_folder": "."}, f"{MEDIA_MARK}\n{ASKED}", ("image",)),
    "template": (
        _columns,
        {"media_folder": ".", "prompt": "{question} {image}", "answer": "answer"},
        f"{ASKED} {MEDIA_MARK}",
        ("image",),
    ),
    "preference": (_pair, {}, f"{ASKED}{MEDIA_MARK}", ("image",)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_the_same_turns(form: str, make: Make, tmp_path: Path, photos: Path) -> None:
    written, settings, text, kinds = FORMS[form]
    path = _jsonl(tmp_path, [written(number) for number in range(12)] * 2)
    made = make(
        source={"kind": "jsonl", "path": path, **settings}, ops=["normalize", "exact_dedup", "near_dedup"],
        split={"test": 3}, task="text",
    )  # fmt: skip
    every = _every(made)
    assert len(every) == 12, made.notes
    assert made.summary.dropped == {"exact duplicate": 12}
    contents = {"image": [picture(seed=n) for n in range(12)], "audio": [sound(seed=n) for n in range(12)]}
    with MediaReader(made.artifact) as reader:
        for one in every:
            asked = one.messages[0]
            number = int(one.messages[-1].content.split()[-1])
            assert asked.content == text
            assert tuple(media.kind for media in asked.media) == kinds
            for media in asked.media:
                assert reader.read(media.digest) == keep_media(contents[media.kind][number]).content
            assert not {"images", "audios", "image"} & set(one.meta)
            assert one.meta.get("kept", number) == number
            assert one.meta.get("rejected", "no idea") == "no idea"
    (file,) = list_media_files(made.artifact)
    assert pq.read_metadata(file).num_rows == 12 * len(kinds)
    counted = " and ".join(f"24 {'sounds' if kind == 'audio' else 'pictures'}" for kind in sorted(kinds))
    assert f"read {counted}" in made.notes


def test_structs_in_parquet_and_media_in_a_zip(make: Make, tmp_path: Path, photos: Path) -> None:
    images = [{"bytes": picture(seed=number), "path": None} for number in range(12)]
    labels = ["cat" if number % 2 else "dog" for number in range(12)]
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "a.parquet")
    made = make(
        source={"kind": "parquet", "path": "a.parquet", "prompt": "image", "answer": "label"}, split={"test": 3}
    )
    assert made.summary.task == "label"
    assert {one.messages[0].content for one in _every(made)} == {MEDIA_MARK}
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        for number in range(12):
            packed.write(photos / f"{number}.png", f"photos/{number}.png")
    path = _jsonl(tmp_path, [_columns(number) for number in range(12)])
    again = make(source={"kind": "jsonl", "path": path, "media_folder": "photos.zip"}, split={"test": 3}, task="text")
    digests = [{media.digest for one in _every(made) for media in one.messages[0].media} for made in (made, again)]
    assert digests[0] == digests[1]


ATTACKS = {
    "../secret.png": "leads out",
    "photos/../../secret.png": "leads out",
    "/etc/hostname": "outside",
    "a.jsonl": "not named as",
    ".hidden/1.png": "not named as",
    "photos/none.png": "no file",
    "photos/link.png": "links to what is outside",
    "photos/loop.png": "cannot be read",
    "photos/deep/folder.png": "is a folder",
    "photos/empty.png": "is empty",
    "photos/half.png": "truncated",
    "photos/deep/1.wav": "is a sound, and a picture is wanted",
    "https://example.com/a.png": "not fetched",
    "http://169.254.169.254/a.png": "not fetched",
    "data:image/png;base64,!!!": "not base64",
    "photos/\0.png": "cannot be read",
}


@pytest.mark.parametrize("address", ATTACKS)
def test_what_cannot_be_read_costs_its_row_alone(address: str, make: Make, tmp_path: Path, photos: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    photos = photos.rename(inside / "photos")
    (tmp_path / "secret.png").write_bytes(picture(seed=99))
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    (photos / "loop.png").symlink_to("loop.png")
    (photos / "empty.png").touch()
    (photos / "deep" / "folder.png").mkdir()
    (photos / "half.png").write_bytes(picture()[:100])
    rows = [_columns(number) for number in range(6)]
    path = _jsonl(inside, [*rows[:3], {**rows[0], "image": address}, *rows[3:]])
    source = {"kind": "jsonl", "path": path, "media_folder": "."}
    with pytest.raises(DataError) as caught:
        make(base=inside, source=source, split={"test": 2}, task="text")
    assert ATTACKS[address] in caught.value.message
    assert (caught.value.where.file, caught.value.where.line) == ("a.jsonl", 4)
    assert caught.value.hint
    made = make(base=inside, source={**source, "on_error": "drop"}, split={"test": 2}, task="text")
    assert len(_every(made)) == 6
    assert sum(made.summary.dropped.values()) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"images": []}, "1 mark <image> and 0 pictures"),
        ({"images": ["photos/1.png", "photos/2.png"]}, "1 mark <image> and 2 pictures"),
        ({"audios": ["photos/deep/1.wav"]}, "0 marks <audio> and 1 sound"),
        ({"videos": ["a.mp4"]}, "0 marks <video> and 1 film"),
        ({"question": "<image> <video>", "videos": ["a.mp4", "b.mp4"]}, "1 mark <video> and 2 films"),
        ({"question": "<image> <video>", "videos": ["a.mp4"]}, "there is no file 'a.mp4'"),
    ],
)
def test_marks_and_media_are_as_many(change: Any, problem: str, make: Make, tmp_path: Path, photos: Path) -> None:
    row = {"question": f"<image> {ASKED}", "answer": "a", "images": ["photos/1.png"]}
    path = _jsonl(tmp_path, [row, {**row, **change}])
    with pytest.raises(DataError, match=problem) as caught:
        make(source={"kind": "jsonl", "path": path, "media_folder": "."}, split={"test": 0}, task="text")
    assert caught.value.where.line == 2


def test_typed_marks_stay_text_and_paths_need_a_folder(make: Make, tmp_path: Path, photos: Path) -> None:
    rows = [{"question": f"What does <image> {n} mean in {MEDIA_MARK} HTML?", "answer": f"{n}"} for n in range(5)]
    made = make(source={"kind": "jsonl", "path": _jsonl(tmp_path, rows)}, split={"test": 1}, task="text")
    assert all("<image>" in one.messages[0].content and not one.messages[0].media for one in _every(made))
    assert not list_media_files(made.artifact)
    rows = [{"question": "A chair", "answer": f"{n}", "image": f"https://shop/{n}.png"} for n in range(5)]
    made = make(source={"kind": "jsonl", "path": _jsonl(tmp_path, rows)}, split={"test": 0}, task="text")
    assert all(one.meta["image"].startswith("https://shop/") for one in _every(made))
    with pytest.raises(DataError, match="no folder is named") as caught:
        make(source={"kind": "jsonl", "path": _jsonl(tmp_path, [_llama_factory(1)])}, split={"test": 0}, task="text")
    assert "media_folder" in caught.value.hint


def test_media_of_rows_that_go_are_not_kept(make: Make, tmp_path: Path, photos: Path) -> None:
    rows = [_columns(number) for number in range(12)]
    made = make(
        source={"kind": "jsonl", "path": _jsonl(tmp_path, rows), "media_folder": "."},
        ops=["normalize"],
        split={"test": 2, "train": 6}, task="text",
    )  # fmt: skip
    assert len(_every(made)) == 8
    (file,) = list_media_files(made.artifact)
    assert pq.read_metadata(file).num_rows == 8


def test_a_second_run_takes_rows_over_and_reads_their_media_again(make: Make, tmp_path: Path, photos: Path) -> None:
    path = _jsonl(tmp_path, [_llama_factory(number) for number in range(12)])
    source = {"kind": "jsonl", "path": path, "media_folder": "."}
    kept = tmp_path / "kept"
    first, second = (
        make(source=source, ops=["normalize"], split={"test": test}, task="text", kept=kept) for test in (3, 4)
    )
    assert "reused from an earlier run" in second.notes
    for made in (first, second):
        with MediaReader(made.artifact) as reader:
            for one in _every(made):
                assert all(reader.read(media.digest) for media in one.messages[0].media)
    (photos / "1.png").write_bytes(picture(seed=77))
    third = make(source=source, ops=["normalize"], split={"test": 3}, task="text", kept=kept)
    assert "reused" not in third.notes
    digest = keep_media(picture(seed=77)).media.digest
    assert digest in {media.digest for one in _every(third) for media in one.messages[0].media}


def test_processes_and_batches_change_no_byte(make: Make, tmp_path: Path, photos: Path) -> None:
    path = _jsonl(tmp_path, [_llama_factory(number) for number in range(12)] * 3)
    made = [
        make(
            source={"kind": "jsonl", "path": path, "media_folder": "."}, ops=["normalize", "exact_dedup"],
            split={"test": 3}, task="text", workers=workers, batch_rows=rows,
        )
        for workers, rows in ((1, 1024), (2, 5))
    ]  # fmt: skip
    assert made[0].files() == made[1].files()


@pytest.mark.parametrize("form", ["jsonl", "parquet", "datasets"])
def test_a_set_goes_out_with_its_media_and_comes_back_the_same(
    form: str, make: Make, tmp_path: Path, photos: Path
) -> None:
    path = _jsonl(tmp_path, [_llama_factory(number) for number in range(12)])
    made = make(source={"kind": "jsonl", "path": path, "media_folder": "."}, split={"test": 3}, task="text")
    out = tmp_path / "out"
    export_dataset(made.artifact, out, form)
    read = {"jsonl": {"path": "train.jsonl"}, "parquet": {"path": "train.parquet"}, "datasets": {"path": "."}}[form]
    again = make(base=out, source={"kind": form, **read}, split={"test": 0}, task="text")
    wanted = {one.id: (one.messages, one.meta) for one in read_examples(made.artifact, "train")}
    assert {one.id: (one.messages, one.meta) for one in read_examples(again.artifact, "train")} == wanted
    if form == "datasets":
        loaded = datasets.load_from_disk(str(out))["train"].select_columns(["images"])
        assert loaded[0]["images"][0].size == (12, 8)
    said: list[str] = []
    export_dataset(made.artifact, tmp_path / "csv", "csv", said.append)
    assert "left out, with marks" in " ".join(said)
    assert "<image>What is it?<audio>" in (tmp_path / "csv" / "train.csv").read_text()


def test_metadata_in_files_is_counted_and_goes(make: Make, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    for number in range(12):
        folder = tmp_path / "by_class" / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        more = {"exif": exif.tobytes()} if number < 5 else {}
        (folder / f"{number}.jpg").write_bytes(picture("JPEG", seed=number, **more))
    source = {"kind": "mediafolder", "path": "by_class"}
    for _ in range(2):  # the second time, rows are taken over
        made = make(source=source, split={"test": 0})
        assert made.summary.counts == {"source": {"exif": {"image": 5}, "position": {"image": 5}}}
        assert "metadata in files of media, not kept: exif of 5 pictures, position of 5 pictures" in made.notes
